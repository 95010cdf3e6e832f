//! Where in a finished file of records a serial number, an ID or an authority occurs: `index/N.idx`, beside
//! `records/N.seg`. Made from the records by whoever needs it, away from minting; may be removed at any time.
//!
//! ```text
//! magic 8 │ first index 8 │ length of the file 8 │ its last seal 32 │ first time 8 │ last time 8 │
//! keys, sorted: beginning of SHA-256 of kind and value 8, offset of the block 8 │ SHA-256 of all before 32
//! ```
//!
//! It is not signed, and not believed: what it leads to is looked at, and one that is not of the file beside it, or
//! damaged, is made again. Who can write it can hide a record from a search, not from a search without it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

use super::directory::{LogDirectory, ReadError};
use super::entry::Entry;
use super::reading::{SegmentReader, entries};
use super::records::{Damage, Segment};
use super::{Document, IssuanceRecord};
use crate::clock::Timestamp;
use crate::serial::Serial;

/// The folder of a log's directory that holds them.
pub const FOLDER: &str = "index";
const MAGIC: [u8; 8] = *b"MINTIDX1";
const HEADER: usize = 72;
const KEY: usize = 16;
const SUM: usize = 32;

/// What an index is asked for: the beginning of a hash, so that keys are short and of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexKey([u8; 8]);

impl IndexKey {
    /// Of a certificate's serial number.
    #[must_use]
    pub fn serial(serial: &Serial) -> Self {
        Self::of(1, serial.bytes())
    }

    /// Of a SPIFFE ID.
    #[must_use]
    pub fn id(id: &str) -> Self {
        Self::of(2, id.as_bytes())
    }

    /// Of an authority, or of the key that issues in its stead.
    #[must_use]
    pub fn authority(authority: &str) -> Self {
        Self::of(3, authority.as_bytes())
    }

    fn of(kind: u8, value: &[u8]) -> Self {
        let hash = digest(&SHA256, &[&[kind], value].concat());
        Self(*hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }

    fn all(record: &IssuanceRecord) -> impl Iterator<Item = Self> {
        let serial = match &record.document {
            Document::X509 { serial, .. } => Some(Self::serial(serial)),
            Document::Jwt { .. } => None,
        };
        let issuing = record.issuing_key.as_deref().map(Self::authority);
        let id = Self::id(record.id.as_str());
        [Some(id), Some(Self::authority(&record.authority)), serial, issuing].into_iter().flatten()
    }
}

/// The index of one finished file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    stands_for: Source,
    times: (Timestamp, Timestamp),
    /// Keys with their offsets, sorted.
    keys: Vec<u8>,
}

/// What tells a file of records from what it was or could be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    first: u64,
    length: u64,
    seal: [u8; 32],
}

impl Index {
    /// Reads the index of a finished file, or makes it where there is none that can be used. One that cannot be
    /// written down serves this once.
    ///
    /// # Errors
    /// [`ReadError`] of the file of records.
    pub fn of(log: &LogDirectory, segment: &Segment) -> Result<Self, ReadError> {
        let source = Source::of(segment)?;
        if let Some(index) = Self::read(&path(log, segment.first), &source) {
            return Ok(index);
        }
        let index = Self::make(segment, source)?;
        // A copy of a log may be read-only.
        let _ = index.write(log);
        Ok(index)
    }

    /// The earliest and the latest time of its records.
    #[must_use]
    pub fn times(&self) -> (Timestamp, Timestamp) {
        self.times
    }

    /// The offsets of the blocks that may hold something of that key, in their order.
    #[must_use]
    pub fn blocks(&self, key: IndexKey) -> Vec<u64> {
        let (keys, _) = self.keys.as_chunks::<KEY>();
        let start = keys.partition_point(|entry| entry[..8] < key.0[..]);
        let ours = keys[start..].iter().take_while(|entry| entry[..8] == key.0[..]);
        ours.map(|entry| number(&entry[8..])).collect()
    }

