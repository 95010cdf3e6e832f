//! Removing old records. Their hashes stay, so that the tree still proves all that is kept, and all that was ever
//! proven.
//!
//! Safe beside a server, which writes the last file only. Readers go by the marker, which is on the disk before the
//! first file goes.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::directory::{LogDirectory, ReadError};
use super::entry::Entry;
use super::reading::{SegmentReader, entries};
use super::records::{Damage, FOLDER, Segment};
use super::tree::{CheckpointError, Head, LogKey, TileError, TileReader, WIDTH, root};
use super::{block::Block, index};
use crate::clock::Timestamp;

/// Why nothing is removed.
#[derive(Debug, Error)]
pub enum PruneError {
    /// The log cannot be read, or is damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It has no signed head.
    #[error(
        "the issuance log has no signed head yet, and what no head covers is not removed; try again in a second"
    )]
    NoHead,
    /// Its head is not signed by its key.
    #[error(transparent)]
    Head(#[from] CheckpointError),
    /// The tree on the disk is not the signed one.
    #[error(
        "the hashes on the disk are not those of the signed head, and without them records are not removed; look with `mintmark log verify`"
    )]
    OtherTree,
    /// A record has no hash on the disk, or another.
    #[error(
        "the hash of entry {0} on the disk is not that of its record, which is not removed; look with `mintmark log verify`"
    )]
    OtherHash(u64),
}

impl From<TileError> for PruneError {
    fn from(error: TileError) -> Self {
        Self::Read(error.into())
    }
}

/// What is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The files, the oldest first; none if nothing is old enough.
    pub segments: Vec<Segment>,
    /// The first entry that stays.
    pub first_kept: u64,
    /// How many entries lose their record.
    pub entries: u64,
    /// How many bytes that frees.
    pub bytes: u64,
    /// Why the next file stays.
    pub stays: String,
}

/// Finds the files that can go, the oldest first: finished, covered by a signed head, written before a time, with no
/// record of anything that has not ended. Compares each record with its hash in the tree.
///
/// # Errors
/// [`PruneError`].
pub fn plan(
    log: &LogDirectory,
    key: &LogKey,
    before: Timestamp,
    now: Timestamp,
) -> Result<Plan, PruneError> {
    let checkpoint = log.checkpoint()?.ok_or(PruneError::NoHead)?;
    let head = key.verify(&checkpoint)?.head();
    let tiles = TileReader::new(log.path(), head.size);
    if root(head.size, &tiles)? != head.root {
        return Err(PruneError::OtherTree);
    }
    let segments = log.segments()?;
    let first_kept = segments.first().map_or(0, |segment| segment.first);
    let stays = "it is the last, which is still written".to_owned();
    let mut plan = Plan { segments: Vec::new(), first_kept, entries: 0, bytes: 0, stays };
    for pair in segments.windows(2) {
        let [segment, follower] = pair else { break };
        if let Some(stays) = why_it_stays(segment, follower, head, before, now)? {
            plan.stays = stays;
            break;
        }
        compare(segment, &tiles)?;
        plan.bytes += fs::metadata(&segment.path).map_err(ReadError::disk(&segment.path))?.len();
        plan.entries += follower.first - segment.first;
        plan.first_kept = follower.first;
        plan.segments.push(segment.clone());
    }
    Ok(plan)
}

/// Why a file may not go, if it may not.
fn why_it_stays(
    segment: &Segment,
    follower: &Segment,
    head: Head,
    before: Timestamp,
    now: Timestamp,
) -> Result<Option<String>, ReadError> {
    if follower.first > head.size {
        return Ok(Some("no signed head covers it yet".to_owned()));
    }
    let mut reader = SegmentReader::open(segment.clone())?;
    while let Some((offset, block)) = reader.next_block()? {
        if block.header.times.1 >= before {
            return Ok(Some(format!("it has records of {}", block.header.times.1)));
        }
        if let Some(not_after) = lives_longest(segment, offset, &block)?.filter(|end| *end >= now) {
            return Ok(Some(format!("it has a record of what ends at {not_after}")));
        }
    }
    if reader.next_index() == follower.first {
        return Ok(None);
    }
    let place = follower.path.clone();
    Err(ReadError::Missing { from: reader.next_index(), until: follower.first, place })
}

/// The latest end of what a block has records of.
fn lives_longest(
    segment: &Segment,
    offset: u64,
    block: &Block<'_>,
) -> Result<Option<Timestamp>, ReadError> {
    let mut latest = None;
    for logged in entries(block, 0) {
        let damage = |fault| Damage { path: segment.path.clone(), offset, fault };
        if let Entry::Issuance(record) = logged.map_err(damage)?.entry {
            latest = latest.max(Some(record.not_after));
        }
    }
    Ok(latest)
}

/// Whether the hash of every record is on the disk.
fn compare(segment: &Segment, tiles: &TileReader) -> Result<(), PruneError> {
    let mut reader = SegmentReader::open(segment.clone())?;
    while let Some((_, block)) = reader.next_block()? {
        for (index, leaf) in (block.header.first..).zip(block.leaves()) {
            let tile = tiles.tile(0, index / WIDTH)?;
            if tile.get((index % WIDTH) as usize) != Some(leaf) {
                return Err(PruneError::OtherHash(index));
            }
        }
    }
    Ok(())
}

