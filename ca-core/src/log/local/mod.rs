//! The log on the local disk, for one process: blocks of records, hash tiles, and heads to be signed.
//!
//! ```text
//! lock                 held by the process that writes
//! records/N.seg        blocks; N is the place of the first entry in the tree
//! tile/…               hashes, as C2SP tlog-tiles lays them out
//! checkpoint           the newest signed head
//! ```
//!
//! Two threads: the committer writes and flushes, and answers; the keeper of the tree follows it and writes
//! tiles of what was flushed. The tree is made from the records and is never ahead of them, so it is of no
//! matter when it is behind: the next start gives it what it lacks.

mod committer;
mod disk;
mod recovery;
#[cfg(test)]
mod tests;
mod tree_keeper;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::block::{Group, Position};
use super::entry::Opening;
use super::metrics::LogMetrics;
use super::records::Damage;
use super::tree::Head;
use super::{Appending, Durability, Issuance, IssuanceLog, LogError, WriterId};
use crate::clock::Timestamp;
use committer::{Committer, Failure, Queue, Submission, Unwritten};
pub use disk::{Disk, LogFile, RealDisk};
pub use recovery::OpenError;
pub use tree_keeper::Kept;

/// How a log is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Where it lies; made if it is not there.
    pub directory: PathBuf,
    /// What its answers mean.
    pub durability: Durability,
}

/// The writer of a log. Dropping it has all that waits written, and blocks until that is done.
pub struct LocalLog {
    queue: Arc<Queue>,
    failure: watch::Receiver<Option<LogError>>,
    kept: watch::Receiver<Kept>,
    /// What became of the last attempt, if the disk did not take it.
    unwritten: Arc<Mutex<Option<Unwritten>>>,
    metrics: LogMetrics,
    threads: Mutex<Vec<JoinHandle<()>>>,
    opened: Opened,
    /// Nobody else writes while this is held.
    _lock: File,
}

/// What opening a log has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The tree that this run continues.
    pub continues: Head,
    /// The end of the records that a crash had torn, and that was cut off: nobody had been answered.
    pub torn: Option<Damage>,
}

/// So many flushed groups may wait for the tree.
const TREE_BEHIND: usize = 1024;
/// For how long a disk that did not take records counts as one that takes none. Who is told so may send nothing
/// more, and then only another attempt would show that it takes them again.
const LATELY: Duration = Duration::from_secs(30);
/// For how long entries may wait for a signed head, which is owed twice a second.
const LONGEST_UNSIGNED: Duration = Duration::from_secs(60);

