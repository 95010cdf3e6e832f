//! Who this side is: a chain and its key, replaceable while connections come.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use ca_core::key::PublicKey;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use zeroize::Zeroize as _;

/// What this side shows. Connections that are open keep what they were opened with.
pub struct Identity(RwLock<Arc<CertifiedKey>>);

impl Identity {
    /// Shows that.
    #[must_use]
    pub fn new(credential: Credential) -> Arc<Self> {
        Arc::new(Self(RwLock::new(credential.0)))
    }

    /// Shows that from now on.
    pub fn replace(&self, credential: Credential) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = credential.0;
    }

    fn present(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.present())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// A chain, leaf first, with the private key of its leaf.
pub struct Credential(Arc<CertifiedKey>);

/// Why a chain and a key cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// There is no certificate.
    #[error("there is no certificate; give the chain, leaf first")]
    NoCertificate,
    /// A text is not PEM of what it should be.
    #[error("{what} cannot be read as PEM: {reason}")]
    Pem {
        /// The chain or the key.
        what: &'static str,
        /// What is wrong with it; nothing of the key.
        reason: String,
    },
    /// The key is none that TLS signs with.
    #[error(
        "the private key cannot be used: {0}; give an ECDSA P-256 or P-384, Ed25519 or RSA key as PKCS#8"
    )]
    Key(String),
    /// Chain and key are not of each other.
    #[error("the private key is not that of the first certificate: {0}")]
    Mismatch(String),
    /// The system gave no random bytes, or the key is no point of its curve.
    #[error("a fresh key cannot be made")]
    Fresh,
}

impl Credential {
    /// A chain and its key, which is wiped once it is read.
    ///
    /// # Errors
    /// If they cannot be used together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        mut key: PrivateKeyDer<'static>,
    ) -> Result<Self, CredentialError> {
        let read = any_supported_type(&key);
        key.zeroize();
        let key = read.map_err(|error| CredentialError::Key(error.to_string()))?;
        if chain.is_empty() {
            return Err(CredentialError::NoCertificate);
        }
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|error| CredentialError::Mismatch(error.to_string()))?;
        Ok(Self(Arc::new(certified)))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("certificates", &self.0.cert.len()).finish()
    }
}

/// A key that was made here and has no certificate yet. It stays in this process and is wiped when this is dropped.
pub struct FreshKey {
    key: PrivateKeyDer<'static>,
    public: PublicKey,
}

impl FreshKey {
    /// A P-256 key.
    ///
    /// # Errors
    /// [`CredentialError::Fresh`].
    pub fn generate() -> Result<Self, CredentialError> {
        let fresh = |_| CredentialError::Fresh;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(fresh)?;
        let public = PublicKey::from_ec_point(pair.public_key().as_ref());
        let document = pair.to_pkcs8v1().map_err(fresh)?;
        Ok(Self {
            key: PrivatePkcs8KeyDer::from(document.as_ref().to_vec()).into(),
            public: public.map_err(|_| CredentialError::Fresh)?,
        })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// With the chain that was issued for it.
    ///
    /// # Errors
    /// If the chain is of another key.
    pub fn certified(
        self,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Credential, CredentialError> {
        Credential::new(chain, self.key.clone_key())
    }
}

impl Drop for FreshKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for FreshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreshKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(all(test, target_os = "linux"))]
#[path = "../tests/support/memory.rs"]
mod memory;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::memory::{MASK, is_in_memory};
    use super::*;

    #[test]
    fn a_key_that_is_never_certified_is_wiped() {
        let key = FreshKey::generate().unwrap();
        // From the private number on: the allocator writes over the beginning of what is freed.
        let secret = key.key.secret_der().get(32..).unwrap();
        let masked: Vec<u8> = secret.iter().map(|byte| byte ^ MASK).collect();
        assert!(is_in_memory(&masked).unwrap(), "the search finds what is there");
        drop(key);
        assert!(!is_in_memory(&masked).unwrap());
    }
}
