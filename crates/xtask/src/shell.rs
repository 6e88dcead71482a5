//! Running other programs, and where things are.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A chore that failed; the text is for the person at the terminal and says what to do where that is known.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// From a finished sentence.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// What every chore returns.
pub type Result<T> = std::result::Result<T, Failure>;

/// Says what was attempted when an operation of the system fails.
pub trait Context<T> {
    /// Prefixes the error with `attempt`.
    fn context(self, attempt: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, attempt: impl Display) -> Result<T> {
        self.map_err(|error| Failure(format!("{attempt}: {error}")))
    }
}

/// Announces the next part of a chore.
pub fn step(text: impl Display) {
    eprintln!("==> {text}");
}

/// The checkout and where build products go.
#[derive(Debug)]
pub struct Workspace {
    /// The directory of the root Cargo.toml.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

impl Workspace {
    /// From what cargo tells a program that it runs.
    pub fn find() -> Self {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => std::path::absolute(&directory).unwrap_or(directory.into()),
            None => root.join("target"),
        };
        Self { root, target }
    }
}

/// A program about to be run.
#[derive(Debug)]
pub struct Tool {
    command: Command,
}

impl Tool {
    /// The program at a path, or found by its name. Debian keeps system tools in directories that an ordinary user's
    /// `PATH` lacks, so those are searched too.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env("PATH", search_path());
        Self { command }
    }

    /// Cargo itself, in the checkout.
    pub fn cargo(workspace: &Workspace) -> Self {
        let mut tool = Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        tool.command.current_dir(&workspace.root);
        tool
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it somewhere else.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs it with its output on the terminal.
    pub fn run(mut self) -> Result<()> {
        let status = self.command.status().context(self.line())?;
        if status.success() { Ok(()) } else { Err(Failure(format!("{} ended with {status}", self.line()))) }
    }

    /// Runs it and returns what it prints; its complaints become part of the error.
    pub fn read(mut self) -> Result<String> {
        let output = self.output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        Err(Failure(format!("{} ended with {}\n{}", self.line(), output.status, printed.trim_end())))
    }

    /// Runs it to the end, good or bad, and returns which and what it prints.
    pub fn outcome(mut self) -> Result<(bool, String)> {
        let output = self.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Runs it to the end with all that it prints in a file, and returns whether it ended well.
    pub fn log(mut self, file: &Path) -> Result<bool> {
        let open = || std::fs::File::create(file).and_then(|log| Ok((log.try_clone()?, log)));
        let (out, error) = open().context(format!("cannot write {}", file.display()))?;
        let status = self.command.stdin(Stdio::null()).stdout(out).stderr(error).status().context(self.line())?;
        Ok(status.success())
    }

    /// Whether it runs and succeeds.
    pub fn succeeds(mut self) -> bool {
        self.output().is_ok_and(|output| output.status.success())
    }

    /// The command line, for messages.
    pub fn line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }

    fn output(&mut self) -> Result<Output> {
        self.command.stdin(Stdio::null()).output().context(self.line())
    }
}

fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}
