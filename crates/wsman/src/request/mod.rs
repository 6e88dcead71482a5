//! One envelope to one thing to do.
//!
//! [`Request::read`] checks the headers, then the body that the action wants. What it returns is complete: neither [`crate::server`] nor the
//! provider looks at the envelope again. Action URIs, resource URIs and names compare without regard to case, because clients disagree.

mod eventing;
mod filter;
mod header;

pub(crate) use eventing::{Lifetime, Terms};
pub(crate) use header::{DEFAULT_ENVELOPE, Header, message_id};

use crate::binding;
use crate::enumeration::{Form, Mode};
use crate::epr::{Resource, Style};
use crate::fault::{Fault, Kind};
use crate::ns;
use crate::soap::Envelope;
use cim::op::{Operation, Query, Target};
use cim::xml::Element;
use std::time::Duration;

/// Rows a pull or an optimized enumeration returns if the client does not say. virsh and virt-who drop all but the first.
const DEFAULT_ROWS: usize = 1;

/// What is asked for.
#[expect(
    clippy::large_enum_variant,
    reason = "one per request, moved a few times at most; a box would be one more thing to explain"
)]
#[derive(Debug)]
pub(crate) enum Request {
    /// Something only the provider can answer, and how its answer will be told.
    Perform(Operation, Shape),
    /// More rows.
    Pull {
        /// The enumeration.
        context: String,
        /// How many at most.
        rows: usize,
        /// How long to wait for the first, where they are events.
        patience: Duration,
    },
    /// No more rows.
    Release {
        /// The enumeration.
        context: String,
    },
    /// Something about a subscription.
    Manage {
        /// Which; empty if the message does not say.
        subscription: String,
        /// What.
        wish: Wish,
    },
}

/// What is to become of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A new lifetime.
    Renew(Lifetime),
    /// Nothing: how long it lives is to be told.
    GetStatus,
    /// Its end.
    Unsubscribe,
}

/// How the answer to an operation becomes a body.
#[derive(Debug)]
pub(crate) enum Shape {
    /// The instance, or a part of it.
    Get {
        /// The style of URIs.
        style: Style,
        /// The property asked for by fragment transfer.
        fragment: Option<Fragment>,
    },
    /// The rows, or a context for them.
    Enumerate {
        /// How each row is told.
        form: Form,
        /// How many rows the reply itself may carry; `None` if they are to be pulled.
        optimized: Option<usize>,
    },
    /// The outputs of a method.
    Invoke {
        /// The resource URI, which is the XML namespace of the outputs.
        uri: String,
        /// The method as the client spelled it.
        method: String,
        /// The CIM namespace.
        namespace: String,
        /// The style of URIs.
        style: Style,
    },
    /// Where events can be pulled from.
    Subscribe(Terms),
    /// The declaration of a class.
    Class {
        /// Whether it was enumerated instead of got.
        is_enumeration: bool,
    },
}

/// Part of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// The expression as it arrived; the reply repeats it.
    pub expression: String,
    /// The property.
    pub property: String,
    /// Whether only its text is wanted (`…/text()`).
    pub text_only: bool,
}

impl Request {
    /// Whether this is Identify, which comes without headers.
    pub fn is_identify(envelope: &Envelope) -> bool {
        envelope.body.as_ref().is_some_and(|body| body.is(ns::IDENTITY, "Identify"))
    }

    /// Reads what is to be done.
    pub fn read(header: &Header, body: Option<&Element>) -> Result<Request, Fault> {
        let is = |action: &str| header.action.eq_ignore_ascii_case(action);
        if header.fragment.is_some() && !is(ns::GET) {
            return Err(Fault::new(Kind::FragmentUnsupported, "fragments can only be read, with Get"));
        }
        if is(ns::GET) {
            get(header)
        } else if is(ns::ENUMERATE) {
            enumerate(header, expect(body, ns::ENUMERATION, "Enumerate")?)
        } else if is(ns::PULL) {
            pull(header, expect(body, ns::ENUMERATION, "Pull")?)
        } else if is(ns::RELEASE) {
            Ok(Request::Release { context: context(expect(body, ns::ENUMERATION, "Release")?)? })
        } else if is(ns::SUBSCRIBE) {
            eventing::subscribe(header, expect(body, ns::EVENTING, "Subscribe")?)
        } else if is(ns::RENEW) {
            eventing::renew(header, expect(body, ns::EVENTING, "Renew")?)
        } else if is(ns::GET_STATUS) {
            Ok(eventing::manage(header, Wish::GetStatus))
        } else if is(ns::UNSUBSCRIBE) {
            Ok(eventing::manage(header, Wish::Unsubscribe))
        } else if let Some(verb) = [ns::PUT, ns::CREATE, ns::DELETE].into_iter().find(|verb| is(verb)) {
            header.resource()?;
            let verb = verb.rsplit('/').next().unwrap_or(verb);
            let reason = format!("{verb} is not supported: instances change only through methods of their services");
            Err(Fault::new(Kind::ActionNotSupported, reason))
        } else {
            invoke(header, body)
        }
    }
}

