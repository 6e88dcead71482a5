//! Which processes have a file open, by what the kernel shows of their descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// `O_ACCMODE` of open(2): zero is for reading only.
const ACCESS_MODE: u32 = 0o3;

/// A process that has a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its process id.
    pub pid: i32,
    /// Its program.
    pub program: String,
    /// It may write to the file.
    pub writes: bool,
}

/// Who has which file open. Of processes of other users only root sees anything.
#[derive(Clone, Debug, Default)]
pub struct Users(BTreeMap<PathBuf, Vec<User>>);

impl Users {
    /// Looks at all processes.
    pub fn look() -> Self {
        let mut users = Self::default();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                users.add(pid, &entry.path());
            }
        }
        users
    }

    /// Those of one file.
    pub fn of(&self, path: &Path) -> &[User] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }

    /// The files that a process may write to.
    pub fn written_by(&self, pid: i32) -> BTreeSet<PathBuf> {
        let writes = |users: &Vec<User>| users.iter().any(|user| user.pid == pid && user.writes);
        self.0.iter().filter(|(_, users)| writes(users)).map(|(path, _)| path.clone()).collect()
    }

    fn add(&mut self, pid: i32, process: &Path) {
        let mut program = None;
        for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if !target.is_absolute() || target.starts_with("/dev") || target.starts_with("/proc") {
                continue;
            }
            let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).unwrap_or_default();
            let program = program
                .get_or_insert_with(|| fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned());
            let user = User { pid, program: program.clone(), writes: may_write(&info) };
            let known = self.0.entry(target).or_default();
            match known.iter_mut().find(|known| known.pid == pid) {
                Some(known) => known.writes |= user.writes,
                None => known.push(user),
            }
        }
    }
}

/// Reads the line `flags: 0100002` of a descriptor's information, octal (proc_pid_fdinfo(5)).
fn may_write(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & ACCESS_MODE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_has_its_user() {
        let root = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(root.path()).unwrap().join("f");
        let own = i32::try_from(std::process::id()).unwrap();
        // A child that another test starts has our files open, too, until it runs its program.
        let ours = |users: &Users| -> Vec<bool> {
            users.of(&path).iter().filter(|user| user.pid == own).map(|user| user.writes).collect()
        };
        assert_eq!(ours(&Users::look()), [false; 0]);
        let written = fs::File::create(&path).unwrap();
        assert_eq!(ours(&Users::look()), [true]);
        let read = fs::File::open(&path).unwrap();
        drop(written);
        assert_eq!(ours(&Users::look()), [false]);
        drop(read);
    }
}
