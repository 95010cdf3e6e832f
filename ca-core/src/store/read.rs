//! What reading gives.

use std::fmt;

use bytes::Bytes;

use super::{Cursor, Key, Version};

/// How new the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Includes every commit that was acknowledged before the question.
    Strong,
    /// Includes every commit up to this version; else [`StoreError::Unavailable`](super::StoreError).
    AtLeast(Version),
}

/// A key, its value, and the commit that wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value, as it was put.
    pub value: Bytes,
    /// The commit that put it.
    pub version: Version,
}

/// The length of the value stands for the value.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({:?}, {} bytes, {})", self.key, self.value.len(), self.version)
    }
}

/// The answer to a read of several keys, all of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The moment: where to watch from, and the version that a range check compares with.
    pub at: Cursor,
    /// One place for each key asked for, in that order.
    pub entries: Vec<Option<Entry>>,
}

/// A part of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The moment of this page.
    pub at: Cursor,
    /// The entries in the order of their keys.
    pub entries: Vec<Entry>,
    /// Whether the range goes on after the last of them.
    pub more: bool,
}

impl Page {
    /// Most entries in a page, whatever is asked for.
    pub const ENTRIES: usize = 1_000;
    /// A page ends with the entry that brings its values to this many bytes.
    pub const BYTES: usize = 1 << 20;
}
