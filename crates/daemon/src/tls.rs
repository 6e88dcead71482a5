//! The certificate that the daemon shows, and TLS with it.
//!
//! ```text
//!   certificate and key configured ──▶ read ─┐
//!   not configured, none made yet ──▶ made ──┼─▶ Presented: TLS settings, channel binding, fingerprint
//!   made before ──────────────────▶ read ────┘        ▲ read again when the files change, or at SIGHUP
//! ```
//! TLS 1.2 and 1.3 with `http/1.1` and nothing else: authentication belongs to a connection (MS-WSMV 3.1.4.1.30), and
//! HTTP/2 carries the requests of many over one. Clients that bind their authentication to the channel do so with
//! `tls-server-end-point` (RFC 5929 4), the hash of this certificate.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use auth::certificate::{Hash, binding_hash};
use ring::digest::{SHA256, SHA384, SHA512, digest};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::watched::Stamp;

/// The only protocol offered inside TLS.
const ALPN: &[u8] = b"http/1.1";
/// Longest PEM file: a chain of ten long certificates.
const PEM_BYTES_MAX: u64 = 256 << 10;
/// How long a certificate that we make is good for: longer than the host, since nobody is reminded.
const YEARS: i32 = 20;
/// Before this year no clock is right.
const YEAR_MIN: i32 = 2026;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("could not {what} {path}: {source}")]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} has no {what} in PEM form: {reason}")]
    Pem {
        /// `certificate` or `private key`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Others may read the key.
    #[error("{0} can be read by others, and holds a private key: chmod 600 it")]
    KeyIsPublic(PathBuf),
    /// The two do not belong together, or are of a kind that TLS has no use for.
    #[error("the certificate {certificate} cannot be used with its key: {reason}")]
    Unusable {
        /// Which.
        certificate: PathBuf,
        /// Why.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("could not make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and those that lead to its issuer.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Files {
    /// Those that the daemon makes if none are configured.
    pub fn made_in(data_dir: &Path) -> Self {
        Self { certificate: data_dir.join("certificate.pem"), key: data_dir.join("certificate.key") }
    }
}

/// What a connection is begun with.
#[derive(Debug)]
pub struct Presented {
    /// For the handshake.
    pub config: Arc<ServerConfig>,
    /// `tls-server-end-point` of the certificate.
    pub end_point: Vec<u8>,
    /// SHA-256 of the certificate, as people compare it.
    pub fingerprint: String,
}

/// TLS, with the certificate as it is now.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: Mutex<(Stamps, Arc<Presented>)>,
}

type Stamps = [Stamp; 2];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they are of no use.
    pub fn open(files: Files) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let current = Mutex::new((stamps, Arc::new(read(&files)?)));
        Ok(Self { files, current })
    }

    /// What to begin a connection with: read again if the files have changed. If they are of no use then, what was read
    /// before goes on, and the log tells once.
    pub fn current(&self) -> Arc<Presented> {
        let now = stamps(&self.files);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != now {
            current.0 = now;
            match read(&self.files) {
                Ok(presented) => {
                    tracing::info!(fingerprint = presented.fingerprint, "the certificate has been replaced");
                    current.1 = Arc::new(presented);
                }
                Err(error) => tracing::error!(%error, "the certificate before this one is still used"),
            }
        }
        Arc::clone(&current.1)
    }
}

/// Makes a certificate for `names`, host names and addresses, unless there is one; whether it did.
///
/// # Errors
/// When it cannot be made or written.
pub fn make(files: &Files, names: &[String]) -> Result<bool, TlsError> {
    if files.certificate.exists() && files.key.exists() {
        return Ok(false);
    }
    let mut params = rcgen::CertificateParams::new(names.to_vec())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = names.first().map_or("snapvisor", String::as_str);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let this_year = i32::from(jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year());
    params.not_before = rcgen::date_time_ymd(YEAR_MIN - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(this_year.max(YEAR_MIN) + YEARS, 1, 1);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    // The key first: a certificate without one would be taken for a whole pair.
    write(&files.key, 0o600, &key.serialize_pem())?;
    write(&files.certificate, 0o644, &certificate.pem())?;
    Ok(true)
}

/// The names under which clients may know this host, for its certificate: best first, none twice.
pub fn names_of_this_host(addresses: impl Iterator<Item = IpAddr>, more: &[String]) -> Vec<String> {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let short = node.split('.').next().unwrap_or_default().to_owned();
    let mut names = more.to_vec();
    names.extend([node.clone(), short]);
    names.extend(aliases(&node, &read("/etc/hosts")));
    names.push("localhost".to_owned());
    for address in addresses {
        match address.is_unspecified() {
            false => names.push(address.to_string()),
            true => names.extend(local_addresses(&read("/proc/net/fib_trie"), &read("/proc/net/if_inet6"))),
        }
    }
    names.extend(["127.0.0.1".to_owned(), "::1".to_owned()]);
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| is_name(name) && seen.insert(name.to_lowercase()));
    names
}

/// Whether it can stand in a certificate: an address, or a host name.
fn is_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-._*".contains(c);
    name.parse::<IpAddr>().is_ok() || (!name.is_empty() && name.len() <= 253 && name.chars().all(fine))
}

