//! The folder in which `dev` keeps everything: kept where a name was given, temporary otherwise.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use thiserror::Error;

use crate::telemetry::Destination;

/// Why there is no folder.
#[derive(Debug, Error)]
#[error("cannot use {} as the folder of dev: {source}; name another with --dir", path.display())]
pub struct HomeError {
    path: PathBuf,
    source: io::Error,
}

/// The folder of one `dev`: keys, state, socket and log.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    /// Removes the folder when it is dropped.
    temporary: Option<TempDir>,
}

impl Home {
    /// Makes the folder, mode 0700: the named one, or a temporary one that goes with the result.
    pub fn prepare(named: Option<&Path>) -> Result<Self, HomeError> {
        let Some(named) = named else {
            let base = std::env::temp_dir();
            let made = tempfile::Builder::new().prefix("mintmark-dev-").tempdir_in(&base);
            let temporary = made.map_err(|source| HomeError { path: base, source })?;
            return Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) });
        };
        let at = |source| HomeError { path: named.to_owned(), source };
        let path = std::path::absolute(named).map_err(at)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(at)?;
        Ok(Self { path, temporary: None })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder goes when `dev` ends.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// The server's log, beside its state: standard output and error are for the person who tries it.
    pub fn log_file(&self) -> Result<Destination, HomeError> {
        let path = self.path.join("server.log");
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        opened.map(Destination::File).map_err(|source| HomeError { path, source })
    }
}
