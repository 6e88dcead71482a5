//! What has been done and found, in numbers: the summary of a campaign.

use std::collections::BTreeMap;
use std::fmt;

use super::rig::Disturbance;
use super::world::Operation;

/// What has been done.
#[derive(Debug, Default)]
pub struct Tally {
    /// Rounds begun.
    pub rounds: u64,
    /// Operations asked for, by kind.
    pub operations: BTreeMap<&'static str, u64>,
    /// Processes killed, by program.
    pub kills: BTreeMap<&'static str, u64>,
    /// Jobs that were asked to end early.
    pub cancels: u64,
    /// Times the daemon was started again.
    pub restarts: u64,
    /// Kills of the daemon alone after which the guest ran on in the same QEMU.
    pub survived: u64,
    /// Comparisons of a snapshot's fingerprints.
    pub compared: u64,
    /// Snapshots started in a throw-away copy.
    pub thrown_away: u64,
    /// Snapshots applied in place.
    pub applied: u64,
    /// What the job was at when something was killed: `killed, kind: stage`.
    pub activities: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts an operation.
    pub fn operation(&mut self, operation: &Operation) {
        *self.operations.entry(operation.kind()).or_default() += 1;
    }

    /// Counts a kill of `program` in the middle of `activity`.
    pub fn kill(&mut self, program: &'static str, activity: &str) {
        *self.kills.entry(program).or_default() += 1;
        *self.activities.entry(format!("{program}, {activity}")).or_default() += 1;
    }

    /// Counts a disturbance that is no kill.
    pub fn disturbance(&mut self, disturbance: Disturbance) {
        self.cancels += u64::from(disturbance == Disturbance::Cancel);
    }

    /// Processes killed.
    pub fn all_kills(&self) -> u64 {
        self.kills.values().sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let listed = |counts: &BTreeMap<&'static str, u64>| {
            let words: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
            if words.is_empty() { "none".to_owned() } else { words.join(", ") }
        };
        writeln!(f, "rounds                         {}", self.rounds)?;
        writeln!(f, "operations                     {}", listed(&self.operations))?;
        writeln!(f, "kills                          {} ({})", self.all_kills(), listed(&self.kills))?;
        writeln!(f, "cancelled jobs                 {}", self.cancels)?;
        writeln!(f, "restarts of the daemon         {}", self.restarts)?;
        writeln!(f, "guests seen to run on          {}", self.survived)?;
        writeln!(f, "fingerprints compared          {}", self.compared)?;
        writeln!(f, "started in a throw-away copy   {}", self.thrown_away)?;
        writeln!(f, "applied in place               {}", self.applied)?;
        writeln!(f, "what was killed, in the middle of what:")?;
        let most = self.activities.values().max().copied().unwrap_or(1).max(1);
        for (activity, count) in &self.activities {
            let bar = usize::try_from(count * 30 / most).unwrap_or(30);
            writeln!(f, "  {activity:<52} {count:>4} {}", "#".repeat(bar))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_by_kind() {
        let mut tally = Tally { rounds: 2, ..Tally::default() };
        tally.operation(&Operation::Start);
        tally.operation(&Operation::Start);
        tally.kill("daemon", "CreateSnapshot: Capturing");
        tally.kill("daemon", "CreateSnapshot: Capturing");
        tally.kill("QEMU", "at rest");
        let text = tally.to_string();
        for line in ["operations                     2 start", "kills                          3 (1 QEMU, 2 daemon)"] {
            assert!(text.contains(line), "{text}");
        }
        let bar = format!("  {:<52}    2 {}", "daemon, CreateSnapshot: Capturing", "#".repeat(30));
        assert!(text.contains(&bar), "{text}");
    }
}
