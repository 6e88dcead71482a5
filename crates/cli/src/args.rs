//! The command line of the client, as one declaration: help, completions and manual pages come from it.
//!
//! The doc comments below are what users read in `--help`. Machines and snapshots are named by display name or GUID
//! everywhere; what a name means is decided in [`crate::find`].

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};

use crate::units::MemorySize;

/// What the exit status tells a script; shown under `--help`.
pub const EXIT_CODES: &str = "Exit status:
  0  done
  1  failed
  2  the command line makes no sense
  3  no such machine, snapshot or job
  4  refused: the daemon will not, or not in the present state
  5  the daemon cannot be reached";

/// Options of every client command.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Where the daemon is: http://127.0.0.1:5985/wsman or unix:/path/to/socket
    #[arg(long, global = true, env = "SNAPVISOR_URL", value_name = "URL", help_heading = "Global options")]
    pub url: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub remote: Remote,
    /// Answer with one JSON document
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

/// Options for a service on another host, ours or Hyper-V.
#[derive(Args, Debug, Clone, Default)]
pub struct Remote {
    /// Another host: NAME or NAME:PORT
    #[arg(
        long,
        global = true,
        conflicts_with = "url",
        requires = "user",
        value_name = "HOST",
        help_heading = "Remote hosts"
    )]
    pub host: Option<String>,
    /// Log in as NAME, DOMAIN\NAME or NAME@DOMAIN
    #[arg(long, global = true, env = "SNAPVISOR_USER", value_name = "NAME", help_heading = "Remote hosts")]
    pub user: Option<String>,
    /// http seals messages with the login's key and takes users with NTLM; https has TLS
    #[arg(long, global = true, value_enum, default_value_t, value_name = "TRANSPORT", help_heading = "Remote hosts")]
    pub transport: Transport,
    /// Read the password from this file; else from SNAPVISOR_PASSWORD, else it is asked for
    #[arg(long, global = true, value_name = "FILE", help_heading = "Remote hosts")]
    pub password_file: Option<PathBuf>,
    /// Trust certificates of these authorities (PEM) instead of those of this system
    #[arg(long, global = true, value_name = "FILE", help_heading = "Remote hosts")]
    pub ca_file: Option<PathBuf>,
    /// Trust exactly the certificate with this SHA-256 fingerprint
    #[arg(long, global = true, conflicts_with = "ca_file", value_name = "SHA256", help_heading = "Remote hosts")]
    pub fingerprint: Option<String>,
}

/// How bytes travel.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Port 5985
    #[default]
    Http,
    /// Port 5986
    Https,
}

/// Whether to wait for long work.
#[derive(Args, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Print the job and return at once
    #[arg(long)]
    pub no_wait: bool,
}

/// Commands that talk to the daemon, and the two that only describe the command line.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Virtual machines
    #[command(subcommand, visible_alias = "vms")]
    Vm(Vm),
    /// Snapshots of machines
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(Snapshot),
    /// Disk images that belong to no machine
    #[command(subcommand)]
    Disk(Disk),
    /// Long work in progress
    #[command(subcommand)]
    Job(Job),
    /// Follow what happens, until interrupted; with --json one document on each line
    Events(Events),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// Directory for all pages; without it the first page goes to standard output
        dir: Option<PathBuf>,
    },
}

/// `snapvisor events`
#[derive(Args, Debug)]
pub struct Events {
    /// Only this machine, by name or GUID
    #[arg(long, value_name = "NAME")]
    pub vm: Option<String>,
    /// Only jobs
    #[arg(long)]
    pub jobs: bool,
    /// Only settings and snapshots
    #[arg(long)]
    pub snapshots: bool,
}

