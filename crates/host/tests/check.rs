//! Checks, repairs and recoveries of data directories that are damaged on purpose. No emulator is needed; `qemu-img` is.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports, in its helpers too")]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use expect_test::{Expect, expect};
use host::account::Accounts;
use host::check::{self, Plan};
use host::inventory::Keeper;
use host::layout::Layout;
use host::seal::{Depth, Sealed, Seals};
use host::sealer::frozen;
use host::store_sqlite::{DataLock, SqliteStore};
use ledger::id::VmId;
use ledger::record::{Store, Stored, difference, rebuild};
use ledger::snapshot::Format;
use ledger::state::State;
use qemu::graph;
use qemu::qcow2::{self, Backing};

const VM: &str = "00000000-0000-4000-8000-000000000001";
const BASE: &str = "00000000-0000-4000-8000-000000000005";
const TOP: &str = "00000000-0000-4000-8000-00000000000B";
const OVERLAY: &str = "00000000-0000-4000-8000-00000000000C";
const SIZE: u64 = 1 << 20;

/// A data directory with one machine, one snapshot and two layers, all sealed and described.
struct Place {
    root: tempfile::TempDir,
    layout: Layout,
    state: State,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(&root.path().join("data"), &root.path().join("run"), Accounts::Own).unwrap();
        layout.create().unwrap();
        layout.create_vm(vm()).unwrap();
        let mut place = Self { root, layout, state: State::default() };
        place.image(&place.layer(BASE), None);
        place.image(&place.layer(TOP), Some(&place.layer(BASE)));
        let state = place.state_of(7);
        place.record(state);
        let seals = Seals::new(place.layout.clone());
        for thing in frozen(&place.state, vm()) {
            assert!(seals.seal(vm(), &thing, &|| ()).unwrap(), "{thing:?}");
        }
        place
    }

    fn layer(&self, id: &str) -> PathBuf {
        self.layout.vm(vm()).join("disks").join(format!("{id}.qcow2"))
    }

    fn image(&self, path: &Path, backing: Option<&Path>) {
        let file = backing.map(|path| path.to_str().unwrap());
        let backing = file.map(|file| Backing { file, format: graph::Format::Qcow2 });
        let image = qcow2::empty(SIZE, backing).unwrap();
        let file = File::create(path).unwrap();
        file.set_len(image.length).unwrap();
        image.pieces.iter().for_each(|(offset, bytes)| file.write_all_at(bytes, *offset).unwrap());
    }

    /// The machine with its snapshot, as records.
    fn state_of(&self, changed: u64) -> State {
        let settings = |disk: &str| {
            format!(
                r#"{{"processors":1,"memory_mib":64,"firmware":"Bios","bios_guid":"{VM}","nvram":null,"controllers":[{{"id":"00000000-0000-4000-8000-000000000003","bus":"Ide","number":0}}],"drives":[{{"id":"00000000-0000-4000-8000-000000000004","controller":"00000000-0000-4000-8000-000000000003","address":0,"disk":"{disk}"}}],"nics":[]}}"#
            )
        };
        let snapshot = "00000000-0000-4000-8000-000000000002";
        let layer = |id: &str, parent: &str| {
            let path = self.layer(id);
            format!(
                r#"{{"version":1,"id":"{id}","vm":"{VM}","path":{path:?},"format":"Qcow2","parent":{parent},"origin":"Created","size":{SIZE}}}"#
            )
        };
        let records = [
            (
                "vm",
                format!(
                    r#"{{"version":1,"id":"{VM}","name":"web","notes":"","created":1,"settings":{},"snapshot_kind":"Standard","power":"Off","saved":null,"parent":"{snapshot}","last_applied":null,"generation_id":"{VM}","power_changed":1,"configuration_changed":{changed},"garbage":[]}}"#,
                    settings(TOP)
                ),
            ),
            (
                "snapshot",
                format!(
                    r#"{{"version":1,"id":"{snapshot}","vm":"{VM}","name":"a","notes":"","created":2,"parent":null,"purpose":"User","settings":{},"snapshot_kind":"Standard","memory":null}}"#,
                    settings(BASE)
                ),
            ),
            ("layer", layer(BASE, "null")),
            ("layer", layer(TOP, &format!("{BASE:?}"))),
        ];
        let stored = records.map(|(kind, body)| Stored { kind: kind.to_owned(), id: String::new(), body });
        rebuild(self.state.revision + 1, &stored).unwrap()
    }

    /// Commits and describes what a daemon would.
    fn record(&mut self, state: State) {
        let mut store = SqliteStore::open(&self.layout).unwrap();
        store.commit(&difference(&self.state, &state).unwrap()).unwrap();
        Keeper::new(self.layout.clone()).keep(&self.state, &state);
        self.state = state;
    }

    fn findings(&self, depth: Depth) -> String {
        let report = check::check(&self.layout, depth, Some(Path::new("/usr/bin/qemu-img")));
        let line = |it: &check::Finding| {
            let concerns =
                if it.concerns.is_empty() { String::new() } else { format!(" [{}]", it.concerns.join(", ")) };
            let repair = if it.repair.is_some() { " (can be repaired)" } else { "" };
            format!("{}: {}{concerns}{repair}\n", it.severity.name(), it.text)
        };
        self.plain(&report.findings.iter().map(line).collect::<String>())
    }

    fn plain(&self, text: &str) -> String {
        let text = text.replace(&self.layout.vm(vm()).display().to_string(), "VM");
        text.replace(&self.root.path().display().to_string(), "ROOT").replace(BASE, "BASE").replace(TOP, "TOP")
    }

    /// Repairs what can be; says what was done.
    fn repair(&self) -> String {
        let lock = DataLock::take(&self.layout).unwrap();
        let aside = self.layout.set_aside().join("now");
        let report = check::check(&self.layout, Depth::Quick, None);
        let repairs = report.findings.iter().filter_map(|it| it.repair.as_ref());
        let done = repairs.map(|it| {
            let done = check::repair(&self.layout, &lock, Path::new("qemu-img"), &self.state, &aside, it).unwrap();
            done + "\n"
        });
        self.plain(&done.collect::<String>())
    }

    fn plan(&self, wanted: &[VmId]) -> Plan {
        check::plan(&self.layout, wanted.iter().copied().collect::<BTreeSet<_>>()).unwrap()
    }

    fn notes(&self, plan: &Plan) -> String {
        let note = |it: &ledger::inventory::Note| format!("{}{}\n", if it.warning { "! " } else { "" }, it.text);
        self.plain(&plan.recovered.notes.iter().map(note).collect::<String>())
    }

    fn recover(&self, plan: &Plan) -> State {
        let lock = DataLock::take(&self.layout).unwrap();
        check::put_in_place(&self.layout, &lock, &self.layout.set_aside().join("old"), plan).unwrap();
        drop(lock);
        let (revision, records) = SqliteStore::open(&self.layout).unwrap().load().unwrap();
        rebuild(revision, &records).unwrap()
    }
}

