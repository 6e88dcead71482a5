//! `Msvm_ImageManagementService`: disk images that belong to no machine.
//!
//! As on Windows, the extension of a file's name is its format: `.vhd` and `.vhdx`, and here `.qcow2` (which machines and
//! their snapshots use) and `.raw` or `.img`. `Format` has numbers for Hyper-V's own two only; the others are 32768 and 32769,
//! from the range that CIM leaves to vendors. It may be left out, and must fit the name if it is there.

use cim::{Instance, Value, embedded};
use ledger::failure::Failure;
use ledger::image_file::{FileFormat, ImageWork};
use ledger::question::{ImageFacts, Question};
use ledger::request::Request;

use super::{Call, Reaction, invalid};
use crate::class::blank;
use crate::inquiry::Inquiry;
use crate::view::{View, datetime};

/// `Format`.
const FORMATS: [(u64, FileFormat); 4] =
    [(2, FileFormat::Vhd), (3, FileFormat::Vhdx), (32768, FileFormat::Qcow2), (32769, FileFormat::Raw)];
/// `Type`.
const FIXED: u64 = 2;
const DYNAMIC: u64 = 3;
const DIFFERENCING: u64 = 4;

pub fn invoke(call: &Call) -> Result<Reaction, Failure> {
    let work = match call.method.name.as_str() {
        "GetVirtualHardDiskSettingData" => {
            let question = Question::Image(path(call, "Path")?);
            return Ok(Reaction::Ask(Inquiry::image(question, "SettingData", call.view, setting_data)));
        }
        "GetVirtualHardDiskState" => {
            let question = Question::Image(path(call, "Path")?);
            return Ok(Reaction::Ask(Inquiry::image(question, "State", call.view, state)));
        }
        "CreateVirtualHardDisk" => create(&settings(call)?)?,
        "ConvertVirtualHardDisk" => convert(call)?,
        "ResizeVirtualHardDisk" => {
            let size = call.number("MaxInternalSize").ok_or_else(|| invalid("MaxInternalSize is missing"))?;
            ImageWork::Resize { path: path(call, "Path")?, size }
        }
        "MergeVirtualHardDisk" => {
            ImageWork::Merge { child: path(call, "SourcePath")?, parent: path(call, "DestinationPath")? }
        }
        "ValidateVirtualHardDisk" => ImageWork::Validate { path: path(call, "Path")? },
        _ => return Ok(call.not_supported()),
    };
    call.start(Request::WorkOnImage(work))
}

fn create(settings: &Instance) -> Result<ImageWork, Failure> {
    let path = named(settings, "Path").ok_or_else(|| invalid("Path is missing in VirtualDiskSettingData"))?;
    check_format(settings, &path)?;
    let parent = named(settings, "ParentPath");
    let size = settings.number("MaxInternalSize").filter(|size| *size > 0);
    let fixed = match (kind(settings)?, &parent) {
        (Some(DIFFERENCING), None) => return Err(invalid("a differencing disk needs a ParentPath")),
        (Some(FIXED), _) => true,
        (Some(DYNAMIC), Some(_)) => {
            return Err(invalid("a disk with a ParentPath is a differencing one").hint("set Type to 4"));
        }
        _ => false,
    };
    Ok(ImageWork::Create { path, size, fixed, parent })
}

fn convert(call: &Call) -> Result<ImageWork, Failure> {
    let settings = settings(call)?;
    let source = path(call, "SourcePath")?;
    let path = named(&settings, "Path").ok_or_else(|| invalid("Path is missing in VirtualDiskSettingData"))?;
    check_format(&settings, &path)?;
    if kind(&settings)? == Some(DIFFERENCING) {
        return Err(invalid("a copy holds all of its content").hint("use Type 2 (fixed) or 3 (dynamic)"));
    }
    Ok(ImageWork::Convert { source, path, fixed: kind(&settings)? == Some(FIXED) })
}

