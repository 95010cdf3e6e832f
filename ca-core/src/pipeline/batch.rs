//! What is minted together: prepared, logged by one flush, signed meanwhile, and answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::{Either, Shared, join_all, select};
use tokio::sync::oneshot;

use super::admission::{Class, Entry};
use super::metrics::LaneMetrics;
use super::stage::{Logged, Prepared, Signed};
use super::{Minted, Wish};
use crate::clock::Timestamp;
use crate::key::Urgency;
use crate::log::{Appending, Caller, Issuance, LogError};
use crate::mint::{Mint, MintError, Round};

/// Wishes of one caller, and where their answers go.
pub(super) struct Chunk {
    pub wishes: Vec<Wish>,
    pub caller: Caller,
    pub answer: oneshot::Sender<Vec<Result<Minted, MintError>>>,
    pub came: Instant,
}

impl Chunk {
    /// Whether nobody waits for it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers each wish alike.
    pub(super) fn answer_all(self, error: &MintError) {
        let answers = self.wishes.iter().map(|_| Err(error.clone())).collect();
        // Who has left does not hear it.
        let _ = self.answer.send(answers);
    }
}

/// Chunks whose turn has come.
pub(super) struct Batch {
    entries: Vec<Entry<Caller, Chunk>>,
    now: Timestamp,
    /// In signatures of P-256.
    work: usize,
}

/// How far the wishes of a chunk have come.
pub(super) struct Steps {
    class: Class,
    urgency: Urgency,
    caller: Caller,
    answer: oneshot::Sender<Vec<Result<Minted, MintError>>>,
    steps: Vec<Step>,
    /// How many wishes there are, also when nobody waits for them any more.
    items: usize,
    /// The log's answer about the whole batch; nothing where there is nothing to log.
    appending: Option<Shared<Appending>>,
}

enum Step {
    Failed(MintError),
    Prepared(Prepared),
    Signed(Signed),
}

impl Batch {
    /// A batch; a signature of it takes so long on our own threads.
    pub(super) fn new(
        entries: Vec<Entry<Caller, Chunk>>,
        now: Timestamp,
        signature_work: usize,
    ) -> Self {
        let work = |entry: &Entry<Caller, Chunk>| -> usize {
            entry.work.wishes.iter().map(|wish| wish.work() + signature_work).sum()
        };
        let work = entries.iter().map(work).sum();
        Self { entries, now, work }
    }

    /// How many wishes it has.
    pub(super) fn items(&self) -> usize {
        self.entries.iter().map(|entry| entry.items).sum()
    }

    /// Whether it is done sooner than it is handed to another thread.
    pub(super) fn is_small(&self) -> bool {
        self.work <= SMALL
    }

    /// Does all of it that a processor does: prepares, hands over to the log, and signs what is signed here. One
    /// span for each batch: whoever traces sees how long that took.
    ///
    /// After a panic, of which the process's hook has told, there is nothing: the callers learn that it was broken
    /// off, because their answers have gone with it.
    pub(super) fn begin(self, mint: &Mint, metrics: &LaneMetrics) -> Vec<Steps> {
        let items = self.items();
        metrics.batch(items);
        let span = tracing::debug_span!("batch", signer = metrics.signer(), items);
        let begun = || span.in_scope(|| self.prepare_and_sign(mint));
        catch_unwind(AssertUnwindSafe(begun)).unwrap_or_default()
    }

    fn prepare_and_sign(self, mint: &Mint) -> Vec<Steps> {
        let round = mint.round(self.now);
        let wanted = self.entries.into_iter().filter(|entry| !entry.work.is_gone());
        let mut chunks: Vec<Steps> = wanted.map(|entry| Steps::prepare(entry, &round)).collect();
        let records: Vec<_> = chunks.iter().flat_map(|chunk| chunk.records(round.now())).collect();
        if !records.is_empty() {
            let appending = mint.log().append(&records).shared();
            chunks.iter_mut().for_each(|chunk| chunk.appending = Some(appending.clone()));
        }
        chunks.iter_mut().for_each(Steps::sign_here);
        chunks
    }
}