    fn make(segment: &Segment, stands_for: Source) -> Result<Self, ReadError> {
        let mut reader = SegmentReader::open(segment.clone())?;
        let mut times = (Timestamp::MAX, Timestamp::EPOCH);
        let mut keys = Vec::new();
        while let Some((offset, block)) = reader.next_block()? {
            times = (times.0.min(block.header.times.0), times.1.max(block.header.times.1));
            // Most records of a block have the same authority.
            let mut of_block = BTreeSet::new();
            for logged in entries(&block, 0) {
                let path = segment.path.clone();
                let logged = logged.map_err(|fault| Damage { path, offset, fault })?;
                if let Entry::Issuance(record) = &logged.entry {
                    of_block.extend(IndexKey::all(record));
                }
            }
            keys.extend(of_block.into_iter().map(|IndexKey(key)| (key, offset)));
        }
        keys.sort_unstable();
        let keys = keys.iter().flat_map(|(key, offset)| [*key, offset.to_be_bytes()]).flatten();
        Ok(Self { stands_for, times, keys: keys.collect() })
    }

    /// `None` if it is not there, not of this file, or damaged.
    fn read(path: &Path, source: &Source) -> Option<Self> {
        let content = fs::read(path).ok()?;
        let (body, sum) = content.split_at_checked(content.len().checked_sub(SUM)?)?;
        let (header, keys) = body.split_at_checked(HEADER)?;
        let stands_for = Source::stated(header)?;
        let is_whole = keys.len() % KEY == 0 && stands_for == *source;
        if !is_whole || digest(&SHA256, body).as_ref() != sum {
            return None;
        }
        let time = |at: usize| i64::try_from(number(&header[at..at + 8])).ok();
        let times = (Timestamp::from_unix(time(56)?), Timestamp::from_unix(time(64)?));
        Some(Self { stands_for, times, keys: keys.to_vec() })
    }

    /// Under another name first: nobody reads half of it. Not flushed: a crash costs making it again.
    fn write(&self, log: &LogDirectory) -> io::Result<()> {
        let path = path(log, self.stands_for.first);
        let unfinished = path.with_extension(format!("{}.new", std::process::id()));
        fs::create_dir_all(log.path().join(FOLDER))?;
        let mut content = Vec::with_capacity(HEADER + self.keys.len() + SUM);
        content.extend(MAGIC);
        content.extend(self.stands_for.first.to_be_bytes());
        content.extend(self.stands_for.length.to_be_bytes());
        content.extend(self.stands_for.seal);
        content.extend(self.times.0.unix().to_be_bytes());
        content.extend(self.times.1.unix().to_be_bytes());
        content.extend(&self.keys);
        let sum = digest(&SHA256, &content);
        content.extend(sum.as_ref());
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&unfinished)?.write_all(&content)?;
        fs::rename(&unfinished, &path)
    }
}

impl Source {
    fn of(segment: &Segment) -> Result<Self, ReadError> {
        let read = || {
            let mut file = File::open(&segment.path)?;
            let length = file.metadata()?.len();
            let mut seal = [0; 32];
            file.seek(SeekFrom::Start(length.saturating_sub(32)))?;
            file.read_exact(&mut seal)?;
            Ok(Self { first: segment.first, length, seal })
        };
        read().map_err(ReadError::disk(&segment.path))
    }

    /// What an index says it is of, whether or not the rest of it is whole: that is looked at when it is used.
    fn indexed(path: &Path) -> Option<Self> {
        let mut header = [0; HEADER];
        File::open(path).and_then(|mut file| file.read_exact(&mut header)).ok()?;
        Self::stated(&header)
    }

    fn stated(header: &[u8]) -> Option<Self> {
        (header[..8] == MAGIC).then_some(())?;
        Some(Self {
            first: number(&header[8..16]),
            length: number(&header[16..24]),
            seal: header[24..56].try_into().ok()?,
        })
    }
}

/// Makes the indexes that are missing, of all files but the last, which is still written; says how many.
///
/// # Errors
/// [`ReadError`]; what was made before stays.
pub fn build_missing(log: &LogDirectory) -> Result<usize, ReadError> {
    let (mut indexer, mut made) = (Indexer::new(log.clone()), 0);
    while indexer.make_next()? {
        made += 1;
    }
    Ok(made)
}

/// Makes missing indexes one by one and remembers how far it has come: for a server, which does it beside
/// minting, so that searches find them made.
#[derive(Debug)]
pub struct Indexer {
    log: LogDirectory,
    /// Files that begin before this entry have been looked at.
    next: u64,
}

