//! A signer's listener for front ends: items over `Mint` streams, as a front end sends them.

use std::iter;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mintmark_client::mint::{self, Answer, Answers, Batch, NotMinted, NotSent, Sender, Why};
use mintmark_client::{
    Backoff, Clock as _, ConnectError, Credentials, CredentialsError, Signer, SystemClock,
};
use mintmark_proto::signing::v1::{JwtItem, NamedJwt, NamedX509, X509Item, jwt_item, x509_item};
use thiserror::Error;
use tonic::Status;

use super::{Fault, Item, Svid, Target};
use crate::asks::{AUDIENCE, Ask, Asks};
use crate::check::Bundle;
use crate::ledger::Ledger;
use crate::plan::{KeyForm, Plan, TargetPlan};

/// The pause before a stream that ended is opened again, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a signer lets an item last at most.
const LONGEST_MINT: Duration = Duration::from_secs(20);
/// What the signer's log calls this process.
const INSTANCE: &str = "mintmark-load";

/// Why there is no signer to ask.
#[derive(Debug, Error)]
pub enum SignerError {
    /// The front end's folder cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// There is no such signer, or it does not let us in.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It can name none of the IDs that are asked for.
    #[error(
        "ask.spiffe_id is of the trust domain {asked:?}, and the signer's is {served:?}; name an ID there, with --spiffe-id"
    )]
    TrustDomain {
        /// Of the plan.
        asked: String,
        /// Of the credentials.
        served: String,
    },
    /// Without a bundle no answer can be checked.
    #[error(
        "cannot get the bundle from {address}: {reason}; --check 0 runs without checking answers"
    )]
    NoBundle {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// A stream cannot be opened.
    #[error("the signer at {address} opens no stream: {reason}")]
    NoStream {
        /// Where.
        address: String,
        /// Its words.
        reason: String,
    },
}

impl SignerError {
    /// Whether the credentials are at fault, and not the signer.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Credentials(_) | Self::Connect(ConnectError::Refused { .. }))
    }
}

/// Connections to one signer, which has let them in.
#[derive(Debug)]
pub struct Server {
    address: String,
    connections: Vec<Signer>,
}

impl Server {
    /// Opens the connections that `plan` wants.
    pub async fn connect(plan: &Plan) -> Result<Self, SignerError> {
        let TargetPlan::Signer { address, credentials, connections, .. } = &plan.target else {
            unreachable!("a plan whose target is a signer");
        };
        let credentials = Arc::new(load(credentials)?);
        let served = credentials.trust_domain().name();
        if served != plan.spiffe_id.trust_domain {
            let (asked, served) = (plan.spiffe_id.trust_domain.clone(), served.to_owned());
            return Err(SignerError::TrustDomain { asked, served });
        }
        let mut opened = Vec::new();
        for _ in 0..*connections {
            let clock = Arc::new(SystemClock);
            opened.push(Signer::connect(address, Arc::clone(&credentials), clock).await?);
        }
        Ok(Self { address: address.clone(), connections: opened })
    }

    /// The bundle that answers are to be checked with.
    pub async fn bundle(&self) -> Result<Bundle, SignerError> {
        let none = |reason| SignerError::NoBundle { address: self.address.clone(), reason };
        let bundle = self.connections[0].bundle().await;
        let bundle = bundle.map_err(|status| none(Fault::from(status).message))?;
        Bundle::try_from(bundle).map_err(|error| none(error.to_string()))
    }

    /// Opens the streams that `plan` wants, ready for `asks`; each is read by a task of the runtime that this is
    /// called on.
    pub async fn ready(self, plan: &Plan, asks: &Asks) -> Result<Streams, SignerError> {
        let TargetPlan::Signer { streams, key_form, .. } = plan.target else {
            unreachable!("a plan whose target is a signer");
        };
        // No stream is ever full: the ledger keeps to the same bound.
        let most = plan.most_in_flight() as usize;
        let mut lanes = Vec::new();
        for place in 0..streams as usize {
            let signer = self.connections[place % self.connections.len()].clone();
            let (sender, answers) = signer.mint(INSTANCE, most).await.map_err(|status| {
                let reason = Fault::from(status).message;
                SignerError::NoStream { address: self.address.clone(), reason }
            })?;
            let lane = Arc::new(Lane { state: Mutex::new(Ok(sender)), signer, most });
            tokio::spawn(Arc::clone(&lane).keep(answers, plan.answer_within));
            lanes.push(lane);
        }
        let forms = (0..asks.count()).map(|place| Form::of(asks.at(place), key_form, plan));
        Ok(Streams { lanes, forms: forms.collect(), next: AtomicUsize::new(0) })
    }
}

fn load(folder: &Path) -> Result<Credentials, CredentialsError> {
    Credentials::load(folder, SystemClock.now())
}

/// A signer with what it is to be asked.
#[derive(Debug)]
pub struct Streams {
    lanes: Vec<Arc<Lane>>,
    /// By the place of their ask.
    forms: Vec<Form>,
    next: AtomicUsize,
}

