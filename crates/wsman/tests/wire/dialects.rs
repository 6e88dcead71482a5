//! What clients do differently without meaning anything by it, and the parts of a reply that the other tests leave out:
//! XML namespaces, headers of faults, references in properties.

use crate::toy::{Lab, corpus};
use cim::xml::{self, Element};
use expect_test::{Expect, expect};

/// A request of the corpus with pieces of text replaced.
fn changed(request: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(corpus(request), |text, (from, to)| {
        assert!(text.contains(from), "{request} does not contain {from}");
        text.replacen(from, to, 1)
    })
}

/// Status and first body element of the reply, after what was asked of the provider.
fn told(lab: &mut Lab, request: &str) -> String {
    lab.tell(request).lines().take(3).map(str::trim).collect::<Vec<_>>().join(" ")
}

/// The reply's envelope.
fn reply(request: &str) -> Element {
    let (_, reply) = Lab::new().exchange("", request.as_bytes());
    xml::parse(&String::from_utf8(reply.body).unwrap()).unwrap()
}

fn find<'a>(element: &'a Element, name: &str) -> Option<&'a Element> {
    if element.name == name { Some(element) } else { element.elements().find_map(|child| find(child, name)) }
}

fn text(element: &Element, name: &str) -> String {
    find(element, name).map_or("-".to_owned(), Element::trimmed_text)
}

/// Holds: WIRE-C3-1
#[test]
fn a_message_id_is_any_text_or_none() {
    let id = "<wsa:MessageID>uuid:6B6F3F09-3C45-4A8A-B7C0-6A8F7E2F5C11</wsa:MessageID>";
    let check = |replacement: &str, expected: &str| {
        assert_eq!(text(&reply(&changed("pypsrp-get", &[(id, replacement)])), "RelatesTo"), expected);
    };
    check("<wsa:MessageID>urn:uuid:6b6f3f09</wsa:MessageID>", "urn:uuid:6b6f3f09");
    check("<wsa:MessageID>6B6F3F09-3C45</wsa:MessageID>", "6B6F3F09-3C45");
    check("<wsa:MessageID>number &lt;7&gt;</wsa:MessageID>", "number <7>");
    check("", "-");
}

/// Holds: WIRE-C4-1, WIRE-C5-1, WIRE-C6-1, WIRE-C9-1
#[test]
fn headers_may_say_less_more_and_otherwise() {
    let check = |from: &str, to: &str| {
        let told = told(&mut Lab::new(), &changed("pypsrp-get", &[(from, to)]));
        assert!(told.contains(" 200 <p:Toy_Machine"), "{to}: {told}");
    };
    let to = "<wsa:To>http://hv.example:5985/wsman</wsa:To>";
    check(to, "");
    check(to, "<wsa:To s:mustUnderstand=\"true\">HTTP://other:1/wsman/</wsa:To>");
    check(to, "<wsa:To>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Machine</wsa:To>");
    let reply_to = "<wsa:ReplyTo><wsa:Address s:mustUnderstand=\"true\">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</wsa:Address></wsa:ReplyTo>";
    check(reply_to, "");
    check("<wsa:ReplyTo>", "<wsa:ReplyTo s:mustUnderstand=\"true\">");
    for header in ["Action", "MaxEnvelopeSize", "ResourceURI"] {
        check(&format!("{header} s:mustUnderstand=\"true\""), header);
    }
    for header in ["wsa:MessageID", "wsman:OperationTimeout", "wsman:SelectorSet"] {
        check(&format!("<{header}>"), &format!("<{header} s:mustUnderstand=\"1\">"));
    }
    for empty in [
        "<wsman:OptionSet s:mustUnderstand=\"true\"/>",
        "<wsa:From><wsa:Address>x</wsa:Address></wsa:From><wsa:FaultTo><wsa:Address>x</wsa:Address></wsa:FaultTo>",
        "<wsmv:OperationID>uuid:1</wsmv:OperationID><wsmv:SequenceId>1</wsmv:SequenceId><wsmv:ActivityId>1</wsmv:ActivityId>",
        "<x:Unheard xmlns:x=\"urn:x\"/>",
    ] {
        check(to, empty);
    }
}

