//! `snapvisor user` and `snapvisor certificate`: what an administrator does to the daemon's own files.
//!
//! It works on files rather than over the wire, so that the first user can be made before there is one, and so that
//! passwords and their hashes never leave the host. The daemon notices by itself ([`crate::users_file`]).

use std::fs::DirBuilder;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use auth::secret::{NtHash, Password, Phc, SecretError};
use auth::users::{Role, User, Users, UsersError};
use clap::{Args, Subcommand};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use crate::audit::{Audit, Record};
use crate::config::{Config, ConfigError, Flags, Settings, Surroundings};
use crate::door;
use crate::tls::{Tls, TlsError};
use crate::users_file::{self, UsersFileError};

/// Heading of the options that say which daemon is meant.
pub const PLACE: &str = "Files of the daemon";

/// `snapvisor user`
#[derive(Args, Debug)]
pub struct UserCommand {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub place: Place,
    #[command(subcommand)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub action: UserAction,
}

/// `snapvisor certificate`
#[derive(Args, Debug)]
pub struct CertificateCommand {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub place: Place,
}

/// Which daemon's files.
#[derive(Args, Debug, Clone, Default)]
pub struct Place {
    /// Configuration file of the daemon
    #[arg(long, env = "SNAPVISOR_CONFIG", value_name = "FILE", global = true, help_heading = PLACE)]
    pub config: Option<PathBuf>,
    /// Data directory of the daemon
    #[arg(long, env = "SNAPVISOR_DATA_DIR", value_name = "DIR", global = true, help_heading = PLACE)]
    pub data_dir: Option<PathBuf>,
    /// The users file, if it is not in the data directory
    #[arg(long, env = "SNAPVISOR_USERS_FILE", value_name = "FILE", global = true, help_heading = PLACE)]
    pub users_file: Option<PathBuf>,
}

/// What to do with users.
#[derive(Subcommand, Debug)]
pub enum UserAction {
    /// Add a user, who logs in with a password, or a Kerberos principal
    Add {
        /// Name of the user; left out with --kerberos
        #[arg(required_unless_present = "kerberos", conflicts_with = "kerberos")]
        name: Option<String>,
        /// What he may do: read, operate (power and snapshots) or administer (everything)
        #[arg(long, default_value = "read")]
        role: Role,
        /// Let him use NTLM; its hash, which is as good as the password here, is kept then
        #[arg(long)]
        ntlm: bool,
        /// Add this principal, such as alice@EXAMPLE.ORG, instead of a user
        #[arg(long, value_name = "PRINCIPAL", conflicts_with_all = ["ntlm", "password_file"])]
        kerberos: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        password: PasswordSource,
    },
    /// Remove a user or a Kerberos principal
    #[command(visible_alias = "rm")]
    Remove {
        /// Name of the user or principal
        name: String,
    },
    /// List users and principals
    #[command(visible_alias = "ls")]
    List,
    /// Give a user another password
    Password {
        /// Name of the user
        name: String,
        /// Let him use NTLM from now on
        #[arg(long, conflicts_with = "no_ntlm")]
        ntlm: bool,
        /// Do not let him use NTLM any more
        #[arg(long)]
        no_ntlm: bool,
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        password: PasswordSource,
    },
    /// Change what a user may do
    Set {
        /// Name of the user, or of a principal to give another role
        name: String,
        /// The new role
        #[arg(long)]
        role: Option<Role>,
        /// Keep him out for now
        #[arg(long, conflicts_with = "enable", required_unless_present_any = ["enable", "role"])]
        disable: bool,
        /// Let him in again
        #[arg(long)]
        enable: bool,
    },
}

