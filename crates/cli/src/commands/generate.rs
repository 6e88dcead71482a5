//! Completions and manual pages, from the declaration of the command line.

use std::path::Path;

use clap_complete::Shell;

use crate::error::{Error, Kind, Result};
use crate::output::Output;

/// The completion script for a shell.
///
/// # Errors
/// None; for symmetry with the other commands.
pub fn completions(shell: Shell, mut program: clap::Command) -> Result<Output> {
    let mut script = Vec::new();
    let name = program.get_name().to_owned();
    clap_complete::generate(shell, &mut program, name, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    Ok(Output::new(script.clone(), serde_json::json!({ "shell": shell.to_string(), "script": script })))
}

/// All manual pages into a directory, or the first one as text.
///
/// # Errors
/// When the directory cannot be written.
pub fn manual(dir: Option<&Path>, program: clap::Command) -> Result<Output> {
    let failed = |error: std::io::Error| Error::new(Kind::Failed, format!("could not write the manual: {error}"));
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(program).render(&mut page).map_err(failed)?;
        let page = String::from_utf8_lossy(&page).into_owned();
        return Ok(Output::new(page.clone(), serde_json::json!({ "page": page })));
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(program, dir).map_err(failed)?;
    Ok(Output::new(format!("manual pages written to {}\n", dir.display()), serde_json::json!({ "directory": dir })))
}
