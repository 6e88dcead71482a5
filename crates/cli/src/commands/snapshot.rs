//! `snapvisor snapshot …`

use std::collections::HashMap;

use cim::op::Argument;
use serde::Serialize;
use serde_json::json;

use super::create::instance;
use super::job::{describe, finish, settle, text};
use super::lookup::{self, SnapshotOf, management_service, settings_target, snapshot_service, vm_target, zone};
use super::screen;
use super::vm::{start, turn_off};
use crate::args::{self, SnapshotApply, SnapshotCreate, SnapshotDelete, SnapshotName, Wait};
use crate::error::{Error, Kind, Result};
use crate::model::{Role, Settings, Vm, instance_id};
use crate::output::Output;
use crate::session::{Session, embedded, wql_quoted};
use crate::show::table::fields;
use crate::show::tree::{self, Node};
use crate::show::{printable, word};
use crate::units;

/// `SnapshotType`: what the machine's snapshot kind says.
const FULL: &str = "2";
/// The same: disks only.
const DISKS: &str = "3";

/// Carries out one of the commands.
///
/// # Errors
/// When the daemon cannot be reached or refuses, or a job did not complete.
pub fn run(session: &mut Session, command: args::Snapshot) -> Result<Output> {
    match command {
        args::Snapshot::Create(wanted) => create(session, &wanted),
        args::Snapshot::List { vm } => list(session, &vm),
        args::Snapshot::Show(name) => show(session, &name),
        args::Snapshot::Screenshot { snapshot, screenshot } => {
            let found = lookup::snapshot(session, &snapshot)?;
            screen::run(session, &found.settings.id, &found.settings.name, &screenshot)
        }
        args::Snapshot::Apply(apply) => self::apply(session, &apply),
        args::Snapshot::Rename { snapshot, new_name } => {
            let old = lookup::snapshot(session, &snapshot)?;
            modify(session, &old.settings, ("ElementName", &new_name))?;
            let done = format!("snapshot {} is now called {}\n", printable(&old.settings.name), printable(&new_name));
            Ok(Output::new(done, json!({ "snapshot": Settings { name: new_name, ..old.settings } })))
        }
        args::Snapshot::Notes { snapshot, text } => {
            let old = lookup::snapshot(session, &snapshot)?;
            modify(session, &old.settings, ("Notes", &text))?;
            let done = format!("notes of snapshot {} changed\n", printable(&old.settings.name));
            Ok(Output::new(done, json!({ "snapshot": Settings { notes: text, ..old.settings } })))
        }
        args::Snapshot::Delete(delete) => remove(session, &delete),
        args::Snapshot::ClearState { snapshot, wait } => {
            let found = lookup::snapshot(session, &snapshot)?;
            let done = format!("snapshot {} has no memory any more", printable(&found.settings.name));
            call(session, "ClearSnapshotState", "SnapshotSettingData", &found.settings, wait, &done)
        }
    }
}

fn create(session: &mut Session, wanted: &SnapshotCreate) -> Result<Output> {
    let vm = lookup::vm(session, &wanted.vm)?;
    let mut arguments = vec![("AffectedSystem".to_owned(), Argument::Reference(vm_target(&vm.id)))];
    if let Some(name) = &wanted.name {
        let settings = embedded("Msvm_VirtualSystemSettingData", &[("ElementName", name.as_str())]);
        arguments.push(instance("SnapshotSettings", settings));
    }
    arguments.push(text("SnapshotType", if wanted.disk_only { DISKS } else { FULL }));
    let called = session.invoke(snapshot_service(), "CreateSnapshot", arguments)?;
    if wanted.wait.no_wait {
        return settle(session, &called, wanted.wait, "");
    }
    let job = finish(session, &called)?
        .ok_or_else(|| Error::new(Kind::Failed, "the daemon began no job for the snapshot"))?;
    let mut snapshot = created_by(session, &job.id)?;
    lookup::measure(session, &mut snapshot)?;
    if let Some(notes) = &wanted.notes {
        modify(session, &snapshot, ("Notes", notes))?;
        snapshot.notes.clone_from(notes);
    }
    let report = job.report.as_ref().map(|report| format!(": {}", describe(report))).unwrap_or_default();
    let done = format!("snapshot {} of {} taken{report}\n", printable(&snapshot.name), printable(&vm.name));
    Ok(Output::new(done, json!({ "snapshot": snapshot, "job": job })))
}

