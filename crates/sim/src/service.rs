//! The daemon in the fake world: the same parts as the real one, moved by hand instead of by a runtime.
//!
//! ```text
//!   ask ──envelope──▶ wsman ──▶ hyperv ─┬─▶ reply                                  a read, a refusal
//!                                       └─▶ call: request after request ──▶ inbox
//!   turn: one event from the inbox ──▶ driver ──▶ store ──▶ driver ──▶ attempts, replies
//! ```
//! Dying is dropping it: what matters is in the store and in the world.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cim::op::{Answer, Operation};
use hyperv::role::Role;
use hyperv::{Host, Namespaces, Reaction, Submission, View};
use ledger::driver::{Driver, Released};
use ledger::effect::{Effect, EffectId};
use ledger::event::{Event, RequestId};
use ledger::id::JobId;
use ledger::job::JobState;
use ledger::paths::Paths;
use ledger::record::Store;
use ledger::request::Reply;
use ledger::state::{State, Timestamp};
use wsman::server::{Continuation, HttpReply};
use wsman::{Identity, Incoming, Moment, Server, Step};

use crate::store::FakeStore;

/// Where machines are kept.
pub const ROOT: &str = "/data";

/// Where a turn is cut short by the death of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// What was decided is not durable.
    BeforeCommit,
    /// It is durable, and nobody has acted on it or heard of it.
    AfterCommit,
}

/// What does not change from one daemon to the next.
#[derive(Clone)]
pub struct Surroundings {
    namespaces: Arc<Namespaces>,
    host: Arc<Host>,
}

/// A daemon.
pub struct Service {
    driver: Driver,
    server: Server,
    surroundings: Surroundings,
    state: Arc<State>,
    calls: Vec<Call>,
    next_request: RequestId,
    /// What has happened and is not yet worked in.
    pub inbox: VecDeque<Event>,
    /// What the hands are to begin and to end early.
    pub started: Vec<(EffectId, Effect)>,
    /// Which effects are to end early.
    pub cancelled: Vec<EffectId>,
    /// Replies on their way, by client.
    pub replies: Vec<(usize, HttpReply)>,
    /// Refusals that changed something, in words.
    pub broken: Vec<String>,
    /// Facts wait that the store could not take; the next event records them.
    behind: bool,
}

/// A method call on its way.
struct Call {
    client: usize,
    continuation: Continuation,
    completion: hyperv::Completion,
    waits_for_jobs: bool,
    requests: VecDeque<ledger::request::Request>,
    replies: Vec<Reply>,
    waiting: Waiting,
}

enum Waiting {
    Reply(RequestId),
    Job(JobId),
}

impl Default for Surroundings {
    fn default() -> Self {
        let host = Host {
            name: "SIM".to_owned(),
            uuid: uuid::Uuid::from_u128(7),
            processors: 4,
            memory_bytes: 8 << 30,
            data_root: ROOT.into(),
            serial: Box::new(|_, _| None),
            process: Box::new(|_| None),
            free_memory: Box::new(|| 4 << 30),
        };
        Self { namespaces: Arc::new(Namespaces::load()), host: Arc::new(host) }
    }
}

impl Service {
    /// A daemon that finds this store.
    ///
    /// # Errors
    /// When what is stored cannot be loaded.
    pub fn start(store: &mut FakeStore, surroundings: &Surroundings) -> Result<Self, String> {
        let (revision, records) = store.load().map_err(|error| error.to_string())?;
        let driver = Driver::load(revision, &records, Paths::new(ROOT)).map_err(|error| error.to_string())?;
        store.reconcile(driver.state());
        let identity = Identity { vendor: "sim".into(), version: "0".into(), host: surroundings.host.name.clone() };
        Ok(Self {
            state: Arc::new(driver.state().clone()),
            driver,
            server: Server::new(identity),
            surroundings: surroundings.clone(),
            calls: Vec::new(),
            next_request: 1,
            inbox: VecDeque::new(),
            started: Vec::new(),
            cancelled: Vec::new(),
            replies: Vec::new(),
            broken: Vec::new(),
            behind: false,
        })
    }

    /// What readers see.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The machines to be looked at first.
    pub fn to_observe(&self) -> Vec<ledger::id::VmId> {
        self.driver.to_observe().into_iter().collect()
    }

    /// Takes an envelope from a client.
    pub fn ask(&mut self, client: usize, body: &[u8], now: u64, entropy: [u8; 32]) {
        let principal = format!("client:{client}");
        let incoming = Incoming { content_type: wsman::client::CONTENT_TYPE, body, principal: &principal };
        let moment = Moment { now: Duration::from_micros(now), entropy };
        match self.server.handle(incoming, moment) {
            Step::Reply(reply) | Step::Ended(reply) => self.replies.push((client, reply)),
            // No client here subscribes; one that did would wait in vain.
            Step::Follow(_) => {}
            Step::Perform(operation, continuation) => self.perform(client, operation, continuation, now, entropy),
        }
    }

