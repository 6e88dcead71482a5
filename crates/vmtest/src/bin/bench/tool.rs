//! Other programs, run to their end, and what their failures are told as.

use vmtest::service::Error;
pub use vmtest::tool::run;

/// Shorthand for errors of the file system.
pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}
