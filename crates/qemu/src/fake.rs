//! A small model of QEMU for tests: it answers commands as QEMU does as far as our procedures can tell, and can be told to
//! refuse one, to be cancelled, or to vanish, at any point.

use std::collections::{BTreeSet, VecDeque};

use serde_json::{Value, json};

use crate::mapped_ram::Layout;
use crate::procedure::{Action, FileKey, HostFailure, HostReply, HostRequest, Input, NO_ANSWER, Procedure, Run};
use crate::qmp::{Command, Event, Refusal};

/// What is to go wrong, and at which action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// The n-th action fails.
    Fail(usize),
    /// A cancel comes before the n-th action.
    Cancel(usize),
    /// The connection is lost at the n-th action.
    Lose(usize),
    /// The n-th action is done, if it is a command, and not answered in time.
    Delay(usize),
}

/// State of the model.
pub struct Fake {
    pub clock: u64,
    pub state: &'static str,
    pub migration: &'static str,
    /// Whether a live save comes to its end while the guest runs.
    pub converges: bool,
    /// Whether the host lets QEMU protect pages.
    pub can_protect: bool,
    pub nodes: BTreeSet<String>,
    /// The nodes under the only device, top first.
    pub chain: Vec<String>,
    pub files: BTreeSet<FileKey>,
    pub fdset: usize,
    /// Status of the job, if there is one.
    pub job: Option<(String, &'static str)>,
    pub job_error: Option<&'static str>,
    /// Bytes free where a layer would grow; 100 MiB are needed.
    pub free: u64,
    pub log: Vec<String>,
    /// The command that was refused because the test said so.
    pub refused: &'static str,
    pub actions: usize,
    /// Why saved memory cannot be loaded.
    pub incoming_error: Option<&'static str>,
    /// Saved memory is never loaded.
    pub incoming_hangs: bool,
    /// Whether the guest ran between the switch of a merge and the end.
    pub ran_after_pivot: bool,
    pub pivot: Vec<String>,
    pub pivoted: bool,
    pub background: bool,
    pub before: &'static str,
    pub looks: u64,
    pub events: VecDeque<Event>,
}

impl Fake {
    pub fn running(chain: &[String]) -> Self {
        Self {
            clock: 1_000_000_000,
            state: "running",
            migration: "none",
            converges: true,
            can_protect: true,
            nodes: chain.iter().cloned().collect(),
            chain: chain.to_vec(),
            files: BTreeSet::new(),
            fdset: 0,
            job: None,
            job_error: None,
            free: 1 << 40,
            log: Vec::new(),
            refused: "",
            actions: 0,
            incoming_error: None,
            incoming_hangs: false,
            ran_after_pivot: false,
            pivot: Vec::new(),
            pivoted: false,
            background: false,
            before: "running",
            looks: 0,
            events: VecDeque::new(),
        }
    }

    /// Drives a procedure to its end.
    pub fn drive<P: Procedure>(&mut self, procedure: P, trouble: Trouble) -> P::Outcome {
        let mut run = Run::new(procedure);
        let mut action = run.handle(Input::Begin, self.clock);
        self.actions = 0;
        for _ in 0..200_000 {
            self.clock += 100;
            self.actions += 1;
            if trouble == Trouble::Cancel(self.actions) {
                action = run.handle(Input::Cancel, self.clock).or(action);
            }
            if trouble == Trouble::Lose(self.actions) {
                action = run.handle(Input::Lost, self.clock).or(action);
            }
            let fails = trouble == Trouble::Fail(self.actions);
            let input = match action.take().expect("the driver answers every action, so another one follows") {
                Action::Finish(outcome) => return outcome,
                Action::Execute { command, files } => {
                    assert!(files.iter().all(|file| self.files.contains(file)), "only open files can be sent");
                    self.log.push(command.name().to_owned());
                    let refused = Refusal { class: "GenericError".into(), desc: "scripted".into() };
                    let late = Refusal { class: NO_ANSWER.into(), desc: "scripted".into() };
                    let reply = match trouble {
                        _ if fails => Err(refused),
                        Trouble::Delay(at) if at == self.actions => self.execute(&command).and(Err(late)),
                        _ => self.execute(&command),
                    };
                    if fails {
                        self.refused = command.name();
                    }
                    while let Some(event) = self.events.pop_front() {
                        assert!(run.handle(Input::Event(event), self.clock).is_none(), "events do not answer commands");
                    }
                    Input::Reply(reply)
                }
                Action::Ask(request) => Input::HostReply(match fails {
                    true => Err(HostFailure("scripted".into())),
                    false => Ok(self.host(request)),
                }),
                Action::Wait { until } => {
                    self.clock = self.clock.max(until);
                    Input::Deadline
                }
            };
            action = run.handle(input, self.clock);
        }
        panic!("the procedure does not end: {:?}", &self.log[self.log.len().saturating_sub(20)..]);
    }

