//! The conformance table: which test holds which requirement.
//!
//! `docs/requirements.txt` lists what is required, one line each:
//!
//! ```text
//! # a remark
//! == WIRE A: HTTP transport
//! WIRE-A1-1 POST is served on two paths
//! WIRE-A1-2 something this product has no use for
//!   not applicable: why
//! WIRE-A1-3 something that is missing
//!   open: what is missing
//! ```
//!
//! A test says what it holds in a comment, above it or beside the row of its table: `/// Holds: WIRE-A1-1, WIRE-A2-1`; after a
//! comma the next comment line goes on. From both, [`check`] makes `docs/CONFORMANCE.md`, and finds requirements with neither
//! test nor reason, names that do not exist, and marks on what is not a test.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Violation;
use super::source::{Item, Source};

/// What is required.
pub const REQUIREMENTS: &str = "docs/requirements.txt";
/// The table made from it.
pub const TABLE: &str = "docs/CONFORMANCE.md";

/// What a test's mark begins with, behind the slashes.
const MARK: &str = "Holds: ";
/// The reasons that stand in for a test.
const REASONS: [&str; 2] = ["not applicable", "open"];

const INTRODUCTION: &str = "\
# Conformance

Written by `cargo xtask conformance` from [requirements.txt](requirements.txt) and the `Holds:` marks of the tests; `cargo xtask tidy` checks
that it is up to date. Each row is one requirement and the tests that would fail if it did not hold, or the reason why there is none:
*not applicable* says why Snapvisor has no use for it, *open* what is missing.

- `WIRE-…`: what clients of Hyper-V's WS-Management service send and what they need back, gathered from DSP0226, DSP0227, MS-WSMV and the
  sources of the clients themselves.
- `SNAP-…`: what the snapshot part of `root\\virtualization\\v2` does, gathered from Microsoft's reference pages and from what public clients
  rely on.
";

/// One requirement.
#[derive(Debug, Default, PartialEq, Eq)]
struct Requirement {
    id: String,
    text: String,
    /// Kind and text of the reason why no test holds it.
    reason: Option<(&'static str, String)>,
    /// Its line, counted from one.
    line: usize,
}

/// A part of the list.
#[derive(Debug, Default)]
struct Section {
    title: String,
    requirements: Vec<Requirement>,
}

/// A test that holds something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    /// As cargo names it, behind the name of the crate.
    name: String,
    /// The file, relative to the checkout.
    path: String,
}

/// What the list and the marks come to.
pub struct Conformance {
    /// The text of the table.
    pub table: String,
    /// What is wrong with list and marks; that the table is out of date is not among it.
    pub violations: Vec<Violation>,
    /// How many requirements there are, are held, do not apply, are open.
    pub counts: [usize; 4],
}

/// Makes the table from path and content of every file.
pub fn check(files: &BTreeMap<String, String>) -> Conformance {
    let (sections, mut violations) = parse(files.get(REQUIREMENTS).map_or("", String::as_str));
    let mut held: BTreeMap<&str, Vec<Test>> =
        sections.iter().flat_map(|section| &section.requirements).map(|r| (r.id.as_str(), Vec::new())).collect();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        for (line, id, test) in marks(&Source::new(path, text)) {
            match (held.get_mut(id.as_str()), test) {
                (None, _) => violations.push(violation(path, line, format!("no requirement has the name {id:?}"))),
                (_, None) => violations.push(violation(path, line, "move the mark to a test that runs")),
                (Some(tests), Some(test)) if !tests.contains(&test) => tests.push(test),
                _ => (),
            }
        }
    }
    for requirement in sections.iter().flat_map(|section| &section.requirements) {
        let tests = held.get(requirement.id.as_str()).map_or(0, Vec::len);
        let advice = match &requirement.reason {
            None if tests == 0 => "mark a test that holds it, or give the reason why there is none",
            Some(_) if tests > 0 => "a test holds it: remove the reason",
            _ => continue,
        };
        violations.push(violation(REQUIREMENTS, requirement.line, format!("{}: {advice}", requirement.id)));
    }
    Conformance { table: print(&sections, &held), violations, counts: count(&sections) }
}

