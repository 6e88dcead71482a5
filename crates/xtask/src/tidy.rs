//! The house rules, checked. A rule no machine checks is a wish.
//!
//! Every rule is a function from text to violations with tests of its own; only this file reads files and runs git
//! and cargo. To add a rule, write such a function and call it from [`check_tree`].

mod conformance;
mod history;
mod manifest;
mod rules;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use crate::shell::{Context, Failure, Result, Tool, Workspace, step};

/// A rule that does not hold somewhere.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The file, relative to the checkout; for a commit its abbreviated id.
    pub path: String,
    /// The line, counted from one.
    pub line: usize,
    /// The rule's name.
    pub rule: &'static str,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.advice)
    }
}

/// Checks everything; prints each violation as `path:line: rule: what to do`.
pub fn run(workspace: &Workspace) -> Result<()> {
    step("tidy");
    let mut violations = check_tree(&read_tree(workspace)?);
    violations.extend(history::subjects(&log(workspace)));
    violations.extend(unformatted(workspace)?);
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => Ok(()),
        count => Err(Failure::new(format!("{count} house rules do not hold; each line above says what to do"))),
    }
}

/// Writes the conformance table and says how much is held.
pub fn write_conformance(workspace: &Workspace) -> Result<()> {
    let made = conformance::check(&read_tree(workspace)?);
    fs::write(workspace.root.join(conformance::TABLE), made.table).context("cannot write the conformance table")?;
    for violation in &made.violations {
        println!("{violation}");
    }
    let [all, held, not_applicable, open] = made.counts;
    step(format!("{all} requirements: {held} held by tests, {not_applicable} not applicable, {open} open"));
    match made.violations.len() {
        0 => Ok(()),
        count => {
            Err(Failure::new(format!("{count} requirements and marks do not fit; each line above says what to do")))
        }
    }
}

/// Every rule about files, over path and content of each.
fn check_tree(files: &BTreeMap<String, String>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut ratchet = rules::Ratchet::default();
    for (path, text) in files {
        violations.extend(rules::machine_paths(path, text));
        if path.ends_with(".rs") {
            let source = source::Source::new(path, text);
            violations.extend(rules::check_source(&source));
            ratchet.count(&source);
        }
        if path.ends_with("Cargo.toml") {
            violations.extend(manifest::check(path, text));
        }
    }
    violations.extend(ratchet.violations());
    violations.extend(conformance::rules(files));
    violations
}

/// Text files that belong to the project.
fn read_tree(workspace: &Workspace) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for path in list_tree(workspace)? {
        let full = workspace.root.join(&path);
        if !full.is_file() {
            continue;
        }
        let bytes = fs::read(&full).context(format!("cannot read {path}"))?;
        // What is not text has no lines to find fault with.
        if let Ok(text) = String::from_utf8(bytes) {
            files.insert(path, text);
        }
    }
    Ok(files)
}

/// What git tracks or would track; where there is no git, everything but hidden files and build products.
fn list_tree(workspace: &Workspace) -> Result<Vec<String>> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
    if let Ok(listed) = Tool::new("git").directory(&workspace.root).args(list).read() {
        return Ok(listed.lines().map(str::to_owned).collect());
    }
    let (mut paths, mut directories) = (Vec::new(), vec![String::new()]);
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(workspace.root.join(&directory)).context(format!("cannot list {directory:?}"))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || entry.path() == workspace.target {
                continue;
            }
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let path = format!("{directory}{name}");
            if is_directory { directories.push(format!("{path}/")) } else { paths.push(path) }
        }
    }
    Ok(paths)
}

/// Commits as `<id> <subject>`, one per line; empty where there is no history, as in an unpacked archive.
fn log(workspace: &Workspace) -> String {
    let log = ["log", "--no-merges", "--format=%h %s"];
    Tool::new("git").directory(&workspace.root).args(log).read().unwrap_or_default()
}

fn unformatted(workspace: &Workspace) -> Result<Vec<Violation>> {
    let check = ["fmt", "--all", "--", "--check", "--files-with-diff", "--quiet"];
    let (_, printed) = Tool::cargo(workspace).args(check).outcome()?;
    let root = format!("{}/", workspace.root.display());
    let violation = |path: &str| Violation {
        path: path.strip_prefix(&root).unwrap_or(path).to_owned(),
        line: 1,
        rule: "format",
        advice: "run `cargo fmt`".to_owned(),
    };
    Ok(printed.lines().map(violation).collect())
}
