//! What the last run left behind: where its whole blocks end, and whether what follows was torn by a crash or
//! damaged by something else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use thiserror::Error;

use super::super::WriterId;
use super::super::block::{Block, BlockError, Header, MAGIC};
use super::super::records::{Damage, FOLDER, Fault, Segment};
use super::super::tree::{Hash, Head, TileError, Tiles, root};

/// Why a log cannot be continued.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process writes it.
    #[error(
        "issuance log {0} is open in another process; stop that, or give this one a log of its own"
    )]
    InUse(String),
    /// A file of it cannot be read or written.
    #[error("issuance log {place}: {error}")]
    Disk {
        /// The log's directory, or the file.
        place: String,
        /// What the system says.
        error: io::Error,
    },
    /// Its hashes cannot be read or written.
    #[error("issuance log: {0}")]
    Tiles(#[from] TileError),
    /// It was changed by something else than this program.
    #[error(
        "the issuance log is damaged: {0}. Nothing is issued over it: keep the directory as it is, look with \
         `mintmark log verify`, and restore it from a copy or begin a new log with another [log] name and dir"
    )]
    Damaged(#[from] Damage),
    /// It ends before an entry that a signed head covers.
    #[error(
        "the issuance log has {entries} entries, and a head over {} is known ({from}): its end is missing, or it \
         is an older copy. Restore it, or begin a new log with another [log] name and dir", known.size
    )]
    CutOff {
        /// How many entries there are.
        entries: u64,
        /// A head that was signed.
        known: Head,
        /// Where that head is kept.
        from: &'static str,
    },
    /// A signed head is not this tree's.
    #[error(
        "the issuance log is not the one that a known head was signed over ({from}): its first {} entries have \
         another root. Look with `mintmark log verify`; restore it, or begin a new log with another [log] name and \
         dir", known.size
    )]
    OtherTree {
        /// A head that was signed.
        known: Head,
        /// Where that head is kept.
        from: &'static str,
    },
    /// The log already holds a run of that number, or of a later one.
    #[error(
        "run {writer} of the issuance log was to begin, and run {last} is already in it: the state store is an older \
         copy, and would give out numbers twice. Restore the newest copy of the state store, or begin a new log with \
         another [log] name and dir"
    )]
    OldWriter {
        /// The number that this run was to have.
        writer: WriterId,
        /// The highest number in the last file of records.
        last: WriterId,
    },
    /// Hashes of entries that are no longer kept are missing.
    #[error(
        "the issuance log has records from entry {records} on, and hashes only up to entry {hashes}: restore \
         its folder tile, or begin a new log with another [log] name and dir"
    )]
    HashesMissing {
        /// The first record.
        records: u64,
        /// How many hashes there are.
        hashes: u64,
    },
}

/// The records that are there.
#[derive(Debug)]
pub(super) struct Found {
    /// Those that have a whole block; the last one may have more after its blocks.
    pub segments: Vec<Segment>,
    /// How many entries the log has: the place that the next one takes.
    pub entries: u64,
    /// The last run of which there is a whole block.
    pub writer: Option<WriterId>,
    /// Where the last segment's whole blocks end.
    end: u64,
    /// Those that have none.
    empty: Vec<Segment>,
    /// What has to go because a crash has torn it, for people.
    pub torn: Option<Damage>,
}

/// Reads the end of the records, and changes nothing. Only the last file can be torn: each is flushed before the
/// next is made.
pub(super) fn find(directory: &Path) -> Result<Found, OpenError> {
    let segments = Segment::list(directory).map_err(disk(directory))?;
    let mut found =
        Found { segments, entries: 0, writer: None, end: 0, empty: Vec::new(), torn: None };
    while let Some((last, before)) = found.segments.split_last() {
        let content = last.read().map_err(disk(&last.path))?;
        let mut blocks = last.blocks(&content);
        let mut seen = |block: &Result<(usize, Block<'_>), Damage>| {
            let writer = block.as_ref().ok().map(|(_, block)| block.header.writer);
            found.writer = found.writer.max(writer);
        };
        let damage = blocks.by_ref().inspect(&mut seen).find_map(Result::err);
        let (end, rest) = (blocks.offset(), &content[blocks.offset()..]);
        (found.end, found.entries) = (end as u64, blocks.next_index());
        // A page that a crash has left out reads as zeros, and so does room that was kept.
        let is_room = || rest.iter().all(|&byte| byte == 0);
        let none = || last.damage(end, BlockError::Magic.into());
        if let Some(damage) = damage.or_else(|| (!is_room()).then(none)) {
            let missing = match blocks.next_number() {
                Some(number) => Missing::Number(number),
                None => Missing::After(before.last()),
            };
            if !found.empty.is_empty() || missing.was_flushed(rest)? {
                return Err(damage.into());
            }
            found.torn = Some(damage);
        }
        if end > 0 {
            break;
        }
        found.empty.extend(found.segments.pop());
    }
    Ok(found)
}

