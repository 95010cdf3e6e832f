//! One key of a KMS: each signature is a request, sent again where that may help.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ca_core::key::{
    KeyName, PublicKey, Reach, SignError, Signature, SignatureAlgorithm, SigningKey, ToBeSigned,
    Urgency,
};
use tokio::time::{sleep, timeout_at};

use super::Shared;
use super::lane::{Permit, Turned};
use super::retry::{pause, timed_out};
use super::wire::{Class, Found, WireError};
use crate::metrics::KeyMetrics;
use crate::retirement::Retired;
use crate::verification::{self, Verifiers};

/// The most requests for one signature, unless they are throttled.
const MOST_TRIES: u32 = 10;

/// A key that signs by requests.
pub(super) struct RemoteKey {
    pub(super) name: KeyName,
    pub(super) found: Found,
    pub(super) retired: Retired,
    pub(super) verifiers: Verifiers,
    pub(super) metrics: KeyMetrics,
    pub(super) shared: Arc<Shared>,
}

#[async_trait]
impl SigningKey for RemoteKey {
    async fn sign(&self, message: ToBeSigned, urgency: Urgency) -> Result<Signature, SignError> {
        let unanswered = Unanswered(&self.metrics);
        let answer = self.sign_verified(&message, urgency).await;
        std::mem::forget(unanswered);
        self.metrics.answered(&answer);
        answer
    }

    fn algorithms(&self) -> &[SignatureAlgorithm] {
        self.found.public_key.kind().algorithms()
    }

    fn public_key(&self) -> &PublicKey {
        &self.found.public_key
    }

    fn reach(&self) -> Reach<'_> {
        Reach::Away { parallel: self.shared.lane.most_in_flight() }
    }
}

/// Counts a caller that went away before it was answered.
struct Unanswered<'a>(&'a KeyMetrics);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.abandoned();
    }
}

impl RemoteKey {
    async fn sign_verified(
        &self,
        message: &ToBeSigned,
        urgency: Urgency,
    ) -> Result<Signature, SignError> {
        self.check(message)?;
        let asked = Instant::now();
        let mut ticket = self.shared.lane.ticket(urgency);
        let mut suspect = false;
        let mut tries = 1;
        loop {
            let permit = self.shared.lane.enter(&mut ticket).await;
            let permit = permit.map_err(|turned| self.turned(turned))?;
            if tries == 1 {
                self.metrics.waited(permit.since().saturating_duration_since(asked));
            }
            // Retired while it waited.
            self.retired.check(&self.name)?;
            let error = match self.attempt(permit, message, urgency.deadline, suspect).await {
                Ok(signature) => return Ok(signature),
                Err(error) => error,
            };
            let again = self.before_next(&error, tries, suspect, urgency.deadline)?;
            suspect |= is_suspect(error.class);
            tries += 1;
            self.metrics.retried();
            sleep(again).await;
        }
    }

    fn check(&self, message: &ToBeSigned) -> Result<(), SignError> {
        self.retired.check(&self.name)?;
        let algorithm = message.algorithm();
        if !self.algorithms().contains(&algorithm) {
            let kind = self.found.public_key.kind();
            return Err(self.refused(format!("a key of {kind} does not sign by {algorithm}")));
        }
        let (length, longest) = (message.message().len(), self.shared.description.longest_message);
        if length > longest && algorithm.digest(&[]).is_none() {
            let reason = format!("{length} bytes are too long; {longest} can be signed unhashed");
            return Err(self.refused(reason));
        }
        Ok(())
    }

