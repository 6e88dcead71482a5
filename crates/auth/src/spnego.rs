//! SPNEGO (RFC 4178, MS-SPNG): which mechanism, and that nobody chose a weaker one for us.

use crate::connection::Policy;
use crate::context::{Context, Peer, Reason, Step, Surroundings};

/// How NTLM is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Our name, up to 15 characters, as Windows shows it: `HOST`.
    pub netbios_name: String,
    /// Our name in the DNS.
    pub dns_name: String,
    /// Whether a client that cannot sign its handshake (MIC) is let in. Off: such a handshake can be relayed.
    pub allow_missing_mic: bool,
}

/// An acceptor for one attempt.
pub fn accept(policy: &Policy, peer: &Peer) -> Box<dyn Context> {
    match &policy.kerberos {
        Some(kerberos) => kerberos.accept(peer),
        None => Box::new(Nothing),
    }
}

/// Whether a token begins a conversation: a GSS-API initial token (RFC 2743 3.1), or an NTLM NEGOTIATE message.
pub fn is_first(token: &[u8]) -> bool {
    token.first() == Some(&0x60) || token.starts_with(b"NTLMSSP\0\x01\0\0\0")
}

struct Nothing;

impl Context for Nothing {
    fn step(&mut self, _: &[u8], _: &Surroundings<'_>) -> Step {
        Step::Refused(Reason::NotOffered("NTLM").into())
    }
}