/// `snapvisor vm …`
#[derive(Subcommand, Debug)]
pub enum Vm {
    /// Define a machine
    Create(VmCreate),
    /// List machines
    #[command(visible_alias = "ls")]
    List,
    /// Show one machine
    Show {
        /// Name or GUID of the machine
        vm: String,
    },
    /// Start, continue from saved memory, or resume
    Start(VmAction),
    /// Turn off at once, like pulling the plug
    Stop(VmAction),
    /// Stop the guest, keep its memory in RAM
    Pause(VmAction),
    /// Let a paused guest run again
    Resume(VmAction),
    /// Save memory to disk and turn off
    Save(VmAction),
    /// Hard reset
    Reset(VmAction),
    /// Ask the guest to shut down
    Shutdown(VmAction),
    /// Connect this terminal to the machine's serial port; Ctrl-] leaves
    Console {
        /// Name or GUID of the machine
        vm: String,
    },
    /// Type a text on the machine's keyboard, which has a US layout
    Type {
        /// Name or GUID of the machine
        vm: String,
        /// What to type
        text: String,
        /// Press enter afterwards
        #[arg(long)]
        enter: bool,
    },
    /// Press keys of the machine's keyboard
    Keys {
        /// Name or GUID of the machine
        vm: String,
        /// Keys one after the other, such as enter, f2 or ctrl-alt-del
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Show what is on the machine's screen
    Screenshot {
        /// Name or GUID of the machine
        vm: String,
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        screenshot: Picture,
    },
    /// Remove a machine and its snapshots; the disk images it was given stay
    #[command(visible_alias = "rm")]
    Delete(VmDelete),
    /// Change properties of a machine
    Set(VmSet),
}

/// A machine, and whether to wait.
#[derive(Args, Debug)]
pub struct VmAction {
    /// Name or GUID of the machine
    pub vm: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub wait: Wait,
}

/// Where a picture of a screen goes.
#[derive(Args, Debug)]
pub struct Picture {
    /// PNG file to write; without it the screen is drawn in the terminal
    pub file: Option<PathBuf>,
    /// Size of the picture in pixels, to which the screen is stretched
    #[arg(long, value_name = "WIDTHxHEIGHT", requires = "file")]
    pub size: Option<PictureSize>,
}

/// `snapvisor vm create`
#[derive(Args, Debug)]
pub struct VmCreate {
    /// Name to show
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Disk image, *.qcow2 or, if raw, *.raw or *.img; may be given several times
    #[arg(long = "disk", value_name = "PATH")]
    pub disks: Vec<PathBuf>,
    /// Memory, such as 512M or 2G
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub memory: MemorySize,
    /// Virtual processors
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: u32,
    /// Firmware
    #[arg(long, value_enum, default_value_t = Firmware::Bios)]
    pub firmware: Firmware,
    /// A network adapter: none (unplugged), user (outward connections only) or tap:INTERFACE; may be given several times
    #[arg(long = "network", value_name = "KIND")]
    pub networks: Vec<Network>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    pub notes: Option<String>,
    /// What snapshots of this machine contain
    #[arg(long, value_enum, value_name = "KIND")]
    pub snapshot_kind: Option<SnapshotKind>,
}

/// `snapvisor vm delete`
#[derive(Args, Debug)]
pub struct VmDelete {
    /// Name or GUID of the machine
    pub vm: String,
    /// Turn the machine off first if it runs
    #[arg(long, visible_alias = "turn-off")]
    pub force: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub wait: Wait,
}

/// `snapvisor vm set`
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("changes").required(true).multiple(true)))]
pub struct VmSet {
    /// Name or GUID of the machine
    pub vm: String,
    /// New name
    #[arg(group = "changes", long, value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// New notes
    #[arg(group = "changes", long, value_name = "TEXT")]
    pub notes: Option<String>,
    /// Virtual processors; the machine must be off
    #[arg(group = "changes", long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,
    /// Memory, such as 512M or 2G; the machine must be off
    #[arg(group = "changes", long, value_name = "SIZE")]
    pub memory: Option<MemorySize>,
    /// What snapshots of this machine contain
    #[arg(group = "changes", long, value_enum, value_name = "KIND")]
    pub snapshot_kind: Option<SnapshotKind>,
}

/// `snapvisor snapshot …`
#[derive(Subcommand, Debug)]
pub enum Snapshot {
    /// Take a snapshot
    Create(SnapshotCreate),
    /// Show the snapshots of a machine as a tree
    #[command(visible_aliases = ["ls", "tree"])]
    List {
        /// Name or GUID of the machine
        vm: String,
    },
    /// Show one snapshot
    Show(SnapshotName),
    /// Show what was on the screen when a snapshot with memory was taken
    Screenshot {
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        snapshot: SnapshotName,
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        screenshot: Picture,
    },
    /// Bring the machine back to a snapshot; what it has now is lost
    Apply(SnapshotApply),
    /// Give a snapshot another name
    Rename {
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        snapshot: SnapshotName,
        /// The new name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        new_name: String,
    },
    /// Change the notes of a snapshot
    Notes {
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        snapshot: SnapshotName,
        /// The new notes
        text: String,
    },
    /// Remove a snapshot; those that descend from it stay
    #[command(visible_alias = "rm")]
    Delete(SnapshotDelete),
    /// Forget the memory of a snapshot and keep its disks
    ClearState {
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        snapshot: SnapshotName,
        #[command(flatten)]
        #[expect(missing_docs, reason = "clap would show it as help")]
        wait: Wait,
    },
}

