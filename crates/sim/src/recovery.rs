//! The store is lost, and an administrator does what he is told: `recover`, then `check --repair`, then the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ledger::id::VmId;
use ledger::inventory::{FoundLayer, Recovered, Remains, recover};
use ledger::paths::Paths;
use ledger::state::State;

use crate::faults::Fault;
use crate::run::Run;
use crate::service::ROOT;

impl Run {
    /// What was promised is still promised afterwards.
    pub(crate) fn store_is_lost(&mut self) {
        self.daemon_ends();
        // Nobody remembers for what a guest stands still; it is shown as paused, and its owner lets it run.
        self.world.emulators.values_mut().for_each(|emulator| emulator.held = false);
        let before = self.service.state().clone();
        let mut remains = Remains { inventories: self.store.lose(), ..Remains::default() };
        let recovered = match self.recover(&mut remains) {
            Ok(recovered) => recovered,
            Err(text) => return self.world.break_promise(format!("nothing can be recovered: {text}")),
        };
        let state = recovered.state;
        for text in state.check() {
            self.world.break_promise(format!("what was recovered contradicts itself: {text}"));
        }
        for path in &recovered.unsettled {
            self.world.files.open(path).into_iter().for_each(|file| self.world.files.sync(file));
            self.world.files.sync_directory(path.parent().unwrap_or(path));
        }
        self.model.committed(&before, &state, &mut self.world);
        self.set_aside(&state);
        self.store.replace(&state);
        self.restart(Fault::StoreLost.name());
    }

    /// Recovers. Processes that are said to be in the way are ended, and then it is tried once more.
    fn recover(&mut self, remains: &mut Remains) -> Result<Recovered, String> {
        for _ in 0..2 {
            remains.layers = remains.inventories.iter().map(|it| (it.vm, self.found_layers(it.vm))).collect();
            remains.alive = self.written();
            let recovered = recover(remains).map_err(|error| error.to_string())?;
            self.note(format!("recovered {:?}", recovered.notes));
            let vms = remains.inventories.iter().map(|it| it.vm);
            let in_the_way: Vec<VmId> = vms.filter(|vm| !recovered.state.vms.contains_key(vm)).collect();
            if in_the_way.is_empty() {
                return Ok(recovered);
            }
            for vm in in_the_way {
                self.world.emulators.remove(&vm);
                self.world.pressed.remove(&vm);
            }
        }
        Err("a machine without a process is left out".to_owned())
    }

    /// What each process writes to.
    fn written(&self) -> BTreeMap<VmId, BTreeSet<PathBuf>> {
        let tops = |stacks: &BTreeMap<_, crate::emulator::Stack>| {
            stacks.values().filter_map(|stack| stack.paths.first().cloned()).collect()
        };
        self.world.emulators.iter().map(|(vm, emulator)| (*vm, tops(&emulator.stacks))).collect()
    }

    fn found_layers(&self, vm: VmId) -> Vec<FoundLayer> {
        let disks = Paths::new(ROOT).vm(vm).join("disks");
        let found = self.world.files.below(&disks).into_iter().filter_map(|path| {
            let layer = path.file_stem()?.to_str()?.parse().ok()?;
            let data = self.world.files.data(self.world.files.open(&path)?);
            let is_image = data.whole && path.extension().is_some_and(|extension| extension == "qcow2");
            is_image.then_some(FoundLayer { layer, backing: data.backing, size: 1 << 20, path })
        });
        found.collect()
    }

    /// What nobody refers to and nobody has open is moved aside, which is as good as gone. Drafts of image files that belong to no machine lie
    /// in their users' directories, where nobody but those looks for them.
    fn set_aside(&mut self, state: &State) {
        let layers = state.layers.values().map(|layer| layer.path.clone());
        let known: Vec<PathBuf> = layers
            .chain(state.memories.values().map(|memory| memory.path.clone()))
            .chain(state.vms.values().flat_map(|vm| vm.garbage.iter().cloned()))
            .collect();
        let stacks = self.world.emulators.values().flat_map(|emulator| emulator.stacks.values());
        let open: BTreeSet<PathBuf> = stacks.flat_map(|stack| stack.paths.iter().cloned()).collect();
        let drafts = self.world.files.below(Path::new("/")).into_iter().filter(|path| !path.starts_with(ROOT));
        let drafts = drafts.filter(|path| path.extension().is_some_and(|extension| extension == "part"));
        let unknown = |path: &PathBuf| !known.iter().any(|known| path.starts_with(known)) && !open.contains(path);
        let left_over = self.world.files.below(Path::new(ROOT)).into_iter().filter(unknown);
        for path in left_over.chain(drafts).collect::<Vec<_>>() {
            self.world.files.remove(&path);
        }
        // People take minutes for this, and file systems seconds.
        self.world.files.settle_names();
    }
}
