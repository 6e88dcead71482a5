//! An image that a user wants to attach, and all that lies behind it.
//!
//! Nothing is guessed: the format is what the user says or what the file name says, and the content must agree. A raw
//! image that begins like qcow2 is refused, because a guest could have written that header to make the host open any
//! file it names (the reason why QEMU warns about probing raw). Backing files are followed only where the header names
//! their format, and only to where [`crate::backing`] allows.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ledger::event::{InspectedImage, Outcome};
use ledger::failure::{Failure, Kind};
use ledger::snapshot::Format;
use qemu::qcow2::{Header, Qcow2Error};

use crate::account::{self, AccessError, Account};
use crate::backing::Rules;
use crate::disk::blocking;
use crate::executor::{Attempt, Ending};
use crate::fault;
use crate::headers;
use crate::image_lock::{self, Use};
use crate::layout::Layout;

/// Most files in a chain. Fifty snapshots are the product's limit, and a chain of two hundred is 130 times slower.
const CHAIN_MAX: usize = 256;

/// Sizes are counted in sectors; QEMU rounds what is not a multiple, and an overlay would then differ.
const SECTOR_BYTES: u64 = 512;

/// Looks at an image and its backing files, and whether the emulator's account can get at them: now, while the user who
/// named them looks, and not when the machine is started.
pub async fn inspect(attempt: &Attempt, path: PathBuf, format: Option<Format>) -> Ending {
    let layout = attempt.layout().clone();
    let rules = attempt.rules();
    blocking(move || {
        let chain = chain(&rules, &path, format, true)?;
        layout.accounts().of_a_machine().map_or(Ok(()), |account| check_access(&layout, &chain, account))?;
        Ok(Outcome::Inspected { chain })
    })
    .await
}

/// The top image becomes the account's own when the machine starts; the others stay as they are.
fn check_access(layout: &Layout, chain: &[InspectedImage], account: Account) -> Result<(), Failure> {
    for (index, image) in chain.iter().enumerate() {
        account::check_passage(image.path.parent().unwrap_or(Path::new("/")), account)?;
        if index > 0 {
            account::check_readable(&image.path, account).map_err(|error| closed(layout, &image.path, &error))?;
        }
    }
    Ok(())
}

/// Opening another machine's disk to all is no advice to give.
fn closed(layout: &Layout, path: &Path, error: &AccessError) -> Failure {
    let owner = fs::metadata(path).map(|meta| meta.uid());
    if !owner.is_ok_and(|owner| layout.accounts().is_machines(owner)) {
        return error.into();
    }
    Failure::new(Kind::InUse, format!("the backing file {} was given to another machine", path.display()))
        .hint("take an image as a base that no machine writes, or a copy of this one")
}

/// Top first; only looked at, whoever has them in use.
pub fn chain_to_read(rules: &Rules, path: &Path, format: Option<Format>) -> Result<Vec<InspectedImage>, Failure> {
    chain(rules, path, format, false)
}

/// Top first.
fn chain(rules: &Rules, path: &Path, format: Option<Format>, to_write: bool) -> Result<Vec<InspectedImage>, Failure> {
    if !path.is_absolute() {
        let text = format!("{} is not an absolute path", path.display());
        return Err(Failure::new(Kind::InvalidParameter, text).hint("give the full path of the image"));
    }
    let mut chain: Vec<InspectedImage> = Vec::new();
    let mut seen = Vec::new();
    let mut next = Some((path.to_owned(), format.map_or_else(|| format_by_name(path), Ok)?));
    while let Some((path, format)) = next {
        let found = look(rules, &path, format, to_write.then_some(chain.is_empty()))?;
        if seen.contains(&found.identity) {
            let text = "is its own backing file, directly or through others";
            return Err(invalid(&path, text).hint("name the right one in it: qemu-img rebase -u -b"));
        }
        if chain.len() == CHAIN_MAX {
            return Err(invalid(&path, &format!("is the end of a chain of more than {CHAIN_MAX} files"))
                .hint("make fewer of them: snapvisor disk merge, or convert"));
        }
        seen.push(found.identity);
        next = found.backing;
        chain.push(found.image);
    }
    Ok(chain)
}

struct Found {
    image: InspectedImage,
    /// Device and inode.
    identity: (u64, u64),
    backing: Option<(PathBuf, Format)>,
}

