//! One queue and the key behind it.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::admission::{Admission, Bounds, Entry, MOST_ITEMS, Refused, Turn};
use super::batch::{Batch, Chunk};
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
}

/// What is being minted, for the bound on it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub batches: usize,
    pub items: usize,
}

/// A batch under way; answers everybody, and says what it was.
pub(super) type UnderWay<'a> = Pin<Box<dyn Future<Output = Load> + Send + 'a>>;

impl Lane {
    pub(super) fn new(signer: Signer, bounds: Bounds, metrics: LaneMetrics) -> Self {
        Self { signer, admission: Admission::new(bounds, Chunk::is_gone), metrics }
    }

    pub(super) fn close(&self) {
        self.admission.close();
    }

    /// How many wishes of one caller go as one through the queue: for a key that is away each for itself, so that
    /// each has its own place at the device.
    pub(super) fn chunk(&self, pipeline: &Pipeline) -> usize {
        match pipeline.signs(self.signer) {
            Signs::Here { .. } => MOST_ITEMS,
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

    /// Serves the queue until it is closed and empty.
    pub(super) async fn serve(&self, pipeline: &Pipeline) {
        let mut under_way: FuturesUnordered<UnderWay<'_>> = FuturesUnordered::new();
        let mut load = Load::default();
        loop {
            let signs = pipeline.signs(self.signer);
            let room = room(signs, load, pipeline.threads.count());
            tokio::select! {
                biased;
                Some(done) = under_way.next(), if !under_way.is_empty() => load.less(done),
                open = self.admission.wait(), if room > 0 => {
                    if !open {
                        break;
                    }
                    for batch in self.turn(pipeline, signs, room) {
                        load.more(batch.load());
                        under_way.push(Box::pin(batch.mint(pipeline, &self.metrics)));
                    }
                }
            }
            self.metrics.under_way(load.items);
        }
        while under_way.next().await.is_some() {}
    }

    /// Takes what is there, as batches to be minted.
    fn turn(&self, pipeline: &Pipeline, signs: Signs, room: usize) -> Vec<Batch> {
        let now = Instant::now();
        let room = match signs {
            // Every thread gets its part of what is there, and whole chunks rather than crumbs.
            Signs::Here { .. } => {
                let part = self.admission.waiting_in_all().div_ceil(pipeline.threads.count());
                part.clamp(MOST_ITEMS, room)
            }
            Signs::Away { .. } => room,
        };
        let Turn { due, late } = self.admission.take(room, now);
        late.into_iter().for_each(|entry| self.refuse(entry, Refused::Late));
        for entry in &due {
            self.metrics.waited(entry.class, now.saturating_duration_since(entry.work.came));
        }
        let wall = pipeline.now();
        match signs {
            _ if due.is_empty() => Vec::new(),
            Signs::Here { work } => vec![Batch::new(due, wall, work)],
            Signs::Away { .. } => {
                due.into_iter().map(|entry| Batch::new(vec![entry], wall, 0)).collect()
            }
        }
    }
}

/// How many signatures may be begun now.
fn room(signs: Signs, load: Load, threads: usize) -> usize {
    match signs {
        // One batch more than there are threads, so that none is idle while another is flushed.
        Signs::Here { .. } if load.batches <= threads => MOST_AT_ONCE,
        Signs::Here { .. } => 0,
        // A few more than the device takes, so that it never waits for us.
        Signs::Away { parallel } => (parallel + parallel / 8 + 1).saturating_sub(load.items),
    }
}

impl Load {
    fn more(&mut self, other: Self) {
        self.batches += other.batches;
        self.items += other.items;
    }

    fn less(&mut self, other: Self) {
        self.batches -= other.batches;
        self.items -= other.items;
    }
}
