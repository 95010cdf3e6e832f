//! Blocks: what is written at once. A block says whose it is, where in the tree its entries begin, and what
//! the block before it was, so that a torn, missing, changed or foreign one shows.
//!
//! ```text
//! magic 8 │ payload length 4 │ entries 4 │ writer 4 │ number 8 │ first index 8 │ first time 8 │ last time 8 │
//! flushed 8 │ previous seal 32 │ payload: entries, each behind its length in 2 bytes │ seal 32
//! ```
//!
//! The seal is SHA-256 over the header and the leaf hashes of the entries: an entry is hashed once, for the
//! tree.

use aws_lc_rs::digest::{Context, SHA256};
use thiserror::Error;

use super::WriterId;
use super::entry::LONGEST_ENTRY;
use super::tree::Hash;
use crate::clock::Timestamp;

/// The most bytes of a block, header and seal included.
pub const LONGEST_BLOCK: usize = 64 * 1024;
pub(super) const HEADER: usize = 92;
const SEAL: usize = 32;
pub(super) const MAGIC: [u8; 8] = *b"MINTLOG1";

/// SHA-256 over a block's header and leaf hashes.
pub type Seal = [u8; SEAL];

/// What stands before the entries of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose run wrote it.
    pub writer: WriterId,
    /// Its number among the blocks of that run, from 0.
    pub number: u64,
    /// The place of its first entry in the tree.
    pub first: u64,
    /// How many entries it holds.
    pub entries: u32,
    /// The earliest and the latest time that its entries have.
    pub times: (Timestamp, Timestamp),
    /// How many blocks of the run were known to be on the disk when it was written. One of those that is not
    /// there, or not whole, was not torn by a crash.
    pub flushed: u64,
    /// The seal of the block before it in the run; zeros before the first.
    pub previous: Seal,
}

/// A block that was read and agrees with its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block<'a> {
    /// What stands before the entries.
    pub header: Header,
    /// What the next block of the run names.
    pub seal: Seal,
    /// Its bytes on the disk.
    pub length: usize,
    payload: &'a [u8],
    leaves: Vec<Hash>,
}

/// Bytes that are no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BlockError {
    /// There is something, and it does not begin like a block.
    #[error("no block begins here")]
    Magic,
    /// It ends before its end.
    #[error("the block is cut off")]
    Short,
    /// A field of its header has a value that none may have.
    #[error("the block's header is damaged: {0}")]
    Header(&'static str),
    /// Its entries are not those that were sealed, or its header is not.
    #[error("the block does not agree with its seal")]
    Seal,
}

/// What an entry takes, about.
const USUAL_ENTRY: usize = 288;

/// The part of a header that its writer knows before the entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub writer: WriterId,
    pub number: u64,
    pub first: u64,
    pub flushed: u64,
    pub previous: Seal,
}

/// Entries of one group, on their way into blocks.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// Entries, each behind its length.
    pub payload: Vec<u8>,
    pub leaves: Vec<Hash>,
    pub times: Option<(Timestamp, Timestamp)>,
}

impl Group {
    /// Adds an entry that `write` appends.
    pub(super) fn add(&mut self, time: Timestamp, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.payload.len();
        self.payload.extend([0; 2]);
        write(&mut self.payload);
        // The length is still zeros, and a leaf is hashed behind one of those.
        let (prefixed, entry) = (&self.payload[start + 1..], &self.payload[start + 2..]);
        debug_assert!(entry.len() <= LONGEST_ENTRY);
        self.leaves.push(Hash::prefixed_leaf(prefixed));
        let length = u16::try_from(entry.len()).expect("an entry's parts are bounded");
        self.payload[start..start + 2].copy_from_slice(&length.to_be_bytes());
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
    }

    /// A group that is likely to hold so many entries.
    pub(super) fn with_room(entries: usize) -> Self {
        let bytes = (entries * USUAL_ENTRY).min(LONGEST_BLOCK);
        Self {
            payload: Vec::with_capacity(bytes),
            leaves: Vec::with_capacity(entries),
            times: None,
        }
    }

    /// Whether an entry of any length still fits into the same block.
    pub(super) fn has_room(&self) -> bool {
        HEADER + self.payload.len() + 2 + LONGEST_ENTRY + SEAL <= LONGEST_BLOCK
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Takes in all of another group.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.payload.extend_from_slice(&other.payload);
        self.leaves.extend_from_slice(&other.leaves);
        self.times = match (self.times, other.times) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
    }

    /// Whether another group still fits into the same block.
    pub(super) fn has_room_for(&self, other: &Self) -> bool {
        HEADER + self.payload.len() + other.payload.len() + SEAL <= LONGEST_BLOCK
    }
}

/// Appends the block of a group, and says what its seal is.
pub(super) fn write(into: &mut Vec<u8>, position: &Position, group: &Group) -> Seal {
    let start = into.len();
    let (first_time, last_time) = group.times.unwrap_or((Timestamp::EPOCH, Timestamp::EPOCH));
    into.extend(MAGIC);
    into.extend(small(group.payload.len()).to_be_bytes());
    into.extend(small(group.leaves.len()).to_be_bytes());
    into.extend(position.writer.number().to_be_bytes());
    into.extend(position.number.to_be_bytes());
    into.extend(position.first.to_be_bytes());
    into.extend(first_time.unix().to_be_bytes());
    into.extend(last_time.unix().to_be_bytes());
    into.extend(position.flushed.to_be_bytes());
    into.extend(position.previous);
    let seal = seal(&into[start..], &group.leaves);
    into.extend_from_slice(&group.payload);
    into.extend(seal);
    seal
}