/// Names one snapshot.
#[derive(Args, Debug)]
pub struct SnapshotName {
    /// Name or GUID of the snapshot
    pub snapshot: String,
    /// The machine it belongs to, if several have a snapshot of that name
    #[arg(long, value_name = "VM")]
    pub vm: Option<String>,
}

/// `snapvisor snapshot create`
#[derive(Args, Debug)]
pub struct SnapshotCreate {
    /// Name or GUID of the machine
    pub vm: String,
    /// Name of the snapshot; made of the machine's name and the time if absent
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Without memory, whatever the machine's snapshot kind says
    #[arg(long)]
    pub disk_only: bool,
    /// Free text; set when the snapshot has been taken, so somebody has to wait for that
    #[arg(long, value_name = "TEXT", conflicts_with = "no_wait")]
    pub notes: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub wait: Wait,
}

/// `snapvisor snapshot apply`
#[derive(Args, Debug)]
pub struct SnapshotApply {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub snapshot: SnapshotName,
    /// Start the machine afterwards; with memory it goes on where it was
    #[arg(long)]
    pub start: bool,
    /// Turn the machine off first if it runs; its present state is lost
    #[arg(long, visible_alias = "turn-off")]
    pub force: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub wait: Wait,
}

/// `snapvisor snapshot delete`
#[derive(Args, Debug)]
pub struct SnapshotDelete {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub snapshot: SnapshotName,
    /// With all snapshots that descend from it
    #[arg(long)]
    pub tree: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub wait: Wait,
}

/// `snapvisor disk …`; the extension of a name is the format: .qcow2, .raw or .img, .vhd, .vhdx
#[derive(Subcommand, Debug)]
pub enum Disk {
    /// Make a new image
    Create {
        /// The file
        path: PathBuf,
        /// Size of the disk, such as 512M or 20G; that of the image below if absent
        #[arg(required_unless_present = "parent")]
        size: Option<MemorySize>,
        /// The image below, whose content shows through
        #[arg(long, value_name = "PATH", conflicts_with = "fixed")]
        parent: Option<PathBuf>,
        /// Take up all space now
        #[arg(long)]
        fixed: bool,
    },
    /// Show what an image is
    Info {
        /// The file
        path: PathBuf,
    },
    /// Make a disk larger
    Resize {
        /// The file
        path: PathBuf,
        /// New size, such as 20G
        size: MemorySize,
    },
    /// Copy an image, with all that it lies on, into another format
    Convert {
        /// The image to copy
        source: PathBuf,
        /// The new file
        path: PathBuf,
        /// Take up all space now
        #[arg(long)]
        fixed: bool,
    },
    /// Write what an image holds into the one that it lies on, and remove it
    Merge {
        /// The image
        child: PathBuf,
        /// The image below
        parent: PathBuf,
    },
    /// Look for damage in an image
    Check {
        /// The file
        path: PathBuf,
    },
}

/// `snapvisor job …`
#[derive(Subcommand, Debug)]
pub enum Job {
    /// List jobs, running and recently finished
    #[command(visible_alias = "ls")]
    List,
    /// Wait for a job and show how far it is
    Watch {
        /// GUID of the job, or the beginning of it
        job: String,
    },
    /// Ask a job to end; what it has done is undone
    Cancel {
        /// GUID of the job, or the beginning of it
        job: String,
        /// At once rather than in order
        #[arg(long)]
        now: bool,
    },
}

/// `--firmware`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// Generation 1
    Bios,
    /// Generation 2
    Uefi,
}

/// `--snapshot-kind`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// No snapshots may be taken
    Disabled,
    /// Disks brought to rest by the guest; if it cannot, like standard
    Production,
    /// Disks brought to rest by the guest, else no snapshot
    ProductionOnly,
    /// Memory, devices and disks of one moment
    Standard,
}

