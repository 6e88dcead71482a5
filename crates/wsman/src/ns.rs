//! The names of the protocol: namespace URIs, action URIs, filter dialects and the spellings of a resource URI.
//!
//! Sources: DSP0226 1.0 (WS-Management), DSP0227 1.0 (its CIM binding), DSP0230 (WS-CIM mapping), MS-WSMV for everything below
//! `schemas.microsoft.com`, and the member submissions they build on (WS-Addressing 2004/08, WS-Transfer and WS-Enumeration 2004/09).

/// SOAP 1.2 envelope.
pub const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
/// WS-Addressing, the August 2004 submission that DSP0226 1.0 names.
pub const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
/// WS-Enumeration.
pub const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration";
/// WS-Transfer.
pub const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
/// WS-Eventing, the August 2004 submission.
pub const EVENTING: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing";
/// WS-Management itself.
pub const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
/// The CIM binding's own elements (association filters, polymorphism mode).
pub const CIM_BINDING: &str = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd";
/// Common CIM types in XML (`cim:Datetime`, `cim:Interval`).
pub const WSCIM_COMMON: &str = "http://schemas.dmtf.org/wbem/wscim/1/common";
/// XML Schema instance attributes.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// XML Schema; some MI clients bind their `xsi` prefix to it, so a type attribute here is understood too.
pub const XSD: &str = "http://www.w3.org/2001/XMLSchema";
/// The `xml:` attributes.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// Microsoft's fault detail.
pub const WSMAN_FAULT: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault";
/// Microsoft's extra headers (`DataLocale`, `SessionId`, …).
pub const MS_WSMAN: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd";
/// The identify exchange.
pub const IDENTITY: &str = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd";

/// Resource URIs of the Microsoft style: this, then `<namespace with slashes>/<Class>` or `<namespace>/*`.
pub const MS_BASE: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/";
/// Resource URIs of the DMTF style: this, then `<Class>` or `*`; the namespace travels as a selector.
pub const DMTF_BASE: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";
/// "All classes" in DSP0227's own spelling.
pub const DMTF_ALL: &str = "http://schemas.dmtf.org/wbem/wscim/1/*";
/// Class declarations as CIM-XML: this, then `*` with the class in the selector `ClassName`, or this and `<Class>`.
pub const CLASS_BASE: &str = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/";
/// The endpoint address that means "the place this connection leads to".
pub const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";

/// WS-Transfer Get.
pub const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
/// WS-Transfer Put.
pub const PUT: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Put";
/// WS-Transfer Create.
pub const CREATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Create";
/// WS-Transfer Delete.
pub const DELETE: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete";
/// WS-Enumeration Enumerate.
pub const ENUMERATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
/// WS-Enumeration Pull.
pub const PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
/// WS-Enumeration Release.
pub const RELEASE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Release";
/// WS-Eventing Subscribe.
pub const SUBSCRIBE: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing/Subscribe";
/// WS-Eventing Renew.
pub const RENEW: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing/Renew";
/// WS-Eventing GetStatus.
pub const GET_STATUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing/GetStatus";
/// WS-Eventing Unsubscribe.
pub const UNSUBSCRIBE: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing/Unsubscribe";
/// Delivery of events by pulling them, as DSP0226 spells it.
pub const DELIVERY_PULL: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull";
/// The same as it is spelled here and there, in the manner of the other URIs of this family.
pub const DELIVERY_PULL_SHORT: &str = "http://schemas.dmtf.org/wbem/wsman/1/Pull";
/// Action of a fault that WS-Management defines.
pub const ACTION_FAULT: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault";
/// Action of a fault that WS-Addressing defines.
pub const ACTION_ADDRESSING_FAULT: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/fault";
/// Action of a fault that WS-Enumeration defines.
pub const ACTION_ENUMERATION_FAULT: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/fault";

/// Action of a fault that WS-Eventing defines.
pub const ACTION_EVENTING_FAULT: &str = "http://schemas.xmlsoap.org/ws/2004/08/eventing/fault";

/// WQL as a filter dialect.
pub const DIALECT_WQL: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";
/// Association filters of DSP0227.
pub const DIALECT_ASSOCIATION: &str = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter";
/// Selector filters of DSP0226.
pub const DIALECT_SELECTOR: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter";

/// The selector that carries a CIM namespace and is never a key.
pub const NAMESPACE_SELECTOR: &str = "__cimnamespace";
