//! Answers on their way out. HTTP/2 asks for the next when the peer has taken the last; a peer that takes none holds
//! what is ready for it, and what it sends meanwhile is not read either.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// The answers of one connection that its peer has to take, each since when.
#[derive(Debug, Default)]
pub(super) struct Departures(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// At most one for each stream.
    since: HashMap<u64, Instant>,
}

impl Departures {
    /// Since when the peer has taken nothing of a stream that has something for it.
    pub(super) fn since(&self) -> Option<Instant> {
        self.lock().since.values().min().copied()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a response, watched.
pub(super) struct Departure {
    body: Body,
    all: Arc<Departures>,
    number: u64,
}

impl Departure {
    pub(super) fn of(body: Body, all: &Arc<Departures>) -> Self {
        let mut waiting = all.lock();
        waiting.next += 1;
        let number = waiting.next;
        drop(waiting);
        Self { body, all: Arc::clone(all), number }
    }
}

impl hyper::body::Body for Departure {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let mut waiting = self.all.lock();
        match &polled {
            Poll::Ready(Some(Ok(_))) => drop(waiting.since.insert(self.number, Instant::now())),
            _ => drop(waiting.since.remove(&self.number)),
        }
        drop(waiting);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.all.lock().since.remove(&self.number);
    }
}
