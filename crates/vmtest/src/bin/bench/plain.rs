//! QEMU without any manager: `snapshot-save`, `snapshot-load` and `snapshot-delete`, which keep memory inside the disk.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmtest::agent::Agent;
use vmtest::service::{BOOT, Result, wait_for};

use crate::contender::{Contender, Returned, Setup, Taken, disks, first_answer, present};
use crate::qmp::{Qmp, paused};
use crate::tool::io;

/// The node that memory is written to.
const VMSTATE: &str = "disk0";

/// A QEMU of our own.
pub struct Plain {
    directory: tempfile::TempDir,
    process: Child,
    qmp: Qmp,
    agent: Agent,
}

/// Ends with whoever holds it, also when what comes after the start fails.
struct Running(Option<Child>);

impl Plain {
    /// Starts it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn boot(setup: Setup) -> Result<Self> {
        let (directory, disks) = disks()?;
        let (control, port) = (directory.path().join("qmp"), directory.path().join("port"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-smp", "1"]);
        command.args(["-accel", setup.accelerator.argument(), "-cpu", setup.accelerator.cpu()]);
        command.args(["-m", &format!("{}M", setup.mib), "-serial", "null"]);
        command.args(["-serial", &format!("unix:{},server=on,wait=off", port.display())]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", control.display())]);
        for (number, disk) in disks.iter().enumerate() {
            let node = json!({ "driver": "qcow2", "node-name": format!("disk{number}"), "discard": "unmap",
                               "file": { "driver": "file", "filename": disk } });
            command.args(["-blockdev", &node.to_string()]);
            command.args(["-device", &format!("virtio-blk-pci,drive=disk{number},bootindex={number}")]);
        }
        let process = command.stdin(Stdio::null()).spawn().map_err(io("starting QEMU"))?;
        let mut running = Running(Some(process));
        let qmp = wait_for("QEMU's control socket", BOOT, || Ok(Qmp::connect(&control).ok()))?;
        let process = present(running.0.take(), "QEMU's process")?;
        Ok(Self { agent: Agent::new(port), directory, process, qmp })
    }

    fn vm_state_size(&mut self, tag: &str) -> Result<u64> {
        let nodes = self.qmp.execute("query-named-block-nodes", &json!({ "flat": true }))?;
        let node = nodes.as_array().into_iter().flatten().find(|node| node["node-name"] == VMSTATE);
        let snapshots = node.and_then(|node| node["image"]["snapshots"].as_array());
        let own = snapshots.into_iter().flatten().find(|snapshot| snapshot["name"] == tag);
        present(own.and_then(|snapshot| snapshot["vm-state-size"].as_u64()), "the size of QEMU's snapshot")
    }
}

impl Contender for Plain {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn scratch(&self) -> &Path {
        self.directory.path()
    }

    fn take(&mut self, name: &str) -> Result<Taken> {
        self.qmp.take_events();
        let begin = Instant::now();
        self.qmp.job("snapshot-save", arguments(name))?;
        let total = begin.elapsed();
        let events = self.qmp.take_events().into_iter().map(|event| (event.name, event.time));
        let pause = present(paused(events), "QEMU's word that the guest runs again")?;
        Ok(Taken { method: "stopped".to_owned(), pause, total, bytes: self.vm_state_size(name)? })
    }

    /// The same QEMU goes on with other memory, so there is nothing to turn off.
    fn bring_back(&mut self, name: &str) -> Result<Returned> {
        let begin = Instant::now();
        self.qmp.job("snapshot-load", arguments(name))?;
        first_answer(&mut self.agent)?;
        Ok(Returned { off: None, rest: begin.elapsed() })
    }

    fn delete(&mut self, name: &str) -> Result<Duration> {
        let begin = Instant::now();
        self.qmp.job("snapshot-delete", json!({ "tag": name, "devices": ["disk0", "disk1"] }))?;
        Ok(begin.elapsed())
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.as_mut().map(end);
    }
}

/// Both steps fail only for a process that has ended already.
fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

fn arguments(tag: &str) -> Value {
    json!({ "tag": tag, "vmstate": VMSTATE, "devices": ["disk0", "disk1"] })
}