/// The snapshot that a job has made.
fn created_by(session: &mut Session, job: &str) -> Result<Settings> {
    let path = format!("Msvm_ConcreteJob.InstanceID=\"{job}\"");
    let query = format!("ASSOCIATORS OF {{{path}}} WHERE ResultClass = Msvm_VirtualSystemSettingData");
    let rows = session.query(&query)?;
    let snapshot = rows.iter().filter_map(Settings::read).find(|one| one.role != Role::Machine);
    snapshot.ok_or_else(|| {
        Error::new(Kind::Failed, "the snapshot was taken and then could not be found")
            .hint("somebody may have removed it a moment ago")
    })
}

/// What `list` shows of a snapshot in JSON.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    settings: &'a Settings,
    /// Whether the machine's present state descends from it directly.
    current: bool,
    backup: bool,
}

fn list(session: &mut Session, typed: &str) -> Result<Output> {
    let vm = lookup::vm(session, typed)?;
    let mut settings = lookup::settings(session, Some(&vm.id))?;
    for snapshot in settings.iter_mut().filter(|one| one.role != Role::Machine) {
        lookup::measure(session, snapshot)?;
    }
    settings.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    let here = settings.iter().find(|one| one.role == Role::Machine).and_then(|own| own.parent.clone());
    let snapshots: Vec<&Settings> = settings.iter().filter(|one| one.role != Role::Machine).collect();
    let listed = snapshots.iter().map(|settings| Listed {
        settings,
        current: here.as_ref() == Some(&settings.id),
        backup: settings.role == Role::Backup,
    });
    let json = json!({ "vm": vm, "snapshots": listed.collect::<Vec<_>>() });
    let drawing = match snapshots.is_empty() {
        true => format!("{} has no snapshots\n", printable(&vm.name)),
        false => tree::render(&forest(&vm, &snapshots, here.as_deref(), &zone())),
    };
    Ok(Output::new(drawing, json))
}

/// The snapshots by descent, oldest first, and the machine where it is now.
fn forest(vm: &Vm, snapshots: &[&Settings], here: Option<&str>, zone: &jiff::tz::TimeZone) -> Vec<Node> {
    let mut children: HashMap<Option<&str>, Vec<&Settings>> = HashMap::new();
    for snapshot in snapshots {
        // One whose parent is not in the list is drawn as a root rather than not at all.
        let parent = snapshot.parent.as_deref().filter(|id| snapshots.iter().any(|one| one.id == *id));
        children.entry(parent).or_default().push(snapshot);
    }
    for siblings in children.values_mut() {
        siblings.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    }
    let now = Node { label: format!("● now, {}", vm.state), ..Node::default() };
    // Children before parents: reverse of an order in which each comes after its parent.
    let mut order: Vec<&Settings> = children.get(&None).cloned().unwrap_or_default();
    let mut next = 0;
    while let Some(snapshot) = order.get(next) {
        order.extend(children.get(&Some(snapshot.id.as_str())).into_iter().flatten());
        next += 1;
    }
    let mut nodes: HashMap<&str, Node> = HashMap::new();
    for snapshot in order.iter().rev() {
        let below = children.get(&Some(snapshot.id.as_str())).into_iter().flatten();
        let mut below: Vec<Node> = below.filter_map(|child| nodes.remove(child.id.as_str())).collect();
        if here == Some(snapshot.id.as_str()) {
            below.push(now.clone());
        }
        nodes.insert(
            &snapshot.id,
            Node { label: snapshot.name.clone(), columns: columns(snapshot, zone), children: below },
        );
    }
    let roots = children.get(&None).into_iter().flatten();
    let mut roots: Vec<Node> = roots.filter_map(|root| nodes.remove(root.id.as_str())).collect();
    if here.is_none() {
        roots.push(now);
    }
    roots
}

