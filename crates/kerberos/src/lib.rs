//! Kerberos for the daemon: who holds a ticket for us is who the ticket says (RFC 4120, 4121), bare or inside SPNEGO
//! (RFC 4178), and messages can be sealed under the ticket's session key as WinRM does it (MS-WSMV 2.2.9.1).
//!
//! ```text
//!   Acceptor::open(keytab) ──accept──▶ Conversation ──step(token)*──▶ Established { alice@REALM, token, seal }
//! ```
//! The work is MIT krb5's, whose library is opened at run time: building needs no headers, and a host without it lacks
//! Kerberos and nothing else. The keytab is asked for keys at each attempt, so renewing it needs no restart. Which
//! authenticators have been used is remembered in a file, for as long as clocks may differ.

mod gss;

use std::path::Path;
use std::sync::Arc;

use auth::context::{
    Context, Established, Identity, Kerberos, Peer, Reason, Seal, SealError, Step, Surroundings, Wrapped,
};

pub use gss::GssError;

/// Services whose tickets are for us, if their keys are in the keytab: those that WinRM clients ask for (pypsrp for the
/// last if not told otherwise, because Windows has one key for all three). A keytab may hold keys of more.
const SERVICES: [&str; 3] = ["HTTP", "WSMAN", "host"];

/// How the binding of a token to a TLS connection begins (RFC 5929 4).
const END_POINT: &[u8] = b"tls-server-end-point:";

/// Makes contexts with the keys of a keytab.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<gss::Credential>);

impl Acceptor {
    /// Uses `keytab`, and `replays` as the file that remembers used authenticators; it is made if it is not there.
    ///
    /// # Errors
    /// When the library is missing, or the keytab has no keys.
    pub fn open(keytab: &Path, replays: &Path) -> Result<Self, GssError> {
        gss::Credential::from_keytab(keytab, replays).map(Arc::new).map(Self)
    }
}

impl Kerberos for Acceptor {
    fn accept(&self, peer: &Peer) -> Box<dyn Context> {
        let binding = peer.tls.as_ref().map(|end| [END_POINT, &end.0].concat());
        Box::new(Conversation { context: Some(gss::Context::new(Arc::clone(&self.0))), binding })
    }
}

/// One attempt.
struct Conversation {
    /// Gone when the attempt is over, well or not.
    context: Option<gss::Context>,
    binding: Option<Vec<u8>>,
}

impl Context for Conversation {
    fn step(&mut self, token: &[u8], _: &Surroundings<'_>) -> Step {
        let Some(mut context) = self.context.take() else {
            return Step::Refused(Reason::Malformed("a token after the last one").into());
        };
        // To the library this is the question what it offers; here the list of schemes has said so.
        if token.is_empty() {
            return Step::Refused(Reason::Malformed("an empty token").into());
        }
        match context.accept(token, self.binding.as_deref()) {
            Ok(gss::Accepted { token, complete: true }) => establish(context, token),
            Ok(gss::Accepted { token, complete: false }) => {
                self.context = Some(context);
                Step::Continue(token)
            }
            Err(error) => refuse(&error),
        }
    }
}

fn refuse(error: &GssError) -> Step {
    Step::Refused(Reason::Other(error.to_string()).into())
}

/// What an established context amounts to.
fn establish(mut context: gss::Context, token: Vec<u8>) -> Step {
    let facts = match context.facts() {
        Ok(facts) => facts,
        Err(error) => return refuse(&error),
    };
    if !facts.is_krb5 {
        return Step::Refused(Reason::NotOffered("a mechanism other than Kerberos").into());
    }
    if facts.anonymous {
        return Step::Refused(Reason::Weak("an anonymous ticket").into());
    }
    if !is_for_us(&facts.acceptor) {
        return Step::Refused(Reason::Other(format!("the ticket is for {}", facts.acceptor)).into());
    }
    let seal = facts.can_seal.then(|| Box::new(Sealer(context)) as Box<dyn Seal>);
    let token = (!token.is_empty()).then_some(token);
    Step::Established(Established { identity: Identity::Principal(facts.initiator), token, seal })
}

/// Whether a principal is one of [`SERVICES`] on some host.
fn is_for_us(principal: &str) -> bool {
    let service = principal.split_once('/').map(|(service, _)| service);
    service.is_some_and(|service| SERVICES.iter().any(|ours| ours.eq_ignore_ascii_case(service)))
}

/// Messages of an established context.
struct Sealer(gss::Context);

impl Seal for Sealer {
    fn wrap(&mut self, plain: &[u8]) -> Result<Wrapped, SealError> {
        let [signature, mut sealed, padding] =
            self.0.wrap(plain).map_err(|error| SealError::Other(error.to_string()))?;
        sealed.extend_from_slice(&padding);
        Ok(Wrapped { signature, sealed, padding: padding.len() })
    }

