//! The engine for one machine: a B-tree in one file, on one thread of its own.
//!
//! redb blocks, on a flush for as long as the disk likes, so it lives on a thread that this module starts
//! and joins: the only thread of this crate. Questions go to it over a bounded channel and are answered
//! one after another, which makes every commit see all earlier ones and nothing in between.
//!
//! Durability: a commit is answered after redb's two-phase commit has been flushed to the disk. After
//! any failure of the disk or the file the engine is fenced: everything later is
//! [`StoreError::Fenced`], because a second flush may report a success that is none, and the process
//! should stop. The next start reads the file back to the last commit that reached the disk.
//!
//! The change records and commit ids of the last 10,000 commits are kept; each commit sweeps the oldest.

mod directory;
mod engine;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{oneshot, watch};

use super::{
    Change, Commit, CommitId, CommitOutcome, Consistency, Cursor, Key, KeyRange, Limit, Page,
    Snapshot, StateStore, StoreError, Version, WatchGap,
};
use directory::Directory;
use engine::{Engine, Opened};

/// Questions that wait for the engine; whoever asks beyond that waits for room.
const QUEUE: usize = 256;
/// Commits whose change record and id are kept. A few hundred bytes each; hours to weeks of the changes
/// of a small site, which is as long as any watcher needs to come back.
const KEPT_COMMITS: u64 = 10_000;

/// A state store in a directory of this machine, for one process at a time.
///
/// Dropping it answers what has been asked, closes the file and waits for that: milliseconds.
pub struct Embedded {
    jobs: Jobs,
    head: watch::Receiver<Version>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the store in `directory`, making both if they do not exist. Blocks while the whole file is
    /// read and checked: a few milliseconds per MB.
    ///
    /// [`StoreError::Unavailable`] if another process has it open, if the directory cannot be written, or
    /// if a newer release has changed the layout; [`StoreError::Corrupt`] if the file is damaged.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_keeping(directory, KEPT_COMMITS)
    }

    pub(super) fn open_keeping(directory: &Path, commits: u64) -> Result<Self, StoreError> {
        let directory = directory.to_owned();
        let place = format!("state store {}", directory.display());
        Self::start(place, move || Engine::open(Directory::lock(&directory)?, commits))
    }

    /// A store that is gone when it is dropped, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::over(redb::backends::InMemoryBackend::new(), KEPT_COMMITS)
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn over(
        backend: impl redb::StorageBackend,
        commits: u64,
    ) -> Result<Self, StoreError> {
        Self::start("state store in memory".to_owned(), move || Engine::over(backend, commits))
    }

    fn start(
        place: String,
        open: impl FnOnce() -> Result<Opened, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (sender, receiver) = async_channel::bounded::<Job>(QUEUE);
        let (ready, opened) = mpsc::sync_channel(1);
        let run = move || match open() {
            Ok(Opened { mut engine, head }) => {
                let _ = ready.send(Ok(head));
                while let Ok(job) = receiver.recv_blocking() {
                    job(&mut engine);
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        };
        let unavailable = |reason: String| StoreError::Unavailable { place: place.clone(), reason };
        let thread = std::thread::Builder::new()
            .name("state-store".to_owned())
            .spawn(run)
            .map_err(|error| unavailable(format!("its thread does not start: {error}")))?;
        let head = opened.recv().map_err(|_| unavailable("its thread has ended".to_owned()))??;
        Ok(Self { jobs: Jobs { place: place.into(), sender }, head, thread: Some(thread) })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.jobs.sender.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Embedded({})", self.jobs.place)
    }
}

#[async_trait]
impl StateStore for Embedded {
    async fn get(&self, keys: &[Key], consistency: Consistency) -> Result<Snapshot, StoreError> {
        Limit::keys(keys.len())?;
        let keys = keys.to_vec();
        self.jobs.ask(move |engine| engine.get(&keys, consistency)).await
    }

    async fn scan(
        &self,
        range: &KeyRange,
        after: Option<&Key>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Page, StoreError> {
        let (range, after) = (range.clone(), after.cloned());
        self.jobs.ask(move |engine| engine.scan(&range, after.as_ref(), limit, consistency)).await
    }

    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        self.jobs.ask(move |engine| engine.commit(&commit)).await
    }

    async fn outcome(&self, id: CommitId) -> Result<Option<Version>, StoreError> {
        self.jobs.ask(move |engine| engine.outcome(id)).await
    }

    fn changes(&self, from: Cursor) -> BoxStream<'static, Result<Change, WatchGap>> {
        let follower = Follower {
            jobs: self.jobs.clone(),
            head: self.head.clone(),
            cursor: from,
            read: Vec::new().into_iter(),
            ended: false,
        };
        stream::unfold(follower, |mut follower| async {
            let item = follower.next().await?;
            Some((item, follower))
        })
        .boxed()
    }
}

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// The way to the engine's thread.
#[derive(Clone)]
struct Jobs {
    place: Arc<str>,
    sender: async_channel::Sender<Job>,
}

impl Jobs {
    /// Does `work` on the engine's thread, unless nobody waits for it any more when its turn comes.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |engine: &mut Engine| {
            if !reply.is_closed() {
                let _ = reply.send(work(engine));
            }
        });
        // The thread answers everything that it has taken, panics of redb included, so there is no answer
        // only if the store was closed before the question was taken.
        let closed = || StoreError::Unavailable {
            place: self.place.to_string(),
            reason: "it has been closed".to_owned(),
        };
        self.sender.send(job).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// One consumer of changes. It reads the journal at its own pace and holds one batch of it, so a slow one
/// costs nothing but its place once the journal is swept.
struct Follower {
    jobs: Jobs,
    /// The wake-up; the journal is the truth.
    head: watch::Receiver<Version>,
    cursor: Cursor,
    read: std::vec::IntoIter<Change>,
    ended: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Change, WatchGap>> {
        loop {
            if let Some(change) = self.read.next() {
                self.cursor = change.cursor;
                return Some(Ok(change));
            }
            if self.ended {
                return None;
            }
            // Marked as seen before the journal is read: a commit in between wakes the wait below.
            self.head.borrow_and_update();
            let from = self.cursor;
            match self.jobs.ask(move |engine| engine.changes_after(from)).await.ok()? {
                Ok(changes) if changes.is_empty() => self.head.changed().await.ok()?,
                Ok(changes) => self.read = changes.into_iter(),
                Err(gap) => {
                    self.ended = true;
                    return Some(Err(gap));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::store::contract;

    #[tokio::test]
    async fn in_memory_keeps_the_contract() {
        contract::state_store(async |commits| {
            let memory = redb::backends::InMemoryBackend::new();
            Embedded::over(memory, commits).unwrap()
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_disk_keeps_the_contract() {
        let place = tempfile::tempdir().unwrap();
        let stores = AtomicU32::new(0);
        contract::state_store(async |commits| {
            let number = stores.fetch_add(1, Ordering::Relaxed).to_string();
            Embedded::open_keeping(&place.path().join(number), commits).unwrap()
        })
        .await;
    }
}
