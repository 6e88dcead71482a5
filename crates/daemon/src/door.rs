//! From configuration to doors that can be opened: audit log, users, certificate, sockets; and warnings of what is unwise.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use auth::connection::Policy;
use auth::context::Kerberos;

use crate::accounts::{self, AccountError};
use crate::audit::Audit;
use crate::config::Config;
use crate::guest::Gate;
use crate::listen::{Addresses, Doors, ListenError};
use crate::tls::{self, Files, Tls, TlsError};
use crate::users_file::{UsersFile, UsersFileError};

/// Mode of the run directory when a group may use the socket in it: others may pass, and see nothing. What belongs to
/// machines lies in directories of their own below.
const PASSABLE: u32 = 0o711;

/// Why the doors stay shut.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Of users.
    #[error(transparent)]
    Users(#[from] UsersFileError),
    /// Of the certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Of sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Of the group.
    #[error(transparent)]
    Group(#[from] AccountError),
    /// Of Kerberos.
    #[error("the keytab {path} cannot be used: {reason}")]
    Keytab {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Of the audit log.
    #[error("could not open the audit log {path}: {source}")]
    Audit {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Of the socket's directory.
    #[error("could not let the group pass the run directory {path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Takes all places and reads all files; nobody is let in yet.
///
/// # Errors
/// When something that is configured cannot be used.
pub async fn prepare(config: &Config) -> Result<(Doors, Arc<Gate>), DoorError> {
    let gate = gate(config)?;
    let group = config.group.as_deref().map(accounts::find_group).transpose()?;
    if group.is_some() && config.socket.parent() == Some(&config.run_dir) {
        let path = config.run_dir.clone();
        let passable = std::fs::Permissions::from_mode(PASSABLE);
        std::fs::set_permissions(&path, passable).map_err(|source| DoorError::Directory { path, source })?;
    }
    let tls = if config.https_listen.is_empty() { None } else { Some(Arc::new(certificate(config)?)) };
    let addresses = Addresses { socket: &config.socket, group, http: &config.listen, https: &config.https_listen, tls };
    let doors = Doors::bind(&addresses).await?;
    warn(config, &gate);
    Ok((doors, gate))
}

/// Where the certificate and its key are, as configured or in the data directory.
pub fn certificate_files(config: &Config) -> Files {
    match &config.certificate {
        Some((certificate, key)) => Files { certificate: certificate.clone(), key: key.clone() },
        None => Files::made_in(&config.data_dir),
    }
}

fn certificate(config: &Config) -> Result<Tls, DoorError> {
    let files = certificate_files(config);
    if config.certificate.is_none() {
        let addresses = config.https_listen.iter().map(SocketAddr::ip);
        let names = tls::names_of_this_host(addresses, &config.certificate_names);
        if tls::make(&files, &names)? {
            tracing::info!(path = %files.certificate.display(), names = names.join(","), "a certificate has been made");
        }
    }
    let tls = Tls::open(files)?;
    tracing::info!(fingerprint = tls.current().fingerprint, "clients of https see this certificate");
    Ok(tls)
}

fn gate(config: &Config) -> Result<Arc<Gate>, DoorError> {
    let users = UsersFile::open(&config.users_file)?;
    let audit =
        Audit::open(&config.audit_log).map_err(|source| DoorError::Audit { path: config.audit_log.clone(), source })?;
    let kerberos = config.keytab.as_deref().map(|keytab| kerberos(keytab, &config.data_dir)).transpose()?;
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let short = node.split('.').next().unwrap_or_default().to_uppercase();
    let settings = auth::spnego::Settings {
        // NetBIOS names have 15 characters.
        netbios_name: short.chars().take(15).collect(),
        dns_name: node,
        allow_missing_mic: false,
    };
    let unencrypted = config.allow_unencrypted;
    let policy = Policy { basic: config.basic, ntlm: config.ntlm, kerberos, unencrypted, settings };
    Ok(Arc::new(Gate::new(users, policy, audit)))
}

fn kerberos(keytab: &Path, data_dir: &Path) -> Result<Arc<dyn Kerberos>, DoorError> {
    let acceptor = kerberos::Acceptor::open(keytab, &data_dir.join("kerberos-replays"));
    let wrap = |error: kerberos::GssError| DoorError::Keytab { path: keytab.to_owned(), reason: error.to_string() };
    Ok(Arc::new(acceptor.map_err(wrap)?))
}

/// Tells of what may not be meant.
fn warn(config: &Config, gate: &Gate) {
    let is_outside = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let outside_http = config.listen.iter().any(is_outside);
    if config.allow_unencrypted && outside_http {
        tracing::warn!(
            "allow_unencrypted: whoever is between a client and this host can read and change all that they say"
        );
        if config.basic {
            tracing::warn!(
                "allow_unencrypted with basic: he can read passwords, too; set basic = false, or use https_listen"
            );
        }
    }
    let can_seal = config.ntlm || config.keytab.is_some();
    if outside_http && !can_seal && !config.allow_unencrypted {
        tracing::warn!(
            "listen has addresses beyond this host, and with neither ntlm nor keytab nobody can seal messages there"
        );
    }
    let users = gate.users.current();
    let nobody = users.iter().next().is_none() && users.principals().next().is_none();
    if nobody && (outside_http || config.https_listen.iter().any(is_outside)) {
        tracing::warn!(
            "addresses beyond this host are open, and there is no user who could log in: snapvisor user add NAME"
        );
    }
}
