//! TLS to a service: which certificates are good enough, and what a login over the connection is bound to.
//!
//! A service made its own certificate more often than not, so there are three ways to trust one: authorities of this
//! system, authorities from a file, or exactly the certificate with a known fingerprint.

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use auth::certificate::{Hash, binding_hash};
use auth::context::EndPoint;
use ring::digest::{SHA256, SHA384, SHA512, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};

/// Where distributions keep the authorities they trust: Debian, Fedora, SUSE.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Whose certificates are good enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of authorities that this system trusts.
    #[default]
    System,
    /// Those of the authorities in a PEM file.
    Authorities(PathBuf),
    /// The one with this SHA-256.
    Fingerprint([u8; 32]),
}

/// Reads a fingerprint: 64 hexadecimal digits, with colons between them or not.
pub fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u32> = text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(high << 4 | low).ok(),
            _ => None,
        })
        .collect();
    bytes?.try_into().ok()
}

/// Speaks TLS on a connection; gives what binds a login to it, too.
///
/// # Errors
/// When the server's certificate is not trusted, or TLS fails otherwise.
pub fn connect(
    mut stream: TcpStream,
    host: &str,
    trust: &Trust,
) -> io::Result<(StreamOwned<ClientConnection, TcpStream>, EndPoint)> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config(trust)?), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| io::Error::other("the server has no certificate"))?;
    let algorithm = match binding_hash(certificate) {
        Hash::Sha256 => &SHA256,
        Hash::Sha384 => &SHA384,
        Hash::Sha512 => &SHA512,
    };
    let end_point = EndPoint(digest(algorithm, certificate).as_ref().to_vec());
    Ok((StreamOwned::new(connection, stream), end_point))
}

/// What TLS did not like, and what to do about it.
pub fn explain(error: &rustls::Error) -> (String, &'static str) {
    let (words, advice) = match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => (
            "its certificate is issued by nobody who is trusted here",
            "say whom to trust with --ca-file, or which certificate with --fingerprint; `snapvisor certificate` on that host shows both",
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            "its certificate is for other names than this",
            "use a name of the certificate as --host, or trust the certificate itself with --fingerprint",
        ),
        rustls::Error::InvalidMessage(_) => {
            ("what answers there does not speak TLS", "is it the port of https? without --transport https it is http")
        }
        // Ours, of a certificate that is not the pinned one.
        rustls::Error::General(words) => (
            words.as_str(),
            "compare it with what `snapvisor certificate` prints on that host; if they differ, somebody is in between",
        ),
        _ => {
            return (error.to_string(), "say whom to trust with --ca-file, or which certificate with --fingerprint");
        }
    };
    (words.to_owned(), advice)
}

fn config(trust: &Trust) -> io::Result<ClientConfig> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let builder = match trust {
        Trust::Fingerprint(fingerprint) => {
            let pinned = Pinned { fingerprint: *fingerprint, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
        }
        Trust::Authorities(path) => builder.with_root_certificates(authorities(path)?),
        Trust::System => {
            let path = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
            let missing = "this system trusts no authorities: say whom to trust with --ca-file or --fingerprint";
            builder.with_root_certificates(authorities(path.ok_or_else(|| io::Error::other(missing))?)?)
        }
    };
    let mut config = builder.with_no_client_auth();
    // A login belongs to a connection, which HTTP/2 knows nothing of.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn authorities(path: &Path) -> io::Result<RootCertStore> {
    let wrong = |error: &dyn std::fmt::Display| io::Error::other(format!("cannot read {}: {error}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
    let mut store = RootCertStore::empty();
    // System stores have certificates that no program understands; those of a file given by hand are checked below.
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 { Err(wrong(&"there is no certificate in it")) } else { Ok(store) }
}

/// Trusts one certificate, whatever name and dates are in it: whoever gave its fingerprint has seen it.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = digest(&SHA256, certificate);
        if found.as_ref() == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        let found: Vec<String> = found.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        Err(rustls::Error::General(format!("the server's certificate has another fingerprint, {}", found.join(":"))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_does_not_like_is_said_in_words() {
        let check = |error: rustls::Error, expected: &str| assert_eq!(explain(&error).0, expected);
        let certificate = rustls::Error::InvalidCertificate;
        check(certificate(CertificateError::UnknownIssuer), "its certificate is issued by nobody who is trusted here");
        check(certificate(CertificateError::NotValidForName), "its certificate is for other names than this");
        check(rustls::InvalidMessage::InvalidContentType.into(), "what answers there does not speak TLS");
        check(rustls::Error::General("another".to_owned()), "another");
        check(certificate(CertificateError::Expired), "invalid peer certificate: Expired");
    }

    #[test]
    fn fingerprints_are_read() {
        let plain = "0123456789abcdef".repeat(4);
        let with_colons = "01:23:45:67:89:AB:CD:EF:".repeat(4);
        let expected = parse_fingerprint(&plain);
        assert_eq!(expected.map(|bytes| (bytes[0], bytes[31])), Some((0x01, 0xef)));
        assert_eq!(parse_fingerprint(with_colons.trim_end_matches(':')), expected);
        for wrong in ["", "01", &plain[1..], &format!("{plain}0"), &plain.replace('a', "g")] {
            assert_eq!(parse_fingerprint(wrong), None, "{wrong}");
        }
    }
}
