//! What the daemon is told: flags before environment before file before `defaults.toml`.
//!
//! ```text
//!   flags, environment (clap) ─┐
//!   configuration file ────────┼─▶ Settings, each key from the first that has it ─▶ Config, paths absolute
//!   defaults.toml ─────────────┘
//! ```
//! All three sources have the same keys, so there is one type for them, [`Settings`], with everything optional.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Longest configuration file we read; a hundred times what one with every key needs.
const FILE_BYTES_MAX: usize = 256 << 10;

const DEFAULTS: &str = include_str!("defaults.toml");

/// `snapvisor serve`
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Flags {
    /// Configuration file, TOML; /etc/snapvisor.toml for root and ~/.config/snapvisor.toml for others if it exists
    #[arg(long, env = "SNAPVISOR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Close TCP: only the Unix socket
    #[arg(long, conflicts_with_all = ["listen", "https_listen"])]
    pub no_tcp: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it as help")]
    pub settings: Settings,
}

/// Everything that can be set; absent means that the next source decides.
#[derive(clap::Args, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where machines, snapshots and the state store are kept
    #[arg(long, env = "SNAPVISOR_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where sockets and process records are kept; may be lost at a reboot
    #[arg(long, env = "SNAPVISOR_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The Unix socket
    #[arg(long, env = "SNAPVISOR_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Group whose members may use the Unix socket, besides the daemon's user and root
    #[arg(long, env = "SNAPVISOR_GROUP", value_name = "NAME")]
    pub group: Option<String>,
    /// Address and port for HTTP; beyond this host its messages must be sealed; may be given several times; port 0 takes a free one
    #[arg(long, env = "SNAPVISOR_LISTEN", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen: Option<Vec<SocketAddr>>,
    /// Address and port for HTTPS, usually 0.0.0.0:5986; may be given several times
    #[arg(long, env = "SNAPVISOR_HTTPS_LISTEN", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub https_listen: Option<Vec<SocketAddr>>,
    /// Certificate for HTTPS, PEM, with those that lead to its issuer; made in the data directory if absent
    #[arg(long, env = "SNAPVISOR_CERTIFICATE", value_name = "FILE", requires = "certificate_key")]
    pub certificate: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, env = "SNAPVISOR_CERTIFICATE_KEY", value_name = "FILE", requires = "certificate")]
    pub certificate_key: Option<PathBuf>,
    /// Further name or address of this host for a certificate that is made; may be given several times
    #[arg(long = "certificate-name", env = "SNAPVISOR_CERTIFICATE_NAMES", value_name = "NAME", value_delimiter = ',')]
    pub certificate_names: Option<Vec<String>>,
    /// Who may log in; see `snapvisor user`
    #[arg(long, env = "SNAPVISOR_USERS_FILE", value_name = "FILE")]
    pub users_file: Option<PathBuf>,
    /// Whether users may send their password in Basic authentication, where nobody can read it
    #[arg(long, env = "SNAPVISOR_BASIC", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub basic: Option<bool>,
    /// Whether users who have an NTLM hash may use it in Negotiate authentication
    #[arg(long, env = "SNAPVISOR_NTLM", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub ntlm: Option<bool>,
    /// Keys of this host's Kerberos services, HTTP/, WSMAN/ or host/NAME@REALM; Kerberos is offered if set
    #[arg(long, env = "SNAPVISOR_KEYTAB", value_name = "FILE")]
    pub keytab: Option<PathBuf>,
    /// Let messages and passwords cross the network in clear; only for networks where nobody listens
    #[arg(long, env = "SNAPVISOR_ALLOW_UNENCRYPTED", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub allow_unencrypted: Option<bool>,
    /// Where it is recorded who connected and what he changed
    #[arg(long, env = "SNAPVISOR_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// What is logged, such as info or debug,host=trace
    #[arg(long, env = "SNAPVISOR_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// What executes guest instructions
    #[arg(long, env = "SNAPVISOR_ACCELERATOR", value_enum, value_name = "KIND")]
    pub accelerator: Option<Accelerator>,
    /// How disks are reached
    #[arg(long, env = "SNAPVISOR_DISK_IO", value_enum, value_name = "KIND")]
    pub disk_io: Option<DiskIo>,
    /// One account for all emulator processes, if the daemon is root
    #[arg(long, env = "SNAPVISOR_USER", value_name = "NAME")]
    pub user: Option<String>,
    /// User ids that machines get, each its own, if the daemon is root and no user is set
    #[arg(long, env = "SNAPVISOR_USER_IDS", value_name = "FIRST-LAST", conflicts_with = "user")]
    pub user_ids: Option<String>,
    /// Whether each machine has a control group that limits its memory and threads, where the host lets us
    #[arg(long, env = "SNAPVISOR_CGROUPS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub cgroups: Option<bool>,
    /// Directory where backing files of images may be, besides that of the image itself; may be given several times
    #[arg(long = "image-directory", env = "SNAPVISOR_IMAGE_DIRECTORIES", value_name = "DIR", value_delimiter = ',')]
    pub image_directories: Option<Vec<PathBuf>>,
    /// The machine emulator
    #[arg(long, env = "SNAPVISOR_QEMU", value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// The image tool
    #[arg(long, env = "SNAPVISOR_QEMU_IMG", value_name = "PATH")]
    pub qemu_img: Option<PathBuf>,
    /// The storage daemon
    #[arg(long, env = "SNAPVISOR_QEMU_STORAGE_DAEMON", value_name = "PATH")]
    pub qemu_storage_daemon: Option<PathBuf>,
    /// UEFI firmware code
    #[arg(long, env = "SNAPVISOR_UEFI_CODE", value_name = "PATH", requires = "uefi_variables")]
    pub uefi_code: Option<PathBuf>,
    /// Template of the UEFI variables
    #[arg(long, env = "SNAPVISOR_UEFI_VARIABLES", value_name = "PATH", requires = "uefi_code")]
    pub uefi_variables: Option<PathBuf>,
}

