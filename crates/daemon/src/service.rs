//! From an envelope to its answer: `wsman` reads it, `hyperv` understands it, the pump decides.
//!
//! ```text
//!   bytes ─▶ Server::handle ─▶ Reply                                        Pull, Release, Identify, faults
//!                └▶ Operation ─▶ hyperv::answer ─▶ Read, Done               from the present state
//!                                     ├▶ Inquiry ─▶ host ─▶ Inquiry::finish
//!                                     ├▶ Subscription                        from each state to come
//!                                     └▶ Submission ─▶ pump, one request after the other ─▶ Completion::finish
//! ```
//! Some methods answer when their job has ended. They wait no longer than the client does, less a margin; if the job is
//! not over by then, the answer is the job itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cim::op::{Answer, Operation};
use host::executor::Executor;
use hyperv::{Host, Inquiry, Outcome, Reaction, Submission};
use ledger::id::JobId;
use ledger::request;
use wsman::server::{Continuation, HttpReply};
use wsman::{Identity, Incoming, Moment, Server, Step};

use crate::audit::Audit;
use crate::following::{Bell, Live, Present};
use crate::guest::Asker;
use crate::http::{Answers, Question, Reply};
use crate::pump::Handle;
use crate::trail::Trail;

/// The part of a client's patience that is kept for the way back of the answer.
const MARGIN: Duration = Duration::from_secs(2);
/// The longest an answer is held back for a job, however patient the client: others on the way may be less so.
const WAIT_MAX: Duration = Duration::from_secs(50);

/// The longest that a machine is waited for that is asked something.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Answers envelopes. Clones are the same service.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    server: Server,
    present: Present,
    pump: Handle,
    executor: Executor,
    bell: Bell,
    audit: Audit,
    started: Instant,
}

impl Service {
    /// A service that speaks for `pump`, has questions answered by `executor`, and records what it is asked to change.
    pub fn new(host: Host, pump: Handle, executor: Executor, audit: Audit) -> Self {
        let identity = Identity {
            vendor: "Snapvisor".to_owned(),
            version: format!("OS: 0.0.0 SP: 0.0 Stack: {}", env!("CARGO_PKG_VERSION")),
            host: host.name.clone(),
        };
        Self(Arc::new(Inner {
            server: Server::new(identity),
            present: Present::new(host, pump.clone()),
            pump,
            executor,
            bell: Bell::default(),
            audit,
            started: Instant::now(),
        }))
    }

    /// Answers those who wait for events, who would otherwise hold up the end of the daemon.
    pub fn stop(&self) {
        self.0.bell.stop();
    }

    async fn perform(
        &self,
        operation: Operation,
        patience: Duration,
        explain: bool,
        asker: &Asker,
    ) -> Result<Answer, cim::Error> {
        let view = self.0.present.view(asker.role);
        let trail = Trail::begin(asker, &operation);
        let reaction = hyperv::answer(&view, operation).inspect_err(|error| trail.failed(&self.0.audit, error))?;
        let mut job = None;
        let outcome = match reaction {
            Reaction::Read(answer) => return Ok(answer),
            Reaction::Follow(subscription) => {
                return Ok(Answer::Events(Box::new(Live::new(subscription, self.0.present.clone()))));
            }
            Reaction::Done(outcome) if outcome.refusal.is_none() => return Ok(Answer::Method(outcome.result)),
            Reaction::Done(outcome) => {
                if let Some(failure) = &outcome.refusal {
                    crate::telemetry::refused("before it was submitted", failure);
                }
                outcome
            }
            Reaction::Ask(inquiry) => self.inquire(inquiry, patience).await,
            Reaction::Submit(submission) => self.submit(submission, patience, &mut job).await,
        };
        trail.ended(&self.0.audit, &outcome, job, &self.0.pump.state());
        match (outcome.refusal, explain) {
            (Some(failure), true) => Err(explanation(&failure)),
            _ => Ok(Answer::Method(outcome.result)),
        }
    }

