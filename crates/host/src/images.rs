//! Image files that belong to no machine: located, looked at, and worked on with `qemu-img`.
//!
//! A format is never guessed: the name tells it, and the content must agree. What an image may be and may lie on is told by
//! [`crate::backing`]. Where the daemon is root, `qemu-img`
//! runs under the common account of emulators, as it reads what guests wrote.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ledger::event::Outcome;
use ledger::failure::{Failure, Kind};
use ledger::image_file::{FileFormat, ImageWork};
use ledger::question::ImageFacts;
use ledger::snapshot::Format;
use ledger::state::Timestamp;

use crate::backing::Rules;
use crate::disk::blocking;
use crate::executor::{Attempt, Bench, Ending};
use crate::hands::{sync_directory_of, sync_file};
use crate::image_lock::{self, Use};
use crate::inspect::{self, invalid, require_one_name};
use crate::{account, control, fault, lent};

/// Length of the footer that ends a VHD file, and where its fields are (VHD Image Format Specification 1.0).
const VHD_FOOTER_BYTES: u64 = 512;
const VHD_SIZE_AT: usize = 48;
const VHD_TYPE_AT: usize = 60;
const VHD_FIXED: u32 = 2;
const VHD_DYNAMIC: u32 = 3;

/// Finds the files that work is about, and looks whether it can be done.
pub async fn locate(attempt: &Attempt, work: ImageWork) -> Ending {
    let bench = std::sync::Arc::clone(&attempt.bench);
    blocking(move || Ok(Outcome::Located { work: locate_blocking(&bench, work)? })).await
}

/// Does the work.
pub async fn work(attempt: &Attempt, work: ImageWork, draft: Option<PathBuf>) -> Ending {
    match (&work, draft) {
        (ImageWork::Create { path, .. } | ImageWork::Convert { path, .. }, Some(draft)) => {
            make(attempt, &work, path, &draft).await?;
        }
        (ImageWork::Resize { path, size }, _) => {
            let format = driver(format_of(path)?);
            let words = ["resize", "-q", "-f", format, text(path)?, &size.to_string()];
            run_on(attempt, &[path], &words).await?;
            synced(path).await?;
        }
        (ImageWork::Merge { child, parent }, _) => {
            // Without emptying the child: until it is removed, it reads as before.
            let words = ["commit", "-q", "-d", "-f", "qcow2", text(child)?];
            run_on(attempt, &[child, parent], &words).await?;
            synced(parent).await?;
        }
        // The others have nothing to be checked but what was looked at when they were located.
        (ImageWork::Validate { path }, _) if matches!(format_of(path)?, FileFormat::Qcow2 | FileFormat::Vhdx) => {
            check(attempt, path).await?;
        }
        (ImageWork::Validate { .. } | ImageWork::Create { .. } | ImageWork::Convert { .. }, _) => {}
    }
    Ok(Outcome::Done)
}

/// Removes a name. One that is missing may have been removed by an attempt that ended before that was on stable storage.
pub async fn remove(path: PathBuf) -> Ending {
    blocking(move || {
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        match removed.and_then(|()| sync_directory_of(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault::file("remove", &path, &error)),
            _ => Ok(Outcome::Done),
        }
    })
    .await
}

/// What a file is.
///
/// # Errors
/// When it is not there, or not what its name says.
pub fn facts(bench: &Bench, path: &Path) -> Result<ImageFacts, Failure> {
    let rules = bench.rules();
    let path = real(&rules, path)?;
    let format = format_of(&path)?;
    let meta = fs::metadata(&path).map_err(|error| fault::file("examine", &path, &error))?;
    let (size, fixed, parent) = match format {
        FileFormat::Raw | FileFormat::Qcow2 => {
            let chain = inspect::chain_to_read(&rules, &path, Some(plain(format)))?;
            let size = chain.first().map_or(0, |image| image.size);
            (size, format == FileFormat::Raw, chain.into_iter().nth(1).map(|image| image.path))
        }
        FileFormat::Vhd => {
            let (size, kind) = vhd_footer(&path)?;
            (size, kind == VHD_FIXED, None)
        }
        FileFormat::Vhdx => (vhdx_size(bench, &path)?, false, None),
    };
    let in_use = use_of(&path)? != Use::Free;
    let micros = meta.mtime().saturating_mul(1_000_000).saturating_add(meta.mtime_nsec() / 1000);
    let modified = Timestamp(u64::try_from(micros).unwrap_or(0));
    Ok(ImageFacts { path, format, size, fixed, parent, file_bytes: meta.len(), in_use, modified })
}