/// An ask as the wire wants it.
#[derive(Debug)]
enum Form {
    X509(X509Item),
    Jwt(JwtItem),
}

impl Form {
    fn of(ask: &Ask, key_form: KeyForm, plan: &Plan) -> Self {
        let within = plan.answer_within.min(LONGEST_MINT).as_millis();
        let deadline_ms = u32::try_from(within).expect("20 s at most");
        let path = ask.id.path.clone();
        match &ask.key {
            Some(key) => Self::X509(X509Item {
                deadline_ms,
                key: Some(match key_form {
                    KeyForm::Spki => x509_item::Key::Spki(key.public.clone()),
                    KeyForm::Csr => x509_item::Key::Csr(key.csr.clone()),
                }),
                subject: Some(x509_item::Subject::Named(NamedX509 {
                    path,
                    ..NamedX509::default()
                })),
                ..X509Item::default()
            }),
            None => Self::Jwt(JwtItem {
                deadline_ms,
                audience: vec![AUDIENCE.to_owned()],
                subject: Some(jwt_item::Subject::Named(NamedJwt { path, ttl_seconds: 0 })),
                ..JwtItem::default()
            }),
        }
    }
}

impl Target for Streams {
    fn send(&self, items: &[Item], ledger: &Arc<Ledger>) {
        let mut batch = Batch::default();
        for item in items {
            let waits = Waits { item: *item, ledger: Arc::clone(ledger) };
            match &self.forms[item.ask as usize] {
                Form::X509(form) => batch.x509.push((waits, form.clone())),
                Form::Jwt(form) => batch.jwt.push((waits, form.clone())),
            }
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        if let Err((batch, fault)) = self.lanes[turn % self.lanes.len()].send(batch) {
            ledger.deliver(batch.into_tags().map(|waits| (waits.item, Err(fault.clone()))));
        }
    }
}

/// An item that waits for its answer, and where that is booked.
#[derive(Debug)]
struct Waits {
    item: Item,
    ledger: Arc<Ledger>,
}

/// One stream, opened again whenever it ends.
#[derive(Debug)]
struct Lane {
    /// Where batches go, or why they cannot now.
    state: Mutex<Result<Sender<Waits>, Fault>>,
    signer: Signer,
    most: usize,
}

impl Lane {
    fn send(&self, batch: Batch<Waits>) -> Result<(), (Batch<Waits>, Fault)> {
        match &*self.state() {
            Ok(sender) => {
                sender.try_send(batch).map_err(|NotSent { why, batch }| (batch, not_sent(why)))
            }
            Err(fault) => Err((batch, fault.clone())),
        }
    }

    /// Delivers answers for as long as anybody asks.
    async fn keep(self: Arc<Self>, mut answers: Answers<Waits>, limit: Duration) {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            while let Some(some) = answers.next().await {
                backoff.reset();
                deliver(some, limit);
            }
            let ended = answers.ended().cloned();
            let mut fault = ended.map_or_else(|| not_sent(Why::Ended), Fault::from);
            answers = loop {
                *self.state() = Err(fault);
                tokio::time::sleep(backoff.pause()).await;
                match self.signer.mint(INSTANCE, self.most).await {
                    Ok((sender, answers)) => {
                        *self.state() = Ok(sender);
                        break answers;
                    }
                    Err(status) => fault = Fault::from(status),
                }
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, Result<Sender<Waits>, Fault>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_sent(why: Why) -> Fault {
    Fault { code: Fault::BROKEN_OFF, message: why.to_string() }
}

/// Books answers, all that belong to one account at once.
fn deliver(answers: Vec<Answer<Waits>>, limit: Duration) {
    let mut rest = answers.into_iter().peekable();
    while let Some(first) = rest.peek() {
        let ledger = Arc::clone(&first.tag.ledger);
        let now = ledger.now();
        let of_it = |answer: &Answer<Waits>| Arc::ptr_eq(&answer.tag.ledger, &ledger);
        let same = iter::from_fn(|| rest.next_if(of_it));
        ledger.deliver(same.map(|Answer { tag, outcome }| {
            let late = now > tag.item.intended + limit;
            (tag.item, if late { Err(Fault::unanswered(limit)) } else { svid(outcome) })
        }));
    }
}

fn svid(outcome: Result<mint::Svid, NotMinted>) -> Result<Svid, Fault> {
    match outcome {
        Ok(mint::Svid::X509 { leaf, intermediates, .. }) => {
            let mut chain: Vec<Bytes> = Vec::with_capacity(1 + intermediates.len());
            chain.push(leaf);
            chain.extend(intermediates.iter().cloned());
            Ok(Svid::X509(chain))
        }
        Ok(mint::Svid::Jwt { token, .. }) => Ok(Svid::Jwt(token)),
        Err(NotMinted::Failed(failure)) => {
            let name = failure.code().as_str_name();
            let code = name.strip_prefix("CODE_").unwrap_or(name);
            Err(Fault { code, message: failure.text })
        }
        Err(NotMinted::Lost(status)) => Err(Fault::from(Status::clone(&status))),
        Err(NotMinted::Empty) => Err(Fault::unusable()),
    }
}
