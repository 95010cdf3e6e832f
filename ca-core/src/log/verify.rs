//! Verifying a log whole: every block, entry and hash, against every head that is known.
//!
//! First the tree: each tile is made again from those below it, and its root compared with the heads. Then the
//! records: each block is read, and each entry's hash compared with the tree's. One segment and a few tiles are in
//! memory at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::WriterId;
use super::block::{Block, BlockError, Seal};
use super::directory::{CHECKPOINT, LogDirectory, ReadError};
use super::entry::{Entry, Opening};
use super::reading::SegmentReader;
use super::records::{Damage, FOLDER, Fault, Segment};
use super::tree::{
    Checkpoint, Hash, Head, LogKey, TileName, TileReader, WIDTH, complete, flushed_size, root,
};

/// A head that is kept elsewhere than in the log's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHead {
    /// The head, as it was signed.
    pub checkpoint: Checkpoint,
    /// Where it is kept, for people.
    pub from: String,
}

/// What was found. The log is as it was signed if there are no findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many entries the verified tree has: as many as the largest signed head.
    pub size: u64,
    /// The heads whose root is that of our entries, and where they are kept.
    pub agreeing: Vec<(Head, String)>,
    /// The place of the first entry whose record is kept.
    pub pruned: u64,
    /// The place after the last entry whose record is there.
    pub end: u64,
    /// How many runs of signers begin in what is kept.
    pub runs: u64,
    /// A block at the end that is being written, or was torn by a crash: nobody was answered for it.
    pub unfinished: Option<Damage>,
    /// What is wrong.
    pub findings: Findings,
}

/// What is wrong: the first findings, and how many there are beyond them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first.
    pub listed: Vec<Finding>,
    /// So many more.
    pub more: u64,
}

impl Findings {
    /// So many are listed.
    pub const MOST_LISTED: usize = 20;

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.listed.len() as u64 + self.more
    }

    fn add(&mut self, place: Place, what: impl ToString) {
        if self.listed.len() < Self::MOST_LISTED {
            self.listed.push(Finding { place, what: what.to_string() });
        } else {
            self.more += 1;
        }
    }
}

/// One thing that is not as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}: {what}")]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What is wrong there.
    pub what: String,
}

/// Where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Place {
    /// A file as a whole.
    #[error("{}", .0.display())]
    File(PathBuf),
    /// A block.
    #[error("{}, byte {offset}, before entry {next}", path.display())]
    Block {
        /// The file.
        path: PathBuf,
        /// Where it begins, or should.
        offset: u64,
        /// The entry that should come there.
        next: u64,
    },
    /// An entry.
    #[error("entry {index} ({}, block at byte {offset})", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Where its block begins.
        offset: u64,
        /// The place of the entry in the tree.
        index: u64,
    },
    /// A tile.
    #[error("{}", .0.display())]
    Tile(PathBuf),
    /// A signed head, and where it is kept.
    #[error("signed head {0}")]
    Head(String),
}

/// How far a verification is: what is looked at, so many entries of it, of so many.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// Verifies a log, with its key and the heads that are kept elsewhere. A server may write to it meanwhile.
///
/// # Errors
/// [`ReadError`] if a folder or the newest head cannot be read; anything else is a finding.
pub fn verify(
    log: &LogDirectory,
    key: &LogKey,
    known: &[KnownHead],
    progress: Progress<'_>,
) -> Result<Report, ReadError> {
    let mut findings = Findings::default();
    let heads = believed(log, key, known, &mut findings)?;
    let (size, heads) = within_reach(log, heads, &mut findings);
    let tiles = TileReader::new(log.path(), size);
    let mut tree = TreeCheck { tiles: &tiles, directory: log.path(), findings, levels: Vec::new() };
    let agreeing = tree.check(heads, progress);
    let findings = tree.findings;

    let pruned = log.pruned()?;
    let mut records = RecordCheck {
        tiles: &tiles,
        findings,
        next: pruned,
        run: None,
        writer: None,
        runs: 0,
        tile: None,
        unfinished: None,
    };
    records.check(log, progress)?;
    let RecordCheck { next: end, runs, unfinished, findings, .. } = records;
    Ok(Report { size, agreeing, pruned, end, runs, unfinished, findings })
}