    fn perform(
        &mut self,
        client: usize,
        operation: Operation,
        continuation: Continuation,
        now: u64,
        entropy: [u8; 32],
    ) {
        let view = View {
            namespaces: Arc::clone(&self.surroundings.namespaces),
            host: Arc::clone(&self.surroundings.host),
            state: Arc::clone(&self.state),
            now: Timestamp(now),
            utc_offset_minutes: 0,
            role: Role::Administer,
        };
        let answer = match hyperv::answer(&view, operation) {
            Ok(Reaction::Submit(submission)) => return self.submit(client, submission, continuation, entropy),
            Ok(Reaction::Read(answer)) => Ok(answer),
            Ok(Reaction::Done(outcome)) => Ok(Answer::Method(outcome.result)),
            Ok(Reaction::Ask(_) | Reaction::Follow(_)) => Err(cim::Error::new(
                cim::Status::NotSupported,
                "guests here have no screens, and nobody waits for events",
            )),
            Err(error) => Err(error),
        };
        self.complete(client, continuation, answer, now);
    }

    fn complete(&mut self, client: usize, continuation: Continuation, answer: Result<Answer, cim::Error>, now: u64) {
        let reply = self.server.complete(continuation, answer, Duration::from_micros(now));
        self.replies.push((client, reply));
    }

    fn submit(&mut self, client: usize, submission: Submission, continuation: Continuation, entropy: [u8; 32]) {
        let Submission { requests, completion } = submission;
        let waits_for_jobs = completion.wait_for_job;
        let mut call = Call {
            client,
            continuation,
            completion,
            waits_for_jobs,
            requests: requests.into(),
            replies: Vec::new(),
            waiting: Waiting::Reply(0),
        };
        if let Some(request) = call.requests.pop_front() {
            call.waiting = Waiting::Reply(self.send(request, entropy));
            self.calls.push(call);
        }
    }

    fn send(&mut self, request: ledger::request::Request, entropy: [u8; 32]) -> RequestId {
        let id = self.next_request;
        self.next_request += 1;
        let seed = u128::from_le_bytes(std::array::from_fn(|at| entropy[at])) ^ u128::from(id);
        self.inbox.push_back(Event::Request { id, request, seed });
        id
    }

    /// Works in one event. `false` if the daemon died of it.
    pub fn turn(&mut self, event: Event, store: &mut FakeStore, now: u64, death: Option<Death>) -> bool {
        let asked = match &event {
            Event::Request { id, request, .. } => Some((*id, format!("{request:?}"))),
            _ => None,
        };
        let step = self.driver.handle(event, Timestamp(now));
        if death == Some(Death::BeforeCommit) {
            return false;
        }
        let released = match step.commit.as_ref().map(|commit| store.commit(commit)) {
            None | Some(Ok(())) => {
                if death == Some(Death::AfterCommit) {
                    return false;
                }
                store.describe(self.driver.state(), step.next());
                self.driver.confirm(step)
            }
            Some(Err(error)) => {
                self.behind |= asked.is_none();
                self.driver.refuse(step, &error)
            }
        };
        let before = std::mem::replace(&mut self.state, Arc::new(self.driver.state().clone()));
        self.check_refusal(&before, asked, &released);
        self.release(released, now);
        true
    }

    /// A refusal changes nothing, unless it found facts to be recorded.
    fn check_refusal(&mut self, before: &State, asked: Option<(RequestId, String)>, released: &Released) {
        let changed = *before != *self.state;
        if let Some((id, request)) = asked {
            let refused = |(to, reply): &(RequestId, Reply)| *to == id && matches!(reply, Reply::Refused(_));
            if changed && !self.behind && released.replies.iter().any(refused) {
                self.broken.push(format!("{request} was refused and changed something"));
            }
        }
        self.behind &= before.revision == self.state.revision;
    }

    fn release(&mut self, released: Released, now: u64) {
        self.started.extend(released.effects);
        self.cancelled.extend(released.cancels);
        for (id, reply) in released.replies {
            let waits = |call: &Call| matches!(call.waiting, Waiting::Reply(waiting) if waiting == id);
            if let Some(at) = self.calls.iter().position(waits) {
                let call = self.calls.swap_remove(at);
                self.replied(call, reply, now);
            }
        }
        self.jobs_ended(now);
    }

    fn replied(&mut self, mut call: Call, reply: Reply, now: u64) {
        call.replies.push(reply.clone());
        match reply {
            Reply::Refused(_) => self.finish(call, now),
            Reply::Job(job) if call.waits_for_jobs => {
                call.waiting = Waiting::Job(job);
                self.calls.push(call);
            }
            Reply::Job(_) | Reply::Done { .. } => self.go_on(call, now),
        }
    }

    fn jobs_ended(&mut self, now: u64) {
        let state = Arc::clone(&self.state);
        let ended = |call: &Call| match call.waiting {
            Waiting::Job(job) => state.jobs.get(&job).is_none_or(|job| job.state.is_final()),
            Waiting::Reply(_) => false,
        };
        while let Some(at) = self.calls.iter().position(ended) {
            let call = self.calls.swap_remove(at);
            let well = match call.waiting {
                Waiting::Job(job) => state.jobs.get(&job).is_none_or(|job| job.state == JobState::Completed),
                Waiting::Reply(_) => true,
            };
            if well { self.go_on(call, now) } else { self.finish(call, now) }
        }
    }

    fn go_on(&mut self, mut call: Call, now: u64) {
        match call.requests.pop_front() {
            None => self.finish(call, now),
            Some(request) => {
                let entropy = [u8::try_from(call.replies.len()).unwrap_or(0); 32];
                call.waiting = Waiting::Reply(self.send(request, entropy));
                self.calls.push(call);
            }
        }
    }

    fn finish(&mut self, call: Call, now: u64) {
        let outcome = call.completion.finish(&self.state, &call.replies);
        self.complete(call.client, call.continuation, Ok(Answer::Method(outcome.result)), now);
    }
}
