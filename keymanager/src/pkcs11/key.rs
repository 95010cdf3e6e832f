//! A key of a token, as its users see it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use async_trait::async_trait;
use ca_core::key::{
    KeyName, PublicKey, Reach, SignError, Signature, SignatureAlgorithm, SigningKey, ToBeSigned,
    Urgency,
};

use super::answer::{Answer, awaited};
use super::pool::{Job, Order, Pool};
use crate::metrics::KeyMetrics;
use crate::retirement::Retired;
use crate::verification::Verifiers;

/// A key of a token, ready to sign.
pub(super) struct TokenKey {
    pool: Arc<Pool>,
    facts: Arc<Facts>,
}

/// What the handles of a key and the threads share.
pub(super) struct Facts {
    pub(super) name: KeyName,
    pub(super) algorithms: Vec<SignatureAlgorithm>,
    /// How the token refuses to sign with it, and what it said.
    not_by: Vec<(SignatureAlgorithm, String)>,
    pub(super) public_key: PublicKey,
    pub(super) retired: Retired,
    pub(super) verifiers: Verifiers,
    pub(super) metrics: KeyMetrics,
    /// The generation of the module in which it could not be found any more, or 0.
    missing_since: AtomicU64,
}

impl Facts {
    pub(super) fn new(
        name: KeyName,
        (algorithms, not_by): (Vec<SignatureAlgorithm>, Vec<(SignatureAlgorithm, String)>),
        public_key: PublicKey,
        retired: Retired,
        verifiers: Verifiers,
        metrics: KeyMetrics,
    ) -> Self {
        let missing_since = AtomicU64::new(0);
        Self { name, algorithms, not_by, public_key, retired, verifiers, metrics, missing_since }
    }

    /// It could not be found in that generation. Says whether it is gone: it was missing in an earlier one
    /// already, and has not been found since.
    pub(super) fn is_gone(&self, generation: u64) -> bool {
        let first = self.missing_since.compare_exchange(0, generation, Relaxed, Relaxed);
        first.is_err_and(|first| first < generation)
    }

    /// It was found. If it goes once more, it is sought once more.
    pub(super) fn found(&self) {
        self.missing_since.store(0, Relaxed);
    }

    fn check(&self, algorithm: SignatureAlgorithm) -> Result<(), SignError> {
        if self.algorithms.contains(&algorithm) {
            return Ok(());
        }
        let said = self.not_by.iter().find(|(refused, _)| *refused == algorithm);
        let said = said.map_or_else(String::new, |(_, said)| format!(": {said}"));
        Err(self.refused(format!("it does not sign by {algorithm}{said}")))
    }

    fn refused(&self, reason: String) -> SignError {
        SignError::Refused { key: self.name.to_string(), reason }
    }
}

impl TokenKey {
    pub(super) fn new(pool: Arc<Pool>, facts: Arc<Facts>) -> Self {
        pool.inner().add_key(&facts);
        Self { pool, facts }
    }

    async fn ask(&self, message: ToBeSigned, urgency: Urgency) -> Answer {
        let facts = &self.facts;
        facts.retired.check(&facts.name)?;
        let algorithm = message.algorithm();
        facts.check(algorithm)?;
        let submitted = Instant::now();
        if submitted >= urgency.deadline {
            let reason = "its deadline had passed when it was asked".to_owned();
            return Err(SignError::Late { key: facts.name.to_string(), reason });
        }
        // Hashed here, so that the session is not held up by it.
        let input = self.pool.token().input(&message);
        let input = input.ok_or_else(|| facts.refused(format!("no token signs by {algorithm}")))?;
        let verify = facts.verifiers.is_due(message.purpose());
        let key = Arc::clone(facts);
        let order = Arc::new(Order { key, message, verify, input, urgency, submitted });
        let (pool, (reply, answer)) = (self.pool.inner(), awaited());
        pool.submit(Job::new(Arc::clone(&order), reply))?;
        match tokio::time::timeout_at(urgency.deadline.into(), answer.answer()).await {
            Ok(Some(answer)) => answer,
            // Dropped with the pool, or at the deadline, of which others may know a little earlier.
            Ok(None) if Instant::now() < urgency.deadline => {
                Err(pool.stopped(facts.name.to_string()))
            }
            Ok(None) => Err(pool.late(facts.name.to_string())),
            Err(_) => Err(pool.late(facts.name.to_string())),
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({}, {:?})", self.facts.name, self.facts.public_key)
    }
}

#[async_trait]
impl SigningKey for TokenKey {
    async fn sign(&self, message: ToBeSigned, urgency: Urgency) -> Result<Signature, SignError> {
        let answer = self.ask(message, urgency).await;
        self.facts.metrics.answered(&answer);
        answer
    }

    fn algorithms(&self) -> &[SignatureAlgorithm] {
        &self.facts.algorithms
    }

    fn public_key(&self) -> &PublicKey {
        &self.facts.public_key
    }

    fn reach(&self) -> Reach<'_> {
        Reach::Away { parallel: self.pool.sessions() }
    }
}
