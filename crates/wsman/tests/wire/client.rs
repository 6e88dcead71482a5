//! Our own two ends together: what the client asks is what the provider hears, and what it gets is what the provider said.

use crate::toy::{Lab, NAMESPACE, show_argument};
use cim::embedded::EmbeddedInstance;
use cim::op::{Argument, Target};
use expect_test::{Expect, expect};
use std::time::Duration;
use wsman::client::{self, ClientError, Reply, Request, Stamp};

fn ask(lab: &mut Lab, request: &Request) -> (Option<String>, Result<Reply, ClientError>) {
    let stamp = Stamp { to: "http://localhost/wsman", message_id: [7; 16], timeout: Duration::from_millis(2_500) };
    let (asked, reply) = lab.exchange(client::CONTENT_TYPE, &request.to_envelope(stamp));
    (asked, client::read(request, reply.status, reply.content_type, &reply.body))
}

fn check(request: &Request, expected: Expect) {
    let (asked, reply) = ask(&mut Lab::new(), request);
    let reply = match reply {
        Ok(Reply::Instance(bag)) => show_argument(&Argument::Instance(bag.0)),
        Ok(Reply::Method(method)) => {
            format!("{} {}", method.return_value, show_argument(&Argument::Instance(method.outputs.0)))
        }
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{error}\n{error:?}"),
    };
    expected.assert_eq(&format!("{}{reply}", asked.map(|asked| asked + "\n").unwrap_or_default()));
}

fn text(text: &str) -> Argument {
    Argument::Text(text.to_owned())
}

