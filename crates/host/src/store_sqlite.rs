//! The ledger's records in one SQLite file.
//!
//! ```text
//!   open ──lock taken──▶ schema checked ──▶ load ──▶ commit, commit, …
//!     └─ lock held by another daemon: refused, naming its process
//! ```
//! A commit is one transaction: the revision is compared, the records are written, the revision grows. Write-ahead
//! logging with `synchronous=FULL` makes SQLite call `fsync` on the log before a transaction counts, so what is
//! confirmed survives a power cut (SQLite documentation, "PRAGMA synchronous"). Each record has a sum, because SQLite notices damage to its
//! own structure only. A file beside the database keeps the highest revision there ever was, so that an older copy put in the
//! place of the database is noticed before anything is done by it: it would take layers for live on which newer snapshots rest.
//! Another file keeps some space in reserve: on a full disk what happens must still be recorded, and snapshots be deleted to make room.
//! The lock is `flock` on a file beside
//! the database: the kernel gives it back when the daemon dies, however it dies. A daemon that dies while it starts a
//! process leaves a copy of itself that is about to become that process and shares the lock until then. So the lock is waited
//! for a little, and who has it knows that no such copy is left.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ledger::record::{self, Commit, Store, StoreError, Stored};
use ledger::state::State;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};
use rustix::fs::FlockOperation;

use crate::checked;
use crate::disk;
use crate::hands::{allocated, sync_directory_of};
use crate::inventory;
use crate::layout::Layout;

/// Version of the tables below, in SQLite's `user_version`. The bodies have a version of their own. 2: bodies have a sum in front.
const SCHEMA_VERSION: i64 = 2;

/// Digits of the highest revision in its file, which is written in place: always as many, so that it is never torn.
const REVISION_DIGITS: usize = 20;

/// Space given back to the file system when a commit finds none: enough for thousands of commits until somebody has made room.
const RESERVE_BYTES: u64 = 8 << 20;

