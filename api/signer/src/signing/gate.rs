//! Who is let in, once it is known who it is: asked after the handshake, and what it hands out ends the connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Clock;
use ca_core::frontend::{Budgets, FrontEnd, FrontEndName, FrontEnds};
use ca_core::id::TrustDomain;
use ca_core::mint::Mint;
use futures_util::future::BoxFuture;
use mintmark_transport::Peer;
use thiserror::Error;

/// Decides on a peer whose certificate has been verified. Asked once for each connection, on a runtime thread, so it
/// answers from memory.
pub type Gate = Arc<dyn Fn(&Peer) -> Result<Admitted, Refused> + Send + Sync>;

/// A peer that is let in.
pub struct Admitted {
    /// As what.
    pub front_end: FrontEndView,
    /// Resolves when it is no longer, to the reason in one sentence: the connection is cut off at once, its open
    /// streams too. Never resolves if nothing happens; dropped with the connection.
    pub until: BoxFuture<'static, String>,
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
        let until = ended(
            Arc::clone(&front_ends),
            Arc::clone(&record),
            peer.key_fingerprint,
            Arc::clone(&clock),
        );
        let trust_domain = trust_domain.clone();
        let front_end = FrontEndView { record, budgets, trust_domain, usual };
        Ok(Admitted { front_end, until: Box::pin(until) })
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

/// Resolves when the record no longer lets that key in, or on other terms. What happens to other keys of the front end
/// is of no concern.
async fn ended(
    front_ends: Arc<FrontEnds>,
    mut known: Arc<FrontEnd>,
    key: [u8; 32],
    clock: Arc<dyn Clock>,
) -> String {
    loop {
        let Some(present) = front_ends.changed(&known).await else {
            return format!("there is no front end {} any more", known.name());
        };
        if let Err(reason) = present.admit(&key, clock.now()) {
            return reason.to_string();
        }
        if present.terms() != known.terms() {
            return format!("front end {} has other terms now; connect again", known.name());
        }
        known = present;
    }
}
