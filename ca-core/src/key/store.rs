//! The two seams: using one key, and managing keys.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;

use super::{
    KeyType, PublicKey, Signature, SignatureAlgorithm, SignatureError, ToBeSigned, Urgency,
};

/// One private key, wherever it lives.
#[async_trait]
pub trait SigningKey: Send + Sync + fmt::Debug {
    /// Signs a message that has passed its checks, by the algorithm that the message names; the key
    /// hashes it. What comes back has been verified as its store's settings say.
    ///
    /// Answers by the deadline, whatever the device does. Signing twice is harmless: a signature that is
    /// not released binds nobody. The future may be dropped at any time; a job that has not reached the
    /// device by then is not signed.
    async fn sign(&self, message: ToBeSigned, urgency: Urgency) -> Result<Signature, SignError>;

    /// How it can sign; the first is how it signs unless it is asked for another way. Never empty.
    fn algorithms(&self) -> &[SignatureAlgorithm];

    /// The public half, known since the key was found.
    fn public_key(&self) -> &PublicKey;

    /// Where it signs, for those who have much to sign at once.
    fn reach(&self) -> Reach<'_> {
        Reach::Away { parallel: 1 }
    }
}

/// Where a key signs.
#[derive(Debug)]
pub enum Reach<'a> {
    /// In this process, on the thread that calls: its speed is the processor's.
    Here(&'a dyn SignsHere),
    /// Somewhere that is waited for. So many signatures at once are as many as it makes at once; more only
    /// wait in its own queue.
    Away {
        /// At least one.
        parallel: usize,
    },
}

/// A key that signs where it is called, in microseconds (RSA: up to two milliseconds).
pub trait SignsHere: Send + Sync + fmt::Debug {
    /// What [`SigningKey::sign`] does, without a future around it.
    ///
    /// # Errors
    /// Those of [`SigningKey::sign`].
    fn sign_here(&self, message: &ToBeSigned, urgency: Urgency) -> Result<Signature, SignError>;
}

impl dyn SigningKey + '_ {
    /// How it signs unless it is asked for another way.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        *self.algorithms().first().expect("a key can sign in one way at least")
    }

    /// Has the key sign, and refuses a signature of another algorithm than the message names.
    pub(crate) async fn sign_checked(
        &self,
        message: ToBeSigned,
        urgency: Urgency,
    ) -> Result<Signature, SignError> {
        let wanted = message.algorithm();
        let signature = self.sign(message, urgency).await?;
        self.check(wanted, signature)
    }

    /// `sign_checked` by a key that signs here.
    pub(crate) fn sign_here_checked(
        &self,
        message: &ToBeSigned,
        urgency: Urgency,
    ) -> Result<Signature, SignError> {
        let Reach::Here(here) = self.reach() else {
            let key = self.public_key().key_id().to_string();
            let reason = "it does not sign in this process".to_owned();
            return Err(SignError::Refused { key, reason });
        };
        self.check(message.algorithm(), here.sign_here(message, urgency)?)
    }

    fn check(
        &self,
        wanted: SignatureAlgorithm,
        signature: Signature,
    ) -> Result<Signature, SignError> {
        if signature.algorithm() == wanted {
            return Ok(signature);
        }
        let key = self.public_key().key_id().to_string();
        let reason = format!("it signed by {} where {wanted} is wanted", signature.algorithm());
        Err(SignError::Refused { key, reason })
    }
}

/// Why there is no signature. No variant carries a PIN, key bytes or the message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignError {
    /// Every slot and every place in the queue is taken; ask again after about `retry_after`.
    #[error("key {key} is busy; try again in {} ms", retry_after.as_millis())]
    Busy {
        /// Which key.
        key: String,
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// The device cannot be reached or has lost its session; a later try may work.
    #[error("key {key} is unavailable: {reason}")]
    Unavailable {
        /// Which key.
        key: String,
        /// What the device said.
        reason: String,
    },
    /// The key is gone, retired, or refuses the operation; trying again will not help.
    #[error("key {key} cannot sign: {reason}")]
    Refused {
        /// Which key.
        key: String,
        /// What the device said, and what to do.
        reason: String,
    },
    /// The deadline passed before there was a signature.
    #[error("key {key} did not sign in time: {reason}")]
    Late {
        /// Which key.
        key: String,
        /// Where the job was then.
        reason: String,
    },
    /// The device answered twice with a signature that does not verify. Nothing was released.
    #[error("key {key} signs wrongly: {reason}")]
    Wrong {
        /// Which key.
        key: String,
        /// What was tried, and what to do.
        reason: String,
    },
    /// The device answered with bytes that are no signature of the algorithm.
    #[error("key {key} gave a malformed signature: {source}")]
    Malformed {
        /// Which key.
        key: String,
        /// What is wrong with the bytes.
        source: SignatureError,
    },
}

