//! `root\cimv2`: what clients of Hyper-V look up about the host before they look at machines.
//!
//! A handful of instances, made anew for each question. Classes of files and performance counters are known and empty.

use cim::op::{Query, Row, Rows, Target};
use cim::{Class, DateTime, Error, Instance, Schema, Status, case};

use crate::class::with_every_boolean;
use crate::read::known;
use crate::view::{View, datetime};

const SYSTEM: &str = "Win32_ComputerSystem";
const PROCESSOR: &str = "Win32_Processor";
const SYSTEM_PROCESSOR: &str = "Win32_ComputerSystemProcessor";

/// Version of Windows whose Hyper-V comes closest to what is here: Server 2019. Clients choose by it which namespace
/// they speak to, so it is not the version of this program.
const WINDOWS_VERSION: &str = "10.0.17763";

/// One instance, whose keys may be incomplete as long as they name only one.
///
/// # Errors
/// An unknown class, no such instance, or several of them.
pub fn get(view: &View, schema: &Schema, target: &Target) -> Result<Row, Error> {
    let mut found = rows_of(view, schema, known(schema, &target.class)?);
    found.retain(|row| target.matches(&row.instance));
    match (found.pop(), found.is_empty()) {
        (Some(row), true) => Ok(row),
        (Some(_), false) => {
            Err(Error::new(Status::InvalidParameter, format!("several instances match {}", target.to_path())))
        }
        (None, _) => Err(Error::not_found(target.to_path().relative())),
    }
}

/// The answers to a query.
///
/// # Errors
/// Unknown classes, queries that cannot be evaluated, and sources of associations that do not exist.
pub fn enumerate(view: &View, schema: &Schema, query: Query) -> Result<Rows, Error> {
    let all = |class: &str| Ok::<_, Error>(rows_of(view, schema, known(schema, class)?));
    let answer = |rows: Vec<Row>| Rows::new(rows.into_iter().map(Ok));
    match query {
        Query::Class { class, .. } => Ok(answer(all(&class)?)),
        Query::Selectors { class, keys } => {
            let target = Target { keys, ..Target::new(schema.namespace(), class.as_str()) };
            Ok(answer(all(&class)?.into_iter().filter(|row| target.matches(&row.instance)).collect()))
        }
        Query::Select(select) => {
            let filter = select.resolve(schema, &view.host.name)?;
            let rows = all(&select.class)?.into_iter().filter(|row| filter.matches(&row.instance)).collect();
            Ok(answer(rows).with_projection(filter.projection().map(<[String]>::to_vec)))
        }
        Query::Associators { source, association_class, result_class, detail, .. } => {
            let found = get(view, schema, &source)?;
            for class in [&association_class, &result_class].into_iter().flatten() {
                known(schema, class)?;
            }
            let is_through = association_class.is_none_or(|class| case::eq(&class, SYSTEM_PROCESSOR));
            let ends = match found.instance.class().name.as_str() {
                SYSTEM if is_through => all(PROCESSOR)?,
                PROCESSOR if is_through => all(SYSTEM)?,
                _ => Vec::new(),
            };
            let is_result = |row: &Row| result_class.as_ref().is_none_or(|class| row.instance.class().is_a(class));
            Ok(answer(ends.into_iter().filter(is_result).collect()).with_detail(detail))
        }
        Query::References { source, result_class, detail, .. } => {
            let found = get(view, schema, &source)?;
            let links = all(result_class.as_deref().unwrap_or(SYSTEM_PROCESSOR))?;
            let touches = |row: &Row| {
                let mut ends = row.instance.properties().filter_map(|(_, value)| value?.as_reference());
                ends.any(|end| end.same_object(&found.path))
            };
            Ok(answer(links.into_iter().filter(touches).collect()).with_detail(detail))
        }
    }
}

fn rows_of(view: &View, schema: &Schema, class: &Class) -> Vec<Row> {
    let blank =
        |class: &str| Instance::with_defaults(schema.class(class).expect("a class of cimv2.mof, a test makes it"));
    let row = |instance: Instance| {
        let instance = with_every_boolean(instance);
        Row { path: instance.path(&view.host.name, schema.namespace()), instance }
    };
    let instance = match class.name.as_str() {
        SYSTEM => system(view, blank(SYSTEM)),
        PROCESSOR => processor(view, blank(PROCESSOR)),
        name @ "Win32_ComputerSystemProduct" => product(view, blank(name)),
        name @ "Win32_OperatingSystem" => operating_system(view, blank(name)),
        SYSTEM_PROCESSOR => blank(SYSTEM_PROCESSOR)
            .with("GroupComponent", row(system(view, blank(SYSTEM))).path)
            .with("PartComponent", row(processor(view, blank(PROCESSOR))).path),
        _ => return Vec::new(),
    };
    vec![row(instance)]
}

fn system(view: &View, blank: Instance) -> Instance {
    let name = &view.host.name;
    blank
        .with("Name", name)
        .with("Caption", name)
        .with("DNSHostName", name)
        .with("CreationClassName", SYSTEM)
        .with("Description", "Snapvisor host")
        .with("Manufacturer", "Snapvisor")
        .with("Model", "Snapvisor host")
        .with("SystemType", "x64-based PC")
        .with("Status", "OK")
        .with("Domain", "WORKGROUP")
        .with("Workgroup", "WORKGROUP")
        // A server that belongs to no domain.
        .with("DomainRole", 2u16)
        .with("CurrentTimeZone", view.utc_offset_minutes)
        .with("NumberOfProcessors", 1u32)
        .with("NumberOfLogicalProcessors", view.host.processors)
        .with("TotalPhysicalMemory", view.host.memory_bytes)
}