/// The rules about files, over path and content of each.
pub fn rules(files: &BTreeMap<String, String>) -> Vec<Violation> {
    let Conformance { table, mut violations, .. } = check(files);
    if files.get(TABLE) != Some(&table) {
        violations.push(violation(TABLE, 1, "out of date: run `cargo xtask conformance`"));
    }
    violations
}

fn violation(path: &str, line: usize, advice: impl Into<String>) -> Violation {
    Violation { path: path.to_owned(), line, rule: "conformance", advice: advice.into() }
}

fn parse(text: &str) -> (Vec<Section>, Vec<Violation>) {
    let (mut sections, mut violations) = (Vec::<Section>::new(), Vec::new());
    let mut known = std::collections::BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let mut complain = |advice: &str| violations.push(violation(REQUIREMENTS, index + 1, advice));
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            sections.push(Section { title: title.to_owned(), requirements: Vec::new() });
            continue;
        }
        let Some(section) = sections.last_mut() else {
            complain("begin with a section, as in `== WIRE A: HTTP transport`");
            continue;
        };
        if let Some(reason) = line.strip_prefix("  ") {
            match (section.requirements.last_mut(), reason_of(reason)) {
                (Some(requirement), Some(reason)) if requirement.reason.is_none() => requirement.reason = Some(reason),
                _ => complain("give one reason per requirement: `  not applicable: why` or `  open: what is missing`"),
            }
            continue;
        }
        match line.split_once(' ').filter(|(id, text)| is_id(id) && !text.trim().is_empty()) {
            Some((id, _)) if !known.insert(id.to_owned()) => complain("the name is used above"),
            Some((id, text)) => {
                let (id, text) = (id.to_owned(), text.to_owned());
                section.requirements.push(Requirement { id, text, reason: None, line: index + 1 });
            }
            None => complain("begin with a name such as WIRE-A1-1 or SNAP-4.2-3, then say what is required"),
        }
    }
    (sections, violations)
}

fn reason_of(text: &str) -> Option<(&'static str, String)> {
    let (kind, reason) = text.split_once(": ")?;
    let kind = REASONS.into_iter().find(|known| *known == kind)?;
    (!reason.trim().is_empty()).then(|| (kind, reason.to_owned()))
}

/// Capital letters, a hyphen, then letters, digits, points and hyphens.
fn is_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(source, rest)| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        !source.is_empty()
            && source.chars().all(|c| c.is_ascii_uppercase())
            && !rest.is_empty()
            && rest.chars().all(is_part)
    })
}

/// The marks of a file: line counted from one, requirement, and the test if it is one.
fn marks(source: &Source<'_>) -> Vec<(usize, String, Option<Test>)> {
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let comment = |line: usize| {
        lines.get(line).and_then(|text| text.strip_prefix("//")).map(|text| text.trim_start_matches('/').trim())
    };
    let is_code = |line: usize| source.code.lines().nth(line).is_some_and(|code| !code.trim().is_empty());
    let mut marks = Vec::new();
    for first in 0..lines.len() {
        let Some(mut names) = comment(first).and_then(|text| text.strip_prefix(MARK)) else { continue };
        let mut line = first;
        loop {
            let test = test_at(source, &lines, first);
            let ids = names.split(',').map(str::trim).filter(|id| !id.is_empty());
            marks.extend(ids.map(|id| (line + 1, id.to_owned(), test.clone())));
            line += 1;
            match comment(line).filter(|_| names.ends_with(',') && !is_code(line)) {
                Some(more) => names = more,
                None => break,
            }
        }
    }
    marks
}

