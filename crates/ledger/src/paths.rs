//! Where the service keeps its files. Pure names; the host makes the directories.
//!
//! ```text
//! <root>/vms/<machine>/disks/<layer>.qcow2     overlays, UEFI variables
//! <root>/vms/<machine>/memory/<memory>/        one saved memory image
//! ```

use std::path::PathBuf;

use crate::id::{LayerId, MemoryId, VmId};

/// The data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// All names lie below `root`, an absolute path.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where all names lie.
    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    /// Everything made for one machine.
    pub fn vm(&self, vm: VmId) -> PathBuf {
        self.root.join("vms").join(vm.to_string())
    }

    /// The file of a layer that the service creates.
    pub fn layer(&self, vm: VmId, layer: LayerId) -> PathBuf {
        self.vm(vm).join("disks").join(format!("{layer}.qcow2"))
    }

    /// The directory of a memory image.
    pub fn memory(&self, vm: VmId, memory: MemoryId) -> PathBuf {
        self.vm(vm).join("memory").join(memory.to_string())
    }
}