impl Indexer {
    /// Of all files from the first on.
    #[must_use]
    pub fn new(log: LogDirectory) -> Self {
        Self { log, next: 0 }
    }

    /// Makes the next index that is missing; `false` if none is. Blocks: of a file of 64 MiB it reads all and sorts
    /// up to a million keys of 16 bytes.
    ///
    /// # Errors
    /// [`ReadError`] of a file, which is passed over from then on.
    pub fn make_next(&mut self) -> Result<bool, ReadError> {
        let mut segments = self.log.segments()?;
        segments.pop();
        segments.retain(|segment| segment.first >= self.next);
        for segment in &segments {
            self.next = segment.first + 1;
            let path = path(&self.log, segment.first);
            let source = Source::of(segment)?;
            if Source::indexed(&path).as_ref() != Some(&source) {
                Index::make(segment, source)?.write(&self.log).map_err(ReadError::disk(&path))?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Removes the index of a file that is to go.
pub(super) fn remove(log: &LogDirectory, first: u64) -> Result<(), ReadError> {
    let path = path(log, first);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ReadError::disk(&path)(error)),
        _ => Ok(()),
    }
}

fn path(log: &LogDirectory, first: u64) -> PathBuf {
    log.path().join(FOLDER).join(format!("{first:020}.idx"))
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestLog, id, serial};
    use super::*;

    #[test]
    fn indexes_are_made_once_of_all_files_but_the_last() {
        let mut log = TestLog::with_entries();
        assert_eq!(build_missing(&log.directory()).unwrap(), 5);
        assert_eq!(build_missing(&log.directory()).unwrap(), 0);
        log.run(1001..1010, 200);
        assert_eq!(build_missing(&log.directory()).unwrap(), 1);
        fs::remove_file(path(&log.directory(), 601)).unwrap();
        assert_eq!(build_missing(&log.directory()).unwrap(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_indexed_is_told_once_and_keeps_no_other_from_it() {
        let log = TestLog::with_entries();
        let damaged = log.segments().remove(1);
        let mut content = fs::read(&damaged.path).unwrap();
        content[100] ^= 1;
        fs::write(&damaged.path, content).unwrap();
        let mut indexer = Indexer::new(log.directory());
        let mut steps = std::iter::from_fn(|| Some(indexer.make_next()));
        assert!(steps.next().unwrap().unwrap());
        assert!(steps.next().unwrap().is_err(), "the second is damaged");
        assert_eq!(steps.take_while(|step| *step.as_ref().unwrap()).count(), 3);
        assert!(!indexer.make_next().unwrap());
    }

    #[test]
    fn a_serial_number_leads_to_one_block() {
        let log = TestLog::with_entries();
        let segment = &log.segments()[1];
        let index = Index::of(&log.directory(), segment).unwrap();
        assert_eq!(index.blocks(IndexKey::serial(&serial(300))).len(), 1);
        assert_eq!(index.blocks(IndexKey::serial(&serial(100))), [] as [u64; 0]);
        assert_eq!(index.blocks(IndexKey::id(id(3).as_str())).len(), 20);
        assert_eq!(index.blocks(IndexKey::authority("cc")).len(), 20);
        assert_eq!(index.blocks(IndexKey::authority("bb")), [] as [u64; 0]);
    }

    #[test]
    fn an_index_that_is_damaged_or_of_another_file_is_made_again() {
        let log = TestLog::with_entries();
        let (directory, segments) = (log.directory(), log.segments());
        let index = Index::of(&directory, &segments[1]).unwrap();
        let file = path(&directory, segments[1].first);
        let good = fs::read(&file).unwrap();
        let other = fs::read({
            Index::of(&directory, &segments[2]).unwrap();
            path(&directory, segments[2].first)
        })
        .unwrap();
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let damaged =
            [vec![], other, good[..good.len() - 1].to_vec(), flipped(60), flipped(500), flipped(3)];
        for content in damaged {
            fs::write(&file, content).unwrap();
            assert_eq!(Index::of(&directory, &segments[1]).unwrap(), index);
            assert_eq!(fs::read(&file).unwrap(), good);
        }
    }
}
