//! A log's directory, as those see it who read: beside the process that writes it, or a copy of it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::records::{Damage, FOLDER, Segment};
use super::tree::{Checkpoint, LogKey, TextError, TileError};

/// The newest signed head, beside the tiles, as C2SP tlog-tiles names it.
pub const CHECKPOINT: &str = "checkpoint";
/// The verifier key of the log, as its writer left it there: of no worth to those who do not trust the directory.
pub const VERIFIER_KEY: &str = "vkey";
/// Says which entry is the first whose record is still there, in decimal.
const PRUNED: &str = "pruned";

/// Why a log cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is none.
    #[error("{} holds no issuance log: it has no folder {FOLDER}; check the path", .0.display())]
    NoLog(PathBuf),
    /// The system refuses a file.
    #[error("issuance log: {}: {error}; check the disk, and who may read the log", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A file is not what a log has there.
    #[error("issuance log: {}: {reason}; look with `mintmark log verify`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A block is not what was written.
    #[error("the issuance log is damaged: {0}; look with `mintmark log verify`")]
    Damaged(#[from] Damage),
    /// Entries are not there.
    #[error(
        "the issuance log is damaged: entries {from} to {} are missing before {}; look with `mintmark log verify`",
        until - 1, place.display()
    )]
    Missing {
        /// The first.
        from: u64,
        /// The one after the last.
        until: u64,
        /// What should come after them.
        place: PathBuf,
    },
    /// Its hashes.
    #[error("issuance log: {0}")]
    Tiles(#[from] TileError),
}

impl ReadError {
    pub(super) fn disk(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Disk { path, error }
    }

    pub(super) fn file(path: &Path, reason: impl ToString) -> Self {
        Self::File { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// Where a log lies.
#[derive(Debug, Clone)]
pub struct LogDirectory(PathBuf);

impl LogDirectory {
    /// The log in this directory.
    ///
    /// # Errors
    /// [`ReadError::NoLog`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ReadError> {
        let path = path.into();
        match fs::metadata(path.join(FOLDER)) {
            Ok(found) if found.is_dir() => Ok(Self(path)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ReadError::disk(&path.join(FOLDER))(error))
            }
            _ => Err(ReadError::NoLog(path)),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The newest signed head, not verified; `None` before the first.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, ReadError> {
        self.text(CHECKPOINT, Checkpoint::LONGEST, Checkpoint::parse)
    }

    /// The verifier key that the log's own directory has; `None` if it has none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn own_key(&self) -> Result<Option<LogKey>, ReadError> {
        self.text(VERIFIER_KEY, 1024, |text| LogKey::parse(text.trim_end_matches('\n')))
    }

    /// The place of the first entry whose record is kept; 0 if none was removed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn pruned(&self) -> Result<u64, ReadError> {
        let path = self.0.join(FOLDER).join(PRUNED);
        let Some(text) = read_bounded(&path, 32)? else { return Ok(0) };
        let number = text.strip_suffix('\n').and_then(|digits| digits.parse().ok());
        number
            .filter(|first| text == format!("{first}\n"))
            .ok_or_else(|| ReadError::file(&path, "it is no number of an entry"))
    }

    /// Writes down that entries before `first` have no records. Their files may be removed when this returns.
    pub(super) fn set_pruned(&self, first: u64) -> Result<(), ReadError> {
        let folder = self.0.join(FOLDER);
        let (path, unfinished) = (folder.join(PRUNED), folder.join("pruned.new"));
        let write = || {
            let mut file = File::create(&unfinished)?;
            writeln!(file, "{first}")?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&folder)?.sync_all()
        };
        write().map_err(ReadError::disk(&path))
    }

    /// The files of records, in the order of the tree, without those whose removal was only begun.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn segments(&self) -> Result<Vec<Segment>, ReadError> {
        let pruned = self.pruned()?;
        let mut segments = Segment::list(&self.0).map_err(ReadError::disk(&self.0.join(FOLDER)))?;
        segments.retain(|segment| segment.first >= pruned);
        Ok(segments)
    }

    fn text<T>(
        &self,
        name: &str,
        longest: usize,
        parse: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Result<Option<T>, ReadError> {
        let path = self.0.join(name);
        let text = read_bounded(&path, longest)?;
        text.map(|text| parse(&text).map_err(|error| ReadError::file(&path, error))).transpose()
    }
}

/// A short text, if the file is there.
fn read_bounded(path: &Path, longest: usize) -> Result<Option<String>, ReadError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(longest as u64 + 1).read_to_string(&mut text))
    {
        Ok(length) if length > longest => {
            Err(ReadError::file(path, format!("it has more than {longest} bytes")))
        }
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(ReadError::file(path, "it is no text"))
        }
        Err(error) => Err(ReadError::disk(path)(error)),
    }
}
