//! The private key of a front end on its way between memory and `key.pem`. Every copy of it that is made here is wiped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_core::id::SpiffeId;
use mintmark_transport::CredentialError;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

/// A fresh P-256 key in PKCS#8, and the DER of a CSR for `id` that proves it.
pub(crate) fn with_request(id: &SpiffeId) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), rcgen::Error> {
    // It does not wipe itself.
    let pair = Zeroizing::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names.push(SanType::URI(Ia5String::try_from(id.as_str())?));
    let csr = params.serialize_request(&*pair)?.der().to_vec();
    Ok((Zeroizing::new(pair.serialize_der()), csr))
}

/// The PEM text (RFC 7468 §10) of a key in PKCS#8, 64 characters a line.
pub(crate) fn to_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(pkcs8));
    // Room for everything at once: a text that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(body.len() / 64 + body.len() + 128));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    for start in (0..body.len()).step_by(64) {
        text.push_str(&body[start..body.len().min(start + 64)]);
        text.push('\n');
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

/// The first private key of a PEM text: PKCS#8, or as OpenSSL's older commands write one. Whoever takes it wipes it.
pub(crate) fn from_pem(text: &[u8]) -> Result<PrivateKeyDer<'static>, CredentialError> {
    let unreadable = |reason: &str| {
        let reason = reason.to_owned();
        CredentialError::Pem { what: "the private key", reason }
    };
    let text = std::str::from_utf8(text).map_err(|_| unreadable("it is no text"))?;
    let mut lines = text.lines().map(str::trim);
    let label = lines.find_map(private_key).ok_or_else(|| unreadable("no private key in it"))?;
    let mut body = Zeroizing::new(String::with_capacity(text.len()));
    loop {
        match lines.next() {
            Some(line) if line.starts_with("-----END ") => break,
            Some(line) => body.push_str(line),
            None => return Err(unreadable("the private key has no end")),
        }
    }
    let mut der = Zeroizing::new(vec![0; body.len()]);
    let length = STANDARD.decode_slice(body.as_bytes(), &mut der);
    // The error would say which character it stumbled over.
    let length = length.map_err(|_| unreadable("the private key is not base64"))?;
    let der = der[..length].to_vec();
    Ok(match label {
        "RSA" => PrivatePkcs1KeyDer::from(der).into(),
        "EC" => PrivateSec1KeyDer::from(der).into(),
        _ => PrivatePkcs8KeyDer::from(der).into(),
    })
}

/// The kind of private key that begins with that line, if one does.
fn private_key(line: &str) -> Option<&str> {
    let label = line.strip_prefix("-----BEGIN ")?.strip_suffix("PRIVATE KEY-----")?.trim_end();
    matches!(label, "" | "RSA" | "EC").then_some(label)
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    fn read(text: &str) -> Result<Vec<u8>, String> {
        let key = from_pem(text.as_bytes());
        key.map(|key| key.secret_der().to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_is_read_as_it_was_written_and_by_others() {
        for length in [1, 47, 48, 49, 138, 500] {
            let der = vec![0xa5; length];
            let text = to_pem(&der);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(read(&text).unwrap(), der);
            let others = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(others.secret_der(), der);
        }
    }

    #[test]
    fn keys_of_older_kinds_are_read_with_other_blocks_before_them() {
        let block =
            |label: &str| format!("-----BEGIN {label}-----\r\nQUJD\r\n-----END {label}-----\r\n");
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            let text = format!("{}{}", block("EC PARAMETERS"), block(label));
            let key = from_pem(text.as_bytes()).unwrap();
            let others = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(key, others, "{label}");
        }
    }

    #[test]
    fn what_is_no_key_says_so_and_nothing_of_itself() {
        for (text, reason) in [
            ("", "no private key in it"),
            (
                "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n",
                "no private key in it",
            ),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nQUJD\n", "no private key in it"),
            ("-----BEGIN PRIVATE KEY-----\nQUJD\n", "has no end"),
            ("-----BEGIN PRIVATE KEY-----\nQ*JD\n-----END PRIVATE KEY-----\n", "is not base64"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(reason) && !said.contains('*'), "{said}");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
#[path = "../../transport/tests/support/memory.rs"]
mod memory;

#[cfg(all(test, target_os = "linux"))]
mod wiping {
    use zeroize::Zeroize as _;

    use super::memory::{MASK, is_in_memory};
    use super::*;

    /// Of a P-256 key in PKCS#8: half of its private number, at a line of base64.
    const SECRET: std::ops::Range<usize> = 48..66;

    /// Half of the key, and the same in base64, masked.
    fn masked(pkcs8: &[u8]) -> [Vec<u8>; 2] {
        let secret = &pkcs8[SECRET];
        let base64 = Zeroizing::new(STANDARD.encode(secret));
        [secret, base64.as_bytes()].map(|part| part.iter().map(|byte| byte ^ MASK).collect())
    }

    #[test]
    fn of_a_key_that_was_made_written_and_read_no_copy_is_left() {
        let id = SpiffeId::parse("spiffe://example.org/mintmark/frontend/one").unwrap();
        let (key, _) = with_request(&id).unwrap();
        let [der, base64] = masked(&key);
        assert!(is_in_memory(&der).unwrap(), "the search finds what is there");
        let text = to_pem(&key);
        drop(key);
        assert!(!is_in_memory(&der).unwrap(), "made and written");
        assert!(is_in_memory(&base64).unwrap(), "the search finds what is there");
        let mut read = from_pem(text.as_bytes()).unwrap();
        drop(text);
        read.zeroize();
        assert!(!is_in_memory(&base64).unwrap(), "read, as text");
        assert!(!is_in_memory(&der).unwrap(), "read");
    }
}
