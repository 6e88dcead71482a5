//! What the guest's kernel and firmware know: clocks, the generation id, the power button, a shell.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Instant, SystemTime};

use crate::Answer;

/// Most output of `sh` that is passed on, in bytes, so that an answer stays one readable line.
const MAX_OUTPUT: usize = 32 * 1024;
/// Ends the guest as a real one does, minus the waiting: data is on the disks before the power goes.
const LEAVE: &str = "sync; umount /disk0 /disk1 2>/dev/null; sync; exec busybox";

/// Milliseconds since boot, as the kernel counts them.
pub fn uptime_ms() -> Answer {
    let text = fs::read_to_string("/proc/uptime").map_err(|error| format!("cannot read /proc/uptime: {error}"))?;
    // Seconds with two decimals: without the dot it is a number of hundredths.
    let seconds = text.split(' ').next().unwrap_or_default().replace('.', "");
    let hundredths: u64 = seconds.parse().map_err(|_| format!("/proc/uptime reads {text:?}"))?;
    Ok((hundredths * 10).to_string())
}

/// The wall clock as unix milliseconds, and milliseconds since the agent started on the monotonic clock.
pub fn clock(started: Instant) -> Answer {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
    Ok(format!("{} {}", unix.as_millis(), started.elapsed().as_millis()))
}

/// The VM generation id, from the memory that firmware set aside for it and told QEMU about; this is what a guest's
/// own driver would read (QEMU docs/specs/vmgenid.rst).
pub fn generation_id() -> Answer {
    const ADDRESS: &str = "/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_addr/raw";
    let missing = |error| format!("this machine shows no generation id: {error}");
    let mut bytes = [0; 8];
    File::open(ADDRESS).and_then(|mut file| file.read_exact(&mut bytes)).map_err(missing)?;
    // The address is that of the id itself, behind the 40 bytes that QEMU leaves free at the start of the page.
    let address = u64::from_le_bytes(bytes);
    let mut id = [0; 16];
    for (part, offset) in id.chunks_exact_mut(8).zip([0, 8]) {
        part.copy_from_slice(&physical_word(address + offset)?.to_le_bytes());
    }
    Ok(format_guid(&id))
}

/// Eight bytes of physical memory. The kernel lets one read what lies among its own memory, as UEFI places the page,
/// and only lets one map what lies above, as SeaBIOS does; busybox knows how to map.
fn physical_word(address: u64) -> Result<u64, String> {
    let mut word = [0; 8];
    if File::open("/dev/mem").and_then(|memory| memory.read_exact_at(&mut word, address)).is_ok() {
        return Ok(u64::from_le_bytes(word));
    }
    let output = Command::new("/bin/busybox")
        .args(["devmem", &format!("{address:#x}"), "64"])
        .output()
        .map_err(|error| format!("cannot run devmem: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digits = text.trim().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).map_err(|_| format!("devmem says {text:?} about {address:#x}"))
}

/// Runs a command line in the guest's shell and answers its exit code and output.
pub fn shell(line: &str) -> Answer {
    let output = Command::new("/bin/busybox")
        .args(["sh", "-c", line])
        .output()
        .map_err(|error| format!("cannot run the shell: {error}"))?;
    let mut text = output.stdout;
    text.extend(output.stderr);
    text.truncate(MAX_OUTPUT);
    let code = output.status.code().unwrap_or(-1);
    Ok(format!("{code} {}", String::from_utf8_lossy(&text)).trim_end().to_owned())
}

/// Lets the guest end by `poweroff` or `reboot` once the answer is out.
pub fn leave(how: &'static str) -> Answer {
    let script = format!("sleep 0.1; {LEAVE} {how} -f");
    Command::new("/bin/busybox")
        .args(["sh", "-c", &script])
        .spawn()
        .map_err(|error| format!("cannot start {how}: {error}"))?;
    Ok(String::new())
}

/// Powers the guest off when somebody presses the ACPI power button.
pub fn watch_power_button() {
    std::thread::spawn(|| {
        let Some(mut events) = power_button() else {
            // A machine without the button (or a test on a developer's machine) has nothing to watch.
            return;
        };
        let mut event = [0; INPUT_EVENT];
        while events.read_exact(&mut event).is_ok() {
            if is_power_key(&event) {
                let _ = leave("poweroff");
            }
        }
    });
}

/// Bytes of `struct input_event` on a 64-bit kernel: two longs of time, u16 type, u16 code, i32 value.
const INPUT_EVENT: usize = 24;

fn power_button() -> Option<File> {
    for entry in fs::read_dir("/sys/class/input").ok()?.flatten() {
        let name = entry.file_name();
        let is_event = name.to_string_lossy().starts_with("event");
        let label = fs::read_to_string(entry.path().join("device/name")).unwrap_or_default();
        if is_event && label.trim() == "Power Button" {
            return File::open(std::path::Path::new("/dev/input").join(name)).ok();
        }
    }
    None
}

/// A key event (type 1) of KEY_POWER (116) going down (1), as linux/input-event-codes.h numbers them.
fn is_power_key(event: &[u8; INPUT_EVENT]) -> bool {
    event[16..] == [1, 0, 116, 0, 1, 0, 0, 0]
}

/// The usual text of a GUID whose first three fields are stored little-endian.
fn format_guid(bytes: &[u8; 16]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (position, index) in ORDER.into_iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes[index]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_written_with_its_first_fields_turned() {
        let bytes = [0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(format_guid(&bytes), "12345678-9abc-def0-0102-030405060708");
    }

    #[test]
    fn only_the_power_key_going_down_counts() {
        let mut event = [0; INPUT_EVENT];
        assert!(!is_power_key(&event));
        event[16] = 1;
        event[18] = 116;
        event[20] = 1;
        assert!(is_power_key(&event));
        event[20] = 0;
        assert!(!is_power_key(&event));
    }
}