impl Steps {
    fn prepare(entry: Entry<Caller, Chunk>, round: &Round<'_>) -> Self {
        let Chunk { wishes, caller, answer, .. } = entry.work;
        let prepare = |wish: Wish| match wish.prepare(round) {
            Ok(prepared) => Step::Prepared(prepared),
            Err(error) => Step::Failed(error),
        };
        let steps = wishes.into_iter().map(prepare).collect();
        let urgency = Urgency { priority: entry.class.priority(), deadline: entry.deadline };
        let (class, items) = (entry.class, entry.items);
        Self { class, urgency, caller, answer, steps, items, appending: None }
    }

    pub(super) fn items(&self) -> usize {
        self.items
    }

    fn records(&self, now: Timestamp) -> impl Iterator<Item = Issuance<'_>> {
        self.steps.iter().filter_map(move |step| match step {
            Step::Prepared(prepared) => Some(prepared.record(&self.caller, now)),
            Step::Failed(_) | Step::Signed(_) => None,
        })
    }

    fn sign_here(&mut self) {
        for step in &mut self.steps {
            if matches!(step, Step::Prepared(prepared) if prepared.is_signed_here()) {
                let prepared = std::mem::replace(step, Step::Failed(MintError::BrokenOff));
                if let Step::Prepared(prepared) = prepared {
                    *step = match prepared.sign_here(self.urgency) {
                        Ok(signed) => Step::Signed(signed),
                        Err(error) => Step::Failed(error),
                    };
                }
            }
        }
    }

    /// Has signed what is not signed here; breaks off if the caller leaves. After a panic of a key there is only the
    /// number of the wishes, whose caller learns that they were broken off.
    pub(super) async fn sign_away(self) -> Result<Self, usize> {
        let items = self.items;
        AssertUnwindSafe(self.signed()).catch_unwind().await.map_err(|_| items)
    }

    async fn signed(mut self) -> Self {
        if !self.steps.iter().any(|step| matches!(step, Step::Prepared(_))) {
            return self;
        }
        let urgency = self.urgency;
        let signing =
            join_all(std::mem::take(&mut self.steps).into_iter().map(|step| async move {
                match step {
                    Step::Prepared(prepared) => match prepared.sign(urgency).await {
                        Ok(signed) => Step::Signed(signed),
                        Err(error) => Step::Failed(error),
                    },
                    other => other,
                }
            }));
        let signed = {
            let left = std::pin::pin!(self.answer.closed());
            match select(signing, left).await {
                Either::Left((steps, _)) => steps,
                Either::Right(_) => Vec::new(),
            }
        };
        self.steps = signed;
        self
    }

    /// Waits for the log, and answers. Says how many wishes there were.
    pub(super) async fn release(self, metrics: &LaneMetrics) -> usize {
        let items = self.items;
        let answered = async {
            let logged = match self.appending.clone() {
                Some(appending) => Logged::from(appending).await,
                None => Err(LogError::Closed),
            };
            self.answer(&logged, metrics);
        };
        // A log that panics must not end the queue for everyone.
        let _ = AssertUnwindSafe(answered).catch_unwind().await;
        items
    }

    fn answer(self, logged: &Result<Logged, LogError>, metrics: &LaneMetrics) {
        let answers: Vec<_> = self
            .steps
            .into_iter()
            .map(|step| match (step, logged) {
                (Step::Signed(signed), Ok(logged)) => Ok(signed.release(logged)),
                (Step::Failed(error), _) => Err(error),
                (_, Err(error)) => Err(error.clone().into()),
                (Step::Prepared(_), Ok(_)) => Err(MintError::BrokenOff),
            })
            .collect();
        let released = answers.iter().filter(|answer| answer.is_ok()).count();
        metrics.answered(self.class, released, answers.len() - released);
        // Who has left does not hear it.
        let _ = self.answer.send(answers);
    }
}

/// The threads that prepare and sign, as many as the machine has.
pub(super) struct Threads(rayon::ThreadPool);

/// So many signatures of P-256 are made where they are asked for: a hand-over costs about one and a half, and the
/// caller's answer waits for it.
const SMALL: usize = 8;

impl Threads {
    pub(super) fn start() -> std::io::Result<Self> {
        let builder = rayon::ThreadPoolBuilder::new().thread_name(|at| format!("mint-{at}"));
        builder.build().map(Self).map_err(std::io::Error::other)
    }

    pub(super) fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    pub(super) fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        self.0.spawn(job);
    }
}
