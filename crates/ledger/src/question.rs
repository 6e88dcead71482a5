//! What may be asked of the world without anything to remember: the words only.
//!
//! A question changes nothing that must survive a power cut, so it is no request: it passes by the driver and the store,
//! straight from the front end to the host, which answers within a time limit or not at all. While a machine's guest may be
//! stopped for a capture or a merge, questions about it wait.

use std::path::PathBuf;

use crate::id::VmId;
use crate::image_file::FileFormat;
use crate::state::Timestamp;

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
    /// Type these keys. Answered by [`Answer::Done`] when the last one has been sent.
    Type {
        /// Into which machine.
        vm: VmId,
        /// One after the other, with a moment between them.
        strokes: Vec<Stroke>,
    },
    /// What is this image file? Answered by [`Answer::Image`].
    Image(PathBuf),
    /// Is this key down, as far as we pressed it? Answered by [`Answer::Pressed`].
    IsPressed {
        /// Of which machine.
        vm: VmId,
        /// Which key.
        key: Key,
    },
}

/// A key by its place on a PC keyboard: its code of scan code set 1, with bit 7 set if the code has the prefix e0h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u8);

/// Something that happens to keys at once, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// They go down.
    Press(Vec<Key>),
    /// They come up.
    Release(Vec<Key>),
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Two bytes for each pixel, little endian, with five bits of red at the top, six of green and five of blue; rows from
    /// top to bottom.
    Picture(Vec<u8>),
    /// It is done.
    Done,
    /// Whether the key is down.
    Pressed(bool),
    /// What the file is.
    Image(ImageFacts),
}

/// An image file as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// Real path, symbolic links resolved.
    pub path: PathBuf,
    /// Format.
    pub format: FileFormat,
    /// Size of the disk in bytes.
    pub size: u64,
    /// The file takes up all of its space at once, as far as its format says.
    pub fixed: bool,
    /// The image below.
    pub parent: Option<PathBuf>,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Another process has it open as an image.
    pub in_use: bool,
    /// When it was written last.
    pub modified: Timestamp,
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
