//! The namespaces and their classes, read from MOF once at start.

use std::sync::Arc;

use cim::{Schema, mof};

/// Where Hyper-V's classes live.
pub const VIRTUALIZATION: &str = r"root\virtualization\v2";

/// Where Windows tells about the host.
pub const CIMV2: &str = r"root\cimv2";

/// MOF of [`VIRTUALIZATION`]: name of the file for messages, and its text. Superclasses come first.
const FILES: [(&str, &str); 7] = [
    ("cim.mof", include_str!("../schema/cim.mof")),
    ("setting.mof", include_str!("../schema/setting.mof")),
    ("system.mof", include_str!("../schema/system.mof")),
    ("device.mof", include_str!("../schema/device.mof")),
    ("other.mof", include_str!("../schema/other.mof")),
    ("association.mof", include_str!("../schema/association.mof")),
    ("event.mof", include_str!("../schema/event.mof")),
];

/// MOF of [`CIMV2`].
const CIMV2_FILES: [(&str, &str); 1] = [("cimv2.mof", include_str!("../schema/cimv2.mof"))];

/// The namespaces served here.
#[derive(Debug)]
pub struct Namespaces {
    virtualization: Arc<Schema>,
    cimv2: Arc<Schema>,
}

impl Namespaces {
    /// Reads the schemas that are part of this program.
    ///
    /// # Panics
    /// If they cannot be read; they are constants, and every test reads them.
    pub fn load() -> Self {
        Self { virtualization: Arc::new(read(VIRTUALIZATION, &FILES)), cimv2: Arc::new(read(CIMV2, &CIMV2_FILES)) }
    }

    /// `root\virtualization\v2`.
    pub fn virtualization(&self) -> &Arc<Schema> {
        &self.virtualization
    }

    /// A namespace by name, written with slashes or backslashes, in any case.
    pub fn find(&self, namespace: &str) -> Option<&Arc<Schema>> {
        [&self.virtualization, &self.cimv2]
            .into_iter()
            .find(|schema| cim::path::same_namespace(schema.namespace(), namespace))
    }
}

fn read(namespace: &str, files: &[(&str, &str)]) -> Schema {
    let mut declarations = Vec::new();
    for (name, text) in files {
        match mof::parse_classes(text) {
            Ok(classes) => declarations.extend(classes),
            Err(error) => panic!("{name}, a part of this program, cannot be read: {error}"),
        }
    }
    Schema::new(namespace, declarations).expect("the classes fit together, every test reads them")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn every_class_of_the_reference_is_there() {
        let namespaces = Namespaces::load();
        assert_eq!(namespaces.virtualization().classes().filter(|class| !class.name.starts_with("__")).count(), 429);
        assert!(namespaces.find("ROOT/virtualization/V2").is_some());
        assert!(namespaces.find("root/cimv2").is_some());
        assert!(namespaces.find("root/virtualization").is_none());
    }

    /// Holds: SNAP-3-5
    #[test]
    fn return_codes_of_the_snapshot_service_come_with_their_texts() {
        let namespaces = Namespaces::load();
        let class = namespaces.virtualization().class("Msvm_VirtualSystemSnapshotService").unwrap();
        let check = |method: &str, codes: [&str; 3], expected: Expect| {
            let texts = class.method(method).unwrap().qualifiers.value_map();
            let of = |code: &str| texts.iter().find(|(known, _)| known == code).map_or("-", |(_, text)| text);
            expected.assert_eq(&codes.map(of).join(", "));
        };
        check(
            "CreateSnapshot",
            ["0", "1", "4096"],
            expect!["Completed with No Error, Not Supported, Method Parameters Checked - Job Started"],
        );
        check(
            "ApplySnapshot",
            ["0", "1", "4096"],
            expect!["Completed with No Error, Not Supported, Method Parameters Checked - Job Started"],
        );
        check(
            "DestroySnapshot",
            ["0", "1", "4096"],
            expect!["Completed with No Error, Not Supported, Method Parameters Checked - Job Started"],
        );
        check(
            "DestroySnapshotTree",
            ["0", "32770", "4096"],
            expect!["Completed with No Error, Not Supported, Method Parameters Checked - Job Started"],
        );
        check(
            "ClearSnapshotState",
            ["0", "32770", "4096"],
            expect!["Completed with No Error, Not Supported, Method Parameters Checked - Job Started"],
        );
        check(
            "ConvertToReferencePoint",
            ["0", "1", "4096"],
            expect!["Completed with No Error, Not Supported, Method Parameters Checked - Job Started"],
        );
    }

    /// Holds: SNAP-1-2, SNAP-1-3, SNAP-7.2-2, SNAP-8.2-1, SNAP-16-3
    #[test]
    fn keys_are_those_of_real_object_paths() {
        let namespaces = Namespaces::load();
        let check = |class: &str, expected: Expect| {
            let class = namespaces.virtualization().class(class).unwrap();
            let mut keys: Vec<&str> = class.keys().map(|key| key.name.as_str()).collect();
            keys.sort_unstable();
            expected.assert_eq(&keys.join(" "));
        };
        check("Msvm_ComputerSystem", expect!["CreationClassName Name"]);
        check("Msvm_ConcreteJob", expect!["InstanceID"]);
        check("Msvm_VirtualSystemSettingData", expect!["InstanceID"]);
        check(
            "Msvm_VirtualSystemSnapshotService",
            expect!["CreationClassName Name SystemCreationClassName SystemName"],
        );
        check("Msvm_LastAppliedSnapshot", expect!["Antecedent Dependent"]);
        check("Msvm_StorageAllocationSettingData", expect!["InstanceID"]);
        check("Msvm_VirtualSystemReferencePoint", expect!["InstanceID VirtualSystemIdentifier"]);
    }

    /// Holds: SNAP-3-4
    #[test]
    fn parameters_keep_their_order_because_callers_pass_them_by_position() {
        let namespaces = Namespaces::load();
        let check = |class: &str, method: &str, expected: Expect| {
            let class = namespaces.virtualization().class(class).unwrap();
            let direction = |is_in, is_out| match (is_in, is_out) {
                (true, true) => "in out",
                (true, false) => "in",
                _ => "out",
            };
            let parameters = class.method(method).unwrap().parameters.iter().map(|parameter| {
                format!("{} {} {}", direction(parameter.is_in, parameter.is_out), parameter.data_type, parameter.name)
            });
            expected.assert_eq(&parameters.collect::<Vec<_>>().join(", "));
        };
        check(
            "Msvm_VirtualSystemSnapshotService",
            "CreateSnapshot",
            expect![
                "in CIM_ComputerSystem REF AffectedSystem, in string SnapshotSettings, in uint16 SnapshotType, in out CIM_VirtualSystemSettingData REF ResultingSnapshot, out CIM_ConcreteJob REF Job"
            ],
        );
        check(
            "Msvm_VirtualSystemSnapshotService",
            "ApplySnapshot",
            expect!["in CIM_VirtualSystemSettingData REF Snapshot, out CIM_ConcreteJob REF Job"],
        );
        check("Msvm_VirtualSystemSnapshotService", "StopService", expect![""]);
        check(
            "Msvm_VirtualSystemManagementService",
            "AddResourceSettings",
            expect![
                "in CIM_VirtualSystemSettingData REF AffectedConfiguration, in string[] ResourceSettings, out CIM_ResourceAllocationSettingData REF[] ResultingResourceSettings, out CIM_ConcreteJob REF Job"
            ],
        );
        check("Msvm_ConcreteJob", "RequestStateChange", expect!["in uint16 RequestedState, in datetime TimeoutPeriod"]);
    }
}
