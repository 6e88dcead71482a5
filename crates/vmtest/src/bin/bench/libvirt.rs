//! libvirt's external snapshots with memory, through `virsh`.
//!
//! The pause is QEMU's STOP to RESUME here too: `virsh qemu-monitor-event` passes the events on with QEMU's own times.
//! Older versions of libvirt cannot delete or revert such snapshots. Then this does by hand what an administrator would:
//! commits the overlays and forgets the snapshot, or restores the memory file onto new overlays; and says so in a remark.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use vmtest::agent::Agent;
use vmtest::service::{Error, Result, describe};

use crate::contender::{Contender, Returned, Setup, Taken, disks, first_answer, present};
use crate::facts::Accelerator;
use crate::qmp::paused;
use crate::tool::{self, io};

/// Where daemons may be, the system's first.
const URIS: [&str; 2] = ["qemu:///system", "qemu:///session"];
/// The domain. Always the same, so that one left behind by an interrupted run can be found and removed.
const DOMAIN: &str = "snapvisor-bench";
/// How long an event may take from QEMU through two programs to us.
const EVENT_DELAY: Duration = Duration::from_secs(10);
/// How long after the last event no more are expected.
const EVENT_REST: Duration = Duration::from_millis(200);
/// Bytes in a block as `stat` counts them.
const STAT_BLOCK: u64 = 512;

/// A daemon that answers.
#[derive(Debug, Clone)]
pub struct Connection {
    /// For `virsh -c`.
    pub uri: &'static str,
    /// Of libvirt.
    pub version: String,
}

impl Connection {
    /// Looks for one.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn find() -> std::result::Result<Self, String> {
        if tool::run("virsh", &["--version"]).is_err() {
            return Err("virsh is not installed".to_owned());
        }
        let mut reasons = Vec::new();
        for uri in URIS {
            match tool::run("virsh", &["-c", uri, "version"]) {
                Ok(text) => {
                    let version = text.lines().find_map(|line| line.strip_prefix("Using library: libvirt "));
                    return Ok(Self { uri, version: version.unwrap_or("of unknown version").to_owned() });
                }
                Err(error) => reasons.push(describe(&error)),
            }
        }
        Err(format!("no libvirtd answers: {}", reasons.join("; ")))
    }

    fn virsh(&self, arguments: &[&str]) -> Result<String> {
        tool::run("virsh", &[&["-q", "-c", self.uri], arguments].concat())
    }

    /// Removes the domain; each step fails only where there is nothing to do.
    fn forget_domain(&self) {
        let _ = self.virsh(&["destroy", DOMAIN]);
        let _ = self.virsh(&["undefine", DOMAIN, "--snapshots-metadata"]);
    }
}

/// A domain of our own.
pub struct Libvirt {
    connection: Connection,
    live: bool,
    directory: tempfile::TempDir,
    disks: [PathBuf; 2],
    agent: Agent,
    events: Events,
    /// Overlays made for restoring by hand so far.
    restored: u32,
    remarks: Vec<String>,
}

impl Libvirt {
    /// Defines and starts it.
    ///
    /// # Errors
    /// If libvirt refuses.
    pub fn boot(connection: &Connection, setup: Setup, live: bool) -> Result<Self> {
        let (directory, disks) = disks()?;
        // libvirt's QEMU is another user and has to get through to what libvirt gives it.
        let passable = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(directory.path(), passable).map_err(io("opening the directory to libvirt"))?;
        let port = directory.path().join("port");
        let definition = directory.path().join("domain.xml");
        std::fs::write(&definition, domain(setup, &disks, &port)).map_err(io("writing the domain"))?;
        connection.forget_domain();
        connection.virsh(&["define", &path_text(&definition)])?;
        // Whatever fails from here on, the domain goes with the value.
        let connection = connection.clone();
        let events = Events::listen(&connection)?;
        let agent = Agent::new(port);
        let guest = Self { connection, live, directory, disks, agent, events, restored: 0, remarks: Vec::new() };
        guest.virsh(&["start", DOMAIN])?;
        Ok(guest)
    }

