//! The files that hold the blocks, as they are read: `records/`, one file for at most a day, named by the place
//! of its first entry in the tree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::block::{Block, BlockError};
use super::entry::EntryError;
use thiserror::Error;

/// The folder of a log's directory that holds them.
pub const FOLDER: &str = "records";
const SUFFIX: &str = ".seg";

/// One file of blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The place of its first entry in the tree.
    pub first: u64,
    /// The file.
    pub path: PathBuf,
}

/// Something in the log that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}, byte {offset}: {fault}", path.display())]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where the block begins in it.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a block where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// It is none.
    #[error("{0}")]
    Block(#[from] BlockError),
    /// It stands where another should.
    #[error("the block is not the one that follows: {0}")]
    Order(String),
    /// One of its entries is none.
    #[error("entry {index}: {error}")]
    Entry {
        /// The place of the entry in the tree.
        index: u64,
        /// Why.
        error: EntryError,
    },
}

impl Segment {
    /// The file in `directory`, the log's, whose first entry has that place.
    #[must_use]
    pub fn of(directory: &Path, first: u64) -> Self {
        Self { first, path: directory.join(FOLDER).join(format!("{first:020}{SUFFIX}")) }
    }

    /// All that are there, in the order of the tree. None if there is no such folder.
    pub fn list(directory: &Path) -> io::Result<Vec<Self>> {
        let folder = match fs::read_dir(directory.join(FOLDER)) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut segments = Vec::new();
        for file in folder {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 20);
            if let Some(first) = number.and_then(|digits| digits.parse().ok()) {
                segments.push(Self { first, path });
            }
        }
        segments.sort_unstable_by_key(|segment| segment.first);
        Ok(segments)
    }

    /// Its content.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        fs::read(&self.path)
    }

    /// The blocks of its content, each with its offset, up to the first that is none or does not follow.
    #[must_use]
    pub fn blocks<'a>(&'a self, content: &'a [u8]) -> Blocks<'a> {
        Blocks { segment: self, content, offset: 0, next: self.first, last: None, ended: false }
    }

    /// That something is wrong with the block at an offset.
    #[must_use]
    pub fn damage(&self, offset: usize, fault: Fault) -> Damage {
        Damage { path: self.path.clone(), offset: offset as u64, fault }
    }
}

/// The blocks of a file. Ends after the first damage.
#[derive(Debug)]
pub struct Blocks<'a> {
    segment: &'a Segment,
    content: &'a [u8],
    offset: usize,
    /// The place in the tree that the next block begins at.
    next: u64,
    /// The seal and number of the block before.
    last: Option<([u8; 32], u64)>,
    ended: bool,
}

impl<'a> Blocks<'a> {
    /// Where the next block would begin in the file.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The place that its first entry would have in the tree.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// The number that the block would have, as far as the file tells.
    #[must_use]
    pub fn next_number(&self) -> Option<u64> {
        self.last.map(|(_, number)| number + 1)
    }

    fn read(&self) -> Result<Option<Block<'a>>, Fault> {
        let content: &'a [u8] = self.content;
        let Some(block) = Block::read(&content[self.offset..])? else { return Ok(None) };
        if block.header.first != self.next {
            let (found, wanted) = (block.header.first, self.next);
            return Err(Fault::Order(format!(
                "it begins with entry {found}, and {wanted} is next"
            )));
        }
        if let Some((seal, number)) = self.last {
            if block.header.number != number + 1 {
                let (found, wanted) = (block.header.number, number + 1);
                return Err(Fault::Order(format!("it is number {found}, and {wanted} is next")));
            }
            if block.header.previous != seal {
                return Err(Fault::Order("it does not name the seal of the one before".to_owned()));
            }
        }
        Ok(Some(block))
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<(usize, Block<'a>), Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let block = match self.read() {
            Ok(Some(block)) => block,
            Ok(None) => {
                self.ended = true;
                return None;
            }
            Err(fault) => {
                self.ended = true;
                return Some(Err(self.segment.damage(self.offset, fault)));
            }
        };
        let offset = self.offset;
        self.offset += block.length;
        self.next += u64::from(block.header.entries);
        self.last = Some((block.seal, block.header.number));
        Some(Ok((offset, block)))
    }
}
