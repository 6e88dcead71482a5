//! Image files that belong to no machine: what is done with them, and what must hold whatever goes wrong.

use expect_test::{Expect, expect};
use ledger::image_file::ImageWork;
use ledger::job::JobState;
use ledger::request::{Reply, Request};

use super::rig::Rig;
use super::world::{Content, File, World};
use super::{Do, Scene};

const BASE: &str = "/images/base.qcow2";
const TOP: &str = "/images/top.qcow2";
const NEW: &str = "/images/new.qcow2";
const COPY: &str = "/images/copy.raw";

/// A disk in two files.
pub fn prepare(world: &mut World) {
    world.files.insert(BASE.into(), File { backing: None, blocks: [(0, 7), (1, 7)].into() });
    world.files.insert(TOP.into(), File { backing: Some(BASE.into()), blocks: [(0, 9)].into() });
}

/// What the words of a scenario stand for.
pub fn work(what: &str) -> ImageWork {
    match what {
        "create" => ImageWork::Create { path: NEW.into(), size: Some(1 << 20), fixed: false, parent: None },
        "convert" => ImageWork::Convert { source: TOP.into(), path: COPY.into(), fixed: false },
        "resize" => ImageWork::Resize { path: BASE.into(), size: 1 << 30 },
        "merge" => ImageWork::Merge { child: TOP.into(), parent: BASE.into() },
        "check" => ImageWork::Validate { path: BASE.into() },
        unknown => panic!("no such work: {unknown}"),
    }
}

/// New files are whole or not there, nothing but a name that its job tells of is left, and the disk in two files can be
/// read from the top as long as there is one.
pub fn check(rig: &Rig, action: &Do) {
    let files = &rig.world.files;
    let disk: Content = [(0, 9), (1, 7)].into();
    let top = if files.contains_key(std::path::Path::new(TOP)) { TOP } else { BASE };
    assert_eq!(rig.world.read(top.as_ref()), disk, "{action:?}");
    if let Some(copy) = files.get(std::path::Path::new(COPY)) {
        assert_eq!((copy.backing.as_ref(), &copy.blocks), (None, &disk), "{action:?}");
    }
    let left = files.keys().filter(|path| path.to_string_lossy().contains(".part"));
    for path in left {
        let told = rig.told.iter().any(|text| text.contains(&*path.to_string_lossy()));
        assert!(told, "{action:?}: {} is left and nobody says so", path.display());
    }
}

/// How a request ends: refused, or as its job.
fn end(rig: &Rig, reply: Option<Reply>) -> String {
    match reply {
        Some(Reply::Refused(failure)) => format!("refused: {}", failure.full_text()),
        Some(Reply::Job(job)) => match &rig.state().jobs[&job].state {
            JobState::Failed(failure) => format!("{:?}: {}", failure.kind, failure.message),
            other => format!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    .replace(&format!("{:?}", uuid::Uuid::nil()), "")
}

#[test]
fn what_a_machine_uses_is_left_alone() {
    let mut scene = Scene::new(&[]);
    let mut check = |work: ImageWork, expected: Expect| {
        let reply = scene.rig.ask(Request::WorkOnImage(work));
        expected.assert_eq(&end(&scene.rig, reply));
    };
    let used = || "/user/a.qcow2".into();
    let in_use = "InUse: '/user/a.qcow2' belongs to machine 'm' and its snapshots";
    let same = |work| {
        let mut scene = Scene::new(&[]);
        let reply = scene.rig.ask(Request::WorkOnImage(work));
        assert_eq!(end(&scene.rig, reply), in_use);
    };
    same(ImageWork::Resize { path: used(), size: 1 << 30 });
    same(ImageWork::Convert { source: used(), path: NEW.into(), fixed: false });
    same(ImageWork::Create { path: NEW.into(), size: None, fixed: false, parent: Some(used()) });
    same(ImageWork::Validate { path: used() });
    check(
        ImageWork::Create { path: "/data/x.qcow2".into(), size: Some(512), fixed: false, parent: None },
        expect!["InvalidParameter: '/data/x.qcow2' lies in the service's own directory"],
    );
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    let mut scene = Scene::new(&[]);
    let mut check = |path: &str, size: Option<u64>, fixed: bool, parent: Option<&str>, expected: Expect| {
        let parent = parent.map(Into::into);
        let reply = scene.rig.ask(Request::WorkOnImage(ImageWork::Create { path: path.into(), size, fixed, parent }));
        expected.assert_eq(&end(&scene.rig, reply));
    };
    check("new.raw", Some(512), false, None, expect!["refused: disk image path 'new.raw' is not absolute"]);
    check(
        "/new.iso",
        Some(512),
        false,
        None,
        expect![
            "refused: '/new.iso' does not tell its format by its name: use a name that ends in .qcow2, .raw, .img, .vhd or .vhdx"
        ],
    );
    check("/new.raw", None, false, None, expect!["refused: a new disk needs a size"]);
    let sizes = expect!["refused: 513 bytes is no size of a disk: use a multiple of 512 bytes, and at most 64 TiB"];
    check("/new.raw", Some(513), false, None, sizes);
    check("/new.raw", None, false, Some(BASE), expect!["refused: only a dynamic .qcow2 image can lie on another one"]);
    check("/new.qcow2", None, false, Some("/a.vhdx"), expect!["refused: an image can only lie on a .qcow2 or raw one"]);
}

/// Whoever comes first has the file: the other one learns of it when the real paths are known.
#[test]
fn a_file_is_attached_or_worked_on_but_not_both() {
    let requests = |scene: &mut Scene| {
        let vm = scene.vm.unwrap();
        let controller = scene.rig.state().vms[&vm].settings.controllers[0].id;
        scene.rig.ask(Request::AddDrive { vm, controller, address: None });
        let drive = scene.empty_drive(vm).unwrap();
        let attach = Request::AttachDisk { vm, drive, path: BASE.into(), format: None };
        (attach, Request::WorkOnImage(work("resize")))
    };
    let mut scene = Scene::new(&[]);
    let (attach, resize) = requests(&mut scene);
    let (resized, attached) = (scene.rig.begin(resize), scene.rig.begin(attach));
    scene.rig.finish();
    assert_eq!(end(&scene.rig, resized), "Completed");
    assert!(end(&scene.rig, attached).starts_with("InUse: '/images/base.qcow2' is in the hands of job "));

    let mut scene = Scene::new(&[]);
    let (attach, resize) = requests(&mut scene);
    let (attached, resized) = (scene.rig.begin(attach), scene.rig.begin(resize));
    scene.rig.finish();
    assert_eq!(end(&scene.rig, attached), "Completed");
    assert_eq!(end(&scene.rig, resized), "InUse: '/images/base.qcow2' belongs to machine 'm' and its snapshots");
}