/// Creates, finds, describes, retires and destroys the keys of one place.
///
/// A store serves one trust domain: a name of another is [`KeyError::Unsafe`]. Every implementation
/// passes the suite `contract::key_store` (feature `testing`).
#[async_trait]
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// What and where this store is, and which keys it can make.
    fn description(&self) -> &StoreDescription;

    /// Whether it can be used now. A store whose keys are in this process always can.
    fn health(&self) -> StoreHealth {
        StoreHealth::Good
    }

    /// Makes a new key. Fails with [`KeyError::Exists`] if the name is taken, by a retired key too,
    /// and with [`KeyError::Unsupported`] if the store cannot make such a key.
    async fn create(
        &self,
        name: &KeyName,
        key_type: KeyType,
    ) -> Result<Arc<dyn SigningKey>, KeyError>;

    /// The key of that name, checked as strictly as at creation, or `None`. Two keys of one name are
    /// [`KeyError::Ambiguous`]; a key that does not keep its promises (extractable, not made here) is
    /// [`KeyError::Unsafe`], and half a key pair [`KeyError::Incomplete`].
    async fn find(&self, name: &KeyName) -> Result<Option<Arc<dyn SigningKey>>, KeyError>;

    /// The names of all keys of this trust domain in the store, retired ones excepted, in order. Says
    /// nothing about whether they can be used; [`describe`](Self::describe) does.
    async fn list(&self) -> Result<Vec<KeyName>, KeyError>;

    /// What the store tells of a key, checked as by [`find`](Self::find), or `None`; nothing is signed.
    async fn describe(&self, name: &KeyName) -> Result<Option<KeyDescription>, KeyError>;

    /// Lets the key sign no more: handles given out refuse, and `find` and `list` leave it out for as
    /// long as this process runs. The lasting record of a retirement is in the state store; nothing is
    /// destroyed. A name that does not exist is [`KeyError::NotFound`]; retiring a key again changes
    /// nothing.
    async fn retire(&self, name: &KeyName) -> Result<(), KeyError>;

    /// Destroys a key whose time is over, as our own record says: afterwards nothing signs with it. Where
    /// the store only schedules the end (a cloud KMS), the answer says when it comes. A name that does not
    /// exist is [`KeyError::NotFound`].
    async fn destroy(&self, key: &ExpiredKey) -> Result<String, KeyError>;
}

/// A key that nothing needs any more: retired by our own record, and everything it signed has ended. Only
/// the code that reads the record can build one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredKey(KeyName);

impl ExpiredKey {
    /// Of a key that the record has been read for.
    pub(crate) fn new(name: KeyName) -> Self {
        Self(name)
    }

    /// For the suite that every key store must pass.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn of_a_test(name: KeyName) -> Self {
        Self(name)
    }

    /// Which key.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.0
    }
}

/// Whether a key store can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// The last signatures and probes were good.
    Good,
    /// It does not sign now, and is being brought back without a person; why.
    Ailing(String),
    /// It does not come back without a person: a PIN is refused, for one; why.
    Lost(String),
    /// It does not come back in this process: a new one may do better; why.
    Stuck(String),
}

impl StoreHealth {
    /// What is wrong, if anything is.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Good => None,
            Self::Ailing(reason) | Self::Lost(reason) | Self::Stuck(reason) => Some(reason),
        }
    }
}

/// What a key store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDescription {
    /// `software`, `pkcs11`, …: the `type` of its configuration section.
    pub kind: &'static str,
    /// Where the private keys are, for people: "SoftHSM token \"mintmark\" (serial 12ab)".
    pub place: String,
    /// The kinds of key it can make.
    pub key_types: Vec<KeyType>,
    /// Whether the private halves are held by a device that does not give them out.
    pub hardware: bool,
    /// The longest message, in bytes, that its keys sign by an algorithm without a digest (Ed25519,
    /// ML-DSA). Those that hash take any length.
    pub longest_message: usize,
}

