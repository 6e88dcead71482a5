//! Apt's sources: finds the one that serves this machine's release and derives the one for its backports.
//!
//! The new source repeats the old one's mirror, components and keys, so a machine behind a local mirror stays behind
//! it and nothing here knows a host's name. Formats: sources.list(5), one-line and deb822.

use std::fs;
use std::path::Path;

use crate::shell::{Context, Failure, Result};

/// The stem of the file that `setup` adds.
const STEM: &str = "snapvisor-backports";

/// One of apt's files, or the one to be added.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// File name; its suffix says which of the two formats it has.
    pub name: String,
    /// Content.
    pub text: String,
}

/// The release's code name, such as `bookworm`.
pub fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.ok_or_else(|| Failure::new("/etc/os-release names no release; install QEMU 9 or newer by hand"))?;
    Ok(name.trim_matches('"').to_owned())
}

/// Every file that apt reads.
pub fn read_sources() -> Result<Vec<SourceFile>> {
    let mut paths = vec![Path::new("/etc/apt/sources.list").to_owned()];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.sort();
    let mut files = Vec::new();
    for path in paths.into_iter().filter(|path| path.exists()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".list") || name.ends_with(".sources") {
            let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
            files.push(SourceFile { name, text });
        }
    }
    Ok(files)
}

/// Whether a file has an active source of binary packages for the suite.
pub fn serves(file: &SourceFile, suite: &str) -> bool {
    entries(file).any(|entry| entry.suites.contains(&suite))
}

/// The file to add so that apt knows `suite`, made from the first source that serves `release`.
pub fn derive(files: &[SourceFile], release: &str, suite: &str) -> Option<SourceFile> {
    let (file, entry) =
        files.iter().find_map(|file| Some((file, entries(file).find(|entry| entry.suites.contains(&release))?)))?;
    let (suffix, body) = match entry.form {
        Form::Line { before, after } => ("list", format!("deb {before}{suite} {after}\n")),
        Form::Stanza(lines) => ("sources", stanza_for(&lines, suite)),
    };
    let text =
        format!("# Added by Snapvisor's `cargo xtask setup` for a recent QEMU; made from {}.\n{body}", file.name);
    Some(SourceFile { name: format!("{STEM}.{suffix}"), text })
}

/// The version that apt would install, from what `apt-cache policy` prints.
pub fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then_some(version)
}

/// The first number of a Debian version after its epoch.
pub fn upstream_major(version: &str) -> Option<u32> {
    let upstream = version.split_once(':').map_or(version, |(_, upstream)| upstream);
    upstream.split('.').next()?.parse().ok()
}

/// An active source of binary packages.
struct Entry<'a> {
    suites: Vec<&'a str>,
    form: Form<'a>,
}

enum Form<'a> {
    /// `deb` and then: everything before the suite, and the components behind it.
    Line { before: String, after: String },
    /// The stanza's lines, comments left out.
    Stanza(Vec<&'a str>),
}

fn entries(file: &SourceFile) -> Box<dyn Iterator<Item = Entry<'_>> + '_> {
    if file.name.ends_with(".sources") {
        Box::new(stanzas(&file.text).filter_map(stanza_entry))
    } else {
        Box::new(file.text.lines().filter_map(line_entry))
    }
}

fn line_entry(line: &str) -> Option<Entry<'_>> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?;
    // `deb-src` has no blank here.
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']').map(|(options, rest)| (format!("[{options}] "), rest))?,
        None => (String::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let after = words.collect::<Vec<_>>().join(" ");
    Some(Entry { suites: vec![suite], form: Form::Line { before: format!("{options}{uri} "), after } })
}

fn stanzas(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanzas: Vec<Vec<&str>> = lines.split(|line| line.trim().is_empty()).map(<[&str]>::to_vec).collect();
    stanzas.into_iter().filter(|lines| !lines.is_empty())
}

