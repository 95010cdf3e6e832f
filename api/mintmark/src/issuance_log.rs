//! The issuance log of a server: opened at its start, and its heads signed for as long as it runs.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ca_core::authority::KeyCreation;
use ca_core::clock::Timestamp;
use ca_core::id::TrustDomain;
use ca_core::key::{KeyStore, Priority, SignError, Urgency};
use ca_core::log::directory::LogDirectory;
use ca_core::log::identity::{self, Identity, IdentityError};
use ca_core::log::index::Indexer;
use ca_core::log::local::{LocalLog, LogSettings, OpenError, RealDisk};
use ca_core::log::metrics::LogMetrics;
use ca_core::log::tree::{
    Checkpoint, CheckpointBody, CheckpointError, Head, Origin, TextError, sign_checkpoint,
};
use ca_core::log::{Durability, LogError};
use ca_core::store::StateStore;
use thiserror::Error;

use crate::config::IssuanceLogSettings;

/// The newest signed head, beside the tiles, as C2SP tlog-tiles names it.
pub const CHECKPOINT: &str = "checkpoint";
/// How long a signature on a head may take; the next one covers what this one would have.
const LONGEST_SIGNATURE: Duration = Duration::from_secs(10);
/// The pause after a head could not be signed or kept.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked for files of records that have ended and have no index.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why there is no log, and so no server.
#[derive(Debug, Error)]
pub enum IssuanceLogError {
    /// Its name cannot stand in a head.
    #[error("[log] name: {0}")]
    Name(#[from] TextError),
    /// Its key or its record.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its files.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The head in its directory is not one that its key has signed.
    #[error(
        "{}: {source}. Nothing is issued over it; look with `mintmark log verify`", path.display()
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CheckpointFault,
    },
    /// A file cannot be read or written.
    #[error("issuance log {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What is wrong with the file of the newest head.
#[derive(Debug, Error)]
pub enum CheckpointFault {
    /// It cannot be read as one.
    #[error(transparent)]
    Text(#[from] TextError),
    /// It is not this log's, or not signed.
    #[error(transparent)]
    Signature(#[from] CheckpointError),
}

/// The log and what signs its heads.
pub struct IssuanceLog {
    log: Arc<LocalLog>,
    identity: Identity,
    directory: PathBuf,
    store: Arc<dyn StateStore>,
    /// How many entries the head has that was signed last; 0 before the first.
    signed: AtomicU64,
}

impl IssuanceLog {
    /// Opens the log of this server and begins a run of it.
    ///
    /// # Errors
    /// [`IssuanceLogError`]. Without a log nothing is issued.
    pub async fn open(
        settings: &IssuanceLogSettings,
        trust_domain: &TrustDomain,
        creation: KeyCreation,
        store: Arc<dyn StateStore>,
        keys: &dyn KeyStore,
        now: Timestamp,
        metrics: LogMetrics,
    ) -> Result<Self, IssuanceLogError> {
        let origin = identity::origin(trust_domain, &settings.name)?;
        let identity = identity::begin(&origin, trust_domain, creation, &*store, keys).await?;
        let directory = settings.directory.clone();
        let path = directory.join(CHECKPOINT);
        let kept = blocking(&path, read).await?;
        let kept = kept.map(|text| believed(&text, &path, &identity)).transpose()?;
        let recorded = identity.newest_head().map_err(|error| IssuanceLogError::Checkpoint {
            path: directory.clone(),
            source: error.into(),
        })?;
        let known: Vec<_> = [(kept, "in its directory"), (recorded, "in the state store")]
            .into_iter()
            .filter_map(|(head, from)| head.map(|head| (head, from)))
            .collect();
        let log_settings =
            LogSettings { directory: directory.clone(), durability: settings.durability };
        let writer = identity.writer;
        let opened = tokio::task::spawn_blocking(move || {
            let disk = Arc::new(RealDisk);
            LocalLog::open_counted(&log_settings, disk, writer, &known, now, metrics)
        });
        let opened = opened.await.map_err(|error| file(&directory, io::Error::other(error)))?;
        let log = Arc::new(opened?);
        if let Some(torn) = &log.opened().torn {
            tracing::warn!(%torn, "the end of the issuance log was torn by a crash and cut off");
        }
        tracing::info!(
            log = %origin,
            entries = log.opened().continues.size,
            run = %identity.writer,
            durability = %settings.durability,
            "the issuance log is open"
        );
        if let Durability::Relaxed { window_ms } = settings.durability {
            tracing::warn!(
                window_ms,
                "durability is relaxed: what is issued in the last {window_ms} ms before a crash of this machine may \
                 be missing from the issuance log, though it was released"
            );
        }
        // For those who check heads by other programs. Who trusts it gets it by another way.
        let vkey = format!("{}\n", identity.key.vkey());
        blocking(&directory.join("vkey"), move |path| replace(path, vkey.as_bytes())).await?;
        let signed = AtomicU64::new(recorded.map_or(0, |head| head.size));
        Ok(Self { log, identity, directory, store, signed })
    }

    /// Where records go.
    #[must_use]
    pub fn log(&self) -> &Arc<LocalLog> {
        &self.log
    }

    /// Its name.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        self.identity.key.name()
    }

    /// Signs each new head, and keeps it here and in the state store, until the log fails.
    pub async fn keep_signed(&self) -> LogError {
        let mut kept = self.log.kept();
        let mut trouble = None;
        loop {
            let state = kept.borrow_and_update().clone();
            if let Err(error) = self.sign(state.head).await {
                tracing::error!(%error, "the head of the issuance log is not signed; it is tried again");
                tokio::select! {
                    error = self.log.failed() => return error,
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
            if state.trouble != trouble {
                trouble = state.trouble;
                if let Some(error) = &trouble {
                    tracing::error!(error, "the disk takes no hashes of the issuance log");
                }
            }
            tokio::select! {
                error = self.log.failed() => return error,
                changed = kept.changed() => if changed.is_err() {
                    // Its thread has ended before the log was closed.
                    return self.log.failed().await;
                },
            }
        }
    }

    /// Makes the index of each file of records that has ended, for as long as it is polled. One at a time, on a
    /// thread for work that blocks, and then a pause as long: half of one processor at most. A file of 64 MiB takes
    /// some tenths of a second and some 30 MiB of memory. Nothing waits for an index.
    pub async fn keep_indexed(&self) -> Infallible {
        let mut indexer = match LogDirectory::open(&self.directory) {
            Ok(log) => Indexer::new(log),
            Err(error) => {
                tracing::error!(%error, "the issuance log is not indexed");
                return std::future::pending().await;
            }
        };
        loop {
            let started = Instant::now();
            let step = tokio::task::spawn_blocking(move || (indexer.make_next(), indexer)).await;
            // A panic there is told by the hook of the process.
            let Ok((made, back)) = step else { return std::future::pending().await };
            indexer = back;
            let pause = match made {
                Ok(true) => {
                    let took = started.elapsed();
                    tracing::debug!(?took, "a file of the issuance log was indexed");
                    took
                }
                Ok(false) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "a file of the issuance log is not indexed; searches read all of it");
                    LOOK_EVERY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Signs the last head, when nothing is appended any more.
    pub async fn close(self) {
        let Self { log, .. } = &self;
        let (log, mut kept) = (Arc::clone(log), log.kept());
        let closed = tokio::task::spawn_blocking(move || log.close()).await;
        if closed.is_err() {
            return;
        }
        let head = kept.borrow_and_update().head;
        if let Err(error) = self.sign(head).await {
            tracing::error!(%error, "the last head of the issuance log is not signed; the next run's will cover it");
        }
    }

    async fn sign(&self, head: Head) -> Result<(), HeadError> {
        if self.signed.load(Ordering::Relaxed) >= head.size {
            return Ok(());
        }
        let origin = self.origin();
        let body = CheckpointBody { origin: origin.clone(), head };
        let urgency = Urgency::within(Priority::New, LONGEST_SIGNATURE, Instant::now());
        let checkpoint = sign_checkpoint(body, &*self.identity.signing, urgency).await?;
        identity::keep(origin, &checkpoint, &*self.store).await?;
        let (path, text) = (self.directory.join(CHECKPOINT), checkpoint.to_string());
        tokio::task::spawn_blocking(move || replace(&path, text.as_bytes()))
            .await
            .map_err(io::Error::other)??;
        self.signed.store(head.size, Ordering::Relaxed);
        self.log.signed(head.size, Instant::now());
        Ok(())
    }
}

/// Why a head is not signed and kept.
#[derive(Debug, Error)]
enum HeadError {
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Keep(#[from] IdentityError),
    #[error("{CHECKPOINT}: {0}")]
    File(#[from] io::Error),
}

/// What a file says, if it is there.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The head of a checkpoint that the log's key has signed.
fn believed(text: &str, path: &Path, identity: &Identity) -> Result<Head, IssuanceLogError> {
    let verified = Checkpoint::parse(text)
        .map_err(CheckpointFault::from)
        .and_then(|checkpoint| Ok(identity.key.verify(&checkpoint)?));
    verified
        .map(|verified| verified.head())
        .map_err(|source| IssuanceLogError::Checkpoint { path: path.to_owned(), source })
}

/// Does something with a file, away from the runtime's threads.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, IssuanceLogError> {
    let owned = path.to_owned();
    let done = tokio::task::spawn_blocking(move || work(&owned)).await;
    done.map_err(io::Error::other).flatten().map_err(|source| file(path, source))
}

fn file(path: &Path, source: io::Error) -> IssuanceLogError {
    IssuanceLogError::File { path: path.to_owned(), source }
}

/// Puts a file in the place of another, whole.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // One that was left alone half-way may still be at work on another.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % 2;
    let unfinished = path.with_extension(format!("new-{number}"));
    let mut file = File::create(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
