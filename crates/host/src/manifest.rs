//! Texts beside saved memory: a snapshot must be of use without this program.
//!
//! `manifest.json` says what the moment consists of; `start.sh` starts it with nothing but stock QEMU, on throw-away
//! overlays, so that it may be tried without harm.

use std::fmt::Write;
use std::path::Path;

use ledger::effect::{Chain, MachineSpec};
use ledger::failure::Failure;
use ledger::vm::Slot;
use qemu::launch::{Memory, Sockets, Start};
use qemu::save::MEMORY_FILE;
use serde_json::{Value, json};

use crate::capability::Tools;
use crate::fault;
use crate::hands::replace_file;
use crate::screen;
use crate::spec::{self, SavedMachine, Surroundings};

/// Version of `manifest.json`; grows when a member changes its meaning.
const MANIFEST_VERSION: u32 = 1;

/// Stands for the scratch directory in the script until the shell puts in its own. No path of ours begins so.
const SCRATCH: &str = "/@scratch@";

const MANIFEST: &str = "manifest.json";
const SCRIPT: &str = "start.sh";

/// The files written by [`write`].
pub const FILES: [&str; 2] = [MANIFEST, SCRIPT];

/// Writes both texts into the memory's directory.
pub fn write(
    directory: &Path,
    spec: &MachineSpec,
    saved: &SavedMachine,
    tools: &Tools,
    moment_us: u64,
) -> Result<(), Failure> {
    let manifest = format!("{:#}\n", manifest(directory, spec, saved, moment_us));
    let script = script(directory, spec, saved, tools)?;
    for (name, text) in [(MANIFEST, manifest), (SCRIPT, script)] {
        let path = directory.join(name);
        replace_file(&path, text.as_bytes()).map_err(|error| fault::file("write", &path, &error))?;
    }
    Ok(())
}

fn manifest(directory: &Path, spec: &MachineSpec, saved: &SavedMachine, moment_us: u64) -> Value {
    let slot = |slot: Slot| match slot {
        Slot::Drive(drive) => json!({ "drive": drive.to_string() }),
        Slot::Nvram => json!("nvram"),
    };
    let chain = |chain: &Chain| {
        let image = |image: &ledger::effect::Image| {
            json!({
                "layer": image.layer.to_string(), "path": image.path, "size": image.size,
                "format": spec::format(image.format).driver(),
            })
        };
        json!({ "slot": slot(chain.slot), "layers": chain.images.iter().map(image).collect::<Vec<_>>() })
    };
    json!({
        "version": MANIFEST_VERSION,
        "machine": {
            "id": spec.vm.to_string(), "name": spec.name, "processors": spec.processors,
            "memory_mib": spec.memory_mib, "uuid": spec.bios_guid, "generation_id": spec.generation_id,
            "firmware": format!("{:?}", spec.firmware).to_lowercase(), "platform": saved.platform,
        },
        "moment_us": moment_us,
        "screen": screen::path_of(directory).map(|_| screen::FILE),
        "memory": { "file": MEMORY_FILE, "ram_offset": saved.layout.offset, "ram_size": saved.layout.size },
        "disks": spec.chains.iter().map(chain).collect::<Vec<_>>(),
    })
}

/// A shell script that starts the moment.
fn script(directory: &Path, spec: &MachineSpec, saved: &SavedMachine, tools: &Tools) -> Result<String, Failure> {
    let mut temporary = spec.clone();
    let mut script = String::from(PREAMBLE);
    for (index, chain) in temporary.chains.iter_mut().enumerate() {
        let Some(top) = chain.images.first().cloned() else { continue };
        let path = format!("{SCRATCH}/disk{index}.qcow2");
        let words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", spec::format(top.format).driver(), "-b"];
        // Writing to a string cannot fail, here and below.
        let _ = write!(script, "{}", words.join(" "));
        let _ = writeln!(script, " {} {} {}", quote(&top.path.to_string_lossy()), quote(&path), top.size);
        let mut overlay = top;
        // Names a node of that emulator; counted down from the top, where no random id will be.
        overlay.layer.0 = uuid::Uuid::from_u128(u128::MAX - index as u128);
        overlay.path = path.into();
        overlay.format = ledger::snapshot::Format::Qcow2;
        chain.images.insert(0, overlay);
    }
    let socket = |name: &str| format!("{SCRATCH}/{name}").into();
    let around = Surroundings {
        platform: saved.platform.clone(),
        memory: Memory::Anonymous,
        start: Start::Run,
        sockets: Sockets { qmp: socket("qmp"), com1: socket("com1"), com2: socket("com2") },
        tools,
    };
    let arguments = spec::machine(&temporary, around)?.arguments().map_err(|error| {
        Failure::new(ledger::failure::Kind::NotSupported, format!("could not describe {}: {error}", spec.name))
    })?;
    let _ = write!(script, "exec qemu-system-x86_64");
    for argument in &arguments {
        let separator = if argument.starts_with('-') { " \\\n  " } else { " " };
        let _ = write!(script, "{separator}{}", quote(argument));
    }
    let memory = directory.join(MEMORY_FILE);
    let incoming = quote(&format!("file:{}", memory.display()));
    let _ = write!(script, " \\\n  -global migration.mapped-ram=on -incoming {incoming}");
    let _ = writeln!(script, " \\\n  -monitor stdio < \"$scratch/words\" > /dev/null");
    Ok(script)
}

const PREAMBLE: &str = "#!/bin/sh
# Starts this saved moment with stock QEMU alone. What the guest writes goes to throw-away overlays in a temporary
# directory; the snapshot is only read. The guest's serial ports are the sockets com1 and com2 there, its monitor is qmp.
# When layers merge, the service writes this anew.
set -e
scratch=$(mktemp -d)
echo \"sockets and overlays are in $scratch\" >&2
# A guest that stood still when it was saved does so when it is loaded. It is told to run, until its memory is there.
mkfifo \"$scratch/words\"
(for pause in 1 1 2 4 8 16 32; do sleep $pause; echo cont; done) > \"$scratch/words\" 2> /dev/null &
";

/// One word for the shell; the scratch directory is put in by the shell itself.
fn quote(word: &str) -> String {
    let quoted = format!("'{}'", word.replace('\'', r"'\''"));
    quoted.replace(SCRATCH, "'\"$scratch\"'")
}
