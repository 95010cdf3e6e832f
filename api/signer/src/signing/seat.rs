//! What the streams of one connection share: who it is, how much it may have under way, and whether it is ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ca_core::frontend::FrontEnds;
use mintmark_transport::Peer;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::sync::watch;
use tonic::Request;

use super::departure::Departures;
use super::gate::FrontEndView;
use crate::status::Failure;

/// A connection whose peer has been let in.
pub(super) struct Seat {
    pub(super) peer: Peer,
    pub(super) front_end: FrontEndView,
    pub(super) front_ends: Arc<FrontEnds>,
    pub(super) room: Arc<Room>,
    /// What it has to take.
    pub(super) departures: Arc<Departures>,
    /// True when nothing more is to be read.
    pub(super) leaving: watch::Receiver<bool>,
}

impl Seat {
    /// The seat of the connection over which a call comes, for the service that has it from now on.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Arc<Self>, Failure> {
        if let Some(seen) = request.extensions().get::<Seen>() {
            seen.0.store(true, Ordering::Relaxed);
        }
        request.extensions().get::<Arc<Self>>().cloned().ok_or(Failure::CallerUnknown)
    }
}

/// Whether a call has come to its service. What is wrong with one that has not, no service writes down.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<AtomicBool>);

impl Seen {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts what a connection has under way. Beyond the bound its streams are not read from; each may be one message
/// beyond it, or some small ones.
pub(super) struct Room {
    most: usize,
    used: AtomicUsize,
    freed: Notify,
}

impl Room {
    pub(super) fn of(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0), freed: Notify::new() })
    }

    pub(super) fn is_free(&self) -> bool {
        self.used.load(Ordering::Acquire) < self.most
    }

    /// Resolves when some was freed, from now on.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    pub(super) fn take(self: &Arc<Self>, items: usize) -> Taken {
        self.used.fetch_add(items, Ordering::AcqRel);
        Taken { room: Arc::clone(self), items }
    }
}

/// Room for so many items, until it is dropped.
pub(super) struct Taken {
    room: Arc<Room>,
    items: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let used = self.room.used.fetch_sub(self.items, Ordering::AcqRel);
        if used >= self.room.most {
            self.room.freed.notify_waiters();
        }
    }
}