/// Free space from which on the reserve is taken anew.
const PLENTY_BYTES: u64 = 64 << 20;

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
    /// Keeps the highest revision.
    mark: File,
    /// The file that keeps space in reserve.
    reserve: PathBuf,
    /// It was given up, or could not be made.
    reserve_is_missing: bool,
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
    /// The database is gone, and machines are there.
    #[error(
        "{path} is missing, but {machines} machines in the data directory describe themselves: put it back, or run \
         `snapvisor recover` to put the machines on record again"
    )]
    Lost {
        /// The database.
        path: PathBuf,
        /// How many inventories there are.
        machines: usize,
    },
    /// Somebody put an older copy in its place.
    #[error(
        "{path} is of revision {found}, and revision {mark} has been reached before: it is an older copy. Starting from it could \
         harm snapshots taken since. Put the newest one back, or run `snapvisor recover`, which takes from each machine's own \
         directory what is newer"
    )]
    Stale {
        /// The database.
        path: PathBuf,
        /// Its revision.
        found: u64,
        /// The highest one that there was.
        mark: u64,
    },
    /// SQLite refused.
    #[error(
        "could not open the state store {path}: {source}; if the file is damaged, `snapvisor recover` puts the machines on record again"
    )]
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
        let is_new = fs::metadata(&path).map_or(true, |meta| meta.len() == 0);
        let described = if is_new { inventory::read_all(layout).0.len() } else { 0 };
        if described > 0 {
            return Err(OpenError::Lost { path, machines: described });
        }
        create_private(&path).map_err(|source| OpenError::Lock { path: path.clone(), source })?;
        let mut connection = Connection::open(&path).map_err(wrap)?;
        configure(&connection).map_err(wrap)?;
        let found = migrate(&mut connection).map_err(wrap)?;
        if found > SCHEMA_VERSION {
            return Err(OpenError::TooNew { path, found });
        }
        let lock_error = |source| OpenError::Lock { path: layout.revision(), source };
        let mark = create_private(&layout.revision()).map_err(lock_error)?;
        let reserve = layout.reserve();
        let reserve_is_missing = !keep_reserve(&reserve);
        let store = Self { connection, mark, reserve, reserve_is_missing, _lock: lock };
        let revision = store.revision().map_err(wrap)?;
        match read_mark(layout) {
            Some(mark) if mark > revision => Err(OpenError::Stale { path, found: revision, mark }),
            _ => Ok(store),
        }
    }

    /// What is stored, read beside a daemon that may be at work. `None` if there is no database.
    ///
    /// # Errors
    /// When it cannot be read, and what SQLite finds wrong with it.
    pub fn look(layout: &Layout) -> Result<Option<(u64, Vec<Stored>)>, StoreError> {
        let path = layout.database();
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
        connection.busy_timeout(LOCK_PATIENCE).map_err(failed)?;
        let found: String = connection.query_row("PRAGMA integrity_check(1)", (), |row| row.get(0)).map_err(failed)?;
        if found != "ok" {
            return Err(StoreError::Failed(found));
        }
        let found = read_all(&mut connection).map_err(failed)?;
        Ok(Some(checked_records(found)?))
    }

    /// Makes a database of its own for what was recovered, in the place of the present one, which is moved aside. The lock must be held.
    ///
    /// # Errors
    /// When a file cannot be moved or written. The old database is where it was, or in `aside`.
    pub fn replace(layout: &Layout, lock: &DataLock, aside: &Path, state: &State) -> Result<(), StoreError> {
        let _ = lock;
        let io = |source: std::io::Error| StoreError::Failed(source.to_string());
        let draft = layout.database().with_extension("draft");
        for name in with_logs(&draft) {
            remove_if_there(&name).map_err(io)?;
        }
        create_private(&draft).map_err(io)?;
        let mut connection = Connection::open(&draft).map_err(failed)?;
        configure(&connection).map_err(failed)?;
        migrate(&mut connection).map_err(failed)?;
        if let Some(commit) = record::difference(&State::default(), state) {
            let transaction = connection.transaction().map_err(failed)?;
            transaction.execute("UPDATE revision SET number = ?1", [revision_of(state)]).map_err(failed)?;
            write_changes(&transaction, &commit).map_err(failed)?;
            transaction.commit().map_err(failed)?;
        }
        // Nothing is left in a log that the renamed file would miss.
        connection.pragma_update(None, "journal_mode", "delete").map_err(failed)?;
        drop(connection);
        for name in with_logs(&layout.database()) {
            if let (true, Some(file)) = (name.exists(), name.file_name()) {
                fs::create_dir_all(aside).and_then(|()| fs::rename(&name, aside.join(file))).map_err(io)?;
            }
        }
        fs::rename(&draft, layout.database()).map_err(io)?;
        remove_if_there(&layout.revision()).map_err(io)?;
        sync_directory_of(&layout.database()).map_err(io)
    }

    fn revision(&self) -> rusqlite::Result<u64> {
        self.connection.query_row("SELECT number FROM revision", (), |row| row.get(0)).and_then(|number: i64| {
            u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, number))
        })
    }

    /// Not synchronised: after a power cut it may be behind the store, which only means that it notices less.
    fn write_mark(&self, revision: u64) {
        let text = format!("{revision:0width$}\n", width = REVISION_DIGITS);
        if let Err(error) = self.mark.write_all_at(text.as_bytes(), 0) {
            tracing::warn!(%error, "the highest revision could not be written down");
        }
    }
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<(u64, Vec<Stored>), StoreError> {
        checked_records(read_all(&mut self.connection).map_err(failed)?)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let mut written = write(&mut self.connection, commit);
        if written.as_ref().is_err_and(is_full) && !self.reserve_is_missing {
            tracing::error!(
                "there is no space left for the state store: its reserve is used; delete snapshots or free some space"
            );
            self.reserve_is_missing = true;
            if remove_if_there(&self.reserve).is_ok() {
                written = write(&mut self.connection, commit);
            }
        } else if self.reserve_is_missing {
            self.reserve_is_missing = !keep_reserve(&self.reserve);
        }
        match written.map_err(failed)? {
            None => {
                self.write_mark(commit.expected_revision + 1);
                Ok(())
            }
            Some(found) => Err(StoreError::Conflict { expected: commit.expected_revision, found }),
        }
    }
}