/// The test that a comment stands in or above.
fn test_at(source: &Source<'_>, lines: &[&str], line: usize) -> Option<Test> {
    let is_attached = |text: &&&str| text.starts_with("//") || text.starts_with("#[");
    let below = line + lines.get(line..)?.iter().take_while(is_attached).count();
    let is_test = |function: &Item| {
        let above = lines.get(..function.first_line).unwrap_or_default().iter().rev().take_while(is_attached);
        let attributes: Vec<_> = above.filter(|text| text.starts_with("#[")).collect();
        let runs = |text: &&&str| text.starts_with("#[test]") || text.contains("::test]") || text.contains("::test(");
        attributes.iter().any(runs) && !attributes.iter().any(|text| text.starts_with("#[ignore"))
    };
    let functions = source.functions();
    let test = functions.iter().find(|f| is_test(f) && (f.contains(line) || f.first_line == below))?;
    let modules = source.modules().into_iter().filter(|module| module.contains(test.first_line));
    let parts = modules.map(|module| module.name).chain([test.name.clone()]);
    let name = std::iter::once(module_path(source.path)?).chain(parts).collect::<Vec<_>>().join("::");
    Some(Test { name, path: source.path.to_owned() })
}

/// The module that a file is, beginning with its crate.
fn module_path(path: &str) -> Option<String> {
    let (krate, rest) = path.strip_prefix("crates/")?.strip_suffix(".rs")?.split_once('/')?;
    let rest = rest.strip_prefix("src/").or_else(|| rest.strip_prefix("tests/"))?;
    let parts = rest.split('/').filter(|part| !["lib", "main", "mod"].contains(part));
    Some(std::iter::once(krate).chain(parts).collect::<Vec<_>>().join("::"))
}

fn print(sections: &[Section], held: &BTreeMap<&str, Vec<Test>>) -> String {
    let mut table = INTRODUCTION.to_owned();
    let cell = |text: &str| text.replace('|', "\\|");
    for Section { title, requirements } in sections {
        let _ = write!(table, "\n## {title}\n\n| id | requirement | held by |\n| --- | --- | --- |\n");
        for Requirement { id, text, reason, .. } in requirements {
            let tests = held.get(id.as_str()).into_iter().flatten();
            let tests =
                tests.map(|Test { name, path }| format!("[`{name}`](../{path})")).collect::<Vec<_>>().join("<br>");
            let reason =
                reason.as_ref().map(|(kind, reason)| format!("*{kind}*: {}", cell(reason))).unwrap_or_default();
            let _ = writeln!(table, "| {id} | {} | {tests}{reason} |", cell(text));
        }
    }
    table
}

