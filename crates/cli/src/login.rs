//! A connection on which we say who we are, before the first request and again on each new connection.
//!
//! ```text
//!            new connection
//!   Stranger ──────────────▶ Negotiate ─┬─ over TLS ──▶ Known: requests as they are
//!                               │       └─ over TCP ──▶ Sealed: requests and answers encrypted
//!                               └ not for us, over TLS ─▶ Basic with each request
//! ```
//! Handshake and sealing are those of WinRM (MS-WSMV 2.2.9.1), so this works with Hyper-V as with our own daemon. Over
//! plain TCP nothing is sent that is not sealed, and no answer is believed that is not.

use std::time::{SystemTime, UNIX_EPOCH};

use auth::context::{RANDOM_BYTES, Reason, SealError};
use auth::ntlm::initiate::Login;
use auth::ntlm::seal::Session;
use auth::sealed::{self, Plain, Style};
use auth::secret::Password;
use auth::spnego::Client;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use wsman::client::CONTENT_TYPE;
use zeroize::Zeroizing;

use crate::http::{Answer, Connection, HttpError, Target};

/// Who we are.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user, with or without a domain.
    pub user: String,
    /// The password.
    pub password: Password,
}

/// A connection and, if need be, a login.
pub struct Channel {
    connection: Connection,
    credentials: Option<Credentials>,
    state: State,
}

enum State {
    Stranger,
    Known,
    Basic(Zeroizing<String>),
    Sealed(Box<Session>),
}

impl Channel {
    /// A channel; nothing is sent yet. Without credentials requests are sent as they are, which is for the local daemon.
    pub fn new(connection: Connection, credentials: Option<Credentials>) -> Self {
        Self { connection, credentials, state: State::Stranger }
    }

    /// Where it goes.
    pub fn target(&self) -> &Target {
        self.connection.target()
    }

