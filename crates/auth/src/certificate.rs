//! Which hash of a TLS certificate binds a handshake to its channel (RFC 5929 4.1).

use crate::der;

/// A hash function; computing it is the TLS library's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Also in place of weaker ones, and of what we do not know.
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

/// The hash for `tls-server-end-point`: the one that the certificate's own signature uses, but at least SHA-256.
pub fn binding_hash(certificate: &[u8]) -> Hash {
    let algorithm = signature_algorithm(certificate).unwrap_or_default();
    let names = |hash: Hash| {
        // sha…WithRSAEncryption (RFC 4055), ecdsa-with-SHA… (RFC 5758), and the hash itself, which RSASSA-PSS has as a
        // parameter.
        let (rsa, ecdsa, bare) = match hash {
            Hash::Sha256 => (0x0b, 0x02, 0x01),
            Hash::Sha384 => (0x0c, 0x03, 0x02),
            Hash::Sha512 => (0x0d, 0x04, 0x03),
        };
        let objects: [&[u8]; 3] = [
            &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, rsa],
            &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, ecdsa],
            &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, bare],
        ];
        objects.iter().any(|object| algorithm.windows(object.len()).any(|window| window == *object))
    };
    [Hash::Sha384, Hash::Sha512].into_iter().find(|hash| names(*hash)).unwrap_or(Hash::Sha256)
}

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signature }` (RFC 5280 4.1)
fn signature_algorithm(mut certificate: &[u8]) -> Option<&[u8]> {
    let mut fields = der::expect(&mut certificate, der::SEQUENCE).ok()?;
    der::expect(&mut fields, der::SEQUENCE).ok()?;
    der::expect(&mut fields, der::SEQUENCE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let check = |object: &[u8], expected| {
            let algorithm = der::element(der::SEQUENCE, &der::element(der::OBJECT, object));
            let fields = [der::element(der::SEQUENCE, &[0; 200]), algorithm, vec![3, 1, 0]].concat();
            assert_eq!(binding_hash(&der::element(der::SEQUENCE, &fields)), expected);
        };
        check(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], Hash::Sha256);
        check(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], Hash::Sha384);
        check(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], Hash::Sha512);
        // SHA-1, and Ed25519, which has no hash to choose.
        check(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], Hash::Sha256);
        check(&[0x2b, 0x65, 0x70], Hash::Sha256);
        for damaged in [
            &b""[..],
            b"no certificate",
            b"\x30\x82",
            b"\x30\xff\xff",
            b"\x30\x02\x30\x00",
            b"\x30\x84\xff\xff\xff\xff",
        ] {
            assert_eq!(binding_hash(damaged), Hash::Sha256, "{damaged:?}");
        }
    }
}