/// The first block that is not whole.
enum Missing<'a> {
    Number(u64),
    /// It would be the first of a segment; this is the segment before.
    After(Option<&'a Segment>),
}

impl Missing<'_> {
    /// Whether a later block says that it had reached the disk.
    fn was_flushed(&self, rest: &[u8]) -> Result<bool, OpenError> {
        let starts = rest.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
        let later = starts.filter_map(|(at, _)| Block::read(&rest[at..]).ok().flatten());
        for Header { writer, number, flushed, .. } in later.map(|block| block.header) {
            let missing = self.number(writer)?;
            if number > missing && flushed > missing {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Its number among the blocks of that writer.
    fn number(&self, writer: WriterId) -> Result<u64, OpenError> {
        let before = match self {
            Self::Number(number) => return Ok(*number),
            Self::After(None) => return Ok(0),
            Self::After(Some(before)) => before,
        };
        let content = before.read().map_err(disk(&before.path))?;
        let last = before.blocks(&content).filter_map(Result::ok).last();
        let last = last.map(|(_, block)| block.header).filter(|header| header.writer == writer);
        Ok(last.map_or(0, |header| header.number + 1))
    }
}

impl Found {
    /// Refuses a number that a run has had already.
    pub(super) fn admits(&self, writer: WriterId) -> Result<(), OpenError> {
        match self.writer {
            Some(last) if writer <= last => Err(OpenError::OldWriter { writer, last }),
            _ => Ok(()),
        }
    }

    /// Removes what a crash has torn.
    pub(super) fn cut(&self) -> Result<(), OpenError> {
        for Segment { path, .. } in &self.empty {
            fs::remove_file(path).map_err(disk(path))?;
        }
        if let Some(Segment { path, .. }) = self.segments.last() {
            cut(path, self.end).map_err(disk(path))?;
        }
        Ok(())
    }
}

fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() != length {
        file.set_len(length)?;
        file.sync_all()?;
    }
    Ok(())
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let place = path.display().to_string();
    move |error| OpenError::Disk { place, error }
}

/// Gives away the leaf hashes of all entries from a place on, block by block.
pub(super) fn leaves_from(
    found: &Found,
    from: u64,
    mut give: impl FnMut(&[Hash]),
) -> Result<(), OpenError> {
    let holding = found.segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
    let mut next = None;
    for segment in found.segments.iter().skip(holding) {
        if let Some(next) = next.filter(|&next| next != segment.first) {
            let fault = format!("it begins with entry {}, and {next} is next", segment.first);
            return Err(segment.damage(0, Fault::Order(fault)).into());
        }
        let content = segment.read().map_err(disk(&segment.path))?;
        let mut blocks = segment.blocks(&content);
        for block in blocks.by_ref() {
            let (_, block) = block?;
            let known = from.saturating_sub(block.header.first);
            let known = usize::try_from(known).unwrap_or(usize::MAX);
            give(block.leaves().get(known..).unwrap_or_default());
        }
        next = Some(blocks.next_index());
    }
    Ok(())
}

/// Takes the log for this process alone; held while the file is.
pub(super) fn lock(directory: &Path) -> Result<File, OpenError> {
    let made = !directory.exists();
    fs::create_dir_all(directory.join(FOLDER)).map_err(disk(directory))?;
    if let Some(parent) = directory.parent().filter(|parent| made && parent.is_dir()) {
        // So that no power cut takes the whole log away with its name.
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(disk(parent))?;
    }
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(directory.join("lock"));
    let file = file.map_err(disk(directory))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse(directory.display().to_string())),
        Err(fs::TryLockError::Error(error)) => Err(disk(directory)(error)),
    }
}

/// The tree that is kept, if the records reach as far as it and as the heads that are known. It is made of what
/// was flushed alone, so that no crash leaves it ahead of them.
pub(super) fn tree_within(
    directory: &Path,
    found: &Found,
    known: &[(Head, &'static str)],
) -> Result<Tiles, OpenError> {
    let tiles = Tiles::open(directory, u64::MAX)?;
    for &(known, from) in known.iter().chain([&(tiles.head(), "its tiles")]) {
        if known.size > found.entries {
            return Err(OpenError::CutOff { entries: found.entries, known, from });
        }
    }
    Ok(tiles)
}

/// Gives the tree what it lacks of the records, and checks it against the heads that are known.
pub(super) fn complete(
    tiles: &mut Tiles,
    found: &Found,
    known: &[(Head, &'static str)],
) -> Result<(), OpenError> {
    let have = tiles.size();
    let records = found.segments.first().map_or(found.entries, |segment| segment.first);
    if records > have {
        return Err(OpenError::HashesMissing { records, hashes: have });
    }
    leaves_from(found, have, |leaves| tiles.append(leaves))?;
    tiles.flush()?;
    for &(known, from) in known {
        if root(known.size, &tiles.reader())? != known.root {
            return Err(OpenError::OtherTree { known, from });
        }
    }
    Ok(())
}
