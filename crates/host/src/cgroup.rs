//! Control groups: what an emulator that went wild can take from the host.
//!
//! ```text
//!   v1   <pids>/<ours>/snapvisor-<VM>, <memory>/<ours>/snapvisor-<VM>     beside each other, one for each controller
//!   v2   <unit>/daemon           us                                     a group with processes cannot limit its children,
//!        <unit>/snapvisor-<VM>   the emulator, or a merge of its layers   so we must be in one of our own already
//! ```
//! Two limits contain an emulator that its guest has taken over, and must never meet one that works:
//!
//! - *Processes and threads*: one for each processor and [`THREADS`] more. An emulator has a main loop whose pool is at most 64 threads,
//!   and a handful for saving memory; its sandbox forbids other processes already.
//! - *Memory*: the guest's, a quarter of it, [`OVERHEAD_BYTES`], and [`LAYER_BYTES`] for each layer. An emulator that meets this limit is
//!   killed, and what its guest had in memory is lost, so the limit is well above what can be needed: translated code takes up to 1 GiB
//!   without KVM, page tables and dirty bitmaps some thousandths of the guest, and each layer's table cache up to 32 MiB. Cached
//!   file content counts, too, and is dropped rather than anybody killed. What is left of the host without the limit is nothing.
//!
//! No host is bound to have them: where a group cannot be made, the reason is logged and the machine runs without. An emulator is put
//! into its group right after it was started, before it has been told anything, and stays there when the daemon is stopped. Its
//! group goes when it has ended, by whoever sees it end; groups that nobody saw are swept out when the next daemon starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ledger::id::VmId;

/// Threads of an emulator besides those of its processors.
const THREADS: u64 = 256;

/// Memory of an emulator that does not depend on its guest.
const OVERHEAD_BYTES: u64 = 2 << 30;

/// Memory of an emulator for each layer it has open.
const LAYER_BYTES: u64 = 64 << 20;

/// What the names of our groups begin with.
const PREFIX: &str = "snapvisor-";

/// The name of the daemon's own group where it can make others beside it; see `contrib/snapvisor.service`.
const DAEMON: &str = "daemon";

/// How often the removal of a group is tried, and how long after each other: the kernel may still count a process that has ended.
const REMOVALS: u32 = 5;
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// What a group may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads.
    pub tasks: u64,
    /// Bytes of memory.
    pub memory: u64,
}

/// Where groups can be made; nowhere, if it is empty.
#[derive(Clone, Debug, Default)]
pub struct Groups(Arc<Vec<Hierarchy>>);

/// A directory for groups, and what can be limited there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    directory: PathBuf,
    /// Controllers that must be turned on for groups in this directory; none in version 1.
    turn_on: bool,
    tasks: Option<&'static str>,
    memory: Option<&'static str>,
}

/// A group for one process.
#[derive(Clone, Debug)]
pub struct Group {
    place: Groups,
    name: String,
    limits: Limits,
}

impl Limits {
    /// For a process that has `layers` open and runs a guest of so many processors and so much memory, if any.
    pub fn of(processors: u32, memory_mib: u64, layers: usize) -> Self {
        let guest = memory_mib.saturating_mul(1 << 20);
        let layers = u64::try_from(layers).unwrap_or(u64::MAX).saturating_mul(LAYER_BYTES);
        let memory = guest.saturating_add(guest / 4).saturating_add(layers).saturating_add(OVERHEAD_BYTES);
        Self { tasks: THREADS + u64::from(processors), memory }
    }
}

