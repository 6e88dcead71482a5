//! What can go wrong, and the only table of codes it is told with.
//!
//! A fault names one [`Kind`] and a sentence. Everything a client may look at follows from the kind: SOAP code and subcode, DSP0226's
//! fault detail and WinRM's number stand in [`Kind::row`], WMI's HRESULT comes from the [`Status`] if the provider gave one. virsh and
//! omicli print the sentence, pypsrp and pywinrm the WinRM code, virt-who and pywinrm the HRESULT, openwsman the subcode.
//!
//! Sources: DSP0226 1.0 (subcodes and details), MS-WSMV (`WSManFault`), the numbers of `wsmerror.h`.

use crate::encoding::EncodingError;
use crate::ns;
use cim::Status;
use cim::xml::{Writer, XmlError};

/// Characters of a reason. Reasons quote what was asked, which may be anything, and stand in a fault twice or three times.
const MAX_REASON: usize = 1_000;

/// A request that cannot be answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// Which rule it broke.
    pub kind: Kind,
    /// What happened to what, for a person.
    pub reason: String,
    /// The failure in CIM's terms, if it came from below the protocol.
    pub status: Option<Status>,
}

/// The ways to fail that clients can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The envelope is SOAP, but not 1.2.
    VersionMismatch,
    /// A header that must be understood is not.
    MustUnderstand,
    /// `w:Locale` must be understood, but there is one language only.
    LocaleUnsupported,
    /// A header is missing.
    HeaderRequired,
    /// A header makes no sense.
    InvalidHeader,
    /// The operation timeout is not a duration.
    InvalidTimeout,
    /// The resource URI is of no kind we serve.
    InvalidResourceUri,
    /// Namespace, class or instance does not exist.
    ResourceNotFound,
    /// The action or method is not offered.
    ActionNotSupported,
    /// Selectors contradict each other or fit several instances.
    InvalidSelectors,
    /// More selectors than any key has.
    SelectorLimit,
    /// An option that must be complied with is unknown.
    InvalidOptions,
    /// More options than any client sends.
    OptionLimit,
    /// Replies go back on the connection, nowhere else.
    AddressingMode,
    /// Part of an instance was asked for in a way that is not offered.
    FragmentUnsupported,
    /// Part of an instance was asked for that it does not have.
    InvalidFragment,
    /// The client takes smaller envelopes than the protocol allows.
    MinimumEnvelope,
    /// The reply is larger than the client takes.
    EnvelopeTooLarge,
    /// The request is larger or deeper than this server reads.
    RequestTooLarge,
    /// The character set is not known, or not kept to.
    CharacterSet,
    /// The body is no SOAP at all.
    MediaType,
    /// The body is not XML, or not of the form the action wants.
    SchemaValidation,
    /// An argument does not fit.
    InvalidParameter,
    /// The enumeration is unknown, over, or someone else's.
    InvalidContext,
    /// The enumeration is being pulled from.
    PullInProgress,
    /// The enumeration mode is unknown.
    EnumerationMode,
    /// All classes can only be asked with a filter.
    FilterRequired,
    /// The filter is no sentence of its language.
    CannotProcessFilter,
    /// The filter's language is not known.
    FilterDialect,
    /// Events are pulled, and delivered in no other way.
    DeliveryMode,
    /// The language of the event filter is not known.
    EventFilterDialect,
    /// A subscription cannot live for no time.
    ExpirationTime,
    /// A lifetime is a duration; a point in time would be that of another clock.
    ExpirationType,
    /// The subscription to be renewed is unknown, over, or someone else's.
    UnableToRenew,
    /// A message about a subscription names none that is known.
    UnknownSubscription,
    /// Events are not kept for later, so there is no place in them to come back to.
    Bookmarks,
    /// The object is there already.
    AlreadyExists,
    /// The caller may not do this.
    AccessDenied,
    /// A bound was reached.
    QuotaLimit,
    /// It took longer than the client wanted to wait.
    TimedOut,
    /// The server is about to stop.
    Unavailable,
    /// The failure is ours.
    Internal,
}

/// What a kind is called in each of the vocabularies.
struct Row {
    /// `s:Sender` or `s:Receiver`, or one of SOAP's own two.
    code: &'static str,
    /// With the prefix the envelope declares; empty for SOAP's own two.
    subcode: &'static str,
    /// The last part of DSP0226's fault detail URI; empty for none.
    detail: &'static str,
    /// WinRM's number.
    wsman_code: u32,
}

const fn row(code: &'static str, subcode: &'static str, detail: &'static str, wsman_code: u32) -> Row {
    Row { code, subcode, detail, wsman_code }
}

const SENDER: &str = "s:Sender";
const RECEIVER: &str = "s:Receiver";

