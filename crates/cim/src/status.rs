//! What can go wrong with an operation, in the terms of CIM and of WMI.
//!
//! This is the only table of these numbers. `cim_code` numbers are from DSP0200 1.4 (CIM operations over HTTP), section
//! "Status codes"; `wmi_code` numbers are WMI's `WBEM_E_*` results, which Windows clients look for in fault details.
//! SOAP fault codes are not known here: `wsman` maps a [`Status`] to its fault.

use std::fmt;

/// The kind of failure. Front ends choose their protocol's code from it, people read the message beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Something failed that has no better name.
    Failed,
    /// The caller may not do this.
    AccessDenied,
    /// There is no such namespace.
    InvalidNamespace,
    /// A parameter of the operation itself is wrong, for example a key that names no single instance.
    InvalidParameter,
    /// There is no such class.
    InvalidClass,
    /// There is no such instance.
    NotFound,
    /// The class or the server does not offer this operation.
    NotSupported,
    /// The object is there already.
    AlreadyExists,
    /// The class has no such property.
    NoSuchProperty,
    /// A value does not have the declared type.
    TypeMismatch,
    /// The query is in a language this server does not read.
    QueryLanguageNotSupported,
    /// The query is not a sentence of its language, or asks for what cannot be evaluated.
    InvalidQuery,
    /// A subscription asks for events of a class whose instances are no events.
    NotEventClass,
    /// The method is declared, but this instance or this server does not carry it out.
    MethodNotAvailable,
    /// The class has no such method.
    MethodNotFound,
    /// Arguments of a method call do not fit its declaration.
    InvalidMethodParameters,
    /// An object path cannot be read.
    InvalidObjectPath,
    /// An enumeration context is unknown or has expired.
    InvalidEnumerationContext,
    /// The request is well formed but larger than this server is willing to handle.
    LimitsExceeded,
    /// The server is about to stop and takes no new work.
    ShuttingDown,
}

impl Status {
    /// The CIM status code of DSP0200.
    pub fn cim_code(self) -> u32 {
        match self {
            Self::Failed => 1,
            Self::AccessDenied => 2,
            Self::InvalidNamespace => 3,
            Self::InvalidParameter | Self::InvalidMethodParameters | Self::InvalidObjectPath => 4,
            Self::InvalidClass => 5,
            Self::NotFound => 6,
            Self::NotSupported => 7,
            Self::AlreadyExists => 11,
            Self::NoSuchProperty => 12,
            Self::TypeMismatch => 13,
            Self::QueryLanguageNotSupported => 14,
            Self::InvalidQuery | Self::NotEventClass => 15,
            Self::MethodNotAvailable => 16,
            Self::MethodNotFound => 17,
            Self::InvalidEnumerationContext => 21,
            Self::LimitsExceeded => 27,
            Self::ShuttingDown => 28,
        }
    }

    /// The WMI result (`WBEM_E_*`) that Windows reports for this failure.
    pub fn wmi_code(self) -> u32 {
        match self {
            Self::Failed => 0x8004_1001,
            Self::NotFound => 0x8004_1002,
            Self::AccessDenied => 0x8004_1003,
            Self::TypeMismatch => 0x8004_1005,
            Self::InvalidEnumerationContext => 0x8004_1007,
            Self::InvalidParameter => 0x8004_1008,
            Self::NotSupported => 0x8004_100C,
            Self::InvalidNamespace => 0x8004_100E,
            Self::InvalidClass => 0x8004_1010,
            Self::InvalidQuery => 0x8004_1017,
            Self::QueryLanguageNotSupported => 0x8004_1018,
            Self::AlreadyExists => 0x8004_1019,
            Self::MethodNotFound => 0x8004_102E,
            Self::InvalidMethodParameters => 0x8004_102F,
            Self::NoSuchProperty => 0x8004_1031,
            Self::ShuttingDown => 0x8004_1033,
            Self::InvalidObjectPath => 0x8004_103A,
            Self::MethodNotAvailable => 0x8004_1055,
            Self::NotEventClass => 0x8004_1059,
            Self::LimitsExceeded => 0x8004_106C,
        }
    }

