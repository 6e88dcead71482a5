//! One HTTP request: the right path, the right method, somebody who may ask, a body of bearable size; then the envelope goes on.
//!
//! ```text
//!   request ─▶ page? path? method? ─▶ Guest::decide ─┬─ serve ─────▶ body ─▶ unseal ─▶ Answers ─▶ seal ─▶ 200, 500
//!                                                    ├─ anonymous ─▶ body ─▶ Identify, else 401
//!                                                    ├─ done ──────▶ 200
//!                                                    └─ challenge ─▶ body read and dropped ─▶ 401, connection stays
//! ```
//! WS-Management uses few parts of HTTP: POST to `/wsman`, status 200 for answers and 500 for faults (DSP0226 13.1).
//! Everything that is not an envelope gets a plain line of text, for whoever tries it with a browser. Clients send the
//! whole envelope with each leg of a handshake, so what is not to be served is read all the same: the connection, and
//! with it the handshake, would end otherwise.

use std::convert::Infallible;
use std::time::Duration;

use auth::connection::BodyKind;
use auth::context::SealError;
use auth::sealed::{self, Plain};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use wsman::server::MAX_REQUEST_BYTES;

use crate::guest::{Asker, Decision, Guest};

/// How long a client may take to send a body of half a megabyte.
const BODY_SECONDS_MAX: u64 = 30;
/// What sealing adds to a message: two part headers, signature, padding.
const SEAL_BYTES_MAX: usize = 4096;
/// Longest envelope of somebody unknown: an Identify has 300 bytes.
const ANONYMOUS_BYTES_MAX: usize = 4096;

/// The preference (RFC 7240) with which our own client asks for words instead of return values.
pub const EXPLAINED: &str = "explained-refusals";
/// With the value `unauthenticated`: the client asks for Identify and nothing else (DSP0226 11).
const IDENTIFY: &str = "wsmanidentify";

/// An envelope to be answered.
#[derive(Clone, Debug)]
pub struct Question {
    /// The `Content-Type` header, empty if there was none.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
    /// Who asks.
    pub asker: Asker,
    /// Whether a refusal is wanted in words, see [`EXPLAINED`].
    pub explain: bool,
}

/// An answer to an envelope.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The `Content-Type` header.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Whoever answers envelopes.
pub trait Answers: Clone + Send + Sync + 'static {
    /// Answers one.
    fn answer(&self, question: Question) -> impl Future<Output = Reply> + Send;

    /// Answers somebody unknown, if all that he asks is what this service is.
    fn identify(&self, content_type: &str, body: &[u8]) -> Option<Reply>;

    /// Refuses somebody who speaks in clear where messages must be sealed, in a form that his client can show.
    fn refuse_unencrypted(&self) -> Reply;
}

type Answer = Response<Full<Bytes>>;

/// The response to one request.
pub(crate) async fn respond(
    request: Request<Incoming>,
    guest: &Guest,
    answers: &impl Answers,
) -> Result<Answer, Infallible> {
    Ok(match misdirected(&request) {
        Some(refusal) => refusal,
        None => exchange(request, guest, answers).await.unwrap_or_else(|refusal| refusal),
    })
}

/// What to say to a request that is none for this service.
fn misdirected(request: &Request<Incoming>) -> Option<Answer> {
    // Browsers say where a page came from whenever it posts elsewhere. No page has business here, and it would come with
    // the rights of the user who looks at it.
    if request.headers().contains_key(ORIGIN) {
        // Anybody can cause this, as often as he likes.
        tracing::debug!(origin = %text(request.headers(), &ORIGIN), "a web page was refused");
        return Some(closing(plain(StatusCode::FORBIDDEN, "web pages are not served")));
    }
    if !matches!(request.uri().path(), "/wsman" | "/wsman/") {
        return Some(plain(StatusCode::NOT_FOUND, "the service is at /wsman"));
    }
    if request.method() != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "WS-Management is spoken with POST");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    None
}

