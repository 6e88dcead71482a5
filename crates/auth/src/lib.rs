//! Who is asking, and how nobody else can read it: authentication of connections as a deterministic machine.
//!
//! ```text
//!  Authorization header ──▶ connection ──┬─ Basic ──────▶ users (Argon2id)
//!                              │         └─ Negotiate ──▶ a context: spnego ─▶ ntlm, or Kerberos from outside
//!                              ▼                             │ seal
//!  multipart/encrypted ◀──▶ sealed ◀─────────────────────────┘
//! ```
//! HTTP authentication in WS-Management is bound to the connection, not to the request (MS-WSMV 3.1.4.1.30), so the unit
//! here is [`connection::Connection`]. Nothing in this crate reads a clock, draws a random number or opens a file: they
//! come in as arguments, see [`context::Surroundings`]. What is secret is never printed.

pub mod certificate;
pub mod connection;
pub mod context;
mod der;
pub mod lockout;
pub mod ntlm;
pub mod sealed;
pub mod secret;
pub mod spnego;
pub mod users;