/// One file. Of those that a machine will have, the top one is written and the others are only read; `None` is for a mere look.
fn look(rules: &Rules, path: &Path, format: Format, is_top: Option<bool>) -> Result<Found, Failure> {
    let path = fs::canonicalize(path).map_err(|error| fault::file("find the image", path, &error))?;
    if path.to_str().is_none() {
        return Err(invalid(&path, "has a path that is not text").hint("rename it"));
    }
    rules.require_foreign(&path)?;
    let meta = fs::metadata(&path).map_err(|error| fault::file("examine", &path, &error))?;
    if !meta.is_file() && !meta.file_type().is_block_device() {
        return Err(invalid(&path, "is neither a file nor a block device").hint("give the full path of the image"));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(is_top == Some(true))
        .open(&path)
        .map_err(|error| fault::file("open", &path, &error))?;
    let identity = (meta.dev(), meta.ino());
    if let Some(is_top) = is_top {
        require_unused(identity, &path, is_top)?;
    }
    if is_top == Some(true) {
        require_one_name(&path, &meta)?;
    }
    let head = headers::head_of(&file).map_err(|error| fault::file("read", &path, &error))?;
    let length = file.seek(SeekFrom::End(0)).map_err(|error| fault::file("measure", &path, &error))?;
    let (size, backing) = match format {
        Format::Raw => (raw_size(&path, &head, length)?, None),
        Format::Qcow2 => {
            let header = Header::read(&head).map_err(|error| bad_qcow2(&path, &error))?;
            if header.is_dirty() || header.lazy && is_top == Some(true) {
                return Err(lazy(&path));
            }
            header.require_plain().map_err(|error| bad_qcow2(&path, &error))?;
            (header.size, backing_of(rules, &path, &header)?)
        }
    };
    if size == 0 || size % SECTOR_BYTES != 0 {
        return Err(invalid(&path, &format!("holds a disk of {size} bytes, which is no whole number of sectors"))
            .hint("resize it to a multiple of 512 bytes: snapvisor disk resize"));
    }
    Ok(Found { image: InspectedImage { path, format, size }, identity, backing })
}

fn require_unused((device, inode): (u64, u64), path: &Path, is_top: bool) -> Result<(), Failure> {
    let found = image_lock::used_by_others(device, inode);
    let found = found.map_err(|error| fault::file("examine the locks of", path, &error))?;
    let text = match (found, is_top) {
        (Use::Written, _) => "is being written by another process",
        (Use::Read, true) => "is in use by another process, which relies on it not changing",
        (Use::Read, false) | (Use::Free, _) => return Ok(()),
    };
    Err(Failure::new(Kind::InUse, format!("{} {text}", path.display()))
        .hint("shut down the virtual machine that uses it, or attach another image"))
}

fn raw_size(path: &Path, head: &[u8], length: u64) -> Result<u64, Failure> {
    if matches!(Header::read(head), Err(Qcow2Error::NotQcow2)) {
        return Ok(length);
    }
    Err(invalid(path, "was to be attached as raw, but begins like a qcow2 image")
        .hint("give it a name that ends in .qcow2; if its guest really wrote that header, convert it to qcow2 first"))
}

fn bad_qcow2(path: &Path, error: &Qcow2Error) -> Failure {
    let failure = invalid(path, &format!("cannot be attached as qcow2: {error}"));
    match error {
        Qcow2Error::NotQcow2 => failure.hint("if it is raw, give it a name that ends in .raw or .img"),
        Qcow2Error::Unsupported { .. } => {
            failure.hint("make a plain copy with `qemu-img convert -O qcow2` and attach that")
        }
        _ => failure,
    }
}

fn lazy(path: &Path) -> Failure {
    invalid(path, "keeps its reference counts late, which loses data when an emulator is killed")
        .hint(headers::early_counts(path))
}

fn backing_of(rules: &Rules, path: &Path, header: &Header) -> Result<Option<(PathBuf, Format)>, Failure> {
    let Some(name) = &header.backing_file else { return Ok(None) };
    // `json:` and protocols such as `nbd:` come before a colon; a path with a colon before its first slash is none.
    if name.split('/').next().is_some_and(|start| start.contains(':')) {
        return Err(invalid(path, &format!("lies on {name}, which is not a file"))
            .hint("convert it to an image that stands alone: qemu-img convert"));
    }
    let format = match header.backing_format.as_deref() {
        Some("qcow2") => Format::Qcow2,
        Some("raw") => Format::Raw,
        Some(other) => {
            return Err(invalid(path, &format!("lies on a file of the format {other}"))
                .hint("convert it to an image that stands alone: qemu-img convert"));
        }
        None => {
            let (name_word, image) = (account::shell_word(Path::new(name)), account::shell_word(path));
            let advice = format!("run `qemu-img rebase -u -b {name_word} -F <format> {image}` to name it");
            return Err(invalid(path, &format!("does not say which format its backing file {name} has")).hint(advice));
        }
    };
    Ok(Some((rules.backing_file(path, name)?, format)))
}

fn format_by_name(path: &Path) -> Result<Format, Failure> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "qcow2" => Ok(Format::Qcow2),
        "raw" | "img" => Ok(Format::Raw),
        _ => Err(invalid(path, "does not tell its format by its name")
            .hint("give it, or a link to it, a name that ends in .qcow2 or, if it is raw, in .raw or .img")),
    }
}

