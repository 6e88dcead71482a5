//! The guest's screen: taken from a running emulator, kept beside saved memory, read again.
//!
//! The emulator writes the picture into memory that only it and we have open, so nothing of the guest's screen touches a
//! disk unless a snapshot keeps it. A kept screen is a convenience: whatever goes wrong with it is logged, and the
//! snapshot is as good without.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ledger::failure::{Failure, Kind};
use qemu::qmp::Command;
use qemu::screen::{PIXELS_MAX, PPM_BYTES_MAX, Picture};

use crate::fault;
use crate::machines::Running;
use crate::now;
use crate::qmp_socket::{Monitor, MonitorError};

/// Name of a kept screen, in the directory of the saved memory.
pub const FILE: &str = "screen.png";

/// File descriptor set for the picture; saved memory has another.
const FDSET: u64 = 2;

/// How long the emulator may take to write the picture. It takes some milliseconds.
const DUMP_PATIENCE: Duration = Duration::from_secs(10);

/// How long a snapshot waits for a picture before it begins. It does without one then.
const GLANCE_PATIENCE: Duration = Duration::from_secs(2);

/// Longest kept screen: a picture that does not compress at all, with room for the format's own.
const PNG_BYTES_MAX: u64 = PPM_BYTES_MAX as u64 + (1 << 20);

/// A picture and when it was taken, in microseconds since 1970.
#[derive(Debug)]
pub struct Glance {
    picture: Picture,
    micros: u64,
}

/// What the guest's screen shows. Waits until the guest cannot be standing still for a capture.
///
/// # Errors
/// When the emulator does not answer, has no display, or writes something else than a picture.
pub async fn look(monitor: &Monitor) -> Result<Picture, Failure> {
    let _floor = monitor.floor().await;
    let fault = |error: &io::Error| Failure::new(fault::kind_of(error), format!("could not take the screen: {error}"));
    let (ours, theirs) = open_pair().map_err(|error| fault(&error))?;
    let written = dump(monitor, theirs).await;
    // Whether it worked or not, the emulator must not keep the file; that it has none is fine.
    let _ = monitor.execute(forget(), Vec::new(), DUMP_PATIENCE).await;
    written.map_err(|error| refusal(&error))?;
    let work = move || -> Result<Picture, Failure> {
        let mut bytes = Vec::new();
        ours.take(PPM_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|error| fault(&error))?;
        Picture::read_ppm(&bytes).map_err(|error| {
            Failure::new(Kind::Failed, format!("could not take the screen: what the emulator wrote is wrong: {error}"))
        })
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| fault::task(&error))?
}

/// A look for a snapshot that is about to be taken; `None` if there is nothing to be seen in time.
pub async fn glance(running: &Arc<Running>) -> Option<Glance> {
    // A task of its own, so that a look that takes too long still cleans up after itself.
    let running = Arc::clone(running);
    let looking = tokio::spawn(async move { look(&running.monitor).await });
    match tokio::time::timeout(GLANCE_PATIENCE, looking).await {
        Ok(Ok(Ok(picture))) => Some(Glance { picture, micros: now().0 }),
        Ok(Ok(Err(failure))) => {
            tracing::debug!(%failure, "a snapshot goes without the screen");
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Keeps the screen of a moment beside its memory: the one seen before, or the present one if that is nearer.
pub async fn keep(running: &Arc<Running>, directory: &Path, before: Option<Glance>, moment_us: u64) {
    let elapsed = now().0.saturating_sub(moment_us);
    let is_nearer = |glance: &Glance| moment_us.saturating_sub(glance.micros) <= elapsed;
    let nearest = match before.filter(is_nearer) {
        Some(before) => Some(before),
        None => glance(running).await,
    };
    let Some(Glance { picture, .. }) = nearest else { return };
    let path = directory.join(FILE);
    let written = tokio::task::spawn_blocking(move || write_png(&path, &picture).map_err(|error| (path, error))).await;
    if let Ok(Err((path, error))) = written {
        tracing::warn!(path = %path.display(), %error, "the screen of a snapshot could not be kept");
        // Half a picture is worse than none; if it cannot go either, it is refused when it is read.
        let _ = fs::remove_file(path);
    }
}

/// The screen that was kept in this directory.
///
/// # Errors
/// When there is none, or it is damaged.
pub fn kept(directory: &Path) -> Result<Picture, Failure> {
    let path = directory.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(Kind::InvalidState, "no screen was kept with this saved memory"));
        }
        Err(error) => return Err(fault::file("open", &path, &error)),
    };
    read_png(&file).map_err(|error| Failure::new(Kind::Failed, format!("could not read {}: {error}", path.display())))
}

