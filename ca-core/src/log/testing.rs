//! A log for tests, made by its real writer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::directory::{CHECKPOINT, LogDirectory};
use super::local::{LocalLog, LogSettings, RealDisk};
use super::records::Segment;
use super::tree::checkpoint::tests::{TestKey, signed};
use super::tree::{Checkpoint, Head, TileReader, flushed_size, root};
use super::{Caller, Document, Durability, IssuanceLog as _, IssuanceRecord, WriterId};
use crate::clock::Timestamp;
use crate::id::SpiffeId;
use crate::profile::Profile;
use crate::serial::Serial;

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;
/// The day on which the first records are written.
pub(super) const FIRST_DAY: i64 = 20_000;

pub(super) struct TestLog {
    folder: TempDir,
    pub(super) key: TestKey,
    runs: u32,
}

impl TestLog {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), key: TestKey::new(), runs: 0 }
    }

    /// Two runs over six days, in a file for each, with 1,003 entries in many blocks, and a signed head.
    pub(super) fn with_entries() -> Self {
        let mut log = Self::new();
        log.run(0..600, 200);
        log.run(600..1001, 200);
        log
    }

    /// A run of a signer that writes those records, ten to a block, so many to a day, and signs the last head.
    pub(super) fn run(&mut self, records: std::ops::Range<u64>, to_a_day: u64) {
        self.runs += 1;
        let settings = LogSettings { directory: self.path(), durability: Durability::Durable };
        let writer = WriterId::new(self.runs).unwrap();
        let records: Vec<_> = records.map(|number| record(number, to_a_day)).collect();
        let log =
            LocalLog::open(&settings, Arc::new(RealDisk), writer, &[], records[0].time).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for group in records.chunk_by(|one, other| one.time == other.time) {
            for records in group.chunks(10) {
                let issued: Vec<_> = records.iter().map(IssuanceRecord::as_issuance).collect();
                runtime.block_on(log.append(&issued)).unwrap();
            }
        }
        log.close();
        drop(log);
        self.sign(self.head());
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(super) fn directory(&self) -> LogDirectory {
        LogDirectory::open(self.path()).unwrap()
    }

    /// The tree on the disk.
    pub(super) fn head(&self) -> Head {
        let size = flushed_size(&self.path()).unwrap();
        Head { size, root: root(size, &TileReader::new(self.path(), size)).unwrap() }
    }

    /// Puts a signed head in its place.
    pub(super) fn sign(&self, head: Head) -> Checkpoint {
        let checkpoint = signed(&self.key, head);
        fs::write(self.path().join(CHECKPOINT), checkpoint.to_string()).unwrap();
        checkpoint
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.directory().checkpoint().unwrap().unwrap()
    }

    pub(super) fn segments(&self) -> Vec<Segment> {
        self.directory().segments().unwrap()
    }

    /// Puts a copy of another log's files into the place of ours.
    pub(super) fn replace_by(&self, copy: &Path) {
        fs::remove_dir_all(self.path()).unwrap();
        copy_all(copy, &self.path());
    }

    /// A copy of all files as they are now.
    pub(super) fn copy(&self, name: &str) -> PathBuf {
        let to = self.folder.path().join(name);
        copy_all(&self.path(), &to);
        to
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let (path, name) = file.map(|file| (file.path(), file.file_name())).unwrap();
        if path.is_dir() {
            copy_all(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// The record of that number: of one of seven workloads, by one of two authorities, for an hour; each fifth is a
/// token's.
pub(super) fn record(number: u64, to_a_day: u64) -> IssuanceRecord {
    let day = FIRST_DAY + i64::try_from(number / to_a_day).unwrap();
    let time = Timestamp::from_unix(day * DAY + 1_000);
    let document = if number % 5 == 4 {
        Document::Jwt { audience: vec!["a".to_owned(), "b, \"c\"".to_owned()] }
    } else {
        let key_digest = [7; 32];
        Document::X509 { profile: Profile::Workload, serial: serial(number), key_digest }
    };
    IssuanceRecord {
        document,
        digest: digest(number),
        id: id(number % 7),
        not_before: time,
        not_after: Timestamp::from_unix(time.unix() + 3_600),
        authority: ["aa", "bb"][usize::from(number >= 500)].into(),
        issuing_key: Some("cc".into()),
        caller: Caller::Local { uid: 1000, pid: Some(1) },
        time,
    }
}

pub(super) fn id(number: u64) -> SpiffeId {
    SpiffeId::from_parts("a.test", &format!("/shop/w{number}")).unwrap()
}

pub(super) fn serial(number: u64) -> Serial {
    let mut bytes = [1; 20];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    Serial::from_bytes(bytes)
}

pub(super) fn digest(number: u64) -> [u8; 32] {
    let mut bytes = [3; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}
