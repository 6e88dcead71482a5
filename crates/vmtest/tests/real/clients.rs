//! WS-Management clients that nobody here wrote, each taking a snapshot of a real guest through its whole life.
//!
//! One guest serves them one after the other: who comes next finds the machine running and without snapshots. What a
//! client claims to have done is checked from inside the guest: its mark of before the snapshot is back, and the chain
//! goes on from that moment.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vmtest::service::BOOT;

use super::Rig;

/// A file of `tests/real/clients`.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/clients").join(name)
}

/// The Python that has the client libraries.
fn python() -> Command {
    let interpreter = std::env::var_os("SNAPVISOR_CLIENT_PYTHON");
    Command::new(interpreter.expect("`cargo xtask test` names the client's interpreter"))
}

/// Lets a client do its work on the running guest, and asks the guest what came of it. Between taking the snapshot and
/// going back to it the client waits, and the guest moves on.
#[track_caller]
fn check_client(rig: &mut Rig, what: &str, mut command: Command) {
    rig.mark(what);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut input, output) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut lines = BufReader::new(output).lines();
    let said = lines.next().and_then(Result::ok).unwrap_or_default();
    if said.starts_with("created ") {
        rig.mark("later");
        input.write_all(b"go on\n").unwrap();
    }
    let said = lines.map_while(Result::ok).last().unwrap_or_default();
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success() && said == "done", "{what}: {}", String::from_utf8_lossy(&output.stderr));
    rig.agent.disconnect();
    rig.agent.wait_ready(BOOT).unwrap();
    rig.expect_mark(what);
    rig.chain_moves();
    let listed = rig.service.json(&["snapshot", "list", "g"]).unwrap();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 0, "{what} destroys what it made");
}

/// Holds: SNAP-2-5, SNAP-2-11, SNAP-4.2-8, SNAP-4.2-13, SNAP-4.3-1, SNAP-4.3-7, SNAP-4.4-6, SNAP-6-7, SNAP-8.1-1,
/// SNAP-17-1, SNAP-17-2, SNAP-17-3, SNAP-17-4, WIRE-A2-1, WIRE-I10-1, WIRE-I10-2, WIRE-L4-1
#[test]
fn outside_clients_do_what_microsofts_sample_does() {
    let mut rig = Rig::small();
    rig.start_chain();
    let url = rig.service.url.clone();
    let host = url.trim_start_matches("http://").trim_end_matches("/wsman").to_owned();
    let with = |name: &str, library: &str, auth: &str| {
        let mut command = python();
        command.arg(script(name)).args(["g", library, auth, &url, "u", "p"]);
        command
    };
    check_client(&mut rig, "pypsrp", with("life.py", "pypsrp", "basic"));
    check_client(&mut rig, "pywinrm", with("life.py", "pywinrm", "basic"));
    check_client(&mut rig, "os-win", with("oswin.py", "pypsrp", "basic"));
    let directory = tempfile::tempdir().unwrap();
    let mut wsl = Command::new(script("wsl.sh"));
    wsl.arg(directory.path()).args(["g", &host]).envs([("WSUSER", "u"), ("WSPASS", "p"), ("WSNOSSL", "true")]);
    check_client(&mut rig, "wsl", wsl);
}
