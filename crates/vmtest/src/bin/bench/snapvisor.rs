//! The service, asked through its command line.

use std::path::Path;
use std::time::{Duration, Instant};

use vmtest::agent::Agent;
use vmtest::service::{Result, Service};

use crate::contender::{Contender, Returned, Setup, Taken, first_answer, present};

/// As the table calls it.
pub const NAME: &str = "snapvisor";
/// The machine.
const VM: &str = "bench";

/// A daemon of our own with one machine.
pub struct Snapvisor {
    service: Service,
    agent: Agent,
}

impl Snapvisor {
    /// Starts both.
    ///
    /// # Errors
    /// If the guest does not come up.
    pub fn boot(setup: Setup) -> Result<Self> {
        let service = Service::start()?;
        let agent = service.boot(VM, &["--memory", &format!("{}M", setup.mib)])?;
        Ok(Self { service, agent })
    }
}

impl Contender for Snapvisor {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn scratch(&self) -> &Path {
        self.service.directory()
    }

    /// The pause and the bytes are the service's own report, the whole time is that of the command.
    fn take(&mut self, name: &str) -> Result<Taken> {
        let begin = Instant::now();
        let answer = self.service.json(&["snapshot", "create", VM, name])?;
        let total = begin.elapsed();
        let report = &answer["job"]["report"];
        let method = present(report["method"].as_str(), "the service's report of the capture")?;
        let pause = present(report["pause_us"].as_u64(), "the pause in the service's report")?;
        let bytes = present(report["bytes"].as_u64(), "the size in the service's report")?;
        Ok(Taken { method: method.to_owned(), pause: Duration::from_micros(pause), total, bytes })
    }

    fn bring_back(&mut self, name: &str) -> Result<Returned> {
        let begin = Instant::now();
        self.service.ok(&["vm", "stop", VM])?;
        let off = begin.elapsed();
        self.service.ok(&["snapshot", "apply", name, "--vm", VM, "--start"])?;
        first_answer(&mut self.agent)?;
        Ok(Returned { off: Some(off), rest: begin.elapsed() - off })
    }

    fn delete(&mut self, name: &str) -> Result<Duration> {
        let begin = Instant::now();
        self.service.ok(&["snapshot", "delete", name, "--vm", VM])?;
        Ok(begin.elapsed())
    }
}
