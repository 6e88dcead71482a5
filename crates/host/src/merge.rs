//! Two layers become one, inside the machine's process or inside a storage daemon started for the purpose.
//!
//! A storage daemon that an earlier daemon of ours left behind is ended before a new one starts: it holds the locks of
//! the files, and its job is of no use to us. So is one that nobody had the time to record. What it had copied stays valid, as the order promises.

use std::time::Duration;

use ledger::effect::{Image, MergeDirection, MergeOrder};
use ledger::event::{MachineChange, Outcome};
use ledger::failure::{Failure, Kind};
use ledger::id::VmId;
use qemu::graph::{self, Graph, Layer};
use qemu::merge::{Direction, Merge, MergeError, Merged, Where};
use qemu::procedure::{CommandError, HostReply};
use qemu::qmp::Command;
use serde_json::Value;

use crate::account::Account;
use crate::cgroup::Limits;
use crate::control;
use crate::disk;
use crate::drive::{COMMAND_PATIENCE, Drive};
use crate::executor::{Attempt, Ending};
use crate::fault;
use crate::hands::Hands;
use crate::headers;
use crate::machines::{self, GuestState};
use crate::process::{self, Process, Program, Talking, listen_on_standard_input};
use crate::qmp_socket::{Monitor, MonitorError};
use crate::spec;

/// How long the storage daemon may take to greet us.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the storage daemon may take to end in order: it flushes what it wrote.
const QUIT_PATIENCE: Duration = Duration::from_secs(30);

/// How often the end of a merge is tried whose switch has happened.
const FINISHING_TRIES: u32 = 3;

/// Makes one layer of two.
pub async fn merge(attempt: &Attempt, vm: VmId, order: MergeOrder, live: bool) -> Ending {
    match attempt_merge(attempt, vm, &order, live).await {
        Ok(merged) => Ok(Outcome::Merged { stopped: merged.stopped }),
        Err(failure) if live && procedure(&order, Where::Machine, attempt).switches_live_layer() => {
            Err(settle(attempt, vm, &order, failure).await.into())
        }
        Err(failure) => Err(failure.into()),
    }
}

/// A merge of the live top failed, perhaps before it had looked at what an earlier attempt left: that one may have switched the process to
/// the lower layer, and the record still says the upper one. A guest that runs has never been switched. One that stands still on the
/// upper layer, with no job left that could switch it, is shown as paused. On the lower one it must not run. One that does not answer
/// is left alone: to end it would cost a guest that runs.
async fn settle(attempt: &Attempt, vm: VmId, order: &MergeOrder, failure: Failure) -> Failure {
    let running = match attempt.machines().find_within(vm, COMMAND_PATIENCE).await {
        Ok(Some(running)) => running,
        // An earlier attempt may have ended it, and its word not have been heard.
        Ok(None) => return Failure { kind: Kind::MachineGone, ..failure },
        Err(_) => return failure,
    };
    let job = has_job(&running.monitor, &procedure(order, Where::Machine, attempt).job()).await;
    let on_record = writes_to(&running.monitor, &spec::layer(&order.upper)).await;
    // Answers come in the order of the questions: who answers this one has been asked the others.
    let state = machines::guest_state(&running.monitor, COMMAND_PATIENCE).await;
    match (job, on_record, state) {
        (_, _, Err(_) | Ok(GuestState::Running)) | (Err(_), _, _) | (_, Err(_), _) => failure,
        (Ok(false), Ok(true), Ok(_)) => {
            attempt.tell(vm, MachineChange::Stopped);
            failure
        }
        (Ok(_), Ok(_), Ok(_)) => {
            running.end(QUIT_PATIENCE).await;
            turned_off(vm, &failure)
        }
    }
}

/// Whether a device reads through a layer.
async fn writes_to(monitor: &Monitor, layer: &Layer) -> Result<bool, MonitorError> {
    let answer = monitor.execute(graph::query(), Vec::new(), COMMAND_PATIENCE).await?;
    Ok(!Graph::read(&answer).chain_of(layer).is_empty())
}

/// Whether there is a job of this name.
async fn has_job(monitor: &Monitor, name: &str) -> Result<bool, MonitorError> {
    let jobs = monitor.execute(Command::new("query-jobs"), Vec::new(), COMMAND_PATIENCE).await?;
    let is_it = |job: &Value| job.get("id").and_then(Value::as_str) == Some(name);
    Ok(jobs.as_array().into_iter().flatten().any(is_it))
}

fn turned_off(vm: VmId, why: &dyn std::fmt::Display) -> Failure {
    let text = format!("a merge in the process of machine {vm} could not be completed: {why}");
    let advice = "the machine was turned off to keep its disks right; start it again";
    Failure::new(Kind::MachineGone, text).hint(advice)
}