fn columns(snapshot: &Settings, zone: &jiff::tz::TimeZone) -> Vec<String> {
    let created = snapshot.created.map(|created| units::moment(created.0, zone)).unwrap_or_default();
    let contents = contents(snapshot);
    let backup = if snapshot.role == Role::Backup { ", for backup" } else { "" };
    let notes = snapshot.notes.lines().next().unwrap_or_default();
    vec![created, format!("{contents}{backup}"), notes.to_owned()]
}

/// `disks and 87.6 MiB of memory`
fn contents(snapshot: &Settings) -> String {
    match (snapshot.has_memory, snapshot.memory_bytes) {
        (false, _) => "disks".to_owned(),
        (true, None) => "disks and memory".to_owned(),
        (true, Some(bytes)) => format!("disks and {} of memory", units::bytes(bytes)),
    }
}

fn show(session: &mut Session, name: &SnapshotName) -> Result<Output> {
    let SnapshotOf { mut settings, vm } = lookup::snapshot(session, name)?;
    lookup::measure(session, &mut settings)?;
    let family = lookup::settings(session, Some(&vm.id))?;
    let like = wql_quoted(&instance_id(&settings.id));
    let disks =
        session.query(&format!("SELECT * FROM Msvm_StorageAllocationSettingData WHERE InstanceID LIKE '{like}%'"))?;
    let disks: Vec<&str> = disks.iter().filter_map(|disk| disk.text("HostResource")).collect();
    let named =
        |id: Option<&String>| id.and_then(|id| family.iter().find(|one| one.id == *id)).map(|one| one.name.clone());
    let here = family.iter().any(|one| one.role == Role::Machine && one.parent.as_ref() == Some(&settings.id));
    let mut rows = vec![
        ("name", settings.name.clone()),
        ("id", settings.id.clone()),
        ("machine", vm.name.clone()),
        ("taken", settings.created.map(|created| units::moment(created.0, &zone())).unwrap_or_default()),
        ("based on", named(settings.parent.as_ref()).unwrap_or_else(|| "nothing".to_owned())),
        ("current", if here { "yes" } else { "no" }.to_owned()),
        ("contents", contents(&settings)),
    ];
    rows.extend(disks.iter().map(|disk| ("disk", (*disk).to_owned())));
    if !settings.notes.is_empty() {
        rows.push(("notes", settings.notes.clone()));
    }
    let json = json!({ "snapshot": settings, "vm": vm, "current": here, "disks": disks });
    Ok(Output::new(fields(&rows), json))
}

fn apply(session: &mut Session, apply: &SnapshotApply) -> Result<Output> {
    if apply.start && apply.wait.no_wait {
        return Err(
            Error::new(Kind::Usage, "--start has to wait for the snapshot to be applied").hint("leave out --no-wait")
        );
    }
    let SnapshotOf { settings, vm } = lookup::snapshot(session, &apply.snapshot)?;
    if vm.is_on() {
        if !apply.force {
            return Err(Error::new(
                Kind::Refused,
                format!("{} is {}, and applying a snapshot replaces its state", vm.name, vm.state),
            )
            .hint("--force turns it off first; what it is doing now is lost")
            .hint(format!("to keep it, take a snapshot before: `snapvisor snapshot create {}`", word(&vm.name))));
        }
        turn_off(session, &vm)?;
    }
    let done = format!("{} is back at {}", printable(&vm.name), printable(&settings.name));
    let applied = call(session, "ApplySnapshot", "Snapshot", &settings, apply.wait, &done)?;
    if !apply.start {
        return Ok(applied);
    }
    start(session, &vm, apply.wait, &format!("{done} and runs"))
}

fn remove(session: &mut Session, delete: &SnapshotDelete) -> Result<Output> {
    let SnapshotOf { settings, .. } = lookup::snapshot(session, &delete.snapshot)?;
    let name = printable(&settings.name);
    match delete.tree {
        true => {
            let done = format!("snapshot {name} and all below it deleted");
            call(session, "DestroySnapshotTree", "SnapshotSettingData", &settings, delete.wait, &done)
        }
        false => {
            let done = format!("snapshot {name} deleted");
            call(session, "DestroySnapshot", "AffectedSnapshot", &settings, delete.wait, &done)
        }
    }
}