impl Kind {
    fn row(self) -> Row {
        match self {
            Kind::VersionMismatch => row("s:VersionMismatch", "", "", 2_150_858_765),
            Kind::MustUnderstand => row("s:MustUnderstand", "", "", 2_150_858_768),
            Kind::LocaleUnsupported => row(SENDER, "w:UnsupportedFeature", "Locale", 2_150_858_887),
            Kind::HeaderRequired => row(SENDER, "a:MessageInformationHeaderRequired", "", 2_150_858_769),
            Kind::InvalidHeader => row(SENDER, "a:InvalidMessageInformationHeader", "", 2_150_858_767),
            Kind::InvalidTimeout => row(SENDER, "w:SchemaValidationError", "", 2_150_858_881),
            Kind::InvalidResourceUri => row(SENDER, "a:DestinationUnreachable", "InvalidResourceURI", 2_150_858_811),
            Kind::ResourceNotFound => row(SENDER, "a:DestinationUnreachable", "ResourceNotFound", 2_150_858_752),
            Kind::ActionNotSupported => row(SENDER, "a:ActionNotSupported", "", 2_150_858_771),
            Kind::InvalidSelectors => row(SENDER, "w:InvalidSelectors", "InsufficientSelectors", 2_150_858_813),
            Kind::SelectorLimit => row(SENDER, "w:EncodingLimit", "SelectorLimit", 2_150_858_826),
            Kind::InvalidOptions => row(SENDER, "w:InvalidOptions", "NotSupported", 2_150_858_833),
            Kind::OptionLimit => row(SENDER, "w:EncodingLimit", "OptionLimit", 2_150_858_827),
            Kind::AddressingMode => row(SENDER, "w:UnsupportedFeature", "AddressingMode", 2_150_858_870),
            Kind::FragmentUnsupported => row(SENDER, "w:UnsupportedFeature", "FragmentLevelAccess", 2_150_858_871),
            Kind::InvalidFragment => row(SENDER, "w:CannotProcessFilter", "", 2_150_858_899),
            Kind::MinimumEnvelope => row(SENDER, "w:EncodingLimit", "MinimumEnvelopeLimit", 2_150_858_878),
            Kind::EnvelopeTooLarge => row(SENDER, "w:EncodingLimit", "MaxEnvelopeSizeExceeded", 2_150_858_824),
            Kind::RequestTooLarge => row(SENDER, "w:EncodingLimit", "ServiceEnvelopeLimit", 2_150_858_825),
            Kind::CharacterSet => row(SENDER, "w:EncodingLimit", "CharacterSet", 2_150_858_828),
            Kind::MediaType => row(SENDER, "w:UnsupportedFeature", "", 2_150_858_869),
            Kind::SchemaValidation => row(SENDER, "w:SchemaValidationError", "", 2_150_858_817),
            Kind::InvalidParameter => row(SENDER, "w:InvalidParameter", "", 2_150_858_810),
            Kind::InvalidContext => row(SENDER, "n:InvalidEnumerationContext", "", 2_150_858_779),
            Kind::PullInProgress => row(SENDER, "w:Concurrency", "", 2_150_858_758),
            Kind::EnumerationMode => row(SENDER, "w:UnsupportedFeature", "EnumerationMode", 2_150_858_886),
            Kind::FilterRequired => row(SENDER, "n:CannotProcessFilter", "", 2_150_858_831),
            Kind::CannotProcessFilter => row(SENDER, "n:CannotProcessFilter", "", 2_150_858_778),
            Kind::FilterDialect => row(SENDER, "n:FilterDialectRequestedUnavailable", "", 2_150_858_777),
            Kind::DeliveryMode => row(SENDER, "e:DeliveryModeRequestedUnavailable", "", 2_150_858_782),
            Kind::EventFilterDialect => row(SENDER, "e:FilteringRequestedUnavailable", "", 2_150_858_786),
            Kind::ExpirationTime => row(SENDER, "e:InvalidExpirationTime", "", 2_150_858_783),
            Kind::ExpirationType => row(SENDER, "e:UnsupportedExpirationType", "", 2_150_858_784),
            Kind::UnableToRenew => row(RECEIVER, "e:UnableToRenew", "", 2_150_858_788),
            Kind::UnknownSubscription => row(SENDER, "e:InvalidMessage", "", 2_150_858_789),
            Kind::Bookmarks => row(SENDER, "w:UnsupportedFeature", "Bookmarks", 2_150_858_818),
            Kind::AlreadyExists => row(SENDER, "w:AlreadyExists", "", 2_150_858_803),
            // Windows reports this one with the plain Win32 number.
            Kind::AccessDenied => row(SENDER, "w:AccessDenied", "", 5),
            Kind::QuotaLimit => row(SENDER, "w:QuotaLimit", "", 2_150_858_815),
            Kind::TimedOut => row(RECEIVER, "w:TimedOut", "", 2_150_858_793),
            Kind::Unavailable => row(RECEIVER, "a:EndpointUnavailable", "", 2_150_858_772),
            Kind::Internal => row(RECEIVER, "w:InternalError", "", 2_150_858_755),
        }
    }

