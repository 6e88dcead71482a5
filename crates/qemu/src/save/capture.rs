//! [`Capture`] and [`Save`]: the procedure of the diagram in [`super`].

use std::path::PathBuf;

use super::convergence::{Convergence, Sample, Verdict, last_resort};
use super::migration::{self, Look, Phase, Status};
use super::{Capture, CaptureFailed, Captured, MEMORY_FILE, Method, Policy, SIDECAR_FILE, Save, SaveError};
use crate::graph::{self, DiskIo, Graph, Layer, Overlay};
use crate::mapped_ram::Layout;
use crate::procedure::{
    CommandError, FileKey, HostFailure, HostReply, HostRequest, HostResult, Micros, Now, Procedure, Progress, Step,
    ask, execute, finish, tell,
};
use crate::qmp::{Command, run_state};
use crate::version::Abilities;

/// Between two looks at a live save: often enough to notice its end should the event be lost.
const WATCH_US: u64 = 50_000;
/// Between two looks while the guest stands still.
const HURRY_US: u64 = 500;
/// How long the end of a save may take once the guest is stopped or its pages are tracked, without any page being written.
const END_US: u64 = 120_000_000;

type Outcome = Result<Captured, CaptureFailed>;
type Next = Step<Outcome>;

impl Procedure for Capture {
    type Outcome = Outcome;

    fn begin(self, now: Now) -> Next {
        let leave = if self.resume { Leave::Running } else { Leave::Paused };
        Job::new(self.overlays, self.memory, self.disk_io, self.policy, leave, now).look_around()
    }
}

impl Procedure for Save {
    type Outcome = Outcome;

    fn begin(self, now: Now) -> Next {
        // Disks are not switched, so how they are reached does not matter.
        let policy = Policy { background: false, only: Some(Method::Stopped) };
        Job::new(Vec::new(), Some(self.memory), DiskIo::Buffered, policy, Leave::Saved, now).look_around()
    }
}

/// How the guest is left on success.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Running,
    Paused,
    /// Stopped as the migration leaves it, disks closed: good for nothing but quitting, or running on.
    Saved,
}

/// What is known at all points of the procedure.
struct Job {
    overlays: Vec<Overlay>,
    directory: Option<PathBuf>,
    disk_io: DiskIo,
    policy: Policy,
    leave: Leave,
    began: Micros,
    abilities: Abilities,
    was_running: bool,
    method: Method,
    reason: Option<String>,
    throttled: bool,
    touched: bool,
    migrating: bool,
    switched: bool,
    moment: Micros,
    pause_us: u64,
}

impl Job {
    fn new(
        overlays: Vec<Overlay>,
        directory: Option<PathBuf>,
        disk_io: DiskIo,
        policy: Policy,
        leave: Leave,
        now: Now,
    ) -> Box<Self> {
        let method = if directory.is_some() { policy.only.unwrap_or(Method::Live) } else { Method::DisksOnly };
        Box::new(Self {
            overlays,
            directory,
            disk_io,
            policy,
            leave,
            began: now.micros,
            abilities: Abilities::default(),
            was_running: false,
            method,
            reason: None,
            throttled: false,
            touched: false,
            migrating: false,
            switched: false,
            moment: 0,
            pause_us: 0,
        })
    }