/// Where the password comes from: never the command line, which every user of the host can read.
#[derive(Args, Debug, Clone, Default)]
pub struct PasswordSource {
    /// Read the password from the first line of this file, or of standard input if it is -; else it is asked for
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The configuration does not say where.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be made.
    #[error("could not make {path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Of the users file.
    #[error(transparent)]
    Users(#[from] UsersFileError),
    /// Of the certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It has not been made.
    #[error("there is no certificate {0}: the daemon makes it when it starts with https_listen")]
    NoCertificate(PathBuf),
    /// Not a password.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It was typed differently the second time.
    #[error("the two passwords are not the same")]
    Mismatch,
    /// It cannot be read.
    #[error("could not read the password from {place}: {source}")]
    Password {
        /// A file or the terminal.
        place: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What a command has to say: for people, and for programs.
pub type Said = (String, Value);

/// Carries out `snapvisor user`.
///
/// # Errors
/// When the file cannot be changed so.
pub fn user(command: UserCommand) -> Result<Said, AdminError> {
    let config = config(command.place)?;
    let path = &config.users_file;
    // Users may be made before the daemon has run; who only looks leaves no trace.
    if !matches!(command.action, UserAction::List) {
        let wrap = |source| AdminError::Directory { path: config.data_dir.clone(), source };
        make_private(&config.data_dir).map_err(wrap)?;
    }
    let (name, what) = match command.action {
        UserAction::List => return Ok(list(&users_file::read(path)?)),
        UserAction::Add { kerberos: Some(principal), role, .. } => {
            users_file::change(path, |users| users.add_principal(&principal, role))?;
            (principal, format!("added with role {role}"))
        }
        UserAction::Add { name, role, ntlm, password, .. } => {
            let name = name.unwrap_or_default();
            // Before somebody has typed a password twice in vain.
            if users_file::read(path)?.find(&name).is_some() {
                return Err(UsersFileError::Users { path: path.clone(), error: UsersError::Exists(name) }.into());
            }
            let (password, nt_hash) = secrets(&password, ntlm)?;
            let user = User { name: name.clone(), role, password, nt_hash, disabled: false };
            users_file::change(path, |users| users.add(user))?;
            (name, format!("added with role {role}"))
        }
        UserAction::Remove { name } => {
            users_file::change(path, |users| users.remove(&name))?;
            (name, "removed".to_owned())
        }
        UserAction::Password { name, ntlm, no_ntlm, password } => {
            let mut users = users_file::read(path)?;
            let mut had_ntlm = false;
            // Before somebody has typed a password twice in vain.
            let found = users.change(&name, |user| had_ntlm = user.nt_hash.is_some());
            found.map_err(|error| UsersFileError::Users { path: path.clone(), error })?;
            let (password, nt_hash) = secrets(&password, ntlm || (had_ntlm && !no_ntlm))?;
            users_file::change(path, |users| {
                users.change(&name, |user| (user.password, user.nt_hash) = (password, nt_hash))
            })?;
            (name, "given another password".to_owned())
        }
        UserAction::Set { name, role, disable, enable } => {
            users_file::change(path, |users| set(users, &name, role, disable, enable))?;
            let words = [role.map(|role| format!("given role {role}")), disable.then(|| "disabled".to_owned())];
            let words = words.into_iter().chain([enable.then(|| "enabled".to_owned())]).flatten();
            (name, words.collect::<Vec<_>>().join(" and "))
        }
    };
    record(&config, &name, &what);
    Ok((format!("{name} {what}\n"), json!({ "name": name, "change": what })))
}

/// Carries out `snapvisor certificate`.
///
/// # Errors
/// When there is none.
pub fn certificate(command: CertificateCommand) -> Result<Said, AdminError> {
    let files = door::certificate_files(&config(command.place)?);
    let path = files.certificate.clone();
    if !path.exists() {
        return Err(AdminError::NoCertificate(path));
    }
    let fingerprint = Tls::open(files)?.current().fingerprint.clone();
    let text = format!("{}\nSHA-256 {fingerprint}\n", path.display());
    Ok((text, json!({ "path": path, "sha256": fingerprint })))
}

/// Makes the data directory, to which the daemon gives the mode that it needs. Those above it stay passable, for emulators
/// that run as somebody else.
fn make_private(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory.parent().unwrap_or(directory))?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn config(place: Place) -> Result<Config, ConfigError> {
    let Place { config, data_dir, users_file } = place;
    let settings = Settings { data_dir, users_file, ..Settings::default() };
    Config::load(Flags { config, settings, ..Flags::default() }, &Surroundings::of_this_process())
}

/// A role may be changed of principals as well, which have nothing else.
fn set(users: &mut Users, name: &str, role: Option<Role>, disable: bool, enable: bool) -> Result<(), UsersError> {
    if users.role_of_principal(name).is_some() {
        let only_role = role.filter(|_| !disable && !enable);
        let role = only_role.ok_or_else(|| UsersError::RoleOnly(name.to_owned()))?;
        users.remove(name)?;
        return users.add_principal(name, role);
    }
    users.change(name, |user| {
        user.role = role.unwrap_or(user.role);
        user.disabled = disable || (user.disabled && !enable);
    })
}

fn list(users: &Users) -> Said {
    let mut text = String::new();
    let mut rows = Vec::new();
    for user in users.iter() {
        let mut ways = vec!["password"];
        ways.extend(user.nt_hash.as_ref().map(|_| "ntlm"));
        let state = if user.disabled { " (disabled)" } else { "" };
        text += &format!("{:<24} {:<10} {}{state}\n", user.name, user.role.as_str(), ways.join(", "));
        rows.push(json!({ "name": user.name, "role": user.role.as_str(), "ways": ways, "disabled": user.disabled }));
    }
    for (principal, role) in users.principals() {
        text += &format!("{principal:<24} {:<10} kerberos\n", role.as_str());
        rows.push(json!({ "name": principal, "role": role.as_str(), "ways": ["kerberos"], "disabled": false }));
    }
    if rows.is_empty() {
        "there are no users\n".clone_into(&mut text);
    }
    (text, Value::Array(rows))
}

/// The audit log learns of it; if it cannot, the change stands, and the daemon's own log has it.
fn record(config: &Config, name: &str, what: &str) {
    let is_new = !config.audit_log.exists();
    let Ok(audit) = Audit::open(&config.audit_log) else {
        eprintln!("warning: {} could not be opened, and does not tell of this", config.audit_log.display());
        return;
    };
    if is_new && let Ok(file) = std::fs::File::open(&config.audit_log) {
        let directory = config.audit_log.parent().unwrap_or(Path::new("/"));
        // Root's file would keep a daemon that is not root from writing.
        let _ = users_file::give_to_owner_of(&file, directory);
    }
    audit.tell(Record {
        event: "users",
        outcome: "done",
        source: Some(format!("uid:{}", rustix::process::getuid().as_raw())),
        objects: vec![name.to_owned()],
        reason: Some(what.to_owned()),
        ..Record::default()
    });
    audit.flush();
}

fn secrets(source: &PasswordSource, ntlm: bool) -> Result<(Phc, Option<NtHash>), AdminError> {
    let wrap = |place: String| move |source| AdminError::Password { place, source };
    let password = match &source.password_file {
        Some(path) if path == Path::new("-") => {
            first_line(std::io::stdin().lock()).map_err(wrap("standard input".to_owned()))
        }
        Some(path) => std::fs::File::open(path).and_then(first_line).map_err(wrap(path.display().to_string())),
        None => ask(),
    };
    hashes(&password?, ntlm)
}

fn hashes(password: &Password, ntlm: bool) -> Result<(Phc, Option<NtHash>), AdminError> {
    Ok((Phc::of(password, &crate::entropy())?, ntlm.then(|| NtHash::of(password))))
}

fn first_line(source: impl Read) -> std::io::Result<Password> {
    let limit = u64::try_from(auth::secret::PASSWORD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    let mut line = String::new();
    std::io::BufReader::new(source.take(limit)).read_line(&mut line)?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(Password::new(line))
}

/// Asks twice, without showing what is typed.
fn ask() -> Result<Password, AdminError> {
    let stdin = std::io::stdin();
    let wrap = |source| AdminError::Password { place: "standard input".to_owned(), source };
    if !stdin.is_terminal() {
        return Err(wrap(std::io::Error::other("it is not a terminal; use --password-file")));
    }
    let before = tcgetattr(&stdin).map_err(|errno| wrap(errno.into()))?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|errno| wrap(errno.into()))?;
    let prompt = |text: &str| {
        eprint!("{text}");
        let _ = std::io::stderr().flush();
        let mut line = String::new();
        let read = stdin.lock().read_line(&mut line);
        eprintln!();
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        read.map(|_| Password::new(line))
    };
    let typed = prompt("Password: ").and_then(|first| prompt("Again: ").map(|second| (first, second)));
    let _ = tcsetattr(&stdin, OptionalActions::Flush, &before);
    let (first, second) = typed.map_err(wrap)?;
    if first.reveal() == second.reveal() { Ok(first) } else { Err(AdminError::Mismatch) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use expect_test::{Expect, expect};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        user: UserCommand,
    }

    fn run(directory: &Path, line: &str) -> String {
        let data = directory.display().to_string();
        let file = directory.join("password").display().to_string();
        let line = line.replace("FILE", &file);
        let words = ["user", "--data-dir", &data].into_iter().chain(line.split(' '));
        match Program::try_parse_from(words) {
            Err(error) => format!("{:?}", error.kind()),
            Ok(program) => match user(program.user) {
                Ok((text, _)) => text,
                Err(error) => format!("error: {}", error.to_string().replace(&data, "DATA")),
            },
        }
    }

    // tidy: allow-long-fn one story, told command by command
    #[test]
    fn users_come_and_go() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("password"), "secret\r\nnot this\n").unwrap();
        let check = |line: &str, expected: Expect| expected.assert_eq(&run(directory.path(), line));
        check(
            "list",
            expect![[r#"
            there are no users
        "#]],
        );
        check(
            "add alice --role administer --ntlm --password-file FILE",
            expect![[r#"
            alice added with role administer
        "#]],
        );
        check("add ALICE --password-file FILE", expect!["error: DATA/users: ALICE is there already"]);
        check(
            "add bob --password-file FILE",
            expect![[r#"
            bob added with role read
        "#]],
        );
        check(
            "add --kerberos carol@EXAMPLE.ORG --role operate",
            expect![[r#"
            carol@EXAMPLE.ORG added with role operate
        "#]],
        );
        check("add bob --kerberos bob@EXAMPLE.ORG", expect!["ArgumentConflict"]);
        check("add", expect!["MissingRequiredArgument"]);
        check(
            "add a:b --password-file FILE",
            expect![[
                r#"error: DATA/users: "a:b" cannot be a user name: use letters, digits, `.`, `_` and `-`, at most 64 bytes"#
            ]],
        );
        check("add dave --role king --password-file FILE", expect!["ValueValidation"]);
        check(
            "set bob --role operate --disable",
            expect![[r#"
            bob given role operate and disabled
        "#]],
        );
        check(
            "set carol@EXAMPLE.ORG --role read",
            expect![[r#"
            carol@EXAMPLE.ORG given role read
        "#]],
        );
        for line in [
            "set carol@EXAMPLE.ORG --disable",
            "set carol@EXAMPLE.ORG --role operate --disable",
            "password carol@EXAMPLE.ORG --password-file FILE",
        ] {
            check(
                line,
                expect![
                    "error: DATA/users: carol@EXAMPLE.ORG is a Kerberos principal and has a role only: remove it to keep it out"
                ],
            );
        }
        check(
            "add dave --password-file FILE.not",
            expect![
                "error: could not read the password from DATA/password.not: No such file or directory (os error 2)"
            ],
        );
        check("set bob", expect!["MissingRequiredArgument"]);
        check(
            "list",
            expect![[r#"
            alice                    administer password, ntlm
            bob                      operate    password (disabled)
            carol@EXAMPLE.ORG        read       kerberos
        "#]],
        );
        check(
            "password alice --no-ntlm --password-file FILE",
            expect![[r#"
            alice given another password
        "#]],
        );
        check(
            "password nobody --password-file FILE",
            expect!["error: DATA/users: there is no user or principal nobody"],
        );
        check(
            "remove carol@EXAMPLE.ORG",
            expect![[r#"
            carol@EXAMPLE.ORG removed
        "#]],
        );
        check(
            "list",
            expect![[r#"
            alice                    administer password
            bob                      operate    password (disabled)
        "#]],
        );
        let users = users_file::read(&directory.path().join("users")).unwrap();
        assert!(users.verify("alice", &Password::new("secret".to_owned())).is_some());
        let audit = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
        assert_eq!(audit.lines().count(), 7, "{audit}");
        assert!(!audit.contains("secret") && !audit.contains("argon2"), "{audit}");
    }
}