fn stanza_entry(lines: Vec<&str>) -> Option<Entry<'_>> {
    let disabled = field(&lines, "Enabled").is_some_and(|value| value.trim() == "no");
    let binary = field(&lines, "Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"));
    let suites: Vec<&str> = field(&lines, "Suites")?.split_whitespace().collect();
    (binary && !disabled).then_some(Entry { suites, form: Form::Stanza(lines) })
}

fn field<'a>(lines: &[&'a str], name: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| value_of(line, name))
}

fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    found.eq_ignore_ascii_case(name).then_some(value)
}

/// The stanza with other suites; all its other lines, a key over many lines among them, stay.
fn stanza_for(lines: &[&str], suite: &str) -> String {
    let mut text = String::new();
    for line in lines {
        if value_of(line, "Suites").is_some() {
            text.push_str(&format!("Suites: {suite}\n"));
        } else if value_of(line, "Types").is_some() {
            text.push_str("Types: deb\n");
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: Expect) {
        let files: Vec<SourceFile> =
            files.iter().map(|(name, text)| SourceFile { name: (*name).into(), text: (*text).into() }).collect();
        let derived = derive(&files, "bookworm", "bookworm-backports");
        let shown = derived.map_or("nothing\n".into(), |file| format!("{}:\n{}", file.name, file.text));
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_deb822_source_is_repeated_with_other_suites() {
        check(
            &[(
                "debian.sources",
                "Types: deb\nURIs: http://security.example/\nSuites: bookworm-security\n\n\
                 Types: deb deb-src\n# a remark\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                 Components: main contrib\nSigned-By:\n -----BEGIN PGP-----\n .\n abc\n",
            )],
            expect![[r#"
                snapvisor-backports.sources:
                # Added by Snapvisor's `cargo xtask setup` for a recent QEMU; made from debian.sources.
                Types: deb
                URIs: http://mirror.example/debian
                Suites: bookworm-backports
                Components: main contrib
                Signed-By:
                 -----BEGIN PGP-----
                 .
                 abc
            "#]],
        );
    }

    #[test]
    fn a_line_is_repeated_with_its_options() {
        check(
            &[(
                "sources.list",
                "# deb http://old.example bookworm main\ndeb-src http://mirror.example/debian bookworm main\n\
                 deb [arch=amd64 signed-by=/k.gpg]  http://mirror.example/debian bookworm main contrib # ours\n",
            )],
            expect![[r#"
                snapvisor-backports.list:
                # Added by Snapvisor's `cargo xtask setup` for a recent QEMU; made from sources.list.
                deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm-backports main contrib
            "#]],
        );
    }

    #[test]
    fn disabled_and_foreign_sources_are_not_repeated() {
        let nothing = expect![[r#"
            nothing
        "#]];
        check(&[("a.sources", "Enabled: no\nTypes: deb\nURIs: http://m.example\nSuites: bookworm\n")], nothing);
        let nothing = expect![[r#"
            nothing
        "#]];
        check(&[("a.list", "deb http://m.example trixie main\ndeb\ndeb [\n")], nothing);
    }

    #[test]
    fn a_suite_is_served_when_an_active_source_lists_it() {
        let file = |text: &str| SourceFile { name: "a.sources".into(), text: text.into() };
        let active = "Types: deb\nURIs: http://m.example\nSuites: bookworm-backports\n";
        assert!(serves(&file(active), "bookworm-backports"));
        assert!(!serves(&file(active), "bookworm"));
        assert!(!serves(&file(&format!("{active}Enabled: no\n")), "bookworm-backports"));
    }

    #[test]
    fn the_candidate_and_its_major_version() {
        assert_eq!(candidate("q:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7\n"), Some("1:7.2+dfsg-7"));
        assert_eq!(candidate("q:\n  Candidate: (none)\n"), None);
        assert_eq!(upstream_major("1:7.2+dfsg-7"), Some(7));
        assert_eq!(upstream_major("10.0.2"), Some(10));
        assert_eq!(upstream_major("unknown"), None);
    }
}
