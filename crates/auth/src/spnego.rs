//! SPNEGO (RFC 4178, MS-SPNG): which mechanism, and proof that nobody chose a weaker one for both sides.
//!
//! ```text
//!   client                                      server
//!   NegTokenInit [NTLM] + NEGOTIATE ──────────▶ NegTokenResp incomplete + CHALLENGE ─┐
//!   NegTokenInit [Kerberos, NTLM] + … ────────▶ NegTokenResp request-mic, NTLM       │
//!   NegTokenResp + NEGOTIATE ─────────────────▶ NegTokenResp incomplete + CHALLENGE ─┤
//!   NegTokenResp + AUTHENTICATE [+ MIC] ◀────────────────────────────────────────────┘
//!                                      ───────▶ NegTokenResp completed [+ MIC]
//! ```
//! The MIC signs the client's list of mechanisms. It is checked whenever it comes, and it must come if we did not take the
//! client's first choice. Bare NTLM messages in place of SPNEGO tokens are answered bare (RFC 4559 allows no such thing,
//! but Windows does, and clients count on it).

use std::sync::Arc;
use std::time::Duration;

use crate::connection::Policy;
use crate::context::{Context, Established, Kerberos, Peer, RANDOM_BYTES, Reason, Refusal, Step, Surroundings};
use crate::der;
use crate::ntlm::accept::{Accepted, Challenged};
use crate::ntlm::initiate::{Initiator, Login};
use crate::ntlm::message;
use crate::ntlm::seal::Session;

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

/// Longest token: a Kerberos ticket with many groups.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Mechanisms in a list; Windows sends five.
const MECHANISMS_MAX: usize = 16;

/// 1.3.6.1.5.5.2
const SPNEGO: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// 1.3.6.1.4.1.311.2.2.10
const NTLM: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a];
/// 1.2.840.113554.1.2.2
const KERBEROS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// 1.2.840.48018.1.2.2, as a program at Microsoft once wrote it
const MICROSOFT_KERBEROS: &[u8] = &[0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 0x01, 0x02, 0x02];

/// Application tag 0, a GSS-API token that names its mechanism (RFC 2743 3.1).
const GSS_TOKEN: u8 = 0x60;

/// States of a negotiation (RFC 4178 4.2.2).
const COMPLETED: u8 = 0;
const INCOMPLETE: u8 = 1;
const REJECTED: u8 = 2;
const REQUEST_MIC: u8 = 3;

/// An acceptor for one attempt.
pub fn accept(policy: &Policy, peer: &Peer) -> Box<dyn Context> {
    let Policy { kerberos, settings, ntlm, .. } = policy;
    let state = State::Fresh;
    Box::new(Acceptor {
        kerberos: kerberos.clone(),
        ntlm: *ntlm,
        settings: settings.clone(),
        peer: peer.clone(),
        state,
    })
}

/// Whether a token begins a conversation: a GSS-API initial token (RFC 2743 3.1), or an NTLM NEGOTIATE message.
pub fn is_first(token: &[u8]) -> bool {
    token.first() == Some(&GSS_TOKEN) || message::read_negotiate(token).is_ok()
}

struct Acceptor {
    kerberos: Option<Arc<dyn Kerberos>>,
    ntlm: bool,
    settings: Settings,
    peer: Peer,
    state: State,
}

enum State {
    /// Nothing has come.
    Fresh,
    /// Another library does it.
    Handed(Box<dyn Context>),
    /// NTLM without SPNEGO; a challenge is out.
    Bare(Challenged),
    /// The client did not begin with NTLM, and was told to.
    Chosen(Mechanisms),
    /// NTLM in SPNEGO; a challenge is out.
    Wrapped(Mechanisms, Challenged),
    /// It has ended.
    Over,
}

/// The client's list.
struct Mechanisms {
    /// As DER, which is what gets signed.
    der: Vec<u8>,
    /// Whether we did not take the first, so that a signature must come.
    must_be_signed: bool,
}

