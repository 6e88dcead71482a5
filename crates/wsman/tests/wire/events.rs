//! Events followed: what goes over the wire, and what happens when time passes, patience ends or somebody leaves.

use crate::toy::{Lab, NAMESPACE, corpus};
use cim::xml::{self, Element};
use expect_test::{Expect, expect};
use std::time::Duration;
use wsman::client::{self, ClientError, Reply, Request, Stamp, TIMED_OUT};
use wsman::subscription::{DEFAULT_LIFETIME, MAX_LIFETIME, MAX_PER_PRINCIPAL};
use wsman::{Incoming, Moment, Progress, Pull, Step};

const QUERY: &str = "select * from Toy_Event";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn envelope(request: &Request, patience: u64) -> Vec<u8> {
    request.to_envelope(Stamp { to: "http://hv.example/wsman", message_id: [7; 16], timeout: seconds(patience) })
}

fn pull(context: &str, page: u32) -> Request {
    Request::Pull { namespace: NAMESPACE.to_owned(), context: context.to_owned(), page }
}

fn ask(lab: &mut Lab, request: &Request) -> Result<Reply, ClientError> {
    let (_, reply) = lab.exchange(client::CONTENT_TYPE, &envelope(request, 20));
    client::read(request, reply.status, reply.content_type, &reply.body)
}

fn subscribe(lab: &mut Lab) -> String {
    let request = Request::Subscribe { namespace: NAMESPACE.to_owned(), wql: QUERY.to_owned() };
    match ask(lab, &request) {
        Ok(Reply::Subscribed(context)) => context,
        other => panic!("{other:?}"),
    }
}

/// The numbers of the events in a reply, or the fault.
fn told(reply: Result<Reply, ClientError>) -> String {
    match reply {
        Ok(Reply::Page(page)) => {
            assert!(page.context.is_some(), "events have no end");
            page.rows.iter().filter_map(|row| row.text("Number")).collect::<Vec<_>>().join(" ")
        }
        Ok(Reply::Released) => "released".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(ClientError::Fault { wsman_code: Some(TIMED_OUT), .. }) => "timed out".to_owned(),
        Err(ClientError::Fault { subcode, .. }) => subcode,
        Err(other) => panic!("{other}"),
    }
}

fn fetch(lab: &mut Lab, context: &str) -> String {
    told(ask(lab, &pull(context, 10)))
}

/// A pull that has begun and not been looked at.
fn begin(lab: &Lab, context: &str, patience: u64) -> Pull {
    let body = envelope(&pull(context, 10), patience);
    let incoming = Incoming { content_type: client::CONTENT_TYPE, body: &body, principal: lab.principal };
    match lab.server.handle(incoming, Moment { now: lab.now, entropy: [99; 32] }) {
        Step::Follow(pull) => pull,
        other => panic!("{other:?}"),
    }
}

/// What a look brings: events, a fault, or until when to wait.
fn look(lab: &Lab, waiting: &Pull) -> String {
    match lab.server.look(waiting, lab.now) {
        Progress::Waiting(until) => format!("until {} s", until.as_secs()),
        Progress::Reply(reply) => told(client::read(&pull("", 1), reply.status, reply.content_type, &reply.body)),
    }
}

