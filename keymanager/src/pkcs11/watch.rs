//! The thread that looks after the threads that sign: finds calls that hang, also those by which a session
//! is opened or the library brought back, hands out answers that are stuck behind one, and has a probe signed
//! now and then.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ca_core::key::{Priority, SignError, ToBeSigned, Urgency};
use tokio::sync::oneshot::error::TryRecvError;

use super::answer::{Awaited, awaited};
use super::key::Facts;
use super::pool::{Inner, Job, Order};
use super::worker::Slot;
use crate::probes::Probes;

/// How often it looks while anything is being signed. A finished answer waits no longer than this behind a
/// call that hangs.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Runs until the pool is dropped: calls may hang in a lost one too, and their callers are answered.
pub(super) fn run(pool: &Arc<Inner>) {
    pool.watcher.is(thread::current());
    let mut probe = Probe::first(pool.probe_interval);
    while !pool.watcher.has_ended() {
        let now = Instant::now();
        probe.look(pool, now);
        pool.watcher.is_about_to_sleep();
        // Locked one after another, and none while another is: a worker never waits for two.
        let slots: Vec<Arc<Slot>> = pool.slots().clone();
        let busy = slots.iter().filter(|slot| look_after(pool, slot, now)).count();
        pool.answers.hand_out_older(TICK, now);
        let recovers = pool.look_after_recovery(now);
        if busy > 0 || recovers || !pool.answers.is_empty() || probe.is_under_way() {
            thread::sleep(TICK);
        } else {
            pool.watcher.sleep(probe.due.saturating_duration_since(now).max(TICK));
        }
    }
}

/// Looks after one thread; says whether it is at work.
fn look_after(pool: &Arc<Inner>, slot: &Arc<Slot>, now: Instant) -> bool {
    let mut state = slot.state();
    let since = |started: Instant| now.saturating_duration_since(started);
    let hangs =
        state.current.as_ref().is_some_and(|(_, started)| since(*started) > pool.stall_limit);
    let busy = state.is_busy();
    let taken = if hangs { state.current.take() } else { None };
    let opens = state.opening.take_if(|started| since(*started) > pool.stall_limit);
    let hangs = taken.is_some() || opens.is_some();
    if hangs {
        pool.hangs();
    }
    drop(state);
    if hangs {
        pool.replace(slot);
    }
    if let Some((job, _)) = taken {
        try_elsewhere(pool, job);
    }
    busy
}

/// Since when a thread is in a call that nobody else makes meanwhile.
#[derive(Default)]
pub(super) struct Stopwatch(Mutex<Option<Instant>>);

impl Stopwatch {
    /// Makes the call.
    pub(super) fn time<T>(&self, call: impl FnOnce() -> T) -> T {
        self.set(Some(Instant::now()));
        let result = call();
        self.set(None);
        result
    }

    /// For how long the present call has taken, if there is one.
    pub(super) fn elapsed(&self, now: Instant) -> Option<Duration> {
        let started = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        started.map(|started| now.saturating_duration_since(started))
    }

    fn set(&self, started: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = started;
    }
}

/// A job whose call hangs is tried once on another thread; if it hangs there too, its caller is told.
fn try_elsewhere(pool: &Inner, mut job: Job) {
    if job.hung || pool.queue.is_closed() {
        let (key, limit) = (job.key_name(), pool.stall_limit);
        let reason = format!("calls into the PKCS#11 module hang for more than {limit:?}");
        job.reply.send(Err(SignError::Unavailable { key, reason }));
    } else {
        job.hung = true;
        pool.put_back(job);
    }
}

/// The probe: whether the device signs, found out before a caller does.
struct Probe {
    due: Instant,
    keys: Probes,
    under_way: Option<(Arc<Facts>, Awaited)>,
}

impl Probe {
    fn first(interval: Duration) -> Self {
        Self { due: Instant::now() + interval, keys: Probes::default(), under_way: None }
    }

    fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    fn look(&mut self, pool: &Inner, now: Instant) {
        if let Some((key, answer)) = &mut self.under_way {
            let outcome = match answer.look() {
                // It has been verified.
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(TryRecvError::Closed) => Err("the probe was dropped".to_owned()),
                Err(TryRecvError::Empty) if now < self.due => return,
                Err(TryRecvError::Empty) => Err("the probe was not signed in time".to_owned()),
            };
            let in_use = pool.keys_in_use();
            let names = in_use.iter().map(|key| &key.name);
            let is_news = self.keys.conclude(&key.name, &key.metrics, &outcome, names);
            self.under_way = None;
            self.due = now + pool.probe_interval;
            if is_news {
                pool.probed(outcome);
            }
        } else if now >= self.due || pool.is_unproven() && !pool.is_recovering() {
            self.due = now + pool.stall_limit;
            self.under_way = self.ask(pool, now);
            if self.under_way.is_none() {
                self.due = now + pool.probe_interval;
            }
        }
    }

    /// Asks for a probe by the next key, if there is one and there is room.
    fn ask(&mut self, pool: &Inner, now: Instant) -> Option<(Arc<Facts>, Awaited)> {
        let key = self.keys.next(&pool.keys_in_use())?;
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let message = ToBeSigned::probe(nonce, *key.algorithms.first()?);
        let input = pool.token.input(&message)?;
        let urgency = Urgency::within(Priority::Health, pool.stall_limit, now);
        let (reply, answer) = awaited();
        // The signing thread verifies it, whatever is set for leaves.
        let order =
            Order { key: Arc::clone(&key), message, verify: true, input, urgency, submitted: now };
        pool.submit(Job::new(Arc::new(order), reply)).ok().map(|()| (key, answer))
    }
}