fn vm() -> VmId {
    VM.parse().unwrap()
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// Each row damages a sound place in one way.
// tidy: allow-long-fn one row for each damage, with what is said of it
#[test]
fn every_damage_has_its_finding() {
    let check = |damage: &dyn Fn(&Place), expected: Expect| {
        let place = Place::new();
        assert_eq!(place.findings(Depth::Full), "", "sound before");
        damage(&place);
        expected.assert_eq(&place.findings(Depth::Full));
    };
    check(
        &|place| fs::remove_file(place.layer(BASE)).unwrap(),
        expect![[r#"
            error: VM/disks/BASE.qcow2 is missing (disk of 'web') [snapshot 'a', the present state of 'web']
        "#]],
    );
    check(
        &|place| fs::remove_file(place.layer(TOP)).unwrap(),
        expect![[r#"
        error: VM/disks/TOP.qcow2 is missing (disk of 'web') [the present state of 'web']
    "#]],
    );
    check(
        &|place| flip(&place.layer(BASE), 30),
        expect![[r#"
        error: VM/disks/BASE.qcow2 is damaged: its header or its table is not what it was when it was sealed (disk of 'web') [snapshot 'a', the present state of 'web']
        error: VM/disks/BASE.qcow2 holds a disk of 1048832 bytes, 1048576 are on record [snapshot 'a', the present state of 'web']
    "#]],
    );
    check(
        &|place| flip(&place.layer(BASE), 2 * 65536 + 1),
        expect![[r#"
        error: VM/disks/BASE.qcow2 is damaged: its content is not what it was when it was sealed (disk of 'web') [snapshot 'a', the present state of 'web']
        error: VM/disks/BASE.qcow2: QEMU's check finds it damaged: ERROR cluster 0 refcount=0 reference=1 [snapshot 'a', the present state of 'web']
    "#]],
    );
    check(
        &|place| flip(&place.layer(TOP), 3),
        expect![[r#"
        error: VM/disks/TOP.qcow2 cannot be read: not a qcow2 image (disk of 'web') [the present state of 'web']
    "#]],
    );
    check(
        &|place| place.image(&place.layer(TOP), Some(Path::new("/etc/shadow"))),
        expect![[r#"
            error: VM/disks/TOP.qcow2 lies on /etc/shadow by its header, and on VM/disks/BASE.qcow2 by the record [the present state of 'web'] (can be repaired)
        "#]],
    );
    check(
        &|place| place.image(&place.layer(TOP), None),
        expect![[r#"
        error: VM/disks/TOP.qcow2 lies on nothing by its header, and on VM/disks/BASE.qcow2 by the record [the present state of 'web'] (can be repaired)
    "#]],
    );
    check(
        &|place| fs::write(place.layer(OVERLAY), "x").unwrap(),
        expect![[r#"
        warning: VM/disks/00000000-0000-4000-8000-00000000000C.qcow2 is in the directory of 'web', and nothing refers to it (can be repaired)
    "#]],
    );
    check(
        &|place| fs::remove_file(place.layout.inventory(vm())).unwrap(),
        expect![[r#"
        warning: the inventory of 'web' is missing (can be repaired)
    "#]],
    );
    check(
        &|place| flip(&place.layout.inventory(vm()), 700),
        expect![[r#"
        warning: the inventory of 'web' says something else and has 1 damaged records (can be repaired)
    "#]],
    );
    check(
        &|place| fs::write(place.layout.vms().join("notes.txt"), "x").unwrap(),
        expect![[r#"
        warning: ROOT/data/vms/notes.txt is among the machines' directories, and is none (can be repaired)
    "#]],
    );
    check(
        &|place| fs::remove_file(place.layout.database()).unwrap(),
        expect![[r#"
        error: the state store ROOT/data/snapvisor.sqlite is missing
    "#]],
    );
    check(
        &|place| fs::write(place.layout.database(), "not a database at all").unwrap(),
        expect![[r#"
        error: the state store ROOT/data/snapvisor.sqlite cannot be used: file is not a database
    "#]],
    );
    check(
        &|place| fs::write(place.layout.revision(), "00000000000000000009\n").unwrap(),
        expect![[r#"
        error: the state store is of revision 1, and 9 has been reached before: it is an older copy
    "#]],
    );
}

#[test]
fn somebody_elses_process_at_a_disk_is_named() {
    let place = Place::new();
    let _open = OpenOptions::new().write(true).open(place.layer(TOP)).unwrap();
    let found = place.findings(Depth::Full).replace(&std::process::id().to_string(), "PID");
    assert!(
        found.contains("VM/disks/TOP.qcow2 (the live disk of 'web') is open for writing in process PID"),
        "{found}"
    );
}

#[test]
fn what_can_be_repaired_is_and_nothing_is_deleted() {
    let place = Place::new();
    place.image(&place.layer(TOP), Some(Path::new("/elsewhere/base.qcow2")));
    fs::write(place.layer(OVERLAY), "left over").unwrap();
    fs::write(place.layout.inventory(vm()), "nonsense").unwrap();
    expect![[r#"
        VM/disks/TOP.qcow2 names VM/disks/BASE.qcow2 again
        moved VM/disks/00000000-0000-4000-8000-00000000000C.qcow2 to ROOT/data/set-aside/now/vms/00000000-0000-4000-8000-000000000001/disks/00000000-0000-4000-8000-00000000000C.qcow2
        wrote VM/inventory.jsonl
    "#]].assert_eq(&place.repair());
    assert_eq!(place.findings(Depth::Full), "");
    assert_eq!(place.repair(), "", "nothing is left to be done");
    // A file that is not as it was sealed may have other damage; one whose seal agrees has none, but another header than the record.
    place.image(&place.layer(BASE), Some(Path::new("/elsewhere/base.qcow2")));
    assert_eq!(place.repair(), "");
    let thing = &frozen(&place.state, vm())[0];
    let seals = Seals::new(place.layout.clone());
    assert!(seals.seal(vm(), thing, &|| ()).unwrap());
    assert_eq!(place.repair(), "VM/disks/BASE.qcow2 names no file below it again\n");
    assert!(!seals.has(vm(), thing), "it is another file now");
    assert_eq!(place.findings(Depth::Full), "");
    let aside = place.layout.set_aside().join("now/vms").join(VM).join("disks").join(format!("{OVERLAY}.qcow2"));
    assert_eq!(fs::read_to_string(aside).unwrap(), "left over");
}

#[test]
fn a_lost_database_comes_back_from_the_machines_own_words() {
    for damage in [None, Some("this is no database")] {
        let place = Place::new();
        match damage {
            None => fs::remove_file(place.layout.database()).unwrap(),
            Some(text) => fs::write(place.layout.database(), text).unwrap(),
        }
        let plan = place.plan(&[]);
        assert_eq!(place.notes(&plan), "'web' is back with 1 snapshot\n");
        let state = place.recover(&plan);
        assert_eq!(
            (&state.vms, &state.snapshots, &state.layers),
            (&place.state.vms, &place.state.snapshots, &place.state.layers)
        );
        assert!(state.revision > place.state.revision);
        Keeper::new(place.layout.clone()).reconcile(&state);
        assert_eq!(place.findings(Depth::Full), "");
    }
}

/// A store that is put back from yesterday knows nothing of today's snapshot, and would write to the layer that it froze.
#[test]
fn an_older_copy_of_the_database_is_brought_up_to_date() {
    let mut place = Place::new();
    let copy = place.root.path().join("copy");
    fs::copy(place.layout.database(), &copy).unwrap();
    let newer = place.state_of(8);
    place.record(newer);
    fs::copy(&copy, place.layout.database()).unwrap();
    let found = place.findings(Depth::Quick);
    assert!(found.contains("it is an older copy"), "{found}");
    // What it does not know of is not put aside, nor is what tells of it overwritten, whatever else may show how old it is.
    fs::write(place.layer(OVERLAY), "newer").unwrap();
    assert_eq!(place.repair(), "");
    fs::remove_file(place.layout.revision()).unwrap();
    let found = place.findings(Depth::Quick);
    assert!(found.contains("error: the inventory of 'web' is of revision 2, and the state store of 1"), "{found}");
    assert_eq!(place.repair(), "");
    fs::remove_file(place.layer(OVERLAY)).unwrap();
    fs::write(place.layout.revision(), "00000000000000000002\n").unwrap();
    let plan = place.plan(&[]);
    assert!(plan.stale);
    let state = place.recover(&plan);
    assert_eq!(state.vms, place.state.vms);
}

#[test]
fn a_machine_that_was_removed_comes_back_only_if_it_is_wanted() {
    let mut place = Place::new();
    let described = fs::read(place.layout.inventory(vm())).unwrap();
    let mut gone = State::default();
    gone.revision = place.state.revision + 1;
    place.record(gone);
    assert!(!place.layout.inventory(vm()).exists(), "what was removed does not describe itself any more");
    fs::write(place.layout.inventory(vm()), described).unwrap();
    let plan = place.plan(&[]);
    assert!(plan.recovered.state.vms.is_empty());
    assert!(place.notes(&plan).starts_with("! left out: it was removed"), "{}", place.notes(&plan));
    let plan = place.plan(&[vm()]);
    assert_eq!(plan.recovered.state.vms.len(), 1);
}

/// The store was lost while a job had just switched the disks: what the guest wrote since is in a file that nobody knows.
#[test]
fn a_live_top_that_nobody_knows_is_found_by_what_it_lies_on() {
    let place = Place::new();
    place.image(&place.layer(OVERLAY), Some(&place.layer(TOP)));
    fs::remove_file(place.layout.database()).unwrap();
    let plan = place.plan(&[]);
    let machine = &plan.recovered.state.vms[&vm()];
    assert_eq!(machine.settings.layers()[0].1.to_string(), OVERLAY);
    assert!(place.notes(&plan).contains("it is the machine's live disk now"), "{}", place.notes(&plan));
    // The job had perhaps not come to bring it to stable storage, nor what it lies on. A store that rests on them must not be there
    // before that is done.
    assert_eq!(plan.recovered.unsettled, [place.layer(OVERLAY), place.layer(TOP)]);
    let put_in_place = || {
        let lock = DataLock::take(&place.layout).unwrap();
        check::put_in_place(&place.layout, &lock, &place.layout.set_aside(), &plan)
    };
    fs::remove_file(place.layer(OVERLAY)).unwrap();
    std::os::unix::fs::symlink(place.layer(OVERLAY), place.layer(OVERLAY)).unwrap();
    let error = put_in_place().unwrap_err().to_string();
    assert!(error.contains(OVERLAY) && !place.layout.database().exists(), "{error}");
    fs::remove_file(place.layer(OVERLAY)).unwrap();
    place.image(&place.layer(OVERLAY), Some(&place.layer(TOP)));
    // A file that is missing is the trouble of one machine, and the others are to be back.
    fs::remove_file(place.layer(TOP)).unwrap();
    put_in_place().unwrap();
    assert!(place.layout.database().exists());
}

#[test]
fn a_damaged_record_costs_one_snapshot_and_not_the_machine() {
    let place = Place::new();
    let text = fs::read_to_string(place.layout.inventory(vm())).unwrap();
    let without: String =
        text.lines().filter(|line| !line.contains(r#""kind":"snapshot""#)).map(|l| format!("{l}\n")).collect();
    fs::write(place.layout.inventory(vm()), without).unwrap();
    fs::remove_file(place.layout.database()).unwrap();
    let plan = place.plan(&[]);
    assert_eq!(place.notes(&plan), "'web' is back with 0 snapshots\n");
    assert_eq!(plan.unusable.len(), 1, "{:?}", plan.unusable);
    assert_eq!(plan.recovered.state.vms[&vm()].parent, None);
}

#[test]
fn two_of_us_never_work_on_the_same_files() {
    let place = Place::new();
    let _store = SqliteStore::open(&place.layout).unwrap();
    assert!(DataLock::take(&place.layout).is_err());
}

/// What `frozen` names is what a check compares.
#[test]
fn seals_are_of_all_that_is_frozen() {
    let place = Place::new();
    let things = frozen(&place.state, vm());
    assert_eq!(things, [Sealed::Layer(BASE.parse().unwrap(), place.layer(BASE), Format::Qcow2)]);
}
