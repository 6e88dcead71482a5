//! The ledger's records in one SQLite file.
//!
//! ```text
//!   open ──lock taken──▶ schema checked ──▶ load ──▶ commit, commit, …
//!     └─ lock held by another daemon: refused, naming its process
//! ```
//! A commit is one transaction: the revision is compared, the records are written, the revision grows. Write-ahead
//! logging with `synchronous=FULL` makes SQLite call `fsync` on the log before a transaction counts, so what is
//! confirmed survives a power cut (SQLite documentation, "PRAGMA synchronous"). The lock is `flock` on a file beside
//! the database: the kernel gives it back when the daemon dies, however it dies. A daemon that dies while it starts a
//! process leaves a copy of itself that is about to become that process and shares the lock until then. So the lock is waited
//! for a little, and who has it knows that no such copy is left.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ledger::record::{Commit, Store, StoreError, Stored};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use rustix::fs::FlockOperation;

use crate::layout::Layout;

/// Version of the tables below, in SQLite's `user_version`. The bodies have a version of their own.
const SCHEMA_VERSION: i64 = 1;

/// How long the lock is waited for: copies of a dead daemon live for milliseconds, on a busy machine for some more.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

const SCHEMA: &str = "
    CREATE TABLE record (kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, id)) STRICT;
    CREATE TABLE revision (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
    INSERT INTO revision VALUES (1, 0);
";

/// A store in a SQLite file, and the lock on its directory.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    /// Held for its lock.
    _lock: File,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon works here.
    #[error(
        "{directory} is in use by the daemon with process id {holder}: stop that one first, or use another data directory"
    )]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// Its process id, as it wrote it; `unknown` if it has not yet.
        holder: String,
    },
    /// The lock file or the database cannot be opened.
    #[error("could not open or lock {path}: {source}")]
    Lock {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Written by a newer program.
    #[error(
        "{path} has schema version {found}, this program knows up to {SCHEMA_VERSION}: use the newer program that wrote it"
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// SQLite refused.
    #[error("could not open the state store {path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

impl SqliteStore {
    /// Takes the lock of the data directory and opens the store in it, making it if it is not there.
    ///
    /// # Errors
    /// When another daemon holds the lock, or the file cannot be used.
    pub fn open(layout: &Layout) -> Result<Self, OpenError> {
        let lock = take_lock(&layout.lock(), layout.data())?;
        let path = layout.database();
        let wrap = |source| OpenError::Sqlite { path: path.clone(), source };
        create_private(&path).map_err(|source| OpenError::Lock { path: path.clone(), source })?;
        let mut connection = Connection::open(&path).map_err(wrap)?;
        configure(&connection).map_err(wrap)?;
        let found = migrate(&mut connection).map_err(wrap)?;
        if found > SCHEMA_VERSION {
            return Err(OpenError::TooNew { path, found });
        }
        Ok(Self { connection, _lock: lock })
    }

    fn read_all(&mut self) -> rusqlite::Result<(u64, Vec<Stored>)> {
        let transaction = self.connection.transaction()?;
        let revision = read_revision(&transaction)?;
        // In the order in which they lie in the file: to sort them would mean to look each of them up.
        let mut statement = transaction.prepare("SELECT kind, id, body FROM record")?;
        let rows =
            statement.query_map((), |row| Ok(Stored { kind: row.get(0)?, id: row.get(1)?, body: row.get(2)? }))?;
        let records = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok((revision, records))
    }

    /// The revision found, if it is not the expected one; then nothing was written.
    fn write(&mut self, commit: &Commit) -> rusqlite::Result<Option<u64>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = read_revision(&transaction)?;
        if found != commit.expected_revision {
            return Ok(Some(found));
        }
        for change in &commit.changes {
            let (kind, id) = (change.key.kind(), change.key.id());
            match &change.body {
                Some(body) => transaction
                    .prepare_cached("INSERT OR REPLACE INTO record (kind, id, body) VALUES (?1, ?2, ?3)")?
                    .execute((kind, id, body))?,
                None => {
                    transaction.prepare_cached("DELETE FROM record WHERE kind = ?1 AND id = ?2")?.execute((kind, id))?
                }
            };
        }
        transaction.execute("UPDATE revision SET number = number + 1", ())?;
        transaction.commit()?;
        Ok(None)
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<(u64, Vec<Stored>), StoreError> {
        self.read_all().map_err(failed)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        match self.write(commit).map_err(failed)? {
            None => Ok(()),
            Some(found) => Err(StoreError::Conflict { expected: commit.expected_revision, found }),
        }
    }
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

fn read_revision(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    let number: i64 = transaction.query_row("SELECT number FROM revision", (), |row| row.get(0))?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, number))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// Makes the tables in a new file. The version found or made.
fn migrate(connection: &mut Connection) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: Option<i64> =
        transaction.query_row("SELECT user_version FROM pragma_user_version", (), |row| row.get(0)).optional()?;
    match found {
        Some(version) if version > 0 => Ok(version),
        _ => {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
            Ok(SCHEMA_VERSION)
        }
    }
}

