//! What is true of this host and is asked for over the wire: its name, identity, processors, memory, time zone.

use std::path::PathBuf;

use ledger::state::Timestamp;
use uuid::Uuid;

/// Where the host's identity stands, best first: the firmware's, which only root may read, then the system's own.
const IDENTITY_FILES: [&str; 2] = ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"];

/// The host as the namespace shows it.
pub fn host(
    data_root: PathBuf,
    serial: hyperv::view::SerialPath,
    process: hyperv::view::ProcessNumber,
) -> hyperv::Host {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    hyperv::Host {
        // CIM paths and WMI clients know computers by their short name.
        name: name.split('.').next().unwrap_or("localhost").to_owned(),
        uuid: identity(),
        processors: u32::try_from(processors).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes("MemTotal:", &read("/proc/meminfo")),
        data_root,
        serial,
        process,
        free_memory: Box::new(|| memory_bytes("MemAvailable:", &read("/proc/meminfo"))),
    }
}

/// Minutes that local time is ahead of UTC at `moment`.
pub fn utc_offset_minutes(moment: Timestamp) -> i16 {
    let time = i64::try_from(moment.0).ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    let seconds = time.map_or(0, |time| jiff::tz::TimeZone::system().to_offset(time).seconds());
    i16::try_from(seconds / 60).unwrap_or(0)
}

fn identity() -> Uuid {
    let texts = IDENTITY_FILES.iter().map(|path| read(path));
    texts.filter_map(|text| Uuid::try_parse(text.trim()).ok()).find(|id| !id.is_nil()).unwrap_or_default()
}

fn memory_bytes(field: &str, meminfo: &str) -> u64 {
    let amount = meminfo.lines().find_map(|line| line.strip_prefix(field));
    let kib = amount.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// A short system file, empty if it cannot be read.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(memory_bytes("MemTotal:", "MemFree: 1 kB\nMemTotal:        8131420 kB\n"), 8_131_420 * 1024);
        assert_eq!(memory_bytes("MemTotal:", "MemTotal: much\n"), 0);
    }

    #[test]
    fn the_host_is_described() {
        let host = host("/data".into(), Box::new(|_, _| None), Box::new(|_| None));
        assert!(!host.name.is_empty() && !host.name.contains('.') && host.processors > 0 && host.memory_bytes > 0);
    }
}