/// Names that `/etc/hosts` has beside this one, such as the full one.
fn aliases(node: &str, hosts: &str) -> Vec<String> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let lines = lines.map(|line| line.split_ascii_whitespace().skip(1).collect::<Vec<_>>());
    lines.filter(|names| names.contains(&node)).flatten().map(str::to_owned).collect()
}

/// The addresses of this host: rows `32 host LOCAL` below their address, and hexadecimal digits (Linux `proc_net`).
fn local_addresses(fib_trie: &str, if_inet6: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut last = "";
    for line in fib_trie.lines() {
        if let Some(address) = line.trim_start().strip_prefix("|-- ") {
            last = address;
        } else if line.contains("/32 host LOCAL") && !last.starts_with("127.") {
            found.push(last.to_owned());
        }
    }
    let six = if_inet6.lines().filter_map(|line| u128::from_str_radix(line.split_ascii_whitespace().next()?, 16).ok());
    let six = six.map(std::net::Ipv6Addr::from).filter(|address| !address.is_unicast_link_local());
    found.extend(six.map(|address| address.to_string()));
    found
}

fn stamps(files: &Files) -> Stamps {
    [Stamp::of(&files.certificate), Stamp::of(&files.key)]
}

fn read(files: &Files) -> Result<Presented, TlsError> {
    let pem = |what, path: &Path, error: &dyn std::fmt::Display| TlsError::Pem {
        what,
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let text = contents(&files.certificate)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| pem("certificate", &files.certificate, &error))?;
    let leaf = chain.first().ok_or_else(|| pem("certificate", &files.certificate, &"it holds none"))?.clone();
    let mode = std::fs::metadata(&files.key).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        return Err(TlsError::KeyIsPublic(files.key.clone()));
    }
    let key = PrivateKeyDer::from_pem_slice(&contents(&files.key)?)
        .map_err(|error| pem("private key", &files.key, &error))?;
    let unusable =
        |error: rustls::Error| TlsError::Unusable { certificate: files.certificate.clone(), reason: error.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Presented { config: Arc::new(config), end_point: end_point(&leaf), fingerprint: fingerprint(&leaf) })
}

fn contents(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let wrap = |source| TlsError::File { what: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(wrap)?.take(PEM_BYTES_MAX).read_to_end(&mut bytes).map_err(wrap)?;
    Ok(bytes)
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), TlsError> {
    let wrap = |source| TlsError::File { what: "write", path: path.to_owned(), source };
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(wrap)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(wrap)
}

fn fingerprint(leaf: &[u8]) -> String {
    let bytes = digest(&SHA256, leaf);
    bytes.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// `tls-server-end-point` of a certificate.
fn end_point(certificate: &[u8]) -> Vec<u8> {
    let algorithm = match binding_hash(certificate) {
        Hash::Sha256 => &SHA256,
        Hash::Sha384 => &SHA384,
        Hash::Sha512 => &SHA512,
    };
    digest(algorithm, certificate).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_certificate_is_made_once_and_replaced_while_running() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::made_in(directory.path());
        assert!(make(&files, &names(&["host.example", "host", "192.0.2.1"])).unwrap());
        assert!(!make(&files, &[]).unwrap());
        assert_eq!(std::fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
        let tls = Tls::open(files.clone()).unwrap();
        let first = tls.current();
        assert_eq!((first.fingerprint.len(), first.end_point.len()), (32 * 3 - 1, 32));

        std::fs::write(&files.certificate, "nonsense").unwrap();
        assert_eq!(tls.current().fingerprint, first.fingerprint, "what was read before goes on");
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(make(&files, &names(&["other"])).unwrap());
        assert_ne!(tls.current().fingerprint, first.fingerprint);

        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Tls::open(files.clone()), Err(TlsError::KeyIsPublic(_))));
        std::fs::remove_file(&files.key).unwrap();
        assert!(matches!(Tls::open(files), Err(TlsError::File { .. })));
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let key = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
        let check = |algorithm, bits: usize| {
            let certificate = rcgen::CertificateParams::default().self_signed(&key(algorithm)).unwrap();
            assert_eq!(end_point(certificate.der()).len() * 8, bits);
        };
        check(&rcgen::PKCS_ECDSA_P256_SHA256, 256);
        check(&rcgen::PKCS_ECDSA_P384_SHA384, 384);
        check(&rcgen::PKCS_ED25519, 256);
    }

    #[test]
    fn a_host_has_many_names() {
        let hosts = "127.0.0.1 localhost\n192.0.2.7 web.example web # web other\n# 1 web no\n";
        assert_eq!(aliases("web", hosts), ["web.example", "web"]);
        let trie = "  |-- 127.0.0.1\n   /32 host LOCAL\n  |-- 192.0.2.7\n    /32 host LOCAL\n  |-- 192.0.2.255\n    /32 link BROADCAST\n";
        let six =
            "20010db8000000000000000000000007 02 40 00 80 eth0\nfe800000000000000000000000000001 02 40 20 80 eth0\nx\n";
        assert_eq!(local_addresses(trie, six), ["192.0.2.7", "2001:db8::7"]);
        let all =
            names_of_this_host(["192.0.2.1".parse().unwrap()].into_iter(), &names(&["a.example", "b c", "localhost"]));
        assert_eq!(all.first().map(String::as_str), Some("a.example"));
        assert_eq!(all.iter().filter(|name| *name == "localhost").count(), 1);
        assert!(all.contains(&"192.0.2.1".to_owned()) && !all.contains(&"b c".to_owned()));
    }
}
