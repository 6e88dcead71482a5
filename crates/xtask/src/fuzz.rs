//! `cargo xtask fuzz`: every target of the crate `fuzz` under libFuzzer, with the stable compiler.
//!
//! ```text
//!   crates/fuzz/corpus/<target> ──▶ libFuzzer ──┬─ target/fuzz/corpus/<target>      what it found worth keeping
//!             ▲                                 ├─ target/fuzz/findings/<target>-…  what it found wrong
//!             └──────── --keep, minimised ──────┘  target/fuzz/logs/<target>.log    what it said
//! ```
//! libFuzzer has to see which code an input reaches. The flag for that is not stable, but the pass of LLVM that does the
//! work can be asked for by flags that are; sanitizers cannot, and code without `unsafe` needs them little: a panic, an
//! overflow, an input that takes too long or too much memory is found without them. All of this, the standard library
//! excepted, is built once more, into a directory of its own.

use std::collections::VecDeque;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::setup;
use crate::shell::{Context, Failure, Result, Tool, Workspace, step};

const USAGE: &str = "usage: cargo xtask fuzz [--minutes N] [--target NAME] [--jobs N] [--keep]";

/// What makes LLVM count the blocks that are run and show the fuzzer what is compared with what.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";
/// Names the target to the program, which has all of them.
const TARGET_VARIABLE: &str = "SNAPVISOR_FUZZ_TARGET";
/// Seconds that one input may take. The longest takes milliseconds.
const SECONDS_OF_INPUT_MAX: u32 = 10;
/// Memory of the whole process in MiB, most of it the fuzzer's own.
const MEMORY_MIB_MAX: u32 = 1024;

/// What was asked for.
struct Options {
    /// For all targets together.
    minutes: NonZeroU64,
    /// Only this one.
    target: Option<String>,
    /// Targets at a time.
    jobs: NonZeroU64,
    /// Whether what was found goes into the recorded corpora.
    keep: bool,
}

/// A target, as the program lists it.
#[derive(Clone)]
struct Target {
    name: String,
    bytes_max: String,
}

/// What came of a target.
struct Outcome {
    target: Target,
    stopped: bool,
    log: PathBuf,
    summary: Summary,
}

/// The numbers in what libFuzzer says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    executions: u64,
    per_second: u64,
    inputs: u64,
    features: u64,
    /// The input that something is wrong with.
    finding: Option<String>,
}

/// Builds and runs the targets.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    setup::cxx(workspace)?;
    let program = build(workspace)?;
    let targets = targets(&program, options.target.as_deref())?;
    let count = u64::try_from(targets.len()).unwrap_or(u64::MAX);
    let seconds = (options.minutes.get() * 60 * options.jobs.get().min(count) / count).max(1);
    step(format!("fuzzing {count} targets for {seconds} s each"));
    let outcomes = run_all(workspace, &program, targets, seconds, options.jobs)?;
    print!("{}", table(&outcomes));
    if options.keep {
        outcomes
            .iter()
            .filter(|outcome| !outcome.stopped)
            .try_for_each(|outcome| keep(workspace, &program, outcome))?;
    }
    report(&outcomes)
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let cores = std::thread::available_parallelism().ok().and_then(|cores| u64::try_from(cores.get()).ok());
        let jobs = cores.and_then(NonZeroU64::new).unwrap_or(NonZeroU64::MIN);
        let minutes = NonZeroU64::MIN.saturating_add(4);
        let mut options = Self { minutes, target: None, jobs, keep: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value; {USAGE}")));
            match argument.as_str() {
                "--minutes" => options.minutes = value()?.parse().context("--minutes")?,
                "--jobs" => options.jobs = value()?.parse().context("--jobs")?,
                "--target" => options.target = Some(value()?.clone()),
                "--keep" => options.keep = true,
                unknown => return Err(Failure::new(format!("{unknown} is not known; {USAGE}"))),
            }
        }
        Ok(options)
    }
}