/// Holds: WIRE-J4-2
#[test]
fn the_whole_course_on_the_wire() {
    let mut lab = Lab::new();
    let mut context = String::new();
    let mut course = String::new();
    for (request, number) in [
        ("openwsman-subscribe", None),
        ("virsh-pull", Some(1)),
        ("openwsman-renew", None),
        ("get-status", None),
        ("openwsman-unsubscribe", None),
    ] {
        number.iter().for_each(|number| lab.toy.happen(*number, 1));
        lab.now += seconds(1);
        let reply = lab.tell(&corpus(request).replace("@CONTEXT@", &context));
        if let Some((_, rest)) = reply.split_once("<n:EnumerationContext>") {
            context = rest.split('<').next().unwrap_or_default().to_owned();
        }
        course += &format!("== {request}\n{reply}\n");
    }
    expect![[r#"
        == openwsman-subscribe
        Subscribe root\virtualization\v2 Select { projection: All, class: "Toy_Event", within_seconds: None, condition: None }
        200
        <e:SubscribeResponse>
          <e:SubscriptionManager>
            <a:Address>http://hv.example:5985/wsman</a:Address>
            <a:ReferenceParameters>
              <w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/*</w:ResourceURI>
              <e:Identifier>uuid:01010101-0101-4101-8101-010101010101</e:Identifier>
            </a:ReferenceParameters>
          </e:SubscriptionManager>
          <e:Expires>PT300.000S</e:Expires>
          <n:EnumerationContext>uuid:01010101-0101-4101-8101-010101010101</n:EnumerationContext>
        </e:SubscribeResponse>
        == virsh-pull
        200
        <n:PullResponse>
          <n:EnumerationContext>uuid:01010101-0101-4101-8101-010101010101</n:EnumerationContext>
          <n:Items>
            <p:Toy_Event xsi:type="p:Toy_Event_Type">
              <p:Number>1</p:Number>
              <p:TargetInstance xsi:type="p1:Toy_Machine_Type">
                <p1:CreationClassName>Toy_Machine</p1:CreationClassName>
                <p1:Name>B2</p1:Name>
                <p1:ElementName>second</p1:ElementName>
                <p1:Running>false</p1:Running>
                <p1:State xsi:nil="true"/>
                <p1:Born xsi:nil="true"/>
                <p1:UpTime xsi:nil="true"/>
                <p1:Owner>x</p1:Owner>
                <p1:Settings xsi:nil="true"/>
              </p:TargetInstance>
            </p:Toy_Event>
          </n:Items>
        </n:PullResponse>
        == openwsman-renew
        200
        <e:RenewResponse>
          <e:Expires>PT900.000S</e:Expires>
        </e:RenewResponse>
        == get-status
        200
        <e:GetStatusResponse>
          <e:Expires>PT899.000S</e:Expires>
        </e:GetStatusResponse>
        == openwsman-unsubscribe
        200
    "#]].assert_eq(&course);
}

#[test]
fn a_pull_waits_for_events_and_for_no_longer_than_its_client() {
    let mut lab = Lab::new();
    let context = subscribe(&mut lab);
    let waiting = begin(&lab, &context, 20);
    assert_eq!(look(&lab, &waiting), "until 20 s");
    lab.now = seconds(19);
    assert_eq!(look(&lab, &waiting), "until 20 s");
    lab.toy.happen(1, 1);
    assert_eq!(look(&lab, &waiting), "1");

    let waiting = begin(&lab, &context, 20);
    lab.now = seconds(39);
    assert_eq!(look(&lab, &waiting), "timed out");
    lab.toy.happen(2, 1);
    assert_eq!(fetch(&mut lab, &context), "2", "a wait in vain ends nothing");

    let waiting = begin(&lab, &context, 3_600);
    assert_eq!(look(&lab, &waiting), "until 339 s", "whoever has gone away is waited for no longer");
    let body = String::from_utf8(envelope(&pull(&context, 1), 20)).unwrap();
    let body = body.replace("<n:MaxElements>", "<n:MaxTime>PT5S</n:MaxTime><n:MaxElements>");
    let incoming = Incoming { content_type: client::CONTENT_TYPE, body: body.as_bytes(), principal: lab.principal };
    let Step::Follow(waiting) = lab.server.handle(incoming, Moment { now: lab.now, entropy: [98; 32] }) else {
        panic!("no pull");
    };
    assert_eq!(look(&lab, &waiting), "until 44 s");
    let stopped = lab.server.stop(&waiting);
    assert_eq!(told(client::read(&pull("", 1), 500, stopped.content_type, &stopped.body)), "EndpointUnavailable");
}

#[test]
fn a_pause_of_the_source_is_a_reason_to_look_again() {
    let mut lab = Lab::new();
    lab.toy.pause = seconds(5);
    let context = subscribe(&mut lab);
    lab.toy.happen(1, 1);
    assert_eq!(fetch(&mut lab, &context), "1");
    lab.toy.happen(2, 1);
    let waiting = begin(&lab, &context, 20);
    assert_eq!(look(&lab, &waiting), "until 5 s");
    lab.now = seconds(5);
    assert_eq!(look(&lab, &waiting), "2");
}

#[test]
fn everybody_is_told_everything_once() {
    let mut lab = Lab::new();
    let first = subscribe(&mut lab);
    lab.toy.happen(1, 1);
    let second = subscribe(&mut lab);
    lab.toy.happen(2, 1);
    assert_eq!(fetch(&mut lab, &first), "1 2");
    assert_eq!(fetch(&mut lab, &second), "2");
    assert_eq!(fetch(&mut lab, &second), "timed out");
    // Two pulls on one subscription share.
    let (one, other) = (begin(&lab, &first, 20), begin(&lab, &first, 20));
    lab.toy.happen(3, 1);
    assert_eq!((look(&lab, &other), look(&lab, &one)), ("3".to_owned(), "until 20 s".to_owned()));
    lab.principal = "bob";
    assert_eq!(fetch(&mut lab, &first), "InvalidEnumerationContext", "what is somebody else's is unknown");
}

#[test]
fn whoever_leaves_ends_the_waiting() {
    let mut lab = Lab::new();
    let release = |context: &str| Request::Release { namespace: NAMESPACE.to_owned(), context: context.to_owned() };
    let (first, second) = (subscribe(&mut lab), subscribe(&mut lab));
    let (waiting, other) = (begin(&lab, &first, 20), begin(&lab, &second, 20));
    let body = corpus("openwsman-unsubscribe").replace("@CONTEXT@", &first);
    let incoming = Incoming { content_type: "", body: body.as_bytes(), principal: lab.principal };
    assert!(matches!(lab.server.handle(incoming, Moment { now: lab.now, entropy: [1; 32] }), Step::Ended(_)));
    assert_eq!(look(&lab, &waiting), "InvalidEnumerationContext");
    assert_eq!(look(&lab, &other), "until 20 s");
    assert_eq!(told(ask(&mut lab, &release(&second))), "released");
    assert_eq!(look(&lab, &other), "InvalidEnumerationContext");
    assert_eq!(told(ask(&mut lab, &release(&second))), "InvalidEnumerationContext");
}

#[test]
fn pages_are_kept_to() {
    let mut lab = Lab::new();
    let context = subscribe(&mut lab);
    (1..=3).for_each(|number| lab.toy.happen(number, 1));
    let one = pull(&context, 1);
    assert_eq!([(); 3].map(|()| told(ask(&mut lab, &one))), ["1", "2", "3"]);
    // The second is larger than any reply may be: it is reported, dropped, and the rest goes on.
    [(4, 1), (5, 2_000_000), (6, 400_000), (7, 400_000), (8, 400_000)]
        .iter()
        .for_each(|(number, letters)| lab.toy.happen(*number, *letters));
    let expected = ["4", "EncodingLimit", "6 7", "8", "timed out"];
    assert_eq!([(); 5].map(|()| fetch(&mut lab, &context)), expected);
}

#[test]
fn lifetimes() {
    let mut lab = Lab::new();
    let used = subscribe(&mut lab);
    let status = |lab: &mut Lab, context: &str, request: &str, with: &str| {
        let body = corpus(request).replace("@CONTEXT@", context).replace("PT900.000000S", with);
        let reply = lab.exchange("", body.as_bytes()).1;
        let root = xml::parse(std::str::from_utf8(&reply.body).unwrap()).unwrap();
        find(&root, "Expires").or_else(|| find(&root, "Subcode")).map(Element::deep_text).unwrap_or_default()
    };
    assert_eq!(status(&mut lab, &used, "get-status", ""), "PT600.000S");
    lab.now = DEFAULT_LIFETIME - seconds(1);
    assert_eq!(status(&mut lab, &used, "get-status", ""), "PT1.000S", "a look at the clock is no use");
    assert_eq!(fetch(&mut lab, &used), "timed out");
    lab.now += seconds(2);
    assert_eq!(
        status(&mut lab, &used, "get-status", ""),
        "PT618.000S",
        "it was used until the 20 s of the wait were over"
    );
    assert_eq!(status(&mut lab, &used, "openwsman-renew", "PT30S"), "PT30.000S");
    lab.now += seconds(29);
    assert_eq!(fetch(&mut lab, &used), "InvalidEnumerationContext", "a lifetime that was asked for ends, used or not");
    lab.now += seconds(1);
    assert_eq!(status(&mut lab, &used, "get-status", ""), "e:InvalidMessage");
    let long = subscribe(&mut lab);
    let longest = format!("PT{}.000S", MAX_LIFETIME.as_secs());
    assert_eq!(status(&mut lab, &long, "openwsman-renew", "P30D"), longest);
    lab.principal = "bob";
    assert_eq!(status(&mut lab, &long, "openwsman-renew", "PT30S"), "e:UnableToRenew");
}

#[test]
fn promises_are_counted() {
    let mut lab = Lab::new();
    let request = Request::Subscribe { namespace: NAMESPACE.to_owned(), wql: QUERY.to_owned() };
    let all: Vec<String> = (0..MAX_PER_PRINCIPAL).map(|_| subscribe(&mut lab)).collect();
    assert_eq!(told(ask(&mut lab, &request)), "QuotaLimit");
    lab.toy.happen(1, 1);
    assert_eq!(fetch(&mut lab, &all[0]), "1", "those that are open stay so");
    lab.principal = "bob";
    subscribe(&mut lab);
    lab.principal = "alice";
    lab.now = DEFAULT_LIFETIME;
    subscribe(&mut lab);
}

/// Subscribes with the first piece of text replaced by the second: code, number, detail and reason of the fault.
fn refused(from: &str, to: &str, expected: Expect) {
    let body = corpus("openwsman-subscribe");
    assert!(body.contains(from), "{from}");
    let (_, reply) = Lab::new().exchange("", body.replace(from, to).as_bytes());
    let root = xml::parse(std::str::from_utf8(&reply.body).unwrap()).unwrap();
    let text = |name: &str| find(&root, name).map(Element::deep_text).unwrap_or_default();
    let code = find(&root, "WSManFault").and_then(|fault| fault.attribute("", "Code")).unwrap_or_default();
    let detail = text("SupportedDeliveryMode") + &text("FaultDetail");
    expected.assert_eq(&[&text("Subcode"), code, &detail, &text("Reason")].join(" | "));
}

#[test]
fn subscriptions_that_are_refused() {
    let pull = "http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull";
    refused(pull, "http://schemas.dmtf.org/wbem/wsman/1/Pull", expect![" |  |  | "]);
    refused(
        pull,
        "http://schemas.xmlsoap.org/ws/2004/08/eventing/DeliveryModes/Push",
        expect![[
            r#"e:DeliveryModeRequestedUnavailable | 2150858782 | http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull | delivery mode "http://schemas.xmlsoap.org/ws/2004/08/eventing/DeliveryModes/Push" is not supported; use http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull"#
        ]],
    );
    refused(
        &format!(" Mode=\"{pull}\""),
        "",
        expect![[
            r#"e:DeliveryModeRequestedUnavailable | 2150858782 | http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull | delivery mode "" is not supported; use http://schemas.dmtf.org/wbem/wsman/1/wsman/Pull"#
        ]],
    );
    refused(
        "PT300.000000S",
        "PT0S",
        expect!["e:InvalidExpirationTime | 2150858783 |  | a subscription cannot expire at once"],
    );
    refused(
        "PT300.000000S",
        "2030-01-01T00:00:00Z",
        expect![[
            r#"e:UnsupportedExpirationType | 2150858784 |  | Expires "2030-01-01T00:00:00Z" is not a duration such as PT600S; points in time are not supported"#
        ]],
    );
    refused(
        "<wsman:Filter",
        "<wsman:SendBookmarks/><wsman:Filter",
        expect![
            "w:UnsupportedFeature | 2150858818 | http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/Bookmarks | SendBookmarks is not supported: past events are not kept"
        ],
    );
}

#[test]
fn filters_that_are_refused() {
    refused(
        "Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\"",
        "Dialect=\"x\"",
        expect![[
            r#"e:FilteringRequestedUnavailable | 2150858786 |  | filter dialect "x" is not supported for events; use WQL, http://schemas.microsoft.com/wbem/wsman/1/WQL"#
        ]],
    );
    refused(
        "wsman:Filter",
        "wsman:Nothing",
        expect![
            "n:CannotProcessFilter | 2150858831 |  | a subscription needs a filter: an event query in WQL that says what to follow"
        ],
    );
    refused(
        "select * from Toy_Event",
        "associators of {Toy_Event.K='1'}",
        expect!["n:CannotProcessFilter | 2150858778 |  | an event query selects from a class of events"],
    );
    refused(
        "select * from Toy_Event",
        "select",
        expect![
            "n:CannotProcessFilter | 2150858778 |  | the query is wrong at byte 6: expected * or the name of a property"
        ],
    );
    refused(
        "select * from Toy_Event",
        "select * from Toy_Cat",
        expect![
            "a:DestinationUnreachable | 2150858752 | http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/ResourceNotFound | there is no class Toy_Cat in this namespace"
        ],
    );
    refused(
        "root/virtualization/v2/*",
        "root/other/*",
        expect![[
            r#"a:DestinationUnreachable | 2150858752 | http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/ResourceNotFound | there is no namespace root\other"#
        ]],
    );
}

trait DeepText {
    fn deep_text(&self) -> String;
}

impl DeepText for Element {
    fn deep_text(&self) -> String {
        self.elements().map(Element::deep_text).fold(self.trimmed_text(), |all, one| all + &one)
    }
}

fn find<'a>(element: &'a Element, name: &str) -> Option<&'a Element> {
    if element.name == name { Some(element) } else { element.elements().find_map(|child| find(child, name)) }
}
