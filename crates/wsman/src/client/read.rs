//! Replies to what the command line can use.

use super::{Bag, ClientError, Identity, MethodReply, Page, Reply, Request};
use crate::binding;
use crate::encoding;
use crate::ns;
use crate::soap::Envelope;
use cim::xml::{self, Element};

/// Reads what the server sent in answer to `request`: HTTP status, `Content-Type` and body.
///
/// # Errors
/// [`ClientError::Fault`] if the server refused, the others if it did not speak the protocol.
pub fn read(request: &Request, status: u16, content_type: &str, body: &[u8]) -> Result<Reply, ClientError> {
    let envelope = match open(content_type, body) {
        Ok(envelope) => envelope,
        Err(_) if status != 200 => return Err(ClientError::Http { status }),
        Err(problem) => return Err(malformed(problem)),
    };
    if let Some(fault) = envelope.body.as_ref().filter(|body| body.is(ns::SOAP, "Fault")) {
        return Err(read_fault(fault));
    }
    if let Request::Release { .. } = request {
        return Ok(Reply::Released);
    }
    let body = envelope.body.ok_or_else(|| malformed("the body is empty"))?;
    match request {
        Request::Identify => Ok(Reply::Identity(identity(&body)?)),
        Request::Get(target) => Ok(Reply::Instance(bag(&body, &target.namespace)?)),
        Request::Enumerate { namespace, .. } | Request::Pull { namespace, .. } => {
            Ok(Reply::Page(page(&body, namespace)?))
        }
        Request::Subscribe { .. } => subscription(&body),
        Request::Invoke { target, .. } => Ok(Reply::Method(method(&body, &target.namespace)?)),
        Request::Release { .. } => Ok(Reply::Released),
    }
}

fn open(content_type: &str, body: &[u8]) -> Result<Envelope, String> {
    let (text, _) = encoding::decode(content_type, body).map_err(|error| error.to_string())?;
    let root = xml::parse(&text).map_err(|error| error.to_string())?;
    Envelope::open(root).map_err(|fault| fault.reason)
}

fn read_fault(fault: &Element) -> ClientError {
    let find = |path: &[(&str, &str)]| {
        path.iter().try_fold(fault, |element, (namespace, name)| element.child(namespace, name))
    };
    let text = |path: &[(&str, &str)]| find(path).map(Element::trimmed_text).filter(|text| !text.is_empty());
    let code = [(ns::SOAP, "Code"), (ns::SOAP, "Value")];
    let subcode = text(&[(ns::SOAP, "Code"), (ns::SOAP, "Subcode"), (ns::SOAP, "Value")]).or_else(|| text(&code));
    let subcode = subcode.unwrap_or_default();
    let detail = find(&[(ns::SOAP, "Detail")]);
    let wmi_code = detail
        .and_then(|detail| detail.child_any_namespace("MSFT_WmiError"))
        .and_then(|error| error.child_any_namespace("error_Code"))
        .and_then(|code| code.trimmed_text().parse().ok());
    let wsman_code = detail
        .and_then(|detail| detail.child(ns::WSMAN_FAULT, "WSManFault"))
        .and_then(|fault| fault.attribute("", "Code"))
        .and_then(|code| code.trim().parse().ok());
    let reason = text(&[(ns::SOAP, "Reason"), (ns::SOAP, "Text")])
        .unwrap_or_else(|| format!("the server refused the request ({subcode}) and did not say why"));
    let subcode = subcode.rsplit(':').next().unwrap_or_default().to_owned();
    ClientError::Fault { reason, subcode, wmi_code, wsman_code }
}

fn identity(body: &Element) -> Result<Identity, ClientError> {
    let text = |name: &str| body.child(ns::IDENTITY, name).map(Element::trimmed_text).unwrap_or_default();
    if !body.is(ns::IDENTITY, "IdentifyResponse") {
        return Err(unexpected(body));
    }
    Ok(Identity { vendor: text("ProductVendor"), version: text("ProductVersion") })
}

fn page(body: &Element, namespace: &str) -> Result<Page, ClientError> {
    if !body.is(ns::ENUMERATION, "EnumerateResponse") && !body.is(ns::ENUMERATION, "PullResponse") {
        return Err(unexpected(body));
    }
    let context = body.child(ns::ENUMERATION, "EnumerationContext").map(Element::trimmed_text);
    let is_last = body.child_any_namespace("EndOfSequence").is_some();
    let items = body.child_any_namespace("Items");
    let rows =
        items.into_iter().flat_map(Element::elements).map(|item| bag(item, namespace)).collect::<Result<_, _>>()?;
    Ok(Page { rows, context: context.filter(|context| !context.is_empty() && !is_last) })
}

fn subscription(body: &Element) -> Result<Reply, ClientError> {
    if !body.is(ns::EVENTING, "SubscribeResponse") {
        return Err(unexpected(body));
    }
    let context = body.child(ns::ENUMERATION, "EnumerationContext").map(Element::trimmed_text);
    context.map(Reply::Subscribed).ok_or_else(|| malformed("the subscription has nothing to pull with"))
}

fn method(body: &Element, namespace: &str) -> Result<MethodReply, ClientError> {
    if !body.name.ends_with("_OUTPUT") {
        return Err(unexpected(body));
    }
    let mut outputs = bag(body, namespace)?;
    let return_value = outputs.number("ReturnValue").and_then(|value| u32::try_from(value).ok());
    let return_value = return_value.ok_or_else(|| malformed("the method gave no ReturnValue"))?;
    outputs.0.properties.retain(|(name, _)| !cim::case::eq(name, "ReturnValue"));
    Ok(MethodReply { return_value, outputs })
}

fn bag(element: &Element, namespace: &str) -> Result<Bag, ClientError> {
    let instance = binding::read_instance(element, &element.name, namespace);
    instance.map(Bag).map_err(|fault| malformed(fault.reason))
}

fn unexpected(body: &Element) -> ClientError {
    malformed(format!("{} was not expected", body.name))
}

fn malformed(problem: impl Into<String>) -> ClientError {
    ClientError::Malformed { problem: problem.into() }
}
