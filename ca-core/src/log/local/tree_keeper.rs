//! The thread that keeps the tree: leaf hashes of what was flushed come in, tiles go out, and a head is shown
//! when all of it is on the disk.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::super::metrics::LogMetrics;
use super::super::tree::{Hash, Head, Tiles};
use super::committer::Queue;

/// While entries come, a new head is shown this often: twice for each second in which one is owed.
const EVERY: Duration = Duration::from_millis(500);
/// Or after so many entries: two MiB of hashes.
const MOST_HELD: usize = 65_536;
/// How long to wait after the disk took no tiles. Meanwhile the log goes on until the queue is full.
const AGAIN: Duration = Duration::from_millis(500);

/// How far the tree is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The newest tree whose entries and hashes are on the disk.
    pub head: Head,
    /// Why the disk takes no hashes at present, if it does not.
    pub trouble: Option<String>,
}

/// Runs until the committer is gone, and everything that came is on the disk as far as that takes it. A log that
/// is being closed does not wait for a disk that takes no tiles.
pub(super) fn run(
    mut tiles: Tiles,
    flushed: &Receiver<Vec<Hash>>,
    kept: &watch::Sender<Kept>,
    metrics: &LogMetrics,
    queue: &Queue,
) {
    // The first entry of the run is there already.
    let mut since = Some(Instant::now());
    let mut held = 0;
    loop {
        let wait = since.map_or(Duration::MAX, |since| EVERY.saturating_sub(since.elapsed()));
        let ended = match flushed.recv_timeout(wait) {
            Ok(leaves) => {
                tiles.append(&leaves);
                held += leaves.len();
                since.get_or_insert_with(Instant::now);
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        let due = since.is_some_and(|since| since.elapsed() >= EVERY) || held >= MOST_HELD;
        if due || ended {
            match tiles.flush() {
                Ok(()) => {
                    metrics.kept(tiles.head());
                    kept.send_replace(Kept { head: tiles.head(), trouble: None });
                    queue.kept(held);
                    (since, held) = (None, 0);
                }
                // The next start makes them from the records.
                Err(_) if ended || queue.is_closed() => return,
                Err(error) => {
                    kept.send_modify(|kept| kept.trouble = Some(error.to_string()));
                    std::thread::sleep(AGAIN);
                }
            }
        }
        if ended {
            return;
        }
    }
}