async fn attempt_merge(attempt: &Attempt, vm: VmId, order: &MergeOrder, live: bool) -> Result<Merged, Failure> {
    let (seals, files) = (attempt.bench.seals.clone(), order.clone());
    let broken = tokio::task::spawn_blocking(move || seals.break_for(vm, &files)).await;
    // Until the end of this attempt: what a merge is changing must not be sealed.
    let _broken = broken.map_err(|error| fault::task(&error)).and_then(|broken| broken)?;
    if live { in_machine(attempt, vm, order).await } else { elsewhere(attempt, vm, order).await }
}

async fn in_machine(attempt: &Attempt, vm: VmId, order: &MergeOrder) -> Result<Merged, Failure> {
    let found = attempt.machines().find(vm).await;
    let running = found.map_err(|error| fault::monitor("reach the machine", &error))?;
    let running = running.ok_or_else(|| fault::no_process(vm))?;
    let account = attempt.layout().account_of(vm);
    hand_over(attempt, vm, order, account, true).await?;
    let mut procedure = procedure(order, Where::Machine, attempt);
    procedure.disk_io = running.build.disk_io;
    for _ in 1..FINISHING_TRIES {
        match run(attempt, account, &running.monitor, procedure.clone()).await {
            Err(MergeError::AfterSwitch(error)) => tracing::warn!(%vm, %error, "a merge is not complete, trying again"),
            ended => return ended.map_err(|error| failure(&procedure, &error)),
        }
    }
    let ended = run(attempt, account, &running.monitor, procedure.clone()).await;
    if let Err(MergeError::AfterSwitch(error)) = &ended {
        // The process now writes to the lower layer and the record still says the upper one. As long as nothing has been
        // written both are right; a guest that ran on would make the record wrong, so it must not.
        running.end(QUIT_PATIENCE).await;
        return Err(turned_off(vm, error));
    }
    ended.map_err(|error| failure(&procedure, &error))
}

async fn elsewhere(attempt: &Attempt, vm: VmId, order: &MergeOrder) -> Result<Merged, Failure> {
    let account = attempt.layout().settle_vm(vm)?;
    hand_over(attempt, vm, order, account, false).await?;
    end_left_over(attempt, vm).await;
    let daemon = start_storage_daemon(attempt, vm, account, Limits::of(0, 0, order.below.len() + 2)).await?;
    let procedure = procedure(order, Where::StorageDaemon, attempt);
    let merged = run(attempt, account, &daemon.monitor, procedure.clone()).await;
    let orderly = async {
        // Its end is what counts, not its answer.
        let _ = daemon.monitor.execute(Command::new("quit"), Vec::new(), QUIT_PATIENCE).await;
        daemon.process.ended().await
    };
    if tokio::time::timeout(QUIT_PATIENCE, orderly).await.is_err() {
        daemon.process.kill().await;
    }
    merged.map_err(|error| failure(&procedure, &error))
}

async fn start_storage_daemon(
    attempt: &Attempt,
    vm: VmId,
    account: Option<Account>,
    limits: Limits,
) -> Result<Talking, Failure> {
    let layout = attempt.layout();
    let socket = layout.merge_qmp(vm);
    let chardev = format!("socket,id=qmp,path={},server=on,wait=off", socket.display());
    let mark = format!("null,{}", layout.merge_mark(vm));
    let arguments = ["--chardev", &mark, "--chardev", &chardev, "--monitor", "chardev=qmp"].map(str::to_owned).to_vec();
    let program = Program {
        path: attempt.tools().storage_daemon.clone(),
        arguments: listen_on_standard_input(arguments, &socket),
        socket,
        log: layout.merge_log(vm),
        identity: Some(layout.merge_identity(vm)),
        account,
        group: attempt.bench.setup.groups.of(vm, limits),
    };
    program.talk(START_PATIENCE).await.map_err(|error| fault::start("the storage daemon", &error))
}

async fn end_left_over(attempt: &Attempt, vm: VmId) {
    let layout = attempt.layout();
    if let Ok(Some(process)) = Process::find(&layout.merge_identity(vm), &layout.merge_log(vm)) {
        tracing::info!(%vm, pid = process.pid(), "ending the storage daemon of an earlier merge");
        process.kill().await;
    }
    process::end_strays(&layout.merge_mark(vm)).await;
}

/// Whatever is opened that the machine's own process does not have open already.
fn verify_headers(order: &MergeOrder, live: bool) -> Result<(), Failure> {
    let chain: Vec<Image> = [&order.upper, &order.lower].into_iter().chain(&order.below).cloned().collect();
    if !live {
        headers::verify_layers(&chain)?;
    }
    let opened = |child: &&Image| !live || !order.above.contains(child);
    order.children.iter().filter(opened).try_for_each(|child| headers::verify(child, &chain).map(drop))
}

