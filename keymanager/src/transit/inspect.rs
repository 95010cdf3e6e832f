//! What a key in a transit engine has to be to sign for Mintmark.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_core::key::{KeyError, KeyName, KeyType, PublicKey};
use hyper::Method;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;

use super::{Transit, VERSION, handle};
use crate::remote::retry::patiently;
use crate::remote::wire::Found;

/// A key as the engine tells of it. What a server does not tell about is taken for the worse where that would
/// break a promise.
#[derive(Debug, Deserialize)]
pub(super) struct Key {
    #[serde(rename = "type")]
    key_type: String,
    exportable: bool,
    allow_plaintext_backup: bool,
    deletion_allowed: bool,
    derived: bool,
    /// Since Vault 1.11.
    #[serde(default)]
    imported_key: bool,
    /// OpenBao alone.
    #[serde(default)]
    soft_deleted: bool,
    supports_signing: bool,
    latest_version: u64,
    #[serde(default)]
    min_available_version: u64,
    min_encryption_version: u64,
    /// By version; those of symmetric keys are numbers.
    keys: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Version {
    public_key: String,
    #[serde(default)]
    creation_time: String,
}

impl Transit {
    /// The key of that name, if it keeps the promises of a key of ours.
    pub(super) async fn inspect(&self, name: &KeyName) -> Result<Option<Found>, KeyError> {
        let handle = handle(name)?;
        let Some(key) = self.read(&handle).await? else { return Ok(None) };
        let refused = |reason: String| {
            let reason = format!("{handle} in {}: {reason}", self.place);
            KeyError::Unsafe { name: name.clone(), reason }
        };
        let version = key.check().map_err(refused)?;
        let public_key = public_key(&key.key_type, &version.public_key).map_err(refused)?;
        let wanted = key_type(&key.key_type).map(KeyType::kind);
        if wanted != Some(public_key.kind()) {
            let reason = format!("its public key is {}, not {}", public_key.kind(), key.key_type);
            return Err(refused(reason));
        }
        let facts = vec![
            ("type".to_owned(), key.key_type),
            ("version".to_owned(), format!("{VERSION} of {}", key.latest_version)),
            ("created".to_owned(), version.creation_time),
        ];
        let location = format!("{handle} in {}", self.place);
        Ok(Some(Found { handle, public_key, location, facts }))
    }

    /// What the engine tells of a key, whatever it is.
    pub(super) async fn read(&self, handle: &str) -> Result<Option<Key>, KeyError> {
        let path = format!("keys/{handle}");
        let answer = patiently(|| async {
            let answer = self.ask(Method::GET, &path, None).await?;
            if answer.is_nothing() { Ok(None) } else { answer.data("read the key").map(Some) }
        });
        answer.await.map_err(|error| error.into_key_error(&self.place))
    }
}

impl Key {
    /// The version that signs, unless the key breaks a promise.
    fn check(&self) -> Result<Version, String> {
        let broken = [
            (self.exportable, "it is exportable, and cannot be made otherwise; use another key"),
            (
                self.allow_plaintext_backup,
                "it may be backed up in plain text, and cannot be made otherwise; use another key",
            ),
            (
                self.imported_key,
                "it was imported: who made it may have a copy; use a key made there",
            ),
            (self.deletion_allowed, "its deletion is allowed; set deletion_allowed=false"),
            (self.derived, "it is a derived key; use one that is not"),
            (self.soft_deleted, "it is soft-deleted; restore it, or use another key"),
            (!self.supports_signing, "its type does not sign; use ecdsa-p256 or another that does"),
            (
                self.min_encryption_version > VERSION || self.min_available_version > VERSION,
                "version 1, which signs, was withdrawn; set min_encryption_version=1 if it is still there, or \
                 rotate the authority to a new key",
            ),
        ];
        if let Some((_, reason)) = broken.iter().find(|(broken, _)| *broken) {
            return Err((*reason).to_owned());
        }
        if key_type(&self.key_type).is_none() {
            return Err(format!("Mintmark does not sign with a key of type {}", self.key_type));
        }
        let version = self.keys.get(&VERSION.to_string()).cloned();
        let version = version.ok_or(
            "version 1, which signs, is not shown; set min_decryption_version=1 if it is still there, or rotate \
             the authority to a new key",
        )?;
        serde_json::from_value(version).map_err(|_| "its version 1 has no public key".to_owned())
    }
}

/// PEM of a `SubjectPublicKeyInfo`, but for Ed25519 the bare key in base64.
fn public_key(type_name: &str, text: &str) -> Result<PublicKey, String> {
    if type_name == "ed25519" {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let bytes = bytes.ok_or("its public key is not 32 bytes in base64")?;
        return PublicKey::from_ed25519(&bytes).map_err(|error| error.to_string());
    }
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes());
    let spki = spki.map_err(|error| format!("its public key is no PEM: {error}"))?;
    PublicKey::from_spki(&spki).map_err(|error| error.to_string())
}

/// How the engine calls a kind of key.
pub(super) fn type_name(key_type: KeyType) -> Option<&'static str> {
    match key_type {
        KeyType::EcP256 => Some("ecdsa-p256"),
        KeyType::EcP384 => Some("ecdsa-p384"),
        KeyType::Rsa2048 => Some("rsa-2048"),
        KeyType::Rsa3072 => Some("rsa-3072"),
        KeyType::Rsa4096 => Some("rsa-4096"),
        KeyType::Ed25519 => Some("ed25519"),
        KeyType::MlDsa44 | KeyType::MlDsa65 => None,
    }
}

fn key_type(name: &str) -> Option<KeyType> {
    KeyType::ALL.into_iter().find(|&key_type| type_name(key_type) == Some(name))
}