/// The highest revision that was written down. One that cannot be understood says nothing: it was written and not yet synced when
/// the power failed.
pub fn read_mark(layout: &Layout) -> Option<u64> {
    let mut bytes = [0; REVISION_DIGITS];
    File::open(layout.revision()).ok()?.read_exact(&mut bytes).ok()?;
    std::str::from_utf8(&bytes).ok()?.parse().ok()
}

fn read_all(connection: &mut Connection) -> rusqlite::Result<(u64, Vec<Stored>)> {
    let transaction = connection.transaction()?;
    let revision = read_revision(&transaction)?;
    // In the order in which they lie in the file: to sort them would mean to look each of them up.
    let mut statement = transaction.prepare("SELECT kind, id, body FROM record")?;
    let rows = statement.query_map((), |row| Ok(Stored { kind: row.get(0)?, id: row.get(1)?, body: row.get(2)? }))?;
    let records = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok((revision, records))
}

/// Takes the sums off.
fn checked_records((revision, mut records): (u64, Vec<Stored>)) -> Result<(u64, Vec<Stored>), StoreError> {
    for record in &mut records {
        match checked::read(&record.body) {
            Some(body) => record.body = body.to_owned(),
            // Written before there were sums.
            None if !checked::has_form(&record.body) => {}
            None => {
                let Stored { kind, id, .. } = record;
                let advice = "`snapvisor check` tells more, `snapvisor recover` puts the machines on record again";
                return Err(StoreError::Failed(format!("the record {kind} {id} is damaged: {advice}")));
            }
        }
    }
    Ok((revision, records))
}

/// The revision found, if it is not the expected one; then nothing was written.
fn write(connection: &mut Connection, commit: &Commit) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = read_revision(&transaction)?;
    if found != commit.expected_revision {
        return Ok(Some(found));
    }
    write_changes(&transaction, commit)?;
    transaction.execute("UPDATE revision SET number = number + 1", ())?;
    transaction.commit()?;
    Ok(None)
}

fn write_changes(transaction: &Transaction<'_>, commit: &Commit) -> rusqlite::Result<()> {
    for change in &commit.changes {
        let (kind, id) = (change.key.kind(), change.key.id());
        match &change.body {
            Some(body) => transaction
                .prepare_cached("INSERT OR REPLACE INTO record (kind, id, body) VALUES (?1, ?2, ?3)")?
                .execute((kind, id, checked::line(body)))?,
            None => {
                transaction.prepare_cached("DELETE FROM record WHERE kind = ?1 AND id = ?2")?.execute((kind, id))?
            }
        };
    }
    Ok(())
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
        // Bodies without a sum are read, and get one when they change.
        Some(1) => {
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
            Ok(SCHEMA_VERSION)
        }
        Some(version) if version > 0 => Ok(version),
        _ => {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
            Ok(SCHEMA_VERSION)
        }
    }
}

/// The lock of a data directory, for work that must not meet a daemon.
#[derive(Debug)]
pub struct DataLock {
    /// Held for its lock.
    _file: File,
}

impl DataLock {
    /// Takes it.
    ///
    /// # Errors
    /// When a daemon is at work.
    pub fn take(layout: &Layout) -> Result<Self, OpenError> {
        Ok(Self { _file: take_lock(&layout.lock(), layout.data())? })
    }
}