/// A file in memory for one picture: for us to read, and for the emulator, whom we give no more than it asks for.
fn open_pair() -> io::Result<(File, OwnedFd)> {
    let memory = File::from(rustix::fs::memfd_create("screen", rustix::fs::MemfdFlags::CLOEXEC)?);
    // A set gives out a descriptor only to who asks for the same access.
    let writer = OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", memory.as_raw_fd()))?;
    Ok((memory, writer.into()))
}

async fn dump(monitor: &Monitor, file: OwnedFd) -> Result<(), MonitorError> {
    // One that an earlier daemon may have left would be written to instead.
    let _ = monitor.execute(forget(), Vec::new(), DUMP_PATIENCE).await;
    let add = Command::new("add-fd").arg("fdset-id", FDSET);
    monitor.execute(add, vec![Arc::new(file)], DUMP_PATIENCE).await?;
    let dump = Command::new("screendump").arg("filename", format!("/dev/fdset/{FDSET}"));
    monitor.execute(dump, Vec::new(), DUMP_PATIENCE).await.map(drop)
}

fn forget() -> Command {
    Command::new("remove-fd").arg("fdset-id", FDSET)
}

fn refusal(error: &MonitorError) -> Failure {
    match error {
        MonitorError::Refused { refusal, .. } if refusal.desc.contains("no console") => {
            Failure::new(Kind::NotSupported, "the machine has no display")
                .hint("it was started, or saved, before machines had one: shut it down and start it again")
        }
        error => fault::monitor("take the screen", error),
    }
}

fn write_png(path: &Path, picture: &Picture) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let side = |pixels: usize| u32::try_from(pixels).map_err(io::Error::other);
    let mut encoder = png::Encoder::new(io::BufWriter::new(&file), side(picture.width())?, side(picture.height())?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.bytes())?;
    writer.finish()?;
    file.sync_data()
}

fn read_png(file: &File) -> Result<Picture, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length > PNG_BYTES_MAX {
        return Err(format!("it has {length} bytes"));
    }
    let limits = png::Limits { bytes: PIXELS_MAX * 4 };
    let mut decoder = png::Decoder::new_with_limits(io::BufReader::new(file), limits);
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let info = reader.info();
    let plain = (info.color_type, info.bit_depth) == (png::ColorType::Rgb, png::BitDepth::Eight);
    let pixels = u64::from(info.width) * u64::from(info.height);
    if !plain || pixels > PIXELS_MAX as u64 {
        return Err("it is not a screen of ours".to_owned());
    }
    let (width, height) = (info.width as usize, info.height as usize);
    let mut bytes = vec![0; width * height * 3];
    reader.next_frame(&mut bytes).map_err(|error| error.to_string())?;
    Picture::new(width, height, bytes).map_err(|error| error.to_string())
}

/// Path of the kept screen, if there is one.
pub fn path_of(directory: &Path) -> Option<PathBuf> {
    let path = directory.join(FILE);
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_screen_is_read_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let bytes = (0..7 * 5 * 3).map(|byte| u8::try_from(byte).unwrap()).collect();
        let picture = Picture::new(7, 5, bytes).unwrap();
        write_png(&root.path().join(FILE), &picture).unwrap();
        assert_eq!(kept(root.path()).unwrap(), picture);
    }

    #[test]
    fn a_screen_that_is_missing_or_damaged_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let check = |kind: Kind| assert_eq!(kept(root.path()).unwrap_err().kind, kind);
        check(Kind::InvalidState);
        let path = root.path().join(FILE);
        write_png(&path, &Picture::new(4, 4, vec![9; 48]).unwrap()).unwrap();
        let whole = fs::read(&path).unwrap();
        // Without the last chunk the picture is still all there.
        for length in 0..whole.len() - 12 {
            fs::write(&path, &whole[..length]).unwrap();
            check(Kind::Failed);
        }
        fs::write(&path, b"something else").unwrap();
        check(Kind::Failed);
    }
}