async fn hand_over(
    attempt: &Attempt,
    vm: VmId,
    order: &MergeOrder,
    account: Option<Account>,
    live: bool,
) -> Result<(), Failure> {
    let layout = attempt.layout().clone();
    let order = order.clone();
    let work = move || {
        verify_headers(&order, live)?;
        let pair: [&Image; 2] = [&order.upper, &order.lower];
        disk::hand_over_images(
            &layout,
            vm,
            account,
            pair.into_iter().chain(&order.above).chain(&order.below).chain(&order.children),
        )?;
        Ok(Outcome::Done)
    };
    disk::blocking(work).await.map(|_| ()).map_err(|ended| ended.failure)
}

fn procedure(order: &MergeOrder, place: Where, attempt: &Attempt) -> Merge {
    // The storage daemon opens the two layers and what is below them, nothing above.
    let above = if place == Where::Machine { spec::layers(&order.above) } else { Vec::new() };
    Merge {
        above,
        upper: spec::layer(&order.upper),
        lower: spec::layer(&order.lower),
        below: spec::layers(&order.below),
        children: spec::layers(&order.children),
        direction: match order.direction {
            MergeDirection::Down => Direction::Down,
            MergeDirection::Up => Direction::Up,
        },
        place,
        disk_io: attempt.tools().disk_io,
    }
}

async fn run(
    attempt: &Attempt,
    account: Option<Account>,
    monitor: &Monitor,
    procedure: Merge,
) -> Result<Merged, MergeError> {
    let report = |done, total| attempt.progress(done, total, "merging layers");
    let drive = Drive {
        monitor,
        hands: Hands::new(account, attempt.tools().qemu_img.clone()),
        cancel: attempt.cancel.clone(),
        progress: &report,
    };
    drive.run(procedure).await
}

fn failure(procedure: &Merge, error: &MergeError) -> Failure {
    let what = format!("merge {} and {}", procedure.upper.path.display(), procedure.lower.path.display());
    let plain = |kind| Failure::new(kind, format!("could not {what}: {error}"));
    let later = "nothing is lost, and the merge is tried again later";
    match error {
        MergeError::NoRoom { .. } => plain(Kind::NoSpace).hint(format!("free some space; {later}")),
        // It is not the machine's process that is gone, and a machine that waits with saved memory goes on to.
        MergeError::Command(CommandError::Lost { .. }) if procedure.place == Where::StorageDaemon => {
            Failure::new(Kind::Failed, format!("could not {what}: the storage daemon ended in the middle")).hint(later)
        }
        MergeError::Command(error) => fault::command(&what, error),
        MergeError::Host(error) => fault::host_part(&what, error),
        MergeError::Job { reason } => match fault::kind_of_words(reason) {
            Kind::NoSpace => plain(Kind::NoSpace).hint(format!("free some space{}; {later}", still_needed(procedure))),
            kind => plain(kind),
        },
        MergeError::Unexpected { .. } | MergeError::AfterSwitch(_) => plain(Kind::Failed),
        MergeError::Cancelled => control::cancelled("the merge"),
    }
}

/// How much a merge needs that was stopped by a full disk, for its hint.
fn still_needed(procedure: &Merge) -> String {
    let (from, into) = procedure.copies();
    match disk::room_to_merge(from, into) {
        Ok(HostReply::Room { needed, .. }) => {
            let place = into.path.parent().unwrap_or(&into.path);
            format!(", up to {} MiB are needed in {}", needed.div_ceil(1 << 20), place.display())
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use qemu::graph::{DiskIo, Format, Layer};

    use super::*;

    fn order(place: Where) -> Merge {
        let layer = |name: &str| Layer { id: uuid::Uuid::nil(), path: name.into(), format: Format::Qcow2 };
        Merge {
            above: Vec::new(),
            upper: layer("/d/upper"),
            lower: layer("/d/lower"),
            below: Vec::new(),
            children: Vec::new(),
            direction: Direction::Down,
            place,
            disk_io: DiskIo::Buffered,
        }
    }

    #[test]
    fn a_merge_that_fails_says_why_and_what_becomes_of_it() {
        let check = |place, error: MergeError, kind, expected: &str| {
            let failure = failure(&order(place), &error);
            assert_eq!((failure.kind, failure.full_text().as_str()), (kind, expected));
        };
        let lost = || MergeError::Command(CommandError::Lost { command: "query-jobs" });
        check(
            Where::StorageDaemon,
            lost(),
            Kind::Failed,
            "could not merge /d/upper and /d/lower: the storage daemon ended in the middle: \
             nothing is lost, and the merge is tried again later",
        );
        check(
            Where::Machine,
            lost(),
            Kind::MachineGone,
            "could not merge /d/upper and /d/lower: the machine's process ended in the middle: start the machine again",
        );
        check(
            Where::Machine,
            MergeError::NoRoom { needed: 1 << 30, free: 5 << 20, place: "/d".into() },
            Kind::NoSpace,
            "could not merge /d/upper and /d/lower: it may need 1024 MiB in /d, and only 5 MiB are free: \
             free some space; nothing is lost, and the merge is tried again later",
        );
    }
}
