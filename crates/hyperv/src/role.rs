//! Who may call what: the one table from methods to the least role that may call them.
//!
//! ```text
//!   Read        every Get, Enumerate, GetClass, Subscribe, and methods that only tell
//!   Operate     what happens to machines that are there: power, snapshots, keyboard, jobs
//!   Administer  everything else: machines come, change and go, files of the host are named
//! ```
//! A method that is not in the table needs [`Role::Administer`], so forgetting one closes a door rather than opening it;
//! a test names every method that does something here and is not in the table.
//!
//! Hyper-V says "access denied" with return value 32769 where a method's declaration lists it. The methods of CIM's own
//! family have no number for it; their callers get WMI's error, as they would for the whole namespace.

use cim::class::Method;
use cim::{Error, Status};
use ledger::failure::{Failure, Kind};

use crate::codes;
use crate::invoke::{Outcome, Reaction};

/// What somebody may do; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look.
    Read,
    /// Use what is there.
    Operate,
    /// Everything.
    Administer,
}

impl Role {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Administer => "administer",
        }
    }
}

const SNAPSHOTS: &str = "Msvm_VirtualSystemSnapshotService";
const IMAGES: &str = "Msvm_ImageManagementService";
const MANAGEMENT: &str = "Msvm_VirtualSystemManagementService";

/// Class, method, and the least role that may call it.
const TABLE: &[(&str, &str, Role)] = &[
    (SNAPSHOTS, "CreateSnapshot", Role::Operate),
    (SNAPSHOTS, "ApplySnapshot", Role::Operate),
    (SNAPSHOTS, "DestroySnapshot", Role::Operate),
    (SNAPSHOTS, "DestroySnapshotTree", Role::Operate),
    (SNAPSHOTS, "ClearSnapshotState", Role::Operate),
    (MANAGEMENT, "GetSizeOfSystemFiles", Role::Read),
    (MANAGEMENT, "GetSummaryInformation", Role::Read),
    (MANAGEMENT, "GetVirtualSystemThumbnailImage", Role::Read),
    (MANAGEMENT, "FormatError", Role::Read),
    (MANAGEMENT, "DefineSystem", Role::Administer),
    (MANAGEMENT, "DestroySystem", Role::Administer),
    (MANAGEMENT, "ModifySystemSettings", Role::Administer),
    (MANAGEMENT, "AddResourceSettings", Role::Administer),
    (MANAGEMENT, "ModifyResourceSettings", Role::Administer),
    (MANAGEMENT, "RemoveResourceSettings", Role::Administer),
    (IMAGES, "CreateVirtualHardDisk", Role::Administer),
    (IMAGES, "ConvertVirtualHardDisk", Role::Administer),
    (IMAGES, "ResizeVirtualHardDisk", Role::Administer),
    (IMAGES, "MergeVirtualHardDisk", Role::Administer),
    (IMAGES, "ValidateVirtualHardDisk", Role::Administer),
    (IMAGES, "GetVirtualHardDiskSettingData", Role::Administer),
    (IMAGES, "GetVirtualHardDiskState", Role::Administer),
    ("Msvm_ComputerSystem", "RequestStateChange", Role::Operate),
    ("Msvm_ShutdownComponent", "InitiateShutdown", Role::Operate),
    ("Msvm_ConcreteJob", "RequestStateChange", Role::Operate),
    ("Msvm_ConcreteJob", "GetError", Role::Read),
    ("Msvm_ConcreteJob", "GetErrorEx", Role::Read),
    ("Msvm_Keyboard", "IsKeyPressed", Role::Read),
    ("Msvm_Keyboard", "PressKey", Role::Operate),
    ("Msvm_Keyboard", "ReleaseKey", Role::Operate),
    ("Msvm_Keyboard", "TypeCtrlAltDel", Role::Operate),
    ("Msvm_Keyboard", "TypeKey", Role::Operate),
    ("Msvm_Keyboard", "TypeScancodes", Role::Operate),
    ("Msvm_Keyboard", "TypeText", Role::Operate),
];

/// The least role that may call a method; names in any case, the class being the one that is served.
pub fn needed(class: &str, method: &str) -> Role {
    row(class, method).unwrap_or(Role::Administer)
}

fn row(class: &str, method: &str) -> Option<Role> {
    TABLE.iter().find(|(of, name, _)| cim::case::eq(of, class) && cim::case::eq(name, method)).map(|(_, _, role)| *role)
}

