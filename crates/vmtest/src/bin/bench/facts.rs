//! The machine that is measured on, because no figure means anything without it.

use std::path::PathBuf;

use crate::libvirt::Connection;
use crate::tool;

/// How the guests' processors are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware.
    Kvm,
    /// Translation.
    Tcg,
}

impl Accelerator {
    /// For `-accel`.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// For `-cpu`; with translation a model that needs nothing QEMU cannot translate.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "Nehalem-v1",
        }
    }
}

/// What the service will choose too: the user's wish, else hardware if the processor shows it and the device opens.
pub fn accelerator() -> Accelerator {
    match std::env::var("SNAPVISOR_ACCELERATOR").as_deref() {
        Ok("kvm") => return Accelerator::Kvm,
        Ok("tcg") => return Accelerator::Tcg,
        _ => {}
    }
    let capable = cpu_lines("flags").any(|flags| flags.split(' ').any(|flag| flag == "vmx" || flag == "svm"));
    let opens = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if capable && opens() { Accelerator::Kvm } else { Accelerator::Tcg }
}

/// A few lines for the head of every table.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = cpu_lines("model name").next().unwrap_or_else(|| "unknown processor".to_owned());
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "processor    {model}, {cores} cores, {}\nkernel       {kernel}, load average {load} at the start\n\
         file system  {}\n",
        memory(),
        file_system()
    )
}

/// The same, and what concerns guests.
pub fn gather(accelerator: Accelerator, libvirt: &Result<Connection, String>) -> String {
    let qemu = tool::run("qemu-system-x86_64", &["--version"]).unwrap_or_default();
    let qemu = qemu.lines().next().unwrap_or_default().trim_start_matches("QEMU emulator version ");
    let accelerator = match accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Tcg => "TCG (translation, no hardware)",
    };
    let libvirt = match libvirt {
        Ok(connection) => format!("{} at {}", connection.version, connection.uri),
        Err(reason) => format!("not measured: {reason}"),
    };
    format!("{}QEMU         {qemu}, {accelerator}, one processor per guest\nlibvirt      {libvirt}\n", machine())
}

fn memory() -> String {
    let text = read("/proc/meminfo");
    let kib: Option<u64> = text.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    kib.map_or_else(|| "unknown memory".to_owned(), |kib| format!("{} GiB memory", (kib + (1 << 19)) >> 20))
}

fn file_system() -> String {
    let base = std::env::var_os("SNAPVISOR_SCRATCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let fields = ["--output=fstype,source,size,avail", "-h"];
    let table = tool::run("df", &[fields[0], fields[1], &base.display().to_string()]).unwrap_or_default();
    let words: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    match words.as_slice() {
        [kind, source, size, free] => format!("{kind} on {source}, {size}, {free} free"),
        _ => "unknown".to_owned(),
    }
}

fn cpu_lines(name: &str) -> impl Iterator<Item = String> {
    let lines: Vec<String> = read("/proc/cpuinfo").lines().filter_map(|line| value_of(line, name)).collect();
    lines.into_iter()
}

fn value_of(line: &str, name: &str) -> Option<String> {
    let (found, value) = line.split_once(':')?;
    (found.trim() == name).then(|| value.trim().to_owned())
}

/// A small file of the kernel; empty if it has none.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
