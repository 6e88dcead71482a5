//! What lies outside of what is served here: it exists in the schema, and says that it is not supported.

use std::collections::BTreeMap;

use cim::op::Target;
use expect_test::{Expect, expect};

use crate::Reaction;
use crate::schema::VIRTUALIZATION;
use crate::world::*;

fn check(class: &str, method: &str, expected: Expect) {
    let target = Target::new(VIRTUALIZATION, class);
    expected.assert_eq(&show(call(&view(with_snapshot()), target, method, vec![])));
}

/// Holds: SNAP-14-1
#[test]
fn collections_and_replication_are_declared_only() {
    check(
        "Msvm_CollectionSnapshotService",
        "CreateSnapshot",
        expect!["1: CreateSnapshot is not supported by Msvm_CollectionSnapshotService"],
    );
    check(
        "Msvm_ReplicationService",
        "InitiateFailover",
        expect!["32770: InitiateFailover is not supported by Msvm_ReplicationService"],
    );
}

/// Holds: SNAP-11-1
#[test]
fn reference_points_are_declared_only() {
    check(
        "Msvm_VirtualSystemReferencePointService",
        "CreateReferencePoint",
        expect!["1: CreateReferencePoint is not supported by Msvm_VirtualSystemReferencePointService"],
    );
    check(
        "Msvm_VirtualSystemReferencePointService",
        "DestroyReferencePoint",
        expect!["32770: DestroyReferencePoint is not supported by Msvm_VirtualSystemReferencePointService"],
    );
    check(
        "Msvm_VirtualSystemReferencePointService",
        "ExportReferencePoint",
        expect!["32770: ExportReferencePoint is not supported by Msvm_VirtualSystemReferencePointService"],
    );
    check(
        "Msvm_VirtualSystemReferencePointService",
        "ImportReferencePointMetadata",
        expect!["32770: ImportReferencePointMetadata is not supported by Msvm_VirtualSystemReferencePointService"],
    );
}

/// Holds: SNAP-12-1, SNAP-12-2
#[test]
fn export_and_planned_systems_are_declared_only() {
    check(
        "Msvm_VirtualSystemManagementService",
        "ExportSystemDefinition",
        expect!["32770: ExportSystemDefinition is not supported by Msvm_VirtualSystemManagementService"],
    );
    check(
        "Msvm_VirtualSystemManagementService",
        "ImportSystemDefinition",
        expect!["32770: ImportSystemDefinition is not supported by Msvm_VirtualSystemManagementService"],
    );
    check(
        "Msvm_VirtualSystemManagementService",
        "ImportSnapshotDefinitions",
        expect!["32770: ImportSnapshotDefinitions is not supported by Msvm_VirtualSystemManagementService"],
    );
    check(
        "Msvm_VirtualSystemManagementService",
        "ValidatePlannedSystem",
        expect!["32770: ValidatePlannedSystem is not supported by Msvm_VirtualSystemManagementService"],
    );
    check(
        "Msvm_VirtualSystemManagementService",
        "RealizePlannedSystem",
        expect!["32770: RealizePlannedSystem is not supported by Msvm_VirtualSystemManagementService"],
    );
    check(
        "Msvm_VirtualSystemManagementService",
        "DefinePlannedSystem",
        expect!["1: DefinePlannedSystem is not supported by Msvm_VirtualSystemManagementService"],
    );
    check(
        "CIM_VirtualSystemMigrationService",
        "MigrateVirtualSystemToHost",
        expect!["1: MigrateVirtualSystemToHost is not supported by CIM_VirtualSystemMigrationService"],
    );
    check(
        "Msvm_CollectionSnapshotService",
        "NoSuchMethod",
        expect!["fault WBEM_E_INVALID_METHOD: class Msvm_CollectionSnapshotService has no method NoSuchMethod"],
    );
}

/// Every method of every class answers, with a code of its own family.
///
/// Holds: SNAP-14-2, SNAP-4.1-3
#[test]
fn every_method_of_a_class_without_instances_has_its_code() {
    let view = view(one_vm());
    let mut answers: BTreeMap<u32, usize> = BTreeMap::new();
    for class in view.namespaces.virtualization().classes() {
        if crate::read::find::has_instances(view.namespaces.virtualization(), &class.name) {
            continue;
        }
        for method in class.methods() {
            let target = Target::new(VIRTUALIZATION, &class.name).with_key("InstanceID", "x");
            let Ok(Reaction::Done(outcome)) = call(&view, target, &method.name, vec![]) else {
                panic!("{} of {} does not answer", method.name, class.name)
            };
            assert!(outcome.refusal.is_some(), "{} of {}", method.name, class.name);
            *answers.entry(outcome.result.return_value).or_default() += 1;
        }
    }
    assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [1, 32770], "{answers:?}");
}