/// Builds the program and gives its path.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    step("building the fuzz targets");
    let version = Tool::new("rustc").arg("-vV").read()?;
    let triple = version.lines().find_map(|line| line.strip_prefix("host: "));
    let triple = triple.ok_or_else(|| Failure::new("rustc does not say which system this is"))?;
    let directory = workspace.target.join("fuzz");
    // Naming the system keeps the flags away from build scripts, which are not fuzzed and cannot be linked with them.
    let what = ["build", "--package", "fuzz", "--bin", "fuzz", "--features", "libfuzzer", "--profile", "fuzzing"];
    let tool = Tool::cargo(workspace).args(what).args(["--target", triple, "--target-dir"]).arg(&directory);
    tool.env("RUSTFLAGS", INSTRUMENTATION).run()?;
    Ok(directory.join(triple).join("fuzzing").join("fuzz"))
}

/// The targets that the program has; of this name, if one is given.
fn targets(program: &Path, name: Option<&str>) -> Result<Vec<Target>> {
    let listed = Tool::new(program).env(TARGET_VARIABLE, "").read()?;
    let target = |(name, bytes_max): (&str, &str)| Target { name: name.to_owned(), bytes_max: bytes_max.to_owned() };
    let mut targets: Vec<Target> = listed.lines().filter_map(|line| line.split_once(' ')).map(target).collect();
    let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
    targets.retain(|target| name.is_none_or(|name| name == target.name));
    if targets.is_empty() {
        return Err(Failure::new(format!("there is no such target; there are {}", names.join(", "))));
    }
    Ok(targets)
}

fn run_all(
    workspace: &Workspace,
    program: &Path,
    targets: Vec<Target>,
    seconds: u64,
    jobs: NonZeroU64,
) -> Result<Vec<Outcome>> {
    let (waiting, done) = (Mutex::new(VecDeque::from(targets)), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(target) = next else { return };
            let outcome = run_one(workspace, program, &target, seconds);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        }
    };
    std::thread::scope(|scope| (0..jobs.get()).for_each(|_| drop(scope.spawn(work))));
    let mut outcomes =
        done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect::<Result<Vec<_>>>()?;
    outcomes.sort_by(|a, b| a.target.name.cmp(&b.target.name));
    Ok(outcomes)
}

fn run_one(workspace: &Workspace, program: &Path, target: &Target, seconds: u64) -> Result<Outcome> {
    let Target { name, bytes_max } = target;
    step(name);
    let below = |part: &str| workspace.target.join("fuzz").join(part);
    let (found, findings, logs) = (below("corpus").join(name), below("findings"), below("logs"));
    for directory in [&found, &findings, &logs] {
        fs::create_dir_all(directory).context(format!("cannot make {}", directory.display()))?;
    }
    let log = logs.join(format!("{name}.log"));
    let mut tool = Tool::new(program).env(TARGET_VARIABLE, name).arg(&found).arg(recorded(workspace, name));
    let words = workspace.root.join("crates/fuzz/dictionaries").join(name);
    if words.exists() {
        tool = tool.arg(format!("-dict={}", words.display()));
    }
    let prefix = findings.join(format!("{name}-"));
    let limits = [
        format!("-max_total_time={seconds}"),
        format!("-max_len={bytes_max}"),
        format!("-timeout={SECONDS_OF_INPUT_MAX}"),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        format!("-artifact_prefix={}", prefix.display()),
        "-print_final_stats=1".to_owned(),
    ];
    let is_well = tool.args(limits).log(&log)?;
    let said = fs::read(&log).context(format!("cannot read {}", log.display()))?;
    let summary = summarize(&String::from_utf8_lossy(&said));
    Ok(Outcome { target: target.clone(), stopped: !is_well, log, summary })
}

/// The corpus of a target that is part of the project.
fn recorded(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.root.join("crates/fuzz/corpus").join(name)
}

