//! How answers get from a signing thread to the callers that wait for them.
//!
//! Waking the runtime costs the signing thread a system call, a good part of a soft token's signature; and
//! where no core is spare, the thread that was woken takes the signer's core, answer by answer. So answers of
//! a fast device go out together, and the runtime is woken for one of them: its caller hands out the rest,
//! from inside the runtime, where waking costs little. A caller may be woken and yet not look for a while;
//! what it has not handed out by then, the signing thread does, or the watch.

use std::collections::VecDeque;
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
/// all. A slow device's answers wait only for one that another thread is about to have.
pub(super) struct Answers {
    /// Threads that sign.
    threads: usize,
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
    /// When what a slow device works on was begun, oldest first.
    under_way: VecDeque<Instant>,
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
        Self { threads, held: Mutex::default() }
    }

    /// A device that takes longer is slow.
    const FAST: Duration = Duration::from_millis(1);
    /// At most so many wait for each other.
    const MOST: usize = 256;
    /// No answer waits longer for the next one to be signed than about this. Those that are held back are at
    /// most half of what waits, so each has waited longer than that for its turn.
    pub(super) const LONGEST: Duration = Duration::from_millis(8);
    /// Nor, of a slow device, than about this: a few times what waking the runtime costs.
    const SOON: Duration = Duration::from_micros(100);

    /// A thread begins a signature, on a device that has taken `pace` for one of late: what is slow can be
    /// waited for if it is known when it will be there.
    pub(super) fn begun(&self, now: Instant, pace: Duration) {
        if pace > Self::FAST {
            let under_way = &mut self.held().under_way;
            // One whose thread hangs is not told of: it is the oldest before long.
            if under_way.len() >= self.threads {
                under_way.pop_front();
            }
            under_way.push_back(now);
        }
    }

    /// What was begun at that time comes to nothing.
    pub(super) fn none_of(&self, begun: Instant) {
        self.held().forget(begun);
    }

    /// Adds an answer that was begun at one time and ready at the other, of a device that takes `pace` for
    /// one, while so many jobs wait.
    pub(super) fn add(
        &self,
        reply: Reply,
        answer: Answer,
        (begun, now): (Instant, Instant),
        pace: Duration,
        waiting: usize,
    ) {
        let mut held = self.held();
        let (next, longest) = if pace > Self::FAST {
            (held.next(begun, now, pace), Self::SOON)
        } else {
            (pace, Self::LONGEST)
        };
        let since = *held.since.get_or_insert(now);
        held.ready.push((reply, answer));
        let many = held.ready.len() >= Self::MOST.min(waiting / 2);
        if many || now.saturating_duration_since(since).saturating_add(next) > longest {
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
    /// How long it will be until another thread of a slow device has an answer. What should have been there
    /// a while ago may never be.
    fn next(&mut self, begun: Instant, now: Instant, pace: Duration) -> Duration {
        self.forget(begun);
        let mut ends = self.under_way.iter().map(|&begun| begun + pace);
        let next = ends.find(|&end| end + Answers::SOON > now);
        next.map_or(Duration::MAX, |end| end.saturating_duration_since(now))
    }

    fn forget(&mut self, begun: Instant) {
        if let Some(ended) = self.under_way.iter().position(|&other| other == begun) {
            self.under_way.remove(ended);
        }
    }

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

    /// How many of `count` answers of a fast device, made one after another, are still held back.
    fn held(count: usize, took: Duration, waiting: usize) -> usize {
        let (answers, mut now) = (Answers::of(1), Instant::now());
        let mut callers = Vec::new();
        for _ in 0..count {
            let (reply, caller) = awaited();
            callers.push(caller);
            answers.add(reply, refusal(), (now, now + took), took, waiting);
            now += took;
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
    fn a_slow_devices_answers_wait_for_one_that_comes_within_100_microseconds() {
        const TOOK: Duration = Duration::from_millis(2);
        let start = Instant::now();
        let after = |microseconds| start + Duration::from_micros(microseconds);
        // Begun at those times; as many as are asked for have ended, each on time. How many are held back.
        let held = |begun: &[u64], ended: usize, waiting| {
            let answers = Answers::of(30);
            begun.iter().for_each(|&at| answers.begun(after(at), TOOK));
            let mut callers = Vec::new();
            for &at in &begun[..ended] {
                let (reply, caller) = awaited();
                callers.push(caller);
                answers.add(reply, refusal(), (after(at), after(at) + TOOK), TOOK, waiting);
            }
            callers.iter_mut().rev().filter_map(|caller| caller.look().err()).count()
        };
        assert_eq!(held(&[0, 40, 80, 120], 1, 30), 1, "the next comes in 40 microseconds");
        assert_eq!(held(&[0, 40, 80, 120], 2, 30), 2, "and the one after it in as many");
        assert_eq!(held(&[0, 40, 80, 120], 3, 30), 0, "then the first has waited long enough");
        assert_eq!(held(&[0, 40], 2, 30), 0, "none is under way");
        assert_eq!(held(&[0, 40, 900], 2, 30), 0, "the next comes much later");
        assert_eq!(held(&[0, 40, 80], 1, 1), 0, "nothing else is to be done");
    }

    #[test]
    fn what_a_slow_device_owes_for_long_is_not_waited_for() {
        const TOOK: Duration = Duration::from_millis(2);
        let (answers, start) = (Answers::of(30), Instant::now());
        let after = |microseconds| start + Duration::from_micros(microseconds);
        answers.begun(start, TOOK);
        answers.begun(after(400), TOOK);
        let (reply, mut caller) = awaited();
        answers.add(reply, refusal(), (after(400), after(2400)), TOOK, 30);
        assert!(caller.look().is_ok(), "the first hangs, or has come to nothing");
        (0..100).for_each(|at| answers.begun(after(at), TOOK));
        assert_eq!(answers.held().under_way.len(), 30, "no more than there are threads");
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
                answers.add(reply, refusal(), (now, now), took, 100);
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
            let now = Instant::now();
            answers.add(reply, refusal(), (now, now), Duration::from_micros(1), 100);
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
            let now = Instant::now();
            answers.add(reply, refusal(), (now, now), Duration::from_micros(1), 100);
        }
        answers.hand_out();
        assert!(waits.look().is_err() && !answers.is_empty(), "the other was woken for both");
        answers.hand_out();
        assert!(waits.look().is_ok() && answers.is_empty());
    }
}
