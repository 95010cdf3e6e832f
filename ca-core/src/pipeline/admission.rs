//! Who is let in, and whose turn it is: a bounded queue of four classes.
//!
//! Each class has a share of the room and of the turns that is its own; what others leave is taken by whoever
//! comes first, and given back as soon as a higher class wants it. What cannot be served in time is refused
//! at once, with a hint when to ask again: a queue that is always full only makes everyone late.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Notify;

use crate::key::Priority;

/// What a caller says its work is; in the order in which it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// For a holder whose SVID is about to end.
    Expiring,
    /// For a workload that has none yet.
    New,
    /// A renewal in good time.
    Refresh,
    /// Work that nobody waits for.
    Bulk,
}

impl Class {
    /// All, the first served first.
    pub const ALL: [Self; 4] = [Self::Expiring, Self::New, Self::Refresh, Self::Bulk];

    /// Its name in records, metrics and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.priority().name()
    }

    /// Its place among those that wait for a key.
    #[must_use]
    pub fn priority(self) -> Priority {
        match self {
            Self::Expiring => Priority::Expiring,
            Self::New => Priority::New,
            Self::Refresh => Priority::Refresh,
            Self::Bulk => Priority::Bulk,
        }
    }

    /// Its own part of the room and of the turns, in percent; what is left over is everyone's.
    #[must_use]
    pub fn share(self) -> u32 {
        match self {
            Self::Expiring => 40,
            Self::New => 30,
            Self::Refresh => 15,
            Self::Bulk => 5,
        }
    }

    /// The part of the bound on the wait up to which it is let in, in percent. A place in a long line is no use to
    /// who is about to be without an SVID: what its class cannot serve soon is better told at once.
    fn patience(self) -> u32 {
        match self {
            Self::Expiring => 12,
            Self::New | Self::Refresh | Self::Bulk => 100,
        }
    }
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all that waits.
    pub memory: usize,
    /// What is likely to wait longer than this, or than three quarters of the time that is left to it, is
    /// refused, and what is expiring at an eighth of that; [`ALWAYS`] of a class are let in all the same.
    pub wait: Duration,
    /// The most that one caller may hold of [`memory`](Self::memory) in one class, in percent: a class is
    /// only what its caller says.
    pub caller_percent: u32,
}

/// So many pieces of work of a class may always wait, however slow everything is.
pub const ALWAYS: usize = 64;

/// The most pieces of work in an entry: whoever has more sends several, which take turns with others'.
pub const MOST_ITEMS: usize = 64;

/// Something that wants in.
#[derive(Debug)]
pub struct Entry<C, T> {
    /// What it says it is.
    pub class: Class,
    /// Who is charged for it.
    pub caller: C,
    /// How many pieces of work it is, at most [`MOST_ITEMS`].
    pub items: usize,
    /// Bytes that it holds while it waits.
    pub size: usize,
    /// It is of no use after this.
    pub deadline: Instant,
    /// What is to be done.
    pub work: T,
}

/// Why something was not let in, or was sent away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// As much waits as may; a place is likely to be free after so long.
    #[error("as much waits as may; try again in {} ms", .0.as_millis())]
    Full(Duration),
    /// This caller holds as much of this class as one may.
    #[error("this caller has too much waiting in this class; try again in {} ms", .0.as_millis())]
    Budget(Duration),
    /// It is bigger than all the room of its class.
    #[error("the request is bigger than all that may wait; send it in parts")]
    TooBig,
    /// Its deadline has passed.
    #[error("the deadline passed before its turn came")]
    Late,
    /// Nothing is let in any more.
    #[error("the server is stopping")]
    Closed,
}

/// The queue. `C` tells callers apart.
#[derive(Debug)]
pub struct Admission<C, T> {
    bounds: Bounds,
    /// Whether nobody waits for it any more.
    is_gone: fn(&T) -> bool,
    state: Mutex<State<C, T>>,
    /// Told when something was let in, or when nothing will be any more.
    came: Notify,
}

#[derive(Debug)]
struct State<C, T> {
    lanes: [Lane<C, T>; Class::ALL.len()],
    /// Bytes by caller and class; no entry for nothing.
    held: HashMap<(C, Class), usize>,
    bytes: usize,
    /// When those that nobody waits for were removed last.
    swept: Option<Instant>,
    closed: bool,
}

