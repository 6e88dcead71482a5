//! The executor on real emulators: no guest system, 64 MiB, firmware that finds nothing to boot.
//!
//! That is enough for everything here, because the host does not care what the guest does. What guests see is tried
//! elsewhere, with guests that look.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use host::account::{Account, Accounts};
use host::capability::{Tools, Wishes};
use host::cgroup::Groups;
use host::executor::{Executor, Setup};
use host::layout::Layout;
use host::process::Process;
use ledger::effect::{
    Chain, Control, Effect, EffectId, Image, MachineSpec, MemorySource, MemoryTarget, MergeDirection, MergeOrder,
    Overlay,
};
use ledger::event::{EffectFailure, Event, MachineChange, Observation, Outcome};
use ledger::failure::Kind;
use ledger::id::{DeviceId, JobId, LayerId, VmId};
use ledger::snapshot::Format;
use ledger::vm::{Firmware, Slot};
use qemu::launch::Accelerator;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const VM: VmId = VmId(Uuid::from_u128(0xf00d));
const DISK: Slot = Slot::Drive(DeviceId(Uuid::from_u128(0xd15c)));

/// Longest wait for anything; generous, because a busy test machine is no failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory for one test. Machines outlive what started them, and a test that fails must not leave one behind.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let run = self.path().join("run").join(VM.to_string());
        if let Ok(Some(process)) = Process::find(&run.join("process.json"), &run.join("log")) {
            let _ = Command::new("kill").args(["-9", &process.pid().to_string()]).status();
        }
    }
}

/// A host with its executor, as the daemon would have it.
struct World {
    executor: Executor,
    events: mpsc::UnboundedReceiver<Event>,
    layout: Layout,
    number: u32,
}

impl World {
    async fn new(root: &Path) -> Self {
        Self::with_accounts(root, Accounts::Own).await
    }

    async fn with_accounts(root: &Path, accounts: Accounts) -> Self {
        let layout = Layout::new(&root.join("data"), &root.join("run"), accounts).unwrap();
        layout.create().unwrap();
        let wishes = Wishes { accelerator: Some(Accelerator::Tcg), ..Wishes::default() };
        let tools = Tools::find(&wishes, &layout).await.unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let executor = Executor::new(
            Setup { layout: layout.clone(), tools, groups: Groups::default(), image_directories: Vec::new() },
            sender,
        );
        Self { executor, events, layout, number: 0 }
    }

    /// Starts an effect and waits for its outcome. Other news must not come meanwhile.
    async fn run(&mut self, effect: Effect) -> Result<Outcome, EffectFailure> {
        self.number += 1;
        let id = EffectId { job: JobId(Uuid::nil()), number: self.number };
        let began = std::time::Instant::now();
        let name = format!("{effect:?}").chars().take_while(|c| c.is_alphanumeric()).collect::<String>();
        self.executor.start(id, effect);
        loop {
            match self.next().await {
                Event::Outcome { effect, outcome } if effect == id => {
                    println!("{name}: {:?}", began.elapsed());
                    return outcome;
                }
                Event::Progress { effect, .. } if effect == id => {}
                other => panic!("unexpected news: {other:?}"),
            }
        }
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("news in time").expect("the executor lives")
    }

    fn image(&self, number: u128, format: Format) -> Image {
        let path = self.layout.vm(VM).join("disks").join(format!("{number}"));
        Image { layer: LayerId(Uuid::from_u128(number)), path, format, size: 64 * MIB, private: true }
    }

    /// Starts the process and lets the guest run.
    async fn start(&mut self, spec: &MachineSpec, memory: Option<&MemorySource>) {
        assert_eq!(self.run(launch(spec, memory)).await, Ok(Outcome::Done));
        assert_eq!(self.run(control(Control::Resume)).await, Ok(Outcome::Done));
    }

    /// Kills the machine's process, which is news.
    async fn kill(&mut self) {
        let process = Process::find(&self.layout.identity(VM), &self.layout.log(VM)).unwrap().expect("a process");
        tool("kill", &["-9", &process.pid().to_string()]);
        assert_eq!(self.next().await, Event::Machine { vm: VM, change: MachineChange::Gone });
    }