/// Adds to the recorded corpus the least of what was found that reaches what it does not.
fn keep(workspace: &Workspace, program: &Path, outcome: &Outcome) -> Result<()> {
    let name = &outcome.target.name;
    let (recorded, found) = (recorded(workspace, name), workspace.target.join("fuzz/corpus").join(name));
    let tool = Tool::new(program).env(TARGET_VARIABLE, name).arg("-set_cover_merge=1");
    let is_well = tool.arg(recorded).arg(found).log(&outcome.log)?;
    if is_well {
        Ok(())
    } else {
        Err(Failure::new(format!("what {name} found could not be kept, see {}", outcome.log.display())))
    }
}

/// Reads the numbers. The last progress line that has them counts, for a run that is stopped says nothing at its end.
fn summarize(said: &str) -> Summary {
    let mut summary = Summary::default();
    for line in said.lines() {
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            summary.finding = Some(path.trim().to_owned());
        }
        let Some(rest) = line.strip_prefix('#') else { continue };
        let words: Vec<&str> = rest.split_whitespace().collect();
        let number = |text: &str| text.split('/').next().and_then(|number| number.parse().ok());
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1).and_then(|text| number(text))
        };
        summary.executions = words.first().and_then(|text| number(text)).unwrap_or(summary.executions);
        summary.per_second = after("exec/s:").unwrap_or(summary.per_second);
        summary.inputs = after("corp:").unwrap_or(summary.inputs);
        summary.features = after("ft:").unwrap_or(summary.features);
    }
    summary
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<16} {:>12} {:>8} {:>8} {:>9} {:>8}\n",
        "target", "executions", "exec/s", "corpus", "features", "crashes"
    );
    for Outcome { target, stopped, summary, .. } in outcomes {
        let Summary { executions, per_second, inputs, features, .. } = summary;
        let crashes = u8::from(*stopped);
        text +=
            &format!("{:<16} {executions:>12} {per_second:>8} {inputs:>8} {features:>9} {crashes:>8}\n", target.name);
    }
    text
}

/// Says what is wrong with which input, and how it is played again.
fn report(outcomes: &[Outcome]) -> Result<()> {
    let stopped: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.stopped).collect();
    for Outcome { target, log, summary, .. } in &stopped {
        println!("\n{} was stopped; what it said is in {}", target.name, log.display());
        if let Some(finding) = &summary.finding {
            println!("  the input is {finding}\n  to play it again: cargo run -p fuzz -- {} {finding}", target.name);
        }
    }
    match stopped.len() {
        0 => Ok(()),
        count => Err(Failure::new(format!(
            "{count} targets found something: mend it, and put the input into crates/fuzz/corpus under a name that says what it was"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_what_libfuzzer_says() {
        let said = "INFO: seed corpus: files: 3\n\
            #4\tINITED cov: 7 ft: 8 corp: 2/5b exec/s: 0 rss: 27Mb\n\
            #83194\tNEW    cov: 12 ft: 14 corp: 5/18b lim: 823 exec/s: 9000 rss: 27Mb L: 5/5 MS: 3 CrossOver-\n\
            #90000\tDONE   cov: 12 ft: 15 corp: 6/20b lim: 823 exec/s: 8500 rss: 27Mb\n";
        let expected = Summary { executions: 90_000, per_second: 8_500, inputs: 6, features: 15, finding: None };
        assert_eq!(summarize(said), expected);
        let stopped =
            "==7== ERROR: libFuzzer: deadly signal\nartifact_prefix='f/a-'; Test unit written to f/a-crash-1\n";
        let finding = Some("f/a-crash-1".to_owned());
        assert_eq!(summarize(&format!("{said}{stopped}")), Summary { finding, ..expected });
    }

    #[test]
    fn arguments_are_read() {
        let parse = |line: &str| Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let options = parse("--minutes 3 --target qmp --jobs 2 --keep").unwrap();
        assert_eq!((options.minutes.get(), options.jobs.get(), options.keep), (3, 2, true));
        assert_eq!(options.target.as_deref(), Some("qmp"));
        for wrong in ["--minutes", "--minutes x", "--minutes 0", "--jobs 0", "--all"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