/// What waits of one class.
#[derive(Debug)]
struct Lane<C, T> {
    entries: VecDeque<Entry<C, T>>,
    /// Pieces of work in them.
    items: usize,
    bytes: usize,
    /// Hundredths of a turn that it is owed; a piece of work is a turn.
    owed: usize,
    /// How long one of it waits for the one before it, smoothed; zero until known.
    pace: Duration,
    /// When some of it had their turn last, if others of it have waited since.
    last_turn: Option<Instant>,
    /// How many have had their turn since then.
    turns: u32,
}

impl<C, T> Default for Lane<C, T> {
    fn default() -> Self {
        let (entries, pace) = (VecDeque::new(), Duration::ZERO);
        Self { entries, items: 0, bytes: 0, owed: 0, pace, last_turn: None, turns: 0 }
    }
}

/// What had to make room for another, to be told so.
pub type SentAway<C, T> = Vec<Entry<C, T>>;

/// What a server takes.
#[derive(Debug)]
pub struct Turn<C, T> {
    /// What is to be done now, the most urgent first.
    pub due: Vec<Entry<C, T>>,
    /// What came too late, to be told so.
    pub late: Vec<Entry<C, T>>,
}

impl<C: Clone + Eq + Hash, T> Admission<C, T> {
    /// An empty queue; `is_gone` says of work whether nobody waits for it any more, and is quick.
    #[must_use]
    pub fn new(bounds: Bounds, is_gone: fn(&T) -> bool) -> Self {
        let state = State {
            lanes: std::array::from_fn(|_| Lane::default()),
            held: HashMap::new(),
            bytes: 0,
            swept: None,
            closed: false,
        };
        Self { bounds, is_gone, state: Mutex::new(state), came: Notify::new() }
    }

    /// Lets an entry in, or gives it back with the reason. What had to make room for it is sent away: it was in
    /// a room that is not its own.
    pub fn submit(
        &self,
        entry: Entry<C, T>,
        now: Instant,
    ) -> Result<SentAway<C, T>, (Entry<C, T>, Refused)> {
        let mut state = self.lock();
        let has_room = state.bytes + entry.size <= self.bounds.memory;
        if !has_room || state.check(&self.bounds, &entry, now).is_err() {
            state.sweep(self.is_gone, now);
        }
        if let Err(refused) = state.check(&self.bounds, &entry, now) {
            return Err((entry, refused));
        }
        let sent_away = match state.make_room(self.bounds.memory, &entry) {
            Ok(sent_away) => sent_away,
            Err(refused) => return Err((entry, refused)),
        };
        state.push(entry);
        drop(state);
        self.came.notify_one();
        Ok(sent_away)
    }

    /// Takes what is there, until it is so many pieces of work; nothing if nothing is. The last entry may be of
    /// more than were wanted.
    pub fn take(&self, most: usize, now: Instant) -> Turn<C, T> {
        let mut state = self.lock();
        let mut turn = Turn { due: Vec::new(), late: Vec::new() };
        let mut taken = 0;
        while taken < most {
            // Before it is anyone's turn: what is not served costs its class none.
            state.pass_over(self.is_gone, now, &mut turn.late);
            let Some(class) = state.next_class() else { break };
            let Some(entry) = state.pop(class) else { break };
            taken += entry.items;
            turn.due.push(entry);
        }
        state.lanes.iter_mut().for_each(|lane| lane.learn(now));
        let more = state.lanes.iter().any(|lane| !lane.entries.is_empty());
        drop(state);
        if more {
            // Of several that came at once, only one may have been told.
            self.came.notify_one();
        }
        turn
    }

    /// Waits until something may be there; `false` if nothing will be any more.
    pub async fn wait(&self) -> bool {
        loop {
            let came = self.came.notified();
            {
                let state = self.lock();
                if state.lanes.iter().any(|lane| !lane.entries.is_empty()) {
                    return true;
                }
                if state.closed {
                    drop(state);
                    // The next server learns it too.
                    self.came.notify_one();
                    return false;
                }
            }
            came.await;
        }
    }

