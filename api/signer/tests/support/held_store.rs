//! A store whose commits the test holds back, or has fail.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ca_core::store::{
    Change, Commit, CommitId, CommitOutcome, Consistency, Cursor, Embedded, Key, KeyRange, Page,
    Snapshot, StateStore, StoreError, Version, WatchGap,
};
use futures_util::stream::BoxStream;
use tokio::sync::watch;

/// A store that takes commits when it may, and has some fail.
#[derive(Debug)]
pub(crate) struct HeldStore {
    store: Embedded,
    held: watch::Sender<bool>,
    /// Commits that have come.
    asked: AtomicUsize,
    failing: AtomicUsize,
}

impl Default for HeldStore {
    fn default() -> Self {
        let (asked, failing) = Default::default();
        Self {
            store: Embedded::in_memory().unwrap(),
            held: watch::channel(false).0,
            asked,
            failing,
        }
    }
}

impl HeldStore {
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    pub(crate) fn commits(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn fail(&self, commits: usize) {
        self.failing.store(commits, Ordering::SeqCst);
    }
}

#[async_trait]
impl StateStore for HeldStore {
    async fn get(&self, keys: &[Key], consistency: Consistency) -> Result<Snapshot, StoreError> {
        self.store.get(keys, consistency).await
    }

    async fn scan(
        &self,
        range: &KeyRange,
        after: Option<&Key>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Page, StoreError> {
        self.store.scan(range, after, limit, consistency).await
    }

    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        drop(self.held.subscribe().wait_for(|held| !*held).await);
        let fails = |left: usize| left.checked_sub(1);
        if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
            let (place, reason) = ("store".to_owned(), "it fails".to_owned());
            return Err(StoreError::Unavailable { place, reason });
        }
        self.store.commit(commit).await
    }

    async fn outcome(&self, id: CommitId) -> Result<Option<Version>, StoreError> {
        self.store.outcome(id).await
    }

    fn changes(&self, from: Cursor) -> BoxStream<'static, Result<Change, WatchGap>> {
        self.store.changes(from)
    }
}