type Next = Result<(State, Step), Refusal>;

impl Context for Acceptor {
    fn step(&mut self, token: &[u8], around: &Surroundings<'_>) -> Step {
        if token.len() > TOKEN_BYTES_MAX {
            return Step::Refused(Reason::Malformed("a token is too long").into());
        }
        let next = match std::mem::replace(&mut self.state, State::Over) {
            State::Fresh => self.first(token, around),
            State::Handed(mut context) => {
                let step = context.step(token, around);
                Ok((State::Handed(context), step))
            }
            State::Bare(challenged) => challenged
                .authenticate(token, self.peer.tls.as_ref(), around)
                .map(|accepted| (State::Over, established(accepted, None))),
            State::Chosen(mechanisms) => read_response(token)
                .map_err(Refusal::from)
                .and_then(|response| self.challenge(mechanisms, response.token.unwrap_or_default(), None, around)),
            State::Wrapped(mechanisms, challenged) => self.last(&mechanisms, challenged, token, around),
            State::Over => Err(Reason::Malformed("the conversation is over").into()),
        };
        match next {
            Ok((state, step)) => {
                self.state = state;
                step
            }
            Err(refusal) => Step::Refused(refusal),
        }
    }
}

impl Acceptor {
    fn first(&self, token: &[u8], around: &Surroundings<'_>) -> Next {
        if message::is_message(token) {
            self.check_ntlm()?;
            let (challenged, challenge) = Challenged::new(token, &self.settings, around)?;
            return Ok((State::Bare(challenged), Step::Continue(challenge)));
        }
        let mut content = der::expect(&mut &*token, GSS_TOKEN)?;
        let mechanism = der::expect(&mut content, der::OBJECT)?;
        if is_kerberos(mechanism) {
            return self.hand_over(token, around).ok_or(Reason::NotOffered("Kerberos").into());
        }
        if mechanism != SPNEGO {
            return Err(Reason::NotOffered("this mechanism").into());
        }
        let init = read_init(content)?;
        let place = |is: fn(&[u8]) -> bool| init.mechanisms.iter().position(|mechanism| is(mechanism));
        let (kerberos, ntlm) = (place(is_kerberos), place(|mechanism| mechanism == NTLM));
        let prefers_kerberos = kerberos.is_some_and(|kerberos| ntlm.is_none_or(|ntlm| kerberos < ntlm));
        if prefers_kerberos && let Some(next) = self.hand_over(token, around) {
            return Ok(next);
        }
        self.check_ntlm()?;
        let mechanisms = |must_be_signed| Mechanisms { der: init.list.to_vec(), must_be_signed };
        match (ntlm, init.token) {
            (None, _) => Err(Reason::NotOffered("Kerberos").into()),
            // The first token is always of the first mechanism (RFC 4178 3.2).
            (Some(0), Some(token)) => self.challenge(mechanisms(false), token, Some(NTLM), around),
            (Some(place), _) => {
                let state = if place > 0 { REQUEST_MIC } else { INCOMPLETE };
                let answer = write_response(Some(state), Some(NTLM), None, None);
                Ok((State::Chosen(mechanisms(place > 0)), Step::Continue(answer)))
            }
        }
    }

    fn check_ntlm(&self) -> Result<(), Reason> {
        if self.ntlm { Ok(()) } else { Err(Reason::NotOffered("NTLM")) }
    }

    fn hand_over(&self, token: &[u8], around: &Surroundings<'_>) -> Option<(State, Step)> {
        let mut context = self.kerberos.as_ref()?.accept(&self.peer);
        let step = context.step(token, around);
        Some((State::Handed(context), step))
    }

