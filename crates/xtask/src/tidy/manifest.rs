//! Rules about Cargo.toml files: who may depend on whom, and why.

use toml::Table;

use super::Violation;
use super::rules::{PURE_CRATES, crate_of};

/// The crate graph of ARCHITECTURE.md: each crate of ours and the ones it may use.
const GRAPH: [(&str, &[&str]); 16] = [
    ("auth", &[]),
    ("cim", &[]),
    ("ledger", &[]),
    ("qemu", &[]),
    ("wsman", &["cim"]),
    ("hyperv", &["cim", "ledger"]),
    ("host", &["ledger", "qemu"]),
    ("kerberos", &["auth"]),
    ("daemon", &["auth", "cim", "ledger", "qemu", "wsman", "hyperv", "host", "kerberos"]),
    ("cli", &["auth", "cim", "wsman"]),
    ("snapvisor", &["daemon", "cli"]),
    ("sim", &["cim", "ledger", "wsman", "hyperv"]),
    ("vmtest", &["ledger", "host", "sim"]),
    ("fuzz", &["auth", "cim", "daemon", "hyperv", "ledger", "qemu", "wsman"]),
    ("guest-agent", &[]),
    ("xtask", &[]),
];

/// Crates of others that a pure crate may use: none of them waits, reads a clock or opens anything.
const ALLOWED_IN_PURE: [&str; 15] = [
    "argon2",
    "base64",
    "bytes",
    "hmac",
    "imbl",
    "jiff",
    "md-5",
    "md4",
    "quick-xml",
    "rc4",
    "serde",
    "serde_json",
    "subtle",
    "thiserror",
    "zeroize",
];
/// As above; kept apart because its features decide whether it draws random numbers, see the root Cargo.toml.
const ALLOWED_WITHOUT_FEATURES: &str = "uuid";

/// Every rule about one manifest.
pub fn check(path: &str, text: &str) -> Vec<Violation> {
    if path == "Cargo.toml" {
        return reasons(path, text);
    }
    let Some(name) = crate_of(path) else { return Vec::new() };
    match text.parse::<Table>() {
        Ok(table) => dependencies(path, text, name, &table),
        Err(error) => vec![violation(path, 1, "manifest", format!("repair it: {}", error.message()))],
    }
}

fn violation(path: &str, line: usize, rule: &'static str, advice: String) -> Violation {
    Violation { path: path.to_owned(), line, rule, advice }
}

/// Every line of `[workspace.dependencies]` stands in a block that a comment opens.
fn reasons(path: &str, text: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let (mut inside, mut explained) = (false, false);
    for (index, line) in text.lines().enumerate() {
        match line.trim() {
            section if section.starts_with('[') => (inside, explained) = (section == "[workspace.dependencies]", false),
            "" => explained = false,
            comment if comment.starts_with('#') => explained = true,
            dependency if inside && !explained && !dependency.contains(" # ") => {
                let advice = "say in a comment above it why it is worth a dependency".to_owned();
                violations.push(violation(path, index + 1, "dependency-reason", advice));
            }
            _ => (),
        }
    }
    violations
}

fn dependencies(path: &str, text: &str, name: &str, table: &Table) -> Vec<Violation> {
    let Some((_, allowed)) = GRAPH.iter().find(|(known, _)| *known == name) else {
        let advice = "add the crate to the graph in ARCHITECTURE.md and in tidy's manifest rules".to_owned();
        return vec![violation(path, 1, "crate-graph", advice)];
    };
    let mut violations = Vec::new();
    let sections = ["dependencies", "build-dependencies"].iter().filter_map(|section| table.get(*section)?.as_table());
    for (dependency, wanted) in sections.flatten() {
        let is_ours = GRAPH.iter().any(|(ours, _)| ours == dependency);
        let line = text.lines().position(|line| line.starts_with(dependency.as_str())).map_or(1, |index| index + 1);
        if is_ours && !allowed.contains(&dependency.as_str()) {
            let advice = format!("`{name}` must not know `{dependency}`: see the crate graph in ARCHITECTURE.md");
            violations.push(violation(path, line, "crate-graph", advice));
        }
        let plain = dependency == ALLOWED_WITHOUT_FEATURES && wanted.get("features").is_none();
        let is_harmless = ALLOWED_IN_PURE.contains(&dependency.as_str()) || plain;
        if PURE_CRATES.contains(&name) && !is_ours && !is_harmless {
            let advice = format!("`{name}` is pure: do without `{dependency}`, or show in tidy that it does no I/O");
            violations.push(violation(path, line, "purity", advice));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_lines(path: &str, text: &str, expected: &[(&str, usize)]) {
        let found = check(path, text);
        let found: Vec<_> = found.iter().map(|violation| (violation.rule, violation.line)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_graph_is_the_one_of_the_architecture() {
        check_lines("crates/wsman/Cargo.toml", "[dependencies]\ncim.workspace = true\n", &[]);
        check_lines("crates/wsman/Cargo.toml", "[dependencies]\nledger.workspace = true\n", &[("crate-graph", 2)]);
        check_lines("crates/other/Cargo.toml", "[dependencies]\n", &[("crate-graph", 1)]);
        check_lines("crates/cim/Cargo.toml", "[dependencies\n", &[("manifest", 1)]);
    }

    #[test]
    fn pure_crates_use_pure_crates() {
        check_lines("crates/cim/Cargo.toml", "[dependencies]\nthiserror = \"2\"\nuuid = \"1\"\n", &[]);
        check_lines("crates/cim/Cargo.toml", "[dependencies]\nuuid = { features = [\"v4\"] }\n", &[("purity", 2)]);
        check_lines("crates/cim/Cargo.toml", "[dependencies]\ntokio = \"1\"\n", &[("purity", 2)]);
        check_lines("crates/cim/Cargo.toml", "[dev-dependencies]\nexpect-test = \"1\"\n", &[]);
        check_lines("crates/host/Cargo.toml", "[dependencies]\ntokio = \"1\"\n", &[]);
    }

    #[test]
    fn a_dependency_has_its_reason_beside_it() {
        let text = "[workspace.dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n\nc = \"1\"\nd = \"1\" # why\n\n[profile]\ne = 1\n";
        check_lines("Cargo.toml", text, &[("dependency-reason", 6)]);
    }
}
