//! Rules about single files, and the ratchet on `expect`.

use std::collections::BTreeMap;

use super::Violation;
use super::source::{Item, Source, line_index, word_positions};

/// Longest file, in lines. Beyond this nobody reads one to the end.
const MAX_FILE_LINES: usize = 700;
/// Longest function, in lines: two screens.
const MAX_FUNCTION_LINES: usize = 70;
/// The comment that excuses a longer one; a reason must follow.
const LONG_FUNCTION_EXCUSE: &str = "// tidy: allow-long-fn ";
/// Calls of `expect` for every begun thousand lines of product code.
const EXPECTS_PER_THOUSAND_LINES: usize = 2;

/// Crates that decide and never act.
pub const PURE_CRATES: [&str; 7] = ["auth", "cim", "ledger", "qemu", "wsman", "hyperv", "sim"];
/// What acting looks like.
const IMPURE: [&str; 11] = [
    "async",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "thread::spawn",
    "Instant::now",
    "SystemTime::now",
    "tokio",
    "unsafe",
];

/// The crate a file belongs to.
pub fn crate_of(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?.split('/').next()
}

/// Every rule about one Rust file.
pub fn check_source(source: &Source<'_>) -> Vec<Violation> {
    let rules = [header, file_length, function_length, no_unwrap, purity];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

fn violation(source: &Source<'_>, line: usize, rule: &'static str, advice: impl Into<String>) -> Violation {
    Violation { path: source.path.to_owned(), line: line + 1, rule, advice: advice.into() }
}

fn header(source: &Source<'_>) -> Vec<Violation> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![violation(source, 0, "header", "begin the file with `//!`: what it is for, its states, its sources")]
}

fn file_length(source: &Source<'_>) -> Vec<Violation> {
    let lines = source.text.lines().count();
    if lines <= MAX_FILE_LINES {
        return Vec::new();
    }
    vec![violation(source, MAX_FILE_LINES, "file-length", format!("split it: {lines} lines, at most {MAX_FILE_LINES}"))]
}

fn function_length(source: &Source<'_>) -> Vec<Violation> {
    let lines: Vec<&str> = source.text.lines().collect();
    let is_excused = |function: &Item| {
        let above = lines.get(..function.first_line).unwrap_or_default().iter().rev();
        let attached =
            above.map(|line| line.trim()).take_while(|line| line.starts_with("//") || line.starts_with("#["));
        attached.into_iter().any(|line| line.strip_prefix(LONG_FUNCTION_EXCUSE).is_some_and(|why| !why.is_empty()))
    };
    let long = source.functions().into_iter().filter(|function| function.lines > MAX_FUNCTION_LINES);
    let advice = |function: &Item| {
        let Item { name, lines, .. } = function;
        format!(
            "split `{name}`: {lines} lines, at most {MAX_FUNCTION_LINES} (or `{LONG_FUNCTION_EXCUSE}<reason>` above it)"
        )
    };
    long.filter(|function| !is_excused(function))
        .map(|function| violation(source, function.first_line, "function-length", advice(&function)))
        .collect()
}

fn no_unwrap(source: &Source<'_>) -> Vec<Violation> {
    let found = source.product.match_indices(".unwrap()");
    let advice = "handle the error, or `expect` with the invariant that rules it out";
    found.map(|(at, _)| violation(source, line_index(&source.product, at), "no-unwrap", advice)).collect()
}

fn purity(source: &Source<'_>) -> Vec<Violation> {
    let Some(name) = crate_of(source.path).filter(|name| PURE_CRATES.contains(name)) else { return Vec::new() };
    let mut violations = Vec::new();
    for word in IMPURE {
        for at in word_positions(&source.product, word) {
            let advice =
                format!("`{name}` is pure: take what `{word}` would give as an argument, or move this to `host`");
            violations.push(violation(source, line_index(&source.product, at), "purity", advice));
        }
    }
    violations
}

/// Directories of somebody's machine that must not get into the project.
pub fn machine_paths(path: &str, text: &str) -> Vec<Violation> {
    // Put together here so that this file does not name them either.
    let directories = ["work", "root", "home"].map(|name| format!("/{name}/"));
    // Namespaces of CIM begin with `root` and are no directories.
    let is_namespace = |rest: &str| {
        let rest = rest.to_ascii_lowercase();
        ["/root/virtualization", "/root/cimv2", "/root/interop", "/root/standardcimv2"]
            .iter()
            .any(|n| rest.starts_with(n))
    };
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for directory in &directories {
            let is_absolute =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/}>)*~".contains(c));
            let found =
                line.match_indices(directory.as_str()).any(|(at, _)| is_absolute(at) && !is_namespace(&line[at..]));
            if found {
                let advice = format!("do not name a directory of one machine ({directory})");
                violations.push(Violation { path: path.to_owned(), line: index + 1, rule: "machine-path", advice });
            }
        }
    }
    violations
}

/// Counts calls of `expect` per crate. The allowance grows with the code, so a crate cannot get worse unnoticed.
#[derive(Default)]
pub struct Ratchet {
    crates: BTreeMap<String, (usize, usize)>,
}

