//! What a snapshot is, as a hash: the content of its disks as a guest would read them, and the files of its memory.
//!
//! Blocks of zeros do not count and blocks carry their place, so that a disk has the same fingerprint however its content is spread
//! over layers, before and after merges, and whether nothing or zeros are written in a place.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ring::digest::{Context, SHA256};
use serde_json::Value;

use crate::service::{Error, Result};

/// SHA-256.
pub type Digest = [u8; 32];

/// What may be zero or not: divides every cluster size, and the granularity of holes in raw files.
const BLOCK: usize = 4096;
/// What is read at once.
const PIECE: usize = 1 << 20;
/// Files beside memory that are written anew when layers move.
const TEXTS: [&str; 2] = ["manifest.json", "start.sh"];

/// Hash of what a guest would read from the disk whose uppermost layer is `top`.
///
/// # Errors
/// When an image of the chain cannot be read.
pub fn disk(top: &Path) -> Result<Digest> {
    let layers = chain(top)?;
    let files = layers.iter().map(|layer| open(layer)).collect::<Result<Vec<_>>>()?;
    let mut hash = Hash::new();
    for extent in qemu_img(&["map", "-U", "--output=json"], top)?.as_array().into_iter().flatten() {
        let number = |name: &str| extent[name].as_u64();
        if extent["data"] != true || extent["zero"] == true {
            continue;
        }
        let place = (number("start"), number("length"), number("offset"), number("depth"));
        let (Some(start), Some(length), Some(offset), Some(depth)) = place else {
            return Err(Error::Other(format!("{} cannot be read piece by piece: {extent}", top.display())));
        };
        let depth = usize::try_from(depth).ok().filter(|depth| *depth < files.len());
        let depth = depth.ok_or_else(|| Error::Other(format!("{extent} is below {layers:?}")))?;
        hash.extent(&files[depth], offset, length, start).map_err(|source| reading(&layers[depth], source))?;
    }
    Ok(hash.finish())
}

/// Hash of the files of saved memory, all but the texts that tell how to use it.
///
/// # Errors
/// When one cannot be read.
pub fn memory(directory: &Path) -> Result<Digest> {
    let listing = std::fs::read_dir(directory).map_err(|source| reading(directory, source))?;
    let mut names: Vec<_> = listing.flatten().map(|entry| entry.file_name()).collect();
    names.retain(|name| TEXTS.iter().all(|text| name != text));
    names.sort();
    let mut hash = Hash::new();
    for name in names {
        let path = directory.join(&name);
        hash.0.update(name.as_encoded_bytes());
        hash.file(&open(&path)?).map_err(|source| reading(&path, source))?;
    }
    Ok(hash.finish())
}

/// An image and all below it, top first.
///
/// # Errors
/// When one of them cannot be read.
pub fn chain(image: &Path) -> Result<Vec<PathBuf>> {
    let layers = qemu_img(&["info", "-U", "--backing-chain", "--output=json"], image)?;
    let layers = layers.as_array().into_iter().flatten();
    Ok(layers.filter_map(|layer| layer["filename"].as_str()).map(PathBuf::from).collect())
}

fn qemu_img(words: &[&str], image: &Path) -> Result<Value> {
    let what = words.first().copied().unwrap_or_default();
    let output = Command::new("qemu-img").args(words).arg(image).output();
    let output = output.map_err(|source| Error::Io { what: format!("running qemu-img {what}"), source })?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        Error::Other(format!("{} cannot be read: {}", image.display(), String::from_utf8_lossy(&output.stderr)))
    })
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| reading(path, source))
}

fn reading(path: &Path, source: std::io::Error) -> Error {
    Error::Io { what: format!("reading {}", path.display()), source }
}

/// A hash that takes blocks with their places.
struct Hash(Context);

impl Hash {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Takes `length` bytes at `offset` of `file` as what is at `place`.
    fn extent(&mut self, file: &File, offset: u64, length: u64, place: u64) -> std::io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut done = 0;
        while done < length {
            let size = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
            file.read_exact_at(&mut buffer[..size], offset + done)?;
            for (index, block) in buffer[..size].chunks(BLOCK).enumerate() {
                if *block != [0; BLOCK][..block.len()] {
                    self.0.update(&(place + done + (index * BLOCK) as u64).to_le_bytes());
                    self.0.update(block);
                }
            }
            done += size as u64;
        }
        Ok(())
    }

    /// Takes a file that may have holes.
    fn file(&mut self, file: &File) -> std::io::Result<()> {
        use rustix::fs::{SeekFrom, seek};
        let length = file.metadata()?.len();
        self.0.update(&length.to_le_bytes());
        let mut at = 0;
        while at < length {
            let begin = match seek(file, SeekFrom::Data(at)) {
                Err(rustix::io::Errno::NXIO) => break,
                found => found?,
            };
            let end = seek(file, SeekFrom::Hole(begin))?;
            // Data may begin anywhere; blocks are counted from the beginning of the file.
            let begin = begin - begin % BLOCK as u64;
            let end = end.next_multiple_of(BLOCK as u64).min(length);
            self.extent(file, begin, end - begin, begin)?;
            at = end;
        }
        Ok(())
    }

    fn finish(self) -> Digest {
        let digest = self.0.finish();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `qemu-img` or `qemu-io` in `directory`.
    #[track_caller]
    fn run(directory: &Path, line: &str) {
        let mut words = line.split('|');
        let done = Command::new(words.next().unwrap()).args(words).current_dir(directory).output().unwrap();
        assert!(done.status.success(), "{line}: {done:?}");
    }

    #[test]
    fn a_disk_is_what_is_read_and_not_how_it_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let here = place.path();
        run(here, "qemu-img|create|-q|-f|qcow2|base|8M");
        run(here, "qemu-io|-c|write -P 1 0 256k|-c|write -P 2 1M 64k|-c|write -P 7 2M 64k|base");
        run(here, "qemu-img|create|-q|-f|qcow2|-b|base|-F|qcow2|top");
        run(here, "qemu-io|-c|write -P 3 64k 64k|-c|write -z 1M 64k|-c|write -P 4 6M 4k|-c|write -P 0 2M 64k|top");
        let layered = disk(&here.join("top")).unwrap();
        assert_ne!(layered, disk(&here.join("base")).unwrap());
        run(here, "qemu-img|convert|-O|raw|top|flat.raw");
        run(here, "qemu-img|convert|-O|qcow2|flat.raw|flat");
        assert_eq!(layered, disk(&here.join("flat")).unwrap(), "copied into one");
        run(here, "qemu-img|commit|-q|top");
        assert_eq!(layered, disk(&here.join("base")).unwrap(), "merged down");
        run(here, "qemu-io|-c|write -P 9 6M 512|base");
        assert_ne!(layered, disk(&here.join("base")).unwrap(), "one sector is another");
    }

    #[test]
    fn memory_is_its_files_but_for_the_texts() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
        write("memory", "abc");
        write("devices", "d");
        let first = memory(place.path()).unwrap();
        write("start.sh", "#!/bin/sh");
        assert_eq!(first, memory(place.path()).unwrap());
        for (name, text) in [("memory", "abd"), ("devices", "e"), ("more", "")] {
            write(name, text);
            assert_ne!(first, memory(place.path()).unwrap(), "{name}");
        }
    }
}