/// The answer to somebody who may not call this, or `None` if he may.
///
/// # Errors
/// For methods whose declaration has no return value for it.
pub(crate) fn denial(role: Role, class: &str, method: &Method) -> Result<Option<Reaction>, Error> {
    let needed = needed(class, &method.name);
    if role >= needed {
        return Ok(None);
    }
    let text = format!("the role {} may not call {}: it takes {}", role.name(), method.name, needed.name());
    let declared = method.qualifiers.texts("ValueMap").any(|number| number == codes::ACCESS_DENIED.to_string());
    if !declared {
        return Err(Error::new(Status::AccessDenied, text));
    }
    let failure = Failure::new(Kind::AccessDenied, text).hint("ask an administrator of the service for another role");
    Ok(Some(Reaction::Done(Outcome::refused(failure))))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use ledger::job::{JobKind, JobState};

    use super::*;
    use crate::object::Object;
    use crate::schema::VIRTUALIZATION;
    use crate::view::View;
    use crate::world::*;

    fn target(view: &View, object: Object) -> cim::op::Target {
        cim::op::Target::from_path(object.path(view), VIRTUALIZATION)
    }

    fn everything() -> View {
        let mut state = with_snapshot();
        state.put_job(job(1, JobKind::Start, None, JobState::Running));
        view(state)
    }

    /// Every object that there is.
    fn objects(view: &View) -> Vec<Object> {
        let classes = crate::read::find::CLASSES.into_iter().chain(crate::part::CLASSES);
        classes.flat_map(|class| crate::read::find::objects(&view.state, class)).collect()
    }

    #[test]
    fn every_method_that_does_something_has_a_role() {
        let view = everything();
        let schema = std::sync::Arc::clone(view.namespaces.virtualization());
        let mut missing = Vec::new();
        for object in objects(&view) {
            let class = schema.class(object.class()).unwrap();
            let methods: Vec<String> = class.methods().iter().map(|method| method.name.clone()).collect();
            for method in methods {
                let target = target(&view, object);
                let nothing = format!("{method} is not supported by {}", object.class());
                let is_served = !show(call(&view, target, &method, Vec::new())).contains(&nothing);
                if is_served && row(object.class(), &method).is_none() {
                    missing.push(format!("{}.{method}", object.class()));
                }
            }
        }
        assert_eq!(missing, Vec::<String>::new(), "say in TABLE who may call these");
    }

    #[test]
    fn every_row_names_a_declared_method() {
        let view = everything();
        for (class, method, _) in TABLE {
            let declared = view.namespaces.virtualization().class(class).and_then(|class| class.method(method));
            assert!(declared.is_some_and(|declared| declared.name == *method), "{class}.{method}");
        }
    }

    #[test]
    fn refusals_are_in_the_method_s_own_family() {
        let check = |role: Role, target: cim::op::Target, method: &str, expected: Expect| {
            let view = View { role, ..everything() };
            expected.assert_eq(&show(call(&view, target, method, Vec::new())));
        };
        check(
            Role::Read,
            snapshot_service(),
            "createsnapshot",
            expect!["fault WBEM_E_ACCESS_DENIED: the role read may not call CreateSnapshot: it takes operate"],
        );
        check(
            Role::Operate,
            management_service(),
            "DefineSystem",
            expect!["fault WBEM_E_ACCESS_DENIED: the role operate may not call DefineSystem: it takes administer"],
        );
        check(
            Role::Operate,
            management_service(),
            "GetSummaryInformation",
            expect!["0 SummaryInformation=instance of Msvm_SummaryInformation"],
        );
        check(
            Role::Read,
            system(V),
            "RequestStateChange",
            expect![
                "32769: the role read may not call RequestStateChange: it takes operate: ask an administrator of the service for another role"
            ],
        );
        check(Role::Operate, system(V), "RequestStateChange", expect!["32773: RequestedState is missing"]);
        let job = target(&everything(), Object::Job(job_id(1)));
        check(
            Role::Read,
            job.clone(),
            "RequestStateChange",
            expect!["fault WBEM_E_ACCESS_DENIED: the role read may not call RequestStateChange: it takes operate"],
        );
        check(Role::Read, job, "GetErrorEx", expect!["0 Errors=-"]);
    }
}