/// What executes guest instructions.
#[derive(clap::ValueEnum, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// Hardware where the processor says that it can
    Auto,
    /// Hardware
    Kvm,
    /// Translation
    Tcg,
}

/// How disks are reached.
#[derive(clap::ValueEnum, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum DiskIo {
    /// Through the page cache
    Buffered,
    /// Past the page cache, with threads
    Direct,
    /// Past the page cache, with io_uring
    IoUring,
}

/// Everything decided; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What survives a reboot.
    pub data_dir: PathBuf,
    /// What need not.
    pub run_dir: PathBuf,
    /// The Unix socket.
    pub socket: PathBuf,
    /// Group that may use the Unix socket.
    pub group: Option<String>,
    /// Addresses for HTTP.
    pub listen: Vec<SocketAddr>,
    /// Addresses for HTTPS.
    pub https_listen: Vec<SocketAddr>,
    /// Certificate and key, if they are not to be made.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Further names for a certificate that is made.
    pub certificate_names: Vec<String>,
    /// Who may log in.
    pub users_file: PathBuf,
    /// Whether Basic is offered, where nobody can read it.
    pub basic: bool,
    /// Whether NTLM is offered.
    pub ntlm: bool,
    /// Keys for Kerberos.
    pub keytab: Option<PathBuf>,
    /// Whether messages and passwords may cross the network in clear.
    pub allow_unencrypted: bool,
    /// Where it is recorded who connected and what he changed.
    pub audit_log: PathBuf,
    /// Log filter.
    pub log: String,
    /// What executes guest instructions; `None` to find out.
    pub accelerator: Accelerator,
    /// How disks are reached.
    pub disk_io: DiskIo,
    /// Account of all emulator processes; see [`crate::accounts`] for what its absence means.
    pub user: Option<String>,
    /// User ids for machines, first and last.
    pub user_ids: Option<String>,
    /// Whether machines have control groups.
    pub cgroups: bool,
    /// Where backing files may be besides the directories of their images.
    pub image_directories: Vec<PathBuf>,
    /// The machine emulator; looked for if absent, as the other programs are.
    pub qemu: Option<PathBuf>,
    /// The image tool.
    pub qemu_img: Option<PathBuf>,
    /// The storage daemon.
    pub qemu_storage_daemon: Option<PathBuf>,
    /// UEFI code and template of the variables.
    pub uefi: Option<(PathBuf, PathBuf)>,
}

