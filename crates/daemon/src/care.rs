//! `snapvisor check` and `snapvisor recover`: whether everything is as it should be, and what to do when the store is lost.
//!
//! Both work on the daemon's own files, where the daemon runs. A check may run beside it; whatever changes something takes the
//! daemon's lock. Machines run on meanwhile.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use host::capability;
use host::check::{self, Counts, Finding, Report, Severity};
use host::layout::Layout;
use host::seal::Depth;
use host::store_sqlite::{DataLock, OpenError, SqliteStore};
use jiff::Timestamp;
use ledger::failure::Failure;
use ledger::id::VmId;
use ledger::record::{RecordError, StoreError, rebuild};
use serde_json::{Value, json};

use crate::admin::{PLACE, Said};
use crate::config::{Config, ConfigError, Flags, Settings, Surroundings};
use crate::run::{self, RunError};

/// `snapvisor check`
#[derive(Args, Debug, Clone, Default)]
pub struct CheckCommand {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub files: Files,
    /// Do not read everything: compare only what can be compared in an instant
    #[arg(long)]
    pub quick: bool,
    /// Put right what can be put right without losing anything; the daemon must be stopped, machines may run
    #[arg(long)]
    pub repair: bool,
}

/// `snapvisor recover`
#[derive(Args, Debug, Clone, Default)]
pub struct RecoverCommand {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub files: Files,
    /// Bring back this machine, too, which was removed from the record and whose files are still there; may be repeated
    #[arg(long, value_name = "GUID")]
    pub adopt: Vec<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Which daemon's files.
#[derive(Args, Debug, Clone, Default)]
pub struct Files {
    /// Configuration file of the daemon
    #[arg(long, env = "SNAPVISOR_CONFIG", value_name = "FILE", help_heading = PLACE)]
    pub config: Option<PathBuf>,
    /// Data directory of the daemon
    #[arg(long, env = "SNAPVISOR_DATA_DIR", value_name = "DIR", help_heading = PLACE)]
    pub data_dir: Option<PathBuf>,
    /// Directory of the daemon's sockets, in which it remembers processes
    #[arg(long, env = "SNAPVISOR_RUN_DIR", value_name = "DIR", help_heading = PLACE)]
    pub run_dir: Option<PathBuf>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    /// The configuration does not say where.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directories or accounts in it cannot be.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is nothing.
    #[error("there is no data directory {0}: name it with --data-dir")]
    NoData(PathBuf),
    /// A daemon is at work.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it holds cannot be understood.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A repair did not work.
    #[error("{}", .0.full_text())]
    Repair(#[from] Failure),
    /// Nothing good comes of what is left.
    #[error("{0}")]
    Recover(String),
    /// Not a GUID.
    #[error("{0:?} is not the GUID of a machine")]
    NoGuid(String),
}

/// What a command has to say, and whether all is well.
pub type Verdict = (Said, bool);

/// Carries out `snapvisor check`.
///
/// # Errors
/// When nothing can be looked at, or a repair does not work.
pub fn check(command: CheckCommand) -> Result<Verdict, CareError> {
    let (config, layout) = look_up(command.files)?;
    let qemu_img = capability::qemu_img(config.qemu_img.as_deref()).ok();
    let depth = if command.quick { Depth::Quick } else { Depth::Full };
    // An image's own check reads all of its tables.
    let asked = qemu_img.as_deref().filter(|_| depth == Depth::Full);
    if !command.repair {
        return Ok(verdict(&check::check(&layout, depth, asked), depth, &[]));
    }
    let lock = DataLock::take(&layout)?;
    let before = check::check(&layout, depth, asked);
    let done = repair(&layout, &lock, qemu_img.as_deref(), &before)?;
    // As thoroughly as before: damage that only a comparison of all content shows is not mended, and must be said again.
    let after = if done.is_empty() { before } else { check::check(&layout, depth, asked) };
    Ok(verdict(&after, depth, &done))
}

/// Carries out `snapvisor recover`.
///
/// # Errors
/// When a daemon is at work, or a new store cannot be made.
pub fn recover(command: RecoverCommand) -> Result<Verdict, CareError> {
    let (_, layout) = look_up(command.files)?;
    let guid = |text: &String| text.parse::<VmId>().map_err(|_| CareError::NoGuid(text.clone()));
    let wanted = command.adopt.iter().map(guid).collect::<Result<BTreeSet<_>, _>>()?;
    let lock = DataLock::take(&layout)?;
    let plan = check::plan(&layout, wanted).map_err(CareError::Recover)?;
    let mut text = match &plan.store {
        Ok(Some(revision)) if plan.stale => format!("the state store is an older copy, of revision {revision}\n"),
        Ok(Some(revision)) => format!("the state store can be read and is of revision {revision}\n"),
        Ok(None) => "there is no state store\n".to_owned(),
        Err(reason) => format!("the state store cannot be used: {reason}\n"),
    };
    for line in &plan.unusable {
        let _ = writeln!(text, "warning: {line}");
    }
    for note in &plan.recovered.notes {
        let _ = writeln!(text, "{}machine {}: {}", if note.warning { "warning: " } else { "" }, note.vm, note.text);
    }
    let state = &plan.recovered.state;
    let unchanged =
        matches!(plan.store, Ok(Some(_))) && !plan.stale && !plan.recovered.notes.iter().any(|note| !note.warning);
    let aside = aside(&layout);
    let done = !command.dry_run && !unchanged;
    let replaced = done && layout.database().exists();
    if done {
        check::put_in_place(&layout, &lock, &aside, &plan)?;
    }
    let what = match (unchanged, command.dry_run) {
        (true, _) => "nothing is newer than the store, which was left as it is",
        (_, true) => "nothing was changed; without --dry-run there would be",
        _ => "the new state store has",
    };
    let _ = match unchanged {
        true => writeln!(text, "{what}"),
        false => {
            writeln!(
                text,
                "{what} {} and {}",
                some(state.vms.len(), "machine"),
                some(state.snapshots.len(), "snapshot")
            )
        }
    };
    if replaced {
        let _ = writeln!(text, "the old one is in {}", aside.display());
    }
    if done {
        text += "start the daemon; `snapvisor check` compares all files\n";
    }
    let notes = plan
        .recovered
        .notes
        .iter()
        .map(|note| json!({ "vm": note.vm.to_string(), "text": note.text, "warning": note.warning }));
    let value = json!({
        "changed": done, "machines": state.vms.len(), "snapshots": state.snapshots.len(),
        "notes": notes.collect::<Vec<_>>(), "unusable": plan.unusable,
    });
    Ok(((text, value), true))
}

fn look_up(files: Files) -> Result<(Config, Layout), CareError> {
    let Files { config, data_dir, run_dir } = files;
    let settings = Settings { data_dir, run_dir, ..Settings::default() };
    let config = Config::load(Flags { config, settings, ..Flags::default() }, &Surroundings::of_this_process())?;
    if !config.data_dir.is_dir() {
        return Err(CareError::NoData(config.data_dir));
    }
    let layout = run::layout(&config)?;
    Ok((config, layout))
}

/// Repairs what can be; says what was done.
fn repair(
    layout: &Layout,
    lock: &DataLock,
    qemu_img: Option<&Path>,
    report: &Report,
) -> Result<Vec<String>, CareError> {
    let state = match SqliteStore::look(layout) {
        Ok(Some((revision, records))) => rebuild(revision, &records)?,
        // Then `recover` is what helps, and nothing is left over by anybody's word.
        Ok(None) | Err(_) => return Ok(Vec::new()),
    };
    let aside = aside(layout);
    let qemu_img = qemu_img.unwrap_or(Path::new("qemu-img"));
    let repairs = report.findings.iter().filter_map(|finding| finding.repair.as_ref());
    repairs.map(|it| Ok(check::repair(layout, lock, qemu_img, &state, &aside, it)?)).collect()
}

/// A directory of this moment's own.
fn aside(layout: &Layout) -> PathBuf {
    layout.set_aside().join(Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S").to_string())
}

fn verdict(report: &Report, depth: Depth, done: &[String]) -> Verdict {
    let Report { findings, counts } = report;
    let mut text = String::new();
    for line in done {
        let _ = writeln!(text, "repaired: {line}");
    }
    for finding in findings {
        describe(&mut text, finding);
    }
    let Counts { machines, snapshots, layers, memories, compared, bytes } = *counts;
    let how = if depth == Depth::Full { "all content" } else { "headers and tables" };
    let _ = writeln!(
        text,
        "looked at {}, {}, {} and {} ({} MiB); {how} of {compared} compared with their seals",
        some(machines, "machine"),
        some(snapshots, "snapshot"),
        some(layers, "disk layer"),
        some(memories, "memory image"),
        bytes >> 20
    );
    let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    let repairable = findings.iter().filter(|finding| finding.repair.is_some()).count();
    let _ = match (errors, warnings) {
        (0, 0) => writeln!(text, "all is well"),
        _ => writeln!(text, "{}, {}", some(errors, "error"), some(warnings, "warning")),
    };
    if repairable > 0 && done.is_empty() {
        let _ = writeln!(text, "{repairable} can be put right: stop the daemon and run `snapvisor check --repair`");
    }
    let value = json!({
        "repaired": done, "findings": findings.iter().map(tell).collect::<Vec<_>>(),
        "machines": machines, "snapshots": snapshots, "layers": layers, "memories": memories,
        "compared": compared, "bytes": bytes, "errors": errors, "warnings": warnings,
    });
    ((text, value), errors == 0)
}

/// `1 machine`, `2 machines`
fn some(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn describe(text: &mut String, finding: &Finding) {
    let _ = writeln!(text, "{}: {}", finding.severity.name(), finding.text);
    if !finding.concerns.is_empty() {
        let _ = writeln!(text, "  concerns: {}", finding.concerns.join(", "));
    }
    let _ = writeln!(text, "  hint: {}", finding.advice);
}

fn tell(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.name(), "text": finding.text, "concerns": finding.concerns,
        "advice": finding.advice, "repairable": finding.repair.is_some(),
    })
}
