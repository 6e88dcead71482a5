//! Headers of layers, looked at again before anything opens them.
//!
//! QEMU is told the format of every layer and what it lies on, so it never looks for a backing file in a header. What it does follow is
//! a header that says where the guest's data are instead: an emulator that its guest has taken over can write one into its
//! own disk, and have the next process, perhaps one with more rights, open what it names. Tools that people use follow backing files,
//! too. So a header must say what is on record:
//!
//! - an image of the format on record, plain: no data file, no encryption, no features that we do not know;
//! - on a layer below it in its own chain, or on nothing if there is at most one. Not always on the next one: when a merge was
//!   interrupted, headers may already name the layer that remains;
//! - a disk of the size on record, or a new overlay would cut it off.
//!
//! A raw layer says nothing, whatever its guest writes into its first sectors.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ledger::effect::{Chain, Image};
use ledger::failure::{Failure, Kind};
use ledger::snapshot::Format;
use ledger::vm::Slot;
use qemu::qcow2::{HEADER_BYTES, Header};

use crate::account;
use crate::fault;
use crate::spec;

/// Looks at all layers of a slot, for a machine that is to be started.
///
/// # Errors
/// When a file is not there, or not what is on record.
pub fn verify_chain(chain: &Chain) -> Result<(), Failure> {
    for (image, below) in layered(&chain.images) {
        let size = match image.format {
            Format::Qcow2 => verify(image, below)?.size,
            Format::Raw => length(&image.path)?,
        };
        // Firmware comes with variables of several sizes, and the record has one for all.
        if size != image.size && chain.slot != Slot::Nvram {
            let text =
                format!("{} holds a disk of {size} bytes, and {} are on record", image.path.display(), image.size);
            return Err(Failure::new(Kind::Failed, text).hint(
                "if you resized it, put the old size back, or take the disk out of the machine and put it in again",
            ));
        }
    }
    Ok(())
}

/// Looks at layers that lie on each other, top first.
///
/// # Errors
/// The same, but of sizes.
pub fn verify_layers(images: &[Image]) -> Result<(), Failure> {
    let mut telling = layered(images).filter(|(image, _)| image.format == Format::Qcow2);
    telling.try_for_each(|(image, below)| verify(image, below).map(drop))
}