    /// Answers a NEGOTIATE message. Our first answer names the mechanism, no later one does (RFC 4178 4.2.2).
    fn challenge(&self, mechanisms: Mechanisms, token: &[u8], named: Option<&[u8]>, around: &Surroundings<'_>) -> Next {
        let (challenged, challenge) = Challenged::new(token, &self.settings, around)?;
        let answer = write_response(Some(INCOMPLETE), named, Some(&challenge), None);
        Ok((State::Wrapped(mechanisms, challenged), Step::Continue(answer)))
    }

    fn last(&self, mechanisms: &Mechanisms, challenged: Challenged, token: &[u8], around: &Surroundings<'_>) -> Next {
        let response = read_response(token)?;
        let authenticate = response.token.ok_or(Reason::Malformed("no AUTHENTICATE message"))?;
        let mut accepted = challenged.authenticate(authenticate, self.peer.tls.as_ref(), around)?;
        let claimed = Some(accepted.identity.to_string());
        let tampered = |what| Refusal { reason: Reason::Tampered(what), claimed: claimed.clone() };
        let mic = match (response.mic, &mut accepted.session) {
            (Some(mic), Some(session)) => {
                let verified = session.verify_mechanisms(&mechanisms.der, mic);
                verified.map_err(|_| tampered("the list of mechanisms is not the one that was signed"))?;
                let signed = session.sign_mechanisms(&mechanisms.der);
                Some(signed.map_err(|error| Reason::Other(error.to_string()))?)
            }
            (Some(_), None) => return Err(tampered("the list of mechanisms is signed with a key that is too weak")),
            _ if mechanisms.must_be_signed => return Err(tampered("the list of mechanisms is not signed")),
            _ => None,
        };
        let answer = write_response(Some(COMPLETED), None, None, mic.as_deref());
        Ok((State::Over, established(accepted, Some(answer))))
    }
}

fn established(accepted: Accepted, token: Option<Vec<u8>>) -> Step {
    let Accepted { identity, flags, session } = accepted;
    let seal = session.filter(|_| Session::can_seal(flags));
    Step::Established(Established { identity, token, seal: seal.map(|session| Box::new(session) as _) })
}

fn is_kerberos(mechanism: &[u8]) -> bool {
    mechanism == KERBEROS || mechanism == MICROSOFT_KERBEROS
}

/// The client's side: NTLM in SPNEGO, sealed, and nothing else.
pub struct Client {
    initiator: Initiator,
    list: Vec<u8>,
}

impl Client {
    /// Begins; gives the first token too.
    pub fn new(login: Login) -> (Self, Vec<u8>) {
        let (initiator, negotiate) = Initiator::new(login);
        let list = der::element(der::SEQUENCE, &der::element(der::OBJECT, NTLM));
        let token = der::element(der::context(2), &der::element(der::OCTETS, &negotiate));
        let init = [der::element(der::context(0), &list), token].concat();
        let init = der::element(der::context(0), &der::element(der::SEQUENCE, &init));
        let token = der::element(GSS_TOKEN, &[der::element(der::OBJECT, SPNEGO), init].concat());
        (Self { initiator, list }, token)
    }

    /// Answers the server's challenge; gives the last token too.
    ///
    /// # Errors
    /// When the server wants something else than sealed NTLM.
    pub fn answer(
        self,
        token: &[u8],
        now: Duration,
        random: &[u8; RANDOM_BYTES],
    ) -> Result<(ClientSession, Vec<u8>), Reason> {
        let response = read_response(token)?;
        if response.state == Some(REJECTED) {
            return Err(Reason::Other("the server refuses NTLM".to_owned()));
        }
        let challenge = response.token.ok_or(Reason::Malformed("no CHALLENGE message"))?;
        let (authenticate, mut session) = self.initiator.answer(challenge, now, random)?;
        let mic = session.sign_mechanisms(&self.list).map_err(|error| Reason::Other(error.to_string()))?;
        let token = write_response(None, None, Some(&authenticate), Some(&mic));
        Ok((ClientSession { session, list: self.list }, token))
    }
}

