//! Measures snapshots of guests that work meanwhile: ours, QEMU's own, and libvirt's, in one run on the same guest.
//!
//! Every contender gets a guest of its own, one after the other: the same disks, the same memory, half of it filled and
//! rewritten at a moderate rate. Then [`measure`] does the same with each: take, compare with `dd`, delete, several
//! times; bring back, several times; check the guest's memory. One table comes out, with remarks where something failed
//! or had to be done by hand. A contender that fails does not end the run, unless it is ours.

mod contender;
mod facts;
mod libvirt;
mod measure;
mod options;
mod plain;
mod qmp;
mod samples;
mod snapvisor;
mod table;
mod tool;
mod wire;

use std::process::ExitCode;

use contender::{Contender, Setup};
use libvirt::{Connection, Libvirt};
use measure::{Load, Row};
use options::{Options, Who};
use plain::Plain;
use snapvisor::Snapvisor;
use vmtest::service::{Error, Result, describe};

/// What the guest rewrites per second unless it goes as fast as it can.
const MODERATE: Load = Load::Rate(100);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("bench: {reason}\n{}", options::USAGE);
            return ExitCode::FAILURE;
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.wire {
        println!("{}", facts::machine());
        return wire::run(options.rounds);
    }
    let accelerator = facts::accelerator();
    let libvirt = if options.has(Who::Libvirt) { Connection::find() } else { Err("not asked for".to_owned()) };
    let facts = facts::gather(accelerator, &libvirt);
    let mut rows = Vec::new();
    for &mib in &options.sizes {
        let setup = Setup { mib, accelerator };
        if options.has(Who::Snapvisor) {
            rows.extend(ours(setup, options.rounds));
        }
        if options.has(Who::Qemu) {
            rows.push(theirs("QEMU snapshot-save", setup, options.rounds, || Plain::boot(setup)));
        }
        if let Ok(connection) = &libvirt {
            for (name, live) in [("libvirt external", false), ("libvirt external --live", true)] {
                rows.push(theirs(name, setup, options.rounds, || Libvirt::boot(connection, setup, live)));
            }
        }
    }
    println!("{facts}");
    println!("{}", table::render(&rows));
    let failed = rows.iter().find(|row| row.name == snapvisor::NAME && row.failure.is_some());
    failed.map_or(Ok(()), |row| {
        Err(Error::Other(format!("{} MiB: {}", row.mib, row.failure.as_deref().unwrap_or_default())))
    })
}

/// Our rows for one size: the moderate guest, and the one that never stops writing.
fn ours(setup: Setup, rounds: usize) -> Vec<Row> {
    let mut moderate = Row::new(snapvisor::NAME, setup.mib, MODERATE);
    let mut fastest = Row::new(snapvisor::NAME, setup.mib, Load::Max);
    let measured = Snapvisor::boot(setup).and_then(|mut guest| {
        measure::prepare(&mut guest, setup.mib)?;
        measure::snapshots(&mut guest, rounds, &mut moderate)?;
        // The fast one in between, because a guest that was brought back keeps its memory in another way.
        fastest.failure = measure::snapshots(&mut guest, rounds, &mut fastest).err().map(|error| describe(&error));
        measure::returns(&mut guest, rounds, &mut moderate)
    });
    moderate.failure = measured.err().map(|error| describe(&error));
    vec![moderate, fastest]
}

fn theirs<C: Contender>(name: &str, setup: Setup, rounds: usize, boot: impl FnOnce() -> Result<C>) -> Row {
    let mut row = Row::new(name, setup.mib, MODERATE);
    let measured = boot().and_then(|mut guest| {
        measure::prepare(&mut guest, setup.mib)?;
        let measured = measure::snapshots(&mut guest, rounds, &mut row)
            .and_then(|()| measure::returns(&mut guest, rounds, &mut row));
        row.remarks = guest.remarks();
        measured
    });
    row.failure = measured.err().map(|error| describe(&error));
    row
}