/// The embedded settings, which some methods declare as plain text.
fn settings(call: &Call) -> Result<Instance, Failure> {
    const PARAMETER: &str = "VirtualDiskSettingData";
    if let Some(instance) = call.instance(PARAMETER) {
        return Ok(instance.clone());
    }
    let text = call.text(PARAMETER).ok_or_else(|| invalid(format!("{PARAMETER} is missing")))?;
    let wrong = |error: &dyn std::fmt::Display| invalid(format!("{PARAMETER} cannot be read: {error}"));
    let parsed = embedded::parse(text).map_err(|error| wrong(&error))?;
    let instance = parsed.typed(call.view.namespaces.virtualization()).map_err(|error| wrong(&error))?;
    let class = &instance.class().name;
    let fits = class == "Msvm_VirtualHardDiskSettingData";
    fits.then_some(()).ok_or_else(|| invalid(format!("{PARAMETER} is a {class}")))?;
    Ok(instance)
}

fn kind(settings: &Instance) -> Result<Option<u64>, Failure> {
    match settings.number("Type") {
        None | Some(0) => Ok(None),
        Some(kind @ (FIXED | DYNAMIC | DIFFERENCING)) => Ok(Some(kind)),
        Some(other) => {
            Err(invalid(format!("Type {other} does not exist")).hint("use 2 (fixed), 3 (dynamic) or 4 (differencing)"))
        }
    }
}

fn check_format(settings: &Instance, path: &std::path::Path) -> Result<(), Failure> {
    let Some(number) = settings.number("Format").filter(|number| *number > 0) else { return Ok(()) };
    let named = FileFormat::of_name(path);
    let asked = FORMATS.iter().find(|(known, _)| *known == number).map(|(_, format)| *format);
    if asked.is_some() && asked == named {
        return Ok(());
    }
    Err(invalid(format!("Format {number} does not fit the name {}", path.display()))
        .hint("2 is .vhd, 3 is .vhdx, 32768 is .qcow2, 32769 is .raw or .img; leave Format out to go by the name"))
}

fn path(call: &Call, parameter: &str) -> Result<std::path::PathBuf, Failure> {
    let text = call.text(parameter).filter(|text| !text.is_empty());
    let path = std::path::PathBuf::from(text.ok_or_else(|| invalid(format!("{parameter} is missing")))?);
    if path.is_absolute() { Ok(path) } else { Err(invalid(format!("{parameter} is not an absolute path"))) }
}

fn named(settings: &Instance, property: &str) -> Option<std::path::PathBuf> {
    settings.text(property).filter(|text| !text.is_empty()).map(Into::into)
}

/// `Msvm_VirtualHardDiskSettingData`
fn setting_data(view: &View, image: &ImageFacts) -> Instance {
    let kind = match (&image.parent, image.fixed) {
        (Some(_), _) => DIFFERENCING,
        (None, true) => FIXED,
        (None, false) => DYNAMIC,
    };
    let format = FORMATS.iter().find(|(_, format)| *format == image.format).map(|(number, _)| *number);
    let number = |number: u64| u16::try_from(number).ok();
    let name = image.path.to_string_lossy().into_owned();
    blank(view, "Msvm_VirtualHardDiskSettingData")
        .with("InstanceID", &name)
        .with("ElementName", &name)
        .with("Path", &name)
        .with_some("Type", number(kind))
        .with_some("Format", format.and_then(number))
        .with_some("ParentPath", image.parent.as_ref().map(|parent| parent.to_string_lossy().into_owned()))
        .with("MaxInternalSize", image.size)
        .with("LogicalSectorSize", 512u32)
        .with("PhysicalSectorSize", 512u32)
        .with("PmemAddressAbstractionType", 0u16)
        .with("IsPmemCompatible", false)
}

/// `Msvm_VirtualHardDiskState`
fn state(view: &View, image: &ImageFacts) -> Instance {
    blank(view, "Msvm_VirtualHardDiskState")
        .with("FileSize", image.file_bytes)
        .with("InUse", image.in_use)
        // Disks do not shrink here.
        .with("MinInternalSize", image.size)
        .with("PhysicalSectorSize", 512u32)
        .with("Alignment", 1u32)
        .with("Timestamp", Value::DateTime(datetime(image.modified)))
}
