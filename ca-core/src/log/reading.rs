//! Entries in their order, read from the files piece by piece: beside a writer, with little memory, and again from
//! where the last reading ended.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use super::block::{Block, LONGEST_BLOCK, MAGIC, Seal};
use super::directory::{LogDirectory, ReadError};
use super::entry::Entry;
use super::records::{Damage, Fault, Segment};

/// So much is read from a file at once.
const PIECE: usize = 1024 * 1024;

/// One entry where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its place in the tree.
    pub index: u64,
    /// What it says.
    pub entry: Entry,
    /// What its leaf hash is over.
    pub bytes: Vec<u8>,
}

/// Reads the blocks of one file. Asked again at the end, it looks whether more has been written.
#[derive(Debug)]
pub struct SegmentReader {
    segment: Segment,
    file: File,
    buffer: Vec<u8>,
    /// Where the next block begins in the buffer, and in the file.
    start: usize,
    offset: u64,
    /// The place that the next block begins at, once something says so.
    next: Option<u64>,
    /// The seal and number of the block before.
    last: Option<(Seal, u64)>,
}

/// A block and where it begins in its file.
pub type Placed<'a> = (u64, Block<'a>);

impl SegmentReader {
    /// Begins at the start of a file.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(segment: Segment) -> Result<Self, ReadError> {
        let file = File::open(&segment.path).map_err(ReadError::disk(&segment.path))?;
        let next = Some(segment.first);
        let buffer = Vec::new();
        Ok(Self { segment, file, buffer, start: 0, offset: 0, next, last: None })
    }

    /// The file.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Where the next block begins in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The place of the next block's first entry.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.next.unwrap_or(self.segment.first)
    }

    /// The number that the next block has in its run, once one was read.
    #[must_use]
    pub fn next_number(&self) -> Option<u64> {
        self.last.map(|(_, number)| number + 1)
    }

    /// The next block; `None` at the end, and where only room for more is.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if what is there is no block or not the one that follows. The place stays the same.
    pub fn next_block(&mut self) -> Result<Option<Placed<'_>>, ReadError> {
        self.fill().map_err(ReadError::disk(&self.segment.path))?;
        let damage = |fault| {
            let path = self.segment.path.clone();
            ReadError::Damaged(Damage { path, offset: self.offset, fault })
        };
        let read = Block::read(&self.buffer[self.start..]);
        let Some(block) = read.map_err(|error| damage(error.into()))? else { return Ok(None) };
        follows(&block, self.next, self.last).map_err(|why| damage(Fault::Order(why)))?;
        let offset = self.offset;
        self.start += block.length;
        self.offset += block.length as u64;
        self.next = Some(block.header.first + u64::from(block.header.entries));
        self.last = Some((block.seal, block.header.number));
        Ok(Some((offset, block)))
    }

    /// Has the next block read from the file anew: what was read before may have been half written.
    pub fn look_again(&mut self) {
        self.buffer.clear();
        self.start = 0;
    }

    /// Goes on to the next place where a block begins that agrees with its seal, whichever it is, and says whose
    /// number and flushed blocks it tells of; `None` if there is none.
    ///
    /// # Errors
    /// [`ReadError::Disk`].
    pub fn find_block(&mut self) -> Result<Option<(u64, u64)>, ReadError> {
        loop {
            self.fill().map_err(ReadError::disk(&self.segment.path))?;
            let rest = &self.buffer[self.start..];
            if rest.len() < MAGIC.len() {
                return Ok(None);
            }
            let Some(ahead) = rest.windows(MAGIC.len()).position(|window| *window == MAGIC) else {
                // The end may be the beginning of one.
                self.skip(rest.len() - (MAGIC.len() - 1));
                continue;
            };
            self.skip(ahead);
            self.fill().map_err(ReadError::disk(&self.segment.path))?;
            if let Ok(Some(block)) = Block::read(&self.buffer[self.start..]) {
                (self.next, self.last) = (None, None);
                return Ok(Some((block.header.number, block.header.flushed)));
            }
            self.skip(1);
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Has the buffer hold the longest block, unless the file ends before. What is no block when it is found in
    /// the buffer is read again, for it may have been written since.
    fn fill(&mut self) -> io::Result<()> {
        let rest = &self.buffer[self.start..];
        if rest.len() >= LONGEST_BLOCK && rest.starts_with(&MAGIC) {
            return Ok(());
        }
        self.buffer.resize(PIECE, 0);
        let length = read_at(&self.file, &mut self.buffer, self.offset)?;
        self.buffer.truncate(length);
        self.start = 0;
        Ok(())
    }
}

/// Fills the buffer as far as the file goes.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Whether a block is the one that follows in its file.
fn follows(block: &Block<'_>, next: Option<u64>, last: Option<(Seal, u64)>) -> Result<(), String> {
    let header = &block.header;
    if let Some(wanted) = next.filter(|&wanted| wanted != header.first) {
        return Err(format!("it begins with entry {}, and {wanted} is next", header.first));
    }
    let Some((seal, number)) = last else { return Ok(()) };
    if header.number != number + 1 {
        return Err(format!("it is number {}, and {} is next", header.number, number + 1));
    }
    if header.previous != seal {
        return Err("it does not name the seal of the one before".to_owned());
    }
    Ok(())
}

/// Reads a log on from a place, file by file. Asked again at the end, it goes on with what has come since.
#[derive(Debug)]
pub struct Cursor {
    log: LogDirectory,
    from: u64,
    /// A signed head is over so many entries: they must be there.
    covered: u64,
    reader: Option<SegmentReader>,
}

impl Cursor {
    /// Begins with the entry of that place, or with the first whose record is kept.
    #[must_use]
    pub fn new(log: &LogDirectory, from: u64) -> Self {
        let head = log.checkpoint().ok().flatten();
        let covered = head.map_or(0, |checkpoint| checkpoint.unverified().head.size);
        Self { log: log.clone(), from, covered, reader: None }
    }

    /// Visits all entries that are there, in their order, until the visitor breaks. A last block that is being
    /// written, or was torn by a crash, ends it quietly, unless a signed head covers what is missing.
    ///
    /// # Errors
    /// [`ReadError`], and those of the visitor.
    pub fn each<E: From<ReadError>>(
        &mut self,
        mut visit: impl FnMut(Logged) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        loop {
            if self.reader.is_none() {
                self.reader = self.first()?;
            }
            let Some(reader) = &mut self.reader else { return Ok(()) };
            // Asked before its blocks are read: a file is whole when the next is there.
            let follower = follower(&self.log, reader.segment())?;
            if read_blocks(reader, self.from, follower.is_none(), &mut visit)?.is_break() {
                return Ok(());
            }
            let next = reader.next_index();
            match follower {
                None if next < self.covered => {
                    let place = reader.segment().path.clone();
                    return Err(
                        ReadError::Missing { from: next, until: self.covered, place }.into()
                    );
                }
                None => {
                    self.from = self.from.max(next);
                    return Ok(());
                }
                Some(segment) if segment.first == next => {
                    self.reader = Some(SegmentReader::open(segment)?);
                }
                Some(Segment { first: until, path: place }) => {
                    return Err(ReadError::Missing { from: next, until, place }.into());
                }
            }
        }
    }

    /// The file that holds the first entry, or the first file that is there.
    fn first(&self) -> Result<Option<SegmentReader>, ReadError> {
        let mut segments = self.log.segments()?;
        let holding = segments.partition_point(|segment| segment.first <= self.from);
        segments.drain(..holding.saturating_sub(1));
        segments.into_iter().next().map(SegmentReader::open).transpose()
    }
}

/// The file after one.
pub(super) fn follower(
    log: &LogDirectory,
    segment: &Segment,
) -> Result<Option<Segment>, ReadError> {
    Ok(log.segments()?.into_iter().find(|other| other.first > segment.first))
}

/// Visits all entries of a file that is not written any more.
pub(super) fn each_of<E: From<ReadError>>(
    segment: &Segment,
    visit: &mut impl FnMut(Logged) -> Result<ControlFlow<()>, E>,
) -> Result<ControlFlow<()>, E> {
    read_blocks(&mut SegmentReader::open(segment.clone())?, 0, false, visit)
}

/// Visits the entries of a file from a place on. In the last file, damage is an end.
fn read_blocks<E: From<ReadError>>(
    reader: &mut SegmentReader,
    from: u64,
    is_last: bool,
    visit: &mut impl FnMut(Logged) -> Result<ControlFlow<()>, E>,
) -> Result<ControlFlow<()>, E> {
    loop {
        let path = reader.segment().path.clone();
        let (offset, block) = match reader.next_block() {
            Ok(Some(placed)) => placed,
            Ok(None) => return Ok(ControlFlow::Continue(())),
            Err(ReadError::Damaged(_)) if is_last => {
                reader.look_again();
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => return Err(error.into()),
        };
        for logged in entries(&block, from) {
            let logged = logged
                .map_err(|fault| ReadError::from(Damage { path: path.clone(), offset, fault }))?;
            if visit(logged)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
}

/// The entries of a block from a place on.
pub(super) fn entries(block: &Block<'_>, from: u64) -> impl Iterator<Item = Result<Logged, Fault>> {
    let placed = (block.header.first..).zip(block.entries());
    placed.filter(move |(index, _)| *index >= from).map(|(index, bytes)| {
        let entry = Entry::decode(bytes).map_err(|error| Fault::Entry { index, error })?;
        Ok(Logged { index, entry, bytes: bytes.to_owned() })
    })
}

/// The newest entries, the oldest of them first: so many, or as many as are kept.
///
/// # Errors
/// [`ReadError`].
pub fn newest(log: &LogDirectory, count: usize) -> Result<Vec<Logged>, ReadError> {
    let mut found = VecDeque::new();
    for segment in log.segments()?.into_iter().rev() {
        let mut of_segment = VecDeque::new();
        let mut reader = SegmentReader::open(segment)?;
        let is_last = found.is_empty();
        let mut keep = |logged| {
            of_segment.push_back(logged);
            if of_segment.len() + found.len() > count {
                of_segment.pop_front();
            }
            Ok::<_, ReadError>(ControlFlow::Continue(()))
        };
        // Nothing breaks it off.
        let _ = read_blocks(&mut reader, 0, is_last, &mut keep)?;
        of_segment.append(&mut found);
        found = of_segment;
        if found.len() >= count {
            break;
        }
    }
    Ok(found.into())
}

/// The entry of that place; `None` if the log has none, or none any more.
///
/// # Errors
/// [`ReadError`].
pub fn entry(log: &LogDirectory, index: u64) -> Result<Option<Logged>, ReadError> {
    let mut found = None;
    Cursor::new(log, index).each::<ReadError>(|logged| {
        found = (logged.index == index).then_some(logged);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::TestLog;
    use super::*;

    fn indexes(cursor: &mut Cursor) -> Result<Vec<u64>, ReadError> {
        let mut found = Vec::new();
        cursor.each(|logged| {
            found.push(logged.index);
            Ok::<_, ReadError>(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    #[test]
    fn entries_are_read_from_any_place_on_and_once() {
        let mut log = TestLog::with_entries();
        for from in [0, 1, 200, 201, 602, 1002, 1003, 5000] {
            let mut cursor = Cursor::new(&log.directory(), from);
            assert!(indexes(&mut cursor).unwrap().into_iter().eq(from..1003), "{from}");
            assert!(indexes(&mut cursor).unwrap().is_empty());
        }
        let mut cursor = Cursor::new(&log.directory(), 1000);
        assert_eq!(indexes(&mut cursor).unwrap(), [1000, 1001, 1002]);
        log.run(1001..1003, 200);
        assert_eq!(indexes(&mut cursor).unwrap(), [1003, 1004, 1005]);
    }

    #[test]
    fn the_newest_entries_reach_over_files() {
        let log = TestLog::with_entries();
        for count in [0, 1, 2, 300, 1003, 2000] {
            let found = newest(&log.directory(), count).unwrap();
            let first = 1003 - count.min(1003) as u64;
            assert!(found.iter().map(|logged| logged.index).eq(first..1003), "{count}");
        }
        assert_eq!(entry(&log.directory(), 601).unwrap().unwrap().index, 601);
        assert_eq!(entry(&log.directory(), 1003).unwrap(), None);
    }

    #[test]
    fn a_block_that_is_being_written_ends_the_reading_quietly() {
        let log = TestLog::with_entries();
        let last = log.segments().pop().unwrap();
        let whole = last.read().unwrap();
        let mut more = whole.clone();
        more.extend_from_slice(&whole[..whole.len() - 1]);
        fs::write(&last.path, more).unwrap();
        let found = indexes(&mut Cursor::new(&log.directory(), 1000)).unwrap();
        assert_eq!(found, [1000, 1001, 1002]);
        assert_eq!(newest(&log.directory(), 1).unwrap()[0].index, 1002);
    }

    #[test]
    fn what_a_signed_head_covers_must_be_there() {
        let log = TestLog::with_entries();
        let last = log.segments().pop().unwrap();
        let whole = last.read().unwrap();
        fs::write(&last.path, &whole[..whole.len() - 1]).unwrap();
        let missing = indexes(&mut Cursor::new(&log.directory(), 1000)).unwrap_err();
        assert!(matches!(missing, ReadError::Missing { from: 1002, until: 1003, .. }), "{missing}");
    }

    #[test]
    fn a_damaged_block_in_the_middle_is_named() {
        let log = TestLog::with_entries();
        let segment = log.segments().swap_remove(1);
        let mut content = segment.read().unwrap();
        content[5000] ^= 1;
        fs::write(&segment.path, content).unwrap();
        let damaged = indexes(&mut Cursor::new(&log.directory(), 0)).unwrap_err().to_string();
        assert!(damaged.contains("00000000000000000201.seg, byte "), "{damaged}");
    }
}