/// Removes what a plan names, and what an earlier removal that was cut short has left.
///
/// # Errors
/// [`ReadError`]; what was not removed then is removed the next time.
pub fn prune(log: &LogDirectory, plan: &Plan) -> Result<(), ReadError> {
    if plan.first_kept > log.pruned()? {
        log.set_pruned(plan.first_kept)?;
    }
    let folder: PathBuf = log.path().join(FOLDER);
    for segment in Segment::list(log.path()).map_err(ReadError::disk(&folder))? {
        if segment.first >= plan.first_kept {
            break;
        }
        match fs::remove_file(&segment.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ReadError::disk(&segment.path)(error));
            }
            _ => index::remove(log, segment.first)?,
        }
    }
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(ReadError::disk(&folder))
}

#[cfg(test)]
mod tests {
    use super::super::reading::Cursor;
    use super::super::testing::{DAY, FIRST_DAY, TestLog};
    use super::*;

    fn day(number: i64) -> Timestamp {
        Timestamp::from_unix((FIRST_DAY + number) * DAY)
    }

    fn plan_of(log: &TestLog, before: Timestamp, now: Timestamp) -> Result<Plan, PruneError> {
        plan(&log.directory(), &log.key.log_key(), before, now)
    }

    fn first_entry(log: &TestLog) -> u64 {
        let mut first = None;
        Cursor::new(&log.directory(), 0)
            .each::<ReadError>(|logged| {
                first = Some(logged.index);
                Ok(std::ops::ControlFlow::Break(()))
            })
            .unwrap();
        first.unwrap()
    }

    #[test]
    fn old_files_go_with_their_indexes_and_the_rest_is_read_on() {
        let log = TestLog::with_entries();
        assert_eq!(index::build_missing(&log.directory()).unwrap(), 5);
        let plan = plan_of(&log, day(2), day(100)).unwrap();
        assert_eq!((plan.segments.len(), plan.first_kept, plan.entries), (2, 401, 401));
        assert!(plan.stays.contains("records of"), "{}", plan.stays);
        prune(&log.directory(), &plan).unwrap();
        assert_eq!((log.segments().len(), first_entry(&log)), (4, 401));
        assert_eq!(fs::read_dir(log.path().join("index")).unwrap().count(), 3);
        assert_eq!(plan_of(&log, day(2), day(100)).unwrap().segments, []);
    }

    #[test]
    fn what_is_of_something_alive_stays_and_the_last_file_too() {
        let log = TestLog::with_entries();
        assert_eq!(plan_of(&log, day(100), day(1)).unwrap().segments.len(), 1);
        let alive = Timestamp::from_unix(day(0).unix() + 2_000);
        let plan = plan_of(&log, day(100), alive).unwrap();
        assert!(plan.segments.is_empty() && plan.stays.contains("what ends at"), "{}", plan.stays);
        let plan = plan_of(&log, day(100), day(100)).unwrap();
        assert_eq!((plan.segments.len(), plan.first_kept), (5, 1002));
        assert!(plan.stays.contains("still written"), "{}", plan.stays);
    }

    #[test]
    fn a_log_that_was_pruned_is_continued() {
        let mut log = TestLog::with_entries();
        prune(&log.directory(), &plan_of(&log, day(100), day(100)).unwrap()).unwrap();
        log.run(1001..1100, 200);
        assert_eq!((first_entry(&log), log.head().size), (1002, 1103));
    }

    #[test]
    fn a_removal_that_was_cut_short_is_ended_by_the_next() {
        let log = TestLog::with_entries();
        let plan = plan_of(&log, day(3), day(100)).unwrap();
        log.directory().set_pruned(plan.first_kept).unwrap();
        assert_eq!(first_entry(&log), 601, "readers pass by what is left");
        assert_eq!(Segment::list(&log.path()).unwrap().len(), 6);
        let again = plan_of(&log, day(3), day(100)).unwrap();
        assert_eq!((again.segments.len(), again.first_kept), (0, 601));
        prune(&log.directory(), &again).unwrap();
        assert_eq!(Segment::list(&log.path()).unwrap().len(), 3);
    }

    #[test]
    fn nothing_goes_whose_hashes_are_not_on_the_disk() {
        let log = TestLog::with_entries();
        let tile = log.path().join("tile/0/000");
        let mut content = fs::read(&tile).unwrap();
        content[320] ^= 1;
        fs::write(&tile, content).unwrap();
        let refused = plan_of(&log, day(2), day(100)).unwrap_err();
        assert!(matches!(refused, PruneError::OtherHash(10)), "{refused}");
        fs::remove_file(&tile).unwrap();
        let refused = plan_of(&log, day(2), day(100)).unwrap_err();
        assert!(refused.to_string().contains("tile/0/000"), "{refused}");
    }

    #[test]
    fn nothing_goes_that_no_head_covers() {
        let log = TestLog::with_entries();
        let tiles = TileReader::new(log.path(), 601);
        log.sign(Head { size: 601, root: root(601, &tiles).unwrap() });
        let plan = plan_of(&log, day(100), day(100)).unwrap();
        assert_eq!(plan.segments.len(), 3);
        assert!(plan.stays.contains("no signed head"), "{}", plan.stays);
        fs::remove_file(log.path().join("checkpoint")).unwrap();
        assert!(matches!(plan_of(&log, day(2), day(100)), Err(PruneError::NoHead)));
    }
}
