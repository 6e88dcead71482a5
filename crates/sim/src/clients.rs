//! Clients: they speak WS-Management, know only what it tells them, and want things at random.

use cim::op::{Argument, Target};
use ledger::id::{SnapshotId, VmId};
use ledger::state::State;
use wsman::client::{self, Reply, Request, Stamp};

use crate::random::Random;

const NAMESPACE: &str = "root/virtualization/v2";

/// Return values that a method may have: done, job started, and the refusals of all families.
const RETURNS: [std::ops::RangeInclusive<u32>; 3] = [0..=5, 4096..=4099, 32768..=32778];

/// A client with at most one question open.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// What it waits for the answer to.
    pub asked: Option<Request>,
    /// What it wants to ask next, because of the last answer.
    next: Option<Request>,
    /// Answers heard.
    pub answers: u64,
}

impl Client {
    /// The next question, as bytes.
    pub fn ask(&mut self, state: &State, random: &mut Random) -> Vec<u8> {
        let request = self.next.take().unwrap_or_else(|| wish(state, random));
        let stamp = Stamp {
            to: "http://sim/wsman",
            message_id: std::array::from_fn(|_| random.bits().to_le_bytes()[0]),
            timeout: std::time::Duration::from_secs(60),
        };
        let bytes = request.to_envelope(stamp);
        self.asked = Some(request);
        bytes
    }

    /// An answer has come.
    ///
    /// # Errors
    /// When it is not one that this question may have.
    pub fn hear(&mut self, status: u16, content_type: &str, body: &[u8]) -> Result<(), String> {
        let Some(request) = self.asked.take() else { return Err("an answer to no question".to_owned()) };
        self.answers += 1;
        match client::read(&request, status, content_type, body) {
            Ok(Reply::Method(reply)) => {
                if !RETURNS.iter().any(|range| range.contains(&reply.return_value)) {
                    return Err(format!("{request:?} returned {}", reply.return_value));
                }
                let job = reply.outputs.reference("Job").cloned();
                if reply.return_value == 4096 && job.is_none() {
                    return Err(format!("{request:?} returned 4096 without a job"));
                }
                // Whoever is told of a job looks at it.
                self.next = job.map(Request::Get);
            }
            Ok(Reply::Page(page)) => {
                let pull = |context| Request::Pull { namespace: NAMESPACE.to_owned(), context, page: 3 };
                self.next = page.context.map(pull);
            }
            Ok(_) | Err(client::ClientError::Fault { .. }) => {}
            Err(other) => return Err(format!("{request:?}: {other}")),
        }
        Ok(())
    }

    /// The connection is gone.
    pub fn hang_up(&mut self) {
        *self = Self { answers: self.answers, ..Self::default() };
    }
}

fn target(class: &str, key: &str, value: String) -> Target {
    Target::new(NAMESPACE, class).with_key(key, value)
}

fn settings(id: impl std::fmt::Display) -> Argument {
    Argument::Reference(target("Msvm_VirtualSystemSettingData", "InstanceID", format!("Microsoft:{id}")))
}

fn system(vm: VmId) -> Target {
    target("Msvm_ComputerSystem", "Name", vm.to_string()).with_key("CreationClassName", "Msvm_ComputerSystem")
}

fn invoke(target: Target, method: &str, arguments: Vec<(&str, Argument)>) -> Request {
    let arguments = arguments.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Request::Invoke { target, method: method.to_owned(), arguments }
}

fn text(value: impl ToString) -> Argument {
    Argument::Text(value.to_string())
}

fn wish(state: &State, random: &mut Random) -> Request {
    let vms: Vec<VmId> = state.vms.keys().copied().collect();
    let snapshots: Vec<SnapshotId> = state.snapshots.keys().copied().collect();
    let service = || Target::new(NAMESPACE, "Msvm_VirtualSystemSnapshotService");
    let nobody = uuid::Uuid::nil();
    let vm = random.pick(&vms).copied().unwrap_or(VmId(nobody));
    let snapshot = random.pick(&snapshots).copied().unwrap_or(SnapshotId(nobody));
    match random.below(100) {
        0..25 => {
            let kind = if random.permille(800) { 2 } else { 3 };
            let arguments = vec![("AffectedSystem", Argument::Reference(system(vm))), ("SnapshotType", text(kind))];
            invoke(service(), "CreateSnapshot", arguments)
        }
        25..37 => invoke(service(), "ApplySnapshot", vec![("Snapshot", settings(snapshot))]),
        37..49 => invoke(service(), "DestroySnapshot", vec![("AffectedSnapshot", settings(snapshot))]),
        49..51 => invoke(service(), "DestroySnapshotTree", vec![("SnapshotSettingData", settings(snapshot))]),
        51..54 => invoke(service(), "ClearSnapshotState", vec![("SnapshotSettingData", settings(snapshot))]),
        54..82 => {
            let wanted = [2, 2, 2, 2, 3, 3, 6, 6, 9, 11];
            let wanted = random.pick(&wanted).copied().unwrap_or(2);
            invoke(system(vm), "RequestStateChange", vec![("RequestedState", text(wanted))])
        }
        82..88 => {
            let jobs: Vec<_> = state.jobs.values().filter(|job| !job.state.is_final()).map(|job| job.id).collect();
            let job = random.pick(&jobs).map(ToString::to_string).unwrap_or_default();
            let wanted = if random.permille(500) { 4 } else { 5 };
            let job = target("Msvm_ConcreteJob", "InstanceID", job);
            invoke(job, "RequestStateChange", vec![("RequestedState", text(wanted))])
        }
        88..90 => {
            let shutdown = target("Msvm_ShutdownComponent", "SystemName", vm.to_string());
            invoke(shutdown, "InitiateShutdown", vec![("Force", text("false")), ("Reason", text("sim"))])
        }
        90..95 => {
            enumerate(format!("SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemIdentifier = '{vm}'"))
        }
        _ => enumerate(format!(
            "ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{vm}'}} \
             WHERE AssocClass = Msvm_SnapshotOfVirtualSystem"
        )),
    }
}

fn enumerate(wql: String) -> Request {
    Request::Enumerate { namespace: NAMESPACE.to_owned(), wql, page: 2 }
}
