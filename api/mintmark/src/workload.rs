//! A key made here for a workload, and the CSR that proves it.

use aws_lc_rs::signature::Ed25519KeyPair;
use ca_core::dns::DnsName;
use ca_core::id::SpiffeId;
use ca_core::key::KeyType;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, RsaKeySize, SanType};
use thiserror::Error;

use crate::delivery::PrivateKey;
use crate::pem;

/// Why a key or its CSR could not be made.
#[derive(Debug, Error)]
#[error("cannot make a key and CSR of type {key_type}: {source}")]
pub struct WorkloadKeyError {
    key_type: KeyType,
    source: rcgen::Error,
}

/// A private key that leaves this process only through its owner's files.
pub struct WorkloadKey {
    key_type: KeyType,
    pair: KeyPair,
}

impl WorkloadKey {
    /// Makes a key. Blocks: RSA of 4096 bits takes a second or more.
    pub fn generate(key_type: KeyType) -> Result<Self, WorkloadKeyError> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        let made = match key_type {
            KeyType::EcP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::EcP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::Ed25519 => generate_ed25519(),
            KeyType::Rsa2048 => rsa(RsaKeySize::_2048),
            KeyType::Rsa3072 => rsa(RsaKeySize::_3072),
            KeyType::Rsa4096 => rsa(RsaKeySize::_4096),
            // Authorities may sign so; the peers of workloads do not verify it yet.
            KeyType::MlDsa44 | KeyType::MlDsa65 => Err(rcgen::Error::UnsupportedSignatureAlgorithm),
        };
        made.map(|pair| Self { key_type, pair })
            .map_err(|source| WorkloadKeyError { key_type, source })
    }

    /// The DER of a CSR for `id` and the DNS names, with an empty subject.
    pub fn request(
        &self,
        id: &SpiffeId,
        dns_names: &[DnsName],
    ) -> Result<Vec<u8>, WorkloadKeyError> {
        self.signed_request(id, dns_names)
            .map_err(|source| WorkloadKeyError { key_type: self.key_type, source })
    }

    fn signed_request(
        &self,
        id: &SpiffeId,
        dns_names: &[DnsName],
    ) -> Result<Vec<u8>, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(id.as_str())?));
        for name in dns_names {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name.as_str())?));
        }
        Ok(params.serialize_request(&self.pair)?.der().to_vec())
    }

    /// The key in PKCS#8 PEM.
    #[must_use]
    pub fn into_pem(self) -> PrivateKey {
        PrivateKey(pem::encode(pem::PRIVATE_KEY, self.pair.serialized_der()))
    }
}

/// In PKCS#8 of version 1 (RFC 5208): OpenSSL 3.0 cannot read version 2, which `rcgen` writes.
fn generate_ed25519() -> Result<KeyPair, rcgen::Error> {
    let unspecified = |_| rcgen::Error::RingUnspecified;
    let pair = Ed25519KeyPair::generate().map_err(unspecified)?;
    let pkcs8 = pair.to_pkcs8v1().map_err(unspecified)?;
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.as_ref().into(), &rcgen::PKCS_ED25519)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ca_core::csr::Csr;

    #[test]
    fn the_csr_of_every_kind_of_key_proves_it_and_asks_for_the_names() {
        let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
        let names = DnsName::list(["web.example.org", "*.web.example.org"]).unwrap();
        for key_type in KeyType::ALL {
            let made = WorkloadKey::generate(key_type);
            if matches!(key_type, KeyType::MlDsa44 | KeyType::MlDsa65) {
                let refused = made.map(|_| ()).unwrap_err().to_string();
                assert!(refused.contains("ml-dsa"), "{refused}");
                continue;
            }
            let key = made.unwrap();
            let csr = key.request(&id, &names).unwrap();
            let verified = Csr::parse(&csr).unwrap().verify().unwrap();
            assert_eq!(verified.requested.uris, [id.as_str()], "{key_type}");
            assert_eq!(verified.requested.dns_names, ["web.example.org", "*.web.example.org"]);
            assert!(!verified.requested.ca && verified.requested.subject().unwrap().is_empty());
            assert!(key.into_pem().0.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        }
    }
}