    /// One request. A wrong signature is counted here and goes no further.
    async fn attempt(
        &self,
        permit: Permit,
        message: &ToBeSigned,
        deadline: Instant,
        suspect: bool,
    ) -> Result<Signature, WireError> {
        let (since, patience) = (permit.since(), self.shared.pace.attempt_timeout);
        let until = deadline.min(since + patience);
        let request = self.shared.wire.sign(&self.found, message.algorithm(), message.message());
        let answer = timeout_at(until.into(), request).await;
        let answer = answer.unwrap_or_else(|_| Err(timed_out(until - since)));
        let answer = answer.and_then(|signature| self.verify(message, signature, suspect));
        permit.end(&answer);
        match &answer {
            Ok(_) => self.metrics.signed(since.elapsed()),
            Err(error) if error.class == Class::Wrong => {
                self.metrics.wrong();
                verification::alarm(&self.name, &self.shared.description.place);
            }
            Err(_) => {}
        }
        answer
    }

    /// Verified as the settings say; always once the key is suspect.
    fn verify(
        &self,
        message: &ToBeSigned,
        signature: Signature,
        suspect: bool,
    ) -> Result<Signature, WireError> {
        let accepted = if suspect {
            self.found.public_key.verifies(message.message(), &signature)
        } else {
            self.verifiers.accepts(message, &signature)
        };
        if accepted {
            return Ok(signature);
        }
        let reason = "its signature does not verify with the public key";
        Err(WireError::new(Class::Wrong, "does not verify", reason))
    }

    /// How long to wait before the next try, or the answer to the caller if there is none.
    fn before_next(
        &self,
        error: &WireError,
        tries: u32,
        suspect: bool,
        deadline: Instant,
    ) -> Result<Duration, SignError> {
        let now = Instant::now();
        if now >= deadline {
            let place = &self.shared.description.place;
            return Err(self.late(format!("{place} was asked {tries} times: {}", error.reason)));
        }
        let wait = match error.class {
            Class::Refused => return Err(self.refused(error.reason.clone())),
            Class::Credentials => return Err(self.gave_up(error, now)),
            // Once more, by a new request and at once.
            Class::Wrong if suspect => return Err(verification::wrong(&self.name)),
            Class::Malformed(source) if suspect => {
                return Err(SignError::Malformed { key: self.name.to_string(), source });
            }
            Class::Wrong | Class::Malformed(_) => return Ok(Duration::ZERO),
            Class::Throttled { retry_after } => {
                pause(tries - 1).max(retry_after.unwrap_or_default())
            }
            Class::Transient | Class::Renewed => pause(tries - 1),
        };
        let in_time = now + wait < deadline;
        // The lane sees to it that throttling ends.
        let few = tries < MOST_TRIES || matches!(error.class, Class::Throttled { .. });
        if few && in_time && self.shared.lane.may_retry() {
            return Ok(wait);
        }
        Err(self.gave_up(error, now + wait))
    }

    fn gave_up(&self, error: &WireError, then: Instant) -> SignError {
        let key = self.name.to_string();
        match error.class {
            Class::Throttled { .. } => {
                SignError::Busy { key, retry_after: then.saturating_duration_since(Instant::now()) }
            }
            _ => {
                let reason = format!("{}: {}", self.shared.description.place, error.reason);
                SignError::Unavailable { key, reason }
            }
        }
    }

    fn turned(&self, turned: Turned) -> SignError {
        let key = self.name.to_string();
        match turned {
            Turned::Busy(retry_after) => SignError::Busy { key, retry_after },
            Turned::Late => self.late("its turn had not come by its deadline".to_owned()),
            Turned::Away(reason) => {
                let reason = format!("{} is away: {reason}", self.shared.description.place);
                SignError::Unavailable { key, reason }
            }
        }
    }

    fn late(&self, reason: String) -> SignError {
        SignError::Late { key: self.name.to_string(), reason }
    }

    fn refused(&self, reason: String) -> SignError {
        SignError::Refused { key: self.name.to_string(), reason }
    }
}

/// Whether an answer like this one makes the next one's signature one to be verified.
fn is_suspect(class: Class) -> bool {
    matches!(class, Class::Wrong | Class::Malformed(_))
}

impl fmt::Debug for RemoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteKey({}, {}, {:?})", self.name, self.found.handle, self.found.public_key)
    }
}