/// Of an image that will be written: what is known of files, such as who needs them, is known by their names.
pub fn require_one_name(path: &Path, meta: &Metadata) -> Result<(), Failure> {
    match meta.nlink() {
        ..=1 => Ok(()),
        names => Err(invalid(path, &format!("has {names} names, and may be in use under another one"))
            .hint("make a copy and take that")),
    }
}

/// An image that cannot be what it is wanted for.
pub fn invalid(path: &Path, what: &str) -> Failure {
    Failure::new(Kind::InvalidParameter, format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use crate::disk;
    use expect_test::{Expect, expect};
    use qemu::graph;
    use qemu::qcow2::{self, Backing};

    const SIZE: u64 = 1 << 20;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn qcow2(&self, name: &str, backing: Option<(&str, graph::Format)>) {
            let backing = backing.map(|(file, format)| Backing { file, format });
            let image = qcow2::empty(SIZE, backing).unwrap();
            disk::write_image(&File::create(self.0.path().join(name)).unwrap(), &image).unwrap();
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Those of a daemon in `service`, whose administrator named `allowed`.
        fn rules(&self) -> Rules {
            let (data, run) = (self.path("service/data"), self.path("service/run"));
            let layout = Layout::new(&data, &run, account::Accounts::Own).unwrap();
            layout.create().unwrap();
            Rules::new(&layout, &[self.path("allowed"), self.path("not there")])
        }

        fn raw(&self, name: &str, bytes: u64) {
            File::create(self.0.path().join(name)).unwrap().set_len(bytes).unwrap();
        }

        fn says(&self, name: &str, expected: &str) {
            assert_eq!(self.text(name, None), expected);
        }

        fn check(&self, name: &str, format: Option<Format>, expected: Expect) {
            expected.assert_eq(&self.text(name, format));
        }

        fn text(&self, name: &str, format: Option<Format>) -> String {
            let text = match chain(&self.rules(), &self.0.path().join(name), format, true) {
                Ok(chain) => {
                    chain.iter().map(|i| format!("{} {:?} {}\n", i.path.display(), i.format, i.size)).collect()
                }
                Err(failure) => format!("{:?}: {}\n", failure.kind, failure.full_text()),
            };
            text.replace(&self.0.path().display().to_string(), "DIR")
        }
    }

    #[test]
    fn chains_are_followed_by_their_headers() {
        let folder = Folder::new();
        folder.raw("base.img", SIZE);
        folder.qcow2("middle.qcow2", Some(("base.img", graph::Format::Raw)));
        folder.qcow2("top.qcow2", Some(("./middle.qcow2", graph::Format::Qcow2)));
        folder.check(
            "base.img",
            None,
            expect![[r#"
            DIR/base.img Raw 1048576
        "#]],
        );
        folder.check(
            "top.qcow2",
            None,
            expect![[r#"
            DIR/top.qcow2 Qcow2 1048576
            DIR/middle.qcow2 Qcow2 1048576
            DIR/base.img Raw 1048576
        "#]],
        );
        std::os::unix::fs::symlink("top.qcow2", folder.0.path().join("link")).unwrap();
        folder.check(
            "link",
            Some(Format::Qcow2),
            expect![[r#"
            DIR/top.qcow2 Qcow2 1048576
            DIR/middle.qcow2 Qcow2 1048576
            DIR/base.img Raw 1048576
        "#]],
        );
    }

    #[test]
    fn an_image_with_another_name_is_refused() {
        let folder = Folder::new();
        folder.raw("two.img", SIZE);
        fs::hard_link(folder.path("two.img"), folder.path("other.img")).unwrap();
        folder.check(
            "other.img",
            None,
            expect![[r#"
            InvalidParameter: DIR/other.img has 2 names, and may be in use under another one: make a copy and take that
        "#]],
        );
    }

    #[test]
    fn an_image_with_late_reference_counts_is_refused() {
        let folder = Folder::new();
        folder.qcow2("late.qcow2", None);
        folder.qcow2("top.qcow2", Some(("late.qcow2", graph::Format::Qcow2)));
        let set = |offset, bits: u64| {
            let file = OpenOptions::new().write(true).open(folder.path("late.qcow2")).unwrap();
            file.write_all_at(&bits.to_be_bytes(), offset).unwrap();
        };
        let advice = "run `qemu-img amend -o lazy_refcounts=off DIR/late.qcow2` first";
        let refused = format!(
            "InvalidParameter: DIR/late.qcow2 keeps its reference counts late, which loses data when an emulator is killed: {advice}\n"
        );
        set(80, 1);
        folder.says("late.qcow2", &refused);
        folder.says("top.qcow2", "DIR/top.qcow2 Qcow2 1048576\nDIR/late.qcow2 Qcow2 1048576\n");
        set(72, 1);
        folder.says("top.qcow2", &refused);
    }

    #[test]
    fn what_is_not_what_it_is_said_to_be_is_refused() {
        let folder = Folder::new();
        folder.qcow2("plain.qcow2", None);
        folder.qcow2("self.qcow2", Some(("self.qcow2", graph::Format::Qcow2)));
        folder.qcow2("remote.qcow2", Some(("nbd://host/disk", graph::Format::Raw)));
        folder.qcow2("lost.qcow2", Some(("gone.img", graph::Format::Raw)));
        folder.raw("odd.img", SIZE + 1);
        folder.raw("fake.qcow2", SIZE);
        folder.check("plain.qcow2", Some(Format::Raw), expect![[r#"
            InvalidParameter: DIR/plain.qcow2 was to be attached as raw, but begins like a qcow2 image: give it a name that ends in .qcow2; if its guest really wrote that header, convert it to qcow2 first
        "#]]);
        folder.check("fake.qcow2", None, expect![[r#"
            InvalidParameter: DIR/fake.qcow2 cannot be attached as qcow2: not a qcow2 image: if it is raw, give it a name that ends in .raw or .img
        "#]]);
        folder.check(
            "self.qcow2",
            None,
            expect![[r#"
                InvalidParameter: DIR/self.qcow2 is its own backing file, directly or through others: name the right one in it: qemu-img rebase -u -b
            "#]],
        );
        folder.check(
            "remote.qcow2",
            None,
            expect![[r#"
                InvalidParameter: DIR/remote.qcow2 lies on nbd://host/disk, which is not a file: convert it to an image that stands alone: qemu-img convert
            "#]],
        );
        folder.check(
            "lost.qcow2",
            None,
            expect![[r#"
            NotFound: could not find the image DIR/gone.img: No such file or directory (os error 2): check the path
        "#]],
        );
        folder.check(
            "odd.img",
            None,
            expect![[r#"
                InvalidParameter: DIR/odd.img holds a disk of 1048577 bytes, which is no whole number of sectors: resize it to a multiple of 512 bytes: snapvisor disk resize
            "#]],
        );
        folder.check(
            "missing.img",
            None,
            expect![[r#"
            NotFound: could not find the image DIR/missing.img: No such file or directory (os error 2): check the path
        "#]],
        );
        folder.check(
            "disk",
            None,
            expect![[r#"
                InvalidParameter: DIR/disk does not tell its format by its name: give it, or a link to it, a name that ends in .qcow2 or, if it is raw, in .raw or .img
            "#]],
        );
        folder.check(
            "",
            Some(Format::Raw),
            expect![[r#"
                InvalidParameter: DIR is neither a file nor a block device: give the full path of the image
            "#]],
        );
    }

    #[test]
    fn a_header_opens_nothing_that_is_not_beside_it_or_named() {
        let folder = Folder::new();
        drop(folder.rules());
        for directory in ["images", "allowed/deep", "other", "service/data/vms/m/disks", "service/data/vms/m/memory/s"]
        {
            fs::create_dir_all(folder.path(directory)).unwrap();
        }
        let secrets = [
            "other/secret.img",
            "allowed/deep/base.img",
            "service/data/vms/m/disks/frozen.qcow2",
            "service/data/vms/m/memory/s/memory",
            "service/data/snapvisor.sqlite",
        ];
        secrets.iter().for_each(|name| folder.raw(name, SIZE));
        std::os::unix::fs::symlink("../other/secret.img", folder.path("images/link.img")).unwrap();
        std::os::unix::fs::symlink("../service/data/vms/m/disks", folder.path("allowed/within")).unwrap();
        let on = |backing: &str| {
            folder.qcow2("images/top.qcow2", Some((backing, graph::Format::Raw)));
            let before = fs::read(folder.path("images/top.qcow2")).unwrap();
            let found = chain(&folder.rules(), &folder.path("images/top.qcow2"), None, true);
            assert_eq!(fs::read(folder.path("images/top.qcow2")).unwrap(), before);
            found.map(|chain| chain.len()).map_err(|failure| failure.message)
        };
        let root = folder.path("");
        let absolute = |name: &str| root.join(name).display().to_string();
        let top = absolute("images/top.qcow2");
        let elsewhere = |name: &str| Err(format!("{top} lies on {name}, which is not in the same directory"));

        assert_eq!(on(&absolute("allowed/deep/base.img")), Ok(2));
        assert_eq!(on("../allowed/deep/base.img"), Ok(2));
        for name in [
            "/etc/shadow",
            "/etc/no-such-file",
            "/dev/zero",
            "../other/secret.img",
            "../other/no-such-file.img",
            "link.img",
            "../allowed/within/frozen.qcow2",
        ] {
            assert_eq!(on(name), elsewhere(name), "{name}");
        }
        for name in &secrets[2..] {
            let name = absolute(name);
            assert_eq!(on(&name), elsewhere(&name));
        }
        let missing = on("missing.img").unwrap_err();
        assert!(
            missing.starts_with(&format!("could not find the image {}", absolute("images/missing.img"))),
            "{missing}"
        );
        for name in ["json:{\"driver\":\"file\"}", "nbd://host/disk", "file:/etc/shadow"] {
            assert_eq!(on(name), Err(format!("{top} lies on {name}, which is not a file")));
        }
    }

    #[test]
    fn what_the_service_keeps_is_no_image() {
        let folder = Folder::new();
        drop(folder.rules());
        folder.raw("service/data/vms/layer.img", SIZE);
        std::os::unix::fs::symlink("service/data/vms/layer.img", folder.path("link.img")).unwrap();
        let expected =
            "DIR/service/data/vms/layer.img is below DIR/service/data, where the service keeps its own files";
        for name in ["service/data/vms/layer.img", "link.img"] {
            let refused = chain(&folder.rules(), &folder.path(name), None, true).unwrap_err();
            assert_eq!(refused.message.replace(&folder.path("").display().to_string(), "DIR/"), expected, "{name}");
        }
    }

    #[test]
    fn chains_that_lead_back_and_data_elsewhere_are_refused() {
        let folder = Folder::new();
        folder.qcow2("a.qcow2", Some(("b.qcow2", graph::Format::Qcow2)));
        folder.qcow2("b.qcow2", Some(("a.qcow2", graph::Format::Qcow2)));
        folder.check(
            "a.qcow2",
            None,
            expect![[r#"
                InvalidParameter: DIR/a.qcow2 is its own backing file, directly or through others: name the right one in it: qemu-img rebase -u -b
            "#]],
        );
        folder.qcow2("data.qcow2", None);
        let mut bytes = fs::read(folder.path("data.qcow2")).unwrap();
        bytes[72..80].copy_from_slice(&4u64.to_be_bytes());
        fs::write(folder.path("data.qcow2"), bytes).unwrap();
        folder.check(
            "data.qcow2",
            None,
            expect![[r#"
            InvalidParameter: DIR/data.qcow2 cannot be attached as qcow2: the qcow2 image keeps its data in another file, which is not supported: make a plain copy with `qemu-img convert -O qcow2` and attach that
        "#]],
        );
    }
}
