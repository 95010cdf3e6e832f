//! What waits for a device: bounded by the time that it takes, served by priority.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ca_core::key::Priority;

/// So many may always wait, however slow the device is.
const ALWAYS: usize = 64;
/// One in so many is served from another class than the highest that waits, each in its turn, so that none
/// waits for ever.
const OTHERS_EVERY: u32 = 16;
/// How often a long queue that is full is looked through for jobs that nobody wants any more.
const SWEEP: Duration = Duration::from_millis(10);
/// A queue that is looked through at every refusal.
const SHORT: usize = 256;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Not longer than the device needs this long for.
    pub(super) wait: Duration,
    /// Not more than this, whatever the device's pace: a bound on memory.
    pub(super) most: usize,
    /// How many are served at a time.
    pub(super) servers: usize,
}

/// A queue of jobs with five classes.
pub(super) struct Queue<T> {
    bounds: Bounds,
    state: Mutex<State<T>>,
    /// Told when there is work, or an end.
    work: Condvar,
    /// How many wait, for a glance without the lock.
    waiting: AtomicUsize,
    /// Nanoseconds that one server takes for a job, smoothed; 0 until it is known.
    pace: AtomicU64,
    /// Whether a job has nobody left who wants it, at that time.
    is_dead: fn(&T, Instant) -> bool,
}

struct State<T> {
    classes: [VecDeque<T>; Priority::ALL.len()],
    /// Servers that sleep.
    idle: usize,
    served: u32,
    /// When those that nobody wants were removed last.
    swept: Option<Instant>,
    /// Nobody is served while the device recovers.
    paused: bool,
    closed: bool,
}

/// Why a job was not taken in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// As much waits as may; a place is likely to be free after so long.
    Busy(Duration),
    /// There are no servers any more.
    Closed,
}

/// What a server gets.
pub(super) enum Turn<T> {
    /// A job.
    Job(T),
    /// There is none just now.
    None,
    /// There will be none any more.
    End,
}

impl<T> Queue<T> {
    pub(super) fn new(bounds: Bounds, is_dead: fn(&T, Instant) -> bool) -> Self {
        let state = State {
            classes: std::array::from_fn(|_| VecDeque::new()),
            idle: 0,
            served: 0,
            swept: None,
            paused: false,
            closed: false,
        };
        Self {
            bounds,
            state: Mutex::new(state),
            work: Condvar::new(),
            waiting: AtomicUsize::new(0),
            pace: AtomicU64::new(0),
            is_dead,
        }
    }

    /// Takes a job in, or says at once why not. Never waits.
    pub(super) fn submit(&self, priority: Priority, job: T) -> Result<(), Full> {
        let mut state = self.lock();
        if state.closed {
            return Err(Full::Closed);
        }
        if state.len() >= self.limit(priority) {
            self.sweep(&mut state, Instant::now());
            if state.len() >= self.limit(priority) {
                return Err(Full::Busy(self.time_for(state.len() + 1)));
            }
        }
        state.classes[priority as usize].push_back(job);
        self.added(state);
        Ok(())
    }

    /// Those that nobody waits for any more hold no places for long. A queue that is full is asked for
    /// places all the time, and looking through a long one takes the time of many refusals.
    fn sweep(&self, state: &mut State<T>, now: Instant) {
        let recently = |swept| now.saturating_duration_since(swept) < SWEEP;
        if state.len() > SHORT && state.swept.is_some_and(recently) {
            return;
        }
        state.swept = Some(now);
        state.classes.iter_mut().for_each(|class| class.retain(|job| !(self.is_dead)(job, now)));
        self.waiting.store(state.len(), Ordering::Relaxed);
    }

    /// Puts a job back that was taken in before, ahead of its class.
    ///
    /// # Errors
    /// The job, if the queue was closed meanwhile.
    pub(super) fn put_back(&self, priority: Priority, job: T) -> Result<(), T> {
        self.put(priority, job, VecDeque::push_front)
    }

    /// As [`put_back`](Self::put_back), but behind its class: one that fails again and again does not stand in
    /// the way of the others.
    ///
    /// # Errors
    /// As there.
    pub(super) fn put_last(&self, priority: Priority, job: T) -> Result<(), T> {
        self.put(priority, job, VecDeque::push_back)
    }