impl Groups {
    /// Looks for a place, and makes it ready.
    ///
    /// # Errors
    /// The reason why there is none, for the log.
    pub fn find() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("could not read {path}: {error}"));
        let hierarchies = hierarchies(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?;
        for hierarchy in &hierarchies {
            hierarchy
                .make_ready()
                .map_err(|error| format!("no groups can be made in {}: {error}", hierarchy.directory.display()))?;
        }
        let groups = Self(Arc::new(hierarchies));
        groups.sweep();
        Ok(groups)
    }

    /// The group of a machine, made when a process is put into it; `None` if there are no groups.
    pub fn of(&self, vm: VmId, limits: Limits) -> Option<Group> {
        (!self.0.is_empty()).then(|| Group { place: self.clone(), name: format!("{PREFIX}{vm}"), limits })
    }

    /// Removes groups that have no process any more.
    fn sweep(&self) {
        for entry in self.0.iter().filter_map(|hierarchy| fs::read_dir(&hierarchy.directory).ok()).flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                // Refused if there is a process in it.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl Group {
    /// Puts a process into it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn take_in(&self, pid: i32) -> io::Result<()> {
        match self.try_take_in(pid) {
            // Another process that was in it has ended, and whoever saw that removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.try_take_in(pid),
            ended => ended,
        }
    }

    fn try_take_in(&self, pid: i32) -> io::Result<()> {
        for hierarchy in self.place.0.iter() {
            let directory = hierarchy.directory.join(&self.name);
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            for (file, limit) in [(hierarchy.tasks, self.limits.tasks), (hierarchy.memory, self.limits.memory)] {
                file.map_or(Ok(()), |file| fs::write(directory.join(file), limit.to_string()))?;
            }
            fs::write(directory.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Removes it, if its process has ended.
    pub async fn remove(&self) {
        remove(&self.place.0.iter().map(|hierarchy| hierarchy.directory.join(&self.name)).collect::<Vec<_>>()).await;
    }
}

/// The directories of the group that a process of ours was put into, by whichever daemon.
pub fn directories_of(pid: i32) -> Vec<PathBuf> {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let mounts = read("/proc/self/mountinfo".to_owned());
    let groups = read(format!("/proc/{pid}/cgroup"));
    let found = groups.lines().filter_map(|line| directory_of(&mounts, line).ok());
    found.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))).collect()
}

/// Removes groups whose process has ended.
pub async fn remove(directories: &[PathBuf]) {
    for directory in directories {
        for _ in 0..REMOVALS {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                _ => break,
            }
            tokio::time::sleep(REMOVAL_PAUSE).await;
        }
    }
}

impl Hierarchy {
    fn make_ready(&self) -> io::Result<()> {
        if self.turn_on {
            fs::write(self.directory.join("cgroup.subtree_control"), "+pids +memory")?;
        }
        // The only way to know.
        let probe = self.directory.join(format!("{PREFIX}probe-{}", std::process::id()));
        fs::create_dir(&probe)?;
        let found =
            [self.tasks, self.memory].into_iter().flatten().try_for_each(|file| match probe.join(file).exists() {
                true => Ok(()),
                false => Err(io::Error::other(format!("it has no {file}"))),
            });
        fs::remove_dir(&probe)?;
        found
    }
}

/// Where groups can be made, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn hierarchies(mounts: &str, groups: &str) -> Result<Vec<Hierarchy>, String> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        let has = |name: &str| controllers.split(',').any(|controller| controller == name);
        let (tasks, memory) = (has("pids").then_some("pids.max"), has("memory").then_some("memory.limit_in_bytes"));
        if tasks.is_some() || memory.is_some() {
            found.push(Hierarchy { directory: directory_of(mounts, line)?, turn_on: false, tasks, memory });
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let line = groups.lines().find(|line| line.starts_with("0::")).ok_or("this host has no control groups")?;
    let own = directory_of(mounts, line)?;
    match own.parent() {
        Some(unit) if own.file_name().is_some_and(|name| name == DAEMON) => Ok(vec![Hierarchy {
            directory: unit.to_owned(),
            turn_on: true,
            tasks: Some("pids.max"),
            memory: Some("memory.max"),
        }]),
        _ => Err(format!(
            "the daemon's control group {} is not one that was delegated to it; start it as the unit that comes with it, \
             which takes systemd 254",
            own.display()
        )),
    }
}

