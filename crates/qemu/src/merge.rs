//! Making one layer of two, in a machine's process or in a `qemu-storage-daemon`.
//!
//! ```text
//!  machine: look at the graph ─┬─ upper lies on lower ─▶ our job there? ─┬─ no ──▶ start ─┐
//!                              ├─ one of them is gone from the chain ─▶ tidy          yes │
//!                              └─ anything else ─▶ Err(Unexpected)         │              │
//!  storage daemon: add the chain ─▶ start ─────────────────────────────────┴──────────────┤
//!                                                                                         ▼
//!      cancel ─▶ job-cancel ─▶ ┌───────────────────────── watch ──────────────────────────────────────┐
//!                              │ ready ─▶ [stop the guest] ─▶ job-complete ─▶ watch                   │
//!                              └─ concluded ─┬─ with error ─▶ dismiss ─▶ [let the guest run] ─▶ Err ──┘
//!                                            └─ without ─▶ dismiss
//!  tidy (also after dismiss): drop the node of the layer that is not needed ─▶ [flush the live layer] ─▶ rewrite children's headers
//!                             ─▶ sync ─▶ Ok
//! start: is there room for what may be copied? ─┬─ yes ─▶ block-commit or block-stream
//!                                               └─ no ──▶ Err(NoRoom)
//! ```
//!
//! The job has a name that follows from the upper layer, and is dismissed by us, so that after a restart a later attempt finds
//! it. Everything may be repeated: an interrupted copy leaves both files as readable as before, and copying again is harmless.
//!
//! Writing down into the live top's parent ends with a switch of the live layer. The guest is stopped before it and left so,
//! until the caller's record names the layer that it writes to. Measured: 2-20 ms from `stop` to concluded with idle disks.

use std::path::PathBuf;

use serde_json::Value;

use crate::graph::{self, DiskIo, Format, Graph, Layer, chain_blockdev};
use crate::procedure::{
    CommandError, HostFailure, HostReply, HostRequest, Micros, Now, Procedure, Progress, Step, Wake, ask, execute,
    finish, tell, wait,
};
use crate::qmp::{Command, run_state};

/// Between two looks at the job: often enough for a progress bar.
const LOOK_US: u64 = 200_000;
/// Between two looks while the guest stands still.
const HURRY_US: u64 = 1_000;

/// How two neighbouring layers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The upper layer's content is written into the lower file (`block-commit`).
    Down,
    /// The lower layer's content is copied into the upper file (`block-stream`).
    Up,
}

/// Where the merge happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// In the machine's process, which has the chain open.
    Machine,
    /// In a `qemu-storage-daemon` started for the purpose, with no block devices open.
    StorageDaemon,
}

/// One merge.
#[derive(Clone, Debug)]
pub struct Merge {
    /// Layers above `upper` in the live chain, top first.
    pub above: Vec<Layer>,
    /// The layer that lies on `lower`.
    pub upper: Layer,
    /// The layer below.
    pub lower: Layer,
    /// The rest of the chain, top first.
    pub below: Vec<Layer>,
    /// Layers whose backing file is `upper`; the one in the live chain may be among them.
    pub children: Vec<Layer>,
    /// Which way.
    pub direction: Direction,
    /// Where.
    pub place: Where,
    /// How disks are reached.
    pub disk_io: DiskIo,
}

/// One layer holds the content of both, and is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The live layer was switched, and the guest is stopped for it: by us, or perhaps by an earlier attempt whose work we
    /// found. False if the guest was stopped before we began.
    pub stopped: bool,
}

/// Why a merge failed. Both layers are still there and read as before. A guest runs if it ran, but for
/// [`MergeError::AfterSwitch`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The host could not do its part.
    #[error(transparent)]
    Host(#[from] HostFailure),
    /// QEMU's job failed.
    #[error("QEMU could not merge the layers: {reason}")]
    Job {
        /// QEMU's words.
        reason: String,
    },
    /// The layer that grows may need more room than there is. Nothing has been begun.
    #[error("it may need {} MiB in {}, and only {} MiB are free", needed.div_ceil(1 << 20), place.display(), free >> 20)]
    NoRoom {
        /// Bytes at most, with some to spare.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Directory of the layer that grows.
        place: PathBuf,
    },
    /// The graph is not what the order says.
    #[error("the process does not have the two layers one on the other; it has {found}")]
    Unexpected {
        /// What was found.
        found: String,
    },
    /// Only the end is missing: the live layer is switched, or perhaps about to be, and the guest stopped. Repeating the order
    /// finishes it.
    #[error("the live layer is merged or about to be, the guest is stopped, and the merge is not complete: {0}")]
    AfterSwitch(Box<MergeError>),
    /// Somebody no longer wants it.
    #[error("the merge was cancelled")]
    Cancelled,
}

