//! The command line.

/// Shown when the command line is not understood.
pub const USAGE: &str = "usage: cargo xtask bench [--sizes MIB,MIB…] [--rounds N] [--only snapvisor,qemu,libvirt]\n       cargo xtask bench --wire [--rounds N]";

/// Sizes in MiB unless others are asked for.
const SIZES: [u32; 3] = [512, 2048, 8192];
/// Rounds unless another number is asked for: enough for a median, few enough for a coffee.
const ROUNDS: usize = 5;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The service.
    Snapvisor,
    /// QEMU's own snapshots.
    Qemu,
    /// libvirt's external snapshots.
    Libvirt,
}

/// What is measured.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Sizes of the guests' memory, MiB.
    pub sizes: Vec<u32>,
    /// How often everything is done.
    pub rounds: usize,
    /// The service as a server of questions is measured, instead of snapshots of guests.
    pub wire: bool,
    only: Vec<Who>,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { sizes: SIZES.to_vec(), rounds: ROUNDS, wire: false, only: Vec::new() };
        let mut words = arguments.iter();
        while let Some(name) = words.next() {
            if name == "--wire" {
                options.wire = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--sizes" => options.sizes = list(value, |size| size.parse().ok().filter(|mib| *mib >= 256))?,
                "--rounds" => {
                    options.rounds = value.parse().ok().filter(|rounds| *rounds > 0).ok_or_else(|| bad(value))?
                }
                "--only" => options.only = list(value, who)?,
                other => return Err(format!("unknown option {other:?}")),
            }
        }
        Ok(options)
    }

    /// Whether someone takes part.
    pub fn has(&self, who: Who) -> bool {
        self.only.is_empty() || self.only.contains(&who)
    }
}

fn who(name: &str) -> Option<Who> {
    match name {
        "snapvisor" => Some(Who::Snapvisor),
        "qemu" => Some(Who::Qemu),
        "libvirt" => Some(Who::Libvirt),
        _ => None,
    }
}

fn list<T>(value: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    value.split(',').map(|item| read(item).ok_or_else(|| bad(item))).collect()
}

fn bad(value: &str) -> String {
    format!("{value:?} is not what belongs here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        #[track_caller]
        fn check(line: &str, expected: Result<(&[u32], usize, bool), &str>) {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let parsed = Options::parse(&words);
            let seen = parsed.as_ref().map(|found| (found.sizes.as_slice(), found.rounds, found.has(Who::Libvirt)));
            assert_eq!(seen.map_err(String::as_str), expected, "{line}");
        }
        check("", Ok((&[512, 2048, 8192], 5, true)));
        check("--sizes 512,1024 --rounds 3", Ok((&[512, 1024], 3, true)));
        check("--only qemu,snapvisor", Ok((&[512, 2048, 8192], 5, false)));
        check("--only xen", Err("\"xen\" is not what belongs here"));
        check("--rounds 0", Err("\"0\" is not what belongs here"));
        check("--sizes 64", Err("\"64\" is not what belongs here"));
        check("--wire --rounds 3", Ok((&[512, 2048, 8192], 3, true)));
        check("--rounds", Err("--rounds needs a value"));
        check("--fast yes", Err("unknown option \"--fast\""));
    }
}