    fn host(&mut self, request: HostRequest) -> HostReply {
        match request {
            HostRequest::Open { file, .. } => {
                self.log.push(format!("open {file:?}"));
                self.files.insert(file);
            }
            HostRequest::Close { file } => {
                self.files.remove(&file);
            }
            HostRequest::Seal { fill_bitmaps, .. } => {
                self.log.push(format!("seal fill={fill_bitmaps}"));
                return HostReply::Sealed { layout: Layout { offset: 1 << 20, size: 1 << 29 }, bytes: 4096 };
            }
            HostRequest::MeasureRoom { .. } => return HostReply::Room { needed: 100 << 20, free: self.free },
            HostRequest::Sync { paths } => self.log.push(format!("sync {}", paths.len())),
            HostRequest::QemuImg { arguments } => self.log.push(arguments.join(" ")),
        }
        HostReply::Done
    }

    fn execute(&mut self, command: &Command) -> Result<Value, Refusal> {
        let argument =
            |name: &str| command.arguments().get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        match command.name() {
            "query-status" => return Ok(json!({ "status": self.state, "running": self.state == "running" })),
            "query-migrate" => return Ok(self.look()),
            "query-migrate-capabilities" => return Ok(capabilities()),
            "query-migrate-parameters" => return Ok(json!({ "direct-io": false })),
            "query-yank" => return Ok(json!([{ "type": "chardev" }])),
            "migrate-set-capabilities" => return self.set_capabilities(command),
            "migrate" => self.migration = "setup",
            "migrate-incoming" => self.migration = "incoming",
            "migrate-continue" => self.migration = "device",
            "migrate_cancel" => self.cancel_migration(),
            "stop" => self.stop("paused"),
            "cont" => return self.cont(),
            "blockdev-add" => {
                let node = argument("node-name");
                self.nodes.insert(node);
            }
            "blockdev-del" => return self.delete(&argument("node-name")),
            "transaction" => self.switch(command),
            "add-fd" => self.fdset += 1,
            "remove-fd" => self.fdset = 0,
            "x-debug-query-block-graph" => return Ok(self.graph()),
            "query-jobs" => return Ok(self.jobs()),
            "block-commit" | "block-stream" => self.start_job(command),
            "job-complete" => self.complete_job(),
            "job-cancel" => {
                self.job_error = Some("Operation canceled");
                self.set_job("concluded");
            }
            "job-dismiss" => drop(self.job.take()),
            _ => {}
        }
        Ok(json!({}))
    }

    fn set_capabilities(&mut self, command: &Command) -> Result<Value, Refusal> {
        let list = command.arguments().get("capabilities").and_then(Value::as_array).expect("a list of capabilities");
        assert_eq!(list.len(), 5, "every capability must be set, on or off");
        let is_on = |name: &str| list.iter().any(|entry| entry["capability"] == name && entry["state"] == true);
        assert!(!is_on("multifd"), "QEMU may not survive that this is cancelled");
        self.background = is_on("background-snapshot");
        if self.background && !self.can_protect {
            return Err(Refusal { class: "GenericError".into(), desc: "not supported by host kernel".into() });
        }
        Ok(json!({}))
    }

    /// Each look sees the migration one step further.
    fn look(&mut self) -> Value {
        self.looks += 1;
        if self.migration == "incoming" {
            return self.look_at_incoming();
        }
        match (self.migration, self.background) {
            ("setup", _) => self.migration = "active",
            ("active", false) if self.converges || self.state != "running" => {
                self.before = if self.state == "running" { "running" } else { "paused" };
                self.stop("finish-migrate");
                self.state = "finish-migrate";
                self.migration = "pre-switchover";
            }
            ("active", true) if self.state == "running" => self.migration = "completed",
            ("active", true) if self.looks.is_multiple_of(4) => self.migration = "completed",
            ("device", _) => {
                self.migration = "completed";
                self.state = "postmigrate";
            }
            _ => {}
        }
        let ram = json!({ "normal": self.looks, "duplicate": 0, "remaining": 1u64 << 30, "total": 1u64 << 31, "mbps": 8.0,
            "dirty-sync-count": 3 });
        json!({ "status": self.migration, "ram": ram })
    }

