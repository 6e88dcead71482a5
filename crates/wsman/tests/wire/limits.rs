//! What is refused, and with which of the many codes.

use crate::toy::{Lab, NAMESPACE, corpus};
use cim::op::{Answer, Operation, Rows, Target};
use cim::xml::{self, Element};
use expect_test::{Expect, expect};
use std::time::Duration;
use wsman::enumeration::{IDLE_LIMIT, MAX_PER_PRINCIPAL};
use wsman::{Continuation, Incoming, Moment, Step, ns};

/// Sends a request of the corpus once for each case, with the first piece of text replaced by the second, and shows the fault or `ok`.
fn check(request: &str, cases: &[(&str, &str)], expected: Expect) {
    let original = corpus(request);
    let told: String = cases
        .iter()
        .map(|(from, to)| {
            assert!(original.contains(from), "{request} does not contain {from}");
            let body = original.replacen(from, to, 1);
            refusal(&mut Lab::new(), "application/soap+xml", body.as_bytes()) + "\n"
        })
        .collect();
    expected.assert_eq(&told);
}

/// Status, subcode, WinRM's number, WMI's number if there is one, fault detail if there is one, reason.
fn refusal(lab: &mut Lab, content_type: &str, body: &[u8]) -> String {
    let (_, reply) = lab.exchange(content_type, body);
    let root = xml::parse(std::str::from_utf8(&reply.body).unwrap()).unwrap();
    let texts = |name: &str| find(&root, name).map(Element::trimmed_text).unwrap_or_default();
    let Some(fault) = find(&root, "Fault") else { return "ok".to_owned() };
    assert_eq!(reply.status, 500);
    let code = find(fault, "Subcode").map_or_else(|| texts("Value"), Element::deep_text);
    let number = find(fault, "WSManFault").and_then(|fault| fault.attribute("", "Code")).unwrap_or_default();
    let detail = texts("FaultDetail");
    let detail = detail.rsplit('/').next().unwrap_or_default();
    [code.as_str(), number, &texts("error_Code"), detail, &texts("Text")].map(str::trim).join(" | ")
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

/// Holds: WIRE-K2-1
#[test]
fn what_is_no_envelope() {
    let soap = ns::SOAP;
    let cases = [
        ("", String::new()),
        ("", "hello".to_owned()),
        ("text/html", "<html/>".to_owned()),
        (";charset=utf-7", "<a/>".to_owned()),
        ("", "<a/>".to_owned()),
        ("", "<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/'/>".to_owned()),
        ("", format!("<Envelope xmlns='{soap}'/>")),
        ("", format!("<Envelope xmlns='{soap}'><Body/></Envelope>")),
        ("", "<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>".to_owned()),
        ("", "<a>".repeat(100)),
        ("", " ".repeat(600_000)),
    ];
    let told: String =
        cases.iter().map(|(media, body)| refusal(&mut Lab::new(), media, body.as_bytes()) + "\n").collect();
    expect![[r#"
        w:SchemaValidationError | 2150858817 |  |  | the XML document is malformed at byte 0: there is no element
        w:SchemaValidationError | 2150858817 |  |  | the XML document is malformed at byte 0: there is text outside of the outermost element
        w:UnsupportedFeature | 2150858869 |  |  | content type "text/html" is not application/soap+xml
        w:EncodingLimit | 2150858828 |  | CharacterSet | character set "utf-7" is not supported; send UTF-8 or UTF-16
        w:SchemaValidationError | 2150858817 |  |  | the outermost element is a, not a SOAP envelope
        s:VersionMismatch | 2150858765 |  |  | the envelope is not SOAP 1.2
        w:SchemaValidationError | 2150858817 |  |  | the envelope has no body
        a:MessageInformationHeaderRequired | 2150858769 |  |  | the request has no a:Action
        w:SchemaValidationError | 2150858817 |  |  | document type declarations are not accepted
        w:EncodingLimit | 2150858825 |  | ServiceEnvelopeLimit | the XML document is nested deeper than 32 elements
        w:EncodingLimit | 2150858825 |  | ServiceEnvelopeLimit | the request has 600000 bytes, 512000 are accepted
    "#]].assert_eq(&told);
}

/// Holds: WIRE-C8-1, WIRE-C8-3, WIRE-C9-1
#[test]
fn headers_that_steer_the_exchange() {
    let cases = [
        ("transfer/Get", "transfer/Got"),
        (">153600<", ">8191<"),
        (">153600<", ">large<"),
        (">153600<", ">8192<"),
        ("PT20S", "20"),
        ("PT20S", "00000000000020.000000:000"),
        ("role/anonymous", "role/none"),
    ];
    check(
        "pypsrp-get",
        &cases,
        expect![[r#"
        a:ActionNotSupported | 2150858771 |  |  | action http://schemas.xmlsoap.org/ws/2004/09/transfer/Got is not supported
        w:EncodingLimit | 2150858878 |  | MinimumEnvelopeLimit | MaxEnvelopeSize 8191 is less than the 8192 bytes a client must take
        a:InvalidMessageInformationHeader | 2150858767 |  |  | MaxEnvelopeSize "large" is not a number
        ok
        w:SchemaValidationError | 2150858881 |  |  | OperationTimeout "20" is not a duration such as PT60S
        w:SchemaValidationError | 2150858881 |  |  | OperationTimeout "00000000000020.000000:000" is not a duration such as PT60S
        w:UnsupportedFeature | 2150858870 |  | AddressingMode | replies go back on the connection; ReplyTo must be anonymous
    "#]],
    );
    let twice = [("<w:OptionSet/>", "<a:Action>b</a:Action>"), ("<w:OptionSet/>", &"<w:X/>".repeat(65))];
    check(
        "gow-invoke-nested",
        &twice,
        expect![[r#"
        a:InvalidMessageInformationHeader | 2150858767 |  |  | header Action is given twice
        w:EncodingLimit | 2150858825 |  | ServiceEnvelopeLimit | there are more than 64 headers
    "#]],
    );
}

/// Holds: WIRE-C5-2, WIRE-C6-2, WIRE-C7-1
#[test]
fn headers_that_must_be_understood() {
    let cases = [
        ("DataLocale s:mustUnderstand=\"false\"", "DataLocale s:mustUnderstand=\"1\""),
        ("wsman:Locale s:mustUnderstand=\"false\"", "wsman:Locale s:mustUnderstand=\"true\""),
        ("SessionId s:mustUnderstand=\"false\"", "SessionId s:mustUnderstand=\"true\""),
    ];
    check(
        "pypsrp-get",
        &cases,
        expect![[r#"
        s:MustUnderstand | 2150858768 |  |  | header DataLocale is not understood
        w:UnsupportedFeature | 2150858887 |  | Locale | messages are in English only; do not insist on a locale
        s:MustUnderstand | 2150858768 |  |  | header SessionId is not understood
    "#]],
    );
    let many = format!("<w:OptionSet>{}</w:OptionSet>", "<w:Option/>".repeat(65));
    let options = [
        ("<w:OptionSet/>", "<w:OptionSet><w:Option Name='New' MustComply='true'/></w:OptionSet>"),
        ("<w:OptionSet/>", "<w:OptionSet><w:Option Name='New'/></w:OptionSet>"),
        ("<w:OptionSet/>", &many),
    ];
    check(
        "gow-invoke-nested",
        &options,
        expect![[r#"
        w:InvalidOptions | 2150858833 |  | NotSupported | option New must be complied with and is not known
        ok
        w:EncodingLimit | 2150858827 |  | OptionLimit | there are more than 64 options
    "#]],
    );
}

/// Holds: WIRE-D2-2, WIRE-D4-2, WIRE-D6-1, WIRE-J4-1, WIRE-K2-1, WIRE-K4-1
#[test]
fn addresses() {
    let many: String = (0..70).map(|i| format!("<wsman:Selector Name=\"k{i}\"/>")).collect();
    let cases = [
        ("v2/toy_machine", "v2/Toy_Nothing"),
        ("v2/toy_machine", "v2/*"),
        ("root/virtualization/v2/toy", "root/virtualization/toy"),
        ("wmi/root/virtualization/v2/toy_machine", "config"),
        (">A1<", ">C3<"),
        ("<wsman:Selector Name=\"name\">A1</wsman:Selector>", ""),
        ("Name=\"name\">A1", "Name=\"__cimnamespace\">root/cimv2"),
        ("Name=\"name\"", "Nom=\"name\""),
        ("</wsman:SelectorSet>", "<wsman:Selector Name=\"NAME\"/></wsman:SelectorSet>"),
        ("</wsman:SelectorSet>", &format!("{many}</wsman:SelectorSet>")),
    ];
    check(
        "pypsrp-get",
        &cases,
        expect![[r#"
        a:DestinationUnreachable | 2150858752 | 2147749904 | ResourceNotFound | there is no class Toy_Nothing in this namespace
        a:DestinationUnreachable | 2150858811 |  | InvalidResourceURI | the resource URI names all classes, Get needs one
        a:DestinationUnreachable | 2150858752 | 2147749902 | ResourceNotFound | there is no namespace root\virtualization
        a:DestinationUnreachable | 2150858811 |  | InvalidResourceURI | resource URI http://schemas.microsoft.com/wbem/wsman/1/config names no class that is served here
        a:DestinationUnreachable | 2150858752 | 2147749890 | ResourceNotFound | root\virtualization\v2:toy_machine.name="C3" does not exist
        w:InvalidSelectors | 2150858813 | 2147749896 | InsufficientSelectors | the selectors fit several instances; give all keys
        w:InvalidSelectors | 2150858813 |  | InsufficientSelectors | the resource URI names namespace root\virtualization\v2, the selector __cimnamespace root/cimv2
        w:InvalidSelectors | 2150858813 |  | InsufficientSelectors | a selector has no name
        w:InvalidSelectors | 2150858813 |  | InsufficientSelectors | selector NAME is given twice
        w:EncodingLimit | 2150858826 |  | SelectorLimit | there are more than 64 selectors
    "#]],
    );
}

/// Holds: WIRE-D6-1, WIRE-F1-2, WIRE-G5-2, WIRE-K2-1
#[test]
fn queries() {
    let cases = [
        ("SELECT * FROM", "SELECT FROM"),
        ("FROM Toy_Machine", "FROM Toy_Nothing"),
        ("ElementName !=", "Elements !="),
        ("wsman/1/WQL", "wsman/1/CQL"),
        ("root/virtualization/v2", "root/virtualization"),
    ];
    check(
        "virsh-enumerate",
        &cases,
        expect![[r#"
        n:CannotProcessFilter | 2150858778 | 2147749911 |  | the query is wrong at byte 7: expected * or the name of a property
        a:DestinationUnreachable | 2150858752 | 2147749904 | ResourceNotFound | there is no class Toy_Nothing in this namespace
        n:CannotProcessFilter | 2150858778 | 2147749911 |  | class Toy_Machine has no property Elements
        n:FilterDialectRequestedUnavailable | 2150858777 |  |  | filter dialect "http://schemas.microsoft.com/wbem/wsman/1/CQL" is not supported; use WQL
        a:DestinationUnreachable | 2150858752 | 2147749902 | ResourceNotFound | there is no namespace root\virtualization
    "#]],
    );
    let cases = [("EnumerateObjectAndEPR", "EnumerateNothing"), ("WHERE", "WHERE ClassDefsOnly")];
    check(
        "java-associators-wql",
        &cases,
        expect![[r#"
            w:UnsupportedFeature | 2150858886 |  | EnumerationMode | enumeration mode EnumerateNothing is not supported
            ok
        "#]],
    );
}

/// Holds: WIRE-F2-1, WIRE-F7-2, WIRE-H1-1
#[test]
fn other_filters() {
    let cases = [("2/Toy_Machine", "2/*"), (">32000<", ">4294967295<"), (">32000<", ">0<")];
    check(
        "openwsman-enumerate-optimized",
        &cases,
        expect![[r#"
        n:CannotProcessFilter | 2150858831 |  |  | an enumeration of all classes needs a filter that names one
        ok
        w:SchemaValidationError | 2150858817 |  |  | MaxElements "0" is not a positive number
    "#]],
    );
    let cases = [
        ("<b:Object>", "<b:Other/><b:Object>"),
        ("<b:AssociatedInstances>", "<b:AssociatedInstances><b:ResultRole/>"),
        (">a1<", ">c3<"),
        ("w:ResourceURI>http://schemas.dmtf.org/wbem/wscim/1/cim", "w:ResourceURI>x"),
    ];
    check(
        "openwsman-associators",
        &cases,
        expect![[r#"
        ok
        ok
        a:DestinationUnreachable | 2150858752 | 2147749890 | ResourceNotFound | root\virtualization\v2:Toy_Machine.Name="c3" does not exist
        a:DestinationUnreachable | 2150858811 |  | InvalidResourceURI | resource URI x-schema/2/Toy_Machine names no class that is served here
    "#]],
    );
    check(
        "selector-filter",
        &[("2/Toy_Thing", "2/*"), (">SECOND<", ">third<")],
        expect![[r#"
        n:CannotProcessFilter | 2150858831 |  |  | a selector filter works on one class, the resource URI names all
        ok
    "#]],
    );
}

/// Holds: WIRE-F9-1, WIRE-K2-1
#[test]
fn methods_fragments_and_contexts() {
    let cases = [
        ("Toy_Service/define", "Toy_Service/undefine"),
        ("Toy_Service/define", "Toy_Machine/define"),
        ("<p:Force>TRUE", "<p:Force>maybe"),
        ("<p:Force>TRUE", "<p:Force>"),
    ];
    check(
        "gow-invoke-nested",
        &cases,
        expect![[r#"
        w:SchemaValidationError | 2150858817 |  |  | the body holds Define_INPUT, not undefine_INPUT
        a:ActionNotSupported | 2150858771 |  |  | the action names class Toy_Machine, the resource URI class Toy_Service
        w:InvalidParameter | 2150858810 | 2147749935 |  | parameter Force of method Define: "maybe" is not a value of type boolean
        ok
    "#]],
    );
    check(
        "mi-get-class",
        &[(">Toy_Summary<", ">Toy_None<"), ("ClassName", "Class"), ("2/*", "2/Toy_Machine")],
        expect![[r#"
            a:DestinationUnreachable | 2150858752 | 2147749904 | ResourceNotFound | there is no class Toy_None in this namespace
            a:DestinationUnreachable | 2150858811 |  | InvalidResourceURI | the resource URI names all classes, a request for a declaration needs one
            ok
        "#]],
    );
    check(
        "get-fragment",
        &[("p:Statuses", "p:Statutes"), ("p:Statuses", "p:Statuses[2]")],
        expect![[r#"
        w:CannotProcessFilter | 2150858899 |  |  | class Toy_Machine has no property Statutes
        w:UnsupportedFeature | 2150858871 |  | FragmentLevelAccess | a fragment must be the name of a property, alone or at the end of a path
    "#]],
    );
    let pull = corpus("virsh-pull");
    let context = pull.lines().find(|line| line.contains("@CONTEXT@")).unwrap();
    check(
        "virsh-pull",
        &[("@CONTEXT@", "uuid:00000000-0000-4000-8000-000000000000"), (context, "")],
        expect![[r#"
        n:InvalidEnumerationContext | 2150858779 |  |  | the enumeration is unknown, finished or expired; enumerate again
        w:SchemaValidationError | 2150858817 |  |  | Pull has no EnumerationContext
    "#]],
    );
}

/// Begins an enumeration and gives its context.
fn begin(lab: &mut Lab) -> String {
    let told = lab.tell(&corpus("virtwho-enumerate-projection"));
    let (_, rest) = told.split_once("<n:EnumerationContext>").unwrap();
    rest.split('<').next().unwrap().to_owned()
}

fn pull(lab: &mut Lab, context: &str) -> String {
    refusal(lab, "", corpus("virsh-pull").replace("@CONTEXT@", context).as_bytes())
}

/// Holds: WIRE-F6-2, WIRE-F9-2
#[test]
fn an_enumeration_belongs_to_who_began_it_and_does_not_live_for_ever() {
    let mut lab = Lab::new();
    let context = begin(&mut lab);
    lab.principal = "mallory";
    let refused = pull(&mut lab, &context);
    assert!(refused.contains("n:InvalidEnumerationContext"), "{refused}");
    lab.principal = "alice";
    lab.now = IDLE_LIMIT - Duration::from_secs(1);
    assert_eq!(pull(&mut lab, &context), "ok");

    let context = begin(&mut lab);
    lab.now += IDLE_LIMIT;
    assert!(pull(&mut lab, &context).contains("n:InvalidEnumerationContext"));
}

/// Holds: WIRE-F9-2, WIRE-L2-1
#[test]
fn too_many_enumerations_push_out_the_idlest_of_the_same_principal() {
    let mut lab = Lab::new();
    lab.principal = "bob";
    let others = begin(&mut lab);
    lab.principal = "alice";
    let mut contexts = Vec::new();
    for _ in 0..=MAX_PER_PRINCIPAL {
        lab.now += Duration::from_millis(1);
        contexts.push(begin(&mut lab));
    }
    assert!(pull(&mut lab, &contexts[0]).contains("n:InvalidEnumerationContext"));
    assert_eq!(pull(&mut lab, &contexts[1]), "ok");
    assert_eq!(pull(&mut lab, &contexts[MAX_PER_PRINCIPAL]), "ok");
    lab.principal = "bob";
    assert_eq!(pull(&mut lab, &others), "ok");
}

/// Holds: WIRE-C8-2, WIRE-L1-1
#[test]
fn a_reply_stays_below_what_the_client_accepts() {
    let long = "x".repeat(5_000);
    for (limit, expected) in [(8192_usize, 1_usize), (20_000, 3), (512_000, 10)] {
        let mut lab = Lab::new();
        lab.toy.multiply_service(10, &long);
        let request = corpus("openwsman-enumerate-optimized")
            .replace("<w:RequestTotalItemsCountEstimate/>", &format!("<w:MaxEnvelopeSize>{limit}</w:MaxEnvelopeSize>"))
            .replace("Toy_Machine", "Toy_Service");
        let (_, reply) = lab.exchange("", request.as_bytes());
        assert_eq!(reply.status, 200);
        assert!(reply.body.len() <= limit, "{} bytes", reply.body.len());
        let text = String::from_utf8(reply.body).unwrap();
        assert_eq!(text.matches("<p:Toy_Service ").count(), expected, "with room for {limit} bytes");
        assert_eq!(text.contains("EndOfSequence"), limit == 512_000);
    }
}

/// Holds: WIRE-C8-2, WIRE-L1-1
#[test]
fn what_can_never_fit_is_a_fault() {
    let mut lab = Lab::new();
    lab.toy.multiply_service(1, &"x".repeat(9_000));
    let small = "<w:MaxEnvelopeSize>8192</w:MaxEnvelopeSize>";
    let enumerate = corpus("openwsman-enumerate-optimized")
        .replace("<w:RequestTotalItemsCountEstimate/>", small)
        .replace("Toy_Machine", "Toy_Service");
    expect!["w:EncodingLimit | 2150858824 |  | MaxEnvelopeSizeExceeded | one row takes 9349 bytes, the envelope has room for 7262"].assert_eq(&refusal(&mut lab, "", enumerate.as_bytes()));
    let get = corpus("gow-get-singleton").replace("512000", "8192");
    expect!["w:EncodingLimit | 2150858824 |  | MaxEnvelopeSizeExceeded | the reply takes 10022 bytes, the client accepts 8192"].assert_eq(&refusal(&mut lab, "", get.as_bytes()));
}

/// Begins an exchange that needs the provider.
fn perform(lab: &mut Lab, request: &str) -> Continuation {
    let incoming = Incoming { content_type: "", body: request.as_bytes(), principal: "alice" };
    match lab.server.handle(incoming, Moment { now: Duration::ZERO, entropy: [1; 32] }) {
        Step::Perform(_, continuation) => continuation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_row_that_fails_is_a_fault_when_its_turn_comes() {
    let mut lab = Lab::new();
    let service = Operation::Get { target: Target::new(NAMESPACE, "Toy_Service") };
    let Ok(Answer::Instance(row)) = lab.toy.answer(service) else { panic!("the toy has a service") };
    let continuation = perform(&mut lab, &corpus("virsh-enumerate"));
    let rows = Rows::new([Ok(*row), Err(cim::Error::not_found("the second row"))].into_iter());
    let reply = lab.server.complete(continuation, Ok(Answer::Rows(rows)), Duration::ZERO);
    assert_eq!(reply.status, 200);
    let context = "uuid:01010101-0101-4101-8101-010101010101";
    assert_eq!(pull(&mut lab, context), "ok");
    assert!(pull(&mut lab, context).ends_with("the second row does not exist"));
    assert!(pull(&mut lab, context).contains("n:InvalidEnumerationContext"));
}

#[test]
fn an_answer_to_another_question_is_our_own_fault() {
    let mut lab = Lab::new();
    let continuation = perform(&mut lab, &corpus("pypsrp-get"));
    let reply = lab.server.complete(continuation, Ok(Answer::Rows(Rows::empty())), Duration::ZERO);
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains("s:Receiver") && text.contains("w:InternalError"), "{text}");
}

/// Holds: WIRE-K2-2
#[test]
fn time_runs_out_with_its_own_fault() {
    let mut lab = Lab::new();
    let continuation = perform(&mut lab, &corpus("pypsrp-get"));
    assert_eq!(continuation.timeout(), Duration::from_secs(20));
    assert_eq!(continuation.principal(), "alice");
    let reply = lab.server.time_out(continuation);
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains("w:TimedOut") && text.contains("2150858793") && reply.status == 500, "{text}");
}