fn locate_blocking(bench: &Bench, work: ImageWork) -> Result<ImageWork, Failure> {
    Ok(match work {
        ImageWork::Create { path, size, fixed, parent } => {
            let parent = parent.map(|parent| usable(bench, &parent)).transpose()?;
            let size = size.or(parent.as_ref().map(|parent| parent.size));
            ImageWork::Create { path: absent(bench, &path)?, size, fixed, parent: parent.map(|parent| parent.path) }
        }
        ImageWork::Convert { source, path, fixed } => {
            ImageWork::Convert { source: usable(bench, &source)?.path, path: absent(bench, &path)?, fixed }
        }
        ImageWork::Resize { path, size } => {
            let facts = alone(bench, &path)?;
            if !matches!(facts.format, FileFormat::Raw | FileFormat::Qcow2) {
                return Err(Failure::new(Kind::NotSupported, format!("{} cannot be enlarged", facts.path.display()))
                    .hint("convert it to .qcow2 or .raw first"));
            }
            if size < facts.size {
                return Err(invalid(
                    &facts.path,
                    &format!("holds a disk of {} bytes, and disks do not shrink", facts.size),
                ));
            }
            ImageWork::Resize { path: facts.path, size }
        }
        ImageWork::Merge { child, parent } => {
            let (child, parent) = (alone(bench, &child)?, alone(bench, &parent)?);
            if child.parent.as_ref() != Some(&parent.path) {
                let text = format!("does not lie on {}", parent.path.display());
                return Err(invalid(&child.path, &text).hint("an image is merged into the one directly below it"));
            }
            ImageWork::Merge { child: child.path, parent: parent.path }
        }
        ImageWork::Validate { path } => ImageWork::Validate { path: usable(bench, &path)?.path },
    })
}

/// An image that nobody writes, nor what it lies on.
fn usable(bench: &Bench, path: &Path) -> Result<ImageFacts, Failure> {
    let facts = facts(bench, path)?;
    require_not_written(&facts.path)?;
    if matches!(facts.format, FileFormat::Raw | FileFormat::Qcow2) {
        for image in inspect::chain_to_read(&bench.rules(), &facts.path, Some(plain(facts.format)))? {
            require_not_written(&image.path)?;
            if let Some(account) = bench.setup.layout.common_account() {
                account::check_passage(image.path.parent().unwrap_or(Path::new("/")), account)?;
                account::check_readable(&image.path, account)?;
            }
        }
    }
    Ok(facts)
}

fn require_not_written(path: &Path) -> Result<(), Failure> {
    match use_of(path)? {
        Use::Written => {
            Err(Failure::new(Kind::InUse, format!("{} is being written by another process", path.display()))
                .hint("shut down the virtual machine that uses it"))
        }
        Use::Read | Use::Free => Ok(()),
    }
}

fn use_of(path: &Path) -> Result<Use, Failure> {
    let meta = fs::metadata(path).map_err(|error| fault::file("examine", path, &error))?;
    let found = image_lock::used_by_others(meta.dev(), meta.ino());
    found.map_err(|error| fault::file("examine the locks of", path, &error))
}

/// The same, of a file that will be written: it has one name, and nobody has it open.
fn alone(bench: &Bench, path: &Path) -> Result<ImageFacts, Failure> {
    let facts = usable(bench, path)?;
    let meta = fs::metadata(&facts.path).map_err(|error| fault::file("examine", &facts.path, &error))?;
    if facts.in_use {
        return Err(Failure::new(Kind::InUse, format!("{} is in use by another process", facts.path.display()))
            .hint("shut down the virtual machine that uses it"));
    }
    require_one_name(&facts.path, &meta)?;
    Ok(facts)
}

/// Real path of a file that is there and is an image by name.
fn real(rules: &Rules, path: &Path) -> Result<PathBuf, Failure> {
    let found = fs::canonicalize(path).map_err(|error| fault::file("find", path, &error))?;
    let meta = fs::metadata(&found).map_err(|error| fault::file("examine", &found, &error))?;
    if !meta.is_file() {
        return Err(invalid(&found, "is no file").hint("give the path of an image file"));
    }
    rules.require_foreign(&found)?;
    text(&found)?;
    Ok(found)
}

/// Real path of a file that is not there.
fn absent(bench: &Bench, path: &Path) -> Result<PathBuf, Failure> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(invalid(path, "names no file").hint("give the path of the new file"));
    };
    let directory = fs::canonicalize(directory).map_err(|error| fault::file("find", directory, &error))?;
    let found = directory.join(name);
    bench.rules().require_foreign(&found)?;
    text(&found)?;
    match fs::symlink_metadata(&found) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(found),
        Err(error) => Err(fault::file("examine", &found, &error)),
        Ok(_) => Err(invalid(&found, "exists already").hint("remove it, or choose another name")),
    }
}

