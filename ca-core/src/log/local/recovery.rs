//! What the last run left behind: where its whole blocks end, and whether what follows was torn by a crash or
//! damaged by something else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use thiserror::Error;

use super::super::block::{Block, MAGIC};
use super::super::records::{Damage, Segment};
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
         `mintmark log verify`, and restore it from a copy or begin a new log in another directory"
    )]
    Damaged(#[from] Damage),
    /// It ends before an entry that a signed head covers.
    #[error(
        "the issuance log has {entries} entries, and a head over {} is known ({from}): its end is missing, or it \
         is an older copy. Restore it, or begin a new log in another directory", known.size
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
         another root. Look with `mintmark log verify`", known.size
    )]
    OtherTree {
        /// A head that was signed.
        known: Head,
        /// Where that head is kept.
        from: &'static str,
    },
    /// Hashes of entries that are no longer kept are missing.
    #[error(
        "the issuance log has records from entry {records} on, and hashes only up to entry {hashes}"
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
    pub segments: Vec<Segment>,
    /// How many entries the log has: the place that the next one takes.
    pub entries: u64,
    /// What was cut off because a crash had torn it, for people.
    pub torn: Option<Damage>,
}

/// Reads the end of the records and removes what a crash has torn. Only the last file can be torn: each is
/// flushed before the next is made.
pub(super) fn recover(directory: &Path) -> Result<Found, OpenError> {
    let disk = |path: &Path| {
        let place = path.display().to_string();
        move |error| OpenError::Disk { place, error }
    };
    let mut segments = Segment::list(directory).map_err(disk(directory))?;
    let mut torn = None;
    while let Some(last) = segments.last() {
        let content = last.read().map_err(disk(&last.path))?;
        let mut blocks = last.blocks(&content);
        let damage = blocks.by_ref().find_map(Result::err);
        let (offset, entries) = (blocks.offset(), blocks.next_index());
        if let Some(damage) = damage {
            if was_flushed(&content[offset..], blocks.next_number().unwrap_or(0)) {
                return Err(damage.into());
            }
            torn = Some(damage);
        }
        if offset > 0 {
            cut(&last.path, offset as u64).map_err(disk(&last.path))?;
            return Ok(Found { segments, entries, torn });
        }
        fs::remove_file(&last.path).map_err(disk(&last.path))?;
        segments.pop();
    }
    Ok(Found { segments, entries: 0, torn })
}

/// Whether a later block says that the block of that number had reached the disk.
fn was_flushed(rest: &[u8], number: u64) -> bool {
    let starts = rest.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
    let mut later = starts.filter_map(|(at, _)| Block::read(&rest[at..]).ok().flatten());
    later.any(|block| block.header.number > number && block.header.flushed > number)
}

fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() != length {
        file.set_len(length)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Gives away the leaf hashes of all entries from a place on, block by block.
pub(super) fn leaves_from(
    found: &Found,
    from: u64,
    mut give: impl FnMut(&[Hash]),
) -> Result<(), OpenError> {
    let holding = found.segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
    for segment in found.segments.iter().skip(holding) {
        let content = segment.read().map_err(|error| OpenError::Disk {
            place: segment.path.display().to_string(),
            error,
        })?;
        for block in segment.blocks(&content) {
            let (_, block) = block?;
            let known = from.saturating_sub(block.header.first);
            let known = usize::try_from(known).unwrap_or(usize::MAX);
            give(block.leaves().get(known..).unwrap_or_default());
        }
    }
    Ok(())
}

/// Takes the log for this process alone; held while the file is.
pub(super) fn lock(directory: &Path) -> Result<File, OpenError> {
    let place = || directory.display().to_string();
    let disk = |error| OpenError::Disk { place: place(), error };
    fs::create_dir_all(directory.join(super::super::records::FOLDER)).map_err(disk)?;
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(directory.join("lock"));
    let file = file.map_err(disk)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse(place())),
        Err(fs::TryLockError::Error(error)) => Err(disk(error)),
    }
}

/// The tree of the records, with what it lacks given to it, and checked against the heads that are known.
pub(super) fn tree(
    directory: &Path,
    found: &Found,
    known: &[(Head, &'static str)],
) -> Result<Tiles, OpenError> {
    for &(known, from) in known {
        if known.size > found.entries {
            return Err(OpenError::CutOff { entries: found.entries, known, from });
        }
    }
    let mut tiles = Tiles::open(directory, found.entries)?;
    let records = found.segments.first().map_or(0, |segment| segment.first);
    if records > tiles.size() {
        return Err(OpenError::HashesMissing { records, hashes: tiles.size() });
    }
    let have = tiles.size();
    leaves_from(found, have, |leaves| tiles.append(leaves))?;
    tiles.flush()?;
    for &(known, from) in known {
        if root(known.size, &tiles.reader())? != known.root {
            return Err(OpenError::OtherTree { known, from });
        }
    }
    Ok(tiles)
}