    fn unwrap(&mut self, signature: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        // The client hears of it, and need not hear which of our checks it was.
        self.0.unwrap(&[signature, sealed].concat()).map_err(|_| SealError::Signature)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use auth::context::RANDOM_BYTES;
    use expect_test::{Expect, expect};

    use super::*;

    /// A keytab with one made-up key: version 0x0502, then records of big-endian fields (MIT krb5, `keytab_file_format`).
    fn keytab(principal: [&str; 2]) -> Vec<u8> {
        let counted = |text: &str| [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat();
        let [first, second] = principal.map(counted);
        let name = [vec![0, 2], counted("TEST"), first, second, vec![0, 0, 0, 1]].concat();
        let (when, version) = (vec![0; 4], vec![1]);
        let key = [vec![0, 18, 0, 32], vec![7; 32]].concat();
        let record = [name, when, version, key].concat();
        [vec![5, 2], u32::try_from(record.len()).unwrap().to_be_bytes().to_vec(), record].concat()
    }

    fn acceptor() -> (tempfile::TempDir, Acceptor) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keytab");
        std::fs::write(&file, keytab(["HTTP", "host"])).unwrap();
        let acceptor = Acceptor::open(&file, &directory.path().join("replays")).unwrap();
        (directory, acceptor)
    }

    fn check_step(token: &[u8], expected: Expect) {
        let (_directory, acceptor) = acceptor();
        let users = auth::users::Users::default();
        let surroundings = Surroundings { now: Duration::ZERO, random: &[0; RANDOM_BYTES], users: &users };
        let mut context = acceptor.accept(&Peer { address: Ipv4Addr::LOCALHOST.into(), tls: None, owner: None });
        let mut reason = || match context.step(token, &surroundings) {
            Step::Refused(refusal) => refusal.reason.to_string(),
            Step::Continue(_) => "continue".to_owned(),
            Step::Established(established) => format!("this is {}", established.identity),
        };
        let told = reason();
        // What the library calls a mechanism that is not ours depends on the plug-ins that the system has.
        let foreign = ["An unsupported mechanism was requested", "No credentials were supplied"];
        let told = match told.strip_prefix("accepting a ticket: ") {
            Some(words) if foreign.iter().any(|known| words.starts_with(known)) => "not our mechanism".to_owned(),
            _ => told,
        };
        expected.assert_eq(&told);
        assert_eq!(reason(), "the token is malformed: a token after the last one");
    }

    #[test]
    fn what_is_no_ticket_is_refused() {
        check_step(b"", expect!["the token is malformed: an empty token"]);
        check_step(b"NTLMSSP\0\x01\0\0\0", expect!["not our mechanism"]);
        check_step(&[0x60, 0x84, 0xff, 0xff, 0xff, 0xff], expect!["accepting a ticket: Invalid token was supplied"]);
        // A SPNEGO offer of NTLM (1.3.6.1.4.1.311.2.2.10) and nothing else.
        let ntlm_only = [
            0x60, 0x1c, 0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02, 0xa0, 0x12, 0x30, 0x10, 0xa0, 0x0e, 0x30, 0x0c,
            0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a,
        ];
        check_step(&ntlm_only, expect!["not our mechanism"]);
        // A Kerberos token whose ticket is rubbish.
        let rubbish = [0x60, 0x0f, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02, 1, 0, 0x6e, 0x00];
        check_step(
            &rubbish,
            expect!["accepting a ticket: Unspecified GSS failure.  Minor code may provide more information"],
        );
    }

    #[test]
    fn a_keytab_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let check = |name: &str, contents: Option<&[u8]>| {
            let file = directory.path().join(name);
            if let Some(contents) = contents {
                std::fs::write(&file, contents).unwrap();
            }
            let error = Acceptor::open(&file, &directory.path().join("replays")).unwrap_err().to_string();
            assert!(error.starts_with("reading the keytab: "), "{error}");
        };
        check("missing", None);
        check("empty", Some(&[]));
        check("other", Some(b"something else"));
    }

    #[test]
    fn only_tickets_for_our_services_count() {
        let check = |principal: &str, expected: bool| assert_eq!(is_for_us(principal), expected, "{principal}");
        check("HTTP/host.example.org@EXAMPLE.ORG", true);
        check("wsman/host@EXAMPLE.ORG", true);
        check("host/host.example.org@EXAMPLE.ORG", true);
        check("nfs/host.example.org@EXAMPLE.ORG", false);
        check("HTTP@EXAMPLE.ORG", false);
        check("alice@HTTP/host", false);
        check("", false);
    }
}
