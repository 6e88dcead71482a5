//! Safe hands around [`raw`]: a credential from a keytab, a context that is being accepted, messages under its keys.
//!
//! ```text
//!   Credential::from_keytab ──▶ Context::new ──▶ accept(token)* ──▶ facts, wrap, unwrap
//! ```
//! What the library gives us is copied at once and given back; handles are released when dropped. This module and `raw`
//! are the only ones of the project with unsafe code.

#![expect(unsafe_code, reason = "the library is C; every call is of one of the forms that its header declares")]

mod raw;

use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::Arc;

use raw::{Buffer, Functions, Handle, IovBuffer, Oid, OidSet, Status};

/// Messages that the library may have about one error; it has two or three.
const MESSAGES_MAX: usize = 8;

/// What the library says about numbers that it has no words for.
const NO_MESSAGES: [&str; 2] = ["Success", "Unknown error"];

/// Why the library did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GssError {
    /// It is not there.
    #[error("the Kerberos library cannot be loaded: {0}; install libgssapi-krb5-2")]
    Library(String),
    /// A path has a zero byte.
    #[error("{0:?} cannot be the name of a file")]
    Name(String),
    /// It says no.
    #[error("{doing}: {reason}")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// What the library says, in its words.
        reason: String,
    },
}

/// The keys of a service, read from a keytab each time they are needed: a keytab that changes needs no restart.
#[derive(Debug)]
pub struct Credential {
    functions: Library,
    handle: Handle,
}

// SAFETY: the library locks a credential while it uses it (RFC 2743 leaves that to implementations, MIT documents it).
unsafe impl Send for Credential {}
// SAFETY: as above.
unsafe impl Sync for Credential {}

/// A context that is or has been accepted.
#[derive(Debug)]
pub struct Context {
    credential: Arc<Credential>,
    handle: Handle,
}

// SAFETY: a context may be used by any thread, by one at a time, which `&mut` in every method sees to.
unsafe impl Send for Context {}

/// What an established context is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Who asks, such as `alice@EXAMPLE.ORG`.
    pub initiator: String,
    /// For whom the ticket is, such as `HTTP/host.example.org@EXAMPLE.ORG`.
    pub acceptor: String,
    /// Whether the mechanism is Kerberos.
    pub is_krb5: bool,
    /// Whether the initiator asked for encrypted and signed messages.
    pub can_seal: bool,
    /// Whether the initiator does not say who it is.
    pub anonymous: bool,
}

/// How a step of accepting ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What the initiator must be given, perhaps nothing.
    pub token: Vec<u8>,
    /// Whether the context is established.
    pub complete: bool,
}

/// The functions, or why there are none.
#[derive(Clone, Copy)]
struct Library(&'static Functions);

impl std::fmt::Debug for Library {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Library")
    }
}

impl Credential {
    /// The keys in `keytab`, with `replays` as the file that remembers which authenticators have been used.
    ///
    /// # Errors
    /// When there is no library, or no key in the file.
    pub fn from_keytab(keytab: &Path, replays: &Path) -> Result<Self, GssError> {
        let functions = Library(raw::functions().map_err(GssError::Library)?);
        let (keytab, replays) = (residual("FILE:", keytab)?, residual("file2:", replays)?);
        let store = [raw::key_value(c"keytab", &keytab), raw::key_value(c"rcache", &replays)];
        let store = raw::KeyValueSet { count: 2, elements: store.as_ptr() };
        let both = [oid(raw::KRB5), oid(raw::SPNEGO)];
        let only = OidSet { count: 1, elements: both.as_ptr() };
        // Kerberos for itself first: where another mechanism has a plug-in, negotiation would be content with that one and no keytab.
        drop(Self::acquire(functions, &only, &store)?);
        let credential = Self::acquire(functions, &OidSet { count: 2, elements: both.as_ptr() }, &store)?;
        let mut minor = 0;
        // Whatever other mechanisms the system has plug-ins for, SPNEGO must not agree on one of them.
        // SAFETY: a credential of ours, and a set that outlives the call.
        let major = unsafe { (functions.0.set_neg_mechs)(&mut minor, credential.handle, &only) };
        functions.check("restricting negotiation to Kerberos", major, minor)?;
        Ok(credential)
    }