fn pull(header: &Header, body: &Element) -> Result<Request, Fault> {
    let patience = match body.child(ns::ENUMERATION, "MaxTime").map(Element::trimmed_text) {
        None => header.timeout,
        Some(text) => header::read_duration(&text)
            .ok_or_else(|| Fault::schema(format!("MaxTime {text:?} is not a duration such as PT20S")))?
            .min(header.timeout),
    };
    Ok(Request::Pull { context: context(body)?, rows: max_elements(body)?.unwrap_or(DEFAULT_ROWS), patience })
}

fn get(header: &Header) -> Result<Request, Fault> {
    let (resource, namespace) = header.resource()?;
    if resource.is_declaration {
        return declaration(header, resource, namespace, false);
    }
    let class = concrete(resource, "Get")?;
    let fragment = header.fragment.as_deref().map(read_fragment).transpose()?;
    let target = Target { namespace, class, keys: header.selectors.keys.clone() };
    Ok(Request::Perform(Operation::Get { target }, Shape::Get { style: resource.style, fragment }))
}

/// The declaration of the class that the URI names, or the selector `ClassName` if the URI names all.
fn declaration(
    header: &Header,
    resource: &Resource,
    namespace: String,
    is_enumeration: bool,
) -> Result<Request, Fault> {
    let selected = header.selectors.keys.iter().find(|(name, _)| cim::case::eq(name, "ClassName"));
    let class = match selected.and_then(|(_, value)| value.as_str()) {
        Some(class) if resource.class.is_none() => class.to_owned(),
        _ => concrete(resource, "a request for a declaration")?,
    };
    Ok(Request::Perform(Operation::GetClass { namespace, class }, Shape::Class { is_enumeration }))
}

fn enumerate(header: &Header, body: &Element) -> Result<Request, Fault> {
    let (resource, mut namespace) = header.resource()?;
    if resource.is_declaration {
        return declaration(header, resource, namespace, true);
    }
    let query = match filter::read(body, resource, &namespace)? {
        Some(query) => query,
        None => Query::Class {
            class: resource.class.clone().ok_or_else(|| {
                Fault::new(Kind::FilterRequired, "an enumeration of all classes needs a filter that names one")
            })?,
            polymorphic: is_polymorphic(body),
        },
    };
    // The URI of all classes names no namespace. Who asks for what belongs to an object may leave it to that object's.
    if let Query::Associators { source, .. } | Query::References { source, .. } = &query
        && resource.namespace.is_none()
        && header.selectors.namespace.is_none()
    {
        namespace.clone_from(&source.namespace);
    }
    let optimized = match body.child(ns::WSMAN, "OptimizeEnumeration") {
        Some(_) => Some(max_elements(body)?.unwrap_or(DEFAULT_ROWS)),
        None => None,
    };
    let form = Form { mode: mode(body)?, style: resource.style };
    Ok(Request::Perform(Operation::Enumerate { namespace, query }, Shape::Enumerate { form, optimized }))
}