/// Holds: WIRE-D1-1, WIRE-D3-1
#[test]
fn selectors_hold_any_text_in_any_order() {
    let key = "<wsman:Selector Name=\"name\">A1</wsman:Selector>";
    let check = |keys: &str, expected: Expect| {
        expected.assert_eq(Lab::new().tell(&changed("pypsrp-get", &[(key, keys)])).lines().next().unwrap());
    };
    check(
        "<wsman:Selector Name=\"NAME\">a1</wsman:Selector><wsman:Selector Name=\"creationclassname\">TOY_machine</wsman:Selector>",
        expect![[r#"Get root\virtualization\v2:toy_machine.NAME="a1",creationclassname="TOY_machine""#]],
    );
    check(
        "<wsman:Selector Name=\"Name\">Microsoft:A\\B:\"c\" &amp; d</wsman:Selector>",
        expect![[r#"Get root\virtualization\v2:toy_machine.Name="Microsoft:A\\B:\"c\" & d""#]],
    );
}

/// Holds: WIRE-D2-1, WIRE-D2-3
#[test]
fn a_dmtf_address_without_a_namespace_means_that_of_the_host() {
    let selector = "<w:Selector Name=\"__cimnamespace\">root\\virtualization\\V2</w:Selector>";
    let check = |replacement: &str, expected: Expect| {
        let request = changed("openwsman-enumerate-optimized", &[(selector, replacement)]);
        expected.assert_eq(&told(&mut Lab::new(), &request));
    };
    check(
        "<w:Selector Name=\"__CIMNAMESPACE\">ROOT/Virtualization/v2</w:Selector>",
        expect![[
            r#"Enumerate ROOT\Virtualization\v2 Class { class: "Toy_Machine", polymorphic: true } 200 <n:EnumerateResponse>"#
        ]],
    );
    check("", expect![[r#"Enumerate root\cimv2 Class { class: "Toy_Machine", polymorphic: true } 500 <s:Fault>"#]]);
}

/// Holds: WIRE-D3-2
#[test]
fn a_key_may_be_an_endpoint_reference() {
    let reference = |name: &str| {
        format!(
            "<wsman:Selector Name=\"Antecedent\"><wsa:EndpointReference><wsa:Address>x</wsa:Address><wsa:ReferenceParameters>\
             <wsman:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Machine</wsman:ResourceURI>\
             <wsman:SelectorSet><wsman:Selector Name=\"CreationClassName\">Toy_Machine</wsman:Selector>\
             <wsman:Selector Name=\"Name\">{name}</wsman:Selector></wsman:SelectorSet></wsa:ReferenceParameters>\
             </wsa:EndpointReference></wsman:Selector>"
        )
    };
    let check = |name: &str, expected: Expect| {
        let key = "<wsman:Selector Name=\"name\">A1</wsman:Selector>";
        let request = changed("pypsrp-get", &[("v2/toy_machine", "v2/Toy_SettingsOf"), (key, &reference(name))]);
        expected.assert_eq(&told(&mut Lab::new(), &request));
    };
    check(
        "a1",
        expect![[
            r#"Get root\virtualization\v2:Toy_SettingsOf.Antecedent="root\\virtualization\\v2:Toy_Machine.CreationClassName=\"Toy_Machine\",Name=\"a1\"" 200 <p:Toy_SettingsOf xsi:type="p:Toy_SettingsOf_Type">"#
        ]],
    );
    check(
        "b2",
        expect![[
            r#"Get root\virtualization\v2:Toy_SettingsOf.Antecedent="root\\virtualization\\v2:Toy_Machine.CreationClassName=\"Toy_Machine\",Name=\"b2\"" 500 <s:Fault>"#
        ]],
    );
}

/// The namespace of each element and of what it declares again for pasting.
///
/// Holds: WIRE-E1-1, WIRE-E1-2, WIRE-E7-1, WIRE-E8-1
#[test]
fn elements_are_in_the_namespace_of_their_class() {
    let show = |element: &Element| {
        let child = element.elements().next().unwrap();
        format!("{} {}\n{} {}", element.namespace, element.name, child.namespace, child.name)
    };
    let check = |request: &str, name: &str, expected: Expect| {
        expected.assert_eq(&show(find(&reply(request), name).unwrap()));
    };
    check(
        &corpus("pypsrp-get"),
        "Toy_Machine",
        expect![[r#"
        http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Machine Toy_Machine
        http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Machine CreationClassName"#]],
    );
    check(
        &corpus("openwsman-enumerate-optimized"),
        "Toy_Machine",
        expect![[r#"
        http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Toy_Machine Toy_Machine
        http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Toy_Machine CreationClassName"#]],
    );
    let thing = [
        ("SELECT * FROM Toy_Machine WHERE ElementName != __SERVER AND Name = 'a1' ", "SELECT * FROM Toy_Thing"),
        ("</wsman:Filter>", "</wsman:Filter><wsman:OptimizeEnumeration/>"),
    ];
    check(
        &changed("virsh-enumerate", &thing),
        "Toy_Machine",
        expect![[r#"
        http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Machine Toy_Machine
        http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Machine CreationClassName"#]],
    );
    let link = [
        (thing[0].0, "SELECT * FROM Toy_SettingsOf"),
        ("</wsman:Filter>", "</wsman:Filter><wsman:OptimizeEnumeration/>"),
    ];
    let link = changed("virsh-enumerate", &link);
    check(
        &link,
        "Toy_SettingsOf",
        expect![[r#"
        http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_SettingsOf Toy_SettingsOf
        http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_SettingsOf Antecedent"#]],
    );
    check(
        &link,
        "Antecedent",
        expect![[r#"
        http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_SettingsOf Antecedent
        http://schemas.xmlsoap.org/ws/2004/08/addressing Address"#]],
    );
    let (_, bytes) = Lab::new().exchange("", link.as_bytes());
    let pasted = String::from_utf8(bytes.body).unwrap();
    assert!(pasted.contains("<w:SelectorSet xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\">"), "{pasted}");
}

/// Holds: WIRE-F1-1, WIRE-F2-2, WIRE-F3-1, WIRE-F5-1
#[test]
fn enumerations_are_begun_in_many_ways() {
    let filter = "<wsman:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">SELECT * FROM Toy_Machine WHERE ElementName != __SERVER AND Name = 'a1' </wsman:Filter>";
    let wql = "Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\"";
    let machines = "Toy_Machine/A1, Toy_Machine/B2";
    let check = |replacement: &str, uri: &str, expected: &str| {
        let request = changed("virsh-enumerate", &[(filter, replacement), ("v2/*", uri)]);
        let (_, bytes) = Lab::new().exchange("", request.as_bytes());
        let root = xml::parse(&String::from_utf8(bytes.body).unwrap()).unwrap();
        let items = find(&root, "Items").map(|items| items.elements().collect::<Vec<_>>()).unwrap_or_default();
        let items = items.iter().map(|item| format!("{}/{}", item.name, text(item, "Name")));
        let items = items.collect::<Vec<_>>().join(", ");
        assert_eq!(if items.is_empty() { text(&root, "Text") } else { items }, expected, "{replacement}");
    };
    let all = "<wsman:OptimizeEnumeration/><wsman:MaxElements>9</wsman:MaxElements>";
    let with = |query: &str| format!("<wsman:Filter {wql}>{query}</wsman:Filter>{all}");
    check(&with("\n  SELECT * FROM Toy_Machine\n "), "v2/*", machines);
    check(&with("<![CDATA[SELECT * FROM Toy_Machine WHERE Name < 'X']]>"), "v2/*", machines);
    check(&with("SELECT * FROM Toy_Machine WHERE Name &lt; 'X'"), "v2/*", machines);
    check(&with("select * from toy_machine"), "v2/Toy_Service", machines);
    check(&format!("<wsen:Filter {wql}>SELECT * FROM Toy_Machine</wsen:Filter>{all}"), "v2/Toy_Machine", machines);
    check(all, "v2/toy_machine", machines);
    check(all, "v2/Toy_Thing", "Toy_Machine/A1, Toy_Machine/B2, Toy_Service/svc");
    let mode = |mode: &str| format!("{all}<wsman:PolymorphismMode>{mode}</wsman:PolymorphismMode>");
    check(&mode("IncludeSubClassProperties"), "v2/Toy_Machine", machines);
    check(&mode("ExcludeSubClassProperties"), "v2/Toy_Machine", machines);
    check("<wsman:OptimizeEnumeration/>", "v2/Toy_Machine", "Toy_Machine/A1");
    check("", "v2/Toy_Machine", "-");
}

/// Begins an enumeration and gives its context.
fn begin(lab: &mut Lab, changes: &[(&str, &str)]) -> String {
    let told = lab.tell(&changed("virsh-enumerate", changes));
    let (_, rest) = told.split_once("<n:EnumerationContext>").unwrap_or_else(|| panic!("{told}"));
    rest.split('<').next().unwrap().to_owned()
}

/// Holds: WIRE-F6-1
#[test]
fn a_pull_is_known_by_its_context_alone() {
    let uri = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Machine";
    for other in [
        "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Service",
        "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/*",
        "http://schemas.dmtf.org/wbem/wscim/1/*",
        "urn:nothing",
    ] {
        let mut lab = Lab::new();
        let context = begin(&mut lab, &[]);
        let pull = changed("virsh-pull", &[("@CONTEXT@", &context), (uri, other)]);
        let told = lab.tell(&pull);
        assert!(told.starts_with("200") && told.contains("<p:Name>A1</p:Name>"), "{other}: {told}");
    }
}

/// Holds: WIRE-F8-1
#[test]
fn nothing_found_is_an_empty_page() {
    let mut lab = Lab::new();
    let context = begin(&mut lab, &[("Name = 'a1'", "Name = 'nobody'")]);
    expect![[r#"
        200
        <n:PullResponse>
          <n:Items/>
          <n:EndOfSequence/>
        </n:PullResponse>"#]]
    .assert_eq(&lab.tell(&changed("virsh-pull", &[("@CONTEXT@", &context)])));
}

/// References pulled one by one, each sent back as it came.
///
/// Holds: WIRE-F10-1, WIRE-F12-1
#[test]
fn references_can_be_pulled_and_sent_back() {
    let mut lab = Lab::new();
    let mode = "</wsman:Filter><wsman:EnumerationMode>EnumerateEPR</wsman:EnumerationMode>";
    let context = begin(&mut lab, &[(" AND Name = 'a1' ", ""), ("</wsman:Filter>", mode)]);
    let mut names = Vec::new();
    for _ in 0..2 {
        let pull = changed("virsh-pull", &[("@CONTEXT@", &context)]);
        let (_, bytes) = lab.exchange("", pull.as_bytes());
        let page = String::from_utf8(bytes.body).unwrap();
        let (_, rest) = page.split_once("<a:ReferenceParameters").unwrap_or_else(|| panic!("{page}"));
        let (content, _) = rest.split_once("</a:ReferenceParameters>").unwrap();
        let (_, content) = content.split_once('>').unwrap();
        let own = "<wsman:ResourceURI s:mustUnderstand=\"true\">http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/toy_machine</wsman:ResourceURI>";
        let selectors = "<wsman:SelectorSet><wsman:Selector Name=\"name\">A1</wsman:Selector></wsman:SelectorSet>";
        let declared = format!("<s:Header xmlns:w=\"{}\">", wsman::ns::WSMAN);
        let get = changed("pypsrp-get", &[(own, ""), (selectors, content), ("<s:Header>", &declared)]);
        names.push(text(&reply(&get), "Name"));
    }
    assert_eq!(names, ["A1", "B2"]);
}

/// Holds: WIRE-K1-1, WIRE-K3-1
#[test]
fn a_fault_has_the_headers_of_a_reply() {
    let request = changed("pypsrp-get", &[(">A1<", ">nobody<")]);
    let (_, bytes) = Lab::new().exchange("", request.as_bytes());
    let body = String::from_utf8(bytes.body).unwrap();
    let (_, rest) = body.split_once("<s:Header>").unwrap();
    let (header, rest) = rest.split_once("</s:Header>").unwrap();
    let detail = rest.split_once("<s:Detail>").map(|(_, detail)| detail.split("</s:Detail>").next().unwrap());
    expect![[r#"
        <a:Action>http://schemas.xmlsoap.org/ws/2004/08/addressing/fault</a:Action>
        <a:MessageID>uuid:01010101-0101-4101-8101-010101010101</a:MessageID>
        <a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To>
        <a:RelatesTo>uuid:6B6F3F09-3C45-4A8A-B7C0-6A8F7E2F5C11</a:RelatesTo>
        <w:FaultDetail>http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/ResourceNotFound</w:FaultDetail>
        <f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="2150858752" Machine="TOYHOST">
        <f:Message>root\virtualization\v2:toy_machine.name="nobody" does not exist</f:Message>
        </f:WSManFault>
        <p:MSFT_WmiError xmlns:p="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/MSFT_WmiError" xmlns:b="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" b:IsCIM_Error="true">
        <p:CIMStatusCode>6</p:CIMStatusCode>
        <p:Message>root\virtualization\v2:toy_machine.name="nobody" does not exist</p:Message>
        <p:MessageID>HRESULT 0x80041002</p:MessageID>
        <p:error_Code>2147749890</p:error_Code>
        <p:error_Type>HRESULT</p:error_Type>
        </p:MSFT_WmiError>"#]].assert_eq(&format!("{header}\n{}", detail.unwrap_or_default()).replace("><", ">\n<"));
    assert!(!body.contains("mustUnderstand"), "{body}");
}

/// Holds: WIRE-J4-1
#[test]
fn what_is_not_served_is_refused_with_a_fault() {
    let get = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
    let uri = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/toy_machine";
    let check = |action: &str, resource: &str, expected: &str| {
        let root = reply(&changed("pypsrp-get", &[(get, action), (uri, resource)]));
        assert_eq!(text(find(&root, "Subcode").unwrap(), "Value"), expected, "{action} on {resource}");
    };
    check(get, "http://schemas.microsoft.com/wbem/wsman/1/config", "a:DestinationUnreachable");
    let shell = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd";
    check("http://schemas.xmlsoap.org/ws/2004/09/transfer/Create", shell, "a:DestinationUnreachable");
    check("http://schemas.microsoft.com/wbem/wsman/1/windows/shell/Command", shell, "a:ActionNotSupported");
    check("http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete", uri, "a:ActionNotSupported");
}
