//! How answers get from a signing thread to the callers that wait for them.
//!
//! Waking the runtime costs the signing thread a system call, a good part of a soft token's signature; and
//! where no core is spare, the thread that was woken takes the signer's core, answer by answer. So answers of
//! a fast device go out together, and the runtime is woken for one of them: its caller hands out the rest,
//! from inside the runtime, where waking costs little. A caller may be woken and yet not look for a while;
//! what it has not handed out by then, the signing thread does, or the watch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ca_core::key::{SignError, Signature};
use tokio::sync::oneshot;

/// What a caller gets.
pub(super) type Answer = Result<Signature, SignError>;

/// The way to a caller.
pub(super) struct Reply(oneshot::Sender<Delivery>);

/// A caller's end of it.
pub(super) struct Awaited(oneshot::Receiver<Delivery>);

/// An answer, and those of others that came with it.
struct Delivery {
    answer: Answer,
    neighbours: Option<Arc<Neighbours>>,
}

/// Answers of others, until somebody hands them out.
struct Neighbours(Mutex<Vec<(Reply, Answer)>>);

impl Neighbours {
    /// Whoever comes first does it.
    fn hand_out(&self) {
        let answers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (reply, answer) in answers {
            reply.send(answer);
        }
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.hand_out();
    }
}

/// A caller who waits, and the way to it.
pub(super) fn awaited() -> (Reply, Awaited) {
    let (sender, receiver) = oneshot::channel();
    (Reply(sender), Awaited(receiver))
}

impl Reply {
    /// Answers at once. The caller may have gone in the meantime, which harms nobody.
    pub(super) fn send(self, answer: Answer) {
        let _ = self.0.send(Delivery { answer, neighbours: None });
    }

    /// Whether the caller has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Awaited {
    /// The answer; `None` if there will be none. Hands out what came with it.
    pub(super) async fn answer(self) -> Option<Answer> {
        let Delivery { answer, neighbours } = self.0.await.ok()?;
        if let Some(neighbours) = neighbours {
            neighbours.hand_out();
        }
        Some(answer)
    }

    /// The answer, if it is there.
    pub(super) fn look(&mut self) -> Result<Answer, oneshot::error::TryRecvError> {
        let Delivery { answer, neighbours } = self.0.try_recv()?;
        if let Some(neighbours) = neighbours {
            neighbours.hand_out();
        }
        Ok(answer)
    }
}

/// Answers that are handed out together while more work waits: as many as half of that, so that no session is
/// idle for want of callers. A slow device's answers go out one by one: waking the runtime costs little beside
/// one of its signatures.
#[derive(Default)]
pub(super) struct Answers {
    ready: Vec<(Reply, Answer)>,
    /// Since when the first of them, or of those that a caller was given, may be waiting.
    oldest: Option<Instant>,
    /// Those that a caller was given to hand out.
    given: Option<Arc<Neighbours>>,
}

impl Answers {
    /// A device that takes longer is slow.
    const FAST: Duration = Duration::from_micros(250);
    /// At most so many wait for each other.
    const MOST: usize = 64;
    /// No answer waits longer for the next one to be signed than about this. Those that are held back are at
    /// most half of what waits, so each has waited longer than that for its turn.
    pub(super) const LONGEST: Duration = Duration::from_millis(4);

    /// Adds an answer that was ready at `now` after `took`, while so many jobs wait.
    pub(super) fn add(
        &mut self,
        reply: Reply,
        answer: Answer,
        now: Instant,
        took: Duration,
        waiting: usize,
    ) {
        if self.ready.is_empty() && self.given.is_none() {
            self.oldest = Some(now);
        }
        let oldest = self.oldest.unwrap_or(now);
        self.ready.push((reply, answer));
        let most = Self::MOST.min(waiting / 2);
        if took > Self::FAST || self.ready.len() >= most || now - oldest + took > Self::LONGEST {
            self.hand_out();
        }
    }

