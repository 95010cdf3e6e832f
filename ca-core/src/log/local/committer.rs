//! The thread that writes: it takes all that waits, writes it as blocks, flushes once, and tells everyone.
//!
//! While it flushes, the next ones gather; so a group is as large as the disk is slow, and nobody waits for a
//! timer. Where much is under way, a flush begins when the first one is wanted: its signature is made, and it
//! would be released but for the log. What has come by then is flushed with it, and is mostly still being signed.
//! On an idle log a flush begins at once, and hides behind the signature.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::super::block::{self, Group, Position};
use super::super::metrics::LogMetrics;
use super::super::records::Segment;
use super::super::tree::Hash;
use super::super::{Durability, LogError};
use super::disk::{Disk, LogFile};

/// The most bytes of entries that wait to be written. What comes beyond that is refused: the disk is behind.
const MOST_WAITING: usize = 16 * 1024 * 1024;
/// The most entries whose hashes are not on the disk: 32 MiB of hashes. The disk takes records and no tiles then,
/// and what comes beyond that is refused too.
const MOST_UNKEPT: usize = 1 << 20;
/// The most bytes that one flush is for.
const MOST_AT_ONCE: usize = 4 * 1024 * 1024;
/// A file of records ends at this size, or with the day.
const LONGEST_SEGMENT: u64 = 64 * 1024 * 1024;

/// So much is written without being wanted yet.
const EAGER: usize = 256 * 1024;

/// Entries that somebody waits for.
pub(super) struct Submission {
    /// Each no longer than a block.
    pub groups: Vec<Group>,
    pub tell: oneshot::Sender<Result<(), LogError>>,
}

/// The place of a submission among all; counted from 1.
pub(super) type Ticket = u64;

impl Submission {
    fn bytes(&self) -> usize {
        self.groups.iter().map(|group| group.payload.len()).sum()
    }
}

/// What waits for the committer.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    came: Condvar,
    metrics: LogMetrics,
    /// Entries that are on the disk and whose hashes are not.
    unkept: AtomicUsize,
}

#[derive(Default)]
struct State {
    waiting: Vec<Submission>,
    bytes: usize,
    /// The last ticket that was given, and the last whose submission the committer has taken.
    given: Ticket,
    taken: Ticket,
    /// How many submissions have not been answered, or whose answer has not been looked at.
    under_way: usize,
    /// Whether what waits is to be written now.
    wanted: bool,
    closed: bool,
    failed: Option<LogError>,
}

/// What the committer is to do.
enum Next {
    Write(Vec<Submission>),
    Flush,
    End,
}

impl Queue {
    pub(super) fn new(metrics: LogMetrics) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// Takes a submission, or says why not. It is written when it is [wanted](Self::want), or before.
    pub(super) fn submit(self: &Arc<Self>, submission: Submission) -> Result<UnderWay, LogError> {
        self.accept(submission).inspect_err(|error| self.metrics.refused(error, 1))
    }

    fn accept(self: &Arc<Self>, submission: Submission) -> Result<UnderWay, LogError> {
        let bytes = submission.bytes();
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if state.closed {
            return Err(LogError::Closed);
        }
        let behind = self.unkept.load(Ordering::Relaxed) > MOST_UNKEPT;
        if state.bytes + bytes > MOST_WAITING || behind {
            return Err(LogError::Busy);
        }
        let is_alone = state.under_way == 0;
        state.bytes += bytes;
        state.given += 1;
        state.under_way += 1;
        state.waiting.push(submission);
        state.wanted |= is_alone || state.bytes > EAGER;
        let (ticket, wanted) = (state.given, state.wanted);
        drop(state);
        if wanted {
            self.came.notify_one();
        }
        Ok(UnderWay { queue: Arc::clone(self), ticket })
    }

    /// Has the submission of this ticket written now, if it still waits.
    fn want(&self, ticket: Ticket) {
        let mut state = self.lock();
        if ticket > state.taken && !state.wanted {
            state.wanted = true;
            drop(state);
            self.came.notify_one();
        }
    }

    /// The hashes of so many entries are on the disk now.
    pub(super) fn kept(&self, entries: usize) {
        self.unkept.fetch_sub(entries, Ordering::Relaxed);
    }