    fn put(&self, priority: Priority, job: T, push: fn(&mut VecDeque<T>, T)) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(job);
        }
        push(&mut state.classes[priority as usize], job);
        self.added(state);
        Ok(())
    }

    fn added(&self, state: MutexGuard<'_, State<T>>) {
        self.waiting.store(state.len(), Ordering::Relaxed);
        let wake = state.idle > 0 && !state.paused;
        drop(state);
        if wake {
            self.work.notify_one();
        }
    }

    /// The next job, if there is one.
    pub(super) fn next(&self) -> Turn<T> {
        self.pick(&mut self.lock())
    }

    /// The next job; sleeps until there is one.
    pub(super) fn wait(&self) -> Turn<T> {
        let mut state = self.lock();
        loop {
            match self.pick(&mut state) {
                Turn::None => {
                    state.idle += 1;
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle -= 1;
                }
                turn => return turn,
            }
        }
    }

    fn pick(&self, state: &mut State<T>) -> Turn<T> {
        if state.paused && !state.closed {
            return Turn::None;
        }
        match state.take() {
            Some(job) => {
                self.waiting.store(state.len(), Ordering::Relaxed);
                Turn::Job(job)
            }
            None if state.closed => Turn::End,
            None => Turn::None,
        }
    }

    /// Serves nobody until [`resume`](Self::resume). Says whether it was serving.
    pub(super) fn pause(&self) -> bool {
        !std::mem::replace(&mut self.lock().paused, true)
    }

    pub(super) fn resume(&self) {
        self.lock().paused = false;
        self.work.notify_all();
    }

    /// Takes nothing in any more; hands out what waits, for the servers to answer.
    pub(super) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        let left = state.classes.iter_mut().flat_map(std::mem::take).collect();
        self.waiting.store(0, Ordering::Relaxed);
        drop(state);
        self.work.notify_all();
        left
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A server took so long for a job. An eighth of the newest time, seven of what was known: servers may
    /// overwrite each other's, which an estimate bears.
    pub(super) fn note_pace(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let smoothed = match self.pace.load(Ordering::Relaxed) {
            0 => took,
            known => (known / 8 * 7).saturating_add(took / 8),
        };
        self.pace.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// Nanoseconds that one server takes for a job; until it is known, between a soft token and a network HSM.
    fn pace(&self) -> u64 {
        match self.pace.load(Ordering::Relaxed) {
            0 => 1_000_000,
            known => known,
        }
    }

    /// How long the servers take for so many jobs.
    fn time_for(&self, jobs: usize) -> Duration {
        let rounds = (jobs / self.bounds.servers.max(1)).max(1) as u64;
        let nanoseconds = self.pace().saturating_mul(rounds);
        Duration::from_nanos(nanoseconds).clamp(Duration::from_millis(1), Duration::from_secs(10))
    }

    /// How many may wait before one of that class is refused: the lower, the earlier.
    fn limit(&self, priority: Priority) -> usize {
        let pace = u128::from(self.pace());
        let in_time = self.bounds.wait.as_nanos() * self.bounds.servers as u128 / pace;
        let limit = usize::try_from(in_time).unwrap_or(usize::MAX).min(self.bounds.most);
        let share = match priority {
            Priority::Health | Priority::Expiring => limit,
            Priority::New => limit - limit / 10,
            Priority::Refresh => limit - limit / 4,
            Priority::Bulk => limit - limit / 2,
        };
        let share = share.max(ALWAYS).min(self.bounds.most);
        // There is one probe at a time, and it finds a place.
        share + usize::from(priority == Priority::Health)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Every change is complete before anything that may panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    fn take(&mut self) -> Option<T> {
        self.served = self.served.wrapping_add(1);
        let (turn, of_others) =
            (self.served / OTHERS_EVERY, self.served.is_multiple_of(OTHERS_EVERY));
        let waiting = self.classes.iter().filter(|class| !class.is_empty()).count();
        let which = if of_others { turn as usize % waiting.max(1) } else { 0 };
        let mut classes = self.classes.iter_mut().filter(|class| !class.is_empty());
        classes.nth(which).and_then(VecDeque::pop_front)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(most: usize) -> Queue<u32> {
        Queue::new(Bounds { wait: Duration::from_millis(50), most, servers: 2 }, |job, _| *job == 0)
    }

    fn taken(queue: &Queue<u32>) -> Option<u32> {
        match queue.next() {
            Turn::Job(job) => Some(job),
            Turn::None | Turn::End => None,
        }
    }

    #[test]
    fn the_higher_class_goes_first_and_the_lowest_is_not_forgotten() {
        let queue = queue(1000);
        for (priority, job) in [
            (Priority::Bulk, 5),
            (Priority::New, 3),
            (Priority::Health, 1),
            (Priority::Expiring, 2),
        ] {
            queue.submit(priority, job).unwrap();
        }
        assert_eq!([taken(&queue), taken(&queue), taken(&queue)], [Some(1), Some(2), Some(3)]);
        queue.submit(Priority::New, 3).unwrap();
        for job in 10..100 {
            queue.submit(Priority::Expiring, job).unwrap();
        }
        let served: Vec<u32> = (0..3 * OTHERS_EVERY).filter_map(|_| taken(&queue)).collect();
        assert!(
            served.contains(&5) && served.contains(&3),
            "among many that are urgent: {served:?}"
        );
    }

    #[test]
    fn the_queue_is_as_long_as_the_device_is_fast() {
        let fast = queue(10_000);
        (0..200).for_each(|_| fast.note_pace(Duration::from_micros(50)));
        assert!((1900..=2000).contains(&fast.limit(Priority::Expiring)), "2 servers, 50 ms");
        let slow = queue(10_000);
        (0..200).for_each(|_| slow.note_pace(Duration::from_millis(50)));
        assert_eq!(slow.limit(Priority::Expiring), ALWAYS);
        let short = queue(10);
        assert_eq!(short.limit(Priority::Expiring), 10, "never more than the most");
        let full = queue(1000);
        (0..200).for_each(|_| full.note_pace(Duration::from_micros(1)));
        let limits = Priority::ALL.map(|priority| full.limit(priority));
        assert_eq!(limits, [1001, 1000, 900, 750, 500], "the lower class has less of the most too");
    }

    #[test]
    fn a_full_queue_refuses_at_once_the_lower_class_first() {
        let queue = queue(1000);
        (0..200).for_each(|_| queue.note_pace(Duration::from_micros(200)));
        let mut full = Vec::new();
        for priority in [Priority::Bulk, Priority::Refresh, Priority::New, Priority::Expiring] {
            while queue.submit(priority, 7).is_ok() {}
            full.push(queue.len());
        }
        assert!(full.is_sorted_by(|less, more| less < more), "{full:?}");
        assert!((490..=500).contains(&full[3]), "2 servers, 50 ms: {full:?}");
        let started = Instant::now();
        assert!(matches!(queue.submit(Priority::New, 7), Err(Full::Busy(_))));
        assert!(started.elapsed() < Duration::from_millis(5));
        assert_eq!(queue.submit(Priority::Health, 7), Ok(()), "a probe finds a place");
    }

    #[test]
    fn those_that_nobody_waits_for_hold_no_places() {
        let queue = queue(16);
        while queue.submit(Priority::Expiring, 0).is_ok() {
            assert!(queue.len() <= 16);
            if queue.len() == 16 {
                break;
            }
        }
        assert_eq!(queue.submit(Priority::Expiring, 1), Ok(()));
        assert_eq!((queue.len(), taken(&queue)), (1, Some(1)));
    }

    #[test]
    fn a_long_queue_is_not_looked_through_at_every_refusal() {
        static LOOKS: AtomicUsize = AtomicUsize::new(0);
        let bounds = Bounds { wait: Duration::from_secs(60), most: 1000, servers: 2 };
        let queue = Queue::new(bounds, |_: &u32, _| LOOKS.fetch_add(1, Ordering::Relaxed) == 0);
        while queue.len() < 1000 {
            queue.submit(Priority::Expiring, 7).unwrap();
        }
        let started = Instant::now();
        (0..1000).for_each(|_| drop(queue.submit(Priority::Expiring, 7)));
        let sweeps = 1 + started.elapsed().as_millis() as usize / 10 + 1;
        assert!(LOOKS.load(Ordering::Relaxed) <= sweeps * 1000, "{LOOKS:?}, {sweeps} sweeps");
    }

    #[test]
    fn a_paused_queue_takes_in_and_serves_nobody() {
        let queue = queue(16);
        assert!(queue.pause() && !queue.pause());
        queue.submit(Priority::New, 1).unwrap();
        assert_eq!(taken(&queue), None);
        queue.put_back(Priority::New, 9).unwrap();
        queue.resume();
        assert_eq!([taken(&queue), taken(&queue)], [Some(9), Some(1)]);
    }

    #[test]
    fn what_is_put_back_goes_before_its_class_or_behind_it() {
        let queue = queue(16);
        queue.submit(Priority::New, 1).unwrap();
        queue.put_last(Priority::New, 2).unwrap();
        queue.put_back(Priority::New, 3).unwrap();
        assert_eq!([(); 3].map(|()| taken(&queue)), [Some(3), Some(1), Some(2)]);
    }

    #[test]
    fn a_closed_queue_gives_back_what_waited_and_ends_its_servers() {
        let queue = queue(16);
        queue.submit(Priority::New, 1).unwrap();
        assert_eq!(queue.close(), [1]);
        assert_eq!(queue.submit(Priority::New, 2), Err(Full::Closed));
        assert_eq!(queue.put_back(Priority::New, 3), Err(3), "nothing stays in it");
        assert_eq!(queue.put_last(Priority::New, 3), Err(3), "nothing stays in it");
        assert!(matches!(queue.wait(), Turn::End));
    }
}