    /// Lets nothing in any more. What is there is still served.
    pub fn close(&self) {
        self.lock().closed = true;
        self.came.notify_one();
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How many pieces of work of a class wait.
    #[must_use]
    pub fn waiting(&self, class: Class) -> usize {
        self.lock().lanes[class as usize].items
    }

    /// How many pieces of work wait in all classes.
    #[must_use]
    pub fn waiting_in_all(&self) -> usize {
        self.lock().lanes.iter().map(|lane| lane.items).sum()
    }

    /// When one of a class that was refused may try again.
    #[must_use]
    pub fn try_again(&self, class: Class) -> Duration {
        self.lock().lanes[class as usize].try_again()
    }

    fn lock(&self) -> MutexGuard<'_, State<C, T>> {
        // Nothing panics between the parts of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Clone + Eq + Hash, T> State<C, T> {
    /// Those that nobody waits for hold no places for long. A queue that is full is asked all the time, and
    /// looking through it takes the time of many refusals.
    fn sweep(&mut self, is_gone: fn(&T) -> bool, now: Instant) {
        let recently = |swept| now.saturating_duration_since(swept) < SWEEP;
        if self.swept.is_some_and(recently) {
            return;
        }
        self.swept = Some(now);
        for class in Class::ALL {
            let entries = std::mem::take(&mut self.lanes[class as usize].entries);
            for entry in entries {
                if is_gone(&entry.work) {
                    self.left(&entry);
                } else {
                    self.lanes[class as usize].entries.push_back(entry);
                }
            }
        }
    }

    /// Whether an entry may be let in as far as it alone is concerned.
    fn check(&self, bounds: &Bounds, entry: &Entry<C, T>, now: Instant) -> Result<(), Refused> {
        let budget = part(bounds.memory, bounds.caller_percent);
        let lane = &self.lanes[entry.class as usize];
        if self.closed {
            return Err(Refused::Closed);
        }
        if entry.deadline <= now {
            return Err(Refused::Late);
        }
        if entry.size > budget {
            return Err(Refused::TooBig);
        }
        let held = self.held.get(&(entry.caller.clone(), entry.class)).copied().unwrap_or_default();
        if held + entry.size > budget {
            return Err(Refused::Budget(lane.try_again()));
        }
        // A quarter of the time is for what the estimate does not know, and for signing.
        let useful = (entry.deadline - now) * 3 / 4;
        let patience = bounds.wait.min(useful) * entry.class.patience() / 100;
        let wait = lane.expected_wait();
        if lane.items >= ALWAYS && wait > patience {
            let again = wait.saturating_sub(patience).max(lane.pace);
            return Err(Refused::Full(again.max(SOONEST)));
        }
        Ok(())
    }

    /// Sends away the youngest of those who hold more than their share, the lowest class first, until there is
    /// room: of lower classes, or of any if the entry is within the share of its own.
    fn make_room(&mut self, memory: usize, entry: &Entry<C, T>) -> Result<SentAway<C, T>, Refused> {
        let mut missing = (self.bytes + entry.size).saturating_sub(memory);
        let own = self.lanes[entry.class as usize].bytes + entry.size;
        let within = own <= part(memory, entry.class.share());
        let gives = |class: &Class| *class != entry.class && (within || *class > entry.class);
        let lent = |state: &Self, class: Class| {
            state.lanes[class as usize].bytes.saturating_sub(part(memory, class.share()))
        };
        let all_lent: usize =
            Class::ALL.into_iter().filter(gives).map(|class| lent(self, class)).sum();
        if missing > all_lent {
            return Err(Refused::Full(self.lanes[entry.class as usize].try_again()));
        }
        let mut sent_away = Vec::new();
        for class in Class::ALL.into_iter().rev().filter(gives) {
            while missing > 0 && lent(self, class) > 0 {
                let Some(youngest) = self.lanes[class as usize].entries.pop_back() else { break };
                missing = missing.saturating_sub(youngest.size);
                self.left(&youngest);
                sent_away.push(youngest);
            }
        }
        Ok(sent_away)
    }

    fn push(&mut self, entry: Entry<C, T>) {
        self.bytes += entry.size;
        *self.held.entry((entry.caller.clone(), entry.class)).or_default() += entry.size;
        let lane = &mut self.lanes[entry.class as usize];
        if lane.entries.is_empty() {
            // Nobody has waited since the last turns, so the time since then says nothing.
            lane.last_turn = None;
        }
        lane.items += entry.items;
        lane.bytes += entry.size;
        lane.entries.push_back(entry);
    }

    /// Removes from the front of every class what is of no use any more: it is late, or nobody waits for it.
    fn pass_over(&mut self, is_gone: fn(&T) -> bool, now: Instant, late: &mut Vec<Entry<C, T>>) {
        let useless = |entry: &mut Entry<C, T>| entry.deadline <= now || is_gone(&entry.work);
        for class in Class::ALL {
            while let Some(entry) = self.lanes[class as usize].entries.pop_front_if(useless) {
                self.left(&entry);
                if !is_gone(&entry.work) {
                    late.push(entry);
                }
            }
        }
    }

    /// Whose turn it is: a class that is owed one, the lowest first, since the highest has all other turns.
    fn next_class(&mut self) -> Option<Class> {
        let next = |class: &Class| self.lanes[*class as usize].entries.front();
        let highest = Class::ALL.into_iter().find(|class| next(class).is_some())?;
        let owed = |class: &Class| {
            next(class).is_some_and(|it| self.lanes[*class as usize].owed >= it.items * WHOLE)
        };
        let class = Class::ALL.into_iter().rev().find(owed).unwrap_or(highest);
        let turns = next(&class)?.items;
        for each in Class::ALL {
            let lane = &mut self.lanes[each as usize];
            if lane.entries.is_empty() {
                lane.owed = 0;
            } else {
                lane.owed = (lane.owed + each.share() as usize * turns).min(MOST_OWED);
            }
        }
        let lane = &mut self.lanes[class as usize];
        lane.owed = lane.owed.saturating_sub(turns * WHOLE);
        Some(class)
    }

    fn pop(&mut self, class: Class) -> Option<Entry<C, T>> {
        let lane = &mut self.lanes[class as usize];
        let entry = lane.entries.pop_front()?;
        lane.turns += u32::try_from(entry.items).unwrap_or(u32::MAX);
        self.left(&entry);
        Some(entry)
    }

    /// An entry is no longer here.
    fn left(&mut self, entry: &Entry<C, T>) {
        self.bytes -= entry.size;
        let lane = &mut self.lanes[entry.class as usize];
        lane.items -= entry.items;
        lane.bytes -= entry.size;
        let key = (entry.caller.clone(), entry.class);
        if let Some(held) = self.held.get_mut(&key) {
            *held -= entry.size;
            if *held == 0 {
                self.held.remove(&key);
            }
        }
    }
}

/// How often a queue that refuses is looked through for what nobody waits for any more.
const SWEEP: Duration = Duration::from_millis(10);
/// Nobody is told to try again sooner, as long as no pace is known and however fast it is.
const SOONEST: Duration = Duration::from_millis(1);
/// Hundredths of a turn that are one.
const WHOLE: usize = 100;
/// More is owed to nobody: a class that could not be served for long does not get all turns at once.
const MOST_OWED: usize = 4 * MOST_ITEMS * WHOLE;

/// A part of the room, in percent.
fn part(memory: usize, percent: u32) -> usize {
    usize::try_from(memory as u128 * u128::from(percent) / 100).unwrap_or(usize::MAX)
}

impl<C, T> Lane<C, T> {
    /// How long the next one to come would wait.
    fn expected_wait(&self) -> Duration {
        self.pace.saturating_mul(u32::try_from(self.items + 1).unwrap_or(u32::MAX))
    }