/// The beginning of an image, which holds every header that we accept.
///
/// # Errors
/// When it cannot be read.
pub fn head_of(image: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    image.take(HEADER_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Each image with those below it.
fn layered(images: &[Image]) -> impl Iterator<Item = (&Image, &[Image])> {
    images.iter().enumerate().map(|(depth, image)| (image, images.get(depth + 1..).unwrap_or_default()))
}

/// Looks at an image alone that lies on the first of `below`.
///
/// # Errors
/// As for layers.
pub fn verify(image: &Image, below: &[Image]) -> Result<Header, Failure> {
    let header = read(&image.path)?;
    let found = match &header.backing_file {
        None if below.len() <= 1 => return Ok(header),
        None => "nothing".to_owned(),
        Some(name) => {
            let target = image.path.parent().unwrap_or(Path::new("/")).join(name);
            match below.iter().find(|layer| same_file(&layer.path, &target)) {
                Some(layer) if agrees(header.backing_format.as_deref(), layer.format) => return Ok(header),
                Some(_) => {
                    format!("{name} as {}", header.backing_format.as_deref().unwrap_or("something to be guessed"))
                }
                None => name.clone(),
            }
        }
    };
    Err(unlike_the_record(image, &found, below.first()))
}

/// The header of a qcow2 file, if all of the image's content is in it and its backing file.
fn read(path: &Path) -> Result<Header, Failure> {
    let head = account::open_itself(path).and_then(head_of);
    let head = head.map_err(|error| fault::file("read the header of", path, &error))?;
    if Header::read(&head).is_ok_and(|header| header.is_dirty()) {
        let text = format!("{} was not closed in order, and its reference counts may be stale", path.display());
        return Err(Failure::new(Kind::Failed, text).hint(early_counts(path)));
    }
    Header::read_plain(&head).map_err(|error| {
        Failure::new(Kind::Failed, format!("{} is not the image that is on record: {error}", path.display())).hint(
            "something wrote another header into it; go back to a snapshot, or put a good copy of the file in its place",
        )
    })
}

/// What to do with an image whose reference counts are written late: this repairs them, too.
pub fn early_counts(path: &Path) -> String {
    format!("run `qemu-img amend -o lazy_refcounts=off {}` first", account::shell_word(path))
}

fn length(path: &Path) -> Result<u64, Failure> {
    let length = account::open_itself(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    length.map_err(|error| fault::file("measure", path, &error))
}

/// Where a header names no format, QEMU's tools would guess.
fn agrees(named: Option<&str>, format: Format) -> bool {
    named == Some(spec::format(format).driver())
}

fn same_file(a: &Path, b: &PathBuf) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn unlike_the_record(image: &Image, found: &str, next: Option<&Image>) -> Failure {
    let path = account::shell_word(&image.path);
    let (recorded, mend) = match next {
        Some(next) => {
            let (below, format) = (account::shell_word(&next.path), spec::format(next.format).driver());
            let mend = format!("qemu-img rebase -u -f qcow2 -F {format} -b {below} {path}");
            (next.path.display().to_string(), mend)
        }
        None => ("nothing".to_owned(), format!("qemu-img rebase -u -f qcow2 -b '' {path}")),
    };
    let text =
        format!("the header of {} says that it lies on {found}, and on record is {recorded}", image.path.display());
    Failure::new(Kind::Failed, text).hint(format!(
        "something wrote another header into it; if you trust its content, run `{mend}`, else go back to a snapshot"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;
    use expect_test::{Expect, expect};
    use ledger::id::{DeviceId, LayerId};
    use qemu::graph;
    use qemu::qcow2::{self, Backing};

    const SIZE: u64 = 1 << 20;

    struct Folder(tempfile::TempDir);

    impl Folder {
        /// `top.qcow2` on `middle.qcow2` on `base.img`.
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            fs::File::create(folder.0.path().join("base.img")).unwrap().set_len(SIZE).unwrap();
            folder.qcow2("middle.qcow2", Some(("base.img", graph::Format::Raw)));
            folder.qcow2("top.qcow2", Some(("./middle.qcow2", graph::Format::Qcow2)));
            folder
        }

        fn qcow2(&self, name: &str, backing: Option<(&str, graph::Format)>) {
            let image = qcow2::empty(SIZE, backing.map(|(file, format)| Backing { file, format })).unwrap();
            disk::write_image(&fs::File::create(self.0.path().join(name)).unwrap(), &image).unwrap();
        }

        fn write(&self, name: &str, offset: u64, bytes: &[u8]) {
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(self.0.path().join(name)).unwrap();
            file.write_all_at(bytes, offset).unwrap();
        }

        fn check(&self, expected: Expect) {
            let image = |(number, (name, format)): (u128, (&str, Format))| Image {
                layer: LayerId(uuid::Uuid::from_u128(number)),
                path: self.0.path().join(name),
                format,
                size: SIZE,
                private: true,
            };
            let names = [("top.qcow2", Format::Qcow2), ("middle.qcow2", Format::Qcow2), ("base.img", Format::Raw)];
            let images = (0..).zip(names).map(image).collect();
            let chain = Chain { slot: Slot::Drive(DeviceId(uuid::Uuid::nil())), images };
            let found = verify_chain(&chain).map_or_else(|failure| failure.full_text(), |()| "fine".to_owned());
            expected.assert_eq(&found.replace(&self.0.path().display().to_string(), "DIR"));
        }
    }

    #[test]
    fn a_header_says_what_is_on_record() {
        let folder = Folder::new();
        folder.check(expect!["fine"]);
        // Half-way through a merge of the two upper layers, down or up, or of the two lower ones, up.
        folder.qcow2("top.qcow2", Some(("base.img", graph::Format::Raw)));
        folder.check(expect!["fine"]);
        folder.qcow2("top.qcow2", Some(("middle.qcow2", graph::Format::Qcow2)));
        folder.qcow2("middle.qcow2", None);
        folder.check(expect!["fine"]);
        // A guest's raw disk may begin with whatever it likes.
        folder.write("base.img", 0, b"QFI\xfb\0\0\0\x03");
        folder.check(expect!["fine"]);
    }

    #[test]
    fn a_header_that_an_emulator_rewrote_is_refused() {
        let folder = Folder::new();
        folder.qcow2("top.qcow2", Some(("/etc/shadow", graph::Format::Raw)));
        folder.check(expect!["the header of DIR/top.qcow2 says that it lies on /etc/shadow, and on record is DIR/middle.qcow2: something wrote another header into it; if you trust its content, run `qemu-img rebase -u -f qcow2 -F qcow2 -b DIR/middle.qcow2 DIR/top.qcow2`, else go back to a snapshot"]);
        folder.qcow2("top.qcow2", Some(("top.qcow2", graph::Format::Qcow2)));
        folder.check(expect!["the header of DIR/top.qcow2 says that it lies on top.qcow2, and on record is DIR/middle.qcow2: something wrote another header into it; if you trust its content, run `qemu-img rebase -u -f qcow2 -F qcow2 -b DIR/middle.qcow2 DIR/top.qcow2`, else go back to a snapshot"]);
        folder.qcow2("top.qcow2", Some(("middle.qcow2", graph::Format::Raw)));
        folder.check(expect!["the header of DIR/top.qcow2 says that it lies on middle.qcow2 as raw, and on record is DIR/middle.qcow2: something wrote another header into it; if you trust its content, run `qemu-img rebase -u -f qcow2 -F qcow2 -b DIR/middle.qcow2 DIR/top.qcow2`, else go back to a snapshot"]);
        folder.qcow2("top.qcow2", None);
        folder.check(expect!["the header of DIR/top.qcow2 says that it lies on nothing, and on record is DIR/middle.qcow2: something wrote another header into it; if you trust its content, run `qemu-img rebase -u -f qcow2 -F qcow2 -b DIR/middle.qcow2 DIR/top.qcow2`, else go back to a snapshot"]);
        let folder = Folder::new();
        // Incompatible feature: an external data file.
        folder.write("middle.qcow2", 72, &4u64.to_be_bytes());
        folder.check(expect!["DIR/middle.qcow2 is not the image that is on record: the qcow2 image keeps its data in another file, which is not supported: something wrote another header into it; go back to a snapshot, or put a good copy of the file in its place"]);
        let folder = Folder::new();
        folder.write("top.qcow2", 24, &(2 * SIZE).to_be_bytes());
        folder.check(expect!["DIR/top.qcow2 holds a disk of 2097152 bytes, and 1048576 are on record: if you resized it, put the old size back, or take the disk out of the machine and put it in again"]);
        folder.write("top.qcow2", 0, b"none");
        folder.check(expect!["DIR/top.qcow2 is not the image that is on record: not a qcow2 image: something wrote another header into it; go back to a snapshot, or put a good copy of the file in its place"]);
        fs::remove_file(folder.0.path().join("top.qcow2")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", folder.0.path().join("top.qcow2")).unwrap();
        folder.check(expect![
            "could not read the header of DIR/top.qcow2: Too many levels of symbolic links (os error 40)"
        ]);
        let folder = Folder::new();
        folder.write("base.img", SIZE, b"more");
        folder.check(expect!["DIR/base.img holds a disk of 1048580 bytes, and 1048576 are on record: if you resized it, put the old size back, or take the disk out of the machine and put it in again"]);
    }
}