fn processor(view: &View, blank: Instance) -> Instance {
    blank
        .with("DeviceID", "CPU0")
        .with("Name", "x86-64 processor")
        .with("Caption", "x86-64 processor")
        .with("CreationClassName", PROCESSOR)
        .with("SystemCreationClassName", SYSTEM)
        .with("SystemName", &view.host.name)
        .with("Architecture", 9u16)
        .with("AddressWidth", 64u16)
        .with("DataWidth", 64u16)
        .with("MaxClockSpeed", 0u32)
        .with("CurrentClockSpeed", 0u32)
        .with("Status", "OK")
        .with("NumberOfCores", view.host.processors)
        .with("NumberOfLogicalProcessors", view.host.processors)
}

fn product(view: &View, blank: Instance) -> Instance {
    let uuid = format!("{:X}", view.host.uuid.as_hyphenated());
    blank
        .with("Name", "Snapvisor host")
        .with("Caption", "Snapvisor host")
        .with("Vendor", "Snapvisor")
        .with("Version", "1")
        .with("IdentifyingNumber", uuid.as_str())
        .with("UUID", uuid)
}

fn operating_system(view: &View, blank: Instance) -> Instance {
    let local = match datetime(view.now) {
        DateTime::Timestamp(now) => now.at_offset(view.utc_offset_minutes).map(DateTime::Timestamp),
        DateTime::Interval(_) => None,
    };
    blank
        .with("Name", "Snapvisor")
        .with("Caption", "Snapvisor on Linux")
        .with("CreationClassName", "Win32_OperatingSystem")
        .with("CSCreationClassName", SYSTEM)
        .with("CSName", &view.host.name)
        .with("Version", WINDOWS_VERSION)
        .with("BuildNumber", "17763")
        .with("OSArchitecture", "64-bit")
        // 36 is Linux; 3 a server.
        .with("OSType", 36u16)
        .with("ProductType", 3u32)
        .with("Primary", true)
        .with("Status", "OK")
        .with("CurrentTimeZone", view.utc_offset_minutes)
        .with("TotalVisibleMemorySize", view.host.memory_bytes / 1024)
        .with("FreePhysicalMemory", (view.host.free_memory)() / 1024)
        .with_some("LocalDateTime", local)
}

#[cfg(test)]
mod tests {
    use cim::wql;
    use expect_test::{Expect, expect};

    use super::*;
    use crate::schema::CIMV2;
    use crate::world;

    fn check(query: &str, expected: Expect) {
        let view = world::view(world::one_vm());
        let query = Query::from_wql(wql::parse(query).unwrap(), CIMV2);
        let shown = match crate::read::enumerate(&view, "ROOT/CIMV2", query) {
            Ok(rows) => rows.map(|row| row.unwrap().path.to_string()).collect::<Vec<_>>().join("\n"),
            Err(error) => format!("{}: {error}", error.status),
        };
        expected.assert_eq(&shown);
    }

    /// Holds: WIRE-G5-1, WIRE-G5-2
    #[test]
    fn the_host_is_found_in_the_ways_clients_look_for_it() {
        check("select * from Win32_ComputerSystem", expect![[r#"\\HOST\root\cimv2:Win32_ComputerSystem.Name="HOST""#]]);
        check(
            "select * from Win32_OperatingSystem where Version like '10.0.%'",
            expect![[r#"\\HOST\root\cimv2:Win32_OperatingSystem.Name="Snapvisor""#]],
        );
        check(
            "select UUID from Win32_ComputerSystemProduct",
            expect![[
                r#"\\HOST\root\cimv2:Win32_ComputerSystemProduct.IdentifyingNumber="00000000-0000-0000-0000-000000000040",Name="Snapvisor host",Version="1""#
            ]],
        );
        let of = "associators of {Win32_ComputerSystem.Name='host'}";
        check(
            &format!("{of} where AssocClass = Win32_ComputerSystemProcessor ResultClass = Win32_Processor"),
            expect![[r#"\\HOST\root\cimv2:Win32_Processor.DeviceID="CPU0""#]],
        );
        check(&format!("{of} where ResultClass = CIM_DataFile"), expect![""]);
        check(
            "references of {Win32_Processor.DeviceID='CPU0'}",
            expect![[
                r#"\\HOST\root\cimv2:Win32_ComputerSystemProcessor.GroupComponent="\\\\HOST\\root\\cimv2:Win32_ComputerSystem.Name=\"HOST\"",PartComponent="\\\\HOST\\root\\cimv2:Win32_Processor.DeviceID=\"CPU0\"""#
            ]],
        );
        check("select * from CIM_DataFile where Path='\\\\windows\\\\system32\\\\' and FileName='vmms'", expect![""]);
        check(
            "select * from Win32_Nothing",
            expect!["WBEM_E_INVALID_CLASS: there is no class Win32_Nothing in this namespace"],
        );
        check(
            "associators of {Win32_ComputerSystem.Name='other'}",
            expect![[r#"WBEM_E_NOT_FOUND: Win32_ComputerSystem.Name="other" does not exist"#]],
        );
    }
}