    /// When one that was refused may try again.
    fn try_again(&self) -> Duration {
        self.expected_wait().max(SOONEST)
    }

    /// Learns from the time since the last turns, if others waited all the while. Those that go together count
    /// as one measurement.
    fn learn(&mut self, now: Instant) {
        let turns = std::mem::take(&mut self.turns);
        if turns == 0 {
            return;
        }
        match self.last_turn {
            Some(last) => {
                let each = now.saturating_duration_since(last) / turns;
                self.pace = if self.pace.is_zero() { each } else { (self.pace * 7 + each) / 8 };
            }
            // All of it has gone at once: whatever was measured before, it is faster now.
            None if self.entries.is_empty() => self.pace = self.pace * 7 / 8,
            None => {}
        }
        self.last_turn = (!self.entries.is_empty()).then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const MEMORY: usize = 10_000;
    const SIZE: usize = 100;

    type Queue = Admission<u32, u32>;

    fn queue() -> Queue {
        queue_with(Duration::from_secs(1), 100)
    }

    fn queue_with(wait: Duration, caller_percent: u32) -> Queue {
        Admission::new(Bounds { memory: MEMORY, wait, caller_percent }, |_| false)
    }

    fn entry(class: Class, caller: u32, now: Instant) -> Entry<u32, u32> {
        let deadline = now + Duration::from_secs(5);
        Entry { class, caller, items: 1, size: SIZE, deadline, work: caller }
    }

    /// Fills a queue with one class, and answers how many went in.
    fn fill(queue: &Queue, class: Class, now: Instant) -> usize {
        (0..).take_while(|&caller| queue.submit(entry(class, caller, now), now).is_ok()).count()
    }

    fn refusal(queue: &Queue, entry: Entry<u32, u32>, now: Instant) -> Refused {
        queue.submit(entry, now).unwrap_err().1
    }

    #[test]
    fn memory_is_never_exceeded_and_all_of_it_is_anyones_while_nobody_else_comes() {
        for class in Class::ALL {
            let (queue, now) = (queue(), Instant::now());
            assert_eq!(fill(&queue, class, now), MEMORY / SIZE);
            assert!(matches!(refusal(&queue, entry(class, 0, now), now), Refused::Full(_)));
            assert_eq!(queue.bytes(), MEMORY);
        }
    }

    #[test]
    fn a_higher_class_is_never_refused_while_a_lower_one_holds_more_than_its_share() {
        let (queue, now) = (queue(), Instant::now());
        fill(&queue, Class::Bulk, now);
        for caller in 0..95 {
            let sent_away = queue.submit(entry(Class::Expiring, caller, now), now).unwrap();
            assert_eq!(sent_away.len(), 1, "the youngest of bulk made room");
            assert_eq!(sent_away[0].class, Class::Bulk);
        }
        assert_eq!(queue.waiting(Class::Bulk), 5, "its share is left to it");
        assert!(matches!(refusal(&queue, entry(Class::Expiring, 0, now), now), Refused::Full(_)));
        assert_eq!(queue.bytes(), MEMORY);
    }

    #[test]
    fn a_lower_class_gets_its_share_of_the_room_back_from_higher_ones() {
        let (queue, now) = (queue(), Instant::now());
        fill(&queue, Class::Expiring, now);
        for caller in 0..5 {
            let sent_away = queue.submit(entry(Class::Bulk, caller, now), now).unwrap();
            assert_eq!(sent_away[0].class, Class::Expiring);
        }
        assert!(matches!(refusal(&queue, entry(Class::Bulk, 9, now), now), Refused::Full(_)));
        assert_eq!((queue.waiting(Class::Expiring), queue.waiting(Class::Bulk)), (95, 5));
    }

    #[test]
    fn the_highest_class_goes_first_and_every_class_has_its_share_of_the_turns() {
        let (queue, now) = (queue(), Instant::now());
        let mut served = [0; Class::ALL.len()];
        for _ in 0..1000 {
            for class in Class::ALL {
                while queue.waiting(class) < 10 {
                    queue.submit(entry(class, 0, now), now).unwrap();
                }
            }
            queue.take(1, now).due.iter().for_each(|entry| served[entry.class as usize] += 1);
        }
        for (class, served) in Class::ALL.into_iter().zip(served) {
            assert!(served >= class.share() * 10 - 5, "{class:?}: {served}");
        }
        assert!(served[0] >= 480, "what is nobody's is the highest's: {served:?}");
    }

    #[test]
    fn a_class_has_its_share_of_the_work_whatever_the_size_of_its_entries() {
        let (queue, now) = (queue(), Instant::now());
        let mut served = [0; Class::ALL.len()];
        for _ in 0..20_000 {
            for (class, items) in Class::ALL.into_iter().zip([1, 16, 1, MOST_ITEMS]) {
                while queue.waiting(class) < 2 {
                    queue.submit(Entry { items, ..entry(class, 0, now) }, now).unwrap();
                }
            }
            for entry in queue.take(1, now).due {
                served[entry.class as usize] += entry.items;
            }
        }
        let all: usize = served.iter().sum();
        for (class, served) in Class::ALL.into_iter().zip(served) {
            let share = class.share() as usize;
            assert!(served * 100 >= all * share * 9 / 10, "{class:?}: {served} of {all}");
        }
    }

    #[test]
    fn within_a_class_the_first_to_come_is_the_first_served() {
        let (queue, now) = (queue(), Instant::now());
        for caller in 0..50 {
            queue.submit(entry(Class::New, caller, now), now).unwrap();
        }
        let order: Vec<_> = queue.take(100, now).due.iter().map(|entry| entry.work).collect();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn what_would_wait_too_long_is_refused_with_a_hint_that_is_long_enough() {
        let (queue, mut now) = (queue_with(Duration::from_millis(500), 100), Instant::now());
        let mut hint = None;
        for _ in 0..400 {
            now += Duration::from_millis(10);
            while queue.waiting(Class::New) < 90 && hint.is_none() {
                match queue.submit(entry(Class::New, 0, now), now) {
                    Ok(_) => {}
                    Err((_, Refused::Full(wait))) => hint = Some((wait, queue.waiting(Class::New))),
                    Err((_, other)) => panic!("{other}"),
                }
            }
            queue.take(1, now);
        }
        let (wait, waiting) = hint.unwrap();
        assert!(waiting >= ALWAYS, "so many may always wait");
        assert!(
            wait >= Duration::from_millis(100) && wait <= Duration::from_millis(400),
            "{wait:?}"
        );
    }

    #[test]
    fn of_a_long_line_what_is_expiring_may_wait_an_eighth() {
        let mut lengths = Vec::new();
        for class in [Class::Expiring, Class::New] {
            let (queue, mut now) = (queue_with(Duration::from_secs(2), 100), Instant::now());
            // A place each 20 ms, so that 64 may always wait: 1.3 s.
            while queue.submit(entry(class, 0, now), now).is_ok() && queue.waiting(class) < 90 {
                if queue.waiting(class) > 40 {
                    now += Duration::from_millis(20);
                    queue.take(1, now);
                    queue.submit(entry(class, 0, now), now).unwrap();
                }
            }
            lengths.push(queue.waiting(class));
        }
        assert_eq!(lengths, [ALWAYS, 90]);
    }

    #[test]
    fn a_quiet_hour_is_not_taken_for_a_slow_one() {
        let (queue, now) = (queue(), Instant::now());
        for caller in 0..2 {
            let deadline = now + Duration::from_secs(10 * u64::from(caller + 1));
            queue.submit(Entry { deadline, ..entry(Class::New, caller, now) }, now).unwrap();
        }
        queue.take(1, now);
        // The other one was late by then.
        let later = now + Duration::from_secs(3600);
        queue.take(1, later);
        queue.submit(entry(Class::New, 3, later), later).unwrap();
        queue.take(1, later + Duration::from_millis(1));
        assert_eq!(queue.lock().lanes[Class::New as usize].pace, Duration::ZERO);
    }

    #[test]
    fn what_was_slow_once_is_forgotten_when_all_goes_at_once() {
        let (queue, now) = (queue(), Instant::now());
        queue.lock().lanes[Class::New as usize].pace = Duration::from_secs(100);
        for _ in 0..200 {
            queue.submit(entry(Class::New, 1, now), now).unwrap();
            queue.take(ALWAYS, now);
        }
        let pace = queue.lock().lanes[Class::New as usize].pace;
        assert!(pace < Duration::from_micros(1), "{pace:?}");
    }

    #[test]
    fn a_caller_may_hold_its_part_of_a_class_and_no_more() {
        let (queue, now) = (queue_with(Duration::from_secs(1), 20), Instant::now());
        for _ in 0..20 {
            queue.submit(entry(Class::Expiring, 7, now), now).unwrap();
        }
        let refused = refusal(&queue, entry(Class::Expiring, 7, now), now);
        assert!(matches!(refused, Refused::Budget(_)), "{refused:?}");
        assert!(
            queue.submit(entry(Class::New, 7, now), now).is_ok(),
            "in another class it has its own"
        );
        assert!(queue.submit(entry(Class::Expiring, 8, now), now).is_ok(), "another caller too");
        queue.take(1, now);
        assert!(queue.submit(entry(Class::Expiring, 7, now), now).is_ok(), "one had its turn");
        let big = Entry { size: MEMORY / 4, ..entry(Class::New, 9, now) };
        assert_eq!(refusal(&queue, big, now), Refused::TooBig);
    }

    #[test]
    fn what_is_late_is_told_so_and_never_served() {
        let (queue, now) = (queue(), Instant::now());
        let soon = Entry { deadline: now + Duration::from_millis(10), ..entry(Class::New, 1, now) };
        queue.submit(soon, now).unwrap();
        queue.submit(entry(Class::New, 2, now), now).unwrap();
        let turn = queue.take(8, now + Duration::from_millis(10));
        assert_eq!((turn.late.len(), turn.due.len()), (1, 1));
        let late = Entry { deadline: now, ..entry(Class::New, 3, now) };
        assert_eq!(refusal(&queue, late, now), Refused::Late);
    }

    #[test]
    fn what_is_late_costs_its_class_no_turn() {
        let (queue, now) = (queue(), Instant::now());
        let deadline = now + Duration::from_millis(10);
        for _ in 0..40 {
            queue.submit(Entry { deadline, ..entry(Class::Bulk, 1, now) }, now).unwrap();
        }
        for _ in 0..10 {
            queue.submit(entry(Class::Bulk, 2, now), now).unwrap();
        }
        let (mut bulk, mut late) = (0, 0);
        for _ in 0..101 {
            while queue.waiting(Class::New) < 10 {
                queue.submit(entry(Class::New, 3, now), now).unwrap();
            }
            let turn = queue.take(1, deadline);
            bulk += turn.due.iter().filter(|entry| entry.class == Class::Bulk).count();
            late += turn.late.len();
        }
        assert_eq!((bulk, late), (5, 40));
    }

    #[test]
    fn what_nobody_waits_for_is_neither_served_nor_in_the_way() {
        static GONE: AtomicBool = AtomicBool::new(false);
        let bounds = Bounds { memory: MEMORY, wait: Duration::from_secs(1), caller_percent: 20 };
        let (queue, now) =
            (Admission::new(bounds, |_: &u32| GONE.load(Ordering::Relaxed)), Instant::now());
        for _ in 0..20 {
            queue.submit(entry(Class::New, 1, now), now).unwrap();
        }
        assert!(queue.submit(entry(Class::New, 1, now), now).is_err());
        GONE.store(true, Ordering::Relaxed);
        let later = now + SWEEP;
        assert!(queue.submit(entry(Class::New, 1, later), later).is_ok(), "their places are free");
        assert_eq!(queue.bytes(), SIZE);
        assert!(queue.take(8, later).due.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn nobody_makes_room_while_there_is_some_that_nobody_waits_for() {
        let bounds = Bounds { memory: MEMORY, wait: Duration::from_secs(1), caller_percent: 100 };
        let queue = Admission::new(bounds, |&work: &u32| work == 7);
        let now = Instant::now();
        for caller in 0..100 {
            let class = if caller == 7 { Class::New } else { Class::Bulk };
            queue.submit(entry(class, caller, now), now).unwrap();
        }
        let sent_away = queue.submit(entry(Class::New, 8, now), now).unwrap();
        assert!(sent_away.is_empty(), "{sent_away:?}");
        assert_eq!((queue.waiting(Class::New), queue.waiting(Class::Bulk)), (1, 99));
    }

    #[tokio::test]
    async fn every_server_learns_of_the_end_when_all_is_served() {
        let queue = std::sync::Arc::new(queue());
        let now = Instant::now();
        queue.submit(entry(Class::New, 1, now), now).unwrap();
        queue.close();
        assert_eq!(refusal(&queue, entry(Class::New, 1, now), now), Refused::Closed);
        let servers: Vec<_> = (0..4)
            .map(|_| {
                let queue = std::sync::Arc::clone(&queue);
                tokio::spawn(async move {
                    let mut served = 0;
                    while queue.wait().await {
                        served += queue.take(8, Instant::now()).due.len();
                    }
                    served
                })
            })
            .collect();
        let mut served = 0;
        for server in servers {
            served += server.await.unwrap();
        }
        assert_eq!(served, 1);
    }
}