/// The heads that the key has signed: the one beside the tiles, and those kept elsewhere.
fn believed(
    log: &LogDirectory,
    key: &LogKey,
    known: &[KnownHead],
    findings: &mut Findings,
) -> Result<Vec<(Head, String)>, ReadError> {
    let path = log.path().join(CHECKPOINT);
    let mut heads = Vec::new();
    match log.checkpoint() {
        Ok(Some(checkpoint)) => {
            let from = path.display().to_string();
            heads.push(KnownHead { checkpoint, from });
        }
        Ok(None) => findings.add(Place::File(path), "there is no signed head"),
        Err(ReadError::File { path, reason }) => findings.add(Place::File(path), reason),
        Err(error) => return Err(error),
    }
    heads.extend_from_slice(known);
    let mut believed = Vec::new();
    for KnownHead { checkpoint, from } in heads {
        match key.verify(&checkpoint) {
            Ok(verified) => believed.push((verified.head(), from)),
            Err(error) => findings.add(Place::Head(from), error),
        }
    }
    Ok(believed)
}

/// How many leaves are to be verified, and the heads that are not beyond what the log has.
fn within_reach(
    log: &LogDirectory,
    mut heads: Vec<(Head, String)>,
    findings: &mut Findings,
) -> (u64, Vec<(Head, String)>) {
    let stored = match flushed_size(log.path()) {
        Ok(stored) => stored,
        Err(error) => {
            findings.add(Place::File(log.path().join("tile")), error);
            heads.iter().map(|(head, _)| head.size).max().unwrap_or(0)
        }
    };
    heads.retain(|(head, from)| {
        let is_there = head.size <= stored;
        if !is_there {
            let what = format!(
                "it is over {} entries, and the log has the hashes of {stored}: its end is missing, or it is an \
                 older copy",
                head.size
            );
            findings.add(Place::Head(from.clone()), what);
        }
        is_there
    });
    (heads.iter().map(|(head, _)| head.size).max().unwrap_or(stored), heads)
}

/// Makes every tile again from those below.
struct TreeCheck<'a> {
    tiles: &'a TileReader,
    directory: &'a Path,
    findings: Findings,
    /// From level 1 of tiles on. `None` stands for a hash that is not known.
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    /// The last tile, as far as it goes.
    edge: Vec<Option<Hash>>,
    /// How many tiles came before it.
    full: u64,
}

impl TreeCheck<'_> {
    /// Gives the heads that agree.
    fn check(
        &mut self,
        mut heads: Vec<(Head, String)>,
        progress: Progress<'_>,
    ) -> Vec<(Head, String)> {
        heads.sort_by_key(|(head, _)| head.size);
        let mut heads = heads.into_iter().peekable();
        let (mut agreeing, size) = (Vec::new(), self.tiles.size());
        for index in 0..=size / WIDTH {
            let start = index * WIDTH;
            let leaves = if start < size { self.leaves(index) } else { Some([].into()) };
            while let Some((head, from)) = heads.next_if(|(head, _)| head.size < start + WIDTH) {
                let width = usize::try_from(head.size - start).unwrap_or(usize::MAX);
                let known = leaves.as_deref().and_then(|leaves| leaves.get(..width));
                match self.root(known) {
                    Some(root) if root == head.root => agreeing.push((head, from)),
                    Some(root) => self.findings.add(Place::Head(from), other_root(head, root)),
                    // What is missing of the tree has been told.
                    None => {}
                }
            }
            if size - start >= WIDTH {
                self.push(0, leaves.as_deref().map(complete));
            }
            progress("hashes", size.min(start + WIDTH), size);
        }
        for level in 0..self.levels.len() {
            let Level { edge, full } = std::mem::take(&mut self.levels[level]);
            self.compare(level, full, &edge);
        }
        agreeing
    }

    fn leaves(&mut self, index: u64) -> Option<Arc<[Hash]>> {
        self.tile(0, index)
    }

    fn tile(&mut self, level: u32, index: u64) -> Option<Arc<[Hash]>> {
        let tile = self.tiles.tile(level, index);
        tile.map_err(|error| self.findings.add(self.place(level, index), error)).ok()
    }

    fn place(&self, level: u32, index: u64) -> Place {
        tile_place(self.directory, level, index, self.tiles.size())
    }

    /// Adds the hash of a full tile to the level above it.
    fn push(&mut self, level: usize, hash: Option<Hash>) {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        let above = &mut self.levels[level];
        above.edge.push(hash);
        if above.edge.len() as u64 == WIDTH {
            let (edge, index) = (std::mem::take(&mut above.edge), above.full);
            above.full += 1;
            self.compare(level, index, &edge);
            let known: Option<Vec<Hash>> = edge.into_iter().collect();
            self.push(level + 1, known.as_deref().map(complete));
        }
    }

    /// Compares a tile with what it should be; `level` 0 is the one above the leaves' tiles.
    fn compare(&mut self, level: usize, index: u64, wanted: &[Option<Hash>]) {
        let level = level as u32 + 1;
        if wanted.is_empty() {
            return;
        }
        let Some(found) = self.tile(level, index) else { return };
        let differs = |(wanted, found): (&Option<Hash>, &Hash)| wanted.is_some_and(|w| w != *found);
        if let Some(at) = wanted.iter().zip(&*found).position(differs) {
            let below = index * WIDTH + at as u64;
            let what = format!("its hash {at} is not that of tile {below} of level {}", level - 1);
            let place = self.place(level, index);
            self.findings.add(place, what);
        }
    }

    /// The root of the tree so far, with some leaves more; `None` if a hash is not known.
    fn root(&self, leaves: Option<&[Hash]>) -> Option<Hash> {
        let mut root = None;
        let mut add = |mut hashes: &[Hash]| {
            while !hashes.is_empty() {
                let width = 1 << hashes.len().trailing_zeros();
                let (before, tree) = hashes.split_at(hashes.len() - width);
                let left = complete(tree);
                root = Some(root.map_or(left, |right| Hash::node(left, right)));
                hashes = before;
            }
        };
        add(leaves?);
        for level in &self.levels {
            let edge: Option<Vec<Hash>> = level.edge.iter().copied().collect();
            add(&edge?);
        }
        Some(root.unwrap_or(Hash::EMPTY))
    }
}