/// Everything else; the error is an answer as well, and comes early.
async fn exchange(request: Request<Incoming>, guest: &Guest, answers: &impl Answers) -> Result<Answer, Answer> {
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    let content_type = text(headers, &CONTENT_TYPE);
    let kind = match () {
        () if body.is_end_stream() => BodyKind::Empty,
        () if sealed::is_sealed(&content_type) => BodyKind::Sealed,
        () => BodyKind::Plain,
    };
    // What is not text cannot be right, and is a header all the same.
    let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default().to_owned());
    let identify = headers.get(IDENTIFY).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"unauthenticated"));
    match guest.decide(authorization, kind, identify).await {
        Decision::Serve(asker, last_leg) => {
            let explain = prefers(headers, EXPLAINED);
            let seal = if kind == BodyKind::Sealed { SEAL_BYTES_MAX } else { 0 };
            let body = collect(body, MAX_REQUEST_BYTES + seal).await?;
            let question = Question { content_type, body, asker, explain };
            let response = match kind {
                BodyKind::Sealed => answer_sealed(question, guest, answers).await?,
                BodyKind::Empty | BodyKind::Plain => envelope(answers.answer(question).await),
            };
            Ok(asking(response, last_leg))
        }
        Decision::Anonymous => {
            let body = collect(body, ANONYMOUS_BYTES_MAX).await?;
            match answers.identify(&content_type, &body) {
                Some(reply) => Ok(envelope(reply)),
                None => Ok(asking(unauthorized(), guest.challenge().await)),
            }
        }
        Decision::Done(last_leg) => Ok(asking(Response::new(Full::default()), last_leg)),
        Decision::Challenge(challenges) => {
            drop_body(body).await?;
            Ok(asking(unauthorized(), challenges))
        }
        Decision::Unencrypted => {
            drop_body(body).await?;
            Ok(envelope(answers.refuse_unencrypted()))
        }
        Decision::Full => Ok(closing(plain(StatusCode::SERVICE_UNAVAILABLE, "this user has too many connections"))),
    }
}

/// A sealed message, whose answer is sealed as well, faults included.
async fn answer_sealed(question: Question, guest: &Guest, answers: &impl Answers) -> Result<Answer, Answer> {
    let refuse = |error: SealError| {
        guest.tell("authentication", "refused", error.to_string());
        closing(plain(StatusCode::BAD_REQUEST, error.to_string()))
    };
    let (plain, style) = {
        let mut connection = guest.connection();
        let seal = connection.seal().map_err(refuse)?;
        sealed::open(&question.content_type, &question.body, seal).map_err(refuse)?
    };
    let question = Question { content_type: plain.content_type, body: plain.body.into(), ..question };
    let reply = answers.answer(question).await;
    let plain = Plain { content_type: reply.content_type.to_owned(), body: reply.body };
    let mut connection = guest.connection();
    let sealed = connection.seal().and_then(|seal| sealed::close(&plain, &style, seal)).map_err(refuse)?;
    let mut response = envelope(Reply { body: sealed.body, ..reply });
    let content_type = HeaderValue::try_from(sealed.content_type);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, content_type.map_err(|_| refuse(SealError::Malformed("its boundary")))?);
    Ok(response)
}

fn envelope(reply: Reply) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    response
}

fn unauthorized() -> Answer {
    plain(StatusCode::UNAUTHORIZED, "say who you are")
}

/// The response with a `WWW-Authenticate` line for each value: clients exist that read only one scheme from a line.
fn asking(mut response: Answer, challenges: Vec<String>) -> Answer {
    for value in challenges.into_iter().filter_map(|value| HeaderValue::try_from(value).ok()) {
        response.headers_mut().append(WWW_AUTHENTICATE, value);
    }
    response
}

/// Reads a body that nobody wants.
async fn drop_body(body: Incoming) -> Result<(), Answer> {
    let bytes_max = MAX_REQUEST_BYTES + SEAL_BYTES_MAX;
    if announces_more(&body, bytes_max) {
        return Err(too_large(bytes_max));
    }
    let limited = Limited::new(body, bytes_max);
    let mut limited = std::pin::pin!(limited);
    let read = async {
        while let Some(frame) = limited.as_mut().frame().await {
            frame.map_err(|error| unreadable(&*error, bytes_max))?;
        }
        Ok(())
    };
    match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), read).await {
        Ok(read) => read,
        Err(_) => Err(late()),
    }
}

/// The body, or what to say instead.
async fn collect(body: Incoming, bytes_max: usize) -> Result<Bytes, Answer> {
    if announces_more(&body, bytes_max) {
        return Err(too_large(bytes_max));
    }
    let limited = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), limited).await {
        Ok(collected) => {
            collected.map(http_body_util::Collected::to_bytes).map_err(|error| unreadable(&*error, bytes_max))
        }
        Err(_) => Err(late()),
    }
}

/// Whether a client announces more than it may send, which need not be waited for.
fn announces_more(body: &Incoming, bytes_max: usize) -> bool {
    body.size_hint().lower() > u64::try_from(bytes_max).unwrap_or(u64::MAX)
}

fn unreadable(error: &(dyn std::error::Error + Send + Sync + 'static), bytes_max: usize) -> Answer {
    match error.is::<LengthLimitError>() {
        true => too_large(bytes_max),
        false => closing(plain(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))),
    }
}

fn too_large(bytes_max: usize) -> Answer {
    closing(plain(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {bytes_max} bytes")))
}

fn late() -> Answer {
    closing(plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))
}

fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn prefers(headers: &HeaderMap, preference: &str) -> bool {
    let values = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(preference))
}

fn plain(status: StatusCode, message: impl Into<String>) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(message.into() + "\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
    response
}

/// The response, after which the connection ends: the rest of a body that nobody wants must not be read as a request.
fn closing(mut response: Answer) -> Answer {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
