//! Hash tiles, read from a log's directory (C2SP tlog-tiles, "Merkle Tree").

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::merkle::{Hash, Hashes};
use super::name::{HEIGHT, TileName};

/// Why tiles cannot be read or written.
#[derive(Debug, Error)]
pub enum TileError {
    /// The disk refuses.
    #[error("{} cannot be {doing}: {source}; check the disk and the owner of the log's directory", path.display())]
    Disk {
        /// Which file or directory.
        path: PathBuf,
        /// What was tried: `read`, `written`.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what a log has there.
    #[error("{} is damaged: {reason}; restore it from a copy, or remove the tiles and let the records make them again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tree has no such hash.
    #[error("a tree of {size} leaves has no hash {index} of level {level}; ask for a larger tree")]
    Beyond {
        /// The level of the hash.
        level: u32,
        /// Its number in that level.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
}

impl TileError {
    pub(super) fn disk(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { path, doing, source }
    }

    fn is_absence(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The tiles of the tree of one checkpoint. Reads alone: the log may grow meanwhile.
///
/// It checks no hash: whoever has a checkpoint compares its root with [`root`](super::root) of these.
#[derive(Debug)]
pub struct TileReader {
    directory: PathBuf,
    size: u64,
    /// The tiles read last, the latest at the end.
    cache: Mutex<Vec<(TileName, Arc<[Hash]>)>>,
}

/// So many tiles are remembered, of at most 8 KiB each: more than the two edges of a proof have.
const REMEMBERED: usize = 32;

impl TileReader {
    /// Reads the tree of `size` leaves, as a checkpoint says, from the log in `directory`.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, size: u64) -> Self {
        Self { directory: directory.into(), size, cache: Mutex::default() }
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the tile `index` of that level of tiles, as this tree has it.
    ///
    /// # Errors
    /// [`TileError`].
    pub fn tile(&self, level: u32, index: u64) -> Result<Arc<[Hash]>, TileError> {
        let beyond =
            TileError::Beyond { level: level.saturating_mul(HEIGHT), index, size: self.size };
        let name = TileName::of(level, index, self.size).ok_or(beyond)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match cache.iter().position(|(known, _)| *known == name) {
            Some(at) => cache.remove(at).1,
            None => read(&self.directory, name)?.into(),
        };
        if cache.len() == REMEMBERED {
            cache.remove(0);
        }
        cache.push((name, Arc::clone(&known)));
        Ok(known)
    }
}

impl Hashes for TileReader {
    type Error = TileError;

    fn hash(&self, level: u32, index: u64) -> Result<Hash, TileError> {
        let within = level % HEIGHT;
        let tile = self.tile(level / HEIGHT, index >> (HEIGHT - within))?;
        let first = (index << within) as usize % (1 << HEIGHT);
        let leaves = tile.get(first..first + (1 << within));
        leaves.map(complete).ok_or(TileError::Beyond { level, index, size: self.size })
    }
}

/// The root over hashes whose number is a power of two.
pub(in crate::log) fn complete(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Hash::EMPTY,
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            Hash::node(complete(left), complete(right))
        }
    }
}

/// Reads a tile. A partial one may have been removed since the full one is there (C2SP tlog-tiles, "Partial
/// Tiles").
fn read(directory: &Path, name: TileName) -> Result<Vec<Hash>, TileError> {
    let path = directory.join(name.to_string());
    let full = directory.join(name.filled().to_string());
    let mut hashes = match read_file(&path, name.width()) {
        Err(error) if error.is_absence() && full.exists() => {
            read_file(&full, name.filled().width())?
        }
        other => other?,
    };
    hashes.truncate(name.width());
    Ok(hashes)
}

fn read_file(path: &Path, width: usize) -> Result<Vec<Hash>, TileError> {
    let length = width * Hash::LENGTH;
    let mut bytes = Vec::with_capacity(length + 1);
    File::open(path)
        .and_then(|file| file.take(length as u64 + 1).read_to_end(&mut bytes))
        .map_err(TileError::disk(path, "read"))?;
    let (hashes, rest) = bytes.as_chunks();
    if hashes.len() != width || !rest.is_empty() {
        let reason = format!("it has not the {length} bytes of {width} hashes");
        return Err(TileError::Damaged { path: path.to_owned(), reason });
    }
    Ok(hashes.iter().copied().map(Hash::from_bytes).collect())
}