impl Ratchet {
    /// Adds a file.
    pub fn count(&mut self, source: &Source<'_>) {
        let Some(name) = crate_of(source.path) else { return };
        let (lines, expects) = self.crates.entry(name.to_owned()).or_default();
        *lines += source.product.lines().filter(|line| !line.trim().is_empty()).count();
        *expects += source.product.match_indices(".expect(").filter(|(at, _)| is_std_expect(source, *at)).count();
    }

    /// The crates that expect too much.
    pub fn violations(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (name, (lines, expects)) in &self.crates {
            let allowed = lines.div_ceil(1000) * EXPECTS_PER_THOUSAND_LINES;
            if *expects > allowed {
                let advice =
                    format!("{expects} calls of `expect` in {lines} lines, at most {allowed}: return errors instead");
                let path = format!("crates/{name}/Cargo.toml");
                violations.push(Violation { path, line: 1, rule: "expect-ratchet", advice });
            }
        }
        violations
    }
}

/// Whether a call of `expect` is that of `Option` or `Result`: parsers have methods of that name, too, which take a
/// token or are called on `self`.
fn is_std_expect(source: &Source<'_>, at: usize) -> bool {
    let takes_text = source.text[at + ".expect(".len()..].trim_start().starts_with('"');
    takes_text && !source.product[..at].ends_with("self")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules and lines that a file violates.
    #[track_caller]
    fn check(path: &str, text: &str, expected: &[(&str, usize)]) {
        let found = check_source(&Source::new(path, text));
        let found: Vec<_> = found.iter().map(|violation| (violation.rule, violation.line)).collect();
        assert_eq!(found, expected);
    }

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_file_has_a_header_and_an_end() {
        check("crates/a/src/lib.rs", "//! What.\n", &[]);
        check("crates/a/src/lib.rs", "// What.\n", &[("header", 1)]);
        check("crates/a/src/lib.rs", &format!("//! What.\n{}", "\n".repeat(699)), &[]);
        check("crates/a/src/lib.rs", &format!("//! What.\n{}", "\n".repeat(700)), &[("file-length", 701)]);
    }

    #[test]
    fn a_function_fits_two_screens_or_has_a_reason() {
        check("crates/a/src/lib.rs", &format!("//! What.\n{}", function(70)), &[]);
        check("crates/a/src/lib.rs", &format!("//! What.\n{}", function(71)), &[("function-length", 2)]);
        let excused = format!("//! What.\n// tidy: allow-long-fn one table\n#[rustfmt::skip]\n{}", function(71));
        check("crates/a/src/lib.rs", &excused, &[]);
        let no_reason = format!("//! What.\n// tidy: allow-long-fn \n{}", function(71));
        check("crates/a/src/lib.rs", &no_reason, &[("function-length", 3)]);
    }

    #[test]
    fn product_code_does_not_unwrap() {
        check("crates/a/src/lib.rs", "//! What.\nfn a() { b.unwrap() }\n", &[("no-unwrap", 2)]);
        check("crates/a/src/lib.rs", "//! `x.unwrap()`\nfn a() { b.unwrap_or(1) }\n", &[]);
        check("crates/a/src/lib.rs", "//! What.\n#[cfg(test)]\nmod tests {\n fn a() { b.unwrap() }\n}\n", &[]);
        check("crates/a/tests/x.rs", "//! What.\nfn a() { b.unwrap() }\n", &[]);
    }

    #[test]
    fn pure_crates_do_not_act() {
        check("crates/cim/src/lib.rs", "//! No unsafe.\nuse std::fs::File;\n", &[("purity", 2)]);
        check("crates/ledger/src/a.rs", "//! What.\nlet x = Instant::now();\n", &[("purity", 2)]);
        check("crates/host/src/lib.rs", "//! What.\nuse std::fs::File;\n", &[]);
        check("crates/cim/src/lib.rs", "//! What.\nuse std::fsx; let tokio_like = 1;\n", &[]);
    }

    #[test]
    fn nobodys_directories_are_named() {
        #[track_caller]
        fn check(line: &str, expected: usize) {
            let line = line.replace('%', "/");
            assert_eq!(machine_paths("a.md", &line).len(), expected, "{line}");
        }
        check("see %home%me%x", 1);
        check("\"%work%x\"", 1);
        check("http:%%host%wmi%root%virtualization%v2", 0);
        check("%root%virtualization%v2", 0);
        check("%root%.bashrc", 1);
        check("target%work%x", 0);
    }

    #[test]
    fn expects_are_rationed() {
        #[track_caller]
        fn check(lines: usize, expects: usize, expected: usize) {
            let text = "a();\n".repeat(lines - expects) + &"b.expect(\"c\");\n".repeat(expects);
            let mut ratchet = Ratchet::default();
            ratchet.count(&Source::new("crates/a/src/lib.rs", &text));
            assert_eq!(ratchet.violations().len(), expected);
        }
        check(100, 2, 0);
        check(100, 3, 1);
        check(1001, 4, 0);
        check(1001, 5, 1);
        let parser = "self.expect(\"{\"); p.expect(Token::Brace); a.expect(1);\n".repeat(9);
        let mut ratchet = Ratchet::default();
        ratchet.count(&Source::new("crates/a/src/lib.rs", &parser));
        assert_eq!(ratchet.violations(), []);
    }
}