    /// Makes overlay files.
    async fn make(&mut self, overlays: &[Overlay]) {
        let overlays = overlays.to_vec();
        let create = Effect::CreateOverlays { vm: VM, overlays, ground: Vec::new(), foundation: None };
        assert_eq!(self.run(create).await, Ok(Outcome::Done));
    }

    /// Gives a machine that is off one layer more, which alone holds its number as a pattern at so many MiB.
    async fn grow(&mut self, spec: &mut MachineSpec, number: u8) {
        let (image, parent) = (self.image(number.into(), Format::Qcow2), spec.chains[0].images[0].clone());
        self.make(&[Overlay { slot: DISK, image: image.clone(), parent }]).await;
        fill(&image.path, number, u64::from(number));
        spec.chains[0].images.insert(0, image);
    }

    /// Takes a moment with memory; the machine then has one layer more.
    async fn capture(&mut self, spec: &mut MachineSpec, number: u128) -> MemorySource {
        let parent = spec.chains[0].images[0].clone();
        let overlays = vec![Overlay { slot: DISK, image: self.image(number, Format::Qcow2), parent }];
        self.make(&overlays).await;
        let path = self.layout.vm(VM).join("memory").join(number.to_string());
        let memory = Some(MemoryTarget { path: path.clone() });
        let top = overlays[0].image.clone();
        let capture = Effect::Capture { spec: spec.clone(), overlays, memory, resume: true };
        let outcome = self.run(capture).await.unwrap();
        let Outcome::Captured { report, machine, .. } = outcome else { panic!("{outcome:?}") };
        println!("  {report:?}");
        assert!(report.bytes > 0 && report.pause_us > 0);
        spec.chains[0].images.insert(0, top);
        MemorySource { path, machine }
    }
}

