//! The account: its keys and aliases, and how requests name them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::exception::Exception;
use super::identity::{ACCOUNT, arn_prefix, key_arn, uuid};
use super::key_pair::KeyPair;
use super::{FakeKmsError, KeySpec};

/// What the account holds.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// By id.
    pub(super) keys: BTreeMap<String, Key>,
    /// By name, which begins with `alias/`.
    pub(super) aliases: BTreeMap<String, Alias>,
}

/// A key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) spec: KeySpec,
    pub(super) usage: Usage,
    pub(super) state: State,
    pub(super) description: String,
    pub(super) tags: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub(super) created: i64,
    /// The same moment, to tell its age by.
    pub(super) made: Instant,
    pub(super) pair: Arc<KeyPair>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    SignVerify,
    /// RSA keys that a signer has to refuse; the stand-in cannot decrypt with them.
    EncryptDecrypt,
    /// Keys on NIST curves that a signer has to refuse, likewise.
    KeyAgreement,
}

impl Usage {
    /// Its name in the API.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SignVerify => "SIGN_VERIFY",
            Self::EncryptDecrypt => "ENCRYPT_DECRYPT",
            Self::KeyAgreement => "KEY_AGREEMENT",
        }
    }
}

/// What a key may be used for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Enabled,
    Disabled,
    /// Seconds since 1970 of the end, which the stand-in does not bring about by itself.
    PendingDeletion(i64),
}

/// A name for a key.
#[derive(Debug)]
pub(super) struct Alias {
    /// The id of the key.
    pub(super) target: String,
    /// Seconds since 1970.
    pub(super) created: i64,
    /// Seconds since 1970.
    pub(super) updated: i64,
}

impl Account {
    /// Takes a new key in and gives its id.
    pub(super) fn add(
        &mut self,
        spec: KeySpec,
        usage: Usage,
        pair: KeyPair,
        now: i64,
    ) -> Result<&mut Key, FakeKmsError> {
        let id = uuid()?;
        let key = Key {
            id: id.clone(),
            spec,
            usage,
            state: State::Enabled,
            description: String::new(),
            tags: BTreeMap::new(),
            created: now,
            made: Instant::now(),
            pair: Arc::new(pair),
        };
        Ok(self.keys.entry(id).or_insert(key))
    }

    /// Removes a key for good, with its aliases.
    pub(super) fn destroy(&mut self, key: &str) -> Result<(), FakeKmsError> {
        let id = key.rsplit('/').next().unwrap_or(key);
        self.keys.remove(id).ok_or_else(|| FakeKmsError::NoKey(key.to_owned()))?;
        self.aliases.retain(|_, alias| alias.target != id);
        Ok(())
    }

    /// The key that a request names by id, ARN, alias or alias ARN.
    pub(super) fn named(&self, name: &str) -> Result<&Key, Exception> {
        let local = local_name(name)?;
        if !local.starts_with("alias/") {
            return self.keyed(name);
        }
        let alias = self.aliases.get(local).ok_or_else(|| {
            Exception::not_found(format!("Alias {}{local} is not found.", arn_prefix()))
        })?;
        self.keyed(&alias.target)
    }

    /// The key that a request is about, if it is about one.
    pub(super) fn subject(&self, body: &[u8]) -> Option<&Key> {
        let request: Value = serde_json::from_slice(body).ok()?;
        let name = request.get("KeyId").or_else(|| request.get("TargetKeyId"))?;
        self.named(name.as_str()?).ok()
    }

    /// The key that a request names by id or ARN, where an alias will not do.
    pub(super) fn keyed(&self, name: &str) -> Result<&Key, Exception> {
        let id = key_id(name)?;
        self.keys.get(id).ok_or_else(|| no_key(id))
    }

    /// The same, to change it.
    pub(super) fn keyed_mut(&mut self, name: &str) -> Result<&mut Key, Exception> {
        let id = key_id(name)?;
        self.keys.get_mut(id).ok_or_else(|| no_key(id))
    }
}

impl Key {
    /// Its ARN.
    pub(super) fn arn(&self) -> String {
        key_arn(&self.id)
    }

    /// Refuses a key that is not [`State::Enabled`], as cryptographic operations do.
    pub(super) fn check_enabled(&self) -> Result<(), Exception> {
        self.check_kept()?;
        match self.state {
            State::Disabled => {
                Err(Exception::new("DisabledException", format!("{} is disabled.", self.arn())))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a key that is waiting for its deletion.
    pub(super) fn check_kept(&self) -> Result<(), Exception> {
        match self.state {
            State::PendingDeletion(_) => {
                Err(Exception::invalid_state(format!("{} is pending deletion.", self.arn())))
            }
            _ => Ok(()),
        }
    }

    /// The names of the algorithms that it signs with.
    pub(super) fn signing_algorithms(&self) -> Option<Vec<&'static str>> {
        (self.usage == Usage::SignVerify)
            .then(|| self.spec.algorithms().iter().map(|algorithm| algorithm.name()).collect())
    }

    /// `KeyMetadata` of the API.
    pub(super) fn metadata(&self) -> Value {
        let mut metadata = json!({
            "AWSAccountId": ACCOUNT,
            "Arn": self.arn(),
            "CreationDate": self.created,
            "CustomerMasterKeySpec": self.spec.name(),
            "Description": self.description,
            "Enabled": self.state == State::Enabled,
            "KeyId": self.id,
            "KeyManager": "CUSTOMER",
            "KeySpec": self.spec.name(),
            "KeyState": self.state.name(),
            "KeyUsage": self.usage.name(),
            "MultiRegion": false,
            "Origin": "AWS_KMS",
        });
        if let Some(algorithms) = self.signing_algorithms() {
            metadata["SigningAlgorithms"] = algorithms.into();
        }
        if let State::PendingDeletion(date) = self.state {
            metadata["DeletionDate"] = date.into();
        }
        metadata
    }
}

impl State {
    /// Its name in the API.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion(_) => "PendingDeletion",
        }
    }
}

/// A name without the ARN's beginning: a key id, `key/…` or `alias/…`.
fn local_name(name: &str) -> Result<&str, Exception> {
    if !name.starts_with("arn:") {
        return Ok(name);
    }
    name.strip_prefix(&arn_prefix())
        .filter(|local| local.starts_with("key/") || local.starts_with("alias/"))
        .ok_or_else(|| Exception::new("InvalidArnException", format!("Invalid arn {name}")))
}

/// The key id of an id or a key ARN.
fn key_id(name: &str) -> Result<&str, Exception> {
    let local = local_name(name)?;
    let id = if name == local { Some(local) } else { local.strip_prefix("key/") };
    // An id has no slash: an alias, or a path that is no ARN, names no key here.
    id.filter(|id| !id.contains('/'))
        .ok_or_else(|| Exception::not_found(format!("Invalid keyId '{name}'")))
}

pub(super) fn no_key(id: &str) -> Exception {
    Exception::not_found(format!("Key '{}' does not exist", key_arn(id)))
}
