//! Installs what a fresh Debian machine lacks, and only that.
//!
//! Three groups: packages of the system (QEMU 9 or newer, UEFI firmware, a Kerberos KDC for the tests, ...), packages that
//! only the guest is made of and that are unpacked below the target directory without being installed, and a Python
//! environment with WinRM clients that others wrote.
//!
//! What is there is found out by looking (does QEMU say it is new enough?), never by asking the package manager, so a
//! QEMU built by hand counts. A second run installs nothing and takes a fraction of a second.

pub mod apt;
pub mod packages;

use std::fs;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::shell::{Context, Failure, Result, Tool, Workspace, step};

/// Oldest QEMU with everything the service uses: `mapped-ram` (9.0).
const QEMU_MAJOR: u32 = 9;
/// Client libraries of others, pinned, because they are the oracles of the client tests. The last two are what os-win needs
/// and no longer names.
const CLIENTS: [&str; 5] =
    ["pypsrp[kerberos]==0.9.1", "pywinrm==0.5.0", "os-win==5.9.0", "six==1.17.0", "setuptools<81"];

/// Brings this machine to where everything else in `xtask` works.
pub fn run(workspace: &Workspace) -> Result<()> {
    let missing = missing_packages(workspace);
    if !missing.is_empty() {
        install(workspace, &missing)?;
        let still = missing_packages(workspace);
        if !still.is_empty() {
            let names = still.join(" ");
            return Err(Failure::new(format!("{names}: installed, but not usable; is an older one first in PATH?")));
        }
    }
    packages::fetch(workspace)?;
    make_client(workspace)
}

/// Installs a C++ compiler where there is none. Only the fuzzer needs one.
pub fn cxx(workspace: &Workspace) -> Result<()> {
    if in_path("g++") { Ok(()) } else { install(workspace, &["g++"]) }
}

/// The Python that can import the outside WinRM clients.
pub fn client_python(workspace: &Workspace) -> PathBuf {
    workspace.target.join("client/bin/python")
}

/// Debian's names of the packages that would add what is not there.
fn missing_packages(workspace: &Workspace) -> Vec<&'static str> {
    let client = client_is_ready(workspace);
    let wanted = [
        ("qemu-system-x86", has_recent_qemu()),
        ("qemu-utils", Tool::new("qemu-img").arg("--version").succeeds()),
        ("ovmf", Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd").exists()),
        ("e2fsprogs", Tool::new("mke2fs").arg("-V").succeeds()),
        ("python3-venv", client || Tool::new("python3").args(["-c", "import venv, ensurepip"]).succeeds()),
        // The bindings of the Kerberos client library are compiled where they are used.
        ("python3-dev", client || Tool::new("python3").args(["-c", HAS_PYTHON_HEADERS]).succeeds()),
        ("libkrb5-dev", client || Tool::new("krb5-config").args(["--libs", "gssapi"]).succeeds()),
        ("gcc", client || Tool::new("gcc").arg("--version").succeeds()),
        // A realm for the tests, and a client of shell scripts with what it calls.
        ("krb5-kdc", in_path("krb5kdc")),
        ("krb5-admin-server", in_path("kadmin.local")),
        ("krb5-user", in_path("kinit")),
        ("wsl", in_path("wslenum")),
        ("curl", in_path("curl")),
        ("libxml2-utils", in_path("xmllint")),
        ("uuid-runtime", in_path("uuidgen")),
        // The load of `cargo xtask bench --wire`.
        ("wrk", in_path("wrk")),
    ];
    wanted.into_iter().filter(|(_, there)| !there).map(|(package, _)| package).collect()
}

/// Succeeds if the header that extensions are compiled against is there.
const HAS_PYTHON_HEADERS: &str =
    "import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path('include') + '/Python.h'))";

/// Whether there is such a program. Some do no harmless thing that could be tried instead.
fn in_path(program: &str) -> bool {
    Tool::new("sh").args(["-c", "command -v \"$1\"", "sh", program]).succeeds()
}

fn has_recent_qemu() -> bool {
    let version = Tool::new("qemu-system-x86_64").arg("--version").read();
    version.is_ok_and(|text| qemu_major(&text).is_some_and(|major| major >= QEMU_MAJOR))
}

/// The first number in "QEMU emulator version 10.0.2 (Debian ...)".
fn qemu_major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

/// How this process can act on the system.
enum Privilege {
    Root,
    Sudo,
}

