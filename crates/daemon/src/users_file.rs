//! The users file on disk: read again when it changes, changed as a whole or not at all.
//!
//! ```text
//!   daemon:          current ──▶ changed since? ──▶ read ──▶ fine: these from now on; else: those before, and an error
//!   snapvisor user:  lock ──▶ read ──▶ change ──▶ write a new file, 0600 ──▶ sync ──▶ rename ──▶ unlock
//! ```
//! It holds what is worth as much as passwords, so it is refused if others than its owner may read it, or may write it
//! and are neither root nor the daemon's user.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use auth::users::{FILE_BYTES_MAX, Users, UsersError};
use rustix::fs::{FlockOperation, flock};

use crate::watched::Stamp;

/// Why the users file cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    /// The system says no.
    #[error("could not {what} {path}: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error("{0} can be read or changed by others, and holds what is as good as passwords: chmod 600 it")]
    Public(PathBuf),
    /// It belongs to somebody who could let himself in with it.
    #[error("{path} belongs to user {uid}, who is neither root nor the daemon's user: chown it")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose.
        uid: u32,
    },
    /// It is wrong, or would be.
    #[error("{path}: {error}")]
    Users {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: UsersError,
    },
}

/// The users as the file has them now.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    current: Mutex<(Stamp, Arc<Users>)>,
}

impl UsersFile {
    /// Reads the file; if there is none there are no users.
    ///
    /// # Errors
    /// When it cannot be read, understood or trusted.
    pub fn open(path: &Path) -> Result<Self, UsersFileError> {
        let stamp = Stamp::of(path);
        let users = Arc::new(read(path)?);
        Ok(Self { path: path.to_owned(), current: Mutex::new((stamp, users)) })
    }

    /// The users as the file has them. If it has changed and is of no use now, those it had before; the log tells once.
    pub fn current(&self) -> Arc<Users> {
        let now = Stamp::of(&self.path);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != now {
            current.0 = now;
            match read(&self.path) {
                Ok(users) => {
                    tracing::info!(path = %self.path.display(), "the users file has been read again");
                    current.1 = Arc::new(users);
                }
                Err(error) => tracing::error!(%error, "the users are still those before this change"),
            }
        }
        Arc::clone(&current.1)
    }
}

/// The file's content; no users if there is no file.
///
/// # Errors
/// When it cannot be read, understood or trusted.
pub fn read(path: &Path) -> Result<Users, UsersFileError> {
    let wrap = |source| io_error("read", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Users::default()),
        Err(error) => return Err(wrap(error)),
    };
    let metadata = file.metadata().map_err(wrap)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(UsersFileError::Public(path.to_owned()));
    }
    let own = rustix::process::geteuid().as_raw();
    // Root reads the file of a daemon that is not root in order to change it.
    if metadata.uid() != own && metadata.uid() != 0 && own != 0 {
        return Err(UsersFileError::Foreign { path: path.to_owned(), uid: metadata.uid() });
    }
    let mut text = String::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_string(&mut text).map_err(wrap)?;
    Users::parse(&text).map_err(|error| users_error(path, error))
}

/// Changes the file. Others who do the same wait; a reader sees it as it was or as it will be.
///
/// # Errors
/// When it cannot be read or written, or `change` refuses; it is as before then.
pub fn change<T>(path: &Path, change: impl FnOnce(&mut Users) -> Result<T, UsersError>) -> Result<T, UsersFileError> {
    let lock_path = beside(path, ".lock");
    let wrap = |source| io_error("lock", &lock_path, source);
    let lock = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&lock_path);
    let lock = lock.map_err(wrap)?;
    give_to_owner(&lock, path).map_err(wrap)?;
    // Released when the file is closed.
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| wrap(errno.into()))?;
    let mut users = read(path)?;
    let done = change(&mut users).map_err(|error| users_error(path, error))?;
    write(path, &users.to_string()).map_err(|source| io_error("write", path, source))?;
    Ok(done)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, ".new");
    let _ = std::fs::remove_file(&new);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    give_to_owner(&file, path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Gives a new file to whoever has the one it stands beside, or else the directory: root may act for a daemon that is not root.
fn give_to_owner(file: &File, path: &Path) -> io::Result<()> {
    let model = if path.exists() { path } else { path.parent().unwrap_or(path) };
    give_to_owner_of(file, model)
}

/// Gives a file that root has made to whoever has `model`.
pub(crate) fn give_to_owner_of(file: &File, model: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(model)?;
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> UsersFileError {
    UsersFileError::Io { what, path: path.to_owned(), source }
}

fn users_error(path: &Path, error: UsersError) -> UsersFileError {
    UsersFileError::Users { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use auth::users::Role;

    use super::*;

    fn principals(users: &Users) -> Vec<String> {
        users.principals().map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn changes_are_whole_and_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let users = UsersFile::open(&path).unwrap();
        assert!(principals(&users.current()).is_empty());
        change(&path, |users| users.add_principal("a@R", Role::Read)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(principals(&users.current()), ["a@R"]);
        assert!(change(&path, |users| users.add_principal("a@R", Role::Read)).is_err());
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    change(path, |users| users.add_principal(&format!("{number}@R"), Role::Read)).unwrap()
                });
            }
        });
        assert_eq!(principals(&users.current()).len(), 9, "none of the changes is lost");
    }

    #[test]
    fn a_file_of_no_use_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        change(&path, |users| users.add_principal("a@R", Role::Read)).unwrap();
        let users = UsersFile::open(&path).unwrap();
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(principals(&users.current()), ["a@R"]);
        assert!(UsersFile::open(&path).unwrap_err().to_string().contains("not a users file"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path), Err(UsersFileError::Public(_))));
        std::fs::remove_file(&path).unwrap();
        assert!(principals(&users.current()).is_empty(), "without a file there are no users");
    }
}