/// What the surroundings say: who runs the daemon, and where such a user keeps things.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Whether the daemon is root.
    pub root: bool,
    /// `HOME`
    pub home: Option<PathBuf>,
    /// `XDG_DATA_HOME`
    pub data_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`
    pub config_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`
    pub runtime_dir: Option<PathBuf>,
}

/// Why the configuration is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named cannot be read.
    #[error("could not read the configuration file {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not say what it should.
    #[error("the configuration file {path} is wrong: {reason}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// A directory depends on a home directory that is not known.
    #[error("there is no home directory to keep {what} in: set {flag}")]
    Homeless {
        /// What is to be kept.
        what: &'static str,
        /// The flag that says where.
        flag: &'static str,
    },
    /// A certificate without its key, or the other way round.
    #[error("certificate and certificate_key belong together: set both, or none to have them made")]
    HalfACertificate,
    /// A relative path would depend on where the daemon was started.
    #[error("{flag} is {path}, which is not an absolute path")]
    Relative {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        // XDG: a relative path in one of these variables is to be ignored.
        let path = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            root: rustix::process::geteuid().is_root(),
            home: path("HOME"),
            data_home: path("XDG_DATA_HOME"),
            config_home: path("XDG_CONFIG_HOME"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
        }
    }

    fn data_dir(&self) -> Option<PathBuf> {
        if self.root {
            return Some("/var/lib/snapvisor".into());
        }
        let base = self.data_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/share")))?;
        Some(base.join("snapvisor"))
    }

    fn run_dir(&self) -> Option<PathBuf> {
        if self.root {
            return Some("/run/snapvisor".into());
        }
        let base = self.runtime_dir.clone().or_else(|| Some(self.home.as_ref()?.join(".local/state")))?;
        Some(base.join("snapvisor"))
    }

    fn file(&self) -> Option<PathBuf> {
        if self.root {
            return Some("/etc/snapvisor.toml".into());
        }
        let base = self.config_home.clone().or_else(|| Some(self.home.as_ref()?.join(".config")))?;
        Some(base.join("snapvisor.toml"))
    }
}