    /// The kind a failure of the provider is told as.
    pub fn of(status: Status) -> Kind {
        match status {
            Status::InvalidNamespace | Status::InvalidClass | Status::NotFound => Kind::ResourceNotFound,
            Status::InvalidParameter => Kind::InvalidSelectors,
            Status::NotSupported | Status::MethodNotFound | Status::MethodNotAvailable => Kind::ActionNotSupported,
            Status::NoSuchProperty
            | Status::TypeMismatch
            | Status::InvalidMethodParameters
            | Status::InvalidObjectPath => Kind::InvalidParameter,
            Status::InvalidQuery | Status::NotEventClass => Kind::CannotProcessFilter,
            Status::QueryLanguageNotSupported => Kind::FilterDialect,
            Status::InvalidEnumerationContext => Kind::InvalidContext,
            Status::AlreadyExists => Kind::AlreadyExists,
            Status::AccessDenied => Kind::AccessDenied,
            Status::LimitsExceeded => Kind::QuotaLimit,
            Status::ShuttingDown => Kind::Unavailable,
            Status::Failed => Kind::Internal,
        }
    }
}

impl Fault {
    /// A fault found by the protocol itself.
    pub fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Fault { kind, reason: reason.into(), status: None }
    }

    /// The body of the request is not what its action wants.
    pub(crate) fn schema(reason: impl Into<String>) -> Self {
        Fault::new(Kind::SchemaValidation, reason)
    }

    /// The action URI of the envelope that carries the fault: each specification has its own.
    pub(crate) fn action(&self) -> &'static str {
        match self.kind.row().subcode.split_once(':') {
            Some(("a", _)) => ns::ACTION_ADDRESSING_FAULT,
            Some(("n", _)) => ns::ACTION_ENUMERATION_FAULT,
            Some(("e", _)) => ns::ACTION_EVENTING_FAULT,
            _ => ns::ACTION_FAULT,
        }
    }

    /// Writes the `s:Fault` element; the prefixes `s a w n` must be declared around it.
    pub(crate) fn write(&self, w: &mut Writer, host: &str) {
        let row = self.kind.row();
        let reason: String = self.reason.chars().take(MAX_REASON).collect();
        w.element("s:Fault", |w| {
            w.element("s:Code", |w| {
                w.leaf("s:Value", row.code);
                if !row.subcode.is_empty() {
                    w.element("s:Subcode", |w| write_subcode(w, row.subcode));
                }
            });
            w.element("s:Reason", |w| {
                w.open("s:Text");
                w.attribute("xml:lang", "en-US");
                w.text(&reason);
                w.close();
            });
            w.element("s:Detail", |w| self.write_detail(w, &row, host, &reason));
        });
    }

    fn write_detail(&self, w: &mut Writer, row: &Row, host: &str, reason: &str) {
        if !row.detail.is_empty() {
            let base = ns::WSMAN.trim_end_matches(".xsd");
            w.leaf("w:FaultDetail", &format!("{base}/faultDetail/{}", row.detail));
        }
        if self.kind == Kind::DeliveryMode {
            w.element("e:SupportedDeliveryMode", |w| {
                w.attribute("xmlns:e", ns::EVENTING);
                w.text(ns::DELIVERY_PULL);
            });
        }
        w.element("f:WSManFault", |w| {
            w.attribute("xmlns:f", ns::WSMAN_FAULT);
            w.attribute("Code", &row.wsman_code.to_string());
            w.attribute("Machine", host);
            w.leaf("f:Message", reason);
        });
        let Some(status) = self.status else { return };
        w.element("p:MSFT_WmiError", |w| {
            w.attribute("xmlns:p", &format!("{}MSFT_WmiError", ns::DMTF_BASE));
            w.attribute("xmlns:b", ns::CIM_BINDING);
            w.attribute("b:IsCIM_Error", "true");
            w.leaf("p:CIMStatusCode", &status.cim_code().to_string());
            w.leaf("p:Message", reason);
            w.leaf("p:MessageID", &format!("HRESULT 0x{:08x}", status.wmi_code()));
            w.leaf("p:error_Code", &status.wmi_code().to_string());
            w.leaf("p:error_Type", "HRESULT");
        });
    }
}

fn write_subcode(w: &mut Writer, subcode: &str) {
    w.element("s:Value", |w| {
        // The one prefix that few envelopes need, so that not all declare it.
        if subcode.starts_with("e:") {
            w.attribute("xmlns:e", ns::EVENTING);
        }
        w.text(subcode);
    });
}

impl From<cim::Error> for Fault {
    fn from(error: cim::Error) -> Self {
        Fault { kind: Kind::of(error.status), reason: error.message, status: Some(error.status) }
    }
}

impl From<EncodingError> for Fault {
    fn from(error: EncodingError) -> Self {
        let kind = match error {
            EncodingError::MediaType(_) => Kind::MediaType,
            EncodingError::Charset(_) | EncodingError::Malformed(_) => Kind::CharacterSet,
        };
        Fault::new(kind, error.to_string())
    }
}

impl From<XmlError> for Fault {
    fn from(error: XmlError) -> Self {
        let kind = match error {
            XmlError::TooLong | XmlError::TooDeep | XmlError::TooManyElements | XmlError::TooManyAttributes { .. } => {
                Kind::RequestTooLarge
            }
            XmlError::DocType
            | XmlError::Entity { .. }
            | XmlError::UnboundPrefix { .. }
            | XmlError::Malformed { .. } => Kind::SchemaValidation,
        };
        Fault::new(kind, error.to_string())
    }
}
