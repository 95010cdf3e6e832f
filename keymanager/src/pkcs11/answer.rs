//! How answers get from a signing thread to the callers that wait for them.
//!
//! Waking the runtime costs the signing thread a system call, a good part of a soft token's signature; and
//! where no core is spare, the thread that was woken takes the signer's core, answer by answer. So answers of
//! a fast device go out together, and the runtime is woken for one of them: its caller hands out the rest,
//! from inside the runtime, where waking costs little. A caller may be woken and yet not look for a while;
//! what it has not handed out by then, the signing thread does, or the watch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
/// idle for want of callers. All signing threads of a token share them, so that the runtime is woken once for
/// all. A slow device's answers wait only for those that other threads are about to have.
pub(super) struct Answers {
    /// Threads that sign. While more work waits, all are at it.
    threads: u32,
    held: Mutex<Held>,
}

/// What has not reached its caller yet.
#[derive(Default)]
struct Held {
    ready: Vec<(Reply, Answer)>,
    /// When the first of them was ready.
    since: Option<Instant>,
    /// Those that a caller was given to hand out, and when.
    given: Option<(Arc<Neighbours>, Instant)>,
}

/// What goes out: the caller that is woken is given the rest.
struct Batch {
    leader: Option<(Reply, Delivery)>,
    /// Those that an earlier leader was given: the rest of them, if it has not handed them out by now.
    overdue: Option<Arc<Neighbours>>,
}

impl Answers {
    /// Answers of so many threads.
    pub(super) fn of(threads: usize) -> Self {
        Self { threads: u32::try_from(threads).unwrap_or(u32::MAX), held: Mutex::default() }
    }

    /// A device that takes longer is slow.
    const FAST: Duration = Duration::from_millis(1);
    /// At most so many wait for each other.
    const MOST: usize = 256;
    /// No answer waits longer for the next one to be signed than about this. Those that are held back are at
    /// most half of what waits, so each has waited longer than that for its turn.
    pub(super) const LONGEST: Duration = Duration::from_millis(8);
    /// Nor, of a slow device, than about this: a few times what waking the runtime costs.
    const SOON: Duration = Duration::from_micros(150);

    /// Adds an answer that was ready at `now`, of a device that takes `pace` for one, while so many jobs wait.
    pub(super) fn add(
        &self,
        reply: Reply,
        answer: Answer,
        now: Instant,
        pace: Duration,
        waiting: usize,
    ) {
        let (next, longest) = if pace > Self::FAST {
            (pace / self.threads.max(1), Self::SOON)
        } else {
            (pace, Self::LONGEST)
        };
        let mut held = self.held();
        let since = *held.since.get_or_insert(now);
        held.ready.push((reply, answer));
        let many = held.ready.len() >= Self::MOST.min(waiting / 2);
        if many || now.saturating_duration_since(since) + next > longest {
            Self::send(held);
        }
    }

    /// Hands out all: to the first caller who is still there, with the others'.
    pub(super) fn hand_out(&self) {
        Self::send(self.held());
    }

    /// Hands out all if the oldest has waited so long.
    pub(super) fn hand_out_older(&self, age: Duration, now: Instant) {
        let held = self.held();
        let given = held.given.as_ref().map(|(_, since)| *since);
        if [held.since, given]
            .into_iter()
            .flatten()
            .any(|since| now.saturating_duration_since(since) >= age)
        {
            Self::send(held);
        }
    }

    /// Whether all have reached their callers.
    pub(super) fn is_empty(&self) -> bool {
        let held = self.held();
        held.since.is_none() && held.given.is_none()
    }

    /// Waking a caller takes long, so nobody is kept from adding meanwhile.
    fn send(mut held: MutexGuard<'_, Held>) {
        let batch = held.take();
        drop(held);
        batch.send();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is complete before anything that may panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn take(&mut self) -> Batch {
        self.since = None;
        let overdue = self.given.take().map(|(neighbours, _)| neighbours);
        // Capacity for as many again: they are about as many each time.
        let room = Vec::with_capacity(self.ready.len());
        let mut all = std::mem::replace(&mut self.ready, room);
        while let Some((reply, answer)) = all.pop() {
            if reply.is_closed() {
                continue;
            }
            let neighbours = (!all.is_empty()).then(|| Arc::new(Neighbours(Mutex::new(all))));
            self.given = neighbours.clone().map(|neighbours| (neighbours, Instant::now()));
            return Batch { leader: Some((reply, Delivery { answer, neighbours })), overdue };
        }
        Batch { leader: None, overdue }
    }
}

impl Batch {
    fn send(self) {
        if let Some(overdue) = self.overdue {
            overdue.hand_out();
        }
        if let Some((reply, delivery)) = self.leader {
            // If the caller has gone at this moment, its neighbours are handed out with the next batch.
            let _ = reply.0.send(delivery);
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
        held_of(1, count, took, waiting)
    }

    /// As [`held`], of so many threads that take turns.
    fn held_of(threads: u32, count: usize, took: Duration, waiting: usize) -> usize {
        let (answers, mut now) = (Answers::of(threads as usize), Instant::now());
        let mut callers = Vec::new();
        for _ in 0..count {
            let (reply, caller) = awaited();
            callers.push(caller);
            now += took / threads;
            answers.add(reply, refusal(), now, took, waiting);
        }
        // The last is the one that hands out the others.
        callers.iter_mut().rev().filter_map(|caller| caller.look().err()).count()
    }

    #[test]
    fn a_fast_devices_answers_go_out_together_and_a_slow_ones_at_once() {
        assert_eq!(held(3, Duration::from_micros(20), 100), 3);
        assert_eq!(held(50, Duration::from_micros(20), 100), 0, "half of what waits is held back");
        assert_eq!(held(256, Duration::from_micros(20), 1000), 0, "so many are enough");
        assert_eq!(held(39, Duration::from_micros(200), 100), 39);
        assert_eq!(held(41, Duration::from_micros(200), 100), 0, "the first would grow too old");
        assert_eq!(held(1, Duration::from_micros(1100), 100), 0, "a slow device");
        assert_eq!(held(1, Duration::from_micros(20), 0), 0, "nothing else is to be done");
        assert_eq!(held(5, Duration::from_micros(20), 10), 0, "half of what waits is held back");
    }

    #[test]
    fn a_slow_devices_answers_wait_for_those_that_come_within_150_microseconds() {
        let slow = Duration::from_millis(2);
        assert_eq!(held_of(30, 1, slow, 30), 1, "the next comes in 67 microseconds");
        assert_eq!(held_of(30, 2, slow, 30), 2, "and the one after it in as many");
        assert_eq!(held_of(30, 3, slow, 30), 0, "then the first has waited long enough");
        assert_eq!(held_of(30, 1, slow, 1), 0, "there may be no other");
        assert_eq!(held_of(8, 1, slow, 30), 0, "the next comes in 250 microseconds");
    }

    #[test]
    fn no_answer_is_lost_whichever_callers_have_gone() {
        for gone in 0..8_u32 {
            let answers = Answers::of(1);
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
        let answers = Answers::of(1);
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
        let answers = Answers::of(1);
        let (first, mut waits) = awaited();
        let (second, _sleeps) = awaited();
        for reply in [first, second] {
            answers.add(reply, refusal(), Instant::now(), Duration::from_micros(1), 100);
        }
        answers.hand_out();
        assert!(waits.look().is_err() && !answers.is_empty(), "the other was woken for both");
        answers.hand_out();
        assert!(waits.look().is_ok() && answers.is_empty());
    }
}
