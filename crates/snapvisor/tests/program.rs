//! The program as scripts see it: exit status, what goes to which stream, and what works without a daemon.

use std::process::Command;

use expect_test::{Expect, expect};

/// Runs the program in an empty directory; shows exit status, output and errors.
fn run(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_snapvisor"))
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .env("SNAPVISOR_SOCKET", home.path().join("no.sock"))
        .output()
        .expect("cargo has built the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&home.path().display().to_string(), "HOME");
    let lines =
        |name: &str, bytes: &[u8]| text(bytes).lines().map(|line| format!("{name} {line}\n")).collect::<String>();
    format!(
        "{}\n{}{}",
        output.status.code().expect("ended by itself"),
        lines(">", &output.stdout),
        lines("!", &output.stderr)
    )
}

fn check(arguments: &[&str], expected: &Expect) {
    expected.assert_eq(&run(arguments));
}

#[test]
fn without_a_daemon_there_is_advice() {
    check(
        &["vm", "list"],
        &expect![[r#"
        5
        ! error: cannot connect to unix:HOME/no.sock: No such file or directory (os error 2)
        ! hint: is the daemon running? start it with `snapvisor serve`, or say where it is with --url
    "#]],
    );
    check(
        &["--json", "vm", "list"],
        &expect![[r#"
        5
        > {
        >   "error": {
        >     "hints": [
        >       "is the daemon running? start it with `snapvisor serve`, or say where it is with --url"
        >     ],
        >     "kind": "unreachable",
        >     "message": "cannot connect to unix:HOME/no.sock: No such file or directory (os error 2)"
        >   }
        > }
    "#]],
    );
}

#[test]
fn addresses_are_checked_before_they_are_used() {
    check(
        &["vm", "list", "--url", "ftp://host/wsman"],
        &expect![[r#"
            2
            ! error: ftp://host/wsman is not an address of the daemon: expected http://HOST[:PORT][/PATH], https://HOST[:PORT][/PATH] or unix:PATH
        "#]],
    );
    check(
        &["snapshot", "apply", "a", "--start", "--no-wait"],
        &expect![[r#"
        2
        ! error: --start has to wait for the snapshot to be applied
        ! hint: leave out --no-wait
    "#]],
    );
}

#[test]
fn the_daemon_refuses_what_it_must_not_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (data, run_dir) = (path("data"), path("run"));
    let serve = |rest: &[&str]| run(&[&["serve", "--data-dir", &data, "--run-dir", &run_dir], rest].concat());
    let users = path("users");
    std::fs::write(&users, "snapvisor-users 1\n").unwrap();
    std::fs::set_permissions(&users, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let refused = serve(&["--users-file", &users]);
    assert!(refused.starts_with(&format!("2\n! error: {users} can be read or changed by others")), "{refused}");
    let wrong = serve(&["--log", "=,="]);
    assert!(wrong.starts_with("2\n! error: the log filter"), "{wrong}");
    let missing = serve(&["--config", "/nonexistent/file"]);
    assert!(missing.starts_with("2\n! error: could not read the configuration file"), "{missing}");
    let relative = run(&["serve", "--data-dir", "here"]);
    assert!(relative.starts_with("2\n! error: --data-dir is here, which is not an absolute path"), "{relative}");
}

#[test]
fn completions_and_manual_know_every_command() {
    let script = run(&["completions", "bash"]);
    let page = run(&["man"]);
    for word in ["serve", "vm", "snapshot", "job", "completions"] {
        assert!(script.starts_with("0\n") && script.contains(word), "{word}");
        assert!(page.starts_with("0\n") && page.contains(word), "{word}");
    }
    let directory = tempfile::tempdir().unwrap();
    let written = run(&["man", &directory.path().display().to_string()]);
    assert!(written.starts_with("0\n"), "{written}");
    assert!(directory.path().join("snapvisor-snapshot-create.1").exists());
}
