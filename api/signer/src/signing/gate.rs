//! Who is let in, once it is known who it is: asked after the handshake, and what it hands out ends the connection.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Clock;
use ca_core::frontend::{Budgets, EnrolledKey, FrontEnd, FrontEndError, FrontEndName, FrontEnds};
use ca_core::id::TrustDomain;
use ca_core::mint::Mint;
use futures_util::future::BoxFuture;
use mintmark_transport::Peer;
use thiserror::Error;

/// The end of a key is by the wall clock, which may be set: it is read at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After what pause it is tried again to write down which key was shown: the first, and the longest.
const NOTE_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Decides on a peer whose certificate has been verified. Asked once for each connection, on a runtime thread, so it
/// answers from memory.
pub type Gate = Arc<dyn Fn(&Peer) -> Result<Admitted, Refused> + Send + Sync>;

/// A peer that is let in.
pub struct Admitted {
    /// As what.
    pub front_end: FrontEndView,
    /// Where its record is, for what it may change of it.
    pub front_ends: Arc<FrontEnds>,
    /// Resolves when it is no longer, to the reason in one sentence: the connection is cut off at once, its open
    /// streams too. Never resolves if nothing happens; dropped with the connection.
    pub until: BoxFuture<'static, String>,
    /// Resolves when the peer is to go on elsewhere: what was admitted is answered, and nothing more is read. Never
    /// resolves if nothing happens; dropped with the connection.
    pub leave: BoxFuture<'static, ()>,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").field("front_end", &self.front_end).finish_non_exhaustive()
    }
}

/// Why a peer is not let in, in one sentence. The peer learns that it was not, and no more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What is known of a front end when it asks for something.
#[derive(Debug, Clone)]
pub struct FrontEndView {
    /// Its record. A connection lasts as long as its terms are these.
    pub record: Arc<FrontEnd>,
    /// What is left of its budgets.
    pub budgets: Arc<Budgets>,
    /// Whose SVIDs it may ask for.
    pub trust_domain: TrustDomain,
    /// The lives of what it asks for without saying how long.
    pub usual: UsualLives,
}

/// The lives of certificates and tokens for which no other was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsualLives {
    /// Of certificates.
    pub x509: Duration,
    /// Of tokens.
    pub jwt: Duration,
}

/// Lets in whoever has a record of its name, and holds a key that is enrolled in it, for as long as that is so.
#[must_use]
pub fn by_records(front_ends: Arc<FrontEnds>, mint: &Mint, clock: Arc<dyn Clock>) -> Gate {
    let trust_domain = mint.trust_domain().clone();
    let authorities = mint.authorities();
    let usual = UsualLives { x509: authorities.x509.usual_ttl(), jwt: authorities.jwt.usual_ttl() };
    Arc::new(move |peer| {
        let (record, budgets) = enrolled(&front_ends, &trust_domain, peer, &*clock)?;
        let key = peer.key_fingerprint;
        let leave = replaced(Arc::clone(&front_ends), Arc::clone(&record), key);
        let until = ended(Arc::clone(&front_ends), Arc::clone(&record), key, Arc::clone(&clock));
        let trust_domain = trust_domain.clone();
        let front_end = FrontEndView { record, budgets, trust_domain, usual };
        let front_ends = Arc::clone(&front_ends);
        Ok(Admitted { front_end, front_ends, until: Box::pin(until), leave: Box::pin(leave) })
    })
}

fn enrolled(
    front_ends: &FrontEnds,
    trust_domain: &TrustDomain,
    peer: &Peer,
    clock: &dyn Clock,
) -> Result<(Arc<FrontEnd>, Arc<Budgets>), Refused> {
    let Some(name) = FrontEndName::of_id(&peer.id, trust_domain) else {
        return Err(Refused(format!("{} is the ID of no front end", peer.id.as_str())));
    };
    let (Some(record), Some(budgets)) = (front_ends.get(&name), front_ends.budgets(&name)) else {
        let advice = "enrol it with `mintmark frontend enroll`";
        return Err(Refused(format!("there is no front end {name}; {advice}")));
    };
    match record.admit(&peer.key_fingerprint, clock.now()) {
        Ok(_) => Ok((record, budgets)),
        Err(reason) => Err(Refused(reason.to_string())),
    }
}

/// Resolves when the record no longer keeps that key, or has other terms. What happens to other keys of the front end is
/// of no concern.
async fn ended(
    front_ends: Arc<FrontEnds>,
    known: Arc<FrontEnd>,
    key: [u8; 32],
    clock: Arc<dyn Clock>,
) -> String {
    let name = known.name().clone();
    tokio::select! {
        reason = kept(&front_ends, known, &key, &*clock) => reason,
        never = shown(&front_ends, &name, &key, &*clock) => match never {},
    }
}

async fn kept(
    front_ends: &FrontEnds,
    mut known: Arc<FrontEnd>,
    key: &[u8; 32],
    clock: &dyn Clock,
) -> String {
    loop {
        let left = match known.keep(key, clock.now()) {
            Ok(key) => key.not_after.since(clock.now()) + Duration::from_secs(1),
            Err(reason) => return reason.to_string(),
        };
        let present = tokio::select! {
            present = front_ends.changed(&known) => present,
            // The wall clock may be set.
            () = tokio::time::sleep(left.min(LOOK_EVERY)) => continue,
        };
        let Some(present) = present else {
            return format!("there is no front end {} any more", known.name());
        };
        if present.terms() != known.terms() {
            // Withdrawn is the better reason.
            let ended = present.keep(key, clock.now()).err().map(|reason| reason.to_string());
            let other = || format!("front end {} has other terms now; connect again", known.name());
            return ended.unwrap_or_else(other);
        }
        known = present;
    }
}

