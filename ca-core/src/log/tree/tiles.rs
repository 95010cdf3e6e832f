//! The tiles of a growing log: hashes are added, and flushed to disk (C2SP tlog-tiles, "Merkle Tree").
//!
//! `tile/size`, which is no part of the standard, says how many leaves are surely on disk. It is written
//! last: whatever a crash has left beyond it is written again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::merkle::{Frontier, Hash, Head};
use super::name::{HEIGHT, LEVELS, TileName, WIDTH};
use super::reader::{TileError, TileReader, complete};

/// The writer of a log's tiles. There is one for a log at a time; its owner sees to that.
#[derive(Debug)]
pub struct Tiles {
    directory: PathBuf,
    size: u64,
    flushed: u64,
    /// The last tile of each level, as far as it goes: less than 256 hashes.
    edge: [Vec<Hash>; LEVELS as usize],
    /// The tiles that became full since the last flush.
    full: Vec<(TileName, Vec<Hash>)>,
}

impl Tiles {
    /// Opens the tiles of the log in `directory`, which are made if there are none. Leaves after the first
    /// `at_most` are forgotten: their records have not survived.
    ///
    /// The caller checks that what it has published is still there: [`size`](Self::size) is at least that
    /// of the stored checkpoint, and the root of that size is the checkpoint's.
    ///
    /// # Errors
    /// [`TileError`].
    pub fn open(directory: impl Into<PathBuf>, at_most: u64) -> Result<Self, TileError> {
        let directory = directory.into();
        let flushed = read_size(&directory)?;
        let size = flushed.min(at_most);
        let edge = read_edge(&TileReader::new(&directory, flushed), size)?;
        let mut tiles = Self { directory, size, flushed, edge, full: Vec::new() };
        if size < flushed {
            // At once: other leaves may come in their place, and no crash may bring the old ones back.
            tiles.write(0)?;
        }
        Ok(tiles)
    }

    /// Adds the hashes of the next leaves. They are kept in memory until the next [`flush`](Self::flush).
    pub fn append(&mut self, leaves: &[Hash]) {
        for &leaf in leaves {
            self.add(leaf);
        }
    }

    fn add(&mut self, leaf: Hash) {
        let size = self.size.checked_add(1).expect("no log comes to 2^64 leaves");
        let mut hash = leaf;
        for (level, edge) in (0..).zip(&mut self.edge) {
            edge.push(hash);
            if edge.len() < WIDTH as usize {
                break;
            }
            let index = self.size.checked_shr((level + 1) * HEIGHT).unwrap_or(0);
            let name = TileName::of(level, index, size).expect("a tile of the tree that it fills");
            let tile = std::mem::replace(edge, Vec::with_capacity(WIDTH as usize));
            hash = complete(&tile);
            self.full.push((name, tile));
        }
        self.size = size;
    }

    /// Writes what was added since the last flush. When it returns, a checkpoint of this size may be
    /// published: its tiles survive a crash.
    ///
    /// # Errors
    /// [`TileError`]. Nothing is lost then: the next flush writes the same again, and more.
    pub fn flush(&mut self) -> Result<(), TileError> {
        if self.size == self.flushed { Ok(()) } else { self.write(self.flushed) }
    }

    /// Writes the tiles that a tree of `known` leaves has not.
    fn write(&mut self, known: u64) -> Result<(), TileError> {
        let mut folder = Folder { directory: &self.directory, made: PathBuf::new() };
        for (name, hashes) in &self.full {
            folder.write(*name, hashes)?;
        }
        for (level, hashes) in (0..).zip(&self.edge) {
            let index = self.size.checked_shr((level + 1) * HEIGHT).unwrap_or(0);
            match TileName::of(level, index, self.size) {
                Some(name) if TileName::of(level, index, known) != Some(name) => {
                    folder.write(name, hashes)?;
                }
                _ => {}
            }
        }
        folder.finish(self.size)?;
        self.flushed = self.size;
        for (name, _) in self.full.drain(..) {
            // C2SP tlog-tiles, "Partial Tiles": they serve published checkpoints until the full tile is
            // there. One that cannot be removed costs its room, and nothing else.
            if name.is_partial_in(known) {
                let _ = fs::remove_dir_all(self.directory.join(name.partials()));
            }
        }
        Ok(())
    }