/// Makes a new file: as a draft, which then gets its real name as a second one. A name is given only if it is free, and
/// tells after an interruption whether it had been given.
async fn make(attempt: &Attempt, work: &ImageWork, path: &Path, draft: &Path) -> Result<(), Failure> {
    let same = |a: &Path, b: &Path| match (fs::symlink_metadata(a), fs::symlink_metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    };
    if same(path, draft) {
        // The attempt that gave the name may have ended before that was on stable storage.
        return synced(path).await;
    }
    let account = attempt.layout().common_account();
    let begin = draft.to_owned();
    in_background(move || {
        let open = || -> io::Result<()> {
            match fs::remove_file(&begin) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&begin)?;
            account::hand_over(&begin, account)
        };
        open().map_err(|error| fault::file("create", &begin, &error))
    })
    .await?;
    let arguments = arguments(work, draft)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(attempt, &arguments).await?;
    let (path, draft) = (path.to_owned(), draft.to_owned());
    in_background(move || {
        let finish = || -> io::Result<()> {
            sync_file(&draft)?;
            fs::hard_link(&draft, &path)?;
            sync_directory_of(&path)
        };
        finish().map_err(|error| fault::file("give its name to", &path, &error))
    })
    .await
}

/// What `qemu-img` is told to make a new file.
fn arguments(work: &ImageWork, draft: &Path) -> Result<Vec<String>, Failure> {
    let mut arguments: Vec<String> = Vec::new();
    let mut say = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    match work {
        ImageWork::Create { path, size, fixed, parent } => {
            let format = format_of(path)?;
            say(&["create", "-q", "-f", driver(format)]);
            if let Some(options) = options(format, *fixed) {
                say(&["-o", options]);
            }
            if let Some(parent) = parent {
                say(&["-b", text(parent)?, "-F", driver(format_of(parent)?)]);
            }
            say(&[text(draft)?]);
            size.iter().for_each(|size| say(&[&size.to_string()]));
        }
        ImageWork::Convert { source, path, fixed } => {
            let format = format_of(path)?;
            say(&["convert", "-q", "-f", driver(format_of(source)?), "-O", driver(format)]);
            if let Some(options) = options(format, *fixed) {
                say(&["-o", options]);
            }
            say(&[text(source)?, text(draft)?]);
        }
        _ => {}
    }
    Ok(arguments)
}

fn options(format: FileFormat, fixed: bool) -> Option<&'static str> {
    match (format, fixed) {
        (FileFormat::Raw | FileFormat::Qcow2, false) => None,
        (FileFormat::Raw | FileFormat::Qcow2, true) => Some("preallocation=falloc"),
        // Without it the size is rounded to what a BIOS of 1995 could address.
        (FileFormat::Vhd, false) => Some("subformat=dynamic,force_size=on"),
        (FileFormat::Vhd, true) => Some("subformat=fixed,force_size=on"),
        (FileFormat::Vhdx, false) => Some("subformat=dynamic"),
        (FileFormat::Vhdx, true) => Some("subformat=fixed"),
    }
}

/// Lets `qemu-img check` look; it ends with 2 for damage and with 3 for space that nobody uses, which harms nobody.
async fn check(attempt: &Attempt, path: &Path) -> Result<(), Failure> {
    let found = run(attempt, &["check", "-q", "-f", driver(format_of(path)?), text(path)?]).await;
    match found {
        Err(failure) if failure.kind == Kind::Failed => {
            let text = format!("{} is damaged: {}", path.display(), failure.message);
            Err(Failure::new(Kind::Failed, text).hint("use a copy or a backup; `qemu-img check -r` may mend it"))
        }
        other => other,
    }
}

/// Runs `qemu-img`, and ends it when the job is cancelled.
async fn run(attempt: &Attempt, arguments: &[&str]) -> Result<(), Failure> {
    let tool = &attempt.tools().qemu_img;
    let mut command = tokio::process::Command::new(tool);
    command.args(arguments).stdin(Stdio::null()).current_dir("/").kill_on_drop(true);
    account::run_as(command.as_std_mut(), attempt.layout().common_account());
    let mut cancel = attempt.cancel.clone();
    let output = tokio::select! {
        output = command.output() => output.map_err(|error| fault::file("run", tool, &error))?,
        () = cancel.requested() => return Err(control::cancelled("the work on the image")),
    };
    // 3 is what only `check` says, see there.
    if output.status.success() || output.status.code() == Some(3) {
        return Ok(());
    }
    let words = [output.stderr, output.stdout].concat();
    let words = String::from_utf8_lossy(&words).trim().replace('\n', " / ");
    let what = arguments.first().copied().unwrap_or_default();
    Err(Failure::new(fault::kind_of_words(&words), format!("qemu-img {what} failed: {words}")))
}

