//! One connection and who is at its other end, from the first byte to the last.
//!
//! ```text
//!   no Authorization so far, and this host lets the owner of the socket in ──▶ he, as administrator
//!   else ──▶ auth::connection: challenge, handshake, or a user and his role ──▶ a guest's place instead of a stranger's
//! ```
//! As soon as a client names itself, it is what it proves to be, also if its owner would have been let in: somebody who
//! logs in with a lesser role wants to have that one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use auth::connection::{BodyKind, Caller, Connection, Head, Method, Policy, Verdict};
use auth::context::{Peer, Reason, Refusal, Surroundings};
use auth::lockout::Lockout;
use tokio::sync::Notify;

use crate::audit::{Audit, Record};
use crate::hashers::Hashers;
use crate::places::{Full, Place, Source};
use crate::users_file::UsersFile;

/// What all connections have in common.
pub struct Gate {
    /// Who may log in.
    pub users: UsersFile,
    /// How.
    pub policy: Arc<Policy>,
    /// Where it is recorded.
    pub audit: Audit,
    lockout: Mutex<Lockout>,
    hashers: Hashers,
}

impl Gate {
    /// A gate where nobody has tried yet.
    pub fn new(users: UsersFile, policy: Policy, audit: Audit) -> Self {
        let lockout = Mutex::new(Lockout::default());
        Self { users, policy: Arc::new(policy), audit, lockout, hashers: Hashers::start() }
    }
}

/// Whoever asks, as the rest of the daemon needs to know him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Who: `user:alice`, `kerberos:alice@REALM`, `uid:0`. Enumerations belong to it.
    pub principal: String,
    /// What he may do.
    pub role: hyperv::Role,
    /// How he proved it: `peer`, `basic`, `negotiate`.
    pub scheme: &'static str,
    /// What protects this message: `local`, `tls`, `sealed`, `none`.
    pub protection: &'static str,
    /// Where from, for the audit log.
    pub source: String,
}

impl Asker {
    /// A user of this host who is let in without more.
    pub fn owner(uid: u32) -> Self {
        Self {
            principal: format!("uid:{uid}"),
            role: hyperv::Role::Administer,
            scheme: "peer",
            protection: "local",
            source: format!("uid:{uid}"),
        }
    }
}

/// How a connection came.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// `unix`, `http` or `https`.
    pub door: &'static str,
    /// Address and port, or `uid:1000`, for logs.
    pub from: String,
    /// Who shares limits with it.
    pub source: Source,
    /// As authentication wants to know it.
    pub peer: Peer,
    /// The user of this host who is let in without more.
    pub trusted: Option<u32>,
}

impl Arrival {
    /// One over the Unix socket, which only those can reach whom its mode lets in.
    pub fn unix(uid: Option<u32>) -> Self {
        let source = uid.map_or(Source::ThisHost, Source::Uid);
        let peer = Peer { address: IpAddr::from([127, 0, 0, 1]), owner: uid, tls: None };
        Self { door: "unix", from: source.to_string(), source, peer, trusted: uid }
    }
}

/// What to do with a request.
#[derive(Debug)]
pub enum Decision {
    /// Serve it, with these `WWW-Authenticate` values.
    Serve(Asker, Vec<String>),
    /// Answer only Identify.
    Anonymous,
    /// 200 and nothing, with these `WWW-Authenticate` values.
    Done(Vec<String>),
    /// 401 with these.
    Challenge(Vec<String>),
    /// Refuse: it came in clear.
    Unencrypted,
    /// Refuse: the user has too many connections.
    Full,
}

/// A connection's state.
pub struct Guest {
    gate: Arc<Gate>,
    arrival: Arrival,
    connection: Arc<Mutex<Connection>>,
    state: Mutex<State>,
    admitted: Notify,
}

struct State {
    place: Place,
    /// Whether the client has named itself.
    named: bool,
    /// Who was recorded last.
    recorded: Option<(String, hyperv::Role)>,
}

impl Guest {
    /// A connection that has just come.
    pub fn new(gate: Arc<Gate>, arrival: Arrival, place: Place) -> Self {
        let connection = Connection::new(Arc::clone(&gate.policy), arrival.peer.clone());
        let connection = Arc::new(Mutex::new(connection));
        let state = Mutex::new(State { place, named: false, recorded: None });
        Self { gate, arrival, connection, state, admitted: Notify::new() }
    }

    /// Returns when somebody has been let in.
    pub async fn admitted(&self) {
        self.admitted.notified().await;
    }

