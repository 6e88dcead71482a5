//! `snapvisor disk …`

use std::path::{Path, PathBuf};

use cim::op::{Argument, Target};
use serde_json::json;
use wsman::client::Bag;

use super::job::{finish, text};
use crate::args::Disk;
use crate::error::{Error, Kind, Result};
use crate::output::Output;
use crate::session::{Session, class, embedded};
use crate::show::table::fields;
use crate::units::{self, MemorySize};

/// `Type`: takes up all of its space.
const FIXED: &str = "2";
/// The same: grows.
const DYNAMIC: &str = "3";
/// The same: lies on another one.
const DIFFERENCING: &str = "4";

/// Carries out one of the commands.
///
/// # Errors
/// When the daemon cannot be reached or refuses, or the job did not complete.
pub fn run(session: &mut Session, command: Disk) -> Result<Output> {
    match command {
        Disk::Create { path, size, parent, fixed } => {
            let path = full(&path)?;
            let parent = parent.as_deref().map(full).transpose()?;
            let kind = if parent.is_some() { DIFFERENCING } else { kind(fixed) };
            let size = size.map(|size| bytes(size).to_string());
            let mut properties = vec![("Path", path.as_str()), ("Type", kind)];
            properties.extend(parent.as_deref().map(|parent| ("ParentPath", parent)));
            properties.extend(size.as_deref().map(|size| ("MaxInternalSize", size)));
            let settings = Argument::Instance(embedded("Msvm_VirtualHardDiskSettingData", &properties));
            let arguments = vec![("VirtualDiskSettingData".to_owned(), settings)];
            call(session, "CreateVirtualHardDisk", arguments, &format!("{path} created"))
        }
        Disk::Info { path } => info(session, &path),
        Disk::Resize { path, size } => {
            let path = full(&path)?;
            let arguments = vec![text("Path", &path), text("MaxInternalSize", &bytes(size).to_string())];
            call(session, "ResizeVirtualHardDisk", arguments, &format!("{path} holds {size} now"))
        }
        Disk::Convert { source, path, fixed } => {
            let (source, path) = (full(&source)?, full(&path)?);
            // Declared as plain text, unlike its neighbour.
            let settings = format!(
                "instance of Msvm_VirtualHardDiskSettingData {{ Path = \"{}\"; Type = {}; }};",
                path.replace('\\', r"\\").replace('"', "\\\""),
                kind(fixed)
            );
            let arguments = vec![text("SourcePath", &source), text("VirtualDiskSettingData", &settings)];
            call(session, "ConvertVirtualHardDisk", arguments, &format!("{source} copied to {path}"))
        }
        Disk::Merge { child, parent } => {
            let (child, parent) = (full(&child)?, full(&parent)?);
            let arguments = vec![text("SourcePath", &child), text("DestinationPath", &parent)];
            call(session, "MergeVirtualHardDisk", arguments, &format!("{child} merged into {parent}"))
        }
        Disk::Check { path } => {
            let path = full(&path)?;
            call(session, "ValidateVirtualHardDisk", vec![text("Path", &path)], &format!("{path} has no damage"))
        }
    }
}

fn info(session: &mut Session, path: &Path) -> Result<Output> {
    let path = full(path)?;
    let mut ask = |method: &str, output: &str| -> Result<Bag> {
        let called = session.invoke(service(), method, vec![text("Path", &path)])?;
        let instance = called.outputs.values(output).find_map(|value| match value {
            Argument::Instance(instance) => Some(instance.clone()),
            Argument::Text(text) => cim::embedded::parse(text).ok(),
            _ => None,
        });
        instance.map(Bag).ok_or_else(|| Error::new(Kind::Failed, format!("the daemon gave no {output}")))
    };
    let settings = ask("GetVirtualHardDiskSettingData", "SettingData")?;
    let state = ask("GetVirtualHardDiskState", "State")?;
    let kind = match settings.text("Type") {
        Some(FIXED) => "fixed",
        Some(DIFFERENCING) => "differencing",
        _ => "dynamic",
    };
    let size = settings.number("MaxInternalSize").unwrap_or(0);
    let file = state.number("FileSize").unwrap_or(0);
    let in_use = state.flag("InUse").unwrap_or(false);
    let parent = settings.text("ParentPath");
    let real = settings.text("Path").unwrap_or(&path);
    let mut rows = vec![
        ("path", real.to_owned()),
        ("type", kind.to_owned()),
        ("size", units::bytes(size)),
        ("file", units::bytes(file)),
        ("in use", if in_use { "yes" } else { "no" }.to_owned()),
    ];
    rows.extend(parent.map(|parent| ("lies on", parent.to_owned())));
    let json = json!({
        "path": real, "type": kind, "size": size, "file_bytes": file, "in_use": in_use, "parent": parent,
    });
    Ok(Output::new(fields(&rows), json))
}

/// Image work has no machine to name; it is waited for, because the next command will want the file.
fn call(session: &mut Session, method: &str, arguments: Vec<(String, Argument)>, done: &str) -> Result<Output> {
    let called = session.invoke(service(), method, arguments)?;
    let job = finish(session, &called)?;
    Ok(Output::new(format!("{done}\n"), json!({ "job": job })))
}

fn service() -> Target {
    class("Msvm_ImageManagementService")
}

fn kind(fixed: bool) -> &'static str {
    if fixed { FIXED } else { DYNAMIC }
}

fn bytes(size: MemorySize) -> u64 {
    size.mib.saturating_mul(1 << 20)
}

/// The path as the daemon needs it, which has a working directory of its own.
fn full(path: &Path) -> Result<String> {
    let absolute: Option<PathBuf> = std::path::absolute(path).ok();
    let text = absolute.and_then(|path| path.into_os_string().into_string().ok());
    text.ok_or_else(|| Error::new(Kind::Usage, format!("{} is no path of a file, or not text", path.display())))
}
