//! What the daemon keeps of root's rights: what it needs to give files away and to start and end processes as somebody else.
//!
//! | capability | for what |
//! | --- | --- |
//! | `CAP_CHOWN` | giving layers, memory images and users' images to the accounts of machines, and back |
//! | `CAP_DAC_OVERRIDE` | images wherever users keep them, and files that belong to machines by now |
//! | `CAP_FOWNER` | the modes of those files, and second names for them |
//! | `CAP_SETUID`, `CAP_SETGID` | starting emulators and image tools under those accounts |
//! | `CAP_KILL` | ending them |
//! | `CAP_NET_BIND_SERVICE` | only if the configuration has a port below 1024 |
//! | `CAP_SYS_PTRACE` | only if `/proc` hides the processes of other users (`hidepid`): a machine is found there |
//!
//! The rest goes before the first request is read and before there are other threads, and from the bounding set too, so nothing
//! that we start can have it. Whoever took over the daemon could still become any user, but not load a module, see the network's
//! packets, mount anything or change the clock. What processes of other accounts start with is nothing at all: the change of the
//! user id takes it away.

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Capabilities that are needed whatever is configured.
const ALWAYS: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Ports below it are root's, as it is wherever nobody changed `net.ipv4.ip_unprivileged_port_start`.
const FIRST_FREE_PORT: u16 = 1024;

/// Capabilities that a set can hold.
const CAPABILITIES_MAX: u32 = u64::BITS;

/// Gives up what is not needed, for this thread and those that it starts. `ports` are those to be listened on.
///
/// Without root there is nothing but what somebody gave to this very process, which it keeps for itself.
///
/// # Errors
/// When the kernel refuses.
pub fn give_up(ports: impl IntoIterator<Item = u16>) -> rustix::io::Result<()> {
    let present = rustix::thread::capabilities(None)?;
    let mut kept = present.permitted;
    if rustix::process::geteuid().is_root() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        kept &= needed(ports, &mounts);
        limit_children(kept)?;
    }
    rustix::thread::clear_ambient_capability_set()?;
    let sets =
        CapabilitySets { effective: kept & present.effective, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// Takes everything but `kept` from the bounding set.
fn limit_children(kept: CapabilitySet) -> rustix::io::Result<()> {
    let all = (0..CAPABILITIES_MAX).map(|number| CapabilitySet::from_bits_retain(1 << number));
    for capability in all.filter(|capability| !kept.contains(*capability)) {
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => match rustix::thread::remove_capability_from_bounding_set(capability) {
                // We have been given few ourselves. No program that we start gains any by being started.
                Err(rustix::io::Errno::PERM) => return Ok(()),
                removed => removed?,
            },
            Ok(false) => {}
            // The kernel knows no more of them.
            Err(rustix::io::Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `mounts` is the text of `/proc/self/mountinfo`.
fn needed(ports: impl IntoIterator<Item = u16>, mounts: &str) -> CapabilitySet {
    let mut needed = ALWAYS;
    // Port 0 takes a free one, which is never a low one.
    if ports.into_iter().any(|port| (1..FIRST_FREE_PORT).contains(&port)) {
        needed |= CapabilitySet::NET_BIND_SERVICE;
    }
    if mounts.lines().any(hides_processes) {
        needed |= CapabilitySet::SYS_PTRACE;
    }
    needed
}

/// Whether a line of mountinfo is `/proc` with the option `hidepid`, a number or a word since Linux 5.8 (proc(5)).
fn hides_processes(line: &str) -> bool {
    let Some((place, kind)) = line.split_once(" - ") else { return false };
    let is_proc = place.split(' ').nth(4) == Some("/proc") && kind.starts_with("proc ");
    let options = kind.rsplit(' ').next().unwrap_or_default().split(',');
    let hidden = options.filter_map(|option| option.strip_prefix("hidepid="));
    is_proc && hidden.into_iter().any(|value| !matches!(value, "0" | "off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_depends_on_ports_and_on_proc() {
        let check = |ports: &[u16], options: &str, expected: CapabilitySet| {
            let mounts = format!(
                "25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n22 25 0:21 / /proc rw,nosuid shared:5 - proc proc {options}\n"
            );
            assert_eq!(needed(ports.iter().copied(), &mounts), expected, "{ports:?} {options}");
        };
        let (bind, see) = (CapabilitySet::NET_BIND_SERVICE, CapabilitySet::SYS_PTRACE);
        check(&[], "rw", ALWAYS);
        check(&[0, 5985, 5986], "rw", ALWAYS);
        check(&[5985, 443], "rw", ALWAYS | bind);
        check(&[], "rw,hidepid=0", ALWAYS);
        check(&[], "rw,hidepid=off", ALWAYS);
        check(&[80], "rw,gid=4,hidepid=invisible", ALWAYS | bind | see);
        check(&[], "rw,hidepid=2", ALWAYS | see);
        assert_eq!(needed([], "22 25 0:21 / /mnt/proc rw - proc proc rw,hidepid=2\nnonsense"), ALWAYS);
    }
}
