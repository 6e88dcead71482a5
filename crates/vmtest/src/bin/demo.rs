//! Shows the main job on a real guest: snapshot while it runs, wreck it, bring it back.
//!
//! Prints each step with what was measured, and ends with an error if anything is not as it was.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use vmtest::agent::{Agent, ChainStatus};
use vmtest::service::{BOOT, Error, Result, Service, describe};

/// The guest is filled with this many MiB of pages that it knows by heart.
const FILLED_MIB: u32 = 128;
/// From which the pages are computed.
const SEED: u64 = 20_231;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo failed: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// What the guest knows of itself.
#[derive(Debug, Clone, PartialEq)]
struct Facts {
    uptime: Duration,
    counter: u64,
    memory: String,
    disks: [String; 2],
    wrong_pages: u64,
    chain: ChainStatus,
}

fn run() -> Result<()> {
    step("Starting the service and a Linux guest with two disks and 512 MiB");
    let service = Service::start()?;
    let begin = Instant::now();
    let mut agent = service.boot("demo", &["--memory", "512M"])?;
    say(&format!("booted from its own disk in {:.1?}", begin.elapsed()));

    step("Giving it something to lose");
    agent.request(&format!("fill {FILLED_MIB} {SEED}"))?;
    agent.request("dirty 50")?;
    agent.request("chain start")?;
    agent.request("set treasure gold")?;
    for disk in [0, 1] {
        agent.request(&format!("write {disk} treasure gold on disk {disk}"))?;
    }
    say(&format!(
        "{FILLED_MIB} MiB of memory being rewritten at 50 MiB/s; a counter going round memory and both disks"
    ));
    let before = facts(&mut agent)?;
    show("before", &before);

    step("snapvisor snapshot create demo before-the-accident");
    let printed = service.ok(&["snapshot", "create", "demo", "before-the-accident"])?;
    quote(&printed);
    let after = facts(&mut agent)?;
    say(&format!("the guest went on: its counter is {} ahead", after.counter - before.counter));

    step("Wrecking the guest: memory overwritten, files on both disks gone");
    agent.request("wreck")?;
    agent.request("set damage done")?;
    show("wrecked", &facts(&mut agent)?);

    step("snapvisor snapshot apply before-the-accident --start --force");
    let begin = Instant::now();
    let printed = service.ok(&["snapshot", "apply", "before-the-accident", "--vm", "demo", "--start", "--force"])?;
    agent.disconnect();
    agent.wait_ready(BOOT)?;
    let answered = begin.elapsed();
    quote(&printed);
    say(&format!("from the command to the guest's answer: {answered:.1?}, turning off the wreck included"));
    let restored = facts(&mut agent)?;
    show("restored", &restored);
    verify(&before, &after, &restored)?;
    if agent.request("get damage").is_ok() {
        return Err(Error::Other("the guest remembers what came after the snapshot".into()));
    }

    step("The tree");
    quote(&service.ok(&["snapshot", "list", "demo"])?);

    step("snapvisor snapshot delete before-the-accident, under the running guest");
    quote(&service.ok(&["snapshot", "delete", "before-the-accident", "--vm", "demo"])?);
    let end = facts(&mut agent)?;
    verify(&before, &end, &end)?;
    println!("\nEverything is as it was.");
    Ok(())
}

fn facts(agent: &mut Agent) -> Result<Facts> {
    let milliseconds = agent.request("uptime")?.parse().unwrap_or_default();
    let mut ask = |request: &str| agent.request(request).unwrap_or_else(|_| "gone".to_owned());
    let (memory, disks) = (ask("get treasure"), [ask("read 0 treasure"), ask("read 1 treasure")]);
    Ok(Facts {
        uptime: Duration::from_millis(milliseconds),
        counter: agent.counter()?,
        memory,
        disks,
        wrong_pages: agent.wrong_pages(SEED)?,
        chain: agent.chain_status()?,
    })
}

/// The guest must be the one of the snapshot: what it knew is back, its clock and counters stand between the moments
/// before and after the snapshot was asked for plus what has passed since, and its memory agrees with its disks.
fn verify(before: &Facts, after: &Facts, restored: &Facts) -> Result<()> {
    let fail =
        |what: &str| Err(Error::Other(format!("{what}: before {before:?}, after {after:?}, restored {restored:?}")));
    if (&restored.memory, &restored.disks) != (&before.memory, &before.disks) {
        return fail("what was in memory or on the disks is not back");
    }
    if restored.wrong_pages != 0 {
        return fail("pages of memory are not as they were");
    }
    if restored.chain.mismatches != 0 || !restored.chain.running {
        return fail("memory and disks are not of one moment");
    }
    if restored.counter < before.counter || restored.uptime < before.uptime {
        return fail("the guest is older than the snapshot");
    }
    Ok(())
}

fn step(text: &str) {
    println!("\n== {text}");
}

fn say(text: &str) {
    println!("   {text}");
}

fn quote(text: &str) {
    text.lines().for_each(|line| println!("   | {line}"));
}

fn show(label: &str, facts: &Facts) {
    let Facts { uptime, counter, memory, disks, wrong_pages, chain } = facts;
    say(&format!(
        "{label:>9}: uptime {uptime:.1?}, counter {counter}, memory '{memory}', disks '{}' and '{}'",
        disks[0], disks[1]
    ));
    let ChainStatus { number, mismatches, .. } = chain;
    say(&format!(
        "{:>9}  {wrong_pages} wrong pages; number on memory and both disks {number}, {mismatches} mismatches",
        ""
    ));
}
