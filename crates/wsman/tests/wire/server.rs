//! What each client's requests mean, and what it gets.

use crate::toy::{Lab, corpus, indent};
use expect_test::{Expect, expect};

/// Exchanges one request of the corpus with a fresh server.
fn check(request: &str, expected: Expect) {
    expected.assert_eq(&Lab::new().tell(&corpus(request)));
}

/// Exchanges several with one server; a pull or release takes the context of the exchange before it.
fn check_all(requests: &[&str], expected: Expect) {
    let mut lab = Lab::new();
    let mut context = String::new();
    let mut told = String::new();
    for request in requests {
        let reply = lab.tell(&corpus(request).replace("@CONTEXT@", &context));
        if let Some((_, rest)) = reply.split_once("<n:EnumerationContext>") {
            context = rest.split('<').next().unwrap_or_default().to_owned();
        }
        told += &format!("== {request}\n{reply}\n");
    }
    expected.assert_eq(&told);
}

/// Holds: WIRE-A3-1, WIRE-C2-2, WIRE-C3-1, WIRE-E2-1, WIRE-I1-1, WIRE-I12-2, WIRE-K3-1
#[test]
fn the_whole_envelope_has_the_prefixes_virsh_takes_for_granted() {
    let (_, reply) = Lab::new().exchange("", corpus("virtwho-invoke").as_bytes());
    let text = String::from_utf8(reply.body).unwrap();
    expect![[r#"
        200 application/soap+xml;charset=UTF-8
        <s:Envelope xml:lang="en-US" xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:x="http://schemas.xmlsoap.org/ws/2004/09/transfer" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration">
        <s:Header>
        <a:Action>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Service/SummaryResponse</a:Action>
        <a:MessageID>uuid:01010101-0101-4101-8101-010101010101</a:MessageID>
        <a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To>
        <a:RelatesTo>uuid:a9b8c7d6-0001-4000-8000-000000000002</a:RelatesTo>
        </s:Header>
        <s:Body>
        <p:Summary_OUTPUT xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Service" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common">
        <p:Summaries xmlns:p1="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Summary" xsi:type="p1:Toy_Summary_Type">
        <p1:Name>A1</p1:Name>
        <p1:State>2</p1:State>
        </p:Summaries>
        <p:ReturnValue>0</p:ReturnValue>
        </p:Summary_OUTPUT>
        </s:Body>
        </s:Envelope>"#]].assert_eq(&format!("{} {}\n{}", reply.status, reply.content_type, text.replace("><", ">\n<")));
}

/// Holds: WIRE-C10-1
#[test]
fn identify() {
    check(
        "identify-openwsman",
        expect![[r#"
        200
        <wsmid:IdentifyResponse>
          <wsmid:ProtocolVersion>http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd</wsmid:ProtocolVersion>
          <wsmid:ProductVendor>Toy</wsmid:ProductVendor>
          <wsmid:ProductVersion>OS: 1.2.3 SP: 0.0 Stack: 3.0</wsmid:ProductVersion>
        </wsmid:IdentifyResponse>"#]],
    );
}

/// Holds: WIRE-D1-1, WIRE-D3-1, WIRE-D4-1, WIRE-E1-3, WIRE-E3-1, WIRE-E4-1, WIRE-E5-1, WIRE-E6-1, WIRE-J1-1
#[test]
fn get() {
    check(
        "pypsrp-get",
        expect![[r#"
        Get root\virtualization\v2:toy_machine.name="A1"
        200
        <p:Toy_Machine xsi:type="p:Toy_Machine_Type">
          <p:CreationClassName>Toy_Machine</p:CreationClassName>
          <p:Name>A1</p:Name>
          <p:ElementName>first &amp; only</p:ElementName>
          <p:Running>false</p:Running>
          <p:State>2</p:State>
          <p:Statuses>2</p:Statuses>
          <p:Statuses>3</p:Statuses>
          <p:Born>
            <cim:Datetime>2025-01-02T03:04:05Z</cim:Datetime>
          </p:Born>
          <p:UpTime>
            <cim:Interval>P0DT0H0M1.5S</cim:Interval>
          </p:UpTime>
          <p:Image>AQL/</p:Image>
          <p:Owner xsi:nil="true"/>
          <p:Settings>&lt;INSTANCE CLASSNAME="Toy_Settings"&gt;&lt;PROPERTY NAME="InstanceID" TYPE="string"&gt;&lt;VALUE&gt;Toy:S1&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY NAME="ElementName" TYPE="string"&gt;&lt;VALUE&gt;a &amp;lt;one&amp;gt;&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY NAME="Memory" TYPE="uint64"&gt;&lt;VALUE&gt;512&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY.ARRAY NAME="Notes" TYPE="string"/&gt;&lt;/INSTANCE&gt;</p:Settings>
        </p:Toy_Machine>"#]],
    );
    check(
        "gow-get-singleton",
        expect![[r#"
        Get root\virtualization\v2:Toy_Service
        200
        <p:Toy_Service xsi:type="p:Toy_Service_Type">
          <p:CreationClassName>Toy_Service</p:CreationClassName>
          <p:Name>svc</p:Name>
          <p:ElementName xsi:nil="true"/>
        </p:Toy_Service>"#]],
    );
}

/// Holds: WIRE-F4-1, WIRE-F8-1
#[test]
fn virsh_pulls_one_by_one() {
    check_all(
        &["virsh-enumerate", "virsh-pull", "virsh-pull"],
        expect![[r#"
        == virsh-enumerate
        Enumerate root\virtualization\v2 Select(Select { projection: All, class: "Toy_Machine", within_seconds: None, condition: Some(And([Compare { left: Name("ElementName"), comparison: NotEqual, right: Name("__SERVER") }, Compare { left: Name("Name"), comparison: Equal, right: Literal(String("a1")) }])) })
        200
        <n:EnumerateResponse>
          <n:EnumerationContext>uuid:01010101-0101-4101-8101-010101010101</n:EnumerationContext>
        </n:EnumerateResponse>
        == virsh-pull
        200
        <n:PullResponse>
          <n:Items>
            <p:Toy_Machine xsi:type="p:Toy_Machine_Type">
              <p:CreationClassName>Toy_Machine</p:CreationClassName>
              <p:Name>A1</p:Name>
              <p:ElementName>first &amp; only</p:ElementName>
              <p:Running>false</p:Running>
              <p:State>2</p:State>
              <p:Statuses>2</p:Statuses>
              <p:Statuses>3</p:Statuses>
              <p:Born>
                <cim:Datetime>2025-01-02T03:04:05Z</cim:Datetime>
              </p:Born>
              <p:UpTime>
                <cim:Interval>P0DT0H0M1.5S</cim:Interval>
              </p:UpTime>
              <p:Image>AQL/</p:Image>
              <p:Owner xsi:nil="true"/>
              <p:Settings>&lt;INSTANCE CLASSNAME="Toy_Settings"&gt;&lt;PROPERTY NAME="InstanceID" TYPE="string"&gt;&lt;VALUE&gt;Toy:S1&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY NAME="ElementName" TYPE="string"&gt;&lt;VALUE&gt;a &amp;lt;one&amp;gt;&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY NAME="Memory" TYPE="uint64"&gt;&lt;VALUE&gt;512&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY.ARRAY NAME="Notes" TYPE="string"/&gt;&lt;/INSTANCE&gt;</p:Settings>
            </p:Toy_Machine>
          </n:Items>
          <n:EndOfSequence/>
        </n:PullResponse>
        == virsh-pull
        500
        <s:Fault>
          <s:Code>
            <s:Value>s:Sender</s:Value>
            <s:Subcode>
              <s:Value>n:InvalidEnumerationContext</s:Value>
            </s:Subcode>
          </s:Code>
          <s:Reason>
            <s:Text xml:lang="en-US">the enumeration is unknown, finished or expired; enumerate again</s:Text>
          </s:Reason>
          <s:Detail>
            <f:WSManFault Code="2150858779" Machine="TOYHOST">
              <f:Message>the enumeration is unknown, finished or expired; enumerate again</f:Message>
            </f:WSManFault>
          </s:Detail>
        </s:Fault>
    "#]],
    );
}

/// Holds: WIRE-C1-2, WIRE-F7-1, WIRE-G6-1
#[test]
fn projections_are_fragments() {
    check_all(
        &["virtwho-enumerate-projection", "virsh-pull", "virsh-pull"],
        expect![[r#"
        == virtwho-enumerate-projection
        Enumerate root\virtualization\v2 Select(Select { projection: Names(["Name", "ElementName"]), class: "Toy_Machine", within_seconds: None, condition: None })
        200
        <n:EnumerateResponse>
          <n:EnumerationContext>uuid:01010101-0101-4101-8101-010101010101</n:EnumerationContext>
        </n:EnumerateResponse>
        == virsh-pull
        200
        <n:PullResponse>
          <n:EnumerationContext>uuid:01010101-0101-4101-8101-010101010101</n:EnumerationContext>
          <n:Items>
            <w:XmlFragment>
              <ElementName>first &amp; only</ElementName>
              <Name>A1</Name>
            </w:XmlFragment>
          </n:Items>
        </n:PullResponse>
        == virsh-pull
        200
        <n:PullResponse>
          <n:Items>
            <w:XmlFragment>
              <ElementName>second</ElementName>
              <Name>B2</Name>
            </w:XmlFragment>
          </n:Items>
          <n:EndOfSequence/>
        </n:PullResponse>
    "#]],
    );
}

/// Holds: WIRE-D1-2, WIRE-D2-1, WIRE-F4-1, WIRE-F5-1, WIRE-F11-1
#[test]
fn a_class_at_once_in_dmtf_style() {
    check(
        "openwsman-enumerate-optimized",
        expect![[r#"
        Enumerate root\virtualization\V2 Class { class: "Toy_Machine", polymorphic: true }
        200
        <n:EnumerateResponse>
          <n:EnumerationContext/>
          <w:Items>
            <p:Toy_Machine xsi:type="p:Toy_Machine_Type">
              <p:CreationClassName>Toy_Machine</p:CreationClassName>
              <p:Name>A1</p:Name>
              <p:ElementName>first &amp; only</p:ElementName>
              <p:Running>false</p:Running>
              <p:State>2</p:State>
              <p:Statuses>2</p:Statuses>
              <p:Statuses>3</p:Statuses>
              <p:Born>
                <cim:Datetime>2025-01-02T03:04:05Z</cim:Datetime>
              </p:Born>
              <p:UpTime>
                <cim:Interval>P0DT0H0M1.5S</cim:Interval>
              </p:UpTime>
              <p:Image>AQL/</p:Image>
              <p:Owner xsi:nil="true"/>
              <p:Settings>&lt;INSTANCE CLASSNAME="Toy_Settings"&gt;&lt;PROPERTY NAME="InstanceID" TYPE="string"&gt;&lt;VALUE&gt;Toy:S1&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY NAME="ElementName" TYPE="string"&gt;&lt;VALUE&gt;a &amp;lt;one&amp;gt;&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY NAME="Memory" TYPE="uint64"&gt;&lt;VALUE&gt;512&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;PROPERTY.ARRAY NAME="Notes" TYPE="string"/&gt;&lt;/INSTANCE&gt;</p:Settings>
            </p:Toy_Machine>
            <p:Toy_Machine xsi:type="p:Toy_Machine_Type">
              <p:CreationClassName>Toy_Machine</p:CreationClassName>
              <p:Name>B2</p:Name>
              <p:ElementName>second</p:ElementName>
              <p:Running>false</p:Running>
              <p:State xsi:nil="true"/>
              <p:Born xsi:nil="true"/>
              <p:UpTime xsi:nil="true"/>
              <p:Owner xsi:nil="true"/>
              <p:Settings xsi:nil="true"/>
            </p:Toy_Machine>
          </w:Items>
          <w:EndOfSequence/>
        </n:EnumerateResponse>"#]],
    );
}

/// Holds: WIRE-D1-3, WIRE-D5-1, WIRE-F1-1, WIRE-F1-2, WIRE-F10-2, WIRE-G7-1
#[test]
fn associations_both_ways_of_asking() {
    check(
        "openwsman-associators",
        expect![[r#"
            Enumerate root\virtualization\v2 of root\virtualization\v2:Toy_Machine.Name="a1" association_class: Some("Toy_SettingsOf"), result_class: Some("Toy_Settings"), role: None, result_role: None, detail: Instance
            200
            <n:EnumerateResponse>
              <n:EnumerationContext/>
              <w:Items>
                <p:Toy_Settings xsi:type="p:Toy_Settings_Type">
                  <p:InstanceID>Toy:S1</p:InstanceID>
                  <p:ElementName>a &lt;one&gt;</p:ElementName>
                  <p:Memory>512</p:Memory>
                </p:Toy_Settings>
              </w:Items>
              <w:EndOfSequence/>
            </n:EnumerateResponse>"#]],
    );
    check(
        "java-associators-wql",
        expect![[r#"
            Enumerate root\virtualization\v2 of root\virtualization\v2:Toy_Machine.Name="a1" association_class: Some("Toy_SettingsOf"), result_class: Some("Toy_Settings"), role: None, result_role: None, detail: Instance
            200
            <n:EnumerateResponse>
              <n:EnumerationContext/>
              <w:Items>
                <w:Item>
                  <p:Toy_Settings xsi:type="p:Toy_Settings_Type">
                    <p:InstanceID>Toy:S1</p:InstanceID>
                    <p:ElementName>a &lt;one&gt;</p:ElementName>
                    <p:Memory>512</p:Memory>
                  </p:Toy_Settings>
                  <a:EndpointReference>
                    <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
                    <a:ReferenceParameters>
                      <w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Settings</w:ResourceURI>
                      <w:SelectorSet>
                        <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                        <w:Selector Name="InstanceID">Toy:S1</w:Selector>
                      </w:SelectorSet>
                    </a:ReferenceParameters>
                  </a:EndpointReference>
                </w:Item>
              </w:Items>
              <w:EndOfSequence/>
            </n:EnumerateResponse>"#]],
    );
    // The URI of all classes and no selector: the namespace is that of the object.
    check(
        "wsl-associated",
        expect![[r#"
            Enumerate root\virtualization\v2 of root\virtualization\v2:Toy_Machine.Name="a1" association_class: None, result_class: None, role: None, result_role: None, detail: Instance
            200
            <n:EnumerateResponse>
              <n:EnumerationContext>uuid:01010101-0101-4101-8101-010101010101</n:EnumerationContext>
            </n:EnumerateResponse>"#]],
    );
}

/// Holds: WIRE-E8-1, WIRE-F10-1, WIRE-H1-1, WIRE-H1-2
#[test]
fn connections_as_addresses() {
    check(
        "openwsman-references-epr",
        expect![[r#"
            Enumerate root\virtualization\v2 of root\virtualization\v2:Toy_Machine.Name="a1" result_class: None, role: Some("Antecedent"), detail: Instance
            200
            <n:EnumerateResponse>
              <n:EnumerationContext/>
              <w:Items>
                <a:EndpointReference>
                  <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
                  <a:ReferenceParameters>
                    <w:ResourceURI>http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Toy_SettingsOf</w:ResourceURI>
                    <w:SelectorSet>
                      <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                      <w:Selector Name="Antecedent">
                        <a:EndpointReference>
                          <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
                          <a:ReferenceParameters>
                            <w:ResourceURI>http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Toy_Machine</w:ResourceURI>
                            <w:SelectorSet>
                              <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                              <w:Selector Name="CreationClassName">Toy_Machine</w:Selector>
                              <w:Selector Name="Name">A1</w:Selector>
                            </w:SelectorSet>
                          </a:ReferenceParameters>
                        </a:EndpointReference>
                      </w:Selector>
                      <w:Selector Name="Dependent">
                        <a:EndpointReference>
                          <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
                          <a:ReferenceParameters>
                            <w:ResourceURI>http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Toy_Settings</w:ResourceURI>
                            <w:SelectorSet>
                              <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                              <w:Selector Name="InstanceID">Toy:S1</w:Selector>
                            </w:SelectorSet>
                          </a:ReferenceParameters>
                        </a:EndpointReference>
                      </w:Selector>
                    </w:SelectorSet>
                  </a:ReferenceParameters>
                </a:EndpointReference>
              </w:Items>
              <w:EndOfSequence/>
            </n:EnumerateResponse>"#]],
    );
}

/// Holds: WIRE-F1-2, WIRE-H2-1
#[test]
fn selector_filters() {
    check(
        "selector-filter",
        expect![[r#"
        Enumerate root\virtualization\v2 Selectors { class: "Toy_Thing", keys: [("ElementName", String("SECOND"))] }
        200
        <n:EnumerateResponse>
          <n:EnumerationContext/>
          <w:Items>
            <p:Toy_Machine xsi:type="p:Toy_Machine_Type">
              <p:CreationClassName>Toy_Machine</p:CreationClassName>
              <p:Name>B2</p:Name>
              <p:ElementName>second</p:ElementName>
              <p:Running>false</p:Running>
              <p:State xsi:nil="true"/>
              <p:Born xsi:nil="true"/>
              <p:UpTime xsi:nil="true"/>
              <p:Owner xsi:nil="true"/>
              <p:Settings xsi:nil="true"/>
            </p:Toy_Machine>
          </w:Items>
          <w:EndOfSequence/>
        </n:EnumerateResponse>"#]],
    );
}

/// Holds: WIRE-F9-1
#[test]
fn release_ends_an_enumeration() {
    check_all(
        &["virtwho-enumerate-projection", "openwsman-release", "openwsman-release"],
        expect![[r#"
        == virtwho-enumerate-projection
        Enumerate root\virtualization\v2 Select(Select { projection: Names(["Name", "ElementName"]), class: "Toy_Machine", within_seconds: None, condition: None })
        200
        <n:EnumerateResponse>
          <n:EnumerationContext>uuid:01010101-0101-4101-8101-010101010101</n:EnumerationContext>
        </n:EnumerateResponse>
        == openwsman-release
        200
        == openwsman-release
        500
        <s:Fault>
          <s:Code>
            <s:Value>s:Sender</s:Value>
            <s:Subcode>
              <s:Value>n:InvalidEnumerationContext</s:Value>
            </s:Subcode>
          </s:Code>
          <s:Reason>
            <s:Text xml:lang="en-US">the enumeration is unknown, finished or expired; enumerate again</s:Text>
          </s:Reason>
          <s:Detail>
            <f:WSManFault Code="2150858779" Machine="TOYHOST">
              <f:Message>the enumeration is unknown, finished or expired; enumerate again</f:Message>
            </f:WSManFault>
          </s:Detail>
        </s:Fault>
    "#]],
    );
}

/// Holds: WIRE-I4-1, WIRE-I5-1, WIRE-I8-1
#[test]
fn virsh_passes_references_and_instances_in_text() {
    check(
        "virsh-invoke-embedded",
        expect![[r#"
        Invoke root\virtualization\v2:Toy_Service.CreationClassName="Toy_Service" Define
            Target = reference root\virtualization\v2:Toy_Machine.CreationClassName="Toy_Machine",Name="a1"
            Settings = "<INSTANCE CLASSNAME=\"Toy_Settings\"><PROPERTY NAME=\"ElementName\" TYPE=\"string\"><VALUE>new one</VALUE></PROPERTY><PROPERTY NAME=\"Memory\" TYPE=\"uint64\"><VALUE>512</VALUE></PROPERTY></INSTANCE>"
            Force = "False"
        200
        <p:Define_OUTPUT>
          <p:Result>
            <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
            <a:ReferenceParameters>
              <w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Settings</w:ResourceURI>
              <w:SelectorSet>
                <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                <w:Selector Name="InstanceID">Toy:S1</w:Selector>
              </w:SelectorSet>
            </a:ReferenceParameters>
          </p:Result>
          <p:Job>
            <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
            <a:ReferenceParameters>
              <w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Settings</w:ResourceURI>
              <w:SelectorSet>
                <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                <w:Selector Name="InstanceID">Toy:S1</w:Selector>
              </w:SelectorSet>
            </a:ReferenceParameters>
          </p:Job>
          <p:ReturnValue>4096</p:ReturnValue>
        </p:Define_OUTPUT>"#]],
    );
}

/// Holds: WIRE-C4-1, WIRE-C6-1, WIRE-C7-1, WIRE-I4-1
#[test]
fn mi_passes_references_by_their_keys() {
    check(
        "mi-invoke-ref-by-keys",
        expect![[r#"
        Invoke root\virtualization\v2:Toy_Service.Name="svc" Define
            Target = instance of Toy_Machine { CreationClassName = "Toy_Machine", Name = "a1" }
            Force = "TRUE"
        200
        <p:Define_OUTPUT>
          <p:Result>
            <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
            <a:ReferenceParameters>
              <w:ResourceURI>http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Toy_Settings</w:ResourceURI>
              <w:SelectorSet>
                <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                <w:Selector Name="InstanceID">Toy:S1</w:Selector>
              </w:SelectorSet>
            </a:ReferenceParameters>
          </p:Result>
          <p:Job>
            <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
            <a:ReferenceParameters>
              <w:ResourceURI>http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Toy_Settings</w:ResourceURI>
              <w:SelectorSet>
                <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                <w:Selector Name="InstanceID">Toy:S1</w:Selector>
              </w:SelectorSet>
            </a:ReferenceParameters>
          </p:Job>
          <p:ReturnValue>4096</p:ReturnValue>
        </p:Define_OUTPUT>"#]],
    );
}

/// Holds: WIRE-C1-1, WIRE-I1-1, WIRE-I3-1, WIRE-I4-1, WIRE-I5-2
#[test]
fn go_wsman_passes_wrapped_references_and_elements() {
    check(
        "gow-invoke-nested",
        expect![[r#"
        Invoke root\virtualization\v2:Toy_Service define
            Target = reference root\virtualization\v2:Toy_Machine.Name="a1"
            Settings = instance of Toy_Settings { ElementName = "gow's", Memory = " 1024 ", Notes = "one", Notes = "two" }
            Force = "TRUE"
        200
        <p:define_OUTPUT>
          <p:Result>
            <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
            <a:ReferenceParameters>
              <w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Settings</w:ResourceURI>
              <w:SelectorSet>
                <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                <w:Selector Name="InstanceID">Toy:S1</w:Selector>
              </w:SelectorSet>
            </a:ReferenceParameters>
          </p:Result>
          <p:Job>
            <a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>
            <a:ReferenceParameters>
              <w:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Toy_Settings</w:ResourceURI>
              <w:SelectorSet>
                <w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>
                <w:Selector Name="InstanceID">Toy:S1</w:Selector>
              </w:SelectorSet>
            </a:ReferenceParameters>
          </p:Job>
          <p:ReturnValue>4096</p:ReturnValue>
        </p:define_OUTPUT>"#]],
    );
}

/// Holds: WIRE-I2-1, WIRE-I3-1
#[test]
fn virt_who_passes_everything_in_one_namespace() {
    check(
        "virtwho-invoke",
        expect![[r#"
        Invoke root\virtualization\v2:Toy_Service.CreationClassName="Toy_Service",Name="svc" Summary
            RequestedInformation = "0"
            RequestedInformation = "1"
        200
        <p:Summary_OUTPUT>
          <p:Summaries xsi:type="p1:Toy_Summary_Type">
            <p1:Name>A1</p1:Name>
            <p1:State>2</p1:State>
          </p:Summaries>
          <p:ReturnValue>0</p:ReturnValue>
        </p:Summary_OUTPUT>"#]],
    );
}

/// Holds: WIRE-J1-2, WIRE-K1-1
#[test]
fn put_is_refused_cleanly() {
    check(
        "openwsman-put",
        expect![[r#"
        500
        <s:Fault>
          <s:Code>
            <s:Value>s:Sender</s:Value>
            <s:Subcode>
              <s:Value>a:ActionNotSupported</s:Value>
            </s:Subcode>
          </s:Code>
          <s:Reason>
            <s:Text xml:lang="en-US">Put is not supported: instances change only through methods of their services</s:Text>
          </s:Reason>
          <s:Detail>
            <f:WSManFault Code="2150858771" Machine="TOYHOST">
              <f:Message>Put is not supported: instances change only through methods of their services</f:Message>
            </f:WSManFault>
          </s:Detail>
        </s:Fault>"#]],
    );
}

/// Holds: WIRE-C2-1
#[test]
fn utf16_is_answered_in_utf16_little_endian() {
    let request = corpus("gow-get-singleton");
    let big_endian: Vec<u8> =
        [0xFE, 0xFF].into_iter().chain(request.encode_utf16().flat_map(u16::to_be_bytes)).collect();
    let (_, reply) = Lab::new().exchange("application/soap+xml;charset=UTF-16", &big_endian);
    let units: Vec<u16> = reply.body.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16(&units).unwrap();
    let start: String = indent(&text).trim_start().lines().take(3).collect::<Vec<_>>().join("\n");
    expect![[r#"
        200 application/soap+xml;charset=UTF-16
        <s:Envelope xml:lang="en-US">
          <s:Header>
            <a:Action>http://schemas.xmlsoap.org/ws/2004/09/transfer/GetResponse</a:Action>"#]]
    .assert_eq(&format!("{} {}\n{start}", reply.status, reply.content_type));
}

/// Holds: WIRE-J2-1, WIRE-J3-1
#[test]
fn fragments_and_classes() {
    check(
        "get-fragment",
        expect![[r#"
        Get root\virtualization\v2:Toy_Machine.Name="A1"
        200
        <w:XmlFragment>
          <p:Statuses>2</p:Statuses>
          <p:Statuses>3</p:Statuses>
        </w:XmlFragment>"#]],
    );
    check(
        "mi-get-class",
        expect![[r#"
            GetClass root\virtualization\v2:Toy_Summary
            200
            <CLASS NAME="Toy_Summary">
              <PROPERTY NAME="Name" TYPE="string" CLASSORIGIN="Toy_Summary"/>
              <PROPERTY NAME="State" TYPE="uint16" CLASSORIGIN="Toy_Summary"/>
            </CLASS>"#]],
    );
}