    fn acquire(functions: Library, mechanisms: &OidSet, store: &raw::KeyValueSet) -> Result<Self, GssError> {
        let (mut minor, mut handle) = (0, ptr::null_mut());
        // SAFETY: inputs live until the end of this call; the name is GSS_C_NO_NAME, outputs not wanted are null.
        let major = unsafe {
            (functions.0.acquire_cred_from)(
                &mut minor,
                ptr::null_mut(),
                raw::INDEFINITE,
                mechanisms,
                raw::ACCEPT,
                store,
                &mut handle,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        functions.check("reading the keytab", major, minor)?;
        Ok(Self { functions, handle })
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        // SAFETY: a handle of ours, which nobody uses any more.
        unsafe { (self.functions.0.release_cred)(&mut 0, &mut self.handle) };
    }
}

impl Context {
    /// A context of which nothing has been accepted yet.
    pub fn new(credential: Arc<Credential>) -> Self {
        Self { credential, handle: ptr::null_mut() }
    }

    fn functions(&self) -> Library {
        self.credential.functions
    }

    /// Takes the initiator's next token. `binding` is the application data of RFC 5929's channel bindings.
    ///
    /// # Errors
    /// When the token does not authenticate anybody; the context is then of no more use.
    pub fn accept(&mut self, token: &[u8], binding: Option<&[u8]>) -> Result<Accepted, GssError> {
        let functions = self.functions();
        let bindings = binding.map(|data| raw::ChannelBindings {
            initiator_type: 0,
            initiator: Buffer::EMPTY,
            acceptor_type: 0,
            acceptor: Buffer::EMPTY,
            application: Buffer::reading(data),
        });
        let bindings = bindings.as_ref().map_or(ptr::null(), ptr::from_ref);
        let mut minor = 0;
        let mut output = Output::new(functions);
        // SAFETY: the context is null at first and the library's afterwards; inputs outlive the call; the outputs that
        // are not wanted are null, so no delegated credential is taken.
        let major = unsafe {
            (functions.0.accept_sec_context)(
                &mut minor,
                &mut self.handle,
                self.credential.handle,
                &Buffer::reading(token),
                bindings,
                ptr::null_mut(),
                ptr::null_mut(),
                &mut output.buffer,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        if major != raw::CONTINUE_NEEDED {
            functions.check("accepting a ticket", major, minor)?;
        }
        Ok(Accepted { token: output.bytes().to_vec(), complete: major == raw::COMPLETE })
    }

    /// What an established context is about.
    ///
    /// # Errors
    /// When it is not established.
    pub fn facts(&mut self) -> Result<Facts, GssError> {
        let functions = self.functions();
        let (mut initiator, mut acceptor) = (Name::new(functions), Name::new(functions));
        let (mut minor, mut flags, mut open) = (0, 0, 0);
        let mut mechanism = ptr::null();
        // SAFETY: a context of ours, which may be null and is then refused; names are released when dropped.
        let major = unsafe {
            (functions.0.inquire_context)(
                &mut minor,
                self.handle,
                &mut initiator.handle,
                &mut acceptor.handle,
                ptr::null_mut(),
                &mut mechanism,
                &mut flags,
                ptr::null_mut(),
                &mut open,
            )
        };
        functions.check("reading the context", major, minor)?;
        if open == 0 {
            return Err(GssError::Refused { doing: "reading the context", reason: "it is not established".into() });
        }
        // SAFETY: the library's own, static description of a mechanism, or null.
        let is_krb5 = unsafe { mechanism.as_ref() }.is_some_and(is_krb5);
        let sealing = raw::CONFIDENTIALITY | raw::INTEGRITY;
        Ok(Facts {
            initiator: initiator.text()?,
            acceptor: acceptor.text()?,
            is_krb5,
            can_seal: flags & sealing == sealing,
            anonymous: flags & raw::ANONYMITY != 0,
        })
    }

    /// Seals a message in the form that WinRM sends: a header, which holds the trailer too, the sealed bytes, and padding,
    /// which today's ciphers have none of.
    ///
    /// # Errors
    /// When the context is not established or has no encryption.
    pub fn wrap(&mut self, message: &[u8]) -> Result<[Vec<u8>; 3], GssError> {
        let functions = self.functions();
        let mut sealed = message.to_vec();
        let data = Buffer { length: sealed.len(), value: sealed.as_mut_ptr().cast() };
        let mut parts = IovParts {
            functions,
            parts: [
                IovBuffer { kind: raw::IOV_HEADER, buffer: Buffer::EMPTY },
                IovBuffer { kind: raw::IOV_DATA, buffer: data },
                IovBuffer { kind: raw::IOV_PADDING, buffer: Buffer::EMPTY },
            ],
        };
        let (mut minor, mut confidential) = (0, 0);
        // SAFETY: a context of ours; the data is written in place, the other two are made by the library.
        let major = unsafe {
            let parts = parts.parts.as_mut_ptr();
            (functions.0.wrap_iov)(&mut minor, self.handle, 1, 0, &mut confidential, parts, IOV_PARTS)
        };
        functions.check("sealing a message", major, minor)?;
        if confidential == 0 {
            return Err(GssError::Refused { doing: "sealing a message", reason: "it is not encrypted".into() });
        }
        let header = parts.copy(0);
        let padding = parts.copy(2);
        drop(parts);
        Ok([header, sealed, padding])
    }

    /// Opens a message in the form of [`Self::wrap`], the header followed by the rest.
    ///
    /// # Errors
    /// When it was altered, sent before, is out of order, or not encrypted.
    pub fn unwrap(&mut self, message: &[u8]) -> Result<Vec<u8>, GssError> {
        let functions = self.functions();
        let (mut minor, mut confidential) = (0, 0);
        let mut output = Output::new(functions);
        // SAFETY: a context of ours, an input that outlives the call, an output of the library's.
        let major = unsafe {
            let input = Buffer::reading(message);
            (functions.0.unwrap)(
                &mut minor,
                self.handle,
                &input,
                &mut output.buffer,
                &mut confidential,
                ptr::null_mut(),
            )
        };
        functions.check("opening a sealed message", major, minor)?;
        if confidential == 0 {
            return Err(GssError::Refused { doing: "opening a sealed message", reason: "it is not encrypted".into() });
        }
        Ok(output.bytes().to_vec())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: a handle of ours, which nobody uses any more; no farewell token is wanted.
            unsafe { (self.functions().0.delete_sec_context)(&mut 0, &mut self.handle, ptr::null_mut()) };
        }
    }
}

impl Library {
    /// An error unless all went well. Remarks count as errors: a message that was sent before is one.
    fn check(self, doing: &'static str, major: Status, minor: Status) -> Result<(), GssError> {
        if major == raw::COMPLETE {
            return Ok(());
        }
        let [general, special] = raw::STATUS_KINDS;
        let special = if minor == 0 { Vec::new() } else { self.messages(minor, special) };
        // A general failure only says that the special message tells more.
        let general =
            if major == raw::FAILURE && !special.is_empty() { Vec::new() } else { self.messages(major, general) };
        let messages = [general, special].concat();
        Err(GssError::Refused { doing, reason: messages.join(": ") })
    }

    fn messages(self, status: Status, kind: c_int) -> Vec<String> {
        let (mut minor, mut more) = (0, 0);
        let mut messages = Vec::new();
        for _ in 0..MESSAGES_MAX {
            let mut output = Output::new(self);
            // SAFETY: numbers, and an output of the library's.
            let major = unsafe {
                (self.0.display_status)(&mut minor, status, kind, ptr::null(), &mut more, &mut output.buffer)
            };
            if major != raw::COMPLETE {
                break;
            }
            messages.extend(Some(output.text()).filter(|text| !NO_MESSAGES.contains(&text.as_str())));
            if more == 0 {
                break;
            }
        }
        messages
    }
}

/// A buffer that the library fills and that is given back to it.
struct Output {
    functions: Library,
    buffer: Buffer,
}

impl Output {
    fn new(functions: Library) -> Self {
        Self { functions, buffer: Buffer::EMPTY }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: from `EMPTY` only the library has written to it.
        unsafe { bytes(&self.buffer) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).trim_end_matches('\0').to_owned()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: empty, or filled by the library.
        unsafe { (self.functions.0.release_buffer)(&mut 0, &mut self.buffer) };
    }
}

/// A name that the library made.
struct Name {
    functions: Library,
    handle: Handle,
}

impl Name {
    fn new(functions: Library) -> Self {
        Self { functions, handle: ptr::null_mut() }
    }

    /// The name as Kerberos writes it: separators that are part of a component are escaped, so no two names look alike.
    fn text(&self) -> Result<String, GssError> {
        let mut minor = 0;
        let mut output = Output::new(self.functions);
        // SAFETY: a name of the library's, or null, which it refuses.
        let major =
            unsafe { (self.functions.0.display_name)(&mut minor, self.handle, &mut output.buffer, ptr::null_mut()) };
        self.functions.check("reading a name", major, minor)?;
        Ok(output.text())
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // SAFETY: a name of the library's, or null, which it ignores.
        unsafe { (self.functions.0.release_name)(&mut 0, &mut self.handle) };
    }
}

/// Number of parts of a sealed message.
const IOV_PARTS: c_int = 3;

/// Header, data and padding, of which the library makes the first and the last.
struct IovParts {
    functions: Library,
    parts: [IovBuffer; 3],
}

impl IovParts {
    fn copy(&self, index: usize) -> Vec<u8> {
        // SAFETY: empty, filled by the library, or the data that outlives this.
        self.parts.get(index).map_or_else(Vec::new, |part| unsafe { bytes(&part.buffer) }.to_vec())
    }
}

impl Drop for IovParts {
    fn drop(&mut self) {
        // SAFETY: only what the library marked as its own is given back; the data is ours and stays.
        unsafe { (self.functions.0.release_iov_buffer)(&mut 0, self.parts.as_mut_ptr(), IOV_PARTS) };
    }
}

/// What a buffer holds.
///
/// # Safety
/// Its pointer must be null or lead to as many bytes as it says, which stay while the buffer is borrowed.
unsafe fn bytes(buffer: &Buffer) -> &[u8] {
    if buffer.value.is_null() {
        return &[];
    }
    // SAFETY: what the caller promises.
    unsafe { std::slice::from_raw_parts(buffer.value.cast(), buffer.length) }
}

fn oid(contents: &'static [u8]) -> Oid {
    let length = u32::try_from(contents.len()).expect("a constant of a few bytes");
    Oid { length, elements: contents.as_ptr().cast() }
}

fn is_krb5(mechanism: &Oid) -> bool {
    let Ok(length) = usize::try_from(mechanism.length) else { return false };
    // SAFETY: the library's own, static description of a mechanism.
    let contents = unsafe { std::slice::from_raw_parts(mechanism.elements.cast::<u8>(), length) };
    contents == raw::KRB5
}

/// `prefix` and a path, as the library names files.
fn residual(prefix: &str, path: &Path) -> Result<CString, GssError> {
    let bytes = [prefix.as_bytes(), path.as_os_str().as_bytes()].concat();
    CString::new(bytes).map_err(|_| GssError::Name(path.display().to_string()))
}