    fn look_at_incoming(&mut self) -> Value {
        match self.incoming_error {
            Some(error) => json!({ "status": "failed", "error-desc": error }),
            None if self.incoming_hangs => json!({ "status": "setup" }),
            None => {
                self.migration = "completed";
                self.state = "paused";
                json!({ "status": "completed" })
            }
        }
    }

    fn cancel_migration(&mut self) {
        if self.state == "finish-migrate" && self.before == "running" {
            self.run();
        } else if self.state == "finish-migrate" {
            self.state = "paused";
        }
        if self.migration != "completed" {
            self.migration = "cancelled";
        }
    }

    fn stop(&mut self, state: &'static str) {
        if self.state == "running" {
            self.event("STOP");
            self.state = state;
        }
    }

    fn cont(&mut self) -> Result<Value, Refusal> {
        if matches!(self.migration, "pre-switchover" | "device") {
            return Err(Refusal { class: "GenericError".into(), desc: "Migration is not finalized yet".into() });
        }
        self.run();
        Ok(json!({}))
    }

    fn run(&mut self) {
        if self.state != "running" {
            self.state = "running";
            self.ran_after_pivot |= self.pivoted;
            self.event("RESUME");
        }
    }

    fn event(&mut self, name: &str) {
        self.events.push_back(Event { name: name.to_owned(), data: Value::Null, micros: self.clock });
    }

    fn delete(&mut self, node: &str) -> Result<Value, Refusal> {
        if self.chain.iter().any(|name| name == node) || !self.nodes.remove(node) {
            return Err(Refusal { class: "GenericError".into(), desc: "in use or not there".into() });
        }
        Ok(json!({}))
    }

    fn switch(&mut self, command: &Command) {
        for action in command.arguments()["actions"].as_array().expect("a list of actions") {
            self.chain.insert(0, action["data"]["overlay"].as_str().expect("an overlay").to_owned());
        }
    }

    fn graph(&self) -> Value {
        let mut nodes = vec![json!({ "id": 0, "type": "block-backend", "name": "/machine/disk" })];
        let id = |name: &String| 1 + self.nodes.iter().position(|node| node == name).unwrap_or(99);
        nodes.extend(self.nodes.iter().map(|name| json!({ "id": id(name), "type": "block-driver", "name": name })));
        let pairs = self.chain.windows(2).filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
        let mut edges: Vec<Value> =
            pairs.map(|(upper, lower)| json!({ "name": "backing", "parent": id(upper), "child": id(lower) })).collect();
        edges.extend(self.chain.first().map(|top| json!({ "name": "root", "parent": 0, "child": id(top) })));
        json!({ "nodes": nodes, "edges": edges })
    }

    fn start_job(&mut self, command: &Command) {
        let argument = |name: &str| command.arguments().get(name).and_then(Value::as_str).map(str::to_owned);
        let active = command.name() == "block-commit" && argument("top-node").is_none();
        let leaving = match command.name() {
            "block-commit" => argument("top-node").or_else(|| argument("device")),
            _ => {
                let upper = argument("device");
                let position = self.chain.iter().position(|node| Some(node) == upper.as_ref());
                position.and_then(|position| self.chain.get(position + 1).cloned())
            }
        };
        self.pivot = leaving.into_iter().collect();
        self.job = Some((argument("job-id").expect("a job id"), if active { "running" } else { "running to the end" }));
    }

    fn jobs(&mut self) -> Value {
        let Some((id, status)) = self.job.clone() else { return json!([]) };
        let shown = if status == "running to the end" { "running" } else { status };
        let mut job = json!({ "id": id, "status": shown, "current-progress": 1, "total-progress": 2 });
        if let (Some(error), "concluded") = (self.job_error, status) {
            job["error"] = json!(error);
        }
        match status {
            "running" => self.set_job("ready"),
            "running to the end" => {
                self.set_job("concluded");
                self.end_job();
            }
            _ => {}
        }
        json!([job])
    }

    fn complete_job(&mut self) {
        self.set_job("concluded");
        self.pivoted = self.job_error.is_none();
        self.end_job();
    }

    fn end_job(&mut self) {
        if self.job_error.is_none() {
            self.chain.retain(|node| !self.pivot.contains(node));
        }
    }

    fn set_job(&mut self, status: &'static str) {
        if let Some(job) = &mut self.job {
            job.1 = status;
        }
    }
}

fn capabilities() -> Value {
    let names = ["events", "mapped-ram", "multifd", "pause-before-switchover", "background-snapshot"];
    names.iter().map(|name| json!({ "capability": name, "state": true })).collect()
}