/// The directory of the group in a line `number:controllers:path` of `/proc/<pid>/cgroup`.
fn directory_of(mounts: &str, line: &str) -> Result<PathBuf, String> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
        return Err(format!("cannot read {line:?} in /proc/self/cgroup"));
    };
    let found = mounts.lines().find_map(|mount| {
        let (place, kind) = mount.split_once(" - ")?;
        let (mut place, mut kind) = (place.split(' ').skip(3), kind.split(' '));
        let (root, point) = (place.next()?, place.next()?);
        let (kind, options) = (kind.next()?, kind.nth(1)?);
        let is_it = match controllers {
            "" => kind == "cgroup2",
            _ => kind == "cgroup" && controllers.split(',').all(|name| options.split(',').any(|option| option == name)),
        };
        // In a container the mount may begin further down than the path does.
        let below = Path::new(path).strip_prefix(root).ok().filter(|_| is_it)?;
        Some(Path::new(point).join(below))
    });
    found.filter(|_| !path.contains("..")).ok_or_else(|| format!("the control group {path} is not mounted here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_well_above_what_is_needed() {
        const GIB: u64 = 1 << 30;
        let check = |processors, memory_mib, layers, tasks, memory| {
            assert_eq!(Limits::of(processors, memory_mib, layers), Limits { tasks, memory });
        };
        check(1, 0, 0, 257, 2 * GIB);
        check(2, 4096, 2, 258, 7 * GIB + (128 << 20));
        check(64, 1 << 20, 100, 320, 1282 * GIB + 100 * (64 << 20));
        check(1, u64::MAX, usize::MAX, 257, u64::MAX);
    }

    const V1: &str = "30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n\
        32 30 0:28 /box /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const V2: &str = "31 25 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn groups_are_made_where_the_kernel_has_them() {
        let check = |mounts: &str, groups: &str, expected: &[&str]| {
            let found = match hierarchies(mounts, groups) {
                Ok(found) => found
                    .iter()
                    .map(|found| format!("{} {:?} {:?}", found.directory.display(), found.tasks, found.memory))
                    .collect(),
                Err(reason) => vec![reason],
            };
            assert_eq!(found, expected, "{groups}");
        };
        check(
            V1,
            "3:cpuset:/\n2:pids:/system.slice/x\n1:memory:/box/in\n0::/",
            &[
                "/sys/fs/cgroup/pids/system.slice/x Some(\"pids.max\") None",
                "/sys/fs/cgroup/memory/in None Some(\"memory.limit_in_bytes\")",
            ],
        );
        check(V1, "1:memory:/other", &["the control group /other is not mounted here"]);
        check(V1, "2:pids:/../up", &["the control group /../up is not mounted here"]);
        check(
            V2,
            "0::/system.slice/snapvisor.service/daemon",
            &["/sys/fs/cgroup/system.slice/snapvisor.service Some(\"pids.max\") Some(\"memory.max\")"],
        );
        check(
            V2,
            "0::/user.slice/session-1.scope",
            &[
                "the daemon's control group /sys/fs/cgroup/user.slice/session-1.scope is not one that was delegated to it; \
               start it as the unit that comes with it, which takes systemd 254",
            ],
        );
        check("", "", &["this host has no control groups"]);
        check(V2, "nonsense\n0::", &["the control group  is not mounted here"]);
    }

    #[test]
    fn a_group_has_its_limits_before_its_process() {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = |name: &str, tasks, memory| {
            fs::create_dir(root.path().join(name)).unwrap();
            Hierarchy { directory: root.path().join(name), turn_on: false, tasks, memory }
        };
        let groups = Groups(Arc::new(vec![
            hierarchy("pids", Some("pids.max"), None),
            hierarchy("memory", None, Some("memory.limit_in_bytes")),
        ]));
        let vm = VmId(uuid::Uuid::from_u128(7));
        let group = groups.of(vm, Limits { tasks: 5, memory: 6 }).unwrap();
        group.take_in(4711).unwrap();
        group.take_in(4712).unwrap();
        let read =
            |name: &str| fs::read_to_string(root.path().join(name.replace('*', &format!("{PREFIX}{vm}")))).unwrap();
        assert_eq!((read("pids/*/pids.max"), read("pids/*/cgroup.procs")), ("5".to_owned(), "4712".to_owned()));
        assert_eq!(
            (read("memory/*/memory.limit_in_bytes"), read("memory/*/cgroup.procs")),
            ("6".to_owned(), "4712".to_owned())
        );
        assert!(Groups::default().of(vm, Limits { tasks: 5, memory: 6 }).is_none());
    }
}
