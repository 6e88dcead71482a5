//! House rules.
use crate::shell::{Result, Workspace};
/// x
pub fn run(_: &Workspace) -> Result<()> {
    Ok(())
}
