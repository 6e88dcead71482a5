//! The part of `gssapi.h` and `gssapi_ext.h` that an acceptor needs: types, constants, and the functions as the library
//! exports them.
//!
//! Layouts are those of RFC 2744 as MIT krb5 has had them since 1.11 (`gss_acquire_cred_from`) on every Linux ABI, where
//! nothing is packed. The library is opened once and stays for the life of the process, so that the function pointers do.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// The library of MIT krb5. Its number has been 2 since 1999.
const LIBRARY: &str = "libgssapi_krb5.so.2";

/// `OM_uint32`
pub type Status = u32;

/// `gss_buffer_desc`
#[repr(C)]
#[derive(Debug)]
pub struct Buffer {
    pub length: usize,
    pub value: *mut c_void,
}

impl Buffer {
    /// An empty one, as the library wants its outputs.
    pub const EMPTY: Self = Self { length: 0, value: std::ptr::null_mut() };

    /// One that the library only reads.
    pub fn reading(bytes: &[u8]) -> Self {
        Self { length: bytes.len(), value: bytes.as_ptr().cast_mut().cast() }
    }
}

/// `gss_OID_desc`
#[repr(C)]
#[derive(Debug)]
pub struct Oid {
    pub length: u32,
    pub elements: *const c_void,
}

/// `gss_OID_set_desc`
#[repr(C)]
#[derive(Debug)]
pub struct OidSet {
    pub count: usize,
    pub elements: *const Oid,
}

/// `gss_key_value_element_desc`
#[repr(C)]
#[derive(Debug)]
pub struct KeyValue {
    pub key: *const c_char,
    pub value: *const c_char,
}

/// `gss_key_value_set_desc`
#[repr(C)]
#[derive(Debug)]
pub struct KeyValueSet {
    pub count: u32,
    pub elements: *const KeyValue,
}

/// `gss_channel_bindings_struct`
#[repr(C)]
#[derive(Debug)]
pub struct ChannelBindings {
    pub initiator_type: u32,
    pub initiator: Buffer,
    pub acceptor_type: u32,
    pub acceptor: Buffer,
    pub application: Buffer,
}

/// `gss_iov_buffer_desc`
#[repr(C)]
#[derive(Debug)]
pub struct IovBuffer {
    pub kind: u32,
    pub buffer: Buffer,
}

/// `gss_cred_id_t`, `gss_ctx_id_t`, `gss_name_t`: pointers to what only the library knows.
pub type Handle = *mut c_void;

/// `GSS_C_ACCEPT`
pub const ACCEPT: c_int = 2;
/// `GSS_C_INDEFINITE`
pub const INDEFINITE: u32 = u32::MAX;
/// `GSS_S_COMPLETE`: also says that nothing is remarkable, such as a message seen before.
pub const COMPLETE: Status = 0;
/// `GSS_S_CONTINUE_NEEDED`
pub const CONTINUE_NEEDED: Status = 1;
/// `GSS_S_FAILURE`
pub const FAILURE: Status = 13 << 16;
/// `GSS_C_GSS_CODE` and `GSS_C_MECH_CODE`
pub const STATUS_KINDS: [c_int; 2] = [1, 2];
/// `GSS_C_CONF_FLAG`
pub const CONFIDENTIALITY: u32 = 16;
/// `GSS_C_INTEG_FLAG`
pub const INTEGRITY: u32 = 32;
/// `GSS_C_ANON_FLAG`
pub const ANONYMITY: u32 = 64;
/// `GSS_IOV_BUFFER_TYPE_DATA`
pub const IOV_DATA: u32 = 1;
/// `GSS_IOV_BUFFER_TYPE_HEADER`, made by the library (`GSS_IOV_BUFFER_FLAG_ALLOCATE`)
pub const IOV_HEADER: u32 = 2 | 0x1_0000;
/// `GSS_IOV_BUFFER_TYPE_PADDING`, made by the library
pub const IOV_PADDING: u32 = 9 | 0x1_0000;

/// DER contents of 1.2.840.113554.1.2.2, Kerberos 5 (RFC 1964).
pub const KRB5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];
/// DER contents of 1.3.6.1.5.5.2, SPNEGO (RFC 4178).
pub const SPNEGO: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),* $(,)?);)*) => {
        /// The functions that we use, under the names of RFC 2744 without their prefix.
        pub struct Functions {
            $(pub $field: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            fn find(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: each type is the declaration that `gssapi.h` or `gssapi_ext.h` has for the symbol; the library
                // is never closed (`functions`), so the pointers stay good.
                unsafe { Ok(Self { $($field: *library.get($symbol)?,)* }) }
            }
        }
    };
}

type Minor = *mut Status;

functions! {
    acquire_cred_from = c"gss_acquire_cred_from": fn(
        Minor, Handle, u32, *const OidSet, c_int, *const KeyValueSet, *mut Handle, *mut *mut OidSet, *mut u32,
    );
    set_neg_mechs = c"gss_set_neg_mechs": fn(Minor, Handle, *const OidSet);
    accept_sec_context = c"gss_accept_sec_context": fn(
        Minor, *mut Handle, Handle, *const Buffer, *const ChannelBindings, *mut Handle, *mut *const Oid, *mut Buffer,
        *mut u32, *mut u32, *mut Handle,
    );
    inquire_context = c"gss_inquire_context": fn(
        Minor, Handle, *mut Handle, *mut Handle, *mut u32, *mut *const Oid, *mut u32, *mut c_int, *mut c_int,
    );
    display_name = c"gss_display_name": fn(Minor, Handle, *mut Buffer, *mut *const Oid);
    display_status = c"gss_display_status": fn(Minor, Status, c_int, *const Oid, *mut u32, *mut Buffer);
    wrap_iov = c"gss_wrap_iov": fn(Minor, Handle, c_int, u32, *mut c_int, *mut IovBuffer, c_int);
    unwrap = c"gss_unwrap": fn(Minor, Handle, *const Buffer, *mut Buffer, *mut c_int, *mut u32);
    release_buffer = c"gss_release_buffer": fn(Minor, *mut Buffer);
    release_iov_buffer = c"gss_release_iov_buffer": fn(Minor, *mut IovBuffer, c_int);
    release_name = c"gss_release_name": fn(Minor, *mut Handle);
    release_cred = c"gss_release_cred": fn(Minor, *mut Handle);
    delete_sec_context = c"gss_delete_sec_context": fn(Minor, *mut Handle, *mut Buffer);
}

/// The functions of the library, which is opened at the first call; why not, if it cannot be.
pub fn functions() -> Result<&'static Functions, String> {
    static OPENED: OnceLock<Result<(Library, Functions), String>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        // SAFETY: a library of the system; what runs when it is loaded is what runs in every program linked with it.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|error| error.to_string())?;
        let functions = Functions::find(&library).map_err(|error| error.to_string())?;
        Ok((library, functions))
    });
    opened.as_ref().map(|(_, functions)| functions).map_err(Clone::clone)
}

/// One entry of a credential store.
pub fn key_value(key: &'static CStr, value: &CStr) -> KeyValue {
    KeyValue { key: key.as_ptr(), value: value.as_ptr() }
}
