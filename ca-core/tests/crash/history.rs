//! All that is known of one log over many runs, and whether the log still is what it was.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use ca_core::log::entry::{Entry, Opening};
use ca_core::log::records::Segment;
use ca_core::log::tree::{Frontier, Hash, Head, TileReader, root};
use ca_core::log::{Document, IssuanceRecord};

use crate::minting::Answer;

/// What must not be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answers were released that are not in the log.
    Missing(Vec<Answer>),
    /// Two certificates have this serial number.
    SerialTwice([u8; 20]),
    /// The log once had this tree, and has it no more.
    OtherTree(Head),
    /// The first entry of a run does not say what it continues.
    Opening(u64, Opening),
    /// The log cannot be opened or read.
    Unreadable(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(answers) => {
                write!(f, "{} released answers are not in the log", answers.len())
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// What was read and seen of a log.
pub(crate) struct History {
    directory: PathBuf,
    /// The tree of all entries that were read.
    frontier: Frontier,
    /// How often each thing was logged, less how often it was released.
    spare: HashMap<Answer, u64>,
    serials: HashSet<[u8; 20]>,
    last_writer: u32,
    /// What the first entries of all runs say.
    pub(crate) openings: Vec<Opening>,
}

impl History {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            frontier: Frontier::new(),
            spare: HashMap::new(),
            serials: HashSet::new(),
            last_writer: 0,
            openings: Vec::new(),
        }
    }

    pub(crate) fn entries(&self) -> u64 {
        self.frontier.size()
    }

    /// Where the log was when it was last looked at.
    pub(crate) fn head(&self) -> Head {
        self.frontier.head()
    }

    /// Reads what has come since the last time; looks for the answers that were released since, and at the
    /// heads that were seen. The log is open nowhere else, and its tree is on the disk.
    pub(crate) fn check(&mut self, released: &[Answer], heads: &[Head]) -> Result<(), Fault> {
        let mut expected: BTreeMap<u64, Vec<Hash>> = BTreeMap::new();
        for head in heads.iter().chain([&self.frontier.head()]) {
            expected.entry(head.size).or_default().push(head.root);
        }
        self.read_on(&mut expected)?;
        // What is left is of a tree that is smaller than at the last time, or larger than the whole.
        let tiles = TileReader::new(&self.directory, self.entries());
        expected.entry(self.entries()).or_default().push(self.frontier.head().root);
        for (size, roots) in expected {
            let is = if size > self.entries() { None } else { Some(root(size, &tiles).unwrap()) };
            if let Some(&other) = roots.iter().find(|root| Some(**root) != is) {
                return Err(Fault::OtherTree(Head { size, root: other }));
            }
        }
        self.find(released)
    }

    /// Reads the entries that are new, and takes the heads out that are right.
    fn read_on(&mut self, expected: &mut BTreeMap<u64, Vec<Hash>>) -> Result<(), Fault> {
        let segments = Segment::list(&self.directory).unwrap();
        let known = segments.partition_point(|each| each.first <= self.entries()).saturating_sub(1);
        for segment in &segments[known..] {
            let content = segment.read().unwrap();
            for block in segment.blocks(&content) {
                let (_, block) = block.map_err(|damage| Fault::Unreadable(damage.to_string()))?;
                for (index, entry) in (block.header.first..).zip(block.entries()) {
                    if index > self.entries() {
                        return Err(Fault::Unreadable(format!("a gap before {index}")));
                    }
                    if index == self.entries() {
                        self.take(block.header.writer.number(), entry)?;
                        self.meet(expected)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, writer: u32, entry: &[u8]) -> Result<(), Fault> {
        let index = self.entries();
        match Entry::decode(entry) {
            Ok(Entry::Opening(opening)) => {
                let is_new = writer > self.last_writer && writer == opening.writer.number();
                if !is_new || opening.continues != self.head() {
                    return Err(Fault::Opening(index, opening));
                }
                self.last_writer = writer;
                self.openings.push(opening);
            }
            Ok(Entry::Issuance(record)) if writer == self.last_writer => self.count(&record)?,
            other => return Err(Fault::Unreadable(format!("{index}, of {writer}: {other:?}"))),
        }
        self.frontier.push(Hash::leaf(entry));
        Ok(())
    }

    fn count(&mut self, record: &IssuanceRecord) -> Result<(), Fault> {
        let serial = match &record.document {
            Document::X509 { serial, .. } => Some(*serial.bytes()),
            Document::Jwt { .. } => None,
        };
        if let Some(serial) = serial.filter(|&serial| !self.serials.insert(serial)) {
            return Err(Fault::SerialTwice(serial));
        }
        *self.spare.entry(Answer { serial, digest: record.digest }).or_default() += 1;
        Ok(())
    }

    fn meet(&self, expected: &mut BTreeMap<u64, Vec<Hash>>) -> Result<(), Fault> {
        let Some(roots) = expected.remove(&self.entries()) else { return Ok(()) };
        let is = self.head();
        match roots.into_iter().find(|root| *root != is.root) {
            Some(root) => Err(Fault::OtherTree(Head { size: is.size, root })),
            None => Ok(()),
        }
    }

    /// Each answer needs an entry of its own.
    fn find(&mut self, released: &[Answer]) -> Result<(), Fault> {
        let mut missing = Vec::new();
        for answer in released {
            match self.spare.get_mut(answer) {
                Some(spare) if *spare > 0 => *spare -= 1,
                _ => missing.push(*answer),
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(Fault::Missing(missing)) }
    }
}