    /// Since when the oldest waits, if any does.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    /// Hands out all: to the first caller who is still there, with the others'.
    pub(super) fn hand_out(&mut self) {
        self.oldest = None;
        if let Some(given) = self.given.take() {
            given.hand_out();
        }
        if self.ready.len() <= 1 {
            return self.ready.drain(..).for_each(|(reply, answer)| reply.send(answer));
        }
        let mut all = std::mem::take(&mut self.ready);
        while let Some((reply, answer)) = all.pop() {
            if reply.is_closed() {
                continue;
            }
            let neighbours = Arc::new(Neighbours(Mutex::new(all)));
            self.given = Some(Arc::clone(&neighbours));
            self.oldest = Some(Instant::now());
            // If the caller has gone at this moment, the thread that gave them hands its neighbours out.
            let _ = reply.0.send(Delivery { answer, neighbours: Some(neighbours) });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Answer {
        Err(SignError::Refused { key: "k".to_owned(), reason: "r".to_owned() })
    }

    /// How many of `count` answers, made one after another, are still held back.
    fn held(count: usize, took: Duration, waiting: usize) -> usize {
        let (mut answers, mut now) = (Answers::default(), Instant::now());
        let mut callers = Vec::new();
        for _ in 0..count {
            let (reply, caller) = awaited();
            callers.push(caller);
            now += took;
            answers.add(reply, refusal(), now, took, waiting);
        }
        // The last is the one that hands out the others.
        callers.iter_mut().rev().filter_map(|caller| caller.look().err()).count()
    }

    #[test]
    fn a_fast_devices_answers_go_out_together_and_a_slow_ones_at_once() {
        assert_eq!(held(3, Duration::from_micros(20), 100), 3);
        assert_eq!(held(50, Duration::from_micros(20), 100), 0, "half of what waits is held back");
        assert_eq!(held(64, Duration::from_micros(20), 1000), 0, "so many are enough");
        assert_eq!(held(19, Duration::from_micros(200), 100), 19);
        assert_eq!(held(21, Duration::from_micros(200), 100), 0, "the first would grow too old");
        assert_eq!(held(1, Duration::from_micros(300), 100), 0, "a slow device");
        assert_eq!(held(1, Duration::from_micros(20), 0), 0, "nothing else is to be done");
        assert_eq!(held(5, Duration::from_micros(20), 10), 0, "half of what waits is held back");
    }

    #[test]
    fn no_answer_is_lost_whichever_callers_have_gone() {
        for gone in 0..8_u32 {
            let mut answers = Answers::default();
            let mut callers = Vec::new();
            for caller in 0..3 {
                let (reply, awaited) = awaited();
                callers.push((gone & 1 << caller == 0).then_some(awaited));
                let (now, took) = (Instant::now(), Duration::from_micros(1));
                answers.add(reply, refusal(), now, took, 100);
            }
            answers.hand_out();
            // In any order: the one who hands out may be the last to look.
            let mut left: Vec<_> = callers.into_iter().flatten().collect();
            for _ in 0..3 {
                left.retain_mut(|caller| caller.look().is_err());
            }
            assert!(left.is_empty(), "{gone:03b}");
        }
    }

    #[test]
    fn a_caller_that_leaves_without_looking_leaves_the_others_their_answers() {
        let mut answers = Answers::default();
        let (first, mut kept) = awaited();
        let (second, leaves) = awaited();
        for reply in [first, second] {
            answers.add(reply, refusal(), Instant::now(), Duration::from_micros(1), 100);
        }
        answers.hand_out();
        drop(leaves);
        answers.hand_out();
        assert!(kept.look().is_ok());
    }

    #[test]
    fn what_a_caller_does_not_hand_out_is_handed_out_all_the_same() {
        let mut answers = Answers::default();
        let (first, mut waits) = awaited();
        let (second, _sleeps) = awaited();
        for reply in [first, second] {
            answers.add(reply, refusal(), Instant::now(), Duration::from_micros(1), 100);
        }
        answers.hand_out();
        assert!(
            waits.look().is_err() && answers.oldest().is_some(),
            "the other was woken for both"
        );
        answers.hand_out();
        assert!(waits.look().is_ok() && answers.oldest().is_none());
    }
}
