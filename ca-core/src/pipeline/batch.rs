//! What is minted together: prepared, logged by one flush, signed meanwhile, and answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::{Either, join, join_all, select};
use tokio::sync::oneshot;
use tracing::Instrument;

use super::admission::{Class, Entry};
use super::lane::Load;
use super::metrics::LaneMetrics;
use super::stage::{Logged, Prepared, Signed};
use super::{Minted, Pipeline, Wish};
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

/// A batch whose records are on their way into the log, and that is signed as far as it is signed here.
struct Begun {
    appending: Appending,
    chunks: Vec<Steps>,
}

/// How far the wishes of a chunk have come.
struct Steps {
    class: Class,
    urgency: Urgency,
    caller: Caller,
    answer: oneshot::Sender<Vec<Result<Minted, MintError>>>,
    steps: Vec<Step>,
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

    pub(super) fn load(&self) -> Load {
        Load { batches: 1, items: self.entries.iter().map(|entry| entry.items).sum() }
    }

    /// Mints it and answers. One span for each batch: whoever traces sees how long its parts took.
    pub(super) async fn mint(self, pipeline: &Pipeline, metrics: &LaneMetrics) -> Load {
        let load = self.load();
        let span = tracing::debug_span!("batch", signer = metrics.signer(), items = load.items);
        metrics.batch(load.items);
        let mint = Arc::clone(&pipeline.mint);
        let begun = pipeline.threads.run(self.work, move || self.begin(&mint));
        async {
            // After a panic the callers learn that it was broken off: their answers went with it.
            if let Some(begun) = begun.await {
                let finishing = AssertUnwindSafe(begun.finish(metrics)).catch_unwind();
                // A key or a log that panics must not end the queue for everyone.
                let _ = finishing.await;
            }
        }
        .instrument(span)
        .await;
        load
    }

    /// All that is done by a processor: prepare, hand over to the log, sign what is signed here.
    fn begin(self, mint: &Mint) -> Begun {
        let round = mint.round(self.now);
        let wanted = self.entries.into_iter().filter(|entry| !entry.work.is_gone());
        let mut chunks: Vec<Steps> = wanted.map(|entry| Steps::prepare(entry, &round)).collect();
        let records: Vec<_> = chunks.iter().flat_map(|chunk| chunk.records(round.now())).collect();
        let appending = mint.log().append(&records);
        chunks.iter_mut().for_each(Steps::sign_here);
        Begun { appending, chunks }
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
        Self { class: entry.class, urgency, caller, answer, steps }
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

    /// Has signed what is not signed here; breaks off if the caller leaves.
    async fn sign_away(mut self) -> Self {
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

impl Begun {
    async fn finish(self, metrics: &LaneMetrics) {
        let signing = join_all(self.chunks.into_iter().map(Steps::sign_away));
        let (chunks, logged) = join(signing, Logged::from(self.appending)).await;
        chunks.into_iter().for_each(|chunk| chunk.answer(&logged, metrics));
    }
}

/// The threads that prepare and sign, as many as the machine has.
pub(super) struct Threads(rayon::ThreadPool);

/// Work up to so many signatures of P-256 is done where it is: a hand-over costs about one and a half, and the
/// caller's answer waits for it.
const INLINE: usize = 8;

impl Threads {
    pub(super) fn start() -> std::io::Result<Self> {
        let builder = rayon::ThreadPoolBuilder::new().thread_name(|at| format!("mint-{at}"));
        builder.build().map(Self).map_err(std::io::Error::other)
    }

    pub(super) fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs a job, here if it is small. `None` if it panicked, which the process's hook has told.
    async fn run<T: Send + 'static>(
        &self,
        work: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let job = move || catch_unwind(AssertUnwindSafe(job)).ok();
        if work <= INLINE {
            return job();
        }
        let (tell, told) = oneshot::channel();
        self.0.spawn(move || {
            // Who asked is gone only when the whole pipeline is.
            let _ = tell.send(job());
        });
        told.await.ok().flatten()
    }
}