    fn look_around(mut self: Box<Self>) -> Next {
        execute(Command::new("query-status"), |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(status) => {
                match run_state(&status) {
                    "running" => self.was_running = true,
                    // From any other state QEMU has no way back: it aborts on leaving `io-error` for `paused`, say.
                    "paused" => {}
                    state => return self.fail(SaveError::RunState { state: state.to_owned() }, now),
                }
                self.see_no_migration()
            }
        })
    }

    fn see_no_migration(self: Box<Self>) -> Next {
        migration::query(|look, now| match look {
            Look::Trouble(error) => self.fail(error, now),
            Look::Status(Status { phase: Phase::Idle | Phase::Completed, .. }) => self.ask_abilities(now),
            Look::Status(_) | Look::Cancel => self.fail(SaveError::Busy, now),
        })
    }

    fn ask_abilities(mut self: Box<Self>, now: Now) -> Next {
        if self.directory.is_none() {
            return self.look_at_graph(now);
        }
        migration::abilities(|abilities, now| {
            match abilities {
                Ok(abilities) => self.abilities = abilities,
                Err(error) => return self.fail(error, now),
            }
            for capability in ["mapped-ram", "pause-before-switchover"] {
                if !self.abilities.can(capability) {
                    return self.fail(SaveError::Unable { capability }, now);
                }
            }
            self.choose_for_paused();
            self.look_at_graph(now)
        })
    }

    /// A paused guest has no pause to shorten. The background way is still better, because it leaves the disks open.
    fn choose_for_paused(&mut self) {
        if !self.was_running && self.policy.only.is_none() {
            self.method = if self.may_go_background() { Method::Background } else { Method::Stopped };
        }
    }

    fn may_go_background(&self) -> bool {
        self.policy.background && self.abilities.can("background-snapshot")
    }

    /// QEMU puts an overlay on any node, also on one that no device reads through: the guest would write to what is frozen then.
    fn look_at_graph(self: Box<Self>, now: Now) -> Next {
        if self.overlays.is_empty() {
            return self.add_overlays(now);
        }
        execute(graph::query(), |reply, now| {
            let graph = match reply {
                Ok(answer) => Graph::read(&answer),
                Err(error) => return self.fail(error, now),
            };
            let is_live = |layer: &Layer| graph.chain_of(layer).first().is_some_and(|top| *top == layer.node());
            match self.overlays.iter().map(|overlay| &overlay.parent).find(|parent| !is_live(parent)) {
                Some(layer) => {
                    let path = layer.path.clone();
                    self.fail(SaveError::OtherLayer { path }, now)
                }
                None => self.add_overlays(now),
            }
        })
    }

    fn add_overlays(mut self: Box<Self>, now: Now) -> Next {
        self.touched = true;
        let commands: Vec<_> =
            self.overlays.iter().map(|overlay| graph::add(&overlay.layer, false, self.disk_io)).collect();
        execute_all_or_fail(self, commands, now, |job, now| match &job.directory {
            Some(_) => job.open_files(),
            None => job.switch_without_memory(now),
        })
    }

    // Without memory.

    fn switch_without_memory(mut self: Box<Self>, now: Now) -> Next {
        self.moment = now.micros;
        self.switch(now, |job, _| job.sync_disks(None))
    }

    // With memory: common beginning.

    fn open_files(self: Box<Self>) -> Next {
        let request = HostRequest::Open { file: FileKey::Memory, path: self.path(MEMORY_FILE) };
        ask(request, |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(_) => self.configure(now),
        })
    }

    fn configure(mut self: Box<Self>, now: Now) -> Next {
        let commands = migration::configure(&self.abilities, self.method);
        migration::execute_all(commands, now, |result, now| match result {
            Ok(()) => self.hand_over_files(),
            // The capability is always listed; that host or memory do not allow it shows only when it is set.
            Err(ref error @ CommandError::Refused { ref refusal, .. })
                if self.method == Method::Background && self.policy.only.is_none() && !error.leaves_open() =>
            {
                self.method = Method::Stopped;
                self.policy.background = false;
                self.reason = Some(refusal.desc.clone());
                self.configure(now)
            }
            Err(error) => self.fail(error, now),
        })
    }

    fn hand_over_files(self: Box<Self>) -> Next {
        migration::add_file(FileKey::Memory, |result, now| match result {
            Err(error) => self.fail(error, now),
            Ok(()) if matches!(self.method, Method::Background | Method::Stopped) && self.was_running => {
                self.stop_first()
            }
            Ok(()) => self.start(now),
        })
    }

    fn stop_first(self: Box<Self>) -> Next {
        execute(Command::new("stop"), |reply, now| match reply {
            Ok(_) => self.see_it_paused(),
            Err(error) => self.fail(error, now),
        })
    }

    /// A guest that resets at that moment is in `prelaunch`, and QEMU 10.0.2 aborts on a background save of it.
    fn see_it_paused(self: Box<Self>) -> Next {
        execute(Command::new("query-status"), |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(status) => match run_state(&status) {
                "paused" => self.start(now),
                state => self.fail(SaveError::RunState { state: state.to_owned() }, now),
            },
        })
    }

    fn start(mut self: Box<Self>, now: Now) -> Next {
        self.migrating = true;
        migration::start(now, |result, now| match result {
            Err(error) => self.fail(error, now),
            Ok(()) if self.method == Method::Background => self.await_tracking(now.micros + END_US),
            Ok(()) => self.watch(Convergence::new(now.micros), now),
        })
    }

    // Live and stopped.

    fn watch(mut self: Box<Self>, mut convergence: Convergence, now: Now) -> Next {
        migration::look(now.micros + WATCH_US, move |look, now| match look {
            Look::Cancel => self.fail(SaveError::Cancelled, now),
            Look::Trouble(error) => self.fail(error, now),
            Look::Status(status) => {
                self.throttled |= status.sample.throttle > 0;
                match status.phase {
                    Phase::PreSwitchover => self.stand_still(now),
                    Phase::Idle | Phase::Completed => self.fail(gave_up(status), now),
                    Phase::Going | Phase::Active => match convergence.judge(&status.sample, now.micros) {
                        Verdict::GoOn => tell(written(&status), move || self.watch(convergence, now)),
                        Verdict::GiveUp(reason) => self.take_other_way(reason, &status, convergence, now),
                    },
                }
            }
        })
    }

    fn take_other_way(
        mut self: Box<Self>,
        reason: &'static str,
        status: &Status,
        convergence: Convergence,
        now: Now,
    ) -> Next {
        if self.method != Method::Live || self.policy.only.is_some() {
            return self.fail(SaveError::Migration { reason: reason.to_owned() }, now);
        }
        self.reason = Some(reason.to_owned());
        self.method = last_resort(&status.sample, self.may_go_background());
        match self.method {
            Method::Background => migration::cancel(now, |result, now| {
                self.migrating = false;
                match result {
                    Ok(()) => self.configure(now),
                    Err(error) => self.fail(error, now),
                }
            }),
            // A stopped guest writes nothing, so the migration that goes on comes to its end.
            _ => execute(Command::new("stop"), |reply, now| match reply {
                Ok(_) => self.watch(convergence, now),
                Err(error) => self.fail(error, now),
            }),
        }
    }

    /// The guest is stopped and its disks are flushed: the moment.
    fn stand_still(mut self: Box<Self>, now: Now) -> Next {
        self.set_moment(now);
        self.switch(now, |job, _| job.continue_migration())
    }

    fn continue_migration(self: Box<Self>) -> Next {
        let command = Command::new("migrate-continue").arg("state", "pre-switchover");
        execute(command, |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(_) => {
                let end = Ending { interval: HURRY_US, cancellable: false, pages: 0, deadline: now.micros + END_US };
                self.await_completion(end, now, |job, now| job.leave_guest(now))
            }
        })
    }

    fn leave_guest(self: Box<Self>, now: Now) -> Next {
        match self.leave {
            Leave::Running => self.resume(now, |job, _| job.close()),
            Leave::Saved => self.close(),
            // The migration has closed the disks and set a run state from which no other migration starts; only `cont` ends
            // both. So the guest runs for a moment that is not in the snapshot.
            Leave::Paused => self.resume(now, |job, _| {
                execute(Command::new("stop"), |reply, now| match reply {
                    Ok(_) => job.close(),
                    Err(error) => job.fail(error, now),
                })
            }),
        }
    }

    // Background.

    /// Waits until device state is captured and pages are protected. Status `active` comes before that; pages come after.
    fn await_tracking(self: Box<Self>, deadline: Micros) -> Next {
        migration::query(move |look, now| match look {
            Look::Trouble(error) => self.fail(error, now),
            Look::Status(status) => match status.phase {
                Phase::Idle | Phase::PreSwitchover => self.fail(gave_up(status), now),
                Phase::Active if status.sample.pages == 0 => self.await_tracking_later(deadline, now),
                Phase::Active | Phase::Completed => self.switch_and_run(now),
                Phase::Going => self.await_tracking_later(deadline, now),
            },
            Look::Cancel => self.fail(SaveError::Cancelled, now),
        })
    }

    fn await_tracking_later(self: Box<Self>, deadline: Micros, now: Now) -> Next {
        if now.micros >= deadline {
            return self.fail(too_slow(), now);
        }
        migration::look(now.micros + HURRY_US, move |look, now| match look {
            Look::Cancel => self.fail(SaveError::Cancelled, now),
            Look::Trouble(error) => self.fail(error, now),
            Look::Status(_) => self.await_tracking(deadline),
        })
    }

    fn switch_and_run(mut self: Box<Self>, now: Now) -> Next {
        self.set_moment(now);
        self.switch(now, |job, now| match job.leave {
            Leave::Running => job.resume(now, |job, now| job.await_background(now)),
            Leave::Paused | Leave::Saved => job.await_background(now),
        })
    }

    fn await_background(self: Box<Self>, now: Now) -> Next {
        let end = Ending { interval: WATCH_US, cancellable: true, pages: 0, deadline: now.micros + END_US };
        self.await_completion(end, now, |job, _| job.close())
    }

    // Common end.

    /// Puts all overlays on top at one moment, then goes on.
    fn switch(mut self: Box<Self>, now: Now, then: impl FnOnce(Box<Self>, Now) -> Next + Send + 'static) -> Next {
        if self.overlays.is_empty() {
            return then(self, now);
        }
        execute(graph::switch(&self.overlays), |reply, now| match reply {
            Ok(_) => {
                self.switched = true;
                then(self, now)
            }
            Err(error) => {
                // Refused means not switched. Without an answer it may have happened.
                self.switched = error.leaves_open();
                self.fail(error, now)
            }
        })
    }

    /// Waits for the end. As long as pages are written it may take its time.
    fn await_completion(
        mut self: Box<Self>,
        mut end: Ending,
        now: Now,
        then: impl FnOnce(Box<Self>, Now) -> Next + Send + 'static,
    ) -> Next {
        migration::look(now.micros + end.interval, move |look, now| match look {
            Look::Trouble(error) => self.fail(error, now),
            Look::Cancel if end.cancellable => self.fail(SaveError::Cancelled, now),
            Look::Cancel => self.await_completion(end, now, then),
            Look::Status(status) => match status.phase {
                Phase::Completed => {
                    self.migrating = false;
                    then(self, now)
                }
                Phase::Idle => self.fail(gave_up(status), now),
                _ if end.is_over(status.sample.pages, now.micros) => self.fail(too_slow(), now),
                _ => tell(written(&status), move || self.await_completion(end, now, then)),
            },
        })
    }

    fn resume(mut self: Box<Self>, now: Now, then: impl FnOnce(Box<Self>, Now) -> Next + Send + 'static) -> Next {
        migration::resume(now, |reply, now| match reply {
            Ok(_) => {
                if self.was_running && now.stopped > 0 {
                    self.pause_us = now.resumed.saturating_sub(now.stopped);
                }
                then(self, now)
            }
            Err(error) => self.fail(error, now),
        })
    }

    fn close(self: Box<Self>) -> Next {
        execute(migration::remove_file(), |_, _| {
            close_file(|result, now| match result {
                Ok(_) => self.seal(),
                Err(error) => self.fail(error, now),
            })
        })
    }

    fn seal(self: Box<Self>) -> Next {
        let request = HostRequest::Seal {
            memory: self.path(MEMORY_FILE),
            sidecar: self.path(SIDECAR_FILE),
            fill_bitmaps: self.method == Method::Background,
        };
        ask(request, |reply, now| match reply {
            Ok(HostReply::Sealed { layout, bytes }) => self.sync_disks(Some((layout, bytes))),
            Ok(HostReply::Done | HostReply::Room { .. }) => {
                self.fail(HostFailure("the memory file was not sealed".into()), now)
            }
            Err(error) => self.fail(error, now),
        })
    }

    /// The layers below were flushed by QEMU; this makes them and the overlays' directory entries safe.
    fn sync_disks(self: Box<Self>, memory: Option<(Layout, u64)>) -> Next {
        let layers = self.overlays.iter().flat_map(|overlay| [&overlay.parent, &overlay.layer]);
        let paths = layers.map(|layer| layer.path.clone()).collect();
        ask(HostRequest::Sync { paths }, move |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(_) => finish(Ok(Captured {
                method: if self.method == Method::Live && self.throttled { Method::Throttled } else { self.method },
                reason: self.reason,
                moment_us: self.moment,
                pause_us: self.pause_us,
                total_us: now.micros.saturating_sub(self.began),
                memory,
            })),
        })
    }

    // Undoing.

    fn fail(self: Box<Self>, reason: impl Into<SaveError>, now: Now) -> Next {
        let reason = reason.into();
        if !self.touched {
            return finish(Err(CaptureFailed { reason, switched: false, stuck: None }));
        }
        if self.migrating {
            // Whatever the cancel answers, the next steps tell what state things are in.
            return migration::cancel(now, |_, now| self.restore_guest(reason, now));
        }
        self.restore_guest(reason, now)
    }

    fn restore_guest(self: Box<Self>, reason: SaveError, now: Now) -> Next {
        let run = self.was_running && self.leave != Leave::Paused;
        if !run {
            return self.drop_overlays(reason, None, now);
        }
        migration::resume(now, |reply, now| {
            let stuck = reply.err().map(|error| error.to_string());
            self.drop_overlays(reason, stuck, now)
        })
    }

    #[expect(clippy::boxed_local, reason = "every other state is boxed, and callers hold the box")]
    fn drop_overlays(self: Box<Self>, reason: SaveError, stuck: Option<String>, now: Now) -> Next {
        let mut commands = vec![migration::remove_file()];
        if !self.switched {
            commands.extend(self.overlays.iter().map(|overlay| graph::remove(&overlay.layer.node())));
        }
        let switched = self.switched;
        migration::try_all(commands, now, move |_| {
            close_file(move |_, _| finish(Err(CaptureFailed { reason, switched, stuck })))
        })
    }

    fn set_moment(&mut self, now: Now) {
        self.moment = if now.stopped > 0 { now.stopped } else { now.micros };
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.clone().unwrap_or_default().join(name)
    }
}

