//! Packages that the guest is made of: fetched through apt, unpacked below the target directory, never installed.
//!
//! Whoever may use the network may do this; root is only asked for when apt has no package lists at all.

use std::fs;
use std::path::PathBuf;

use super::{as_root, candidate_major, words};
use crate::shell::{Context, Failure, Result, Tool, Workspace, step};

/// A package that depends on the newest kernel for virtual machines; the kernel itself changes its name with each
/// version.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The guest's user land, its boot loaders, and the tools that make a bootable disk without root.
const PACKAGES: [&str; 6] =
    ["busybox-static", "grub-common", "grub-efi-amd64-bin", "grub-pc-bin", "libdevmapper1.02.1", "mtools"];

/// Where the unpacked packages are, all in one tree.
pub fn tree(workspace: &Workspace) -> PathBuf {
    workspace.target.join("guest/packages/tree")
}

/// The file names of the fetched packages, with their versions.
pub fn fetched(workspace: &Workspace) -> Result<String> {
    fs::read_to_string(stamp(workspace)).context("the guest's packages are not there; run `cargo xtask setup`")
}

/// Fetches and unpacks the packages unless that was done before.
pub fn fetch(workspace: &Workspace) -> Result<()> {
    if stamp(workspace).exists() && tree(workspace).exists() {
        return Ok(());
    }
    if candidate_major("mtools").is_none() {
        as_root("Reading the package lists", &[words("apt-get update")])?;
    }
    let depends = Tool::new("apt-cache").env("LC_ALL", "C").args(["depends", KERNEL]).read()?;
    let kernel = first_dependency(&depends)
        .ok_or_else(|| Failure::new(format!("apt knows no package {KERNEL}; the guest needs a Debian release")))?;
    step(format!("fetching {kernel} and {} for the guest", PACKAGES.join(", ")));
    let directory = workspace.target.join("guest/packages");
    if directory.exists() {
        fs::remove_dir_all(&directory).context("cannot remove old packages")?;
    }
    fs::create_dir_all(tree(workspace)).context("cannot make the directory for packages")?;
    // Apt would rather download as a user of its own, who may not write here; that only makes it complain.
    let quiet = ["-o", "APT::Sandbox::User=root", "-q", "download", kernel];
    Tool::new("apt-get").directory(&directory).args(quiet).args(PACKAGES).read()?;

    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).context("cannot list the packages")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".deb") {
            Tool::new("dpkg-deb").arg("--extract").arg(entry.path()).arg(tree(workspace)).read()?;
            names.push(name);
        }
    }
    names.sort();
    fs::write(stamp(workspace), names.join("\n")).context("cannot write the packages' stamp")
}

fn stamp(workspace: &Workspace) -> PathBuf {
    workspace.target.join("guest/packages/fetched")
}

/// The package after the first `Depends:` that `apt-cache depends` prints.
fn first_dependency(depends: &str) -> Option<&str> {
    depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_first_dependency() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n  Depends: other\n";
        assert_eq!(first_dependency(text), Some("linux-image-6.1.0-1-cloud-amd64"));
        assert_eq!(first_dependency("linux-image-cloud-amd64\n"), None);
    }
}
