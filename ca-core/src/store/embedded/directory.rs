//! The directory of an embedded store: one process at a time, readable by its owner alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use crate::store::StoreError;

/// The name of the file of the store.
pub(super) const DATABASE: &str = "state.redb";

/// A directory that is held for as long as this lives.
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if there is none (0700) and takes its `state.lock`. One that others may write
    /// to is refused: whoever replaces the file says whom everyone trusts.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        create(path).map_err(|error| unusable(path, "cannot be made", &error))?;
        check_guarded(path)?;
        let mut lock = open_private(&path.join("state.lock"), OpenOptions::new().create(true))
            .map_err(|error| unusable(path, "cannot be written", &error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(in_use(path, &mut lock)),
            Err(error) => return Err(unusable(path, "cannot be locked", &error.into())),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|error| unusable(path, "cannot be written", &error))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The file of the store.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// The file of the store, open for reading and writing, or `None` if there is none yet.
    pub(super) fn open_database(&self) -> Result<Option<File>, StoreError> {
        match open_private(&self.database(), &mut OpenOptions::new()) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable(&self.database(), "cannot be opened", &error)),
        }
    }

    /// An empty file (0600) for a store that is being made. It gets its name once it is a store, so that a
    /// file of that name which is empty is known to be damaged.
    pub(super) fn create_database(&self) -> Result<File, StoreError> {
        let unfinished = self.unfinished();
        open_private(&unfinished, OpenOptions::new().create(true).truncate(true))
            .map_err(|error| unusable(&unfinished, "cannot be made", &error))
    }

    /// Gives the new file its name, durably.
    pub(super) fn finish_database(&self) -> Result<(), StoreError> {
        std::fs::rename(self.unfinished(), self.database())
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(|error| unusable(&self.database(), "cannot be made", &error))
    }

    fn unfinished(&self) -> PathBuf {
        self.path.join("state.redb.new")
    }
}

/// Makes the directory and those above it, and has the new name flushed.
fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn check_guarded(path: &Path) -> Result<(), StoreError> {
    let found = path.metadata().map_err(|error| unusable(path, "cannot be looked at", &error))?;
    let place = || format!("state directory {}", path.display());
    let (user, owner, mode) = (geteuid().as_raw(), found.uid(), found.mode() & 0o7777);
    if owner != user && owner != 0 {
        let reason = format!("it belongs to user {owner}; run: chown {user} {}", path.display());
        return Err(StoreError::Unavailable { place: place(), reason });
    }
    if mode & 0o022 != 0 {
        let reason =
            format!("others may write to it (mode {mode:04o}); run: chmod go-w {}", path.display());
        return Err(StoreError::Unavailable { place: place(), reason });
    }
    Ok(())
}

fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.read(true).write(true).mode(0o600).open(path)
}

fn in_use(path: &Path, lock: &mut File) -> StoreError {
    let mut pid = String::new();
    let _ = lock.take(16).read_to_string(&mut pid);
    let holder = match pid.trim() {
        "" => "another process".to_owned(),
        pid => format!("process {pid}"),
    };
    StoreError::InUse { place: format!("state directory {}", path.display()), holder }
}

fn unusable(path: &Path, what: &str, error: &io::Error) -> StoreError {
    StoreError::Unavailable {
        place: path.display().to_string(),
        reason: format!("it {what}: {error}; {}", way_out(error)),
    }
}

/// What a person can do about this error of the disk.
pub(super) fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "give this user the directory, with mode 0700",
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable or choose another directory",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "the disk is full: free some space and start again"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "choose a path that is a directory or does not exist"
        }
        _ => "check the disk and start again",
    }
}