type Outcome = Result<Merged, MergeError>;
type Next = Step<Outcome>;

impl Procedure for Merge {
    type Outcome = Outcome;

    fn begin(self, _: Now) -> Next {
        let state = Box::new(Merging::new(self));
        match state.order.place {
            Where::Machine => state.look_at_graph(),
            Where::StorageDaemon => state.add_chain(),
        }
    }
}

impl Merge {
    /// Name of the job in QEMU.
    pub fn job(&self) -> String {
        format!("merge-{}", self.upper.node())
    }

    /// Whether the merge ends with a switch of the layer that the guest writes to.
    pub fn switches_live_layer(&self) -> bool {
        self.place == Where::Machine && self.direction == Direction::Down && self.above.is_empty()
    }

    /// Whether the layer that the guest writes to is copied into.
    fn grows_live_layer(&self) -> bool {
        self.place == Where::Machine && self.direction == Direction::Up && self.above.is_empty()
    }

    /// Which layer is copied, and into which.
    pub fn copies(&self) -> (&Layer, &Layer) {
        (self.leaving(), self.staying())
    }

    /// The command that starts the job.
    fn start(&self) -> Command {
        let upper = self.upper.node();
        let common = |name| Command::new(name).arg("job-id", self.job()).arg("auto-dismiss", false);
        match (self.direction, self.above.first(), self.below.first()) {
            (Direction::Down, None, _) => {
                common("block-commit").arg("device", upper).arg("base-node", self.lower.node())
            }
            (Direction::Down, Some(top), _) => common("block-commit")
                .arg("device", top.node())
                .arg("top-node", upper)
                .arg("base-node", self.lower.node())
                .arg("backing-file", text(&self.lower)),
            (Direction::Up, _, None) => common("block-stream").arg("device", upper),
            (Direction::Up, _, Some(base)) => common("block-stream")
                .arg("device", upper)
                .arg("base-node", base.node())
                .arg("backing-file", text(base)),
        }
    }

    /// The layer whose file is not needed any more.
    fn leaving(&self) -> &Layer {
        match self.direction {
            Direction::Down => &self.upper,
            Direction::Up => &self.lower,
        }
    }

    /// The layer that has the content of both.
    fn staying(&self) -> &Layer {
        match self.direction {
            Direction::Down => &self.lower,
            Direction::Up => &self.upper,
        }
    }

    /// Children whose headers QEMU has not rewritten itself.
    fn headers_to_rewrite(&self) -> Vec<HostRequest> {
        if self.direction == Direction::Up {
            return Vec::new();
        }
        let in_chain = self.above.last().filter(|_| self.place == Where::Machine);
        let children = self.children.iter().filter(|child| in_chain.is_none_or(|layer| layer.id != child.id));
        children.map(|child| HostRequest::QemuImg { arguments: rebase_arguments(child, &self.lower) }).collect()
    }
}

/// Arguments of `qemu-img` that make an image's header name another backing file, without touching its content.
pub fn rebase_arguments(image: &Layer, backing: &Layer) -> Vec<String> {
    let format = backing.format.driver();
    let words = ["rebase", "-u", "-f", Format::Qcow2.driver(), "-F", format, "-b", &text(backing), &text(image)];
    words.map(str::to_owned).to_vec()
}

/// A merge under way.
struct Merging {
    order: Merge,
    /// There was a job before us, so that a stopped guest may have been stopped for it.
    resumed: bool,
    /// The guest is stopped for the switch.
    stopped: bool,
    /// The live layer has been switched.
    switched: bool,
    /// The job has been told to complete.
    completing: bool,
    cancelled: bool,
}

/// What `query-jobs` says of our job.
struct Job {
    status: String,
    progress: Progress,
    error: Option<String>,
}

impl Merging {
    fn new(order: Merge) -> Self {
        Self { order, resumed: false, stopped: false, switched: false, completing: false, cancelled: false }
    }