fn invoke(header: &Header, body: Option<&Element>) -> Result<Request, Fault> {
    let not_supported = || {
        let shown: String = header.action.chars().take(200).collect();
        Fault::new(Kind::ActionNotSupported, format!("action {shown} is not supported"))
    };
    let (class_uri, method) = header.action.rsplit_once('/').ok_or_else(not_supported)?;
    let of_class = Resource::parse(class_uri).and_then(|resource| resource.class).ok_or_else(not_supported)?;
    let (resource, namespace) = header.resource()?;
    let class = concrete(resource, "a method call")?;
    if resource.is_declaration || method.is_empty() || !method.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Err(not_supported());
    }
    if !cim::case::eq(&of_class, &class) {
        let reason = format!("the action names class {of_class}, the resource URI class {class}");
        return Err(Fault::new(Kind::ActionNotSupported, reason));
    }
    let mut arguments = Vec::new();
    if let Some(input) = body {
        if !cim::case::eq(&input.name, &format!("{method}_INPUT")) {
            return Err(Fault::schema(format!("the body holds {}, not {method}_INPUT", input.name)));
        }
        arguments = binding::read_instance(input, &class, &namespace)?.properties;
    }
    let shape = Shape::Invoke {
        uri: header.resource_uri.clone(),
        method: method.to_owned(),
        namespace: namespace.clone(),
        style: resource.style,
    };
    let target = Target { namespace, class, keys: header.selectors.keys.clone() };
    Ok(Request::Perform(Operation::Invoke { target, method: method.to_owned(), arguments }, shape))
}

fn expect<'a>(body: Option<&'a Element>, namespace: &str, name: &str) -> Result<&'a Element, Fault> {
    body.filter(|body| body.is(namespace, name)).ok_or_else(|| Fault::schema(format!("the body holds no {name}")))
}

fn concrete(resource: &Resource, action: &str) -> Result<String, Fault> {
    resource.class.clone().ok_or_else(|| {
        Fault::new(Kind::InvalidResourceUri, format!("the resource URI names all classes, {action} needs one"))
    })
}

fn context(body: &Element) -> Result<String, Fault> {
    let context = body.child(ns::ENUMERATION, "EnumerationContext");
    context.map(Element::trimmed_text).ok_or_else(|| Fault::schema(format!("{} has no EnumerationContext", body.name)))
}

/// `MaxElements`, which WS-Enumeration puts in its own namespace for Pull and DSP0226 in the other for Enumerate. Clients ask for up to
/// 4,294,967,295; what a reply holds is bounded by its size.
fn max_elements(body: &Element) -> Result<Option<usize>, Fault> {
    let Some(element) = body.child_any_namespace("MaxElements") else { return Ok(None) };
    let text = element.trimmed_text();
    match text.parse::<u64>() {
        Ok(0) | Err(_) => Err(Fault::schema(format!("MaxElements {text:?} is not a positive number"))),
        Ok(count) => Ok(Some(usize::try_from(count).unwrap_or(usize::MAX))),
    }
}

fn mode(body: &Element) -> Result<Mode, Fault> {
    let Some(element) = body.child(ns::WSMAN, "EnumerationMode") else { return Ok(Mode::Object) };
    match element.trimmed_text().as_str() {
        "" | "EnumerateObject" => Ok(Mode::Object),
        "EnumerateEPR" => Ok(Mode::Reference),
        "EnumerateObjectAndEPR" => Ok(Mode::ObjectAndReference),
        other => Err(Fault::new(Kind::EnumerationMode, format!("enumeration mode {other} is not supported"))),
    }
}

/// DSP0227's polymorphism modes: only `None` leaves out the classes below. Subclass properties are always included, as on Windows.
fn is_polymorphic(body: &Element) -> bool {
    body.child_any_namespace("PolymorphismMode").is_none_or(|mode| mode.trimmed_text() != "None")
}

/// A property name, alone or as the end of a simple path, with or without `/text()`. Anything that chooses or computes is refused.
fn read_fragment(expression: &str) -> Result<Fragment, Fault> {
    let (path, text_only) = match expression.strip_suffix("/text()") {
        Some(path) => (path, true),
        None => (expression, false),
    };
    let last = path.rsplit('/').next().unwrap_or(path);
    let property = last.rsplit(':').next().unwrap_or(last);
    let is_plain = path.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '/' | '.'));
    if !is_plain || property.is_empty() || property.contains('.') {
        let reason = "a fragment must be the name of a property, alone or at the end of a path";
        return Err(Fault::new(Kind::FragmentUnsupported, reason));
    }
    Ok(Fragment { expression: expression.to_owned(), property: property.to_owned(), text_only })
}