    /// Asks the host, everything at once; an answer that takes too long is a refusal.
    async fn inquire(&self, mut inquiry: Inquiry, patience: Duration) -> Outcome {
        let patience = patience.saturating_sub(MARGIN).min(ANSWER_MAX);
        let questions = std::mem::take(&mut inquiry.questions);
        let asked: Vec<_> = questions.into_iter().map(|question| self.0.executor.ask(question, patience)).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(answer.await);
        }
        let outcome = inquiry.finish(answers);
        if let Some(failure) = &outcome.refusal {
            crate::telemetry::refused("by the host", failure);
        }
        outcome
    }

    /// Has requests carried out; the last job that one of them began is put into `begun`.
    async fn submit(&self, submission: Submission, patience: Duration, begun: &mut Option<JobId>) -> Outcome {
        let deadline = tokio::time::Instant::now() + patience.saturating_sub(MARGIN).min(WAIT_MAX);
        let mut replies = Vec::new();
        for request in submission.requests {
            let reply = self.0.pump.submit(request).await;
            if let request::Reply::Job(job) = &reply {
                *begun = Some(*job);
            }
            let goes_on = match &reply {
                request::Reply::Refused(_) => false,
                request::Reply::Job(job) if submission.completion.wait_for_job => self.completes(*job, deadline).await,
                request::Reply::Job(_) | request::Reply::Done { .. } => true,
            };
            replies.push(reply);
            if !goes_on {
                break;
            }
        }
        submission.completion.finish(&self.0.pump.state(), &replies)
    }

    /// Waits for the end of a job; whether it ended well before the deadline.
    async fn completes(&self, job: JobId, deadline: tokio::time::Instant) -> bool {
        use ledger::job::JobState;
        let ended = self.0.pump.wait_for(|state| state.jobs.get(&job).is_none_or(|job| job.state.is_final()));
        let state = tokio::time::timeout_at(deadline, ended).await;
        state.is_ok_and(|state| state.jobs.get(&job).is_none_or(|job| job.state == JobState::Completed))
    }

    fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    fn begin(&self, question: &Question) -> Step {
        let incoming = Incoming {
            content_type: &question.content_type,
            body: &question.body,
            principal: &question.asker.principal,
        };
        self.0.server.handle(incoming, Moment { now: self.now(), entropy: crate::entropy() })
    }

    fn end(&self, continuation: Continuation, answer: Result<Answer, cim::Error>) -> HttpReply {
        let now = self.now();
        self.0.server.complete(continuation, answer, now)
    }
}

impl Answers for Service {
    async fn answer(&self, question: Question) -> Reply {
        let reply = match self.begin(&question) {
            Step::Reply(reply) => reply,
            Step::Ended(reply) => {
                self.0.bell.ring();
                reply
            }
            Step::Follow(pull) => {
                let Inner { server, pump, bell, started, .. } = &*self.0;
                bell.follow(server, pull, pump, || started.elapsed()).await
            }
            Step::Perform(operation, continuation) => {
                tracing::debug!(?operation, principal = %question.asker.principal, "operation");
                let patience = continuation.timeout();
                match tokio::time::timeout(
                    patience,
                    self.perform(operation, patience, question.explain, &question.asker),
                )
                .await
                {
                    Ok(answer) => self.end(continuation, answer),
                    Err(_) => self.0.server.time_out(continuation),
                }
            }
        };
        Reply { status: reply.status, content_type: reply.content_type, body: reply.body }
    }

    fn identify(&self, content_type: &str, body: &[u8]) -> Option<Reply> {
        let reply = self.0.server.identify(content_type, body)?;
        Some(Reply { status: reply.status, content_type: reply.content_type, body: reply.body })
    }

    fn refuse_unencrypted(&self) -> Reply {
        let reply = self.0.server.refuse_unencrypted(crate::entropy());
        Reply { status: reply.status, content_type: reply.content_type, body: reply.body }
    }
}