/// The same with files that it writes, which are its account's own meanwhile.
async fn run_on(attempt: &Attempt, paths: &[&PathBuf], arguments: &[&str]) -> Result<(), Failure> {
    let Some(account) = attempt.layout().common_account() else { return run(attempt, arguments).await };
    let paths: Vec<PathBuf> = paths.iter().map(|path| (*path).clone()).collect();
    let borrow = move || {
        let mut borrowed = Vec::new();
        for path in paths {
            match lent::borrow(&path, account) {
                Ok(image) => borrowed.push(image),
                Err(error) => {
                    borrowed.iter().for_each(lent::Borrowed::give_back);
                    return Err(fault::file("change the owner of", &path, &error));
                }
            }
        }
        Ok(borrowed)
    };
    let borrowed = tokio::task::spawn_blocking(borrow).await.map_err(|error| fault::task(&error))??;
    let done = run(attempt, arguments).await;
    let give_back = move || {
        borrowed.iter().for_each(lent::Borrowed::give_back);
        Ok(())
    };
    done.and(in_background(give_back).await)
}

async fn synced(path: &Path) -> Result<(), Failure> {
    let path = path.to_owned();
    in_background(move || sync_file(&path).map_err(|error| fault::file("sync", &path, &error))).await
}

async fn in_background(work: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| fault::task(&error))?
}

/// Size of the disk and type of the file.
fn vhd_footer(path: &Path) -> Result<(u64, u32), Failure> {
    let read = || -> io::Result<[u8; 512]> {
        let file = File::open(path)?;
        let mut footer = [0; 512];
        let at = file.metadata()?.len().checked_sub(VHD_FOOTER_BYTES).ok_or(io::ErrorKind::UnexpectedEof)?;
        file.read_exact_at(&mut footer, at)?;
        Ok(footer)
    };
    let footer = read().map_err(|error| fault::file("read", path, &error))?;
    let size = footer.get(VHD_SIZE_AT..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes));
    let kind = footer.get(VHD_TYPE_AT..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
    match (size, kind) {
        (Some(size), Some(kind @ (VHD_FIXED | VHD_DYNAMIC))) if footer.starts_with(b"conectix") => Ok((size, kind)),
        _ if footer.starts_with(b"conectix") => {
            Err(Failure::new(Kind::NotSupported, format!("{} is a differencing VHD file", path.display()))
                .hint("merge it on Windows first"))
        }
        _ => Err(invalid(path, "is no VHD file").hint("give it the extension of what it is")),
    }
}

fn vhdx_size(bench: &Bench, path: &Path) -> Result<u64, Failure> {
    let mut head = [0; 8];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut head, 0));
    read.map_err(|error| fault::file("read", path, &error))?;
    if head != *b"vhdxfile" {
        return Err(invalid(path, "is no VHDX file").hint("give it the extension of what it is"));
    }
    let tool = &bench.setup.tools.qemu_img;
    let mut command = std::process::Command::new(tool);
    command.args(["info", "-U", "--output=json", "-f", "vhdx", text(path)?]).stdin(Stdio::null()).current_dir("/");
    account::run_as(&mut command, bench.setup.layout.common_account());
    let output = command.output().map_err(|error| fault::file("run", tool, &error))?;
    let info: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let size = info.and_then(|info| info.get("virtual-size")?.as_u64());
    size.ok_or_else(|| {
        let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " / ");
        invalid(path, &format!("cannot be read as VHDX: {words}"))
    })
}

fn format_of(path: &Path) -> Result<FileFormat, Failure> {
    FileFormat::of_name(path).ok_or_else(|| invalid(path, "does not tell its format by its name"))
}

fn plain(format: FileFormat) -> Format {
    if format == FileFormat::Raw { Format::Raw } else { Format::Qcow2 }
}

/// What QEMU calls a format.
fn driver(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Raw => "raw",
        FileFormat::Qcow2 => "qcow2",
        FileFormat::Vhd => "vpc",
        FileFormat::Vhdx => "vhdx",
    }
}

/// A path as an argument. QEMU takes what comes before a colon for a protocol, but never in an absolute path.
fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| invalid(path, "has a path that is not text"))
}