/// The wait for a migration's end.
#[derive(Clone, Copy)]
struct Ending {
    interval: Micros,
    cancellable: bool,
    pages: u64,
    deadline: Micros,
}

impl Ending {
    /// Whether nothing was written for [`END_US`].
    fn is_over(&mut self, pages: u64, now: Micros) -> bool {
        if pages != self.pages {
            *self = Self { pages, deadline: now + END_US, ..*self };
        }
        now >= self.deadline
    }
}

fn written(status: &Status) -> Progress {
    let Sample { total, remaining, .. } = status.sample;
    Progress { done: total.saturating_sub(remaining), total }
}

/// Sends commands that must all succeed.
fn execute_all_or_fail(
    job: Box<Job>,
    commands: Vec<Command>,
    now: Now,
    then: impl FnOnce(Box<Job>, Now) -> Next + Send + 'static,
) -> Next {
    migration::execute_all(commands, now, |result, now| match result {
        Ok(()) => then(job, now),
        Err(error) => job.fail(error, now),
    })
}

/// Closes the memory file; a failing close means that data may not have reached the disk.
fn close_file(then: impl FnOnce(HostResult, Now) -> Next + Send + 'static) -> Next {
    ask(HostRequest::Close { file: FileKey::Memory }, then)
}

fn gave_up(status: Status) -> SaveError {
    SaveError::Migration { reason: status.error.unwrap_or_else(|| "it ended without saying why".to_owned()) }
}

fn too_slow() -> SaveError {
    SaveError::Migration { reason: "nothing was written for two minutes".to_owned() }
}