    fn virsh(&self, arguments: &[&str]) -> Result<String> {
        self.connection.virsh(arguments)
    }

    fn file(&self, name: &str) -> String {
        path_text(&self.directory.path().join(name))
    }

    fn remark(&mut self, text: String) {
        if !self.remarks.contains(&text) {
            self.remarks.push(text);
        }
    }

    /// Merges the overlays into the disks under the running guest and forgets the snapshot.
    fn delete_by_hand(&self, name: &str) -> Result<()> {
        for target in ["vda", "vdb"] {
            self.virsh(&["blockcommit", DOMAIN, target, "--active", "--pivot"])?;
        }
        self.virsh(&["snapshot-delete", DOMAIN, name, "--metadata"])?;
        for part in ["memory", "vda", "vdb"] {
            std::fs::remove_file(self.file(&format!("{name}.{part}"))).map_err(io("removing a libvirt snapshot"))?;
        }
        Ok(())
    }

    /// Starts the domain, which is off, from the memory file, on new overlays of the disks as they were.
    fn restore_by_hand(&mut self, name: &str) -> Result<()> {
        self.restored += 1;
        let memory = self.file(&format!("{name}.memory"));
        // Without its mark for "no further file" the chain of disks is read from the files.
        let mut domain = self.virsh(&["save-image-dumpxml", &memory])?.replace("<backingStore/>", "");
        for (number, disk) in self.disks.iter().enumerate() {
            let (disk, overlay) = (path_text(disk), self.file(&format!("back-{number}-{}.qcow2", self.restored)));
            tool::run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &disk, "-F", "qcow2", &overlay])?;
            domain = domain.replace(&format!("'{disk}'"), &format!("'{overlay}'"));
        }
        let definition = self.file("restored.xml");
        std::fs::write(&definition, domain).map_err(io("writing the domain"))?;
        self.virsh(&["restore", &memory, "--xml", &definition, "--running"]).map(drop)
    }
}

impl Contender for Libvirt {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn scratch(&self) -> &Path {
        self.directory.path()
    }

    fn take(&mut self, name: &str) -> Result<Taken> {
        let memory = self.file(&format!("{name}.memory"));
        let memory_option = format!("file={memory},snapshot=external");
        let disk = |target: &str| format!("{target},snapshot=external,file={}", self.file(&format!("{name}.{target}")));
        let disks = [disk("vda"), disk("vdb")];
        let mut arguments = vec!["snapshot-create-as", DOMAIN, name, "--memspec", &memory_option, "--atomic"];
        arguments.extend(["--diskspec", &disks[0], "--diskspec", &disks[1]]);
        if self.live {
            arguments.push("--live");
        }
        self.events.forget();
        let begin = Instant::now();
        self.virsh(&arguments)?;
        let total = begin.elapsed();
        let pause = self.events.pause()?;
        let file = std::fs::metadata(&memory).map_err(io("looking at libvirt's memory file"))?;
        let method = if self.live { "live" } else { "stopped" };
        Ok(Taken { method: method.to_owned(), pause, total, bytes: file.blocks() * STAT_BLOCK })
    }

    fn bring_back(&mut self, name: &str) -> Result<Returned> {
        let begin = Instant::now();
        self.virsh(&["destroy", DOMAIN])?;
        let off = begin.elapsed();
        if self.restored == 0 {
            let reverted = self.virsh(&["snapshot-revert", DOMAIN, name, "--running"]);
            if let Err(error) = reverted {
                self.remark(format!(
                    "brought back by hand (virsh restore onto new overlays), because {}",
                    describe(&error)
                ));
                // Not to be charged with the refusal.
                let begin = Instant::now();
                self.restore_by_hand(name)?;
                first_answer(&mut self.agent)?;
                return Ok(Returned { off: Some(off), rest: begin.elapsed() });
            }
        } else {
            self.restore_by_hand(name)?;
        }
        first_answer(&mut self.agent)?;
        Ok(Returned { off: Some(off), rest: begin.elapsed() - off })
    }