/// Takes the reserve, if there is plenty of space. Whether it is there.
fn keep_reserve(path: &Path) -> bool {
    // One that was interrupted may be empty.
    if allocated(path).is_ok_and(|bytes| bytes >= RESERVE_BYTES) {
        return true;
    }
    let free = path.parent().and_then(|directory| disk::free_bytes(directory).ok());
    if free.is_none_or(|free| free < PLENTY_BYTES) {
        return false;
    }
    let taken = create_private(path).and_then(|file| {
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES).map_err(Into::into)
    });
    if let Err(error) = &taken {
        tracing::warn!(%error, path = %path.display(), "no space could be kept in reserve");
        // An empty one would be taken for a reserve.
        let _ = fs::remove_file(path);
    }
    taken.is_ok()
}

/// No space, in one of the ways in which SQLite says so.
fn is_full(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
    error.sqlite_error_code().is_some_and(|code| matches!(code, DiskFull | SystemIoFailure))
}

/// A database and the files that SQLite keeps beside it.
fn with_logs(path: &Path) -> Vec<PathBuf> {
    ["", "-wal", "-shm"].iter().map(|suffix| format!("{}{suffix}", path.display()).into()).collect()
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn revision_of(state: &State) -> i64 {
    // The store counts commits: no daemon lives long enough for more than fit.
    i64::try_from(state.revision).unwrap_or(i64::MAX)
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

    fn commit(revision: u64) -> Commit {
        Commit { expected_revision: revision, changes: vec![put(Key::Vm(VmId(Uuid::from_u128(1))), "{\"one\": 1}")] }
    }

    #[test]
    fn a_record_with_a_flipped_bit_is_named() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let mut store = SqliteStore::open(&layout).unwrap();
        store.commit(&commit(0)).unwrap();
        let flip = "UPDATE record SET body = replace(body, '1}', '3}')";
        store.connection.execute(flip, ()).unwrap();
        let expected = expect![
            "the state store failed: the record vm 00000000-0000-0000-0000-000000000001 is damaged: `snapvisor check` tells more, `snapvisor recover` puts the machines on record again"
        ];
        expected.assert_eq(&store.load().unwrap_err().to_string());
        expected.assert_eq(&SqliteStore::look(&layout).unwrap_err().to_string());
        // One without a sum is of an older program.
        store.connection.execute("UPDATE record SET body = '{}'", ()).unwrap();
        assert_eq!(store.load().unwrap().1[0].body, "{}");
        assert_eq!(SqliteStore::look(&layout).unwrap().unwrap().1[0].body, "{}");
    }

    #[test]
    fn an_older_copy_of_the_database_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let mut store = SqliteStore::open(&layout).unwrap();
        store.commit(&commit(0)).unwrap();
        drop(store);
        let copy = root.path().join("copy");
        fs::copy(layout.database(), &copy).unwrap();
        let mut store = SqliteStore::open(&layout).unwrap();
        store.commit(&commit(1)).unwrap();
        drop(store);
        fs::copy(&copy, layout.database()).unwrap();
        assert!(matches!(SqliteStore::open(&layout), Err(OpenError::Stale { found: 1, mark: 2, .. })));
        // A mark that the power cut tore says nothing.
        fs::write(layout.revision(), "000").unwrap();
        SqliteStore::open(&layout).unwrap();
    }

    #[test]
    fn a_lost_database_is_not_begun_anew() {
        let root = tempfile::tempdir().unwrap();
        let layout = layout(root.path());
        let vm = VmId(Uuid::from_u128(1));
        layout.create_vm(vm).unwrap();
        fs::write(layout.inventory(vm), "").unwrap();
        drop(SqliteStore::open(&layout).unwrap());
        fs::remove_file(layout.database()).unwrap();
        let head = checked::line(&format!(r#"{{"version":1,"vm":"{vm}","revision":1,"records":0}}"#));
        fs::write(layout.inventory(vm), head).unwrap();
        assert!(matches!(SqliteStore::open(&layout), Err(OpenError::Lost { machines: 1, .. })));
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
