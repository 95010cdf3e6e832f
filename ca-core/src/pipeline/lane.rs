//! One queue and the key behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use super::admission::{Admission, Bounds, Entry, MOST_ITEMS, Refused, Turn};
use super::batch::{Batch, Chunk, Steps};
use super::metrics::LaneMetrics;
use super::{Answer, Order, Pipeline, Signer, Signs, Wish};
use crate::log::Caller;
use crate::mint::MintError;

/// The most that one thread signs as one batch: its records share a flush, and its first answer waits for its
/// last signature.
const MOST_AT_ONCE: usize = 256;

pub(super) struct Lane {
    signer: Signer,
    admission: Admission<Caller, Chunk>,
    pub(super) metrics: LaneMetrics,
    /// Wishes that were taken from the queue and are not answered.
    under_way: AtomicUsize,
}

/// So much may be under way, most of it signed and waiting for the log. More waits in the queue, where it can be
/// refused.
const MOST_UNDER_WAY: usize = 4096;

/// So many batches a thread begins for one queue before it lets others have it.
const MOST_IN_A_ROW: usize = 8;

/// What a queue keeps busy, for the bounds on it.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// Our threads that serve this queue.
    threads: usize,
    /// Wishes that were taken by the queue's task and are not signed yet.
    unsigned: usize,
}

/// What a thread has done.
enum News {
    /// A batch is prepared, and signed where its key is here. The queue's task has counted so many wishes of it as
    /// unsigned.
    Begun(usize, Vec<Steps>),
    /// It has found nothing more to do.
    Idle,
}

impl Lane {
    pub(super) fn new(signer: Signer, bounds: Bounds, metrics: LaneMetrics) -> Self {
        let (admission, under_way) = (Admission::new(bounds, Chunk::is_gone), AtomicUsize::new(0));
        Self { signer, admission, metrics, under_way }
    }

    pub(super) fn close(&self) {
        self.admission.close();
    }

    pub(super) fn signer(&self) -> Signer {
        self.signer
    }

    /// How many wishes of one caller go as one through the queue: for a key that is away each for itself, so that
    /// each has its own place at the device.
    pub(super) fn chunk(&self, pipeline: &Pipeline) -> usize {
        match pipeline.signs(self.signer) {
            Signs::Here { work } => (MOST_ITEMS / work).max(1),
            Signs::Away { .. } => 1,
        }
    }

    /// Lets wishes in, or says why not.
    pub(super) fn admit(
        &self,
        wishes: Vec<Wish>,
        order: &Order,
        now: Instant,
    ) -> Result<Answer, Refused> {
        let (answer, given) = oneshot::channel();
        let (items, size) = (wishes.len(), wishes.iter().map(Wish::size).sum());
        let Order { caller, class, deadline } = order.clone();
        let entry = Entry {
            class,
            caller: caller.account(),
            items,
            size,
            deadline,
            work: Chunk { wishes, caller, answer, came: now },
        };
        match self.admission.submit(entry, now) {
            Ok(sent_away) => {
                self.metrics.admitted(class, items);
                for entry in sent_away {
                    let again = self.admission.try_again(entry.class);
                    self.refuse(entry, Refused::Full(again));
                }
                Ok(given)
            }
            Err((entry, refused)) => {
                self.metrics.refused(entry.class, &refused, entry.items);
                Err(refused)
            }
        }
    }

    fn refuse(&self, entry: Entry<Caller, Chunk>, refused: Refused) {
        self.metrics.refused(entry.class, &refused, entry.items);
        entry.work.answer_all(&MintError::from(refused));
    }

    /// Serves the queue until it is closed and everything is answered.
    ///
    /// A batch is begun on one of our threads, which then goes on with what has come meanwhile: batches are as
    /// large as the threads are busy, and nobody has to be woken to hand the next one over.
    pub(super) async fn serve(&self, pipeline: &Arc<Pipeline>) {
        let (tell, mut told) = mpsc::unbounded_channel();
        // What is signed elsewhere, and what waits for the log.
        let (mut signing, mut releasing) = (FuturesUnordered::new(), FuturesUnordered::new());
        let (mut load, mut open) = (Load::default(), true);
        while open || self.under_way() > 0 || load.threads > 0 {
            let signs = pipeline.signs(self.signer);
            let room = self.room(load, signs, pipeline.threads.count());
            self.metrics.under_way(self.under_way());
            tokio::select! {
                biased;
                // Never closed: one end of it is here.
                Some(news) = told.recv() => match news {
                    News::Begun(counted, batch) => {
                        load.unsigned -= counted;
                        for steps in batch {
                            load.unsigned += steps.items();
                            signing.push(steps.sign_away());
                        }
                    }
                    News::Idle => load.threads -= 1,
                },
                Some(steps) = signing.next(), if !signing.is_empty() => {
                    let steps: Result<Steps, usize> = steps;
                    load.unsigned -= steps.as_ref().map_or_else(|items| *items, Steps::items);
                    match steps {
                        Ok(steps) => releasing.push(steps.release(&self.metrics)),
                        Err(items) => self.answered(items),
                    }
                }
                Some(items) = releasing.next(), if !releasing.is_empty() => self.answered(items),
                more = self.admission.wait(), if open && room > 0 => {
                    open = more;
                    if let Some(batch) = self.turn(pipeline, signs, room) {
                        load.unsigned += batch.items();
                        load.threads += usize::from(!batch.is_small());
                        self.begin(pipeline, batch, &tell);
                    }
                }
            }
        }
    }