fn count(sections: &[Section]) -> [usize; 4] {
    let all = || sections.iter().flat_map(|section| &section.requirements);
    let of = |wanted: &str| all().filter(|r| r.reason.as_ref().is_some_and(|(kind, _)| *kind == wanted)).count();
    let [not_applicable, open] = REASONS.map(of);
    [all().count(), all().filter(|r| r.reason.is_none()).count(), not_applicable, open]
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const LIST: &str = "# remark\n== WIRE A: HTTP\nWIRE-A1 POST | GET\nWIRE-A2 nothing\n  not applicable: none here\n";

    fn files(list: &str, path: &str, code: &str) -> BTreeMap<String, String> {
        [(REQUIREMENTS, list), (path, code)].map(|(path, text)| (path.to_owned(), text.to_owned())).into()
    }

    #[track_caller]
    fn check_violations(list: &str, code: &str, expected: Expect) {
        let found = check(&files(list, "crates/a/src/x.rs", code)).violations;
        let found: Vec<_> = found.iter().map(|v| format!("{}:{}: {}", v.path, v.line, v.advice)).collect();
        expected.assert_eq(&found.join("\n"));
    }

    #[test]
    fn a_mark_belongs_to_the_test_it_stands_in_or_above() {
        #[track_caller]
        fn check(path: &str, code: &str, expected: &str) {
            let found = marks(&Source::new(path, code));
            let shown: Vec<_> = found
                .iter()
                .map(|(line, id, test)| format!("{line} {id} {}", test.as_ref().map_or("-", |test| &test.name)))
                .collect();
            assert_eq!(shown.join("; "), expected);
        }
        let above = "/// Why.\n/// Holds: X-1, X-2\n#[test]\nfn a() {\n}\n";
        check("crates/a/src/lib.rs", above, "2 X-1 a::a; 2 X-2 a::a");
        check("crates/a/src/b/mod.rs", above, "2 X-1 a::b::a; 2 X-2 a::b::a");
        check("crates/a/tests/w/main.rs", above, "2 X-1 a::w::a; 2 X-2 a::w::a");
        check("crates/a/tests/w/c.rs", above, "2 X-1 a::w::c::a; 2 X-2 a::w::c::a");
        let beside = "mod tests {\n#[tokio::test(start_paused = true)]\nasync fn a() {\n fn check() {\n }\n // Holds: X-1,\n // X-2\n check();\n}\n}\n";
        check("crates/a/src/lib.rs", beside, "6 X-1 a::tests::a; 7 X-2 a::tests::a");
        check("crates/a/src/lib.rs", "// Holds: X-1\nfn a() {\n}\n", "1 X-1 -");
        check("crates/a/src/lib.rs", "// Holds: X-1\n#[test]\n#[ignore]\nfn a() {\n}\n", "1 X-1 -");
        check("crates/a/src/lib.rs", "// Holds: X-1\n\n#[test]\nfn a() {\n}\n", "1 X-1 -");
    }

    #[test]
    fn list_and_marks_fit_together() {
        let test = |ids: &str| format!("// Holds: {ids}\n#[test]\nfn a() {{\n}}\n");
        check_violations(LIST, &test("WIRE-A1"), expect![""]);
        check_violations(
            LIST,
            "",
            expect![
                "docs/requirements.txt:3: WIRE-A1: mark a test that holds it, or give the reason why there is none"
            ],
        );
        check_violations(
            LIST,
            &test("WIRE-A1, WIRE-A2, WIRE-A3"),
            expect![[r#"
            crates/a/src/x.rs:1: no requirement has the name "WIRE-A3"
            docs/requirements.txt:4: WIRE-A2: a test holds it: remove the reason"#]],
        );
        check_violations(
            "== A\nA-1 x\n  open: y\n",
            "// Holds: A-1\nfn a() {\n}\n",
            expect!["crates/a/src/x.rs:1: move the mark to a test that runs"],
        );
        check_violations(
            "A-1 x\n== A\nA-2\n  open: y\nA-3 z\n  later: y\n  open: y\nA-3 z\n  open: y\n  open: y\n",
            "",
            expect![[r#"
            docs/requirements.txt:1: begin with a section, as in `== WIRE A: HTTP transport`
            docs/requirements.txt:3: begin with a name such as WIRE-A1-1 or SNAP-4.2-3, then say what is required
            docs/requirements.txt:4: give one reason per requirement: `  not applicable: why` or `  open: what is missing`
            docs/requirements.txt:6: give one reason per requirement: `  not applicable: why` or `  open: what is missing`
            docs/requirements.txt:8: the name is used above
            docs/requirements.txt:9: give one reason per requirement: `  not applicable: why` or `  open: what is missing`
            docs/requirements.txt:10: give one reason per requirement: `  not applicable: why` or `  open: what is missing`"#]],
        );
    }

    #[test]
    fn the_table_is_made_from_both_and_kept_up_to_date() {
        let mut files = files(LIST, "crates/a/src/x.rs", "// Holds: WIRE-A1\n#[test]\nfn a() {\n}\n");
        assert_eq!(rules(&files).len(), 1);
        let Conformance { table, counts, .. } = check(&files);
        assert_eq!(counts, [2, 1, 1, 0]);
        expect![[r"

            ## WIRE A: HTTP

            | id | requirement | held by |
            | --- | --- | --- |
            | WIRE-A1 | POST \| GET | [`a::x::a`](../crates/a/src/x.rs) |
            | WIRE-A2 | nothing | *not applicable*: none here |
        "]]
        .assert_eq(table.strip_prefix(INTRODUCTION).unwrap());
        files.insert(TABLE.to_owned(), table);
        assert_eq!(rules(&files), []);
    }
}