/// `--network`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// An adapter that is plugged in nowhere.
    Unconnected,
    /// User-mode networking.
    User,
    /// A tap interface of the host.
    Tap(String),
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "none" => Ok(Network::Unconnected),
            None if text == "user" => Ok(Network::User),
            Some(("tap", interface)) if !interface.is_empty() => Ok(Network::Tap(interface.to_owned())),
            _ => Err("expected none, user or tap:INTERFACE".to_owned()),
        }
    }
}

/// `--size`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureSize {
    /// Pixels of a row.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl std::str::FromStr for PictureSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let side = |text: &str| text.parse::<u16>().ok().filter(|pixels| *pixels > 0);
        let sides = text.split_once(['x', 'X']).and_then(|(width, height)| side(width).zip(side(height)));
        let size = sides.map(|(width, height)| Self { width, height });
        size.ok_or_else(|| "expected two numbers, such as 640x480".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use expect_test::{Expect, expect};

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        global: Global,
        #[command(subcommand)]
        command: Command,
    }

    fn check(line: &str, expected: &Expect) {
        let words = std::iter::once("snapvisor").chain(line.split(' '));
        let text = match Program::try_parse_from(words) {
            Ok(program) => format!("{:?}", program.command),
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn the_declaration_is_sound() {
        Program::command().debug_assert();
    }

    #[test]
    fn commands_are_understood() {
        check("vm list", &expect!["Vm(List)"]);
        check(
            "vm screenshot web a.png --size 640x480",
            &expect![[
                r#"Vm(Screenshot { vm: "web", screenshot: Picture { file: Some("a.png"), size: Some(PictureSize { width: 640, height: 480 }) } })"#
            ]],
        );
        check(
            "vm screenshot web a.png --size 640",
            &expect!["error: invalid value '640' for '--size <WIDTHxHEIGHT>': expected two numbers, such as 640x480"],
        );
        check(
            "vm create web --disk a.qcow2 --disk b.img --memory 512M --network user --network tap:br0-1",
            &expect![[
                r#"Vm(Create(VmCreate { name: "web", disks: ["a.qcow2", "b.img"], memory: MemorySize { mib: 512 }, cpus: 1, firmware: Bios, networks: [User, Tap("br0-1")], notes: None, snapshot_kind: None }))"#
            ]],
        );
        check(
            "vm create web --network tap:",
            &expect!["error: invalid value 'tap:' for '--network <KIND>': expected none, user or tap:INTERFACE"],
        );
        check(
            "vm create web --memory 2X",
            &expect![
                "error: invalid value '2X' for '--memory <SIZE>': expected a number with M or G behind it, such as 512M or 2G"
            ],
        );
        check(
            "vm create web --cpus 0",
            &expect!["error: invalid value '0' for '--cpus <N>': 0 is not in 1..=4294967295"],
        );
        check(
            "vm set web --cpus 2",
            &expect![[
                r#"Vm(Set(VmSet { vm: "web", name: None, notes: None, cpus: Some(2), memory: None, snapshot_kind: None }))"#
            ]],
        );
        check("vm set web", &expect!["error: the following required arguments were not provided:"]);
        check(
            "snapshot create web --disk-only --no-wait",
            &expect![[
                r#"Snapshot(Create(SnapshotCreate { vm: "web", name: None, disk_only: true, notes: None, wait: Wait { no_wait: true } }))"#
            ]],
        );
        check(
            "snap apply before --vm web --start --turn-off",
            &expect![[
                r#"Snapshot(Apply(SnapshotApply { snapshot: SnapshotName { snapshot: "before", vm: Some("web") }, start: true, force: true, wait: Wait { no_wait: false } }))"#
            ]],
        );
        check(
            "snapshot delete before --tree",
            &expect![[
                r#"Snapshot(Delete(SnapshotDelete { snapshot: SnapshotName { snapshot: "before", vm: None }, tree: true, wait: Wait { no_wait: false } }))"#
            ]],
        );
        check(
            "snapshot rename before after",
            &expect![[
                r#"Snapshot(Rename { snapshot: SnapshotName { snapshot: "before", vm: None }, new_name: "after" })"#
            ]],
        );
        check(
            "snapshot create web --no-wait --notes gone",
            &expect!["error: the argument '--no-wait' cannot be used with '--notes <TEXT>'"],
        );
        check("vm create ", &expect!["error: a value is required for '<NAME>' but none was supplied"]);
        check("job cancel 1F --now", &expect![[r#"Job(Cancel { job: "1F", now: true })"#]]);
    }
}
