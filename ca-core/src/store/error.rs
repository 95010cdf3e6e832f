//! Why a store did not do what it was asked.

use thiserror::Error;

use super::{Commit, Key};

/// Why there is no answer. No variant carries a stored value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Certainly not applied: safe to report, or to try again once the reason is gone.
    #[error("commit was not applied: {reason}")]
    Determinate {
        /// What stopped it.
        reason: String,
    },
    /// May or may not have been applied. Nothing else may be done about it before
    /// [`outcome`](super::StateStore::outcome) has told.
    #[error("commit may have been applied: {reason}; ask for its outcome before trying again")]
    Indeterminate {
        /// What went wrong.
        reason: String,
    },
    /// The store cannot be used; later, or once a person has acted, it may work.
    #[error("{place} is unavailable: {reason}")]
    Unavailable {
        /// The store.
        place: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Another process has it.
    #[error(
        "{place} is unavailable: {holder} has it open; stop that process, or give this one a directory of its \
         own"
    )]
    InUse {
        /// The store.
        place: String,
        /// Who has it, for people: "process 4711".
        holder: String,
    },
    /// Something is beyond a limit that holds for every engine; nothing was applied.
    #[error(transparent)]
    TooLarge(#[from] Limit),
    /// What is stored is not what was written.
    #[error("{place} is corrupt: {reason}")]
    Corrupt {
        /// The file or the record.
        place: String,
        /// What was found, and what to do.
        reason: String,
    },
    /// The store has failed once and takes nothing more, because nobody knows what a disk holds after a
    /// failed flush. The process should stop.
    #[error("{place} is closed after a failure; check the disk, then start again")]
    Fenced {
        /// The store.
        place: String,
    },
}

/// A limit, and what went beyond it. The strictest of all engines, so that state which fits into one
/// fits into every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Limit {
    /// Length of a key in bytes, above [`Key::MAX_BYTES`].
    #[error("a key has {0} bytes; at most {max} are stored", max = Key::MAX_BYTES)]
    Key(usize),
    /// Length of a value in bytes, above [`Commit::VALUE_BYTES`].
    #[error("a value has {0} bytes; at most {max} are stored", max = Commit::VALUE_BYTES)]
    Value(usize),
    /// Operations in a commit, checks in a commit or keys in a read, above [`Commit::OPERATIONS`].
    #[error("{0} operations, checks or keys at once; at most {max} are taken", max = Commit::OPERATIONS)]
    Operations(usize),
    /// Bytes of all keys and values of a commit, above [`Commit::BYTES`].
    #[error("a commit has {0} bytes; at most {max} are taken", max = Commit::BYTES)]
    Commit(usize),
}

impl Limit {
    /// Whether so many keys may be read at once.
    pub(super) fn keys(count: usize) -> Result<(), Self> {
        if count > Commit::OPERATIONS { Err(Self::Operations(count)) } else { Ok(()) }
    }
}