#[test]
fn identify() {
    check(
        &Request::Identify,
        expect![[r#"Identity(Identity { vendor: "Toy", version: "OS: 1.2.3 SP: 0.0 Stack: 3.0" })"#]],
    );
}

#[test]
fn get() {
    check(
        &Request::Get(Target::new(NAMESPACE, "Toy_Settings").with_key("InstanceID", "toy:s1")),
        expect![[r#"
            Get root\virtualization\v2:Toy_Settings.InstanceID="toy:s1"
            instance of Toy_Settings { InstanceID = "Toy:S1", ElementName = "a <one>", Memory = "512" }"#]],
    );
    check(
        &Request::Get(Target::new(NAMESPACE, "Toy_SettingsOf")),
        expect![[r#"
            Get root\virtualization\v2:Toy_SettingsOf
            instance of Toy_SettingsOf { Antecedent = reference root\virtualization\v2:Toy_Machine.CreationClassName="Toy_Machine",Name="A1", Dependent = reference root\virtualization\v2:Toy_Settings.InstanceID="Toy:S1" }"#]],
    );
    check(
        &Request::Get(Target::new(NAMESPACE, "Toy_Machine").with_key("Name", "C3")),
        expect![[r#"
        Get root\virtualization\v2:Toy_Machine.Name="C3"
        root\virtualization\v2:Toy_Machine.Name="C3" does not exist
        Fault { reason: "root\\virtualization\\v2:Toy_Machine.Name=\"C3\" does not exist", subcode: "DestinationUnreachable", wmi_code: Some(2147749890), wsman_code: Some(2150858752) }"#]],
    );
    check(
        &Request::Get(Target::new("root/other", "Toy_Machine")),
        expect![[r#"
        Get root\other:Toy_Machine
        there is no namespace root\other
        Fault { reason: "there is no namespace root\\other", subcode: "DestinationUnreachable", wmi_code: Some(2147749902), wsman_code: Some(2150858752) }"#]],
    );
}

#[test]
fn invoke() {
    let settings = EmbeddedInstance {
        class: "Toy_Settings".to_owned(),
        properties: vec![
            ("ElementName".to_owned(), text("<new> & \"quoted\"")),
            ("Notes".to_owned(), text("one")),
            ("Memory".to_owned(), Argument::Null),
            ("Notes".to_owned(), text("two")),
        ],
    };
    check(
        &Request::Invoke {
            target: Target::new(NAMESPACE, "Toy_Service"),
            method: "Define".to_owned(),
            arguments: vec![
                (
                    "Target".to_owned(),
                    Argument::Reference(Target::new(NAMESPACE, "Toy_Machine").with_key("Name", "A1")),
                ),
                ("Settings".to_owned(), Argument::Instance(settings)),
                ("Force".to_owned(), Argument::Null),
            ],
        },
        expect![[r#"
            Invoke root\virtualization\v2:Toy_Service Define
                Target = reference root\virtualization\v2:Toy_Machine.Name="A1"
                Settings = "<INSTANCE CLASSNAME=\"Toy_Settings\"><PROPERTY NAME=\"ElementName\" TYPE=\"string\"><VALUE>&lt;new&gt; &amp; \"quoted\"</VALUE></PROPERTY><PROPERTY.ARRAY NAME=\"Notes\" TYPE=\"string\"><VALUE.ARRAY><VALUE>one</VALUE><VALUE>two</VALUE></VALUE.ARRAY></PROPERTY.ARRAY><PROPERTY NAME=\"Memory\" TYPE=\"string\"/></INSTANCE>"
                Force = null
            4096 instance of Define_OUTPUT { Result = reference root\virtualization\v2:Toy_Settings.InstanceID="Toy:S1", Job = reference root\virtualization\v2:Toy_Settings.InstanceID="Toy:S1" }"#]],
    );
    check(
        &Request::Invoke {
            target: Target::new(NAMESPACE, "Toy_Service"),
            method: "Destroy".to_owned(),
            arguments: Vec::new(),
        },
        expect![[r#"
            Invoke root\virtualization\v2:Toy_Service Destroy
            class Toy_Service has no method Destroy
            Fault { reason: "class Toy_Service has no method Destroy", subcode: "ActionNotSupported", wmi_code: Some(2147749934), wsman_code: Some(2150858771) }"#]],
    );
}

#[test]
fn pages_follow_each_other_until_the_last() {
    let mut lab = Lab::new();
    let mut names = Vec::new();
    let wql = "SELECT * FROM Toy_Thing".to_owned();
    let mut request = Request::Enumerate { namespace: NAMESPACE.to_owned(), wql, page: 1 };
    loop {
        let (_, reply) = ask(&mut lab, &request);
        let Ok(Reply::Page(page)) = reply else { panic!("{reply:?}") };
        names.extend(page.rows.iter().map(|row| format!("{}/{}", row.class(), row.text("name").unwrap_or("?"))));
        let Some(context) = page.context else { break };
        request = Request::Pull { namespace: NAMESPACE.to_owned(), context, page: 1 };
    }
    assert_eq!(names, ["Toy_Machine/A1", "Toy_Machine/B2", "Toy_Service/svc"]);
}

#[test]
fn a_released_enumeration_is_over() {
    let mut lab = Lab::new();
    let namespace = NAMESPACE.to_owned();
    let wql = "SELECT * FROM Toy_Thing".to_owned();
    let (_, reply) = ask(&mut lab, &Request::Enumerate { namespace: namespace.clone(), wql, page: 1 });
    let Ok(Reply::Page(page)) = reply else { panic!("{reply:?}") };
    let context = page.context.unwrap();
    let (_, reply) = ask(&mut lab, &Request::Release { namespace: namespace.clone(), context: context.clone() });
    assert_eq!(reply, Ok(Reply::Released));
    let (_, reply) = ask(&mut lab, &Request::Pull { namespace, context, page: 5 });
    assert!(
        matches!(reply, Err(ClientError::Fault { ref subcode, .. }) if subcode == "InvalidEnumerationContext"),
        "{reply:?}"
    );
}

#[test]
fn values_of_a_bag() {
    let mut lab = Lab::new();
    let (_, reply) = ask(&mut lab, &Request::Get(Target::new(NAMESPACE, "Toy_Machine").with_key("Name", "A1")));
    let Ok(Reply::Instance(machine)) = reply else { panic!("{reply:?}") };
    assert_eq!(machine.class(), "Toy_Machine");
    assert_eq!(machine.text("elementname"), Some("first & only"));
    assert_eq!(machine.number("State"), Some(2));
    assert_eq!(machine.flag("Running"), Some(false));
    assert_eq!(machine.texts("Statuses").collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(machine.text("Born"), Some("2025-01-02T03:04:05Z"));
    assert_eq!((machine.text("Owner"), machine.values("Owner").count()), (None, 1));
    assert_eq!((machine.flag("State"), machine.number("Name"), machine.text("Nothing")), (None, None, None));
    let settings = cim::embedded::parse(machine.text("Settings").unwrap()).unwrap();
    assert_eq!(settings.class, "Toy_Settings");
}

#[test]
fn what_is_no_reply_is_an_error() {
    let check = |status: u16, content_type: &str, body: &str, expected: Expect| {
        let error = client::read(&Request::Identify, status, content_type, body.as_bytes()).unwrap_err();
        expected.assert_eq(&error.to_string());
    };
    check(401, "text/plain", "who are you", expect!["the server answered with HTTP status 401 and no SOAP envelope"]);
    check(
        200,
        "text/html",
        "<html/>",
        expect![[r#"the reply cannot be read: content type "text/html" is not application/soap+xml"#]],
    );
    check(
        200,
        "application/soap+xml",
        "<a>",
        expect!["the reply cannot be read: the XML document is malformed at byte 3: an element is not closed"],
    );
    let envelope =
        |body: &str| format!("<e:Envelope xmlns:e='{}'><e:Body>{body}</e:Body></e:Envelope>", wsman::ns::SOAP);
    check(200, "application/soap+xml", &envelope(""), expect!["the reply cannot be read: the body is empty"]);
    check(200, "application/soap+xml", &envelope("<x/>"), expect!["the reply cannot be read: x was not expected"]);
    check(
        500,
        "application/soap+xml",
        &envelope("<e:Fault/>"),
        expect!["the server refused the request () and did not say why"],
    );
}
