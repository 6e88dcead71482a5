//! A provider small enough to see through: two machines, a service, settings and what connects them.

use cim::op::{Answer, Argument, Events, MethodResult, Operation, Query, Row, Rows, Target, bind_arguments};
use cim::path::same_namespace;
use cim::{DateTime, Error, Instance, Schema, Status, Value};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wsman::{HttpReply, Identity, Incoming, Moment, Progress, Server, Step};

pub const HOST: &str = "TOYHOST";
pub const NAMESPACE: &str = r"root\virtualization\v2";

const MOF: &str = r#"
class Toy_Thing { [Key] string CreationClassName; [Key] string Name; string ElementName; };
class Toy_Machine : Toy_Thing {
    boolean Running = false; uint16 State; uint16 Statuses[]; string Roles[]; datetime Born; datetime UpTime; uint8 Image[];
    string Owner; [EmbeddedInstance("Toy_Settings")] string Settings;
};
class Toy_Settings { [Key] string InstanceID; string ElementName; uint64 Memory; string Notes[]; };
class Toy_Event { uint16 Number; object TargetInstance; };
class Toy_Summary { string Name; uint16 State; };
[Association] class Toy_SettingsOf { [Key] Toy_Machine REF Antecedent; [Key] Toy_Settings REF Dependent; };
class Toy_Service : Toy_Thing {
    uint32 Define([In] Toy_Machine REF Target, [In, EmbeddedInstance("Toy_Settings")] string Settings, [In] boolean Force,
        [Out] Toy_Settings REF Job, [Out] Toy_Settings REF Result);
    uint32 Summary([In] uint32 RequestedInformation[], [Out, EmbeddedInstance("Toy_Summary")] string Summaries[]);
};
"#;

/// Which instances a query selects.
type Wanted = Box<dyn Fn(&Instance) -> bool>;

pub struct Toy {
    pub schema: Schema,
    instances: Vec<Instance>,
    /// What has happened so far.
    happened: Arc<Mutex<Vec<Row>>>,
    /// How long sources of events pause after some.
    pub pause: Duration,
}

/// Tells everything that happens from its beginning on, with pauses.
#[derive(Debug)]
struct Source {
    happened: Arc<Mutex<Vec<Row>>>,
    told: usize,
    pause: Duration,
    next: Duration,
    due: Option<Duration>,
}

impl Events for Source {
    fn take(&mut self, now: Duration) -> Vec<Row> {
        self.due = (now < self.next).then_some(self.next);
        if self.due.is_some() {
            return Vec::new();
        }
        let rows: Vec<Row> = self.happened.lock().unwrap().iter().skip(self.told).cloned().collect();
        self.told += rows.len();
        if !rows.is_empty() {
            self.next = now + self.pause;
        }
        rows
    }

    fn due(&self) -> Option<Duration> {
        self.due
    }

    fn projection(&self) -> Option<&[String]> {
        None
    }
}

impl Toy {
    pub fn new() -> Self {
        let schema = Schema::new(NAMESPACE, cim::mof::parse_classes(MOF).unwrap()).unwrap();
        let of = |class: &str| Instance::with_defaults(schema.class(class).unwrap());
        let settings =
            of("Toy_Settings").with("InstanceID", "Toy:S1").with("ElementName", "a <one>").with("Memory", 512_u64);
        let machine = of("Toy_Machine").with("CreationClassName", "Toy_Machine");
        let first = machine
            .clone()
            .with("Name", "A1")
            .with("ElementName", "first & only")
            .with("State", 2_u16)
            .with("Statuses", Value::Array(vec![Value::U16(2), Value::U16(3)]))
            .with("Roles", Value::Array(vec![]))
            .with("Born", Value::DateTime(DateTime::parse("20250102030405.000000+000").unwrap()))
            .with("UpTime", Value::DateTime(DateTime::from_interval_micros(1_500_000)))
            .with("Image", Value::Array(vec![Value::U8(1), Value::U8(2), Value::U8(255)]))
            .with("Settings", Value::Object(Box::new(settings.clone())));
        let second = machine.with("Name", "B2").with("ElementName", "second");
        let service = of("Toy_Service").with("CreationClassName", "Toy_Service").with("Name", "svc");
        let link = of("Toy_SettingsOf")
            .with("Antecedent", Value::Reference(first.path(HOST, NAMESPACE)))
            .with("Dependent", Value::Reference(settings.path(HOST, NAMESPACE)));
        let instances = vec![first, second, settings, link, service];
        Toy { instances, schema, happened: Arc::default(), pause: Duration::ZERO }
    }

    /// Lets something happen, numbered, to the second machine, whose owner has a name of this many letters.
    pub fn happen(&self, number: u16, letters: usize) {
        let machine = self.instances[1].clone().with("Owner", "x".repeat(letters));
        let event = Instance::new(self.schema.class("Toy_Event").unwrap()).with("Number", number);
        self.happened.lock().unwrap().push(row(event.with("TargetInstance", machine)));
    }

