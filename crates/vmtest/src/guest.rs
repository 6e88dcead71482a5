//! The guest's disks as `cargo xtask guest` builds them.

use std::path::PathBuf;

/// The guest's disks are not there.
#[derive(Debug, thiserror::Error)]
#[error("the test guest is not built ({} is missing); run `cargo xtask guest`", .missing.display())]
pub struct NotBuilt {
    /// The file that was looked for.
    pub missing: PathBuf,
}

/// Where the guest's disks are. Never write to them: make overlays or copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Boots by itself with SeaBIOS and with UEFI; its file system is `/disk0` in the guest. qcow2, 512 MiB.
    pub system: PathBuf,
    /// The second disk; its file system is `/disk1` in the guest. qcow2, 512 MiB.
    pub data: PathBuf,
}

/// Finds the disks: in `SNAPVISOR_GUEST_DIR` if that is set, else below cargo's target directory.
///
/// # Errors
/// If they were not built yet; the error names the command that does it.
pub fn images() -> Result<Images, NotBuilt> {
    let directory = directory();
    let file = |name: &str| {
        let path = directory.join(name);
        if path.exists() { Ok(path) } else { Err(NotBuilt { missing: path }) }
    };
    Ok(Images { system: file("system.qcow2")?, data: file("data.qcow2")? })
}

fn directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("SNAPVISOR_GUEST_DIR") {
        return directory.into();
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target)).join("guest")
}