/// A refusal in words: what happened on the first line, what to do about it on the second.
fn explanation(failure: &ledger::failure::Failure) -> cim::Error {
    let mut text = failure.message.clone();
    if let Some(hint) = &failure.hint {
        text.push('\n');
        text.push_str(hint);
    }
    cim::Error::new(hyperv::codes::status(failure.kind), text)
}

#[cfg(test)]
mod tests {
    use cim::embedded::EmbeddedInstance;
    use cim::op::{Argument, Target};
    use expect_test::{Expect, expect};
    use wsman::client::{self, CONTENT_TYPE, ClientError, Request, Stamp};

    use super::*;
    use crate::world::{MemoryStore, World};

    const NAMESPACE: &str = "root/virtualization/v2";

    /// A client in the same process.
    struct Client {
        service: Service,
        explain: bool,
    }

    impl Client {
        async fn ask(&self, request: Request) -> Result<client::Reply, ClientError> {
            let stamp = Stamp { to: "http://localhost/wsman", message_id: [7; 16], timeout: Duration::from_secs(60) };
            let question = Question {
                content_type: CONTENT_TYPE.to_owned(),
                body: request.to_envelope(stamp).into(),
                asker: Asker::owner(0),
                explain: self.explain,
            };
            let reply = self.service.answer(question).await;
            client::read(&request, reply.status, reply.content_type, &reply.body)
        }

        /// Defines a machine and says how that went, in a few words.
        async fn define(&self, name: &str) -> String {
            let properties = vec![("ElementName".to_owned(), Argument::Text(name.to_owned()))];
            let settings = EmbeddedInstance { class: "Msvm_VirtualSystemSettingData".to_owned(), properties };
            let request = Request::Invoke {
                target: Target::new(NAMESPACE, "Msvm_VirtualSystemManagementService"),
                method: "DefineSystem".to_owned(),
                arguments: vec![("SystemSettings".to_owned(), Argument::Instance(settings))],
            };
            match self.ask(request).await {
                Ok(client::Reply::Method(reply)) => {
                    let system = reply.outputs.reference("ResultingSystem").is_some();
                    format!("returned {}, system {system}", reply.return_value)
                }
                Ok(other) => format!("{other:?}"),
                Err(ClientError::Fault { reason, .. }) => format!("fault: {reason}"),
                Err(other) => other.to_string(),
            }
        }
    }

    async fn client(explain: bool) -> (World, Client) {
        let world = World::start(MemoryStore::default()).await;
        let host = crate::facts::host(world.directory.path().to_owned(), Box::new(|_, _| None), Box::new(|_| None));
        let service = Service::new(host, world.handle.clone(), world.executor.clone(), Audit::default());
        (world, Client { service, explain })
    }

    async fn check_define(name: &str, explain: bool, expected: Expect) {
        let (world, client) = client(explain).await;
        expected.assert_eq(&client.define(name).await);
        world.end().await;
    }

    /// Holds: WIRE-I11-1
    #[tokio::test]
    async fn a_machine_is_defined_before_the_answer() {
        let (world, client) = client(true).await;
        expect!["returned 0, system true"].assert_eq(&client.define("web").await);
        let names: Vec<_> = world.handle.state().vms.values().map(|vm| vm.name.clone()).collect();
        assert_eq!(names, ["web"]);
        let wql = "SELECT * FROM Msvm_ComputerSystem WHERE ElementName = 'web'".to_owned();
        let query = Request::Enumerate { namespace: NAMESPACE.to_owned(), wql, page: 10 };
        let Ok(client::Reply::Page(page)) = client.ask(query).await else { panic!("no page") };
        assert_eq!(page.rows.len(), 1);
        world.end().await;
    }

    #[tokio::test]
    async fn refusals_are_codes_or_words() {
        let long = "x".repeat(200);
        check_define(&long, false, expect!["returned 32773, system false"]).await;
        check_define(&long, true, expect!["fault: machine name has 200 characters, and may have 100"]).await;
    }

