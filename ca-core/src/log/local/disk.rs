//! What the files of the log lie on: a seam, so that tests can have disks that forget, fill up and fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Makes files that a log is written to.
pub trait Disk: Send + Sync {
    /// Makes an empty file, and has its name reach the disk. One that has that name already holds only what
    /// was never acknowledged.
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;
}

/// A file that is written from front to back.
pub trait LogFile: Send {
    /// Writes all of `bytes` at an offset.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Answers when all that was written is on the disk. After an error it is unknown what is: nothing may be
    /// written any more, because a second flush may report a success that is none.
    fn flush(&mut self) -> io::Result<()>;

    /// Ends the file at `length`; nothing is written after that.
    fn end(&mut self, length: u64) -> io::Result<()>;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(Box::new(RealFile { file, length: 0 }))
    }
}

/// A file whose end is always some zeros ahead of what is written: a flush that need not write a new length
/// costs the disk one write instead of several.
struct RealFile {
    file: File,
    length: u64,
}

/// How far a file is lengthened at once: as much again as is written, within these.
const AHEAD: std::ops::RangeInclusive<u64> = 256 * 1024..=4 * 1024 * 1024;
const ZEROS: &[u8] = &[0; 256 * 1024];

impl LogFile for RealFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        if end > self.length {
            let ahead = end + end.clamp(*AHEAD.start(), *AHEAD.end());
            while self.length < ahead {
                self.file.write_all_at(ZEROS, self.length)?;
                self.length += ZEROS.len() as u64;
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn end(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.length = length;
        self.file.sync_all()
    }
}