impl Config {
    /// Reads the file, if there is one, and decides.
    ///
    /// # Errors
    /// When a file that was named cannot be read, says something unknown, or a path is of no use.
    pub fn load(flags: Flags, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => read(path)?,
            None => match surroundings.file() {
                Some(path) if path.exists() => read(&path)?,
                _ => Settings::default(),
            },
        };
        Self::decide(flags, file, surroundings)
    }

    /// The configuration from its sources.
    ///
    /// # Errors
    /// When a path is relative, or depends on a home directory that is not known.
    pub fn decide(flags: Flags, file: Settings, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let defaults: Settings = toml::from_str(DEFAULTS).expect("a constant, read by a test");
        let mut flags_settings = flags.settings;
        if flags.no_tcp {
            flags_settings.listen = Some(Vec::new());
            flags_settings.https_listen = Some(Vec::new());
        }
        let settings = flags_settings.or(file).or(defaults);
        let homeless = |what, flag| ConfigError::Homeless { what, flag };
        let data_dir = settings.data_dir.or_else(|| surroundings.data_dir());
        let data_dir = data_dir.ok_or_else(|| homeless("data", "--data-dir"))?;
        let run_dir = settings.run_dir.or_else(|| surroundings.run_dir());
        let run_dir = run_dir.ok_or_else(|| homeless("sockets", "--run-dir"))?;
        let socket = settings.socket.unwrap_or_else(|| run_dir.join("snapvisor.sock"));
        let users_file = settings.users_file.unwrap_or_else(|| data_dir.join("users"));
        let audit_log = settings.audit_log.unwrap_or_else(|| data_dir.join("audit.jsonl"));
        let certificate = match (settings.certificate, settings.certificate_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(ConfigError::HalfACertificate),
        };
        let mut paths = vec![
            ("--data-dir", &data_dir),
            ("--run-dir", &run_dir),
            ("--socket", &socket),
            ("--users-file", &users_file),
            ("--audit-log", &audit_log),
        ];
        if let Some((certificate, key)) = &certificate {
            paths.extend([("--certificate", certificate), ("--certificate-key", key)]);
        }
        let image_directories = settings.image_directories.unwrap_or_default();
        paths.extend(image_directories.iter().map(|directory| ("--image-directory", directory)));
        paths.extend(settings.keytab.iter().map(|keytab| ("--keytab", keytab)));
        if let Some((flag, path)) = paths.into_iter().find(|(_, path)| !path.is_absolute()) {
            return Err(ConfigError::Relative { flag, path: path.clone() });
        }
        Ok(Self {
            data_dir,
            run_dir,
            socket,
            group: settings.group,
            listen: settings.listen.unwrap_or_default(),
            https_listen: settings.https_listen.unwrap_or_default(),
            certificate,
            certificate_names: settings.certificate_names.unwrap_or_default(),
            users_file,
            basic: settings.basic.unwrap_or(true),
            ntlm: settings.ntlm.unwrap_or(true),
            keytab: settings.keytab,
            allow_unencrypted: settings.allow_unencrypted.unwrap_or(false),
            audit_log,
            log: settings.log.unwrap_or_default(),
            accelerator: settings.accelerator.unwrap_or(Accelerator::Auto),
            disk_io: settings.disk_io.unwrap_or(DiskIo::Buffered),
            user: settings.user,
            user_ids: settings.user_ids,
            cgroups: settings.cgroups.unwrap_or(true),
            image_directories,
            qemu: settings.qemu,
            qemu_img: settings.qemu_img,
            qemu_storage_daemon: settings.qemu_storage_daemon,
            uefi: settings.uefi_code.zip(settings.uefi_variables),
        })
    }
}

impl Settings {
    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > FILE_BYTES_MAX {
            return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
        }
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// These, and what they leave open from `other`.
    #[must_use]
    fn or(self, other: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(other.data_dir),
            run_dir: self.run_dir.or(other.run_dir),
            socket: self.socket.or(other.socket),
            group: self.group.or(other.group),
            listen: self.listen.or(other.listen),
            https_listen: self.https_listen.or(other.https_listen),
            certificate: self.certificate.or(other.certificate),
            certificate_key: self.certificate_key.or(other.certificate_key),
            certificate_names: self.certificate_names.or(other.certificate_names),
            users_file: self.users_file.or(other.users_file),
            basic: self.basic.or(other.basic),
            ntlm: self.ntlm.or(other.ntlm),
            keytab: self.keytab.or(other.keytab),
            allow_unencrypted: self.allow_unencrypted.or(other.allow_unencrypted),
            audit_log: self.audit_log.or(other.audit_log),
            log: self.log.or(other.log),
            accelerator: self.accelerator.or(other.accelerator),
            disk_io: self.disk_io.or(other.disk_io),
            user: self.user.or(other.user),
            user_ids: self.user_ids.or(other.user_ids),
            cgroups: self.cgroups.or(other.cgroups),
            image_directories: self.image_directories.or(other.image_directories),
            qemu: self.qemu.or(other.qemu),
            qemu_img: self.qemu_img.or(other.qemu_img),
            qemu_storage_daemon: self.qemu_storage_daemon.or(other.qemu_storage_daemon),
            uefi_code: self.uefi_code.or(other.uefi_code),
            uefi_variables: self.uefi_variables.or(other.uefi_variables),
        }
    }
}