fn small(length: usize) -> u32 {
    u32::try_from(length).expect("a block is far smaller")
}

fn seal(header: &[u8], leaves: &[Hash]) -> Seal {
    let mut context = Context::new(&SHA256);
    context.update(header);
    leaves.iter().for_each(|leaf| context.update(leaf.as_bytes()));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl<'a> Block<'a> {
    /// Reads the block at the start of `bytes`; `None` if there is nothing, or only zeros where one would
    /// begin: room that was kept for later.
    pub fn read(bytes: &'a [u8]) -> Result<Option<Self>, BlockError> {
        let Some(magic) = bytes.get(..MAGIC.len()) else {
            return if bytes.iter().all(|&byte| byte == 0) {
                Ok(None)
            } else {
                Err(BlockError::Short)
            };
        };
        if magic == [0; MAGIC.len()] {
            return Ok(None);
        }
        if magic != MAGIC {
            return Err(BlockError::Magic);
        }
        let (header_bytes, rest) = bytes.split_at_checked(HEADER).ok_or(BlockError::Short)?;
        let (header, length) = read_header(header_bytes)?;
        let (payload, rest) = rest.split_at_checked(length).ok_or(BlockError::Short)?;
        let found = rest.get(..SEAL).ok_or(BlockError::Short)?;
        let leaves: Vec<Hash> =
            Entries(payload).map(|entry| entry.map(Hash::leaf)).collect::<Result<_, _>>()?;
        let seal = seal(header_bytes, &leaves);
        if found != seal || leaves.len() != header.entries as usize {
            return Err(BlockError::Seal);
        }
        Ok(Some(Self { header, seal, length: HEADER + length + SEAL, payload, leaves }))
    }

    /// The leaf hashes of its entries.
    #[must_use]
    pub fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    /// The bytes of its entries.
    pub fn entries(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        Entries(self.payload).map(|entry| entry.expect("read once already"))
    }
}

fn read_header(bytes: &[u8]) -> Result<(Header, usize), BlockError> {
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let short = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let time = |at: usize| {
        let unix = i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let time = Timestamp::from_unix(unix);
        if time.unix() == unix { Ok(time) } else { Err(BlockError::Header("time")) }
    };
    let length = short(8) as usize;
    if HEADER + length + SEAL > LONGEST_BLOCK {
        return Err(BlockError::Header("length"));
    }
    let header = Header {
        writer: WriterId::new(short(16)).ok_or(BlockError::Header("writer"))?,
        number: number(20),
        first: number(28),
        entries: short(12),
        times: (time(36)?, time(44)?),
        flushed: number(52),
        previous: bytes[60..92].try_into().expect("thirty-two bytes"),
    };
    Ok((header, length))
}

/// Entries behind their lengths.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Result<&'a [u8], BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.0.split_first_chunk().and_then(|(length, rest)| {
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
        });
        let Some((entry, rest)) = entry else {
            self.0 = &[];
            return Some(Err(BlockError::Header("length of an entry")));
        };
        self.0 = rest;
        Some(Ok(entry))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(entries: &[Vec<u8>]) -> Group {
        let mut group = Group::default();
        for (at, entry) in entries.iter().enumerate() {
            let time = Timestamp::from_unix(1_000 + i64::try_from(at).unwrap());
            group.add(time, |into| into.extend_from_slice(entry));
        }
        group
    }

    fn position() -> Position {
        Position {
            writer: WriterId::new(7).unwrap(),
            number: 3,
            first: 1000,
            flushed: 2,
            previous: [9; SEAL],
        }
    }

    fn some_entries() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20)
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(entries in some_entries(), rest in any::<[u8; 9]>()) {
            let mut bytes = Vec::new();
            let seal = write(&mut bytes, &position(), &group(&entries));
            let length = bytes.len();
            bytes.extend(rest);
            let block = Block::read(&bytes).unwrap().unwrap();
            prop_assert_eq!((block.seal, block.length), (seal, length));
            prop_assert!(block.entries().eq(entries.iter().map(Vec::as_slice)));
            prop_assert_eq!(block.header.first, 1000);
            let last = Timestamp::from_unix(999 + i64::try_from(entries.len()).unwrap());
            prop_assert_eq!(block.header.times, (Timestamp::from_unix(1000), last));
        }

        #[test]
        fn one_changed_byte_is_found(
            entries in some_entries(),
            at in any::<prop::sample::Index>(),
            flip in 1..=255u8,
        ) {
            let mut bytes = Vec::new();
            write(&mut bytes, &position(), &group(&entries));
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Block::read(&bytes).is_err());
        }

        #[test]
        fn a_cut_block_is_refused(entries in some_entries(), at in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            write(&mut bytes, &position(), &group(&entries));
            let at = 1 + at.index(bytes.len() - 1);
            prop_assert!(Block::read(&bytes[..at]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Block::read(&bytes);
            let _ = Block::read(&[MAGIC.as_slice(), &bytes].concat());
        }
    }

    #[test]
    fn kept_room_is_the_end_and_not_a_damaged_block() {
        assert_eq!(Block::read(&[]), Ok(None));
        assert_eq!(Block::read(&[0; 5]), Ok(None));
        assert_eq!(Block::read(&[0; 500]), Ok(None));
    }
}