impl LocalLog {
    /// Opens or makes a log, cuts off what a crash has torn, checks that it still is what the `known` heads were
    /// signed over, and writes the first entry of this run. Blocks; a log whose tiles are gone is read whole.
    ///
    /// # Errors
    /// [`OpenError`]; nothing may be issued then.
    pub fn open(
        settings: &LogSettings,
        disk: Arc<dyn Disk>,
        writer: WriterId,
        known: &[(Head, &'static str)],
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        Self::open_counted(settings, disk, writer, known, now, LogMetrics::default())
    }

    /// As [`open`](Self::open), and counts where others see it.
    ///
    /// # Errors
    /// [`OpenError`]; nothing may be issued then.
    pub fn open_counted(
        settings: &LogSettings,
        disk: Arc<dyn Disk>,
        writer: WriterId,
        known: &[(Head, &'static str)],
        now: Timestamp,
        metrics: LogMetrics,
    ) -> Result<Self, OpenError> {
        let directory = &settings.directory;
        let lock = recovery::lock(directory)?;
        let found = recovery::find(directory)?;
        found.admits(writer)?;
        let mut tiles = recovery::tree_within(directory, &found, known)?;
        found.cut()?;
        recovery::complete(&mut tiles, &found, known)?;
        let continues = tiles.head();

        let queue = Arc::new(Queue::new(metrics.clone()));
        let (failure_tell, failure) = watch::channel(None);
        let unwritten = Arc::new(Mutex::new(None));
        let (flushed, to_keep) = mpsc::sync_channel(TREE_BEHIND);
        let mut committer = Committer {
            queue: Arc::clone(&queue),
            disk,
            directory: directory.clone(),
            durability: settings.durability,
            position: Position {
                writer,
                number: 0,
                first: continues.size,
                flushed: 0,
                previous: [0; 32],
            },
            segment: None,
            unflushed: Vec::new(),
            since: None,
            flushed,
            failure: failure_tell,
            buffer: Vec::new(),
            reached: continues.size,
            unwritten: Arc::clone(&unwritten),
            metrics: metrics.clone(),
        };
        let opening = Opening { writer, continues, durability: settings.durability, time: now };
        tiles.append(
            &begin(&mut committer, &opening).map_err(|error| OpenError::Disk {
                place: directory.display().to_string(),
                error,
            })?,
        );
        metrics.opened(settings.durability);
        metrics.kept(continues);
        let (kept_tell, kept) = watch::channel(Kept { head: continues, trouble: None });
        let queue_of_tree = Arc::clone(&queue);
        let counted = metrics.clone();
        // If the second does not start, the first ends: nobody is left to send it anything.
        let tree = start(directory, "log-tree", move || {
            tree_keeper::run(tiles, &to_keep, &kept_tell, &counted, &queue_of_tree)
        })?;
        let writer = start(directory, "log", move || committer.run())?;
        let threads = Mutex::new(vec![writer, tree]);
        let opened = Opened { continues, torn: found.torn };
        Ok(Self { queue, failure, kept, unwritten, metrics, threads, opened, _lock: lock })
    }

    /// What opening it has found.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The newest tree all of whose entries and tiles are on the disk: what may be signed.
    #[must_use]
    pub fn kept(&self) -> watch::Receiver<Kept> {
        self.kept.clone()
    }

    /// A head over so many entries was signed, and is kept where it is looked for.
    pub fn signed(&self, size: u64, now: Instant) {
        self.metrics.signed(size, now);
    }

    /// What keeps it from taking records, or from vouching for them; a line each, for people.
    #[must_use]
    pub fn obstacles(&self, now: Instant) -> Vec<String> {
        if let Some(failed) = &*self.failure.borrow() {
            return vec![failed.to_string()];
        }
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unwritten = unwritten.filter(|last| now.saturating_duration_since(last.at) < LATELY);
        let trouble = self.kept.borrow().trouble.clone();
        let waited = self.metrics.unsigned_for(now);
        let unsigned = (waited > LONGEST_UNSIGNED).then(|| {
            let seconds = waited.as_secs();
            format!("no head of the issuance log was signed and kept for {seconds} s; the server's log says why")
        });
        let unwritten = unwritten.map(|last| last.error.to_string());
        let trouble =
            trouble.map(|why| format!("the disk takes no hashes of the issuance log: {why}"));
        unwritten.into_iter().chain(trouble).chain(unsigned).collect()
    }

    /// Answers when the log has failed. The process should end then: what the disk holds is unknown.
    pub async fn failed(&self) -> LogError {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(error)) => error,
            // The committer ends without a failure only when the log is closed.
            _ => std::future::pending().await,
        }
    }

    /// Takes nothing more, and returns when all is written and the tree holds it. Blocks until then.
    pub fn close(&self) {
        self.queue.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic there is told by the hook of the process; the log has taken nothing since.
            let _ = thread.join();
        }
    }
}

/// Writes the first entry of a run, and gives its leaf.
fn begin(committer: &mut Committer, opening: &Opening) -> std::io::Result<Vec<super::tree::Hash>> {
    let mut group = Group::default();
    group.add(opening.time, |into| opening.encode(into));
    let (tell, _) = oneshot::channel();
    let written = committer.write(&[Submission { groups: vec![group], tell }]);
    written.and_then(|()| committer.flush()).map_err(|failure| match failure {
        Failure::Unwritten(error) | Failure::Unknown(error) => error,
    })?;
    Ok(std::mem::take(&mut committer.unflushed))
}

fn start(
    directory: &Path,
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, OpenError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map_err(|error| OpenError::Disk {
        place: format!("{} (thread {name})", directory.display()),
        error,
    })
}

impl IssuanceLog for LocalLog {
    fn append(&self, issued: &[Issuance<'_>]) -> Appending {
        let (tell, told) = oneshot::channel();
        let submitted = self.queue.submit(Submission { groups: grouped(issued), tell });
        Box::pin(async move { submitted?.answer(told).await })
    }
}

/// Records as groups that fit into blocks. What is costly about a record happens here, on the thread of whoever
/// asks.
fn grouped(records: &[Issuance<'_>]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for record in records {
        match groups.last_mut() {
            Some(last) if last.has_room() => last.add(record.time, |into| record.encode(into)),
            _ => {
                let mut group = Group::with_room(records.len());
                group.add(record.time, |into| record.encode(into));
                groups.push(group);
            }
        }
    }
    groups
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for LocalLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalLog").field("opened", &self.opened).finish_non_exhaustive()
    }
}
