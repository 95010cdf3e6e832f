//! What a KMS has to bring along to be a key store: its wire, and nothing of queues, rates and retries.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use ca_core::key::{
    KeyError, KeyName, KeyType, PublicKey, Signature, SignatureAlgorithm, SignatureError,
};

/// The calls of one KMS. Each sends one request, or a few when keys are managed, and says what came of it.
#[async_trait]
pub(crate) trait Wire: Send + Sync + fmt::Debug {
    /// Has the key sign, in one request. The answer has been checked to be of this key and algorithm.
    async fn sign(
        &self,
        key: &Found,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, WireError>;

    /// The key of that name, checked to keep its promises.
    async fn find(&self, name: &KeyName) -> Result<Option<Found>, KeyError>;

    /// Makes a key of a name that [`find`](Self::find) has not found, checked likewise.
    async fn create(&self, name: &KeyName, key_type: KeyType) -> Result<Found, KeyError>;

    /// The names of all keys of the trust domain.
    async fn list(&self, trust_domain: &str) -> Result<Vec<KeyName>, KeyError>;

    /// Destroys a key and says when its end comes, or `None` if there is no such key. A destruction that
    /// was cut short is taken up again.
    async fn destroy(&self, name: &KeyName) -> Result<Option<String>, KeyError>;
}

/// A key as its KMS shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// By which it signs: an ARN, a name within an engine. Never an alias.
    pub(crate) handle: String,
    /// Its public half.
    pub(crate) public_key: PublicKey,
    /// For people.
    pub(crate) location: String,
    /// What else the KMS tells.
    pub(crate) facts: Vec<(String, String)>,
}

/// Why a request brought no signature. Holds no credentials and no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WireError {
    /// What helps against it.
    pub(crate) class: Class,
    /// The KMS's own name for it: one of a few, as it is a label of a metric.
    pub(crate) code: String,
    /// What happened and what to do, for people.
    pub(crate) reason: String,
}

/// What helps against an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The quota is used up: asking more slowly.
    Throttled {
        /// When to come back, if the KMS says.
        retry_after: Option<Duration>,
    },
    /// The KMS was not reached, failed or gave no sense: another try.
    Transient,
    /// The credentials do not count (any more): new ones.
    Credentials,
    /// The credentials did not count, and there are others by now: another try.
    Renewed,
    /// The request will never be granted: a person.
    Refused,
    /// The answer is of another key or algorithm: another try, and an alarm.
    Wrong,
    /// The answer is no signature: another try.
    Malformed(SignatureError),
}

impl WireError {
    pub(crate) fn new(class: Class, code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { class, code: code.into(), reason: reason.into() }
    }

    /// Another try.
    pub(crate) fn transient(code: &str, reason: impl Into<String>) -> Self {
        Self::new(Class::Transient, code, reason)
    }

    /// Bytes that are no signature.
    pub(crate) fn malformed(source: SignatureError) -> Self {
        Self::new(Class::Malformed(source), "malformed", source.to_string())
    }

    /// Whether the same request may do better a little later.
    pub(crate) fn may_pass(&self) -> bool {
        match self.class {
            Class::Throttled { .. }
            | Class::Transient
            | Class::Renewed
            | Class::Wrong
            | Class::Malformed(_) => true,
            Class::Credentials | Class::Refused => false,
        }
    }

    /// The error of a call that manages keys.
    pub(crate) fn into_key_error(self, place: &str) -> KeyError {
        let (place, passes) = (place.to_owned(), self.may_pass());
        let reason = self.reason;
        if passes {
            KeyError::Unavailable { place, reason }
        } else {
            KeyError::Setup { place, reason }
        }
    }
}

impl Class {
    /// The label in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::Transient => "transient",
            Self::Credentials | Self::Renewed => "credentials",
            Self::Refused => "refused",
            Self::Wrong => "wrong",
            Self::Malformed(_) => "malformed",
        }
    }
}