/// Calls a method of the service whose only argument is a snapshot.
fn call(
    session: &mut Session,
    method: &str,
    argument: &str,
    snapshot: &Settings,
    wait: Wait,
    done: &str,
) -> Result<Output> {
    let arguments = vec![(argument.to_owned(), Argument::Reference(settings_target(&snapshot.id)))];
    let called = session.invoke(snapshot_service(), method, arguments)?;
    settle(session, &called, wait, done)
}

fn modify(session: &mut Session, snapshot: &Settings, change: (&str, &str)) -> Result<()> {
    let id = instance_id(&snapshot.id);
    let settings = embedded("Msvm_VirtualSystemSettingData", &[("InstanceID", id.as_str()), change]);
    let called =
        session.invoke(management_service(), "ModifySystemSettings", vec![instance("SystemSettings", settings)])?;
    finish(session, &called).map(drop)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::model::Moment;

    /// Reads `name|parent|flags` lines: `m` for memory, `s` with its size, `b` for backup, `n` for notes, `*` for where the machine is now.
    fn check(text: &str, expected: &Expect) {
        let mut here = None;
        let snapshots: Vec<Settings> = text
            .lines()
            .enumerate()
            .map(|(index, line)| {
                let [name, parent, flags] = line.split('|').collect::<Vec<_>>().try_into().unwrap();
                if flags.contains('*') {
                    here = Some(name.to_owned());
                }
                let seconds = 1_700_000_000 + i64::try_from(index).unwrap() * 60;
                Settings {
                    id: name.to_owned(),
                    vm: "V".to_owned(),
                    name: name.to_owned(),
                    notes: if flags.contains('n') { "a note\nmore".to_owned() } else { String::new() },
                    created: Some(Moment(jiff::Timestamp::from_second(seconds).unwrap())),
                    parent: (!parent.is_empty()).then(|| parent.to_owned()),
                    has_memory: flags.contains('m'),
                    memory_bytes: flags.contains('s').then_some(91_800_000),
                    firmware: "bios",
                    snapshot_kind: "standard",
                    role: if flags.contains('b') { Role::Backup } else { Role::Snapshot },
                }
            })
            .collect();
        let vm = Vm { id: "V".into(), name: "web".into(), state: "running", activity: None, uptime_ms: 0 };
        let snapshots: Vec<&Settings> = snapshots.iter().collect();
        expected.assert_eq(&tree::render(&forest(&vm, &snapshots, here.as_deref(), &jiff::tz::TimeZone::UTC)));
    }

    #[test]
    fn trees_are_drawn() {
        let branches = "clean install||n\nbefore upgrade|clean install|m*\nexperiment|clean install|\ntwo|experiment|ms\nthree|experiment|";
        check(
            branches,
            &expect![[r#"
                clean install      2023-11-14 22:13:20  disks                         a note
                ├─ before upgrade  2023-11-14 22:14:20  disks and memory
                │  └─ ● now, running
                └─ experiment      2023-11-14 22:15:20  disks
                   ├─ two          2023-11-14 22:16:20  disks and 87.5 MiB of memory
                   └─ three        2023-11-14 22:17:20  disks
            "#]],
        );
        check(
            "a||",
            &expect![[r#"
            a  2023-11-14 22:13:20  disks
            ● now, running
        "#]],
        );
        check(
            "a||m\nbackup|a|b*\nother root||",
            &expect![[r#"
            a           2023-11-14 22:13:20  disks and memory
            └─ backup   2023-11-14 22:14:20  disks, for backup
               └─ ● now, running
            other root  2023-11-14 22:15:20  disks
        "#]],
        );
        check(
            "orphan|gone|*",
            &expect![[r#"
            orphan  2023-11-14 22:13:20  disks
            └─ ● now, running
        "#]],
        );
    }
}
