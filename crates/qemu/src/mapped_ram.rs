//! QEMU's mapped-ram migration file: where the pages are, and how to make the file load at once.

use serde::{Deserialize, Serialize};

/// Where guest memory lies in a saved file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Offset of the pages of `pc.ram` in the memory file, a multiple of 1 MiB.
    pub offset: u64,
    /// Bytes of `pc.ram`.
    pub size: u64,
}