fn tile_place(directory: &Path, level: u32, index: u64, size: u64) -> Place {
    let name = TileName::of(level, index, size);
    Place::Tile(name.map_or(directory.join("tile"), |name| directory.join(name.to_string())))
}

fn other_root(head: Head, found: Hash) -> String {
    format!("its {} entries have the root {}, and ours have {found}", head.size, head.root)
}

/// Reads every record, and compares it with the tree.
struct RecordCheck<'a> {
    tiles: &'a TileReader,
    findings: Findings,
    /// The place of the entry that comes next.
    next: u64,
    /// The run of the block before, if that is known.
    run: Option<Run>,
    /// The writer of the last run.
    writer: Option<WriterId>,
    runs: u64,
    /// The tile of leaves that was read last.
    tile: Option<(u64, Option<Arc<[Hash]>>)>,
    unfinished: Option<Damage>,
}

/// Where a run has come to.
#[derive(Clone, Copy)]
struct Run {
    writer: WriterId,
    number: u64,
    seal: Seal,
}

impl RecordCheck<'_> {
    fn check(&mut self, log: &LogDirectory, progress: Progress<'_>) -> Result<(), ReadError> {
        let (segments, size) = (log.segments()?, self.tiles.size());
        let mut place = log.path().join(FOLDER);
        for (at, segment) in segments.iter().enumerate() {
            place.clone_from(&segment.path);
            let is_last = at + 1 == segments.len();
            if let Err(error) = self.segment(segment, is_last, progress) {
                self.run = None;
                self.findings.add(Place::File(segment.path.clone()), error);
            }
        }
        if self.next < size {
            let what = format!(
                "the records end before entry {}, and a head over {size} entries was signed",
                self.next
            );
            self.findings.add(Place::File(place), what);
        }
        Ok(())
    }

    fn segment(
        &mut self,
        segment: &Segment,
        is_last: bool,
        progress: Progress<'_>,
    ) -> Result<(), ReadError> {
        if segment.first != self.next {
            let what = match self.next {
                next if next < segment.first => {
                    format!("entries {next} to {} are missing before it", segment.first - 1)
                }
                next => format!("it begins with entry {}, and {next} is next", segment.first),
            };
            self.findings.add(Place::File(segment.path.clone()), what);
            (self.next, self.run) = (segment.first, None);
        }
        let mut reader = SegmentReader::open(segment.clone())?;
        let mut looked_again = false;
        loop {
            let fault = match reader.next_block() {
                Ok(Some((offset, block))) => {
                    self.block(segment, offset, &block);
                    progress("records", self.next, self.tiles.size());
                    looked_again = false;
                    continue;
                }
                Ok(None) => None,
                Err(ReadError::Damaged(damage)) => Some(damage.fault),
                Err(error) => return Err(error),
            };
            // A server may be writing this very block.
            if !std::mem::replace(&mut looked_again, true) {
                reader.look_again();
                continue;
            }
            if !self.damage(&mut reader, fault, is_last)? {
                return Ok(());
            }
            looked_again = false;
        }
    }

    /// Tells of a place where no block is that should be; says whether there are more after it.
    fn damage(
        &mut self,
        reader: &mut SegmentReader,
        fault: Option<Fault>,
        is_last: bool,
    ) -> Result<bool, ReadError> {
        let (offset, next) = (reader.offset(), reader.next_index());
        let (number, path) = (reader.next_number().unwrap_or(0), reader.segment().path.clone());
        let found = reader.find_block()?;
        let Some(fault) = fault.or(found.map(|_| BlockError::Magic.into())) else {
            return Ok(false);
        };
        let was_flushed = found.is_some_and(|(later, flushed)| later > number && flushed > number);
        if is_last && next >= self.tiles.size() && !was_flushed {
            self.unfinished = Some(Damage { path, offset, fault });
            return Ok(false);
        }
        self.findings.add(Place::Block { path, offset, next }, fault);
        self.run = None;
        Ok(found.is_some())
    }

    fn block(&mut self, segment: &Segment, offset: u64, block: &Block<'_>) {
        let header = &block.header;
        let path = &segment.path;
        if let Err(what) = self.continues(block) {
            let place = Place::Block { path: path.clone(), offset, next: header.first };
            self.findings.add(place, what);
        }
        self.run = Some(Run { writer: header.writer, number: header.number, seal: block.seal });
        self.writer = Some(header.writer);
        let leaves = (header.first..).zip(block.leaves().iter().zip(block.entries()));
        for (index, (leaf, bytes)) in leaves {
            let begins = header.number == 0 && index == header.first;
            if let Err(what) = self.entry(index, *leaf, bytes, begins.then_some(header.writer)) {
                let place = Place::Entry { path: path.clone(), offset, index };
                self.findings.add(place, what);
            }
        }
        self.next = header.first + u64::from(header.entries);
    }

    /// Whether a block is the next of its run, or the first of a later one.
    fn continues(&mut self, block: &Block<'_>) -> Result<(), String> {
        let header = &block.header;
        if header.number == 0 {
            self.runs += 1;
            if header.previous != Seal::default() {
                return Err("the first block of a run names a seal before it".to_owned());
            }
            return match self.writer {
                Some(last) if header.writer <= last => {
                    Err(format!("run {} comes after run {last}", header.writer))
                }
                _ => Ok(()),
            };
        }
        let Some(run) = self.run else { return Ok(()) };
        let found = (header.writer, header.number);
        if found != (run.writer, run.number + 1) {
            return Err(format!(
                "block {} of run {} comes after block {} of run {}",
                header.number, header.writer, run.number, run.writer
            ));
        }
        let names_it = header.previous == run.seal;
        names_it.then_some(()).ok_or("it does not name the seal of the one before".to_owned())
    }

    /// Checks an entry; `begins` is the writer whose run it has to open.
    fn entry(
        &mut self,
        index: u64,
        leaf: Hash,
        bytes: &[u8],
        begins: Option<WriterId>,
    ) -> Result<(), String> {
        if self.leaf(index).is_some_and(|wanted| wanted != leaf) {
            return Err("its hash is not the one in the tree".to_owned());
        }
        match (Entry::decode(bytes).map_err(|error| error.to_string())?, begins) {
            (Entry::Opening(opening), Some(writer)) if opening.writer == writer => {
                self.opening(index, &opening)
            }
            (Entry::Opening(_), _) => Err("it opens a run that is not its block's".to_owned()),
            (Entry::Issuance(_), Some(_)) => Err("its run begins without an opening".to_owned()),
            (Entry::Issuance(_), None) => Ok(()),
        }
    }

    /// Whether a run continues the tree that was there.
    fn opening(&self, index: u64, opening: &Opening) -> Result<(), String> {
        let Head { size, root: wanted } = opening.continues;
        if size != index {
            return Err(format!("it says that the run continues {size} entries"));
        }
        // A tree beyond the signed heads has no hashes to compare with.
        if size > self.tiles.size() {
            return Ok(());
        }
        match root(size, self.tiles) {
            Ok(found) if found != wanted => {
                Err(format!("it continues another tree: {}", other_root(opening.continues, found)))
            }
            // A hash that cannot be read has been told.
            _ => Ok(()),
        }
    }

    /// The tree's hash of an entry, if that is known.
    fn leaf(&mut self, index: u64) -> Option<Hash> {
        if index >= self.tiles.size() {
            return None;
        }
        let (number, at) = (index / WIDTH, (index % WIDTH) as usize);
        if self.tile.as_ref().is_none_or(|(known, _)| *known != number) {
            self.tile = Some((number, self.tiles.tile(0, number).ok()));
        }
        self.tile.as_ref()?.1.as_ref()?.get(at).copied()
    }
}

#[cfg(test)]
mod tests;