    /// Replaces the service by this many of another name, each with a long text.
    pub fn multiply_service(&mut self, count: usize, text: &str) {
        let service = self.instances.pop().unwrap().with("ElementName", text);
        self.instances.extend((0..count).map(|i| service.clone().with("Name", format!("svc{i}"))));
    }

    pub fn answer(&self, operation: Operation) -> Result<Answer, Error> {
        match operation {
            Operation::Get { target } => self.find(&target).map(|instance| Answer::Instance(Box::new(row(instance)))),
            Operation::Enumerate { namespace, query } => {
                self.check_namespace(&namespace)?;
                self.query(query).map(Answer::Rows)
            }
            Operation::Subscribe { namespace, query } => {
                self.check_namespace(&namespace)?;
                query.resolve(&self.schema, HOST)?;
                let happened = Arc::clone(&self.happened);
                let told = happened.lock().unwrap().len();
                let source = Source { happened, told, pause: self.pause, next: Duration::ZERO, due: None };
                Ok(Answer::Events(Box::new(source)))
            }
            Operation::GetClass { class, .. } => {
                let class = self.schema.class(&class).ok_or_else(|| Error::invalid_class(&class))?;
                Ok(Answer::Class(class.clone()))
            }
            Operation::Invoke { target, method, arguments } => {
                let instance = self.find(&target)?;
                let class = instance.class();
                let declared = class.method(&method).ok_or_else(|| Error::method_not_found(&class.name, &method))?;
                bind_arguments(&self.schema, declared, arguments)?;
                Ok(Answer::Method(self.call(&declared.name)))
            }
        }
    }

    fn call(&self, method: &str) -> MethodResult {
        let settings = || self.instances[2].path(HOST, NAMESPACE);
        if method == "Define" {
            let job = ("Job".to_owned(), Some(Value::Reference(settings())));
            let result = ("Result".to_owned(), Some(Value::Reference(settings())));
            return MethodResult { return_value: 4096, outputs: vec![job, result] };
        }
        let summary = Instance::new(self.schema.class("Toy_Summary").unwrap()).with("Name", "A1").with("State", 2_u16);
        let summaries = Value::Array(vec![Value::Object(Box::new(summary))]);
        MethodResult { return_value: 0, outputs: vec![("Summaries".to_owned(), Some(summaries))] }
    }

    fn check_namespace(&self, namespace: &str) -> Result<(), Error> {
        if same_namespace(namespace, NAMESPACE) {
            return Ok(());
        }
        Err(Error::new(Status::InvalidNamespace, format!("there is no namespace {namespace}")))
    }

    fn find(&self, target: &Target) -> Result<Instance, Error> {
        self.check_namespace(&target.namespace)?;
        self.schema.class(&target.class).ok_or_else(|| Error::invalid_class(&target.class))?;
        let mut found = self.instances.iter().filter(|i| i.class().is_a(&target.class) && target.matches(i));
        match (found.next(), found.next()) {
            (None, _) => Err(Error::not_found(target.to_path())),
            (Some(one), None) => Ok(one.clone()),
            _ => Err(Error::new(Status::InvalidParameter, "the selectors fit several instances; give all keys")),
        }
    }

    fn query(&self, query: Query) -> Result<Rows, Error> {
        let (is_wanted, projection): (Wanted, _) = match query {
            Query::Class { class, polymorphic } => {
                self.schema.class(&class).ok_or_else(|| Error::invalid_class(&class))?;
                (Box::new(move |i| if polymorphic { i.class().is_a(&class) } else { i.class().name == class }), None)
            }
            Query::Select(select) => {
                let filter = select.resolve(&self.schema, HOST)?;
                let projection = filter.projection().map(<[String]>::to_vec);
                (Box::new(move |i| i.class().is_a(&filter.class().name) && filter.matches(i)), projection)
            }
            Query::Associators { source, .. } => {
                self.find(&source)?;
                (Box::new(|i| i.class().name == "Toy_Settings"), None)
            }
            Query::References { source, .. } => {
                self.find(&source)?;
                (Box::new(|i| i.class().name == "Toy_SettingsOf"), None)
            }
            Query::Selectors { class, keys } => {
                let target = Target { namespace: NAMESPACE.to_owned(), class, keys };
                (Box::new(move |i| i.class().is_a(&target.class) && target.matches(i)), None)
            }
        };
        let rows: Vec<_> = self.instances.iter().filter(|i| is_wanted(i)).cloned().map(|i| Ok(row(i))).collect();
        Ok(Rows::new(rows.into_iter()).with_projection(projection))
    }
}

fn row(instance: Instance) -> Row {
    Row { path: instance.path(HOST, NAMESPACE), instance }
}

/// A server, its provider, and how often it was asked: the entropy of the n-th request is n, repeated.
pub struct Lab {
    pub server: Server,
    pub toy: Toy,
    pub now: Duration,
    pub principal: &'static str,
    requests: u16,
}

