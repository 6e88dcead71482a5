//! Authentication: every scheme over every door, each right and in every way of being wrong.
//!
//! The other side is `clients/matrix.py`, which makes its tokens with pyspnego and checks by itself that refusals cannot
//! be told apart. No guest is needed.

use std::process::Command;

use expect_test::{Expect, expect};
use vmtest::realm::Realm;

use super::clients::{python, script};
use super::doors::{Doors, SKEW_SECONDS, USERS};

/// Services that tickets are got for in advance, as long as the ticket for getting them lasts.
const SERVICES: [&str; 3] = ["HTTP/localhost", "nfs/localhost", "HTTP/elsewhere"];
/// A lifetime in seconds that no test lives to see the end of, and one that it does.
const LONG: u32 = 36_000;
const SHORT: u32 = 2;

/// Tries everything over one door: what the other side saw, and why the daemon says that it let nobody in.
#[track_caller]
fn check(place: &str, seen: Expect, reasons: Expect) {
    let doors = Doors::open();
    let other = Realm::start("OTHER.TEST", &[("alice", USERS[0].1)], SKEW_SECONDS).unwrap();
    other.add_services(&SERVICES[..1]).unwrap();
    log_in(&doors, &other);
    let mut command: Command = python();
    command.arg(script("matrix.py")).arg(place);
    match place {
        "loopback" => command.arg(&doors.loopback),
        "remote" => command.arg(&doors.remote),
        _ => command.arg(&doors.tls).arg(doors.certificate()),
    };
    command.envs(doors.realm.environment()).env("CCACHES", doors.realm.file(""));
    command.env("OTHER_KRB5_CONFIG", other.file("krb5.conf")).env("SKEW_SECONDS", SKEW_SECONDS.to_string());
    let output = command.output().unwrap();
    let (table, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}{complaints}");
    seen.assert_eq(&table);
    reasons.assert_eq(&refusals(&doors.service.log()));
}

/// How often the log gives which reason for letting nobody in, in the order in which they first came.
fn refusals(log: &str) -> String {
    let reasons = log.lines().filter(|line| line.contains("not let in")).filter_map(|line| line.split_once(" reason="));
    let mut counted: Vec<(&str, u32)> = Vec::new();
    for (_, reason) in reasons {
        match counted.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => counted.push((reason, 1)),
        }
    }
    counted.iter().map(|(reason, count)| format!("{count} x {reason}\n")).collect()
}

/// Ticket caches of everybody, those of the short-lived tickets last.
fn log_in(doors: &Doors, other: &Realm) {
    for (name, password, _) in USERS {
        doors.realm.log_in(name, (name, password), &SERVICES, LONG).unwrap();
    }
    let alice = (USERS[0].0, USERS[0].1);
    let cache = other.log_in("other", alice, &SERVICES[..1], LONG).unwrap();
    std::fs::copy(cache, doors.realm.file("other")).unwrap();
    doors.realm.log_in("short", alice, &SERVICES[..1], SHORT).unwrap();
}

