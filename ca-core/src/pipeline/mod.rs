//! From a wish to a released SVID, for many at once: `admit → prepare → (sign ‖ log) → verify → release`.
//!
//! - **admit**: a [bounded queue](admission) for each kind of key that signs, so that a slow key never holds up
//!   a fast one. What is let in has a deadline, and is dropped unsigned when that passes or its caller leaves.
//! - **prepare**: CSRs are verified, policy decides, the bytes to sign are encoded and linted.
//! - **sign ‖ log**: the records of a batch go to the log, and while they are flushed the batch is signed: on a
//!   pool of threads as wide as the machine if its key is in this process, in as many calls at once as the
//!   device takes if it is not.
//! - **verify**: the key looks at what it signed before it answers, as its settings say.
//! - **release**: what is both signed and logged is answered, in the order in which it was asked for.
//!
//! A batch is what is there when its turn comes; nothing waits for a timer. Several are under way at once, so
//! that one is signed while another is flushed.

pub mod admission;
mod batch;
mod lane;
pub mod metrics;
mod stage;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, join_all, join3, select};
use tokio::sync::oneshot;

use crate::clock::{Clock, Timestamp};
use crate::issuing::Delegation;
use crate::key::{KeyKind, Reach, SigningKey};
use crate::log::Caller;
use crate::mint::{Mint, MintError};
use admission::{Bounds, Class};
use batch::Threads;
use lane::Lane;
use metrics::PipelineMetrics;
pub use stage::{Minted, Wish};

/// Mints what is asked for by many.
pub struct Pipeline {
    mint: Arc<Mint>,
    clock: Arc<dyn Clock>,
    /// Leaf certificates, signed by the issuing key or, directly, by the authority's.
    leaves: Lane,
    /// Certificates that the authority's own key signs though others sign leaves: of CAs, of the service itself, and
    /// of long lives.
    authority: Lane,
    tokens: Lane,
    threads: Threads,
}

/// Whom a wish is for, and when its answer is of use.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who asks; charged for what waits, and named in the log.
    pub caller: Caller,
    /// What the caller says it is.
    pub class: Class,
    /// No use after this.
    pub deadline: Instant,
}