    #[tokio::test]
    async fn what_is_not_an_envelope_gets_a_fault() {
        let (world, client) = client(false).await;
        let question = Question {
            content_type: CONTENT_TYPE.to_owned(),
            body: "<not-soap/>".into(),
            asker: Asker::owner(0),
            explain: false,
        };
        let reply = client.service.answer(question).await;
        assert_eq!(reply.status, 500);
        assert!(reply.content_type.starts_with("application/soap+xml"), "{}", reply.content_type);
        world.end().await;
    }

    /// Subscribes to events of jobs and gives what to pull with.
    async fn follow_jobs(client: &Client) -> String {
        let wql = "SELECT * FROM __InstanceOperationEvent WHERE TargetInstance ISA 'Msvm_ConcreteJob'".to_owned();
        match client.ask(Request::Subscribe { namespace: NAMESPACE.to_owned(), wql }).await {
            Ok(client::Reply::Subscribed(context)) => context,
            other => panic!("{other:?}"),
        }
    }

    /// What a pull brings: the kind of each event and the state of its job, or the fault.
    async fn pull(client: &Client, context: &str) -> Vec<String> {
        let request = Request::Pull { namespace: NAMESPACE.to_owned(), context: context.to_owned(), page: 10 };
        match client.ask(request).await {
            Ok(client::Reply::Page(page)) => page
                .rows
                .iter()
                .map(|row| {
                    let job = row.instance("TargetInstance").unwrap();
                    format!("{} {}", row.class(), job.text("JobState").unwrap())
                })
                .collect(),
            Err(ClientError::Fault { subcode, .. }) => vec![subcode],
            other => panic!("{other:?}"),
        }
    }

    /// A pull that has been sent, and waits once other tasks have had their turn.
    fn pulling(client: &Client, context: &str) -> tokio::task::JoinHandle<Vec<String>> {
        let (client, context) = (Client { service: client.service.clone(), explain: false }, context.to_owned());
        tokio::spawn(async move { pull(&client, &context).await })
    }

    #[tokio::test]
    async fn events_arrive_at_a_pull_that_waits() {
        let (world, client) = client(true).await;
        let context = follow_jobs(&client).await;
        let waiting = pulling(&client, &context);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        expect!["returned 0, system true"].assert_eq(&client.define("web").await);
        let mut events = waiting.await.unwrap();
        while events.last().is_none_or(|last| !last.ends_with(" 7")) {
            events.extend(pull(&client, &context).await);
        }
        assert!(events[0].starts_with("__InstanceCreationEvent "), "{events:?}");
        assert!(events.iter().skip(1).all(|event| event.starts_with("__InstanceModificationEvent ")), "{events:?}");
        world.end().await;
    }

    #[tokio::test]
    async fn waiting_ends_with_the_subscription_the_service_and_the_pump() {
        let (world, client) = client(true).await;
        let (first, second) = (follow_jobs(&client).await, follow_jobs(&client).await);
        let (one, other) = (pulling(&client, &first), pulling(&client, &second));
        tokio::task::yield_now().await;
        let release = Request::Release { namespace: NAMESPACE.to_owned(), context: first };
        assert_eq!(client.ask(release).await, Ok(client::Reply::Released));
        assert_eq!(one.await.unwrap(), ["InvalidEnumerationContext"]);
        assert!(!other.is_finished(), "others go on waiting");
        client.service.stop();
        assert_eq!(other.await.unwrap(), ["EndpointUnavailable"]);
        assert_eq!(pull(&client, &second).await, ["EndpointUnavailable"]);
        world.end().await;

        let (world, client) = self::client(true).await;
        let context = follow_jobs(&client).await;
        let waiting = pulling(&client, &context);
        tokio::task::yield_now().await;
        world.end().await;
        assert_eq!(waiting.await.unwrap(), ["EndpointUnavailable"]);
    }
}
