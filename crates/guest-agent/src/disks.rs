//! Files on the guest's two file systems, on the medium before the answer is given.
//!
//! A read may come from the page cache, and after a restore the cache is part of the restored
//! memory; `chain` is the check that goes past it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Answer;

/// Where init mounts the file system of the system disk and that of the data disk.
pub const MOUNTS: [&str; 2] = ["/disk0", "/disk1"];

/// Writes a file whole and waits until it and its directory entry are durable.
pub fn write(disk: &str, name: &str, text: &str) -> Answer {
    let path = file(disk, name)?;
    put(&path, text.as_bytes()).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(String::new())
}

/// Reads a file whole.
pub fn read(disk: &str, name: &str) -> Answer {
    let path = file(disk, name)?;
    fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Overwrites and then deletes every file at the top of both disks; answers how many.
pub fn wreck() -> Result<usize, String> {
    let mut destroyed = 0;
    for mount in MOUNTS {
        require_mounted(mount)?;
        destroyed += wreck_directory(Path::new(mount)).map_err(|error| format!("cannot wreck {mount}: {error}"))?;
    }
    Ok(destroyed)
}

/// Refuses a mount point without its disk: what is written there would be in memory and prove nothing.
pub fn require_mounted(mount: &str) -> Result<(), String> {
    let device = |path: &str| fs::metadata(path).map(|found| found.dev()).ok();
    if device(mount) == device("/") { Err(format!("no disk is mounted on {mount}")) } else { Ok(()) }
}

fn wreck_directory(directory: &Path) -> std::io::Result<usize> {
    let mut destroyed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            put(&entry.path(), b"wrecked wrecked wrecked wrecked\n")?;
            fs::remove_file(entry.path())?;
            destroyed += 1;
        }
    }
    // Leaves something behind that only a wrecked disk has.
    put(&directory.join("wrecked"), b"wrecked\n")?;
    Ok(destroyed)
}

fn put(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn file(disk: &str, name: &str) -> Result<PathBuf, String> {
    let mount = match disk {
        "0" => MOUNTS[0],
        "1" => MOUNTS[1],
        other => return Err(format!("there are disks 0 and 1, not {other:?}")),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("a file name is letters, digits, dots and dashes, not {name:?}"));
    }
    require_mounted(mount)?;
    Ok(Path::new(mount).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrecked_directory_holds_only_the_sign_of_it() {
        let directory = std::env::temp_dir().join(format!("guest-agent-wreck-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        put(&directory.join("a"), b"1").unwrap();
        put(&directory.join("b"), b"2").unwrap();
        assert_eq!(wreck_directory(&directory).unwrap(), 2);
        let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["wrecked"]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
