//! A copy of a log for others' tools: the tree of its newest head, as C2SP tlog-tiles lays it out.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use super::directory::{CHECKPOINT, LogDirectory, ReadError};
use super::reading::{Cursor, Logged};
use super::tree::{BundleName, Checkpoint, Hash, TileName, TileReader, WIDTH, root, write_entry};

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// How many entries its tree has.
    pub size: u64,
    /// Files of hashes.
    pub tiles: u64,
    /// Files of entries.
    pub bundles: u64,
    /// The first entry that is in one: those before it have no records any more, or only some of their bundle.
    pub first_entry: u64,
}

/// Copies hashes, entries and, at last, the head, which is taken as it is: `checkpoint`, `tile/…`,
/// `tile/entries/…` (C2SP tlog-tiles).
///
/// # Errors
/// [`ReadError`], also if hashes or entries are not those of the head.
pub fn copy_tiles(
    log: &LogDirectory,
    checkpoint: &Checkpoint,
    to: &Path,
) -> Result<Copied, ReadError> {
    let head = checkpoint.unverified().head;
    let tiles = TileReader::new(log.path(), head.size);
    if root(head.size, &tiles)? != head.root {
        let reason = "the hashes on the disk are not those of the signed head";
        return Err(ReadError::file(&log.path().join("tile"), reason));
    }
    let copied = copy_hashes(&tiles, to)?;
    let (bundles, first_entry) = copy_entries(log, &tiles, to)?;
    write(&to.join(CHECKPOINT), checkpoint.to_string().as_bytes())?;
    Ok(Copied { size: head.size, tiles: copied, bundles, first_entry })
}

fn copy_hashes(tiles: &TileReader, to: &Path) -> Result<u64, ReadError> {
    let (mut copied, size) = (0, tiles.size());
    let levels = (0..).take_while(|level| TileName::of(*level, 0, size).is_some());
    for level in levels {
        for index in 0.. {
            let Some(name) = TileName::of(level, index, size) else { break };
            let hashes = tiles.tile(level, index)?;
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
            write(&to.join(name.to_string()), &bytes)?;
            copied += 1;
        }
    }
    Ok(copied)
}

/// Gives how many bundles there are, and their first entry.
fn copy_entries(
    log: &LogDirectory,
    tiles: &TileReader,
    to: &Path,
) -> Result<(u64, u64), ReadError> {
    let size = tiles.size();
    let first = log.pruned()?.next_multiple_of(WIDTH).min(size);
    let (mut bundle, mut bundles) = (Vec::new(), 0);
    Cursor::new(log, first).each::<ReadError>(|logged| {
        if logged.index >= size {
            return Ok(ControlFlow::Break(()));
        }
        check_hash(log, tiles, &logged)?;
        let place = log.path().join("records");
        write_entry(&mut bundle, &logged.bytes).map_err(|error| ReadError::file(&place, error))?;
        let next = logged.index + 1;
        if next % WIDTH == 0 || next == size {
            let name = BundleName::of(logged.index / WIDTH, size);
            let name = name.expect("the bundle of an entry of the tree");
            write(&to.join(name.to_string()), &bundle)?;
            bundle.clear();
            bundles += 1;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((bundles, first))
}

fn check_hash(log: &LogDirectory, tiles: &TileReader, logged: &Logged) -> Result<(), ReadError> {
    let tile = tiles.tile(0, logged.index / WIDTH)?;
    if tile.get((logged.index % WIDTH) as usize) == Some(&Hash::leaf(&logged.bytes)) {
        return Ok(());
    }
    let reason = format!("entry {} has another hash in the tree", logged.index);
    Err(ReadError::file(&log.path().join("records"), reason))
}

fn write(path: &Path, content: &[u8]) -> Result<(), ReadError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, content))
        .map_err(ReadError::disk(path))
}

#[cfg(test)]
mod tests {
    use super::super::prune;
    use super::super::testing::{TestLog, record};
    use super::super::tree::read_entries;
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn a_copy_has_every_hash_and_entry_of_the_head() {
        let log = TestLog::with_entries();
        let to = log.path().join("copy");
        let copied = copy_tiles(&log.directory(), &log.checkpoint(), &to).unwrap();
        assert_eq!(copied, Copied { size: 1003, tiles: 5, bundles: 4, first_entry: 0 });
        let tiles = TileReader::new(&to, 1003);
        assert_eq!(root(1003, &tiles).unwrap(), log.head().root);
        for index in 0..4 {
            let name = BundleName::of(index, 1003).unwrap();
            let bundle = fs::read(to.join(name.to_string())).unwrap();
            let entries = read_entries(&bundle).unwrap();
            let leaves = entries.into_iter().map(Hash::leaf);
            assert!(leaves.eq(tiles.tile(0, index).unwrap().iter().copied()));
        }
    }

    #[test]
    fn a_copy_of_a_pruned_log_begins_with_the_first_whole_bundle() {
        let log = TestLog::with_entries();
        let (key, now) = (log.key.log_key(), Timestamp::MAX);
        let plan = prune::plan(&log.directory(), &key, record(400, 200).time, now).unwrap();
        prune::prune(&log.directory(), &plan).unwrap();
        let to = log.path().join("copy");
        let copied = copy_tiles(&log.directory(), &log.checkpoint(), &to).unwrap();
        assert_eq!(copied, Copied { size: 1003, tiles: 5, bundles: 2, first_entry: 512 });
    }

    #[test]
    fn entries_that_are_not_those_of_the_head_are_not_copied() {
        let log = TestLog::with_entries();
        let tile = log.path().join("tile/0/000");
        let mut content = fs::read(&tile).unwrap();
        content[320] ^= 1;
        fs::write(&tile, content).unwrap();
        let to = log.path().join("copy");
        let refused = copy_tiles(&log.directory(), &log.checkpoint(), &to).unwrap_err();
        assert!(refused.to_string().contains("entry 10 has another hash"), "{refused}");
        assert!(!to.join(CHECKPOINT).exists());
    }
}