    /// WMI's name of the failure, as it stands in documentation and scripts.
    pub fn wmi_name(self) -> &'static str {
        match self {
            Self::Failed => "WBEM_E_FAILED",
            Self::NotFound => "WBEM_E_NOT_FOUND",
            Self::AccessDenied => "WBEM_E_ACCESS_DENIED",
            Self::TypeMismatch => "WBEM_E_TYPE_MISMATCH",
            Self::InvalidEnumerationContext => "WBEM_E_INVALID_CONTEXT",
            Self::InvalidParameter => "WBEM_E_INVALID_PARAMETER",
            Self::NotSupported => "WBEM_E_NOT_SUPPORTED",
            Self::InvalidNamespace => "WBEM_E_INVALID_NAMESPACE",
            Self::InvalidClass => "WBEM_E_INVALID_CLASS",
            Self::InvalidQuery => "WBEM_E_INVALID_QUERY",
            Self::QueryLanguageNotSupported => "WBEM_E_INVALID_QUERY_TYPE",
            Self::AlreadyExists => "WBEM_E_ALREADY_EXISTS",
            Self::MethodNotFound => "WBEM_E_INVALID_METHOD",
            Self::InvalidMethodParameters => "WBEM_E_INVALID_METHOD_PARAMETERS",
            Self::NoSuchProperty => "WBEM_E_INVALID_PROPERTY",
            Self::ShuttingDown => "WBEM_E_SHUTTING_DOWN",
            Self::InvalidObjectPath => "WBEM_E_INVALID_OBJECT_PATH",
            Self::MethodNotAvailable => "WBEM_E_METHOD_NOT_IMPLEMENTED",
            Self::NotEventClass => "WBEM_E_NOT_EVENT_CLASS",
            Self::LimitsExceeded => "WBEM_E_QUOTA_VIOLATION",
        }
    }

    /// Whether the caller can do better by asking differently; otherwise the fault is the server's.
    pub fn is_callers_fault(self) -> bool {
        !matches!(self, Self::Failed | Self::ShuttingDown)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wmi_name())
    }
}

/// A failed operation: the kind for programs, the message for people (lower case, no full stop).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of failure.
    pub status: Status,
    /// What happened to what, and what to do next where that helps.
    pub message: String,
}

impl Error {
    /// A failure of the given kind.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// There is no class of this name.
    pub fn invalid_class(class: &str) -> Self {
        Self::new(Status::InvalidClass, format!("there is no class {class} in this namespace"))
    }

    /// The described instance does not exist.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(Status::NotFound, format!("{what} does not exist"))
    }

    /// The described operation is not offered.
    pub fn not_supported(what: impl fmt::Display) -> Self {
        Self::new(Status::NotSupported, format!("{what} is not supported"))
    }

    /// The class has no such method.
    pub fn method_not_found(class: &str, method: &str) -> Self {
        Self::new(Status::MethodNotFound, format!("class {class} has no method {method}"))
    }

    /// Arguments do not fit the declaration of their method.
    pub fn invalid_arguments(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidMethodParameters, message)
    }

    /// The query cannot be read or evaluated.
    pub fn invalid_query(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidQuery, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standards() {
        fn check(status: Status, cim: u32, wmi: u32) {
            assert_eq!((status.cim_code(), status.wmi_code()), (cim, wmi), "{status}");
        }
        check(Status::InvalidNamespace, 3, 2_147_749_902);
        check(Status::NotFound, 6, 2_147_749_890);
        check(Status::InvalidClass, 5, 2_147_749_904);
        check(Status::InvalidQuery, 15, 2_147_749_911);
        check(Status::InvalidMethodParameters, 4, 2_147_749_935);
        check(Status::AccessDenied, 2, 2_147_749_891);
    }
}