/// A client that has proved who it is, and does not know yet whether the server is content.
pub struct ClientSession {
    session: Session,
    list: Vec<u8>,
}

impl ClientSession {
    /// Checks the server's last token.
    ///
    /// # Errors
    /// When the server refuses, or does not know the session key and thus the password.
    pub fn finish(mut self, token: &[u8]) -> Result<Session, Reason> {
        let response = read_response(token)?;
        if response.state != Some(COMPLETED) {
            return Err(Reason::Other("the server did not complete the negotiation".to_owned()));
        }
        let mic = response.mic.ok_or(Reason::Tampered("the server did not sign the list of mechanisms"))?;
        let verified = self.session.verify_mechanisms(&self.list, mic);
        verified.map_err(|_| Reason::Tampered("the server's signature of the list of mechanisms is wrong"))?;
        Ok(self.session)
    }
}

/// `NegTokenInit`
struct Init<'a> {
    mechanisms: Vec<&'a [u8]>,
    list: &'a [u8],
    token: Option<&'a [u8]>,
}

fn read_init(mut bytes: &[u8]) -> Result<Init<'_>, Reason> {
    let mut choice = der::expect(&mut bytes, der::context(0))?;
    let mut fields = der::expect(&mut choice, der::SEQUENCE)?;
    let list = der::expect(&mut fields, der::context(0))?;
    let mut content = der::expect(&mut &*list, der::SEQUENCE)?;
    let mut mechanisms = Vec::new();
    while !content.is_empty() {
        if mechanisms.len() >= MECHANISMS_MAX {
            return Err(Reason::Malformed("there are too many mechanisms"));
        }
        mechanisms.push(der::expect(&mut content, der::OBJECT)?);
    }
    let mut token = None;
    while !fields.is_empty() {
        // Flags and what Windows adds are of no use to us.
        if let (tag, mut field) = der::take(&mut fields)?
            && tag == der::context(2)
        {
            token = Some(der::expect(&mut field, der::OCTETS)?);
        }
    }
    Ok(Init { mechanisms, list, token })
}

/// `NegTokenResp`
#[derive(Default)]
struct Response<'a> {
    state: Option<u8>,
    token: Option<&'a [u8]>,
    mic: Option<&'a [u8]>,
}

fn read_response(mut bytes: &[u8]) -> Result<Response<'_>, Reason> {
    let mut choice = der::expect(&mut bytes, der::context(1))?;
    let mut fields = der::expect(&mut choice, der::SEQUENCE)?;
    let mut response = Response::default();
    while !fields.is_empty() {
        let (tag, mut field) = der::take(&mut fields)?;
        match tag {
            0xa0 => response.state = der::expect(&mut field, der::ENUMERATED)?.first().copied(),
            0xa2 => response.token = Some(der::expect(&mut field, der::OCTETS)?),
            0xa3 => response.mic = Some(der::expect(&mut field, der::OCTETS)?),
            _ => (),
        }
    }
    // Old implementations repeat the token where the signature belongs.
    if response.mic == response.token {
        response.mic = None;
    }
    Ok(response)
}

fn write_response(state: Option<u8>, mechanism: Option<&[u8]>, token: Option<&[u8]>, mic: Option<&[u8]>) -> Vec<u8> {
    let state = state.map(|state| [state]);
    let fields = [
        (0, der::ENUMERATED, state.as_ref().map(<[u8; 1]>::as_slice)),
        (1, der::OBJECT, mechanism),
        (2, der::OCTETS, token),
        (3, der::OCTETS, mic),
    ];
    let fields = fields.iter().filter_map(|(number, tag, content)| {
        content.map(|content| der::element(der::context(*number), &der::element(*tag, content)))
    });
    let fields: Vec<u8> = fields.flatten().collect();
    der::element(der::context(1), &der::element(der::SEQUENCE, &fields))
}

#[cfg(test)]
mod tests;
