//! Image files that belong to no machine: how the hands work on them, and what they must hold.
//!
//! ```text
//!   work on record ──▶ expected: what its new file will read       merging: what the lower file will read when the upper is gone
//!   at any time: a file that is there reads as expected; the lower file of a merge is not looked at before the upper one is gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ledger::event::Outcome;
use ledger::failure::{Failure, Kind};
use ledger::id::JobId;
use ledger::image_file::ImageWork;
use ledger::job::{JobState, Stage};
use ledger::state::State;

use crate::files::Content;
use crate::hands::{Step, own_blocks};
use crate::world::World;

/// Where they are.
pub const DIRECTORY: &str = "/images";

/// A disk in two files, there from the start.
pub const BASE: &str = "/images/base.qcow2";
/// The upper one.
pub const TOP: &str = "/images/top.qcow2";

/// What image files must hold.
#[derive(Clone, Debug, Default)]
pub struct Images {
    expected: BTreeMap<PathBuf, Content>,
    /// Lower files that are merged into, with the upper ones.
    merging: BTreeMap<PathBuf, PathBuf>,
    /// What each job works on.
    works: BTreeMap<JobId, PathBuf>,
    /// Files whose work was done.
    finished: BTreeSet<PathBuf>,
}

/// Makes the disk in two files.
pub fn set_up(world: &mut World) -> Images {
    let mut images = Images::default();
    for (path, parent, blocks) in [(BASE, None, [(0, 7), (1, 7)]), (TOP, Some(BASE), [(0, 9), (2, 9)])] {
        world.files.place(Path::new(path), parent.map(PathBuf::from), &blocks);
        images.expected.insert(path.into(), read(Path::new(path), world).unwrap_or_default());
    }
    images
}

fn read(path: &Path, world: &World) -> Result<Content, String> {
    world.files.chain(path).map(|chain| world.files.read(&chain))
}

/// Looks whether work can be done, as the host does.
///
/// # Errors
/// When a file is missing or there already, or not what it should be.
pub fn locate(work: &ImageWork, world: &World) -> Result<Outcome, Failure> {
    let wrong =
        |path: &Path, what: &str| Err(Failure::new(Kind::InvalidParameter, format!("{} {what}", path.display())));
    for path in work.read() {
        world.files.chain(path).map_err(|text| Failure::new(Kind::NotFound, text))?;
    }
    let new = matches!(work, ImageWork::Create { .. } | ImageWork::Convert { .. });
    for path in work.written() {
        match world.files.open(path) {
            Some(_) if new => return wrong(path, "exists already"),
            None if !new => return Err(Failure::new(Kind::NotFound, format!("{} is missing", path.display()))),
            Some(inode) if world.files.names_of(inode) > 1 => return wrong(path, "has two names"),
            _ => {}
        }
    }
    if let ImageWork::Merge { child, parent } = work {
        let backing = world.files.open(child).and_then(|inode| world.files.data(inode).backing);
        if backing.as_ref() != Some(parent) {
            return wrong(child, "does not lie on the other");
        }
    }
    Ok(Outcome::Located { work: work.clone() })
}

/// The steps of some work, in the order in which the host takes them.
pub fn plan(work: &ImageWork, draft: Option<&Path>, world: &World) -> Vec<Step> {
    match (work, draft) {
        (ImageWork::Create { path, .. } | ImageWork::Convert { path, .. }, Some(draft)) => {
            make(work, path, draft, world)
        }
        (ImageWork::Merge { child, parent }, _) => {
            let blocks = own_blocks(world, child).into_keys();
            let copies = blocks.map(|block| Step::MergeImages(child.clone(), parent.clone(), block));
            copies.chain([Step::Sync(parent.clone())]).collect()
        }
        (ImageWork::Resize { path, .. }, _) => vec![Step::Sync(path.clone())],
        _ => Vec::new(),
    }
}

fn make(work: &ImageWork, path: &Path, draft: &Path, world: &World) -> Vec<Step> {
    if world.files.open(path).is_some_and(|inode| world.files.open(draft) == Some(inode)) {
        // An earlier attempt may have ended before the name was on stable storage.
        return vec![Step::Sync(path.to_owned()), Step::SyncNames(path.to_owned())];
    }
    let (parent, content) = match work {
        ImageWork::Create { parent, .. } => (parent.clone(), Content::new()),
        ImageWork::Convert { source, .. } => (None, read(source, world).unwrap_or_default()),
        _ => (None, Content::new()),
    };
    let mut steps =
        vec![Step::Remove(draft.to_owned()), Step::Reserve(draft.to_owned()), Step::Format(draft.to_owned(), parent)];
    steps.extend(content.into_iter().map(|(block, value)| Step::Put(draft.to_owned(), block, value)));
    steps.push(Step::Sync(draft.to_owned()));
    steps.push(Step::Link(draft.to_owned(), path.to_owned()));
    steps.push(Step::SyncNames(path.to_owned()));
    steps
}

