//! A disk that loses with the process what was not flushed, as the machine's own does with the power.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ca_core::log::local::{Disk, LogFile};

const PAGE: u64 = 4_096;

/// What becomes of bytes that were written and are not flushed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// None of them reaches the disk.
    Nothing,
    /// They reach it from front to back.
    Prefix,
    /// Pages of them reach it at any time and in any order.
    Pages,
    /// A flush says that they have reached it, and they never do.
    Lying,
}

/// Keeps in memory what was written; the real file has what was flushed.
pub(crate) struct Unflushed {
    manner: Manner,
    seeds: AtomicU64,
}

impl Unflushed {
    pub(crate) fn new(manner: Manner, seed: u64) -> Self {
        Self { manner, seeds: AtomicU64::new(seed) }
    }
}

impl Disk for Unflushed {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(UnflushedFile {
            file,
            manner: self.manner,
            random: fastrand::Rng::with_seed(seed),
            written: Vec::new(),
            dirty: BTreeSet::new(),
        }))
    }
}

struct UnflushedFile {
    file: File,
    manner: Manner,
    random: fastrand::Rng,
    /// The file as its writer believes it to be.
    written: Vec<u8>,
    /// The numbers of the pages that are not on the disk as they are in memory.
    dirty: BTreeSet<u64>,
}

impl UnflushedFile {
    fn put(&self, page: u64) -> io::Result<()> {
        let start = page * PAGE;
        let end = (start + PAGE).min(self.written.len() as u64);
        self.file.write_all_at(&self.written[start as usize..end as usize], start)
    }

    /// The whole of what is not on the disk, in one call.
    fn put_all(&self) -> io::Result<()> {
        let Some(first) = self.dirty.first() else { return Ok(()) };
        let start = first * PAGE;
        self.file.write_all_at(&self.written[start as usize..], start)
    }

    /// Page by page, so that the process may be killed between any two.
    fn put_slowly(&mut self, pages: impl IntoIterator<Item = u64>) -> io::Result<()> {
        for page in pages {
            self.put(page)?;
            self.dirty.remove(&page);
            self.pause(300);
        }
        Ok(())
    }

    fn pause(&mut self, most_microseconds: u64) {
        thread::sleep(Duration::from_micros(self.random.u64(0..most_microseconds)));
    }

    fn shuffled(&mut self) -> Vec<u64> {
        let mut pages: Vec<u64> = self.dirty.iter().copied().collect();
        self.random.shuffle(&mut pages);
        pages
    }
}

impl LogFile for UnflushedFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        self.written.resize(self.written.len().max(end), 0);
        self.written[start..end].copy_from_slice(bytes);
        self.dirty.extend(offset / PAGE..(end as u64).div_ceil(PAGE));
        if self.manner == Manner::Pages && self.random.bool() {
            let pages = self.shuffled();
            let some = self.random.usize(0..=pages.len());
            self.put_slowly(pages.into_iter().take(some))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.manner {
            Manner::Lying => return Ok(()),
            Manner::Nothing => self.put_all()?,
            Manner::Prefix => self.put_slowly(self.dirty.clone())?,
            Manner::Pages => {
                let pages = self.shuffled();
                self.put_slowly(pages)?;
            }
        }
        self.dirty.clear();
        self.pause(1_000);
        Ok(())
    }

    fn end(&mut self, length: u64) -> io::Result<()> {
        self.flush()?;
        self.written.truncate(length as usize);
        self.file.set_len(length)
    }
}
