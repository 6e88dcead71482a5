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
use super::doors::{Doors, USERS};

/// A file of `tests/real/clients`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/clients").join(name)
}

/// The Python that has the client libraries.
pub fn python() -> Command {
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
    let doors = Doors::open();
    let mut rig = Rig { agent: doors.service.boot("g", &["--memory", "160M"]).unwrap(), service: doors.service };
    rig.start_chain();
    let (loopback, remote) = (format!("http://{}/wsman", doors.loopback), format!("http://{}/wsman", doors.remote));
    let tls = format!("https://{}/wsman", doors.tls);
    let certificate = rig.service.data().join("certificate.pem");
    let (name, password, _) = USERS[0];
    let ask = |file: &str, library: &str, auth: &str, url: &str| {
        let mut command = python();
        command.arg(script(file)).args(["g", library, auth, url, name, password]);
        if url == tls {
            command.arg(&certificate);
        }
        command
    };
    check_client(&mut rig, "pypsrp-basic", ask("life.py", "pypsrp", "basic", &loopback));
    check_client(&mut rig, "pypsrp-basic-tls", ask("life.py", "pypsrp", "basic", &tls));
    check_client(&mut rig, "pypsrp-ntlm-sealed", ask("life.py", "pypsrp", "ntlm", &remote));
    check_client(&mut rig, "pypsrp-ntlm-tls", ask("life.py", "pypsrp", "ntlm", &tls));

    // The ticket says who it is; a password would be used to get another one.
    let ticket = doors.realm.log_in("alice", (name, password), &[], 36_000).unwrap();
    let mut kerberos = python();
    kerberos.arg(script("life.py")).args(["g", "pypsrp", "kerberos", &loopback]);
    kerberos.envs(doors.realm.environment()).env("KRB5CCNAME", ticket);
    check_client(&mut rig, "pypsrp-kerberos-sealed", kerberos);

    check_client(&mut rig, "pywinrm-ntlm-sealed", ask("life.py", "pywinrm", "ntlm", &remote));
    check_client(&mut rig, "pywinrm-basic-tls", ask("life.py", "pywinrm", "basic", &tls));
    check_client(&mut rig, "os-win", ask("oswin.py", "pypsrp", "negotiate", &tls));

    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(&certificate, directory.path().join(format!("{}.crt", doors.tls))).unwrap();
    let mut wsl = Command::new(script("wsl.sh"));
    // The password goes through a shell on its way to curl.
    wsl.arg(directory.path()).args(["g", &doors.tls]).env("WSUSER", name).env("WSPASS", shell_quoted(password));
    check_client(&mut rig, "wsl", wsl);
}

/// A word that a shell reads as `text`.
fn shell_quoted(text: &str) -> String {
    text.chars().flat_map(|c| ['\\', c]).collect()
}