    /// How many leaves the tree has, with those that are not flushed.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many leaves are on disk.
    #[must_use]
    pub fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Size and root of the tree, with the leaves that are not flushed.
    #[must_use]
    pub fn head(&self) -> Head {
        self.frontier().head()
    }

    /// The right edge of the tree, with the leaves that are not flushed.
    #[must_use]
    pub fn frontier(&self) -> Frontier {
        let mut subtrees = Vec::new();
        for edge in self.edge.iter().rev() {
            let mut rest = &edge[..];
            while !rest.is_empty() {
                let (tree, after) = rest.split_at(1 << rest.len().ilog2());
                subtrees.push(complete(tree));
                rest = after;
            }
        }
        Frontier::of(self.size, subtrees)
    }

    /// Reads the tree that is on disk.
    #[must_use]
    pub fn reader(&self) -> TileReader {
        TileReader::new(&self.directory, self.flushed)
    }
}

/// The last tile of each level of the tree of `size` leaves, from the tiles of a tree that begins with it.
fn read_edge(tiles: &TileReader, size: u64) -> Result<[Vec<Hash>; LEVELS as usize], TileError> {
    let mut edge = std::array::from_fn(|_| Vec::with_capacity(WIDTH as usize));
    for (level, hashes) in (0..).zip(&mut edge) {
        let count = size >> (level * HEIGHT);
        let width = (count % WIDTH) as usize;
        if width > 0 {
            hashes.extend_from_slice(&tiles.tile(level, count / WIDTH)?[..width]);
        }
    }
    Ok(edge)
}

/// How many leaves the tiles of the log in `directory` are surely of; 0 if there are none.
///
/// # Errors
/// [`TileError`].
pub fn flushed_size(directory: &Path) -> Result<u64, TileError> {
    read_size(directory)
}

/// Where how many leaves are on disk is written, in decimal.
const SIZE: &str = "tile/size";

fn read_size(directory: &Path) -> Result<u64, TileError> {
    let path = directory.join(SIZE);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(32).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(TileError::disk(&path, "read")(error)),
    }
    let number = text.strip_suffix('\n').and_then(|digits| digits.parse().ok());
    number.filter(|size| text == format!("{size}\n")).ok_or_else(|| {
        let reason = format!("{} is no number of leaves", crate::excerpt::Excerpt::of(&text));
        TileError::Damaged { path, reason }
    })
}

/// The directory of a log while a flush writes to it.
struct Folder<'a> {
    directory: &'a Path,
    /// The directory that was last seen to exist.
    made: PathBuf,
}

