//! The state store: what must outlive a restart and be agreed on by every process.
//!
//! Small, transactional, watched: authorities, slots, bundles, front ends. Not the issuance log, which is a store of
//! its own. A change is one [`Commit`]: checks of what was read, and operations, applied all or not at
//! all. There are no interactive transactions, because not every engine has them and those that do
//! punish long ones; checks and operations map onto a B-tree in one file, FoundationDB, PostgreSQL and
//! etcd alike.
//!
//! [`key`] owns the layout of the keys, [`record`] the envelope of the values, [`Embedded`] is the engine
//! for one machine, and [`contract`] says what every engine owes.

mod change;
mod commit;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod embedded;
mod error;
pub mod key;
mod read;
pub mod record;
mod version;

use std::fmt;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

pub use change::{Change, Touched, WatchGap};
pub use commit::{Check, Commit, CommitId, CommitOutcome, Op};
pub use embedded::Embedded;
pub use error::{Limit, StoreError};
pub use key::{Key, KeyRange};
pub use read::{Consistency, Entry, Page, Snapshot};
pub use version::{Cursor, Version};

/// A store of state. Every implementation passes [`contract::state_store`].
///
/// The limits are the same for all and are kept by the types: a [`Key`], a [`Commit`] or a list of keys
/// to [`get`](Self::get) beyond them is [`StoreError::TooLarge`], whichever engine is behind.
#[async_trait]
pub trait StateStore: Send + Sync + fmt::Debug {
    /// The entries at `keys` (at most [`Commit::OPERATIONS`]), in their order, all of one moment.
    async fn get(&self, keys: &[Key], consistency: Consistency) -> Result<Snapshot, StoreError>;

    /// The entries of `range` in the order of their keys, from the first one after `after`, or from the
    /// start. At most `limit`, at least one if there is one; a page is of one moment, two pages are not.
    async fn scan(
        &self,
        range: &KeyRange,
        after: Option<&Key>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<Page, StoreError>;

    /// Applies `commit` if every check holds, and then durably; else changes nothing.
    ///
    /// A commit whose id is known is not applied again: the answer is that of the first time, so that the
    /// same commit can be sent again after [`StoreError::Indeterminate`]. A commit without operations
    /// only checks: it is not recorded and answers with the newest version. The future may be dropped;
    /// whether the commit is applied is then as unknown as after `Indeterminate`.
    async fn commit(&self, commit: Commit) -> Result<CommitOutcome, StoreError>;

    /// The version that the commit of this id made, or `None` if it was not applied. Known for as long as
    /// the commit's change record is kept.
    async fn outcome(&self, id: CommitId) -> Result<Option<Version>, StoreError>;

    /// Every change after `from` in the order of the commits, first those recorded, then each as it
    /// comes. A change may come twice only to someone who asks again from an older cursor.
    ///
    /// [`WatchGap`] is the last item of a stream whose cursor lies before the oldest record that is kept
    /// (a consumer that is too slow gets there too) or belongs to another epoch. The stream ends without
    /// one when the store is closed or fenced.
    fn changes(&self, from: Cursor) -> BoxStream<'static, Result<Change, WatchGap>>;
}
