//! The engine for one machine: a B-tree in one file, on one thread of its own.
//!
//! redb blocks, on a flush for as long as the disk likes, so it lives on a thread that this module starts
//! and joins. Questions go to it over a bounded channel and are answered
//! one after another, which makes every commit see all earlier ones and nothing in between.
//!
//! Durability: a commit is answered after redb's two-phase commit has been flushed to the disk. After
//! any failure of the disk or the file the engine is fenced: everything later is
//! [`StoreError::Fenced`], because a second flush may report a success that is none, and the process
//! should stop. The next start reads the file back to the last commit that reached the disk.
//!
//! Damage: opening verifies the checksum of every page, and a record that does not decode later fences
//! the engine, so a damaged file is [`StoreError::Corrupt`] and not wrong data. One byte has no checksum,
//! the one in redb's header that says which of the two newest commits is the newest: if it alone is
//! changed in a file that a crash left behind, the store opens as it was before the last commit.
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
/// Commits whose change record and id are kept. A record holds the keys that its commit touched: a few
/// hundred bytes, 100 KiB at worst. Fewer would send a watcher that was away for a while back to reading
/// everything; more would only make the file longer.
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
    /// read and checked.
    ///
    /// [`StoreError::InUse`] if another process has it open, [`StoreError::Unavailable`] if the directory
    /// cannot be written, or if a newer release has changed the layout; [`StoreError::Corrupt`] if the file is damaged.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_keeping(directory, KEPT_COMMITS)
    }

    /// Whether there is a store in `directory`, for those who would not make one;
    /// [`StoreError::Unavailable`] if that is not for us to see.
    pub fn exists(directory: &Path) -> Result<bool, StoreError> {
        directory.join(directory::DATABASE).try_exists().map_err(|error| StoreError::Unavailable {
            place: format!("state store {}", directory.display()),
            reason: format!("{error}; run this as the server's user"),
        })
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
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use futures_util::FutureExt;
    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::store::key::{self, TrustDomainNumber};
    use crate::store::{Op, contract};

    #[tokio::test]
    async fn in_memory_keeps_the_contract() {
        contract::state_store(async |commits| {
            Embedded::over(InMemoryBackend::new(), commits).unwrap()
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

    #[tokio::test]
    async fn a_failed_flush_leaves_the_commit_unknown_and_fences_the_store() {
        let (disk, broken) = Breaking::new();
        let store = Embedded::over(disk, 10).unwrap();
        put(&store).await.unwrap();
        let head = store.get(&[], Consistency::Strong).await.unwrap().at;
        let mut changes = store.changes(head);
        assert!(changes.next().now_or_never().is_none());

        broken.store(true, Ordering::Relaxed);
        let failed = put(&store).await;
        assert!(matches!(failed, Err(StoreError::Indeterminate { .. })), "{failed:?}");
        assert!(failed.unwrap_err().to_string().contains("the flush broke"));

        broken.store(false, Ordering::Relaxed);
        let fenced = Err(StoreError::Fenced { place: "state store in memory".to_owned() });
        assert_eq!(put(&store).await.map(|_| ()), fenced);
        assert_eq!(store.get(&[], Consistency::Strong).await.map(|_| ()), fenced);
        assert_eq!(changes.next().await, None, "nothing will come any more");
    }

    #[tokio::test]
    async fn changes_end_when_the_store_is_dropped() {
        let store = Embedded::in_memory().unwrap();
        let head = store.get(&[], Consistency::Strong).await.unwrap().at;
        let mut waiting = store.changes(head);
        assert!(waiting.next().now_or_never().is_none());
        drop(store);
        assert_eq!(waiting.next().await, None);
    }

    #[tokio::test]
    async fn the_journal_outlives_a_restart_and_shrinks_to_a_lower_limit() {
        let place = tempfile::tempdir().unwrap();
        let start = {
            let store = Embedded::open_keeping(place.path(), 10).unwrap();
            let start = store.get(&[], Consistency::Strong).await.unwrap().at;
            for _ in 0..10 {
                put(&store).await.unwrap();
            }
            start
        };
        let store = Embedded::open_keeping(place.path(), 4).unwrap();
        let changes: Vec<_> = store.changes(start).take(10).collect().await;
        assert!(changes.iter().all(Result::is_ok), "{changes:?}");
        for _ in 0..6 {
            put(&store).await.unwrap();
        }
        let left = store.scan(&key::changes(), None, 99, Consistency::Strong).await.unwrap();
        assert_eq!(left.entries.len(), 4);
        assert!(store.changes(start).next().await.unwrap().is_err(), "swept");
    }

    async fn put(store: &Embedded) -> Result<CommitOutcome, StoreError> {
        let op = Op::Put(key::bundle_head(TrustDomainNumber::OWN), "head".into());
        store.commit(Commit::new(vec![], vec![op])?).await
    }

    /// A disk whose flush fails while it is told to.
    #[derive(Debug)]
    struct Breaking {
        memory: InMemoryBackend,
        broken: Arc<AtomicBool>,
    }

    impl Breaking {
        fn new() -> (Self, Arc<AtomicBool>) {
            let broken = Arc::new(AtomicBool::new(false));
            (Self { memory: InMemoryBackend::new(), broken: broken.clone() }, broken)
        }
    }

    impl StorageBackend for Breaking {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.memory.set_len(length)
        }

        fn sync_data(&self) -> io::Result<()> {
            match self.broken.load(Ordering::Relaxed) {
                true => Err(io::Error::other("the flush broke")),
                false => self.memory.sync_data(),
            }
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.memory.write(offset, data)
        }
    }
}