    /// Begins a batch, on a thread unless it is small; the thread goes on while there is more that is signed here.
    fn begin(&self, pipeline: &Arc<Pipeline>, batch: Batch, tell: &mpsc::UnboundedSender<News>) {
        if batch.is_small() {
            // The other end is in `serve`, which calls this.
            let _ = tell.send(News::Begun(batch.items(), self.begun(pipeline, batch)));
            return;
        }
        let (pipeline, signer, tell) = (Arc::clone(pipeline), self.signer, tell.clone());
        Arc::clone(&pipeline).threads.spawn(move || {
            let lane = pipeline.lane_of(signer);
            // If nobody is told any more, the pipeline is gone, and with it whoever waits.
            let _ = tell.send(News::Begun(batch.items(), lane.begun(&pipeline, batch)));
            // Then other queues that want the thread have their turn.
            for _ in 0..MOST_IN_A_ROW {
                let Some(batch) = lane.next_here(&pipeline) else { break };
                let _ = tell.send(News::Begun(0, lane.begun(&pipeline, batch)));
            }
            let _ = tell.send(News::Idle);
        });
    }

    fn begun(&self, pipeline: &Pipeline, batch: Batch) -> Vec<Steps> {
        let items = batch.items();
        let steps = batch.begin(&pipeline.mint, &self.metrics);
        // Those whose callers have left, or whose batch was broken off, are answered already.
        let left: usize = steps.iter().map(Steps::items).sum();
        self.answered(items - left);
        steps
    }

    fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    fn answered(&self, items: usize) {
        self.under_way.fetch_sub(items, Ordering::Relaxed);
    }

    /// What a thread of ours goes on with.
    fn next_here(&self, pipeline: &Pipeline) -> Option<Batch> {
        let signs = pipeline.signs(self.signer);
        let behind = self.under_way() > MOST_UNDER_WAY;
        match signs {
            Signs::Here { .. } if !behind => self.turn(pipeline, signs, MOST_AT_ONCE),
            _ => None,
        }
    }

    /// Takes what is there, as a batch to be minted.
    fn turn(&self, pipeline: &Pipeline, signs: Signs, room: usize) -> Option<Batch> {
        let now = Instant::now();
        let room = match signs {
            // Every thread gets its part of what is there, whole chunks rather than crumbs, and of slow signatures
            // fewer.
            Signs::Here { work } => {
                let part = self.admission.waiting_in_all().div_ceil(pipeline.threads.count());
                part.max(MOST_ITEMS).min(room).div_ceil(work)
            }
            Signs::Away { .. } => room,
        };
        let Turn { due, late } = self.admission.take(room, now);
        late.into_iter().for_each(|entry| self.refuse(entry, Refused::Late));
        for entry in &due {
            self.metrics.waited(entry.class, now.saturating_duration_since(entry.work.came));
        }
        let signature_work = match signs {
            Signs::Here { work } => work,
            Signs::Away { .. } => 0,
        };
        (!due.is_empty()).then(|| {
            let batch = Batch::new(due, pipeline.now(), signature_work);
            self.under_way.fetch_add(batch.items(), Ordering::Relaxed);
            batch
        })
    }

    /// How many signatures may be begun now.
    fn room(&self, load: Load, signs: Signs, threads: usize) -> usize {
        match signs {
            _ if self.under_way() > MOST_UNDER_WAY => 0,
            Signs::Here { .. } if load.threads < threads => MOST_AT_ONCE,
            Signs::Here { .. } => 0,
            // A few more than the device takes, so that it never waits for us.
            Signs::Away { parallel } => (parallel + parallel / 8 + 1).saturating_sub(load.unsigned),
        }
    }
}
