//! Wrong lines put in on purpose, one at a time: each must be caught by a test.
//!
//! ```text
//!   the crates that decide ──copied──▶ target/mutants ──▶ for each wrong line: put in, test, put right again
//!                                                             └─▶ a table: which line, caught by which test
//! ```
//! Nothing in the checkout is touched. The suites run in the order of their speed and the first that fails ends the matter, so that
//! all of it takes minutes. A wrong line that no longer fits the code is an error, and so is one that nobody catches.

mod list;

use std::fs;
use std::path::Path;

use crate::shell::{Context, Failure, Result, Tool, Workspace, step};
use list::MUTANTS;

/// Crates that are copied: those with wrong lines, those that test them, and what these are made of.
const CRATES: [&str; 6] = ["cim", "hyperv", "ledger", "qemu", "sim", "wsman"];

/// One wrong line.
#[derive(Clone, Copy, Debug)]
struct Mutant {
    /// In a few words, for the table and the command line.
    name: &'static str,
    /// Below `crates`.
    file: &'static str,
    /// The text that is right, once in the file.
    right: &'static str,
    /// What takes its place.
    wrong: &'static str,
}

impl Mutant {
    /// Crates whose tests run, the quick ones first.
    fn suites(&self) -> &'static [&'static str] {
        if self.file.starts_with("qemu/") { &["qemu"] } else { &["ledger", "sim"] }
    }

    /// The file's text with the wrong line in it.
    fn put_into(&self, text: &str) -> Result<String> {
        match text.matches(self.right).count() {
            1 => Ok(text.replacen(self.right, self.wrong, 1)),
            found => {
                let Self { name, file, .. } = self;
                Err(Failure::new(format!("'{name}': its right text is in crates/{file} {found} times: mend the list")))
            }
        }
    }
}

/// Tries those that are named, or all.
///
/// # Errors
/// When one is not caught, does not fit the code any more, or does not compile.
pub fn run(workspace: &Workspace, names: &[String]) -> Result<()> {
    if let Some(name) = names.iter().find(|name| MUTANTS.iter().all(|mutant| *name != mutant.name)) {
        let text = format!("no wrong line is called {name:?}; they stand in crates/xtask/src/mutants/list.rs");
        return Err(Failure::new(text));
    }
    let chosen: Vec<&Mutant> =
        MUTANTS.iter().filter(|mutant| names.is_empty() || names.iter().any(|name| name == mutant.name)).collect();
    let place = Place::prepare(workspace)?;
    let mut caught = 0;
    println!("| wrong line | in | caught by |\n| --- | --- | --- |");
    for (number, mutant) in chosen.iter().enumerate() {
        step(format!("{} ({} of {})", mutant.name, number + 1, chosen.len()));
        let by = match place.try_out(mutant) {
            Ok(Some(test)) => {
                caught += 1;
                test
            }
            Ok(None) => "NOBODY".to_owned(),
            Err(failure) => format!("not tried: {failure}"),
        };
        println!("| {} | `{}` | {by} |", mutant.name, mutant.file);
    }
    println!("{caught} of {} wrong lines are caught", chosen.len());
    if caught == chosen.len() {
        Ok(())
    } else {
        Err(Failure::new("a wrong line that nobody catches wants a better test"))
    }
}

/// The copy.
struct Place {
    workspace: Workspace,
}

impl Place {
    fn prepare(workspace: &Workspace) -> Result<Self> {
        let root = workspace.target.join("mutants");
        for name in ["Cargo.toml", "Cargo.lock", "crates"] {
            remove(&root.join(name))?;
        }
        fs::create_dir_all(root.join("crates")).context(format!("create {}", root.display()))?;
        copy(&workspace.root.join("Cargo.lock"), &root.join("Cargo.lock"))?;
        let manifest = workspace.root.join("Cargo.toml");
        let manifest = fs::read_to_string(&manifest).context(format!("read {}", manifest.display()))?;
        // What a wrong line leaves unused is no reason not to try it.
        write(
            &root.join("Cargo.toml"),
            &manifest.replace("unused = { level = \"deny\"", "unused = { level = \"allow\""),
        )?;
        for name in CRATES {
            copy_all(&workspace.root.join("crates").join(name), &root.join("crates").join(name))?;
        }
        Ok(Self { workspace: Workspace { target: root.join("target"), root } })
    }

    /// Who catches it.
    fn try_out(&self, mutant: &Mutant) -> Result<Option<String>> {
        let path = self.workspace.root.join("crates").join(mutant.file);
        let right = fs::read_to_string(&path).context(format!("read {}", path.display()))?;
        write(&path, &mutant.put_into(&right)?)?;
        let caught = mutant.suites().iter().find_map(|suite| self.test(suite, mutant).transpose()).transpose();
        write(&path, &right)?;
        caught
    }

    fn test(&self, suite: &str, mutant: &Mutant) -> Result<Option<String>> {
        let compile = self.cargo().args(["test", "--package", suite, "--no-run", "--quiet"]);
        compile.read().context(format!("'{}' does not compile, so it shows nothing", mutant.name))?;
        let (passed, printed) = self.cargo().args(["test", "--package", suite, "--lib", "--tests"]).outcome()?;
        if passed {
            return Ok(None);
        }
        let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
        let mut failed: Vec<String> = printed.lines().filter_map(failed).collect();
        failed.sort();
        let more = failed.len().saturating_sub(1);
        match failed.first() {
            None => {
                Err(Failure::new(format!("'{}': {suite} ended badly without a failed test:\n{printed}", mutant.name)))
            }
            Some(first) if more == 0 => Ok(Some(format!("{suite}: `{first}`"))),
            Some(first) => Ok(Some(format!("{suite}: `{first}` and {more} more"))),
        }
    }

    fn cargo(&self) -> Tool {
        Tool::cargo(&self.workspace).env("CARGO_TARGET_DIR", &self.workspace.target).env("RUST_BACKTRACE", "0")
    }
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(format!("write {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).context(format!("copy {}", from.display()))
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).context(format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).context(format!("list {}", from.display()))? {
        let entry = entry.context(format!("list {}", from.display()))?.path();
        let Some(name) = entry.file_name() else { continue };
        if entry.is_dir() { copy_all(&entry, &to.join(name))? } else { copy(&entry, &to.join(name))? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else nobody would notice before the next time that all of them are tried, which takes minutes.
    #[test]
    fn every_wrong_line_fits_the_code() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for mutant in MUTANTS {
            let text = fs::read_to_string(crates.join(mutant.file)).unwrap();
            assert_ne!(mutant.put_into(&text).unwrap(), text, "{}", mutant.name);
            let same = MUTANTS.iter().filter(|other| other.name == mutant.name).count();
            assert_eq!(same, 1, "{}", mutant.name);
        }
    }

    #[test]
    fn a_text_that_is_not_there_is_an_error() {
        let mutant = Mutant { name: "x", file: "a.rs", right: "one", wrong: "two" };
        assert_eq!(mutant.put_into("and one").unwrap(), "and two");
        for text in ["nothing", "one and one"] {
            assert!(mutant.put_into(text).unwrap_err().to_string().contains("mend the list"));
        }
    }
}