// tidy: allow-long-fn a table, read as one
#[test]
fn on_loopback_the_owner_needs_no_password_and_a_wrong_one_is_wrong() {
    check(
        "loopback",
        expect![[r#"
        none
          200 Msvm_VirtualSystemSnapshotService
            no credentials
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            empty body; unknown scheme; Negotiate without token; Negotiate with rubbish
        basic
          200 Msvm_VirtualSystemSnapshotService
            right; host and user; right again
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            wrong password; unknown user; another's password; no password; disabled user; locked-out user
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        ntlm
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again; right again
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            wrong password; unknown user; another's password; disabled user; MIC of zeros; name changed on the way;
            missing MIC; NTLMv1; anonymous; replayed, other challenge; replayed, no challenge; locked-out user
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        spnego
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            wrong password; unknown user; another's password; disabled user; replayed, other challenge; replayed, no
            challenge; locked-out user
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        kerberos
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            replayed ticket; changed on the way; key not in the keytab; ticket for another service; not in the users
            file; expired ticket; other realm
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        krb5
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            replayed ticket; changed on the way; key not in the keytab; ticket for another service; not in the users
            file; expired ticket; other realm
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        all 39 refusals are the same
    "#]],
        expect![[r#"
        1 x the token is malformed: the header is not base64
        1 x the token is malformed: a SPNEGO token ends too soon
        2 x the token is malformed: a SPNEGO token has another element than is due
        22 x the user is unknown or disabled, or the password is wrong
        3 x after too many failures the user is locked for a while
        1 x the exchange was tampered with or relayed: the message integrity code is wrong
        1 x the client offers too little: there is no message integrity code
        1 x the client offers too little: NTLMv1
        1 x the client offers too little: anonymous
        1 x the token is malformed: not the NTLM message that is due
        2 x accepting a ticket: Request is a replay
        2 x accepting a ticket: Decrypt integrity check failed
        2 x accepting a ticket: Request ticket server HTTP/elsewhere@SNAPVISOR.TEST not found in keytab (ticket kvno 1)
        2 x the ticket is for nfs/localhost@SNAPVISOR.TEST
        2 x bob@SNAPVISOR.TEST has no role here: add it to the users file
        2 x accepting a ticket: Ticket expired
        2 x accepting a ticket: Request ticket server HTTP/localhost@OTHER.TEST not found in keytab (ticket kvno 1)
    "#]],
    );
}

// tidy: allow-long-fn a table, read as one
#[test]
fn from_elsewhere_http_must_be_sealed() {
    check(
        "remote",
        expect![[r#"
        none
          401 'say who you are' Negotiate; Kerberos
            no credentials; empty body; unknown scheme; Negotiate without token; Negotiate with rubbish
        basic
          401 'say who you are' Negotiate; Kerberos
            in clear
        ntlm
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again; right again
          401 'say who you are' Negotiate; Kerberos
            wrong password; unknown user; another's password; disabled user; MIC of zeros; name changed on the way;
            missing MIC; NTLMv1; anonymous; replayed, other challenge; replayed, no challenge; locked-out user; a good
            one after that
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
          500 fault w:AccessDenied (messages must be encrypted here: use https, or Negotiate authentication with message encryption)
            body in clear
          400 'the signature of a sealed message is wrong'
            sealed body changed; sealed body sent again
        spnego
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again
          401 'say who you are' Negotiate; Kerberos
            wrong password; unknown user; another's password; disabled user; replayed, other challenge; replayed, no
            challenge; locked-out user; a good one after that
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
          500 fault w:AccessDenied (messages must be encrypted here: use https, or Negotiate authentication with message encryption)
            body in clear
          400 'the signature of a sealed message is wrong'
            sealed body changed; sealed body sent again
        kerberos
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again
          401 'say who you are' Negotiate; Kerberos
            replayed ticket; changed on the way; key not in the keytab; ticket for another service; not in the users
            file; expired ticket; other realm; a good one after that
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
          500 fault w:AccessDenied (messages must be encrypted here: use https, or Negotiate authentication with message encryption)
            body in clear
          400 'the signature of a sealed message is wrong'
            sealed body changed; sealed body sent again
        krb5
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again
          401 'say who you are' Negotiate; Kerberos
            replayed ticket; changed on the way; key not in the keytab; ticket for another service; not in the users
            file; expired ticket; other realm; a good one after that
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
          500 fault w:AccessDenied (messages must be encrypted here: use https, or Negotiate authentication with message encryption)
            body in clear
          400 'the signature of a sealed message is wrong'
            sealed body changed; sealed body sent again
        all 33 refusals are the same
    "#]],
        expect![[r#"
        1 x the token is malformed: the header is not base64
        1 x the token is malformed: a SPNEGO token ends too soon
        2 x the token is malformed: a SPNEGO token has another element than is due
        1 x Basic is not offered here
        16 x the user is unknown or disabled, or the password is wrong
        3 x after too many failures the user is locked for a while
        1 x the exchange was tampered with or relayed: the message integrity code is wrong
        1 x the client offers too little: there is no message integrity code
        1 x the client offers too little: NTLMv1
        1 x the client offers too little: anonymous
        1 x the token is malformed: not the NTLM message that is due
        2 x accepting a ticket: Request is a replay
        2 x accepting a ticket: Decrypt integrity check failed
        2 x accepting a ticket: Request ticket server HTTP/elsewhere@SNAPVISOR.TEST not found in keytab (ticket kvno 1)
        2 x the ticket is for nfs/localhost@SNAPVISOR.TEST
        2 x bob@SNAPVISOR.TEST has no role here: add it to the users file
        2 x accepting a ticket: Ticket expired
        2 x accepting a ticket: Request ticket server HTTP/localhost@OTHER.TEST not found in keytab (ticket kvno 1)
    "#]],
    );
}

// tidy: allow-long-fn a table, read as one
#[test]
fn over_tls_tokens_are_bound_to_the_certificate() {
    check(
        "tls",
        expect![[r#"
        none
          200 Msvm_VirtualSystemSnapshotService
            no credentials
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            empty body; unknown scheme; Negotiate without token; Negotiate with rubbish
        basic
          200 Msvm_VirtualSystemSnapshotService
            right; host and user; right again
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            wrong password; unknown user; another's password; no password; disabled user; locked-out user
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        ntlm
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again; right again; not bound to the connection
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            wrong password; unknown user; another's password; disabled user; MIC of zeros; name changed on the way;
            missing MIC; NTLMv1; anonymous; replayed, other challenge; replayed, no challenge; locked-out user; made
            for another server
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        spnego
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again; not bound to the connection
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            wrong password; unknown user; another's password; disabled user; replayed, other challenge; replayed, no
            challenge; locked-out user; made for another server
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        kerberos
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again; not bound to the connection
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            replayed ticket; changed on the way; key not in the keytab; ticket for another service; not in the users
            file; expired ticket; other realm; made for another server
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        krb5
          200 Msvm_VirtualSystemSnapshotService
            right; again, without a header; right again; not bound to the connection
          401 'say who you are' Negotiate; Kerberos; Basic realm="WSMAN"
            replayed ticket; changed on the way; key not in the keytab; ticket for another service; not in the users
            file; expired ticket; other realm; made for another server
          500 fault w:AccessDenied (the role read may not call DefineSystem: it takes administer)
            role too small
        all 43 refusals are the same
    "#]],
        expect![[r#"
        1 x the token is malformed: the header is not base64
        1 x the token is malformed: a SPNEGO token ends too soon
        2 x the token is malformed: a SPNEGO token has another element than is due
        22 x the user is unknown or disabled, or the password is wrong
        3 x after too many failures the user is locked for a while
        1 x the exchange was tampered with or relayed: the message integrity code is wrong
        1 x the client offers too little: there is no message integrity code
        1 x the client offers too little: NTLMv1
        1 x the client offers too little: anonymous
        1 x the token is malformed: not the NTLM message that is due
        2 x the exchange was tampered with or relayed: it was meant for another TLS channel
        2 x accepting a ticket: Request is a replay
        2 x accepting a ticket: Decrypt integrity check failed
        2 x accepting a ticket: Request ticket server HTTP/elsewhere@SNAPVISOR.TEST not found in keytab (ticket kvno 1)
        2 x the ticket is for nfs/localhost@SNAPVISOR.TEST
        2 x bob@SNAPVISOR.TEST has no role here: add it to the users file
        2 x accepting a ticket: Ticket expired
        2 x accepting a ticket: Request ticket server HTTP/localhost@OTHER.TEST not found in keytab (ticket kvno 1)
        2 x accepting a ticket: Incorrect channel bindings were supplied
    "#]],
    );
}