    /// Sends an envelope and waits for the answer, see [`Connection::post`].
    ///
    /// # Errors
    /// When the connection breaks, we are not let in, or the answer is not what the service sent.
    pub fn post(&mut self, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, HttpError> {
        let Some(credentials) = self.credentials.clone() else { return self.connection.post(headers, body) };
        if self.connection.open()? {
            self.state = State::Stranger;
        }
        if matches!(self.state, State::Stranger) {
            self.state = self.log_in(&credentials)?;
        }
        let answer = match &mut self.state {
            State::Sealed(session) => {
                let plain = Plain { content_type: CONTENT_TYPE.to_owned(), body: body.to_vec() };
                let style = Style::default();
                let sealed = sealed::close(&plain, &style, session.as_mut()).map_err(|error| self.broken(&error))?;
                let headers = with_content_type(headers, &sealed.content_type);
                let answer = self.connection.post(&headers, &sealed.body)?;
                self.unseal(answer)?
            }
            State::Basic(value) => {
                let headers = [headers, &[("Authorization", value.as_str())]].concat();
                self.connection.post(&headers, body)?
            }
            State::Known | State::Stranger => self.connection.post(headers, body)?,
        };
        if answer.status == 401 {
            self.connection.close();
            return Err(self.unknown(&credentials.user));
        }
        Ok(answer)
    }

    /// Both legs of Negotiate, each without a body.
    fn log_in(&mut self, credentials: &Credentials) -> Result<State, HttpError> {
        let Target::Tcp { tls, host, .. } = self.connection.target().clone() else { return Ok(State::Known) };
        let Credentials { user, password } = credentials;
        let login = Login::new(user, password, format!("HTTP/{host}"), self.connection.end_point().cloned());
        let (client, token) = Client::new(login);
        let answer = self.leg(&token)?;
        let Some(challenge) = token_in(&answer) else {
            return if tls && offers_basic(&answer) {
                Ok(basic(credentials))
            } else {
                Err(self.refused(&offers(&answer)))
            };
        };
        if answer.status != 401 || !self.connection.is_open() {
            return Err(self.refused("the service does not keep the connection for a login"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        getrandom::fill(random.as_mut())
            .map_err(|error| self.refused(&format!("the kernel gave no random bytes: {error}")))?;
        let (session, token) = client.answer(&challenge, now, &random).map_err(|reason| self.reason(&reason))?;
        let answer = self.leg(&token)?;
        if answer.status == 401 {
            // Not every user may use NTLM: it needs a hash of the password that the service need not have.
            return if tls && offers_basic(&answer) { Ok(basic(credentials)) } else { Err(self.unknown(user)) };
        }
        let last = token_in(&answer).ok_or_else(|| self.refused(&format!("it answered {}", answer.status)))?;
        let session = session.finish(&last).map_err(|reason| self.reason(&reason))?;
        Ok(if tls { State::Known } else { State::Sealed(Box::new(session)) })
    }

    fn leg(&mut self, token: &[u8]) -> Result<Answer, HttpError> {
        let value = format!("Negotiate {}", BASE64_STANDARD.encode(token));
        self.connection.post(&[("Content-Type", CONTENT_TYPE), ("Authorization", &value)], &[])
    }

    fn unseal(&mut self, answer: Answer) -> Result<Answer, HttpError> {
        let State::Sealed(session) = &mut self.state else { return Ok(answer) };
        if sealed::is_sealed(&answer.content_type) {
            let opened = sealed::open(&answer.content_type, &answer.body, session.as_mut());
            let (Plain { content_type, body }, _) = opened.map_err(|error| self.broken(&error))?;
            return Ok(Answer { content_type, body, ..answer });
        }
        if matches!(answer.status, 200 | 500) {
            return Err(self.broken(&SealError::Malformed("an answer came in clear")));
        }
        Ok(answer)
    }

    fn broken(&mut self, error: &SealError) -> HttpError {
        self.connection.close();
        HttpError::Login { target: self.target().clone(), reason: error.to_string() }
    }

    fn refused(&self, reason: &str) -> HttpError {
        HttpError::Login { target: self.target().clone(), reason: reason.to_owned() }
    }

    fn unknown(&self, user: &str) -> HttpError {
        // Whoever is not let in is not told why; over plain TCP it may be that no hash for NTLM is kept.
        let also = match self.connection.target() {
            Target::Tcp { tls: false, .. } => ", may not use NTLM",
            _ => "",
        };
        self.refused(&format!(
            "the user {user} is not known there{also} or is locked for a while, or the password is wrong"
        ))
    }

    fn reason(&self, reason: &Reason) -> HttpError {
        self.refused(&reason.to_string())
    }
}

fn offers_basic(answer: &Answer) -> bool {
    answer.authenticate.iter().any(|value| is_scheme(value, "basic"))
}

/// To be used inside TLS only, where the password is in clear for nobody but the service.
fn basic(Credentials { user, password }: &Credentials) -> State {
    let text = Zeroizing::new(format!("{user}:{}", password.reveal()));
    State::Basic(Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(text.as_bytes()))))
}

/// What the service wants instead, in words.
fn offers(answer: &Answer) -> String {
    let schemes = answer.authenticate.iter().filter_map(|value| value.split_whitespace().next());
    let schemes = schemes.collect::<Vec<_>>().join(", ");
    match answer.status {
        401 if schemes.is_empty() => "it offers no way to log in".to_owned(),
        401 => format!("it does not accept NTLM; it offers {schemes}"),
        status => format!("it does not ask for a login, but answers {status}"),
    }
}

fn token_in(answer: &Answer) -> Option<Vec<u8>> {
    let value = answer.authenticate.iter().find(|value| is_scheme(value, "negotiate"))?;
    let (_, token) = value.split_once(' ')?;
    BASE64_STANDARD.decode(token.trim()).ok()
}

fn is_scheme(value: &str, scheme: &str) -> bool {
    value.split_whitespace().next().is_some_and(|found| found.eq_ignore_ascii_case(scheme))
}

fn with_content_type<'a>(headers: &[(&'a str, &'a str)], content_type: &'a str) -> Vec<(&'a str, &'a str)> {
    let others = headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
    others.copied().chain([("Content-Type", content_type)]).collect()
}
