//! The one program: `serve` is the daemon, everything else is its client.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Snapshots of QEMU virtual machines, the Hyper-V way
#[derive(Parser, Debug)]
#[command(name = "snapvisor", version, after_help = cli::args::EXIT_CODES, max_term_width = 120)]
struct Program {
    #[command(flatten)]
    global: cli::args::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon
    Serve(Box<daemon::Flags>),
    /// Users who may log in to the daemon; run it where the daemon runs
    User(daemon::admin::UserCommand),
    /// Compare the state store, all files and processes; run it where the daemon runs
    Check(daemon::care::CheckCommand),
    /// Put machines on record again from their own directories, if the state store is lost
    Recover(daemon::care::RecoverCommand),
    /// The certificate that clients of https see, and its fingerprint
    Certificate(daemon::admin::CertificateCommand),
    #[command(flatten)]
    Client(cli::args::Command),
}

fn main() -> ExitCode {
    let program = Program::parse();
    match program.command {
        Command::Serve(flags) => serve(*flags),
        Command::User(command) => administer(well(daemon::admin::user(command)), program.global.json),
        Command::Certificate(command) => administer(well(daemon::admin::certificate(command)), program.global.json),
        Command::Check(command) => administer(daemon::care::check(command), program.global.json),
        Command::Recover(command) => administer(daemon::care::recover(command), program.global.json),
        Command::Client(command) => cli::run(&program.global, command, Program::command()),
    }
}

/// Scripts wait for the line that begins with `listening on`; it is printed once clients can connect.
fn serve(flags: daemon::Flags) -> ExitCode {
    let surroundings = daemon::config::Surroundings::of_this_process();
    // Nobody needs to read it: a daemon whose standard output is closed serves all the same.
    let ready = |urls: &[String]| drop(writeln!(std::io::stdout(), "listening on {}", urls.join(" ")));
    let result = daemon::Config::load(flags, &surroundings).map_err(Into::into);
    match result.and_then(|config| daemon::serve(config, ready)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: daemon::RunError = error;
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// What was done leaves nothing to be desired.
fn well<E>(done: Result<daemon::admin::Said, E>) -> Result<daemon::care::Verdict, E> {
    done.map(|said| (said, true))
}

/// Says what was done to the daemon's own files, or found there.
fn administer<E: std::fmt::Display>(done: Result<daemon::care::Verdict, E>, json: bool) -> ExitCode {
    match done {
        Ok(((text, value), well)) => {
            let text = if json { format!("{value:#}\n") } else { text };
            // A reader who has gone away has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            if well { ExitCode::SUCCESS } else { ExitCode::from(cli::error::Kind::Failed as u8) }
        }
        Err(error) => {
            let error = cli::error::Error::new(cli::error::Kind::Failed, error.to_string());
            if json {
                let _ = writeln!(std::io::stdout(), "{:#}", error.json());
            } else {
                let _ = write!(std::io::stderr(), "{}", error.render(false));
            }
            ExitCode::from(error.kind as u8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        Program::command().debug_assert();
    }

    #[test]
    fn the_client_looks_where_the_daemon_listens() {
        let home = std::path::PathBuf::from("/people/u");
        for (root, runtime) in [(true, None), (false, None), (false, Some("/run/user/7"))] {
            let surroundings = daemon::config::Surroundings {
                root,
                home: Some(home.clone()),
                runtime_dir: runtime.map(Into::into),
                ..Default::default()
            };
            let flags = daemon::Flags::default();
            let config = daemon::Config::decide(flags, daemon::config::Settings::default(), &surroundings).unwrap();
            let socket = cli::session::default_socket(root, Some(&home), runtime.map(std::path::Path::new));
            assert_eq!(socket.as_deref(), Some(config.socket.as_path()));
        }
    }
}
