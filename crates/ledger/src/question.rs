//! What may be asked of the world without anything to remember: the words only.
//!
//! A question changes nothing that must survive a power cut, so it is no request: it passes by the driver and the store,
//! straight from the front end to the host, which answers within a time limit or not at all. While a machine's guest may be
//! stopped for a capture or a merge, questions about it wait.

use std::path::PathBuf;

use crate::id::VmId;

/// Something to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// What does the screen show? Answered by [`Answer::Picture`].
    Screen {
        /// Whose.
        screen: Screen,
        /// How large the answer is to be; the picture is stretched to it.
        size: Size,
    },
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Two bytes for each pixel, little endian, with five bits of red at the top, six of green and five of blue; rows from
    /// top to bottom.
    Picture(Vec<u8>),
}

/// A screen to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// That of a machine with a process, as it is now.
    Live(VmId),
    /// The one that was kept with saved memory in this directory.
    Kept(PathBuf),
}

/// Size of a picture in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Of a row.
    pub width: u16,
    /// Number of rows.
    pub height: u16,
}
