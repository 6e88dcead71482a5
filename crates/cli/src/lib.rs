//! The client program: everything of `snapvisor` except `serve`.
//!
//! ```text
//!   args ─▶ commands ─▶ session ─▶ wsman::client, login ─▶ http, tls ─▶ daemon
//!               │ model, find: what came back, what is meant
//!               └▶ output (text or JSON), error (error:, hint:, exit status)
//! ```
//! It reaches the daemon over the wire and in no other way: whatever this program can do, any WS-Management client can.

pub mod args;
pub mod commands;
pub mod error;
pub mod find;
pub mod http;
pub mod login;
pub mod model;
pub mod output;
pub mod password;
pub mod remote;
pub mod session;
pub mod show;
pub mod suggest;
pub mod tls;
pub mod units;
pub mod wait;

use std::io::Write;
use std::process::ExitCode;

use args::{Command, Global};
use session::Session;

/// Carries out a command and prints what it has to say. `program` is the whole declaration, for completions and manual.
pub fn run(global: &Global, command: Command, program: clap::Command) -> ExitCode {
    let result = match command {
        Command::Completions { shell } => commands::generate::completions(shell, program),
        Command::Man { dir } => commands::generate::manual(dir.as_deref(), program),
        Command::Vm(command) => connect(global).and_then(|mut session| commands::vm::run(&mut session, command)),
        Command::Snapshot(command) => {
            connect(global).and_then(|mut session| commands::snapshot::run(&mut session, command))
        }
        Command::Disk(command) => connect(global).and_then(|mut session| commands::disk::run(&mut session, command)),
        Command::Events(command) => {
            connect(global).and_then(|mut session| commands::events::run(&mut session, &command, global.json))
        }
        Command::Job(command) => connect(global).and_then(|mut session| commands::job::run(&mut session, command)),
    };
    let (text, code) = match result {
        Ok(output) => (output.render(global.json), ExitCode::SUCCESS),
        Err(error) if global.json => (format!("{:#}\n", error.json()), ExitCode::from(error.kind as u8)),
        Err(error) => {
            let text = error.render(show::style::wanted(&std::io::stderr()));
            let _ = std::io::stderr().write_all(text.as_bytes());
            return ExitCode::from(error.kind as u8);
        }
    };
    // A reader who has gone away, such as `head`, has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

fn connect(global: &Global) -> error::Result<Session> {
    remote::channel(global).map(Session::new)
}