impl Lab {
    pub fn new() -> Self {
        let identity = Identity {
            vendor: "Toy".to_owned(),
            version: "OS: 1.2.3 SP: 0.0 Stack: 3.0".to_owned(),
            host: HOST.to_owned(),
        };
        Lab { server: Server::new(identity), toy: Toy::new(), now: Duration::ZERO, principal: "alice", requests: 0 }
    }

    /// What is asked of the provider, if it comes to that, and the reply.
    pub fn exchange(&mut self, content_type: &str, body: &[u8]) -> (Option<String>, HttpReply) {
        self.requests = self.requests.wrapping_add(1);
        let incoming = Incoming { content_type, body, principal: self.principal };
        let [high, low] = self.requests.to_be_bytes();
        let mut entropy = [low; 32];
        // Contexts are made from the second half, and must stay different when there are many.
        entropy[16] ^= high;
        let moment = Moment { now: self.now, entropy };
        match self.server.handle(incoming, moment) {
            Step::Reply(reply) | Step::Ended(reply) => (None, reply),
            Step::Follow(pull) => {
                // Nothing happens while we wait, so the client's time just passes.
                let mut now = self.now;
                loop {
                    match self.server.look(&pull, now) {
                        Progress::Reply(reply) => return (None, reply),
                        Progress::Waiting(until) => now = until,
                    }
                }
            }
            Step::Perform(operation, continuation) => {
                let asked = show(&operation);
                let answer = self.toy.answer(operation);
                (Some(asked), self.server.complete(continuation, answer, self.now))
            }
        }
    }

    /// The exchange in text: the operation, then status and body of the reply.
    pub fn tell(&mut self, request: &str) -> String {
        let (asked, reply) = self.exchange("application/soap+xml;charset=UTF-8", request.as_bytes());
        let text = String::from_utf8(reply.body).unwrap();
        let body = text.split_once("<s:Body").and_then(|(_, rest)| rest.split_once('>')).map_or("", |(_, body)| body);
        let body = body.trim_end_matches("</s:Envelope>").trim_end_matches("</s:Body>");
        format!("{}{}{}", asked.map(|asked| asked + "\n").unwrap_or_default(), reply.status, indent(body))
    }
}

/// A request of the corpus.
pub fn corpus(name: &str) -> String {
    std::fs::read_to_string(corpus_dir().join(format!("{name}.xml"))).unwrap()
}

pub fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// One element per line. Namespace declarations stand in the first test of the whole envelope and are left out elsewhere.
pub fn indent(xml: &str) -> String {
    let mut out = String::new();
    let mut depth = 0_usize;
    let mut after_text = false;
    for piece in xml.split_inclusive('>') {
        let (text, tag) = piece.split_at(piece.rfind('<').unwrap_or(0));
        let closes = tag.starts_with("</");
        depth -= usize::from(closes);
        out.push_str(text);
        if !(closes && after_text) {
            write!(out, "\n{:width$}", "", width = depth * 2).unwrap();
        }
        out.push_str(&without_declarations(tag));
        let opens = !closes && !tag.ends_with("/>");
        depth += usize::from(opens);
        after_text = opens;
    }
    out
}

fn without_declarations(tag: &str) -> String {
    let mut kept = String::new();
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once(" xmlns:") {
        kept.push_str(before);
        rest = after.splitn(3, '"').nth(2).unwrap_or_default();
    }
    kept + rest
}

fn show(operation: &Operation) -> String {
    match operation {
        Operation::Get { target } => format!("Get {}", target.to_path()),
        Operation::Enumerate { namespace, query } => format!("Enumerate {namespace} {}", show_query(query)),
        Operation::Subscribe { namespace, query } => format!("Subscribe {namespace} {query:?}"),
        Operation::GetClass { namespace, class } => format!("GetClass {namespace}:{class}"),
        Operation::Invoke { target, method, arguments } => {
            let arguments: String =
                arguments.iter().map(|(name, value)| format!("\n    {name} = {}", show_argument(value))).collect();
            format!("Invoke {} {method}{arguments}", target.to_path())
        }
    }
}

fn show_query(query: &Query) -> String {
    match query {
        Query::Associators { source, .. } | Query::References { source, .. } => {
            let rest = format!("{query:?}");
            let rest = rest.split_once("] }").map_or("", |(_, rest)| rest.trim_start_matches([',', ' ']));
            format!("of {} {}", source.to_path(), rest.trim_end_matches([' ', '}']))
        }
        other => format!("{other:?}"),
    }
}

pub fn show_argument(argument: &Argument) -> String {
    match argument {
        Argument::Null => "null".to_owned(),
        Argument::Text(text) => format!("{text:?}"),
        Argument::Reference(target) => format!("reference {}", target.to_path()),
        Argument::Instance(instance) => {
            let properties =
                instance.properties.iter().map(|(name, value)| format!("{name} = {}", show_argument(value)));
            format!("instance of {} {{ {} }}", instance.class, properties.collect::<Vec<_>>().join(", "))
        }
    }
}