fn take_lock(path: &Path, directory: &Path) -> Result<File, OpenError> {
    let wrap = |source: std::io::Error| OpenError::Lock { path: path.to_owned(), source };
    let mut file = create_private(path).map_err(wrap)?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::Locked { directory: directory.to_owned(), holder: read_holder(&mut file) });
            }
            Err(error) => return Err(wrap(error.into())),
        }
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(wrap)?;
    Ok(file)
}

/// Opens `path`, making it readable by nobody else if it is not there. SQLite gives its log files the same mode.
fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use ledger::id::{SnapshotId, VmId};
    use ledger::record::{Change, Key};
    use uuid::Uuid;

    fn layout(root: &Path) -> Layout {
        let layout = Layout::new(&root.join("data"), &root.join("run"), crate::account::Accounts::Own).unwrap();
        layout.create().unwrap();
        layout
    }

    fn put(key: Key, body: &str) -> Change {
        Change { key, body: Some(body.to_owned()) }
    }

    #[test]
    fn commits_are_found_again_by_the_next_daemon() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let (vm, snapshot) = (Key::Vm(VmId(Uuid::from_u128(1))), Key::Snapshot(SnapshotId(Uuid::from_u128(2))));
        let mut store = SqliteStore::open(&layout).unwrap();
        assert_eq!(store.load().unwrap(), (0, vec![]));
        store.commit(&Commit { expected_revision: 0, changes: vec![put(vm, "one"), put(snapshot, "two")] }).unwrap();
        store
            .commit(&Commit {
                expected_revision: 1,
                changes: vec![put(vm, "three"), Change { key: snapshot, body: None }],
            })
            .unwrap();
        drop(store);
        let (revision, records) = SqliteStore::open(&layout).unwrap().load().unwrap();
        assert_eq!(revision, 2);
        expect![[r#"
            [
                Stored {
                    kind: "vm",
                    id: "00000000-0000-0000-0000-000000000001",
                    body: "three",
                },
            ]
        "#]]
        .assert_debug_eq(&records);
    }

    #[test]
    fn a_commit_against_another_revision_writes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(&layout(root.path())).unwrap();
        let commit = Commit { expected_revision: 5, changes: vec![put(Key::Vm(VmId(Uuid::nil())), "lost")] };
        let error = store.commit(&commit).unwrap_err();
        expect!["the store is at revision 0, not 5: another daemon has written to it"].assert_eq(&error.to_string());
        assert_eq!(store.load().unwrap(), (0, vec![]));
    }

    #[test]
    fn a_second_daemon_is_refused_and_told_who_is_there() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let first = SqliteStore::open(&layout).unwrap();
        let text = SqliteStore::open(&layout).unwrap_err().to_string();
        assert!(text.contains(&format!("the daemon with process id {}:", std::process::id())), "{text}");
        drop(first);
        SqliteStore::open(&layout).unwrap();
    }

    /// A process that inherited the lock, as one does between its fork and its exec, outlives the daemon by a moment.
    #[test]
    fn the_lock_of_a_daemon_that_died_while_it_started_a_process_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let first = SqliteStore::open(&layout).unwrap();
        let inherited = first._lock.try_clone().unwrap();
        let mut cat = std::process::Command::new("cat");
        let mut child = cat.stdin(std::process::Stdio::piped()).stdout(inherited).spawn().unwrap();
        // The command keeps a copy of what it gave the child.
        drop((first, cat));
        drop(child.stdin.take());
        SqliteStore::open(&layout).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_newer_schema_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let store = SqliteStore::open(&layout).unwrap();
        store.connection.pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        assert!(matches!(SqliteStore::open(&layout), Err(OpenError::TooNew { found: 99, .. })));
    }
}