    fn look_at_graph(self: Box<Self>) -> Next {
        execute(graph::query(), |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(answer) => self.compare(&Graph::read(&answer), now),
        })
    }

    fn compare(self: Box<Self>, graph: &Graph, now: Now) -> Next {
        let (upper, lower) = (self.order.upper.node(), self.order.lower.node());
        let leaving = self.order.leaving().node();
        let chain = graph.chain_of(self.order.staying());
        if chain.windows(2).any(|pair| *pair == [upper.as_str(), lower.as_str()]) {
            return self.look_for_job();
        }
        if !chain.is_empty() && !chain.contains(&leaving.as_str()) {
            return self.note_if_stopped();
        }
        let found = if chain.is_empty() { "neither".to_owned() } else { chain.join(", ") };
        self.fail(MergeError::Unexpected { found }, now)
    }

    /// An earlier attempt got to the end. If it switched the live layer it left the guest stopped.
    fn note_if_stopped(mut self: Box<Self>) -> Next {
        execute(Command::new("query-status"), |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(status) => {
                self.switched = self.order.switches_live_layer();
                self.stopped = self.switched && !may_run(&status);
                self.dismiss()
            }
        })
    }

    fn look_for_job(self: Box<Self>) -> Next {
        self.query_job(|mut merging, job, now| match job {
            Some(_) => {
                merging.resumed = true;
                merging.watch(now)
            }
            None => merging.measure_room(),
        })
    }

    fn add_chain(self: Box<Self>) -> Next {
        let order = &self.order;
        let chain: Vec<Layer> = [&order.upper, &order.lower].into_iter().chain(&order.below).cloned().collect();
        let tree = chain_blockdev(&chain, false, order.disk_io).unwrap_or_default();
        execute(Command::with("blockdev-add", tree), |reply, now| match reply {
            Ok(_) => self.measure_room(),
            Err(error) => self.fail(error, now),
        })
    }

    /// Only before a job is begun: one that was begun may have stopped the guest, which must not wait for space.
    fn measure_room(self: Box<Self>) -> Next {
        let (from, into) = self.order.copies();
        let (from, into) = (from.clone(), into.clone());
        let place = into.path.parent().unwrap_or(&into.path).to_owned();
        ask(HostRequest::MeasureRoom { from, into }, move |reply, now| match reply {
            Ok(HostReply::Room { needed, free }) if free < needed => {
                self.fail(MergeError::NoRoom { needed, free, place }, now)
            }
            Ok(_) => self.start(),
            Err(error) => self.fail(error, now),
        })
    }

    fn start(self: Box<Self>) -> Next {
        execute(self.order.start(), |reply, now| match reply {
            Ok(_) => self.watch(now),
            Err(error) => self.fail(error, now),
        })
    }

    fn watch(self: Box<Self>, now: Now) -> Next {
        let interval = if self.stopped { HURRY_US } else { LOOK_US };
        self.watch_until(now.micros + interval)
    }

    fn watch_until(self: Box<Self>, until: Micros) -> Next {
        wait(until, move |wake, _| match wake {
            Wake::Cancel if !self.completing => self.cancel(),
            Wake::Event(event) if event.name == "JOB_STATUS_CHANGE" => self.look_at_job(),
            Wake::Event(_) | Wake::Cancel => self.watch_until(until),
            Wake::Deadline | Wake::Lost => self.look_at_job(),
        })
    }

    fn look_at_job(self: Box<Self>) -> Next {
        self.query_job(|mut merging, job, now| {
            let Some(job) = job else {
                return merging.fail(MergeError::Job { reason: "its job has vanished".to_owned() }, now);
            };
            match (job.status.as_str(), job.error) {
                ("concluded", Some(_)) if merging.cancelled => merging.undo(MergeError::Cancelled),
                ("concluded", Some(reason)) => merging.undo(MergeError::Job { reason }),
                // A cancel may have come too late.
                ("concluded", None) => {
                    merging.switched = merging.order.switches_live_layer();
                    merging.dismiss()
                }
                ("ready", _) if !merging.completing && !merging.cancelled => merging.stop_guest(),
                _ => tell(job.progress, move || merging.watch(now)),
            }
        })
    }

    fn cancel(mut self: Box<Self>) -> Next {
        let command = Command::new("job-cancel").arg("id", self.order.job());
        execute(command, |reply, now| match reply {
            Err(error @ CommandError::Lost { .. }) => self.fail(error, now),
            // Refused means that it has just ended by itself; the next look tells.
            reply => {
                self.cancelled = reply.is_ok();
                self.watch(now)
            }
        })
    }

    fn stop_guest(mut self: Box<Self>) -> Next {
        if self.order.place == Where::StorageDaemon {
            return self.complete();
        }
        execute(Command::new("query-status"), |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(status) if may_run(&status) => execute(Command::new("stop"), |reply, now| match reply {
                Err(error) => {
                    self.stopped = error.leaves_open();
                    self.fail(error, now)
                }
                Ok(_) => {
                    self.stopped = true;
                    self.complete()
                }
            }),
            Ok(_) => {
                self.stopped = self.resumed;
                self.complete()
            }
        })
    }

    fn complete(mut self: Box<Self>) -> Next {
        self.completing = true;
        execute(Command::new("job-complete").arg("id", self.order.job()), |reply, now| match reply {
            Ok(_) => self.watch(now),
            Err(error) if error.leaves_open() => self.fail(error, now),
            Err(error) => self.undo(error.into()),
        })
    }

    /// The job is over. That it was dismissed before is no error.
    fn dismiss(self: Box<Self>) -> Next {
        execute(Command::new("job-dismiss").arg("id", self.order.job()), |reply, now| match reply {
            Err(error @ CommandError::Lost { .. }) => self.fail(error, now),
            _ => self.drop_node(),
        })
    }

    /// Closes the file that is not needed any more; in a storage daemon, all of them. A node that was opened as part of
    /// another one is gone with its last user, hence errors do not matter.
    fn drop_node(self: Box<Self>) -> Next {
        let layer = match self.order.place {
            Where::Machine => self.order.leaving(),
            Where::StorageDaemon => &self.order.upper,
        };
        execute(graph::remove(&layer.node()), |reply, now| match reply {
            Err(error @ CommandError::Lost { .. }) => self.fail(error, now),
            _ if self.order.grows_live_layer() => self.flush(),
            _ => self.rewrite_headers(),
        })
    }

    /// QEMU flushes a layer that a job has written to when it closes it, makes it read-only again or switches to it. `block-stream`
    /// into the live layer does none of these (tried with 10.0.2), and the newest tables stay in QEMU's memory. Content first,
    /// because the guest waits while QEMU flushes.
    fn flush(self: Box<Self>) -> Next {
        ask(HostRequest::Sync { paths: vec![self.order.upper.path.clone()] }, |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(_) => {
                let order = &self.order;
                execute(graph::flush(&order.upper, order.below.first(), order.disk_io), |reply, now| match reply {
                    Err(error) => self.fail(error, now),
                    Ok(_) => self.rewrite_headers(),
                })
            }
        })
    }

    fn rewrite_headers(self: Box<Self>) -> Next {
        let requests = self.order.headers_to_rewrite();
        self.rewrite(requests)
    }

    fn rewrite(self: Box<Self>, mut requests: Vec<HostRequest>) -> Next {
        let Some(request) = requests.pop() else { return self.sync() };
        ask(request, |reply, now| match reply {
            Ok(_) => self.rewrite(requests),
            Err(error) => self.fail(error, now),
        })
    }

    fn sync(self: Box<Self>) -> Next {
        let children = self.order.children.iter().filter(|_| self.order.direction == Direction::Down);
        let paths = std::iter::once(self.order.staying()).chain(children).map(|layer| layer.path.clone()).collect();
        ask(HostRequest::Sync { paths }, move |reply, now| match reply {
            Ok(_) => finish(Ok(Merged { stopped: self.stopped })),
            Err(error) => self.fail(error, now),
        })
    }

    /// The job ended without a merge.
    fn undo(mut self: Box<Self>, reason: MergeError) -> Next {
        self.completing = false;
        execute(Command::new("job-dismiss").arg("id", self.order.job()), |_, now| self.fail(reason, now))
    }

    /// Lets the guest run if we stopped it, unless the live layer has been switched, or may have been.
    #[expect(clippy::boxed_local, reason = "every other state is boxed, and callers hold the box")]
    fn fail(self: Box<Self>, reason: impl Into<MergeError>, _: Now) -> Next {
        let reason = reason.into();
        if (self.switched || self.completing) && self.order.switches_live_layer() {
            return finish(Err(MergeError::AfterSwitch(Box::new(reason))));
        }
        if !self.stopped {
            return finish(Err(reason));
        }
        execute(Command::new("cont"), |_, _| finish(Err(reason)))
    }

    fn query_job(self: Box<Self>, then: impl FnOnce(Box<Self>, Option<Job>, Now) -> Next + Send + 'static) -> Next {
        execute(Command::new("query-jobs"), |reply, now| match reply {
            Err(error) => self.fail(error, now),
            Ok(jobs) => {
                let job = find_job(&jobs, &self.order.job());
                then(self, job, now)
            }
        })
    }
}

/// Whether the guest runs, or may on its own: one in standby wakes up.
fn may_run(status: &Value) -> bool {
    run_state(status) == "suspended" || status.get("running").and_then(Value::as_bool) == Some(true)
}

fn find_job(jobs: &Value, id: &str) -> Option<Job> {
    let job = jobs.as_array()?.iter().find(|job| job.get("id").and_then(Value::as_str) == Some(id))?;
    let number = |name: &str| job.get(name).and_then(Value::as_u64).unwrap_or(0);
    Some(Job {
        status: job.get("status")?.as_str()?.to_owned(),
        progress: Progress { done: number("current-progress"), total: number("total-progress") },
        error: job.get("error").and_then(Value::as_str).map(str::to_owned),
    })
}

fn text(layer: &Layer) -> String {
    layer.path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