    /// Lets nothing in any more. What waits is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_one();
    }

    /// Whether it is being closed.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for something to do; until `flush_at` if a flush is due then.
    fn next(&self, flush_at: Option<Instant>) -> Next {
        let mut state = self.lock();
        loop {
            if !state.waiting.is_empty() && (state.wanted || state.closed) {
                return Next::Write(state.take());
            }
            if state.closed {
                return Next::End;
            }
            let Some(flush_at) = flush_at else {
                state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = flush_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Flush;
            }
            state = self.came.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn fail(&self, error: &LogError) -> Vec<Submission> {
        let mut state = self.lock();
        state.failed = Some(error.clone());
        state.bytes = 0;
        std::mem::take(&mut state.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// All that waits, or as much as is written at once.
    fn take(&mut self) -> Vec<Submission> {
        let mut bytes = 0;
        let fits = self.waiting.iter().take_while(|submission| {
            let first = bytes == 0;
            bytes += submission.bytes();
            first || bytes <= MOST_AT_ONCE
        });
        let count = fits.count();
        let taken: Vec<_> = self.waiting.drain(..count).collect();
        self.bytes -= taken.iter().map(Submission::bytes).sum::<usize>();
        self.taken += count as Ticket;
        self.wanted = !self.waiting.is_empty();
        taken
    }
}

/// A submission whose answer is to come.
pub(super) struct UnderWay {
    queue: Arc<Queue>,
    ticket: Ticket,
}

impl UnderWay {
    /// Waits for the answer, and says that it is waited for.
    pub(super) async fn answer(
        self,
        mut told: oneshot::Receiver<Result<(), LogError>>,
    ) -> Result<(), LogError> {
        if let Ok(answer) = told.try_recv() {
            return answer;
        }
        self.queue.want(self.ticket);
        told.await.unwrap_or_else(|_| Err(LogError::Failed("its writer has ended".to_owned())))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.queue.lock().under_way -= 1;
    }
}

/// Writes what a [`Queue`] holds.
pub(super) struct Committer {
    pub queue: Arc<Queue>,
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub durability: Durability,
    pub position: Position,
    pub segment: Option<Open>,
    /// Leaf hashes of what was written and not flushed yet.
    pub unflushed: Vec<Hash>,
    /// Since when there is something that was not flushed.
    pub since: Option<Instant>,
    /// Where leaf hashes of what was flushed go; bounded, so that a tree that is behind holds the log up.
    pub flushed: SyncSender<Vec<Hash>>,
    /// The reason, if the log has failed.
    pub failure: watch::Sender<Option<LogError>>,
    /// What one write is made of; kept for its room.
    pub buffer: Vec<u8>,
    /// How many entries of the tree the disk holds.
    pub reached: u64,
    /// When and why the disk did not take the last that was written.
    pub unwritten: Arc<Mutex<Option<Unwritten>>>,
    pub metrics: LogMetrics,
}

/// That the disk did not take records.
#[derive(Debug, Clone)]
pub(super) struct Unwritten {
    pub at: Instant,
    pub error: LogError,
}

/// Why something did not reach the disk.
#[derive(Debug)]
pub(super) enum Failure {
    /// The disk did not take it; what it took before is as it was.
    Unwritten(io::Error),
    /// It is not known what the disk holds.
    Unknown(io::Error),
}

/// The file that is written.
pub(super) struct Open {
    file: Box<dyn LogFile>,
    length: u64,
    day: i64,
}

impl Committer {
    /// Writes until the queue is closed and empty, or until it is unknown what the disk holds.
    pub(super) fn run(mut self) {
        loop {
            let window = match self.durability {
                Durability::Durable => Duration::ZERO,
                Durability::Relaxed { window_ms } => Duration::from_millis(window_ms.into()),
            };
            let next = self.queue.next(self.since.map(|since| since + window));
            let ended = matches!(next, Next::End);
            let submissions = match next {
                Next::Write(submissions) => submissions,
                Next::Flush | Next::End => Vec::new(),
            };
            let due = |since: Instant| ended || since.elapsed() >= window;
            let written = self.write(&submissions);
            // What was written before is flushed in time, whether this was written or not.
            let flushed = match (self.since, &written) {
                (_, Err(Failure::Unknown(_))) => Ok(()),
                (Some(since), _) if due(since) => self.flush(),
                _ => Ok(()),
            };
            match flushed.and(written) {
                Ok(()) => {
                    if !submissions.is_empty() {
                        self.note(None);
                    }
                    self.tell(submissions, &Ok(()));
                }
                Err(Failure::Unwritten(error)) => {
                    let error = LogError::Unwritable(error.to_string());
                    self.note(Some(Unwritten { at: Instant::now(), error: error.clone() }));
                    self.tell(submissions, &Err(error));
                }
                Err(Failure::Unknown(error)) => {
                    self.fail(submissions, &error);
                    return;
                }
            }
            self.hand_on();
            if ended {
                self.end();
                return;
            }
        }
    }

    /// Writes blocks of all that was submitted: all of it, or, on an error, nothing that counts. What a failed
    /// attempt has left behind is written over by the next, and does not follow the block before it if the
    /// process ends in between.
    pub(super) fn write(&mut self, submissions: &[Submission]) -> Result<(), Failure> {
        let groups: Vec<&Group> = submissions.iter().flat_map(|each| &each.groups).collect();
        let Some(first) = groups.iter().find_map(|group| group.times) else { return Ok(()) };
        self.roll(first.0.unix().div_euclid(86_400))?;
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let (mut position, mut leaves) = (self.position, Vec::new());
        self.buffer.clear();
        for group in pack(&groups) {
            position.previous = block::write(&mut self.buffer, &position, &group);
            position.number += 1;
            position.first += group.len() as u64;
            leaves.extend_from_slice(&group.leaves);
        }
        segment.file.write_at(&self.buffer, segment.length).map_err(Failure::Unwritten)?;
        segment.length += self.buffer.len() as u64;
        self.metrics.wrote(self.buffer.len());
        self.position = position;
        self.unflushed.append(&mut leaves);
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Begins a new file if there is none, if it is long, or with a new day. What the last one holds is on the
    /// disk by then.
    fn roll(&mut self, day: i64) -> Result<(), Failure> {
        let goes_on = |open: &Open| open.day == day && open.length < LONGEST_SEGMENT;
        if self.segment.as_ref().is_some_and(goes_on) {
            return Ok(());
        }
        self.flush()?;
        if let Some(mut open) = self.segment.take() {
            open.file.end(open.length).map_err(Failure::Unknown)?;
        }
        let segment = Segment::of(&self.directory, self.position.first);
        let file = self.disk.create(&segment.path).map_err(Failure::Unwritten)?;
        self.segment = Some(Open { file, length: 0, day });
        Ok(())
    }

    /// Has what was written reach the disk.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        if let (Some(_), Some(open)) = (self.since, &mut self.segment) {
            let start = Instant::now();
            open.file.flush().map_err(Failure::Unknown)?;
            let size = self.position.first;
            self.metrics.flushed(start, Instant::now(), size - self.reached, size);
            self.reached = size;
        }
        self.position.flushed = self.position.number;
        self.since = None;
        Ok(())
    }

    /// Gives the leaf hashes of what was flushed to the tree.
    fn hand_on(&mut self) {
        if self.since.is_none() && !self.unflushed.is_empty() {
            self.queue.unkept.fetch_add(self.unflushed.len(), Ordering::Relaxed);
            // The tree is gone only when the log is being dropped after a failure of its own.
            let _ = self.flushed.send(std::mem::take(&mut self.unflushed));
        }
    }

    fn end(&mut self) {
        if let Some(open) = &mut self.segment {
            // Only room that was kept for more is given back: the next start finds the end without it.
            let _ = open.file.end(open.length);
        }
    }

    fn fail(&self, submissions: Vec<Submission>, error: &io::Error) {
        let error = LogError::Failed(error.to_string());
        self.tell(submissions, &Err(error.clone()));
        self.tell(self.queue.fail(&error), &Err(error.clone()));
        self.failure.send_replace(Some(error));
    }

    fn tell(&self, submissions: Vec<Submission>, answer: &Result<(), LogError>) {
        if let Err(error) = answer {
            self.metrics.refused(error, submissions.len());
        }
        for submission in submissions {
            // Who has left does not hear it.
            let _ = submission.tell.send(answer.clone());
        }
    }

    /// What became of the last attempt.
    fn note(&self, unwritten: Option<Unwritten>) {
        *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner) = unwritten;
    }
}

impl Drop for Committer {
    /// After a panic nobody would answer any more.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(
                Vec::new(),
                &io::Error::other("its writer has ended; the server's log says why"),
            );
        }
    }
}

/// Puts small groups together, so that few blocks are written.
fn pack<'a>(groups: &[&'a Group]) -> Vec<std::borrow::Cow<'a, Group>> {
    use std::borrow::Cow;
    let mut packed: Vec<Cow<'a, Group>> = Vec::new();
    for &group in groups {
        match packed.last_mut() {
            Some(last) if last.has_room_for(group) => last.to_mut().absorb(group),
            _ => packed.push(Cow::Borrowed(group)),
        }
    }
    packed
}
