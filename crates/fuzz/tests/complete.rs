//! Every parser of the pure crates, and that of the configuration, has a target. A new one is found by its name.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports, in its helpers too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What parsers are called.
const NAMES: [&str; 6] = ["parse", "read", "decode", "receive", "rebuild", "from_output"];
/// Where outside bytes are read.
const PLACES: [&str; 6] = ["auth/src", "cim/src", "daemon/src/config.rs", "ledger/src", "qemu/src", "wsman/src"];

/// Each parser, by file and name, and the target that reaches it; in parentheses why none does.
const PARSERS: &[(&str, &str)] = &[
    ("auth/src/ntlm/message.rs read", "ntlm"),
    ("auth/src/ntlm/message.rs read_negotiate", "ntlm"),
    ("auth/src/secret.rs parse", "users"),
    ("auth/src/users.rs parse", "users"),
    ("cim/src/datetime.rs parse", "datetime"),
    ("cim/src/embedded/mod.rs parse", "instance_xml"),
    ("cim/src/mof/parser.rs parse_classes", "classes_mof"),
    ("cim/src/mof/parser.rs parse_instance", "instance_mof"),
    ("cim/src/path.rs parse", "object_path"),
    ("cim/src/value.rs parse", "instance_mof"),
    ("cim/src/wql/parser.rs parse", "wql_select"),
    ("cim/src/xml/reader.rs parse", "envelope"),
    ("daemon/src/config.rs parse", "configuration"),
    ("ledger/src/image_file.rs read", "(gives paths, reads nothing)"),
    ("ledger/src/record.rs rebuild", "record"),
    ("qemu/src/graph.rs read", "qmp"),
    ("qemu/src/mapped_ram.rs read", "mapped_ram"),
    ("qemu/src/qcow2.rs read", "qcow2"),
    ("qemu/src/qcow2.rs read_plain", "qcow2"),
    ("qemu/src/qmp.rs receive", "qmp"),
    ("qemu/src/save/convergence.rs read", "qmp"),
    ("qemu/src/save/migration.rs read", "(looks up numbers in an answer that qmp has read)"),
    ("qemu/src/screen.rs read_ppm", "screen"),
    ("qemu/src/version.rs from_output", "qmp"),
    ("qemu/src/version.rs read", "qmp"),
    ("wsman/src/client/read.rs read", "reply"),
    ("wsman/src/encoding.rs decode", "body"),
    ("wsman/src/epr.rs parse", "envelope"),
    ("wsman/src/request/header.rs read", "envelope"),
    ("wsman/src/request/mod.rs read", "envelope"),
];

/// Every Rust file at or below a path.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    std::fs::read_dir(path).unwrap().flat_map(|entry| sources(&entry.unwrap().path())).collect()
}

/// The public functions of a file that are named like parsers.
fn parsers(text: &str) -> impl Iterator<Item = &str> {
    let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let names = product.lines().filter_map(|line| line.trim_start().strip_prefix("pub fn ")?.split(['(', '<']).next());
    let is_parser = |name: &&str| NAMES.iter().any(|known| name == known || name.starts_with(&format!("{known}_")));
    names.filter(is_parser)
}

#[test]
fn every_parser_has_a_target() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    for file in PLACES.iter().flat_map(|place| sources(&crates.join(place))) {
        let name = file.strip_prefix(crates).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        found.extend(parsers(&text).map(|parser| format!("{name} {parser}")));
    }
    let known: BTreeSet<String> = PARSERS.iter().map(|(parser, _)| (*parser).to_owned()).collect();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "parsers without a target: {new:?}; see the header of src/lib.rs");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "there are no such parsers: {gone:?}");
    for (parser, target) in PARSERS {
        assert!(target.starts_with('(') || fuzz::target(target).is_some(), "{parser}: there is no target {target}");
    }
}