impl Images {
    /// A commit is durable: learns what is worked on, and what was done.
    pub fn committed(&mut self, before: &State, after: &State, world: &World) {
        for job in after.jobs.values() {
            let stage = before.jobs.get(&job.id).map(|job| &job.stage);
            if let Stage::WorkingOnImage(work) = &job.stage
                && stage != Some(&job.stage)
            {
                self.begin(job.id, work, world);
            }
            let was_final = before.jobs.get(&job.id).is_none_or(|job| job.state.is_final());
            if job.state == JobState::Completed && !was_final {
                self.finished.extend(self.works.remove(&job.id));
            }
        }
        // What a machine has, its guest writes.
        for layer in after.layers.values().filter(|layer| layer.path.starts_with(DIRECTORY)) {
            self.expected.remove(&layer.path);
        }
    }

    /// The power failed: work that is begun anew reads its source as that is now, which may have lost what a failed merge had put there, or
    /// what a guest whose emulator died had not flushed before the image was its no more.
    pub fn power_cut(&mut self, state: &State, world: &World) {
        for job in state.jobs.values().filter(|job| !job.state.is_final()) {
            if let Stage::WorkingOnImage(work @ (ImageWork::Convert { .. } | ImageWork::Merge { .. })) = &job.stage {
                self.begin(job.id, work, world);
            }
        }
        for child in self.merging.values() {
            if let (Some(expected), Ok(content)) = (self.expected.get_mut(child), read(child, world)) {
                *expected = content;
            }
        }
    }

    fn begin(&mut self, job: JobId, work: &ImageWork, world: &World) {
        let content = |path: &Path| read(path, world).unwrap_or_default();
        let (path, expected) = match work {
            ImageWork::Create { path, parent, .. } => (path, parent.as_deref().map(content).unwrap_or_default()),
            ImageWork::Convert { source, path, .. } => (path, content(source)),
            ImageWork::Merge { child, parent } => {
                // One that another merge has taken away since it was looked for has nothing to give, and the work fails.
                let Ok(merged) = read(child, world) else { return };
                self.expected.insert(child.clone(), merged.clone());
                self.merging.insert(parent.clone(), child.clone());
                (parent, merged)
            }
            ImageWork::Resize { .. } | ImageWork::Validate { .. } => return,
        };
        // One that is there already stays as it is, and the work fails.
        if matches!(work, ImageWork::Merge { .. }) || world.files.open(path).is_none() {
            self.expected.insert(path.clone(), expected);
        }
        self.works.insert(job, path.clone());
    }

    /// Whether every file reads as it must.
    pub fn check(&mut self, world: &mut World, when: &str) {
        let mut broken = Vec::new();
        for (path, expected) in &self.expected {
            let merging = self.merging.get(path).is_some_and(|child| world.files.open(child).is_some());
            if merging || world.files.open(path).is_none() {
                continue;
            }
            match read(path, world) {
                Ok(found) if found == *expected => {}
                found => broken.push(format!("{when}: {} holds {found:?}, not {expected:?}", path.display())),
            }
        }
        // Only the merge that empties it may take it away.
        if !self.merging.contains_key(Path::new(BASE)) && world.files.open(Path::new(TOP)).is_none() {
            broken.push(format!("{when}: {TOP} is gone"));
        }
        for path in self.finished.iter().chain([&PathBuf::from(BASE)]) {
            if world.files.open(path).is_none() {
                broken.push(format!("{when}: {} is gone", path.display()));
            }
        }
        broken.into_iter().for_each(|text| world.break_promise(text));
    }

    /// At the very end: no draft is left, unless its job has said so.
    pub fn check_rest(&self, told: &[String], world: &mut World) {
        for path in world.files.below(Path::new(DIRECTORY)) {
            let name = path.display().to_string();
            if name.ends_with(".part") && !told.iter().any(|text| text.contains(&name)) {
                world.break_promise(format!("at rest: nobody needs {name}"));
            }
        }
    }
}
