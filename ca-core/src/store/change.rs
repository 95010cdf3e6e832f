//! The journal: what each commit touched, in the order of the commits.

use bytes::{Buf, BufMut, Bytes};
use thiserror::Error;

use super::{Commit, CommitId, Cursor, Key, KeyRange, Op};

/// What one commit touched. Values are not in it: whoever wants them reads them, and gets the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where the stream stands once this change is taken in.
    pub cursor: Cursor,
    /// What was written or removed, in the order of the operations.
    pub touched: Vec<Touched>,
}

/// Something that a commit touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// This key was put or deleted.
    Key(Key),
    /// Any key of this range may be gone: read the range again.
    Range(KeyRange),
}

/// The changes after a cursor are not all known any more: read everything anew, and watch from the
/// cursor of the first of those reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("changes after cursor {}/{} are no longer known; read everything again", .from.epoch, .from.version)]
pub struct WatchGap {
    /// The cursor.
    pub from: Cursor,
}

/// What is stored of a change: the commit's id, so that both are swept together, and what it touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChangeRecord {
    pub(super) id: CommitId,
    pub(super) touched: Vec<Touched>,
}

/// `format, commit id, count`, then for each touched key or range a kind byte and one or two byte strings,
/// each after its length in two bytes.
const FORMAT: u8 = 1;
const KEY: u8 = 0;
const RANGE: u8 = 1;

impl ChangeRecord {
    pub(super) fn of(commit: &Commit) -> Self {
        let touched = commit.ops().iter().map(|op| match op {
            Op::Put(key, _) | Op::Delete(key) => Touched::Key(key.clone()),
            Op::DeleteRange(range) => Touched::Range(range.clone()),
        });
        Self { id: commit.id(), touched: touched.collect() }
    }

    /// Whether it says that a key of `range` may have changed.
    pub(super) fn touches(&self, range: &KeyRange) -> bool {
        self.touched.iter().any(|touched| match touched {
            Touched::Key(key) => range.contains(key),
            Touched::Range(other) => range.overlaps(other),
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.put_slice(self.id.bytes());
        out.put_u8(u8::try_from(self.touched.len()).expect("a commit has at most 100 operations"));
        for touched in &self.touched {
            match touched {
                Touched::Key(key) => {
                    out.put_u8(KEY);
                    put_bytes(&mut out, key.bytes());
                }
                Touched::Range(range) => {
                    out.put_u8(RANGE);
                    put_bytes(&mut out, range.start());
                    put_bytes(&mut out, range.end());
                }
            }
        }
        out
    }

    /// `None` if these bytes are no record.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != FORMAT || bytes.len() < CommitId::LENGTH {
            return None;
        }
        let id = CommitId::from_bytes(bytes.split_to(CommitId::LENGTH)[..].try_into().ok()?);
        let count = bytes.try_get_u8().ok()?;
        let touched = (0..count).map(|_| take_touched(&mut bytes)).collect::<Option<_>>()?;
        bytes.is_empty().then_some(Self { id, touched })
    }
}

fn take_touched(bytes: &mut Bytes) -> Option<Touched> {
    match bytes.try_get_u8().ok()? {
        KEY => Some(Touched::Key(Key::from_bytes(take_bytes(bytes)?)?)),
        RANGE => {
            let start = take_bytes(bytes)?;
            Some(Touched::Range(KeyRange::from_bytes(start, take_bytes(bytes)?)?))
        }
        _ => None,
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u16(u16::try_from(bytes.len()).expect("a key has at most 1025 bytes"));
    out.put_slice(bytes);
}

fn take_bytes(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(bytes.try_get_u16().ok()?);
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{self, TrustDomainNumber};
    use proptest::prelude::*;

    fn example() -> ChangeRecord {
        ChangeRecord {
            id: CommitId::from_bytes([5; 16]),
            touched: vec![
                Touched::Key(key::bundle_head(TrustDomainNumber::OWN)),
                Touched::Range(key::authorities(TrustDomainNumber::OWN)),
            ],
        }
    }

    #[test]
    fn the_stored_form_does_not_change() {
        let hex: String = example().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let id = "05".repeat(16);
        assert_eq!(hex, format!("01{id}020000050300000001010005010000000100050100000002"));
        assert_eq!(ChangeRecord::decode(example().encode().into()), Some(example()));
    }

    #[test]
    fn a_record_cut_short_is_no_record() {
        let whole = example().encode();
        for end in 0..whole.len() {
            assert_eq!(ChangeRecord::decode(whole[..end].to_vec().into()), None, "{end} bytes");
        }
        assert_eq!(ChangeRecord::decode([&whole[..], &[0]].concat().into()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = ChangeRecord::decode([&[FORMAT][..], &bytes].concat().into());
        }
    }
}