    fn delete(&mut self, name: &str) -> Result<Duration> {
        let begin = Instant::now();
        let Err(error) = self.virsh(&["snapshot-delete", DOMAIN, name]) else { return Ok(begin.elapsed()) };
        self.remark(format!("deleted by hand (virsh blockcommit), because {}", describe(&error)));
        let begin = Instant::now();
        self.delete_by_hand(name)?;
        Ok(begin.elapsed())
    }

    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        self.connection.forget_domain();
    }
}

/// QEMU's events of one domain, as `virsh` passes them on.
struct Events {
    listener: Child,
    seen: Receiver<(String, Duration)>,
}

impl Events {
    fn listen(connection: &Connection) -> Result<Self> {
        // Without `stdbuf` the lines would wait in a buffer for more of them.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "virsh", "-c", connection.uri, "qemu-monitor-event", "--domain", DOMAIN, "--loop"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut listener = command.spawn().map_err(io("listening to libvirt"))?;
        let output = present(listener.stdout.take(), "the output of virsh")?;
        let (sender, seen) = mpsc::channel();
        std::thread::spawn(move || {
            for event in
                BufReader::new(output).lines().map_while(std::result::Result::ok).filter_map(|line| event(&line))
            {
                // A closed channel means that nobody wants to know any more.
                let _ = sender.send(event);
            }
        });
        Ok(Self { listener, seen })
    }

    fn forget(&self) {
        while self.seen.try_recv().is_ok() {}
    }

    /// The pause since [`Events::forget`].
    fn pause(&self) -> Result<Duration> {
        let mut events = Vec::new();
        let mut patience = EVENT_DELAY;
        while let Ok(event) = self.seen.recv_timeout(patience) {
            events.push(event);
            if paused(events.iter().cloned()).is_some() {
                patience = EVENT_REST;
            }
        }
        paused(events).ok_or_else(|| Error::Other("libvirt told of no STOP and RESUME".to_owned()))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

/// Reads `event STOP at 1700000000.123456 for domain 'name': <null>`.
fn event(line: &str) -> Option<(String, Duration)> {
    let mut words = line.split_whitespace();
    let ("event", name, "at", time) = (words.next()?, words.next()?, words.next()?, words.next()?) else { return None };
    let (seconds, micros) = time.split_once('.')?;
    Some((name.to_owned(), Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?)))
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

fn domain(setup: Setup, disks: &[PathBuf; 2], port: &Path) -> String {
    let (kind, cpu) = match setup.accelerator {
        Accelerator::Kvm => ("kvm", "<cpu mode='host-passthrough'/>"),
        Accelerator::Tcg => ("qemu", "<cpu mode='custom' match='exact'><model fallback='allow'>Nehalem</model></cpu>"),
    };
    let [system, data] = disks.each_ref().map(|disk| path_text(disk));
    let (mib, port) = (setup.mib, path_text(port));
    format!(
        "<domain type='{kind}'><name>{DOMAIN}</name><memory unit='MiB'>{mib}</memory><vcpu>1</vcpu>{cpu}
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os><features><acpi/></features><clock offset='utc'/>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{system}'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{data}'/><target dev='vdb' bus='virtio'/></disk>
<serial type='null'><target port='0'/></serial>
<serial type='unix'><source mode='bind' path='{port}'/><target port='1'/></serial>
<memballoon model='none'/>
</devices></domain>
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read() {
        #[track_caller]
        fn check(line: &str, expected: Option<(&str, u64)>) {
            let expected = expected.map(|(name, micros)| (name.to_owned(), Duration::from_micros(micros)));
            assert_eq!(event(line), expected, "{line}");
        }
        check("event STOP at 1700000000.000012 for domain 'a b': <null>", Some(("STOP", 1_700_000_000_000_012)));
        check("event MIGRATION at 1.5 for domain 'a': {\"status\":\"active\"}", Some(("MIGRATION", 1_000_005)));
        check("events received: 3", None);
        check("event STOP at soon for", None);
        check("", None);
    }
}