/// Finds out how to become root, asking the person at the terminal where there is one.
fn privilege(intention: &str, commands: &[Vec<String>]) -> Result<Privilege> {
    if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        return Ok(Privilege::Root);
    }
    let has_sudo = Tool::new("sudo").arg("--version").succeeds();
    let unattended = std::env::var("CI").is_ok_and(|value| value == "true");
    if has_sudo && unattended && Tool::new("sudo").args(["--non-interactive", "true"]).succeeds() {
        return Ok(Privilege::Sudo);
    }
    if has_sudo && !unattended && std::io::stdin().is_terminal() && confirms(intention) {
        return Ok(Privilege::Sudo);
    }
    let lines: Vec<String> = commands.iter().map(|words| format!("  {}", words.join(" "))).collect();
    let lines = lines.join("\n");
    Err(Failure::new(format!("{intention} needs root. Run these as root, then start again:\n{lines}")))
}

fn confirms(intention: &str) -> bool {
    eprint!("{intention} with sudo? [Y/n] ");
    let mut answer = String::new();
    let read = std::io::stderr().flush().and_then(|()| std::io::stdin().read_line(&mut answer));
    read.is_ok_and(|bytes| bytes > 0) && matches!(answer.trim(), "" | "y" | "Y" | "yes")
}

/// Runs commands as root.
fn as_root(intention: &str, commands: &[Vec<String>]) -> Result<()> {
    let privilege = privilege(intention, commands)?;
    step(intention);
    for words in commands {
        let tool = match privilege {
            Privilege::Root => Tool::new("env"),
            Privilege::Sudo => Tool::new("sudo").arg("env"),
        };
        let printed = tool.arg("DEBIAN_FRONTEND=noninteractive").args(words).read()?;
        let last = printed.lines().last().unwrap_or("done");
        eprintln!("    {}: {last}", words.join(" "));
    }
    Ok(())
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Installs packages, QEMU from the release's backports where the release itself is too old.
fn install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    if !Tool::new("apt-get").arg("--version").succeeds() {
        let names = packages.join(" ");
        return Err(Failure::new(format!(
            "this machine lacks what Debian calls {names} (QEMU {QEMU_MAJOR} or newer) and has no apt; install them by hand"
        )));
    }
    let names = packages.join(", ");
    let (qemu, plain): (Vec<&str>, Vec<&str>) = packages.iter().partition(|name| name.starts_with("qemu"));
    let update = words("apt-get update");
    if qemu.iter().any(|package| candidate_major(package).is_none()) {
        as_root("Reading the package lists", std::slice::from_ref(&update))?;
    }
    let mut commands = Vec::new();
    let mut target = String::new();
    if qemu.iter().any(|package| candidate_major(package).is_none_or(|major| major < QEMU_MAJOR)) {
        let release = apt::release()?;
        let suite = format!("{release}-backports");
        let files = apt::read_sources()?;
        if !files.iter().any(|file| apt::serves(file, &suite)) {
            let source = apt::derive(&files, &release, &suite).ok_or_else(|| {
                Failure::new(format!("no apt source for {release} was found to derive one for {suite} from"))
            })?;
            let draft = workspace.target.join(&source.name);
            fs::create_dir_all(&workspace.target).context("cannot make the target directory")?;
            fs::write(&draft, &source.text).context("cannot write the draft of an apt source")?;
            commands.push(words(&format!("install -m 644 {} /etc/apt/sources.list.d/", draft.display())));
        }
        target = format!("--target-release {suite}");
    }
    commands.push(update);
    let install = "apt-get install --yes --no-install-recommends";
    if !plain.is_empty() {
        commands.push(words(&format!("{install} {}", plain.join(" "))));
    }
    if !qemu.is_empty() {
        commands.push(words(&format!("{install} {target} {}", qemu.join(" "))));
    }
    as_root(&format!("Installing {names}"), &commands)
}

/// The upstream major version that apt would install, if it knows the package.
fn candidate_major(package: &str) -> Option<u32> {
    let policy = Tool::new("apt-cache").env("LC_ALL", "C").args(["policy", package]).read().ok()?;
    apt::candidate(&policy).and_then(apt::upstream_major)
}

fn client_is_ready(workspace: &Workspace) -> bool {
    let stamp = workspace.target.join("client/installed");
    client_python(workspace).exists() && fs::read_to_string(stamp).is_ok_and(|installed| installed == CLIENTS.join(" "))
}

fn make_client(workspace: &Workspace) -> Result<()> {
    if client_is_ready(workspace) {
        return Ok(());
    }
    step(format!("installing {} into a Python environment of its own", CLIENTS.join(", ")));
    let directory = workspace.target.join("client");
    Tool::new("python3").args(["-m", "venv", "--clear"]).arg(&directory).read()?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    // The Kerberos bindings are compiled here, and nobody needs them to be quick.
    Tool::new(client_python(workspace)).env("CFLAGS", "-O0 -g0").args(pip).args(CLIENTS).read()?;
    fs::write(directory.join("installed"), CLIENTS.join(" ")).context("cannot write the clients' stamp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_qemu_says() {
        assert_eq!(qemu_major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some(10));
        assert_eq!(qemu_major("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(qemu_major("something else"), None);
    }
}