/// A user's image, and a machine that has it.
async fn machine(world: &mut World, root: &Path) -> MachineSpec {
    let path = root.join("user.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "64M"]);
    let inspect = Effect::InspectImage { path: path.clone(), format: None };
    let outcome = world.run(inspect).await.unwrap();
    let Outcome::Inspected { chain } = outcome else { panic!("{outcome:?}") };
    assert_eq!((chain.len(), chain[0].size, chain[0].format), (1, 64 * MIB, Format::Qcow2));
    assert_eq!(world.run(Effect::PrepareVm { vm: VM, nvram: None }).await, Ok(Outcome::Done));
    let image = Image {
        layer: LayerId(Uuid::from_u128(1)),
        path: chain[0].path.clone(),
        format: Format::Qcow2,
        size: 64 * MIB,
        private: true,
    };
    MachineSpec {
        vm: VM,
        name: "a, machine's \"name\"".to_owned(),
        processors: 1,
        memory_mib: 64,
        firmware: Firmware::Bios,
        bios_guid: Uuid::from_u128(2),
        generation_id: Uuid::from_u128(3),
        chains: vec![Chain { slot: DISK, images: vec![image] }],
        nics: vec![],
    }
}

fn launch(spec: &MachineSpec, memory: Option<&MemorySource>) -> Effect {
    Effect::Launch { spec: spec.clone(), memory: memory.cloned() }
}

fn control(action: Control) -> Effect {
    Effect::Control { vm: VM, action }
}

fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes a pattern into a layer that no process has open.
fn fill(image: &Path, pattern: u8, mib: u64) {
    tool("qemu-io", &["-f", "qcow2", "-c", &format!("write -P {pattern} {mib}M 1M"), text(image)]);
}

fn holds(image: &Path, pattern: u8, mib: u64) {
    let found = tool("qemu-io", &["-r", "-f", "qcow2", "-c", &format!("read -P {pattern} {mib}M 1M"), text(image)]);
    assert!(!found.contains("verification failed"), "{} at {mib} MiB: {found}", image.display());
}

fn order(spec: &MachineSpec, upper: usize, direction: MergeDirection) -> MergeOrder {
    let images = &spec.chains[0].images;
    let children = if upper > 0 { vec![images[upper - 1].clone()] } else { vec![] };
    MergeOrder {
        slot: Some(DISK),
        above: images[..upper].to_vec(),
        upper: images[upper].clone(),
        lower: images[upper + 1].clone(),
        below: images[upper + 2..].to_vec(),
        children,
        direction,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_captured_saved_restored_and_ended() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let mut spec = machine(&mut world, root.path()).await;
    assert_eq!(world.executor.observe(VM).await, Observation::NoProcess);
    world.start(&spec, None).await;
    assert_eq!(world.executor.observe(VM).await, Observation::Running);
    assert_eq!(world.run(launch(&spec, None)).await, Ok(Outcome::Done), "repeating a launch adopts");

    let first = world.capture(&mut spec, 10).await;
    assert_eq!(world.executor.observe(VM).await, Observation::Running);
    for (action, seen) in [
        (Control::Pause, Observation::Stopped),
        (Control::Pause, Observation::Stopped),
        (Control::Resume, Observation::Running),
        (Control::Resume, Observation::Running),
    ] {
        assert_eq!(world.run(control(action)).await, Ok(Outcome::Done));
        assert_eq!(world.executor.observe(VM).await, seen);
    }

    let memory = MemoryTarget { path: world.layout.vm(VM).join("memory/save") };
    let save = Effect::Save { spec: spec.clone(), memory: memory.clone() };
    assert!(matches!(world.run(save).await, Ok(Outcome::Saved { .. })));
    let abort = Effect::AbortCapture { vm: VM, overlays: vec![], resume: true };
    assert_eq!(world.run(abort).await, Ok(Outcome::Aborted { switched: false, alive: true }));
    assert_eq!(world.executor.observe(VM).await, Observation::Running, "a save can be taken back");
    let path = memory.path.clone();
    let outcome = world.run(Effect::Save { spec: spec.clone(), memory }).await.unwrap();
    let Outcome::Saved { machine, report } = outcome else { panic!("{outcome:?}") };
    println!("  {report:?}");
    assert_eq!(world.executor.observe(VM).await, Observation::Stopped);
    for _ in 0..2 {
        assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    }
    assert_eq!(world.executor.observe(VM).await, Observation::NoProcess);

    let saved = MemorySource { path, machine };
    world.start(&spec, Some(&saved)).await;
    assert_eq!(world.executor.observe(VM).await, Observation::Running);
    // A restored machine can be captured again, and an older moment started after it.
    world.capture(&mut spec, 11).await;
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    spec.chains[0].images.drain(..2);
    let image = world.image(12, Format::Qcow2);
    let overlay = Overlay { slot: DISK, image: image.clone(), parent: spec.chains[0].images[0].clone() };
    world.make(&[overlay]).await;
    spec.chains[0].images.insert(0, image);
    world.start(&spec, Some(&first)).await;
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    try_script(&first.path);
}

/// The script beside the memory starts the moment with stock QEMU.
fn try_script(memory: &Path) {
    let script = std::fs::read_to_string(memory.join("start.sh")).unwrap();
    // What it tells QEMU, and two words more, until QEMU says what is waited for.
    let words = "for pause in 1 1 2 4 8 16 32; do sleep $pause; echo cont; done";
    assert!(script.contains(words), "{script}");
    let answers = memory.with_extension("txt");
    let is_running = format!("grep -q 'VM status: running' '{}'", text(&answers));
    let quit = script
        .replace("exec qemu-system-x86_64", "exec timeout --kill-after 5 60 qemu-system-x86_64")
        .replace(words, &format!("until {is_running}; do sleep 0.1; echo cont; echo info status; done; echo quit"))
        .replace("\"$scratch/words\" > /dev/null", &format!("\"$scratch/words\" > '{}'", text(&answers)));
    let path = memory.with_extension("sh");
    std::fs::write(&path, quit).unwrap();
    std::fs::write(&answers, "").unwrap();
    tool("sh", &[text(&path)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_merged_live_and_at_rest() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let mut spec = machine(&mut world, root.path()).await;
    let user = spec.chains[0].images[0].path.clone();
    fill(&user, 1, 0);
    for number in 10..14 {
        world.grow(&mut spec, number).await;
    }
    let images: Vec<PathBuf> = spec.chains[0].images.iter().map(|image| image.path.clone()).collect();
    let measured = world.run(Effect::Measure { images: spec.chains[0].images.clone() }).await.unwrap();
    let Outcome::Measured { bytes } = measured else { panic!("{measured:?}") };
    assert!(bytes.len() == 5 && bytes.iter().all(|bytes| *bytes >= MIB && *bytes < 3 * MIB), "{bytes:?}");

    // 13 on 12 on 11 on 10 on the user's. At rest: 12 goes down into 11.
    let merge = Effect::Merge { vm: VM, order: order(&spec, 1, MergeDirection::Down), live: false };
    for _ in 0..2 {
        assert_eq!(world.run(merge.clone()).await, Ok(Outcome::Merged { stopped: false }), "and once more");
    }
    let removed = spec.chains[0].images.remove(1);
    assert_eq!(world.run(Effect::Delete { paths: vec![removed.path] }).await, Ok(Outcome::Done));
    holds(&images[0], 12, 12);

    // Live: 10 is copied up into 11, then the top goes down into 11.
    world.start(&spec, None).await;
    let merge = Effect::Merge { vm: VM, order: order(&spec, 1, MergeDirection::Up), live: true };
    assert_eq!(world.run(merge).await, Ok(Outcome::Merged { stopped: false }));
    spec.chains[0].images.remove(2);
    let merge = Effect::Merge { vm: VM, order: order(&spec, 0, MergeDirection::Down), live: true };
    assert_eq!(world.run(merge).await, Ok(Outcome::Merged { stopped: true }));
    assert_eq!(world.executor.observe(VM).await, Observation::Stopped);
    assert_eq!(world.run(control(Control::Resume)).await, Ok(Outcome::Done));
    spec.chains[0].images.remove(0);
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    let top = &spec.chains[0].images[0].path;
    for pattern in 10..14 {
        holds(top, pattern, u64::from(pattern));
    }
    holds(top, 1, 0);
    let refused = world.run(Effect::Delete { paths: vec![user] }).await.unwrap_err();
    assert!(refused.failure.message.starts_with("refused to remove"), "{}", refused.failure);
}

/// Once a merge is reported, one of the files goes: the other one must not need what only the emulator's memory holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_is_reported_outlives_the_emulator() {
    for (upper, direction) in [0, 1].into_iter().flat_map(|u| [(u, MergeDirection::Down), (u, MergeDirection::Up)]) {
        let root = Root::new();
        let mut world = World::new(root.path()).await;
        let mut spec = machine(&mut world, root.path()).await;
        for number in 10..13 {
            world.grow(&mut spec, number).await;
        }
        world.start(&spec, None).await;
        let merge = Effect::Merge { vm: VM, order: order(&spec, upper, direction), live: true };
        assert!(matches!(world.run(merge).await, Ok(Outcome::Merged { .. })), "{upper} {direction:?}");
        world.kill().await;
        let leaving = if direction == MergeDirection::Down { upper } else { upper + 1 };
        spec.chains[0].images.remove(leaving);
        for pattern in 10..13 {
            holds(&spec.chains[0].images[0].path, pattern, u64::from(pattern));
        }
    }
}

/// What an undo leaves that failed and could not tell: an overlay that is on record as the top and that the process never took.
#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_that_the_process_never_took_is_merged_away() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let mut spec = machine(&mut world, root.path()).await;
    world.start(&spec, None).await;
    let (image, parent) = (world.image(10, Format::Qcow2), spec.chains[0].images[0].clone());
    world.make(&[Overlay { slot: DISK, image: image.clone(), parent }]).await;
    spec.chains[0].images.insert(0, image.clone());

    let overlays = vec![Overlay { slot: DISK, image: world.image(11, Format::Qcow2), parent: image }];
    world.make(&overlays).await;
    let memory = Some(MemoryTarget { path: world.layout.vm(VM).join("memory/refused") });
    let capture = Effect::Capture { spec: spec.clone(), overlays, memory, resume: true };
    let refused = world.run(capture).await.unwrap_err();
    println!("  {}", refused.failure.full_text());
    assert_eq!((refused.failure.kind, refused.switched), (Kind::InvalidState, false));
    let merge = |direction| Effect::Merge { vm: VM, order: order(&spec, 0, direction), live: true };
    let refused = world.run(merge(MergeDirection::Up)).await.unwrap_err();
    println!("  {}", refused.failure.full_text());
    assert_eq!(refused.failure.kind, Kind::Failed);
    assert_eq!(world.run(merge(MergeDirection::Down)).await, Ok(Outcome::Merged { stopped: false }));
    assert_eq!(world.executor.observe(VM).await, Observation::Running);
    spec.chains[0].images.remove(0);
    world.capture(&mut spec, 12).await;
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
}

/// What a daemon lives in.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A machine that runs, and whose daemon is gone as if killed: whatever it was doing ends in the middle, and its sockets close.
fn left_running(root: &Root) -> MachineSpec {
    let first = runtime();
    let spec = first.block_on(async {
        let mut world = World::new(root.path()).await;
        let spec = machine(&mut world, root.path()).await;
        world.start(&spec, None).await;
        spec
    });
    first.shutdown_background();
    spec
}

#[test]
fn a_machine_outlives_the_daemon_and_is_adopted() {
    let root = Root::new();
    let spec = left_running(&root);
    runtime().block_on(async {
        let mut world = World::new(root.path()).await;
        let mut spec = spec;
        assert_eq!(world.executor.observe(VM).await, Observation::Running);
        world.capture(&mut spec, 10).await;
        let abort = Effect::AbortCapture { vm: VM, overlays: vec![], resume: true };
        assert_eq!(world.run(abort).await, Ok(Outcome::Aborted { switched: false, alive: true }));

        // Somebody kills it: that is news.
        world.kill().await;
        assert_eq!(world.executor.observe(VM).await, Observation::NoProcess);
        let failure = world.run(control(Control::Pause)).await.unwrap_err().failure;
        assert_eq!(failure.kind, Kind::MachineGone);
        let overlays = vec![];
        let capture = Effect::Capture { spec: spec.clone(), overlays, memory: None, resume: true };
        assert_eq!(world.run(capture).await.unwrap_err().failure.kind, Kind::MachineGone);
    });
}

#[test]
fn a_process_that_cannot_be_reached_is_neither_gone_nor_ended() {
    let root = Root::new();
    let spec = left_running(&root);
    runtime().block_on(async {
        let mut world = World::new(root.path()).await;
        let aside = root.path().join("aside");
        for file in [world.layout.build(VM), world.layout.identity(VM)] {
            // What is a directory cannot be read.
            std::fs::rename(&file, &aside).unwrap();
            std::fs::create_dir(&file).unwrap();
            assert_eq!(world.executor.observe(VM).await, Observation::Unusable);
            let abort = Effect::AbortCapture { vm: VM, overlays: vec![], resume: true };
            let capture = Effect::Capture { spec: spec.clone(), overlays: vec![], memory: None, resume: true };
            for effect in [abort, capture] {
                let failure = world.run(effect).await.unwrap_err().failure;
                assert_eq!(failure.kind, Kind::Failed, "{failure}");
            }
            std::fs::remove_dir(&file).unwrap();
            std::fs::rename(&aside, &file).unwrap();
        }
        assert_eq!(world.executor.observe(VM).await, Observation::Running);
        assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_start_says_why() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let mut spec = machine(&mut world, root.path()).await;
    spec.memory_mib = 1 << 34;
    let failure = world.run(launch(&spec, None)).await.unwrap_err().failure;
    assert!(failure.message.contains("its last words: "), "{failure}");
    spec.chains[0].images[0].path = root.path().join("missing.qcow2");
    let failure = world.run(launch(&spec, None)).await.unwrap_err().failure;
    assert!(failure.message.contains("missing.qcow2: No such file or directory"), "{failure}");
    assert_eq!(world.executor.observe(VM).await, Observation::NoProcess);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_is_refused() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let spec = machine(&mut world, root.path()).await;
    world.start(&spec, None).await;
    let path = spec.chains[0].images[0].path.clone();
    let failure = world.run(Effect::InspectImage { path, format: None }).await.unwrap_err().failure;
    assert_eq!(failure.kind, Kind::InUse, "{failure}");
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn uefi_variables_are_part_of_the_moment() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let mut spec = machine(&mut world, root.path()).await;
    let mut nvram = world.image(50, Format::Qcow2);
    let prepare = Effect::PrepareVm { vm: VM, nvram: Some(nvram.clone()) };
    for _ in 0..2 {
        assert_eq!(world.run(prepare.clone()).await, Ok(Outcome::Done));
    }
    let head = std::fs::read(&nvram.path).unwrap();
    nvram.size = qemu::qcow2::Header::read(&head[..head.len().min(qemu::qcow2::HEADER_BYTES)]).unwrap().size;
    spec.firmware = Firmware::Uefi;
    spec.memory_mib = 128;
    spec.chains.push(Chain { slot: Slot::Nvram, images: vec![nvram.clone()] });
    world.start(&spec, None).await;

    let disk = Overlay { slot: DISK, image: world.image(51, Format::Qcow2), parent: spec.chains[0].images[0].clone() };
    let image = Image { size: nvram.size, ..world.image(52, Format::Qcow2) };
    let variables = Overlay { slot: Slot::Nvram, image, parent: nvram };
    let overlays = vec![disk, variables];
    world.make(&overlays).await;
    let path = world.layout.vm(VM).join("memory/uefi");
    let memory = Some(MemoryTarget { path: path.clone() });
    let capture = Effect::Capture { spec: spec.clone(), overlays: overlays.clone(), memory, resume: true };
    let outcome = world.run(capture).await.unwrap();
    let Outcome::Captured { machine, report, .. } = outcome else { panic!("{outcome:?}") };
    println!("  {report:?}");
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    // Back to it: the same overlays made anew lie on what the moment froze.
    world.make(&overlays).await;
    for (chain, overlay) in spec.chains.iter_mut().zip(overlays) {
        chain.images.insert(0, overlay.image);
    }
    let saved = MemorySource { path: path.clone(), machine };
    world.start(&spec, Some(&saved)).await;
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    try_script(&path);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emulator_runs_without_our_rights() {
    if !rustix::process::geteuid().is_root() {
        println!("only root can give rights away");
        return;
    }
    let root = Root::new();
    let account = Account { uid: 54_321, gid: 54_321 };
    // A closed directory above ours must be told before anything is tried.
    let close =
        |mode| std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    close(0o700);
    let layout = Layout::new(&root.path().join("data"), &root.path().join("run"), Accounts::One(account)).unwrap();
    let refused = layout.create().unwrap_err().to_string();
    assert!(refused.contains(&format!("chmod o+x {}", root.path().display())), "{refused}");
    close(0o711);

    let mut world = World::with_accounts(root.path(), Accounts::One(account)).await;
    let mut spec = machine(&mut world, root.path()).await;
    world.start(&spec, None).await;
    let identity = std::fs::read_to_string(world.layout.identity(VM)).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&identity).unwrap()["pid"].to_string();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().skip(1);
    assert!(line("Uid:").chain(line("Gid:")).all(|id| id == "54321"), "{status}");
    assert_eq!(line("Groups:").count(), 0, "{status}");
    assert!(line("CapEff:").all(|set| set == "0000000000000000"), "{status}");
    assert!(line("Seccomp:").eq(["2"]) && line("NoNewPrivs:").eq(["1"]), "{status}");

    let saved = world.capture(&mut spec, 10).await;
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    let merge = Effect::Merge { vm: VM, order: order(&spec, 0, MergeDirection::Down), live: false };
    assert_eq!(world.run(merge).await, Ok(Outcome::Merged { stopped: false }));
    world.start(&spec, Some(&saved)).await;
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_capture_leaves_a_running_machine() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let spec = machine(&mut world, root.path()).await;
    world.start(&spec, None).await;
    let parent = spec.chains[0].images[0].clone();
    let overlays = vec![Overlay { slot: DISK, image: world.image(10, Format::Qcow2), parent }];
    world.make(&overlays).await;
    let path = world.layout.vm(VM).join("memory/cancelled");
    let memory = Some(MemoryTarget { path: path.clone() });
    let capture = Effect::Capture { spec: spec.clone(), overlays, memory, resume: true };
    let id = EffectId { job: JobId(Uuid::from_u128(1)), number: 1 };
    world.executor.start(id, capture);
    // Some progress means that it has begun; the cancel may still come too late, and then the moment is good.
    let outcome = loop {
        match world.next().await {
            Event::Progress { .. } => world.executor.cancel(id),
            Event::Outcome { outcome, .. } => break outcome,
            other => panic!("unexpected news: {other:?}"),
        }
    };
    match outcome {
        Ok(_) => assert!(path.exists()),
        Err(failed) => {
            assert_eq!((failed.failure.kind, failed.switched), (Kind::Cancelled, false), "{failed:?}");
            assert!(!path.exists());
        }
    }
    assert_eq!(world.executor.observe(VM).await, Observation::Running);
    world.executor.idle().await;
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_memory_is_refused_with_the_emulators_words() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let mut spec = machine(&mut world, root.path()).await;
    world.start(&spec, None).await;
    let saved = world.capture(&mut spec, 10).await;
    assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    let sidecar = saved.path.join("devices");
    std::fs::File::options().write(true).open(&sidecar).unwrap().set_len(MIB).unwrap();
    let failure = world.run(launch(&spec, Some(&saved))).await.unwrap_err().failure;
    println!("{}", failure.full_text());
    assert!(failure.message.starts_with("could not restore the memory in"), "{failure}");
    assert_eq!(world.executor.observe(VM).await, Observation::NoProcess);
}

#[test]
fn a_capture_cut_off_is_ended_by_the_next_daemon() {
    let root = Root::new();
    let first = runtime();
    let (mut spec, overlays) = first.block_on(async {
        let mut world = World::new(root.path()).await;
        let spec = machine(&mut world, root.path()).await;
        world.start(&spec, None).await;
        let parent = spec.chains[0].images[0].clone();
        let overlays = vec![Overlay { slot: DISK, image: world.image(10, Format::Qcow2), parent }];
        world.make(&overlays).await;
        let memory = Some(MemoryTarget { path: world.layout.vm(VM).join("memory/cut") });
        let capture = Effect::Capture { spec: spec.clone(), overlays: overlays.clone(), memory, resume: true };
        world.executor.start(EffectId { job: JobId(Uuid::from_u128(1)), number: 1 }, capture);
        // Whether it is cut off before, in or after the switch of the disks is left to chance: all must be well.
        world.next().await;
        (spec, overlays)
    });
    first.shutdown_background();
    runtime().block_on(async {
        let mut world = World::new(root.path()).await;
        assert_ne!(world.executor.observe(VM).await, Observation::NoProcess);
        let abort = Effect::AbortCapture { vm: VM, overlays: overlays.clone(), resume: true };
        let outcome = world.run(abort.clone()).await.unwrap();
        let Outcome::Aborted { switched, alive: true } = outcome else { panic!("{outcome:?}") };
        println!("switched: {switched}");
        assert_eq!(world.run(abort).await, Ok(Outcome::Aborted { switched, alive: true }), "and once more");
        assert_eq!(world.executor.observe(VM).await, Observation::Running);
        if switched {
            spec.chains[0].images.insert(0, overlays[0].image.clone());
        }
        world.capture(&mut spec, 11).await;
        assert_eq!(world.run(control(Control::Quit)).await, Ok(Outcome::Done));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emulator_that_nobody_recorded_is_ended_by_the_next_launch() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let spec = machine(&mut world, root.path()).await;
    world.start(&spec, None).await;
    // As if the daemon had died between starting the process and writing down which one it is.
    std::fs::remove_file(world.layout.identity(VM)).unwrap();
    let mut next = World::new(root.path()).await;
    assert_eq!(next.executor.observe(VM).await, Observation::NoProcess);
    next.start(&spec, None).await;
    assert_eq!(world.next().await, Event::Machine { vm: VM, change: MachineChange::Gone });
    assert_eq!(next.run(control(Control::Quit)).await, Ok(Outcome::Done));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_daemon_that_nobody_recorded_is_ended_by_the_next_merge() {
    let root = Root::new();
    let mut world = World::new(root.path()).await;
    let mut spec = machine(&mut world, root.path()).await;
    let (image, parent) = (world.image(10, Format::Qcow2), spec.chains[0].images[0].clone());
    let overlays = vec![Overlay { slot: DISK, image: image.clone(), parent }];
    world.make(&overlays).await;
    spec.chains[0].images.insert(0, image);
    let merge = Effect::Merge { vm: VM, order: order(&spec, 0, MergeDirection::Down), live: false };
    // As if the daemon had died between starting the process and writing down which one it is.
    let arguments = ["--chardev", &format!("null,{}", world.layout.merge_mark(VM)), "--nbd-server"];
    let socket = format!("addr.type=unix,addr.path={}", text(&root.path().join("nbd")));
    let mut stray = Command::new("qemu-storage-daemon").args(arguments).arg(socket).spawn().unwrap();
    // Right after the start of a program its command line can still be empty.
    while !root.path().join("nbd").exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.run(merge).await, Ok(Outcome::Merged { stopped: false }));
    let ended = stray.try_wait().unwrap();
    // Fails only if it has ended, as it should.
    let _ = stray.kill();
    assert!(ended.is_some(), "it still runs");
}
