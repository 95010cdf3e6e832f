//! A change of the state: what must still be true, and what is then done.

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::Bytes;

use super::{Key, KeyRange, Limit, StoreError, Version};

/// Something that must be true for a commit to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// There is no entry at this key.
    Absent(Key),
    /// The entry at this key was written by this commit.
    At(Key, Version),
    /// No commit after this version has put or deleted a key in this range. Fails as well when the version
    /// is so old that nobody remembers.
    RangeUnchanged(KeyRange, Version),
}

/// Something done by a commit.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes the value at the key, whether there is one or not.
    Put(Key, Bytes),
    /// Removes the entry, if there is one.
    Delete(Key),
    /// Removes every entry of the range.
    DeleteRange(KeyRange),
}

/// The length of a value stands for the value.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, value) => write!(f, "Put({key:?}, {} bytes)", value.len()),
            Self::Delete(key) => write!(f, "Delete({key:?})"),
            Self::DeleteRange(range) => write!(f, "DeleteRange({range:?})"),
        }
    }
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Applied, durably, as this version.
    Done(Version),
    /// Not applied, because a check failed. Read again and decide again.
    Conflict {
        /// Which check: the first that failed, counted from zero.
        check: usize,
    },
}

/// Names one commit for ever, so that an unknown outcome can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommitId([u8; Self::LENGTH]);

impl CommitId {
    /// Length in bytes; random, so that nobody has to hand them out.
    pub const LENGTH: usize = 16;

    /// The id of these bytes, as [`bytes`](Self::bytes) gave them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    fn random() -> Result<Self, StoreError> {
        let mut bytes = [0; Self::LENGTH];
        SystemRandom::new().fill(&mut bytes).map_err(|_| {
            refused("the operating system gave no random bytes for its id; try again")
        })?;
        Ok(Self(bytes))
    }
}

/// Checks and operations that are applied together or not at all. Whoever holds one knows that it is
/// well-formed and within the limits of every engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    id: CommitId,
    checks: Vec<Check>,
    ops: Vec<Op>,
}

impl Commit {
    /// Most operations, and most checks: etcd's default is 128, and a store adds records of its own.
    pub const OPERATIONS: usize = 100;
    /// Most bytes of all keys and values together, those of the checks included.
    pub const BYTES: usize = 512 << 10;
    /// Most bytes of a value: FoundationDB takes 100,000, PostgreSQL and etcd more.
    pub const VALUE_BYTES: usize = 64 << 10;

    /// A commit under a new random id.
    ///
    /// Beyond a limit: [`StoreError::TooLarge`]. A key that two operations touch, or that belongs to the
    /// store itself: [`StoreError::Determinate`].
    pub fn new(checks: Vec<Check>, ops: Vec<Op>) -> Result<Self, StoreError> {
        within_limits(&checks, &ops)?;
        touches_each_key_once(&ops)?;
        if let Some(range) = ops.iter().map(Op::range).find(KeyRange::is_of_the_store) {
            return Err(refused(format!("{range:?} belongs to the store itself")));
        }
        Ok(Self { id: CommitId::random()?, checks, ops })
    }

    /// What to ask for when the outcome is unknown.
    #[must_use]
    pub fn id(&self) -> CommitId {
        self.id
    }

