//! Answers on their way out. A peer that takes none holds what is ready for it, and what it sends meanwhile is not read
//! either. HTTP/2 asks for the next answer before the last has left, so each is watched until it has.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
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
    /// By stream; no entry for none.
    of: HashMap<u64, Queue>,
}

/// What waits of one stream; it leaves in its order.
#[derive(Debug)]
struct Queue {
    pieces: usize,
    /// Since when the first of them is the first.
    since: Instant,
}

impl Departures {
    /// Since when the peer has something to take, and has not taken all of it.
    pub(super) fn since(&self) -> Option<Instant> {
        self.lock().of.values().map(|queue| queue.since).min()
    }

    fn piece(self: &Arc<Self>, stream: u64, bytes: Bytes) -> Piece {
        let mut waiting = self.lock();
        let none = || Queue { pieces: 0, since: Instant::now() };
        waiting.of.entry(stream).or_insert_with(none).pieces += 1;
        drop(waiting);
        Piece { bytes, stream, all: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a response, watched.
pub(super) struct Departure {
    body: Body,
    all: Arc<Departures>,
    stream: u64,
}

impl Departure {
    pub(super) fn of(body: Body, all: &Arc<Departures>) -> Self {
        let mut waiting = all.lock();
        waiting.next += 1;
        let stream = waiting.next;
        drop(waiting);
        Self { body, all: Arc::clone(all), stream }
    }
}

impl hyper::body::Body for Departure {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_ok(|frame| frame.map_data(|bytes| self.all.piece(self.stream, bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer. HTTP/2 drops them once all of them are written, or when it gives up their stream.
pub(super) struct Piece {
    bytes: Bytes,
    stream: u64,
    all: Arc<Departures>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut waiting = self.all.lock();
        let Some(queue) = waiting.of.get_mut(&self.stream) else { return };
        queue.pieces -= 1;
        queue.since = Instant::now();
        if queue.pieces == 0 {
            waiting.of.remove(&self.stream);
        }
    }
}
