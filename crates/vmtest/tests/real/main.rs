//! The service on real guests, asked through its command line like any user would.
//!
//! One binary, one module per theme. What a guest holds is told by its agent: a mark set in memory and on both disks,
//! and the chain, whose mismatch count stays zero only while memory and both disks are of one moment.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports, in its helpers too")]

mod branches;
mod clients;
mod crash;
mod damage;
mod destroy;
mod doors;
mod headers;
mod hostile;
mod images;
mod matrix;
mod outside;
mod power;
mod privilege;
mod refusals;
mod screen;
mod space;
mod torture;

use vmtest::agent::Agent;
use vmtest::service::{BOOT, Service};
use vmtest::torture::rig::CHAIN;

/// A service with one booted guest named `g`.
struct Rig {
    service: Service,
    agent: Agent,
}

impl Rig {
    fn boot(options: &[&str]) -> Self {
        Self::boot_on(Service::start().unwrap(), options)
    }

    fn boot_on(service: Service, options: &[&str]) -> Self {
        let agent = service.boot("g", options).unwrap();
        Self { service, agent }
    }

    /// Boots a guest with 160 MiB, which is what it needs and keeps tests quick.
    fn small() -> Self {
        Self::boot(&["--memory", "160M"])
    }

    fn ok(&self, line: &str) -> String {
        self.service.ok(&words(line)).unwrap()
    }

    /// Writes `tag` into memory and onto both disks.
    fn mark(&mut self, tag: &str) {
        self.agent.request(&format!("set mark {tag}")).unwrap();
        for disk in [0, 1] {
            self.agent.request(&format!("write {disk} mark {tag}")).unwrap();
        }
    }

    /// What memory and both disks hold.
    fn marks(&mut self) -> [Option<String>; 3] {
        ["get mark", "read 0 mark", "read 1 mark"].map(|request| self.agent.request_or_none(request).unwrap())
    }

    #[track_caller]
    fn expect_mark(&mut self, tag: &str) {
        let tag = Some(tag.to_owned());
        assert_eq!(self.marks(), [tag.clone(), tag.clone(), tag]);
    }

    /// Marks, takes a snapshot of that name, and marks something else.
    fn mark_and_snap(&mut self, name: &str) {
        self.mark(name);
        self.ok(&format!("snapshot create g {name}"));
        self.mark("later");
    }

    /// Goes back to a snapshot and waits for the guest's answer.
    fn apply(&mut self, name: &str) {
        self.ok(&format!("snapshot apply {name} --vm g --start --force"));
        self.agent.disconnect();
        self.agent.wait_ready(BOOT).unwrap();
    }

    /// Applies each snapshot in turn and checks that the guest is the one of that moment.
    #[track_caller]
    fn expect_snapshots(&mut self, names: &[&str]) {
        let listed = self.service.json(&["snapshot", "list", "g"]).unwrap();
        let mut found: Vec<String> =
            listed["snapshots"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect();
        found.sort();
        assert_eq!(found, names);
        for name in names {
            self.apply(name);
            self.expect_mark(name);
        }
    }

    fn start_chain(&mut self) {
        self.agent.request("chain start").unwrap();
        self.chain_moves();
    }

    /// Waits until the chain has gone round a few more times, and that it found nothing wrong.
    #[track_caller]
    fn chain_moves(&mut self) {
        let Some(now) = self.agent.await_chain(6, CHAIN).unwrap() else {
            panic!("the chain stands still: {}", self.agent.request("chain status").unwrap());
        };
        assert_eq!(now.mismatches, 0, "memory and disks are not of one moment: {now:?}");
    }

    /// GUID of the machine.
    fn guid(&self) -> String {
        self.service.json(&["vm", "show", "g"]).unwrap()["id"].as_str().unwrap().to_owned()
    }

    fn state(&self) -> String {
        self.service.json(&["vm", "show", "g"]).unwrap()["state"].as_str().unwrap().to_owned()
    }
}

/// A command line cut at blanks.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}
