//! What libvirt's Hyper-V driver asks, in its words and its order: listing, describing, and looking for what it needs
//! before it changes something.

use expect_test::{Expect, expect};
use ledger::vm::Power;

use crate::View;
use crate::switch::SwitchName;
use crate::world::*;

const VM: &str = "00000000-0000-0000-0000-0000000000a0";

/// The same properties of each row of a query.
fn check(view: &View, query: &str, properties: &[&str], expected: Expect) {
    let columns: Vec<String> = properties.iter().map(|property| column(view, query, property)).collect();
    let short = columns.join("\n--\n").replace("00000000-0000-0000-0000-00000000", "");
    expected.assert_eq(&short);
}

fn in_state(power: Power) -> View {
    let mut state = one_vm();
    take(&mut state, 'A');
    state.update_vm(V, |vm| vm.power = power);
    view(state)
}

/// Holds: WIRE-G1-2, WIRE-G8-1
#[test]
fn machines_are_listed_and_found() {
    let view = in_state(Power::Running);
    let check = |query: &str, properties: &[&str], expected: Expect| check(&view, query, properties, expected);
    // The host is left out by its name, which the client does not know.
    let machines = "SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER AND ";
    check(
        &format!("{machines}(EnabledState != 0 AND EnabledState != 3 AND EnabledState != 32769) "),
        &["ProcessID"],
        expect!["4711"],
    );
    check(
        &format!("{machines}(EnabledState = 0 OR EnabledState = 3 OR EnabledState = 32769) "),
        &["Name"],
        expect![""],
    );
    check(&format!("{machines}ProcessID = 4711"), &["ElementName"], expect!["web"]);
    check(&format!("{machines}ElementName = 'web'"), &["Name"], expect!["00A0"]);
    check(&format!("{machines}Name = '{VM}'"), &["EnabledState"], expect!["2"]);
    check(
        &format!(
            "ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{VM}'}} WHERE AssocClass = Msvm_SettingsDefineState ResultClass = Msvm_VirtualSystemSettingData"
        ),
        &["InstanceID", "AutomaticStartupAction"],
        expect![[r#"
            Microsoft:00A0
            --
            2"#]],
    );
}

#[test]
fn a_machine_is_described_by_its_settings() {
    let view = in_state(Power::Running);
    let check = |query: &str, properties: &[&str], expected: Expect| check(&view, query, properties, expected);
    let settings = format!(
        "ASSOCIATORS OF {{Msvm_VirtualSystemSettingData.InstanceID='Microsoft:{VM}'}} WHERE AssocClass = Msvm_VirtualSystemSettingDataComponent ResultClass = "
    );
    check(
        &format!("{settings}Msvm_ProcessorSettingData"),
        &["VirtualQuantity", "Limit"],
        expect![[r#"
        2
        --
        100000"#]],
    );
    check(
        &format!("{settings}Msvm_MemorySettingData"),
        &["VirtualQuantity", "Limit"],
        expect![[r#"
        1024
        --
        1024"#]],
    );
    check(
        &format!("{settings}Msvm_ResourceAllocationSettingData"),
        &["ResourceType", "Address", "HostResource"],
        expect![[r#"
            5
            17
            17
            --
            0
            -
            -
            --
            -
            -
            -"#]],
    );
    check(
        &format!("{settings}Msvm_StorageAllocationSettingData"),
        &["HostResource", "Parent"],
        expect![[r#"
        /disks/1.qcow2
        --
        \\HOST\root\virtualization\v2:Msvm_ResourceAllocationSettingData.InstanceID="Microsoft:00A0\\00D2\\D""#]],
    );
    check(
        &format!("{settings}Msvm_SerialPortSettingData"),
        &["ElementName", "Connection"],
        expect![[r#"
        COM 1
        COM 2
        --
        /run/00A0.com1
        /run/00A0.com2"#]],
    );
    check(
        &format!("{settings}Msvm_EthernetPortAllocationSettingData"),
        &["EnabledState", "HostResource"],
        expect![[r#"
        2
        --
        \\HOST\root\virtualization\v2:Msvm_VirtualEthernetSwitch.CreationClassName="Msvm_VirtualEthernetSwitch",Name="75736572-0000-8000-8000-000000000000""#]],
    );
}

/// Holds: WIRE-G4-1, WIRE-G4-2
#[test]
fn an_adapter_leads_to_its_network() {
    let view = in_state(Power::Off);
    let by_path =
        |class: &str, path: &str| format!("SELECT * FROM {class} WHERE __PATH = '{}'", path.replace('\\', "\\\\"));
    let of = |property| {
        column(&view, "SELECT * FROM Msvm_EthernetPortAllocationSettingData WHERE EnabledState = 2", property)
    };
    let first = |column: String| column.lines().next().unwrap_or_default().to_owned();
    let adapter = by_path("Msvm_SyntheticEthernetPortSettingData", &first(of("Parent")));
    check(&view, &adapter, &["Address"], expect!["020000000001"]);
    let switch = by_path("Msvm_VirtualEthernetSwitch", &first(of("HostResource")));
    check(
        &view,
        &switch,
        &["ElementName", "Name"],
        expect![[r#"
        user
        --
        75736572-0000-8000-8000-000000000000"#]],
    );
    // A network's identity is the name of the switch, in small letters.
    let user = SwitchName::new("user").unwrap().guid();
    let switches = "SELECT * FROM Msvm_VirtualEthernetSwitch WHERE ";
    check(&view, &format!("{switches}Name = '{user}'"), &["ElementName"], expect!["user"]);
    check(&view, &format!("{switches}HealthState = 5"), &["ElementName"], expect!["user"]);
}

#[test]
fn the_most_processors_are_found_in_the_definition_of_their_pool() {
    let view = in_state(Power::Off);
    let most = "SELECT * FROM Msvm_ProcessorSettingData WHERE InstanceID LIKE 'Microsoft:Definition%Maximum'";
    check(&view, most, &["VirtualQuantity"], expect!["240"]);
    // There are no physical disks to hand out, and the driver says so.
    let physical = "SELECT * FROM Msvm_ResourceAllocationSettingData WHERE ResourceSubType = 'Microsoft:Hyper-V:Physical Disk Drive' AND InstanceID LIKE '%Default%'";
    check(&view, physical, &["InstanceID"], expect![""]);
}

#[test]
fn screen_keyboard_and_power_button_are_found() {
    for (power, picture, button) in [(Power::Running, "2", "2"), (Power::Off, "3", "3")] {
        let view = in_state(power);
        let display = format!("SELECT * FROM Msvm_SyntheticDisplayController WHERE SystemName = '{VM}'");
        let id = column(&view, &display, "DeviceID");
        // The id stands in the query as it is, with single backslashes.
        let heads = format!(
            "ASSOCIATORS OF {{Msvm_SyntheticDisplayController.CreationClassName='Msvm_SyntheticDisplayController',DeviceID='{id}',SystemCreationClassName='Msvm_ComputerSystem',SystemName='{VM}'}} WHERE AssocClass = Msvm_VideoHeadOnController ResultClass = Msvm_VideoHead"
        );
        assert_eq!(column(&view, &heads, "EnabledState"), picture, "{power:?}");
        check(
            &view,
            &heads,
            &["CurrentHorizontalResolution", "CurrentVerticalResolution"],
            expect![[r#"
            480
            --
            360"#]],
        );
        let button_of = format!("SELECT * FROM Msvm_ShutdownComponent WHERE SystemName = '{VM}'");
        assert_eq!(column(&view, &button_of, "EnabledState"), button, "{power:?}");
        let keyboard = format!(
            "ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{VM}'}} WHERE ResultClass = Msvm_Keyboard"
        );
        let id = column(&view, &keyboard, "DeviceID");
        assert!(id.eq_ignore_ascii_case(&format!(r"Microsoft:{VM}\f912ad6d-2b17-48ea-bd65-f927a61c7684")), "{id}");
    }
}