    /// What must be true.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What is done.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

/// The one place where limits of a commit are kept, for every engine.
fn within_limits(checks: &[Check], ops: &[Op]) -> Result<(), Limit> {
    let most = checks.len().max(ops.len());
    if most > Commit::OPERATIONS {
        return Err(Limit::Operations(most));
    }
    let mut bytes = checks.iter().map(Check::bytes).sum();
    for op in ops {
        bytes += match op {
            Op::Put(_, value) if value.len() > Commit::VALUE_BYTES => {
                return Err(Limit::Value(value.len()));
            }
            Op::Put(key, value) => key.bytes().len() + value.len(),
            Op::Delete(key) => key.bytes().len(),
            Op::DeleteRange(range) => range_bytes(range),
        };
    }
    if bytes > Commit::BYTES { Err(Limit::Commit(bytes)) } else { Ok(()) }
}

/// Engines disagree on what two operations on one key mean, so there are none.
fn touches_each_key_once(ops: &[Op]) -> Result<(), StoreError> {
    let ranges: BTreeSet<KeyRange> = ops.iter().map(Op::range).collect();
    let apart = ranges.iter().zip(ranges.iter().skip(1)).all(|(one, next)| !one.overlaps(next));
    if ranges.len() == ops.len() && apart {
        Ok(())
    } else {
        Err(refused("two of its operations touch the same key"))
    }
}

fn range_bytes(range: &KeyRange) -> usize {
    range.start().len() + range.end().len()
}

fn refused(reason: impl Into<String>) -> StoreError {
    StoreError::Determinate { reason: reason.into() }
}

impl Check {
    fn bytes(&self) -> usize {
        match self {
            Self::Absent(key) | Self::At(key, _) => key.bytes().len(),
            Self::RangeUnchanged(range, _) => range_bytes(range),
        }
    }
}

impl Op {
    /// The keys it touches.
    fn range(&self) -> KeyRange {
        match self {
            Self::Put(key, _) | Self::Delete(key) => KeyRange::one(key),
            Self::DeleteRange(range) => range.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{self, TrustDomainNumber};

    fn at(id: &str) -> Key {
        key::authority(TrustDomainNumber::OWN, id).unwrap()
    }

    fn puts(count: usize, bytes: usize) -> Vec<Op> {
        (0..count).map(|n| Op::Put(at(&format!("{n:03}")), vec![0; bytes].into())).collect()
    }

    #[test]
    fn a_commit_at_a_limit_is_taken_and_one_beyond_is_not() {
        let refusal = |checks, ops| match Commit::new(checks, ops) {
            Err(StoreError::TooLarge(limit)) => Some(limit),
            other => other.map(|_| None).unwrap(),
        };
        assert_eq!(refusal(vec![], puts(100, 1)), None);
        assert_eq!(refusal(vec![], puts(101, 1)), Some(Limit::Operations(101)));
        assert_eq!(refusal(vec![Check::Absent(at("a")); 100], vec![]), None);
        assert_eq!(
            refusal(vec![Check::Absent(at("a")); 101], vec![]),
            Some(Limit::Operations(101))
        );
        assert_eq!(refusal(vec![], puts(1, 65_536)), None);
        assert_eq!(refusal(vec![], puts(1, 65_537)), Some(Limit::Value(65_537)));
        // Each key has 10 bytes: tag, trust domain, three digits and the end of the text.
        assert_eq!(refusal(vec![], puts(8, 65_526)), None);
        let mut ops = puts(8, 65_526);
        ops.push(Op::Delete(key::bundle_head(TrustDomainNumber::OWN)));
        assert_eq!(refusal(vec![], ops), Some(Limit::Commit(524_293)));
    }

    #[test]
    fn a_key_touched_twice_is_refused() {
        let twice = [
            vec![Op::Put(at("a"), Bytes::new()), Op::Delete(at("a"))],
            vec![Op::Delete(at("a")), Op::Delete(at("b")), Op::Delete(at("a"))],
            vec![
                Op::Put(at("a"), Bytes::new()),
                Op::DeleteRange(key::authorities(TrustDomainNumber::OWN)),
            ],
        ];
        for ops in twice {
            assert!(matches!(Commit::new(vec![], ops), Err(StoreError::Determinate { .. })));
        }
    }

    #[test]
    fn the_records_of_the_store_cannot_be_written() {
        for op in [
            Op::Delete(key::schema()),
            Op::Put(key::change_head(), Bytes::new()),
            Op::DeleteRange(key::changes()),
        ] {
            let refused = Commit::new(vec![], vec![op]);
            assert!(matches!(refused, Err(StoreError::Determinate { .. })), "{refused:?}");
        }
    }

    #[test]
    fn values_do_not_appear_in_debug_output() {
        let commit = Commit::new(vec![], vec![Op::Put(at("a"), "hunter2".into())]).unwrap();
        let text = format!("{commit:?}");
        assert!(text.contains("7 bytes") && !text.contains("hunter2"), "{text}");
    }
}
