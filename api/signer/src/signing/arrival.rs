//! A call on its way in. A message that has begun has to be there in time: until it is, its bytes are held.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

/// Whoever reads is busy with answers sometimes, or has no room. An alarm that it comes upon so much later says nothing
/// about the peer.
const UNATTENDED: Duration = Duration::from_secs(1);

/// The body of a request. It may be silent between messages for as long as it likes, and within one for so long only.
pub(super) struct Arrival {
    body: Incoming,
    within: Duration,
    framing: Framing,
    /// Set when a part of a message is there and no more is.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Arrival {
    pub(super) fn of(body: Incoming, within: Duration) -> Self {
        Self { body, within, framing: Framing::default(), alarm: None }
    }

    /// Ready when the rest of a message has been waited for long enough.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(self.within)));
        ready!(alarm.as_mut().poll(context));
        if alarm.deadline().elapsed() <= UNATTENDED {
            return Poll::Ready(());
        }
        alarm.as_mut().reset(Instant::now() + self.within);
        alarm.as_mut().poll(context)
    }
}

impl Body for Arrival {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // What is there is read first, however late it is.
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.data_ref().is_some_and(|bytes| self.framing.pass(bytes)) {
                    self.alarm = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => {
                Poll::Ready(end.map(|result| result.map_err(|e| Status::from_error(Box::new(e)))))
            }
            Poll::Pending if self.framing.is_within_a_message() => {
                ready!(self.poll_overdue(context));
                Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
                    "a message has begun and is not there as a whole after {} ms",
                    self.within.as_millis()
                )))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where among messages a body is. Each has a byte of flags and four of its length before it.
#[derive(Debug, Default)]
struct Framing {
    head: [u8; 5],
    /// How much of the head is there.
    known: usize,
    /// How much of the message is not, once the head is.
    missing: usize,
}

impl Framing {
    /// Goes on by these bytes; says whether a message ended in them.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        while let [first, rest @ ..] = bytes {
            if self.known < self.head.len() {
                self.head[self.known] = *first;
                self.known += 1;
                bytes = rest;
                if self.known == self.head.len() {
                    let [_, length @ ..] = self.head;
                    self.missing = u32::from_be_bytes(length) as usize;
                }
            } else {
                let count = self.missing.min(bytes.len());
                self.missing -= count;
                bytes = &bytes[count..];
            }
            if self.known == self.head.len() && self.missing == 0 {
                (self.known, ended) = (0, true);
            }
        }
        ended
    }

    fn is_within_a_message(&self) -> bool {
        self.known > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        // One of three bytes, an empty one, one of two, and the head of a fourth.
        let bytes = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\0\x02de\0\0";
        for size in 1..=bytes.len() {
            let mut framing = Framing::default();
            let mut at = 0;
            for part in bytes.chunks(size) {
                let before = at;
                at += part.len();
                let ends = [8, 13, 20].iter().any(|end| (before + 1..=at).contains(end));
                assert_eq!(framing.pass(part), ends, "parts of {size}, at {at}");
                assert_eq!(framing.is_within_a_message(), ![8, 13, 20].contains(&at));
            }
        }
    }
}