impl StoreDescription {
    /// Refuses a kind of key that the store cannot make, before it tries.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`].
    pub fn check(&self, key_type: KeyType) -> Result<(), KeyError> {
        if self.key_types.contains(&key_type) {
            return Ok(());
        }
        Err(KeyError::Unsupported { key_type, place: self.place.clone() })
    }
}

/// A key of a store, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDescription {
    /// Its name.
    pub name: KeyName,
    /// How it can sign; the usual way first.
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Its public half.
    pub public_key: PublicKey,
    /// Where in the store it is: a file, an ARN, a handle.
    pub location: String,
    /// What else the store tells about it, in its own words: what the key may do, who made it.
    pub facts: Vec<(String, String)>,
}

/// The name of a key: `mintmark/<trust domain>/<authority>/<generation>`, where the authority is `x509`
/// or `jwt`. A token holds it as label, a sealed file binds it into its associated data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

/// Why a text is no key name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("key name {0:?} is not of the form mintmark/<trust domain>/<authority>/<generation>")]
pub struct KeyNameError(String);

impl KeyName {
    /// Reads a name: four non-empty parts, the first `mintmark`, then a trust domain of `[a-z0-9._-]`, then
    /// authority and generation of `[a-z0-9-]`; 320 bytes at most.
    pub fn parse(text: &str) -> Result<Self, KeyNameError> {
        let plain = |part: &str, more: &[u8]| {
            let fits = |b: u8| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || more.contains(&b)
            };
            !part.is_empty() && part.bytes().all(fits)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let well_formed = matches!(parts[..], ["mintmark", domain, authority, generation]
            if plain(domain, b"._") && plain(authority, b"") && plain(generation, b""));
        if well_formed && text.len() <= 320 {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyNameError(text.to_owned()))
        }
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain that the key serves.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.part(1)
    }

    /// What it signs: `x509`, `jwt` or `log`.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.part(2)
    }

    /// Its number among the keys of that authority.
    #[must_use]
    pub fn generation(&self) -> &str {
        self.part(3)
    }

    fn part(&self, index: usize) -> &str {
        self.0.split('/').nth(index).expect("a key name has four parts")
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key could not be made, found or retired. No variant carries a PIN or key bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The name is taken.
    #[error("key {0} exists already")]
    Exists(KeyName),
    /// No key has the name.
    #[error("there is no key {0}")]
    NotFound(KeyName),
    /// The store cannot make or use such a key.
    #[error("{place} cannot hold a key of type {key_type}")]
    Unsupported {
        /// The kind of key asked for.
        key_type: KeyType,
        /// The store.
        place: String,
    },
    /// More than one key has the name: which one signs would be chance.
    #[error("{count} keys are named {name} in {place}; delete or rename all but the right one")]
    Ambiguous {
        /// The name.
        name: KeyName,
        /// How many keys bear it.
        count: usize,
        /// The store.
        place: String,
    },
    /// The key is not what the store promises (extractable, imported, wrong usage, tampered file).
    #[error("key {name} is refused: {reason}")]
    Unsafe {
        /// The name.
        name: KeyName,
        /// The broken promise, and what to do.
        reason: String,
    },
    /// One half of the key pair is not there: it was lost, or making the key was cut short.
    #[error("key {name} is incomplete: {reason}")]
    Incomplete {
        /// The name.
        name: KeyName,
        /// Which half is missing, and what to do.
        reason: String,
    },
    /// Credentials were refused. Never tried again: hardware locks after a few tries.
    #[error("{place} refused the PIN: {reason}")]
    Credentials {
        /// The store.
        place: String,
        /// What the device said, and what to do.
        reason: String,
    },
    /// The store cannot be reached now; later may work.
    #[error("{place} is unavailable: {reason}")]
    Unavailable {
        /// The store.
        place: String,
        /// What failed, and what to do.
        reason: String,
    },
    /// The store is set up wrongly; a person has to act.
    #[error("{place} cannot be used: {reason}")]
    Setup {
        /// The store, or the setting.
        place: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

impl KeyError {
    /// Whether this is about the one key alone: the others of its store may be as good as ever.
    #[must_use]
    pub fn is_of_one_key(&self) -> bool {
        match self {
            Self::Exists(_)
            | Self::NotFound(_)
            | Self::Ambiguous { .. }
            | Self::Unsafe { .. }
            | Self::Incomplete { .. } => true,
            Self::Unsupported { .. }
            | Self::Credentials { .. }
            | Self::Unavailable { .. }
            | Self::Setup { .. } => false,
        }
    }
}