impl Folder<'_> {
    /// Writes a tile. Nobody reads it before the size says that it is there, and it is not durable yet.
    fn write(&mut self, name: TileName, hashes: &[Hash]) -> Result<(), TileError> {
        let path = self.directory.join(name.to_string());
        let parent = path.parent().expect("below the directory");
        if parent != self.made {
            fs::create_dir_all(parent).map_err(TileError::disk(parent, "made"))?;
            self.made = parent.to_owned();
        }
        let mut bytes = Vec::with_capacity(hashes.len() * Hash::LENGTH);
        hashes.iter().for_each(|hash| bytes.extend_from_slice(hash.as_bytes()));
        fs::write(&path, bytes).map_err(TileError::disk(&path, "written"))
    }

    /// Makes all that was written durable, and then says so.
    fn finish(self, size: u64) -> Result<(), TileError> {
        let path = self.directory.join(SIZE);
        let tile = path.parent().expect("in tile");
        let unfinished = path.with_extension("new");
        let finish = || {
            fs::create_dir_all(tile)?;
            let mut file = File::create(&unfinished)?;
            writeln!(file, "{size}")?;
            // A second of a busy log is some hundred files: flushing the file system once is four times as
            // fast as each file and its directory by itself.
            rustix::fs::syncfs(&file)?;
            fs::rename(&unfinished, &path)?;
            File::open(tile)?.sync_all()
        };
        finish().map_err(TileError::disk(&path, "written"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::merkle::tests::{Leaves, leaves, mth};
    use super::super::merkle::{consistency_proof, inclusion_proof, root};
    use super::*;

    fn flushed(directory: &Path, leaves: &[Hash]) -> Tiles {
        let mut tiles = Tiles::open(directory, u64::MAX).unwrap();
        tiles.append(&leaves[tiles.size() as usize..]);
        tiles.flush().unwrap();
        tiles
    }

    fn files(directory: &Path) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let mut folders = vec![directory.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let name = entry.path().strip_prefix(directory).unwrap().to_owned();
                    let length = entry.metadata().unwrap().len();
                    found.insert(name.to_str().unwrap().to_owned(), length);
                }
            }
        }
        found
    }

    #[test]
    fn a_log_of_70000_has_the_tiles_that_tlog_tiles_lists() {
        let directory = tempfile::tempdir().unwrap();
        let all = leaves(70_000);
        let tiles = flushed(directory.path(), &all);
        let files = files(directory.path());
        assert_eq!(files.len(), 273 + 4 + 1, "and tile/size");
        assert_eq!(files["tile/0/272"], 8192);
        assert_eq!(files["tile/0/273.p/112"], 112 * 32);
        assert_eq!(files["tile/1/000"], 8192);
        assert_eq!(files["tile/1/001.p/17"], 17 * 32);
        assert_eq!(files["tile/2/000.p/1"], 32);
        let root = root(70_000, &tiles.reader()).unwrap();
        assert_eq!((root, tiles.head().root), (mth(&all), mth(&all)));
    }

    #[test]
    fn partial_tiles_of_earlier_sizes_stay_until_the_full_tile_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let all = leaves(300);
        flushed(directory.path(), &all[..100]);
        flushed(directory.path(), &all[..200]);
        let reader = TileReader::new(directory.path(), 100);
        assert_eq!(root(100, &reader).unwrap(), mth(&all[..100]));
        assert!(files(directory.path()).contains_key("tile/0/000.p/100"));
        flushed(directory.path(), &all);
        assert_eq!(
            files(directory.path()).into_keys().collect::<Vec<_>>(),
            ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/size"]
        );
        let reader = TileReader::new(directory.path(), 200);
        assert_eq!(root(200, &reader).unwrap(), mth(&all[..200]), "from the full tile");
    }

    #[test]
    fn what_a_crash_left_beyond_the_size_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let all = leaves(600);
        flushed(directory.path(), &all[..300]);
        for (name, torn) in [
            ("tile/0/001", &b"torn"[..]),
            ("tile/0/002.p/88", b""),
            ("tile/1/000.p/2", &[7; 64]),
            ("tile/size.new", b"600"),
        ] {
            fs::create_dir_all(directory.path().join(name).parent().unwrap()).unwrap();
            fs::write(directory.path().join(name), torn).unwrap();
        }
        let tiles = Tiles::open(directory.path(), u64::MAX).unwrap();
        assert_eq!(tiles.head(), Head { size: 300, root: mth(&all[..300]) });
        assert_eq!(root(300, &tiles.reader()).unwrap(), mth(&all[..300]));
        let tiles = flushed(directory.path(), &all);
        assert_eq!(root(600, &tiles.reader()).unwrap(), mth(&all));
        assert!(!files(directory.path()).keys().any(|name| name.ends_with(".new")));
    }

    #[test]
    fn leaves_whose_records_are_lost_are_forgotten_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let all = leaves(70_000);
        for keep in [69_000, 65_536, 600, 256, 1, 0] {
            flushed(directory.path(), &all);
            let tiles = Tiles::open(directory.path(), keep).unwrap();
            assert_eq!((tiles.size(), tiles.flushed()), (keep, keep));
            let mut tiles = Tiles::open(directory.path(), u64::MAX).unwrap();
            assert_eq!(tiles.head(), Head { size: keep, root: mth(&all[..keep as usize]) });
            assert_eq!(root(keep, &tiles.reader()).unwrap(), tiles.head().root);
            let others = [&all[..keep as usize], &[Hash::EMPTY; 700]].concat();
            tiles.append(&others[keep as usize..]);
            tiles.flush().unwrap();
            assert_eq!(root(keep + 700, &tiles.reader()).unwrap(), mth(&others));
            drop(Tiles::open(directory.path(), keep).unwrap());
        }
    }

    #[test]
    fn a_flush_that_failed_is_made_good_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let all = leaves(600);
        let mut tiles = Tiles::open(directory.path(), u64::MAX).unwrap();
        tiles.append(&all[..400]);
        fs::write(directory.path().join("tile"), b"in the way").unwrap();
        assert!(matches!(tiles.flush(), Err(TileError::Disk { .. })));
        assert_eq!(tiles.flushed(), 0);
        fs::remove_file(directory.path().join("tile")).unwrap();
        tiles.append(&all[400..]);
        tiles.flush().unwrap();
        assert_eq!(root(600, &tiles.reader()).unwrap(), mth(&all));
    }

    #[test]
    fn a_damaged_tile_or_size_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let tiles = flushed(directory.path(), &leaves(300));
        fs::write(directory.path().join("tile/0/001.p/44"), [0; 33]).unwrap();
        let damaged = root(300, &tiles.reader()).unwrap_err();
        assert!(damaged.to_string().contains("tile/0/001.p/44"), "{damaged}");
        fs::remove_file(directory.path().join("tile/0/001.p/44")).unwrap();
        let absent = root(300, &tiles.reader()).unwrap_err();
        assert!(absent.to_string().contains("tile/0/001.p/44"), "{absent}");
        for text in ["", "+3\n", "03\n", "3", "3\n\n", "99999999999999999999\n"] {
            fs::write(directory.path().join(SIZE), text).unwrap();
            let damaged = Tiles::open(directory.path(), u64::MAX).unwrap_err();
            assert!(damaged.to_string().contains("tile/size"), "{damaged}");
        }
    }

    #[test]
    fn a_hash_beyond_the_tree_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let tiles = flushed(directory.path(), &leaves(300));
        for (level, index) in [(0, 300), (8, 1), (7, 2), (63, 1), (64, 0), (u32::MAX, u64::MAX)] {
            use super::super::Hashes;
            let refused = tiles.reader().hash(level, index);
            assert!(matches!(refused, Err(TileError::Beyond { .. })), "{level} {index}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn tiles_flushed_at_any_sizes_prove_what_the_leaves_prove(
            steps in prop::collection::vec(0_u64..400, 1..8), reopen in any::<bool>(),
            index in any::<prop::sample::Index>(), old in any::<prop::sample::Index>(),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let size = steps.iter().sum::<u64>() + 1;
            let all = leaves(size);
            let mut tiles = Tiles::open(directory.path(), u64::MAX).unwrap();
            let mut sizes = vec![0];
            for step in steps.into_iter().chain([1]) {
                let at = tiles.size() as usize;
                tiles.append(&all[at..at + step as usize]);
                prop_assert_eq!(tiles.head().root, mth(&all[..at + step as usize]));
                tiles.flush().unwrap();
                sizes.push(tiles.size());
                if reopen {
                    tiles = Tiles::open(directory.path(), u64::MAX).unwrap();
                }
            }
            let hashes = Leaves(all.clone());
            for &size in &sizes {
                let reader = TileReader::new(directory.path(), size);
                prop_assert_eq!(root(size, &reader).unwrap(), mth(&all[..size as usize]));
            }
            let (index, old) = (index.index(all.len()) as u64, old.index(all.len()) as u64);
            let reader = tiles.reader();
            prop_assert_eq!(
                inclusion_proof(index, size, &reader).unwrap(),
                inclusion_proof(index, size, &hashes).unwrap()
            );
            prop_assert_eq!(
                consistency_proof(old, size, &reader).unwrap(),
                consistency_proof(old, size, &hashes).unwrap()
            );
        }
    }
}
