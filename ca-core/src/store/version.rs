//! Points in the history of a store.

use std::fmt;

/// The commit that wrote something: opaque, ordered, unique within an epoch.
///
/// The version of an entry is that of the commit that wrote it and not a counter of its key, so that
/// deleting and making again never looks like no change. Twelve bytes hold a FoundationDB versionstamp;
/// the embedded engine numbers its commits in the first eight, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u8; 12]);

impl Version {
    /// Before the first commit.
    pub const ZERO: Self = Self([0; 12]);

    /// The version of these bytes, as [`bytes`](Self::bytes) gave them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// Its bytes; they sort as versions do.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 12] {
        &self.0
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

/// A place in the stream of changes: everything up to `version` has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The restore epoch: a restored store counts it up, so that versions of before and after are never
    /// compared.
    pub epoch: u32,
    /// The last commit seen.
    pub version: Version,
}
