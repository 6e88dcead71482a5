//! One HTTP request: the right path, the right method, a body of bearable size; then the envelope goes on.
//!
//! WS-Management uses few parts of HTTP: POST to `/wsman`, status 200 for answers and 500 for faults (DSP0226 13.1).
//! Everything that is not an envelope gets a plain line of text, for whoever tries it with a browser.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use wsman::server::MAX_REQUEST_BYTES;

/// How long a client may take to send a body of half a megabyte from the same host.
const BODY_SECONDS_MAX: u64 = 30;

/// The preference (RFC 7240) with which our own client asks for words instead of return values.
pub const EXPLAINED: &str = "explained-refusals";

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A user who may do everything.
    User(u32),
    /// Somebody who may do nothing, and why.
    Stranger(String),
}

/// An envelope to be answered.
#[derive(Clone, Debug)]
pub struct Question {
    /// The `Content-Type` header, empty if there was none.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
    /// Who asks.
    pub principal: Arc<str>,
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
}

/// The response to one request.
pub(crate) async fn respond(
    request: Request<Incoming>,
    caller: &Caller,
    answers: &impl Answers,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let uid = match caller {
        Caller::User(uid) => *uid,
        Caller::Stranger(reason) => {
            tracing::warn!(%reason, "a connection was refused");
            return Ok(closing(plain(StatusCode::FORBIDDEN, reason.clone())));
        }
    };
    // Browsers say where a page came from whenever it posts elsewhere. No page has business here, and it would come with
    // the rights of the user who looks at it.
    if request.headers().contains_key(ORIGIN) {
        tracing::warn!(origin = %text(request.headers(), &ORIGIN), "a web page was refused");
        return Ok(closing(plain(StatusCode::FORBIDDEN, "web pages are not served".to_owned())));
    }
    if !matches!(request.uri().path(), "/wsman" | "/wsman/") {
        return Ok(plain(StatusCode::NOT_FOUND, "the service is at /wsman".to_owned()));
    }
    if request.method() != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "WS-Management is spoken with POST".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    let content_type = text(request.headers(), &CONTENT_TYPE);
    let explain = prefers(request.headers(), EXPLAINED);
    let body = match collect(request.into_body()).await {
        Ok(body) => body,
        Err(response) => return Ok(closing(response)),
    };
    let principal = format!("uid:{uid}").into();
    let reply = answers.answer(Question { content_type, body, principal, explain }).await;
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    Ok(response)
}

/// The body, or what to say instead.
async fn collect(body: Incoming) -> Result<Bytes, Response<Full<Bytes>>> {
    let too_large = || plain(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {MAX_REQUEST_BYTES} bytes"));
    // What a client announces need not be waited for.
    if body.size_hint().lower() > u64::try_from(MAX_REQUEST_BYTES).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let limited = Limited::new(body, MAX_REQUEST_BYTES).collect();
    match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), limited).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(plain(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))),
        Err(_) => Err(plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())),
    }
}

fn text(headers: &HeaderMap, name: &hyper::header::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn prefers(headers: &HeaderMap, preference: &str) -> bool {
    let values = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(preference))
}

fn plain(status: StatusCode, message: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(message + "\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
    response
}

/// The response, after which the connection ends: the rest of a body that nobody wants must not be read as a request.
fn closing(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