    /// The machine that seals and unseals what goes over this connection.
    pub fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside leaves a handshake that leads nowhere, and the next request begins another.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about a request by its head.
    pub async fn decide(&self, authorization: Option<String>, body: BodyKind, identify: bool) -> Decision {
        self.state().named |= authorization.is_some();
        // A request without a body asks how one may log in, and is the first of a client that will.
        if let Some(uid) = self.arrival.trusted.filter(|_| !self.state().named && body == BodyKind::Plain) {
            let asker = Asker { source: self.arrival.from.clone(), ..Asker::owner(uid) };
            return self.serve(asker, Vec::new());
        }
        let verdict = self.authorize(authorization, body, identify).await;
        match verdict {
            Verdict::Serve { caller, headers } => self.serve(self.asker_of(&caller, body), headers),
            Verdict::Done { caller, headers } => match self.serve(self.asker_of(&caller, body), headers) {
                Decision::Serve(_, headers) => Decision::Done(headers),
                other => other,
            },
            Verdict::Anonymous => Decision::Anonymous,
            Verdict::Challenge { headers, refusal } => {
                if let Some(refusal) = refusal {
                    self.refused(refusal);
                }
                Decision::Challenge(headers)
            }
            Verdict::Unencrypted => {
                self.tell("authorization", "refused", "the message came in clear".to_owned());
                Decision::Unencrypted
            }
        }
    }

    /// What a client is answered that has not said who it is.
    pub async fn challenge(&self) -> Vec<String> {
        match self.authorize(None, BodyKind::Plain, false).await {
            Verdict::Challenge { headers, .. } => headers,
            _ => Vec::new(),
        }
    }

    /// Records what went wrong on this connection.
    pub fn tell(&self, event: &'static str, outcome: &'static str, reason: String) {
        self.gate.audit.tell(Record { outcome, reason: Some(reason), ..self.record(event) });
    }

    async fn authorize(&self, authorization: Option<String>, body: BodyKind, identify: bool) -> Verdict {
        let (gate, connection) = (Arc::clone(&self.gate), Arc::clone(&self.connection));
        let is_password = authorization.as_deref().is_some_and(|header| {
            header.trim_start().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic"))
        });
        let work = move || {
            let users = gate.users.current();
            let random = crate::entropy();
            let now = std::time::Duration::from_micros(host::now().0);
            let around = Surroundings { now, random: &random, users: &users };
            let head = Head { authorization: authorization.as_deref(), body, identify };
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            connection.authorize(head, &around, &gate.lockout)
        };
        // Passwords take a processor for a while, and a Kerberos library may read files.
        let verdict = match is_password {
            true => self.gate.hashers.run(work).await,
            false => tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string()),
        };
        verdict.unwrap_or_else(|error| Verdict::Challenge {
            headers: Vec::new(),
            refusal: Some(Refusal::from(Reason::Other(error))),
        })
    }

    /// Lets somebody in: he gets a place, and is recorded if he is not the one who was here before.
    fn serve(&self, asker: Asker, headers: Vec<String>) -> Decision {
        let mut state = self.state();
        let known = (asker.principal.clone(), asker.role);
        if state.recorded.as_ref() == Some(&known) {
            return Decision::Serve(asker, headers);
        }
        if let Err(Full) = state.place.admit(&asker.principal) {
            drop(state);
            self.tell("connection", "refused", format!("{} has too many connections", asker.principal));
            return Decision::Full;
        }
        state.recorded = Some(known);
        drop(state);
        self.admitted.notify_one();
        self.gate.audit.tell(Record {
            outcome: "accepted",
            scheme: Some(asker.scheme),
            protection: Some(asker.protection),
            user: Some(asker.principal.clone()),
            role: Some(asker.role.name()),
            stranger: None,
            ..self.record("authentication")
        });
        Decision::Serve(asker, headers)
    }

    fn refused(&self, refusal: Refusal) {
        let event = if refusal.reason == Reason::Locked { "lockout" } else { "authentication" };
        tracing::info!(from = %self.arrival.from, claimed = ?refusal.claimed, reason = %refusal.reason, "not let in");
        let reason = Some(refusal.reason.to_string());
        self.gate.audit.tell(Record { outcome: "refused", user: refusal.claimed, reason, ..self.record(event) });
    }

    fn record(&self, event: &'static str) -> Record {
        let source = self.arrival.source.to_string();
        Record {
            event,
            source: Some(self.arrival.from.clone()),
            door: Some(self.arrival.door),
            stranger: Some(source),
            ..Record::default()
        }
    }

    fn asker_of(&self, caller: &Caller, body: BodyKind) -> Asker {
        let role = match caller.role {
            auth::users::Role::Read => hyperv::Role::Read,
            auth::users::Role::Operate => hyperv::Role::Operate,
            auth::users::Role::Administer => hyperv::Role::Administer,
        };
        // Names of users have no `@`, principals of Kerberos always.
        let kind = if caller.name.contains('@') { "kerberos" } else { "user" };
        let scheme = match caller.method {
            Method::Basic => "basic",
            Method::Negotiate => "negotiate",
        };
        self.asker(format!("{kind}:{}", caller.name), role, scheme, body)
    }

    fn asker(&self, principal: String, role: hyperv::Role, scheme: &'static str, body: BodyKind) -> Asker {
        let protection = match () {
            () if self.arrival.peer.tls.is_some() => "tls",
            () if body == BodyKind::Sealed => "sealed",
            // The end of a handshake, which carries nothing; what follows is sealed with its key.
            () if body == BodyKind::Empty && self.connection().can_seal() => "sealed",
            () if self.arrival.peer.is_loopback() => "local",
            () => "none",
        };
        Asker { principal, role, scheme, protection, source: self.arrival.from.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