impl Pipeline {
    /// A pipeline over a mint. What waits in all its queues together takes at most `bounds.memory` bytes.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new(
        mint: Arc<Mint>,
        bounds: Bounds,
        clock: Arc<dyn Clock>,
        metrics: PipelineMetrics,
    ) -> std::io::Result<Arc<Self>> {
        const LANES: usize = 3;
        let bounds = Bounds { memory: bounds.memory / LANES, ..bounds };
        let lane = |signer: Signer| Lane::new(signer, bounds, metrics.lane(signer.name()));
        let leaves = lane(Signer::Leaves);
        let (authority, tokens) = (lane(Signer::Authority), lane(Signer::Tokens));
        let threads = Threads::start()?;
        Ok(Arc::new(Self { mint, clock, leaves, authority, tokens, threads }))
    }

    /// What it mints with.
    #[must_use]
    pub fn mint(&self) -> &Arc<Mint> {
        &self.mint
    }

    /// Serves what is let in, until the pipeline is [closed](Self::close) and everything is answered.
    pub async fn run(self: Arc<Self>) {
        join3(self.leaves.serve(&self), self.authority.serve(&self), self.tokens.serve(&self))
            .await;
    }

    /// Lets nothing in any more.
    pub fn close(&self) {
        [&self.leaves, &self.authority, &self.tokens].into_iter().for_each(Lane::close);
    }

    /// Mints all wishes, each for itself, and answers in their order. Dropped, it leaves nothing behind but what
    /// was being signed already.
    pub async fn batch(&self, wishes: Vec<Wish>, order: &Order) -> Vec<Result<Minted, MintError>> {
        let (now, wall) = (Instant::now(), self.clock.now());
        let mut answers = Vec::with_capacity(wishes.len());
        let mut left = wishes.into_iter().peekable();
        while let Some(first) = left.next() {
            let lane = self.lane(&first, wall);
            let most = lane.chunk(self);
            let mut chunk = Vec::with_capacity(most.min(1 + left.len()));
            chunk.push(first);
            while let Some(next) =
                left.next_if(|next| chunk.len() < most && std::ptr::eq(self.lane(next, wall), lane))
            {
                chunk.push(next);
            }
            answers.push((chunk.len(), lane.admit(chunk, order, now)));
        }
        let answers = answers.into_iter().map(|(items, admitted)| async move {
            let given = match admitted {
                Ok(answer) => answer.await.map_err(|_| MintError::BrokenOff),
                Err(refused) => Err(refused.into()),
            };
            given.unwrap_or_else(|error| vec![Err(error); items])
        });
        join_all(answers).await.into_iter().flatten().collect()
    }

    /// Lets wishes in that are answered in pieces, each as soon as it is done: those of one queue, class and deadline
    /// together. A piece that is dropped leaves nothing behind but what was being signed already.
    pub fn submit<T>(&self, mut asked: Vec<Asked<T>>, caller: &Caller) -> Vec<Piece<T>> {
        let (now, wall) = (Instant::now(), self.clock.now());
        let queue = |asked: &Asked<T>| self.lane(&asked.wish, wall).signer();
        asked.sort_by_cached_key(|asked| (queue(asked), asked.class, asked.deadline));
        let mut pieces = Vec::new();
        let mut left = asked.into_iter().peekable();
        while let Some(Asked { tag, wish, class, deadline }) = left.next() {
            let lane = self.lane(&wish, wall);
            let most = lane.chunk(self);
            let (mut tags, mut wishes) = (vec![tag], vec![wish]);
            while let Some(next) = left.next_if(|next| {
                let alike = (next.class, next.deadline) == (class, deadline);
                alike && tags.len() < most && std::ptr::eq(self.lane(&next.wish, wall), lane)
            }) {
                tags.push(next.tag);
                wishes.push(next.wish);
            }
            let order = Order { caller: caller.clone(), class, deadline };
            pieces.push(Piece { tags, deadline, answer: lane.admit(wishes, &order, now) });
        }
        pieces
    }

    /// Mints one wish.
    pub async fn one(&self, wish: Wish, order: &Order) -> Result<Minted, MintError> {
        let now = Instant::now();
        let lane = self.lane(&wish, self.clock.now());
        let answer = lane.admit(vec![wish], order, now)?;
        let answers = answer.await.map_err(|_| MintError::BrokenOff)?;
        answers.into_iter().next().unwrap_or(Err(MintError::BrokenOff))
    }

    fn lane_of(&self, signer: Signer) -> &Lane {
        match signer {
            Signer::Leaves => &self.leaves,
            Signer::Authority => &self.authority,
            Signer::Tokens => &self.tokens,
        }
    }

    /// How the key signs that is behind a queue now.
    fn signs(&self, signer: Signer) -> Signs {
        let authorities = self.mint.authorities();
        let issuing = self.mint.delegation().filter(|_| signer == Signer::Leaves);
        match (signer, issuing.and_then(Delegation::present)) {
            (Signer::Tokens, _) => Signs::by(&**authorities.jwt.key()),
            (_, Some(issuing)) => Signs::by(issuing.key()),
            (_, None) => Signs::by(authorities.x509.key()),
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// By whose key a wish will be signed.
    fn lane(&self, wish: &Wish, now: Timestamp) -> &Lane {
        let (ttl, is_of_authority) = match wish {
            Wish::Jwt(_) => return &self.tokens,
            Wish::X509(grant) => (grant.ttl(), grant.profile().is_of_authority()),
            Wish::Proven { names, .. } => (names.ttl(), names.profile().is_of_authority()),
            Wish::Csr { ttl_seconds, .. } => {
                let seconds = u64::try_from(*ttl_seconds).unwrap_or(0);
                ((seconds > 0).then(|| Duration::from_secs(seconds)), false)
            }
        };
        let Some(delegation) = self.mint.delegation() else { return &self.leaves };
        let authority = &self.mint.authorities().x509;
        if is_of_authority || delegation.is_too_long(authority, ttl, now) {
            &self.authority
        } else {
            &self.leaves
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("mint", &self.mint).finish_non_exhaustive()
    }
}

/// A wish among many of one caller.
#[derive(Debug)]
pub struct Asked<T> {
    /// By which its answer is told from others.
    pub tag: T,
    /// What is wanted.
    pub wish: Wish,
    /// As in [`Order::class`].
    pub class: Class,
    /// As in [`Order::deadline`].
    pub deadline: Instant,
}

/// Wishes that are answered together.
#[derive(Debug)]
pub struct Piece<T> {
    tags: Vec<T>,
    deadline: Instant,
    answer: Result<Answer, admission::Refused>,
}

impl<T> Piece<T> {
    /// How many wishes they are.
    #[must_use]
    pub fn items(&self) -> usize {
        self.tags.len()
    }

    /// When its answers are of no use any more.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The answer of each. They are late when `late` resolves, wherever they are by then: what is not signed is
    /// dropped.
    pub async fn answers(
        self,
        late: impl Future<Output = ()>,
    ) -> Vec<(T, Result<Minted, MintError>)> {
        let given = match self.answer {
            Ok(answer) => match select(answer, pin!(late)).await {
                Either::Left((given, _)) => given.map_err(|_| MintError::BrokenOff),
                Either::Right(_) => Err(admission::Refused::Late.into()),
            },
            Err(refused) => Err(refused.into()),
        };
        let tags = self.tags.into_iter();
        match given {
            Ok(answers) => tags.zip(answers).collect(),
            Err(error) => tags.map(|tag| (tag, Err(error.clone()))).collect(),
        }
    }
}

/// Whose key is behind a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Signer {
    Leaves,
    Authority,
    Tokens,
}

impl Signer {
    /// The name in metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Leaves => "leaf",
            Self::Authority => "authority",
            Self::Tokens => "token",
        }
    }
}

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signs {
    /// On our own threads; a signature takes as long as so many of P-256.
    Here { work: usize },
    /// Somewhere else, so many at once.
    Away { parallel: usize },
}

impl Signs {
    fn by(key: &dyn SigningKey) -> Self {
        match key.reach() {
            Reach::Here(_) => Self::Here { work: signature_work(key.public_key().kind()) },
            Reach::Away { parallel } => Self::Away { parallel: parallel.max(1) },
        }
    }
}

/// How long a signature of a kind takes, beside one of P-256; about.
fn signature_work(kind: KeyKind) -> usize {
    match kind {
        KeyKind::EcP256 | KeyKind::Ed25519 => 1,
        KeyKind::EcP384 | KeyKind::MlDsa44 | KeyKind::MlDsa65 => 10,
        KeyKind::Rsa { .. } => 50,
    }
}

type Answer = oneshot::Receiver<Vec<Result<Minted, MintError>>>;
