//! Pulls that wait for events: a look whenever the pump has published, and none in between.
//!
//! ```text
//!   look ──▶ events, or the client's patience is over ──▶ reply
//!    ▲ └───▶ nothing yet ─┐
//!    └── published, a subscription ended, or time ◀┘
//! ```
//! A pull that waits takes one connection and nothing else; other connections do not notice. It is answered when the daemon
//! stops.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cim::op::{Events, Row};
use hyperv::{Host, Namespaces, Role, Subscription, View};
use tokio::sync::watch;
use wsman::Progress;
use wsman::server::{HttpReply, Pull, Server};

use crate::pump::Handle;

/// What answers are made from, now and whenever it is asked again.
#[derive(Clone)]
pub struct Present {
    namespaces: Arc<Namespaces>,
    host: Arc<Host>,
    pump: Handle,
}

impl Present {
    /// The present of the pump's state, on this host.
    pub fn new(host: Host, pump: Handle) -> Self {
        Self { namespaces: Arc::new(Namespaces::load()), host: Arc::new(host), pump }
    }

    /// What somebody in this role may see of it.
    pub fn view(&self, role: Role) -> View {
        let now = host::now();
        View {
            namespaces: Arc::clone(&self.namespaces),
            host: Arc::clone(&self.host),
            state: self.pump.state(),
            now,
            utc_offset_minutes: crate::facts::utc_offset_minutes(now),
            role,
        }
    }
}

/// A subscription that looks at the present whenever it is asked.
pub struct Live {
    subscription: Box<Subscription>,
    present: Present,
}

impl Live {
    /// Lets a subscription look.
    pub fn new(subscription: Box<Subscription>, present: Present) -> Self {
        Self { subscription, present }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.subscription).finish()
    }
}

impl Events for Live {
    fn take(&mut self, now: Duration) -> Vec<Row> {
        self.subscription.take(&self.present.view(Role::Read), now)
    }

    fn due(&self) -> Option<Duration> {
        self.subscription.due()
    }

    fn projection(&self) -> Option<&[String]> {
        self.subscription.projection()
    }
}

/// What those who wait are told beside what the pump publishes. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Bell(watch::Sender<bool>);

impl Bell {
    /// A subscription has ended.
    pub fn ring(&self) {
        self.0.send_modify(|_| {});
    }

    /// The daemon stops, and nobody needs to wait any longer.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Waits for events and gives the reply. `clock` is the one that the server goes by.
    pub async fn follow(&self, server: &Server, pull: Pull, pump: &Handle, clock: impl Fn() -> Duration) -> HttpReply {
        let (mut states, mut bell) = (pump.states(), self.0.subscribe());
        loop {
            // Seen before the look: what comes during it is a reason for another.
            states.mark_unchanged();
            if *bell.borrow_and_update() {
                return server.stop(&pull);
            }
            let until = match server.look(&pull, clock()) {
                Progress::Reply(reply) => return reply,
                Progress::Waiting(until) => until,
            };
            tokio::select! {
                changed = states.changed() => if changed.is_err() {
                    return server.stop(&pull);
                },
                // Rung by somebody who holds the bell, as we do.
                _ = bell.changed() => {}
                () = tokio::time::sleep(until.saturating_sub(clock())) => {}
            }
        }
    }
}