fn read(path: &Path) -> Result<Settings, ConfigError> {
    use std::io::Read;
    let wrap = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(wrap)?;
    // One byte more than it may have, which tells that it has too many: half a configuration would mean something else.
    let bytes_max = u64::try_from(FILE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    file.take(bytes_max).read_to_string(&mut text).map_err(wrap)?;
    Settings::parse(&text).map_err(|reason| ConfigError::Malformed { path: path.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Surroundings {
        Surroundings {
            home: Some("/people/u".into()),
            runtime_dir: Some("/run/user/1000".into()),
            ..Surroundings::default()
        }
    }

    fn decide(flags: Settings, file: &str, surroundings: &Surroundings) -> Result<Config, String> {
        let file = Settings::parse(file)?;
        let flags = Flags { settings: flags, ..Flags::default() };
        Config::decide(flags, file, surroundings).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_depend_on_who_runs_the_daemon() {
        let check = |surroundings: &Surroundings, data: &str, socket: &str| {
            let config = decide(Settings::default(), "", surroundings).unwrap();
            assert_eq!((config.data_dir, config.socket), (data.into(), socket.into()));
            assert_eq!(config.listen, ["127.0.0.1:5985".parse().unwrap()]);
            assert_eq!((config.log.as_str(), config.accelerator), ("info", Accelerator::Auto));
        };
        let root = Surroundings { root: true, ..user() };
        check(&root, "/var/lib/snapvisor", "/run/snapvisor/snapvisor.sock");
        check(&user(), "/people/u/.local/share/snapvisor", "/run/user/1000/snapvisor/snapvisor.sock");
        let bare = Surroundings { runtime_dir: None, data_home: Some("/d".into()), ..user() };
        check(&bare, "/d/snapvisor", "/people/u/.local/state/snapvisor/snapvisor.sock");
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let flags = Settings { log: Some("debug".into()), run_dir: Some("/r".into()), ..Settings::default() };
        let file = "log = 'warn'\nlisten = ['[::1]:80']\naccelerator = 'tcg'\ndisk_io = 'io-uring'";
        let config = decide(flags, file, &user()).unwrap();
        assert_eq!((config.log.as_str(), config.socket), ("debug", "/r/snapvisor.sock".into()));
        assert_eq!(config.listen, ["[::1]:80".parse().unwrap()]);
        assert_eq!((config.accelerator, config.disk_io), (Accelerator::Tcg, DiskIo::IoUring));
    }

    #[test]
    fn no_tcp_closes_tcp() {
        let flags = Flags { no_tcp: true, ..Flags::default() };
        assert_eq!(Config::decide(flags, Settings::default(), &user()).unwrap().listen, []);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |file: &str, surroundings: &Surroundings, expected: &str| {
            let error = decide(Settings::default(), file, surroundings).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("lisen = []", &user(), "unknown field `lisen`");
        check("listen = ['localhost']", &user(), "socket address");
        check("accelerator = 'xen'", &user(), "unknown variant `xen`");
        check("data_dir = 'here'", &user(), "--data-dir is here, which is not an absolute path");
        check("certificate = '/c'", &user(), "certificate and certificate_key belong together");
        check("image_directories = ['bases']", &user(), "--image-directory is bases, which is not an absolute path");
        check("audit_log = 'a'", &user(), "--audit-log is a, which is not");
        check("", &Surroundings::default(), "there is no home directory to keep data in: set --data-dir");
        let missing = Flags { config: Some("/nonexistent/file".into()), ..Flags::default() };
        let error = Config::load(missing, &user()).unwrap_err().to_string();
        assert!(error.starts_with("could not read the configuration file /nonexistent/file"), "{error}");
        let long = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(long.path(), "basic = false\n".to_owned() + &"#\n".repeat(FILE_BYTES_MAX / 2)).unwrap();
        let flags = Flags { config: Some(long.path().to_owned()), ..Flags::default() };
        let error = Config::load(flags, &user()).unwrap_err().to_string();
        assert!(error.ends_with(" is wrong: it is longer than 262144 bytes"), "{error}");
    }
}