/// Resolves when another key has the place of that one: its instance is connected with the next, or somebody else has it.
async fn replaced(front_ends: Arc<FrontEnds>, mut known: Arc<FrontEnd>, key: [u8; 32]) {
    let is_replaced = |known: &EnrolledKey| known.fingerprint == key && known.replaced_at.is_some();
    while !known.keys().iter().any(is_replaced) {
        match front_ends.changed(&known).await {
            Some(present) => known = present,
            // That ends it at once.
            None => return std::future::pending().await,
        }
    }
}

/// Has it written down that the key was shown, beside what the connection does: whoever was let in is served, whether or
/// not the store can be written now.
async fn shown(
    front_ends: &FrontEnds,
    name: &FrontEndName,
    key: &[u8; 32],
    clock: &dyn Clock,
) -> Infallible {
    let mut pause = Duration::ZERO;
    while let Err(error) = front_ends.take_over(name, key, clock.now()).await {
        tracing::warn!(%error, front_end = %name, "the key before the one that it shows may still be renewed");
        pause = pause_after(&error, pause);
        tokio::time::sleep(pause).await;
    }
    std::future::pending().await
}

/// Until it is written down, the key before this one may be renewed, and this one goes then. So it is tried again soon,
/// but not so that every connection does while the store is away.
fn pause_after(error: &FrontEndError, last: Duration) -> Duration {
    match error {
        // Others were faster.
        FrontEndError::Contended(_) => NOTE_AGAIN.0,
        _ => (last * 2).clamp(NOTE_AGAIN.0, NOTE_AGAIN.1),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use ca_core::clock::Timestamp;
    use ca_core::frontend::{
        Certified, Enrolment, Existing, HANDOVER, PathScope, Shown, Terms, Wanted,
    };
    use ca_core::serial::{RandomSerials, SerialSource as _};
    use ca_core::store::{Embedded, StoreError};

    use futures_util::FutureExt as _;

    use super::*;

    #[derive(Debug, Default)]
    struct Hand(AtomicI64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix(self.0.load(Ordering::SeqCst))
        }
    }

    fn key(number: u8) -> Certified {
        let serial = RandomSerials::new().next().unwrap();
        Certified { fingerprint: [number; 32], serial, not_after: Timestamp::from_unix(100_000) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_a_key_that_was_replaced_is_to_leave_and_has_ten_minutes() {
        let store = Arc::new(Embedded::in_memory().unwrap());
        let front_ends = FrontEnds::load(store).await.unwrap();
        let name = FrontEndName::parse("edge").unwrap();
        let path_scopes = vec![PathScope::parse("/").unwrap()];
        let terms = Terms::new(Wanted { path_scopes, ..Wanted::default() }).unwrap();
        let enrolment = Enrolment { name: name.clone(), terms, existing: Existing::default() };
        let clock = Hand::default();
        let known = front_ends.enroll(&enrolment, &key(1), clock.now()).await.unwrap();
        let another = front_ends.enroll(&enrolment, &key(3), clock.now()).await.unwrap();
        let (not_before, not_after) = (clock.now(), clock.now());
        let shown = Shown { fingerprint: [1; 32], not_before, not_after };
        let checked = front_ends.check_renewal(&name, &shown, &[2; 32], clock.now()).await.unwrap();
        front_ends.renew_key(&checked, &key(2), clock.now()).await.unwrap();

        let mut leave = std::pin::pin!(replaced(front_ends.clone(), known.clone(), [1; 32]));
        let mut others = std::pin::pin!(replaced(front_ends.clone(), another, [3; 32]));
        let connection = kept(&front_ends, known, &[1; 32], &clock);
        let mut connection = std::pin::pin!(connection);
        let mut look =
            async || tokio::time::timeout(LOOK_EVERY * 3, connection.as_mut()).await.ok();
        clock.0.store(5_000, Ordering::SeqCst);
        assert_eq!(look().await, None, "nobody has seen the new key");
        assert_eq!(leave.as_mut().now_or_never(), None);
        front_ends.take_over(&name, &[2; 32], clock.now()).await.unwrap();
        assert_eq!(leave.as_mut().now_or_never(), Some(()));
        assert_eq!(others.as_mut().now_or_never(), None, "another instance");
        clock.0.fetch_add(i64::try_from(HANDOVER.as_secs()).unwrap(), Ordering::SeqCst);
        assert_eq!(look().await, None);
        clock.0.fetch_add(1, Ordering::SeqCst);
        let reason = look().await.unwrap();
        assert!(reason.contains("was replaced at 1970-01-01T01:23:20Z"), "{reason}");
    }

    #[test]
    fn what_is_not_written_down_is_tried_again_soon_and_less_often_while_the_store_fails() {
        let pauses = |error: FrontEndError| {
            let mut last = Duration::ZERO;
            let next = || {
                last = pause_after(&error, last);
                Some(last.as_secs())
            };
            std::iter::from_fn(next).take(8).collect::<Vec<_>>()
        };
        let failed = StoreError::Indeterminate { reason: String::new() };
        assert_eq!(pauses(failed.into()), [1, 2, 4, 8, 16, 32, 60, 60]);
        let faster = FrontEndError::Contended(FrontEndName::parse("edge").unwrap());
        assert_eq!(pauses(faster), [1; 8]);
    }
}
