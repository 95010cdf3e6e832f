//! The way to a KMS: who may ask it now, who waits, and who is told to come back later.
//!
//! A request needs a place among those under way and a token of the rate. Those that wait are served by
//! priority, then by arrival. Nobody waits longer than the settings say, and who would is told so at once:
//! the wait is known from the rate, the time of an answer and those ahead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ca_core::key::{Priority, Urgency};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep_until, timeout_at};

use super::pace::Pace;
use super::rate::Rate;
use super::retry::Budget;
use super::task::OwnedTask;
use super::wire::{Class, WireError};
use crate::metrics::StoreMetrics;

/// What the token bucket holds at most, in seconds of the rate: lets a late timer lose nothing.
const BURST: f64 = 0.05;
/// So many requests in a row that got no answer: the KMS is away.
const AWAY_AFTER: u32 = 16;
/// How often one request tries whether a KMS that is away has come back.
const TRIAL_EVERY: Duration = Duration::from_millis(250);
/// The share of the newest answer in the mean time of an answer.
const SMOOTHING: f64 = 0.05;

/// The share of the queue up to which a class may fill it: the more urgent ones find room behind the rest.
fn share(priority: Priority) -> f64 {
    match priority {
        Priority::Health => f64::INFINITY,
        Priority::Expiring => 1.0,
        Priority::New => 0.9,
        Priority::Refresh => 0.75,
        Priority::Bulk => 0.5,
    }
}

/// The lane of one store.
#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
    /// Lets the next ones in when there is a token for them.
    _pacer: OwnedTask,
}

#[derive(Debug)]
struct Shared {
    pace: Pace,
    metrics: StoreMetrics,
    state: Mutex<State>,
    /// Tells the pacer that somebody waits for a token.
    wake: Notify,
}

#[derive(Debug)]
struct State {
    waiting: Queue,
    arrivals: u64,
    in_flight: usize,
    tokens: f64,
    filled: Instant,
    rate: Rate,
    round_trip: Duration,
    outage: Outage,
    budget: Budget,
}

/// The order of service.
type Position = (Priority, u64);

/// Those who wait, in the order of service.
#[derive(Debug, Default)]
struct Queue {
    turns: BTreeMap<Position, oneshot::Sender<Permit>>,
    of_class: [usize; Priority::ALL.len()],
}

/// Whether the KMS answers at all.
#[derive(Debug, Default)]
struct Outage {
    unanswered: u32,
    reason: String,
    /// While it is away: when the next request tries.
    trial: Option<Instant>,
}

/// A caller with its place in the order, which it keeps for a second try: before those who come then.
#[derive(Debug)]
pub(super) struct Ticket {
    position: Position,
    urgency: Urgency,
    tried: bool,
}

/// Why a caller does not get to the KMS.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turned {
    /// Too many are before it; there is likely room after so long.
    Busy(Duration),
    /// Its deadline passed while it waited.
    Late,
    /// The KMS does not answer, for this reason.
    Away(String),
}

/// A request that is under way. Dropping it ends it: somebody else may go.
#[derive(Debug)]
pub(super) struct Permit {
    lane: Arc<Shared>,
    since: Instant,
}

impl Lane {
    /// An empty one, on the runtime that this is called on.
    pub(super) fn open(pace: Pace, metrics: StoreMetrics, now: Instant) -> Self {
        let ceiling = f64::from(pace.max_rate);
        metrics.rate_limit(pace.max_rate.into());
        let state = State {
            waiting: Queue::default(),
            arrivals: 0,
            in_flight: 0,
            tokens: burst(ceiling),
            filled: now,
            rate: Rate::new(ceiling, now),
            round_trip: Duration::from_millis(10),
            outage: Outage::default(),
            budget: Budget::new(ceiling, now),
        };
        let shared =
            Arc::new(Shared { pace, metrics, state: Mutex::new(state), wake: Notify::new() });
        let pacer = OwnedTask::spawn(let_in(Arc::clone(&shared)));
        Self { shared, _pacer: pacer }
    }

    /// The most requests at once.
    pub(super) fn most_in_flight(&self) -> usize {
        self.shared.pace.max_in_flight
    }

    /// A place in the order for a new caller.
    pub(super) fn ticket(&self, urgency: Urgency) -> Ticket {
        let mut state = self.shared.state();
        state.arrivals += 1;
        Ticket { position: (urgency.priority, state.arrivals), urgency, tried: false }
    }

    /// Waits for a turn. The future may be dropped at any time and leaves nothing behind.
    pub(super) async fn enter(&self, ticket: &mut Ticket) -> Result<Permit, Turned> {
        let now = Instant::now();
        let deadline = ticket.urgency.deadline;
        let until = deadline.min(now + self.shared.pace.queue_wait);
        let turn = self.shared.line_up(ticket, now)?;
        ticket.tried = true;
        let waiting = Waiting { lane: &self.shared, position: ticket.position };
        self.shared.serve();
        let permit = timeout_at(until.into(), turn).await;
        drop(waiting);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            _ if Instant::now() >= deadline => Err(Turned::Late),
            _ => Err(self.shared.state().turned_away(&self.shared.pace)),
        }
    }

    /// Whether a request that failed may be sent again.
    pub(super) fn may_retry(&self) -> bool {
        self.shared.state().budget.take(Instant::now())
    }
}

/// Somebody in the queue, who leaves it when this is dropped.
struct Waiting<'a> {
    lane: &'a Shared,
    position: Position,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let left = self.lane.state().waiting.remove(self.position);
        // Outside of the lock.
        drop(left);
    }
}

impl Permit {
    /// When the request was let go.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Tells what came of the request, and lets somebody else go.
    pub(super) fn end<T>(self, outcome: &Result<T, WireError>) {
        let now = Instant::now();
        let lane = Arc::clone(&self.lane);
        lane.state().learn(outcome, self.since, now, &lane.metrics);
        // Its place is given back by its drop.
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.lane.state().in_flight -= 1;
        self.lane.serve();
    }
}

/// Lets callers in as tokens come; never ends by itself.
async fn let_in(lane: Arc<Shared>) {
    loop {
        match lane.let_go() {
            Some(at) => sleep_until(at.into()).await,
            None => lane.wake.notified().await,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line_up(&self, ticket: &Ticket, now: Instant) -> Result<oneshot::Receiver<Permit>, Turned> {
        let mut state = self.state();
        state.fill(now);
        if now >= ticket.urgency.deadline {
            return Err(Turned::Late);
        }
        if !ticket.tried {
            state.check_wait(ticket, now, &self.pace)?;
            state.budget.earn();
        }
        let (turn, receiver) = oneshot::channel();
        state.waiting.insert(ticket.position, turn);
        Ok(receiver)
    }

    /// Lets those go who may, and has the pacer see to the others.
    fn serve(self: &Arc<Self>) {
        if self.let_go().is_some() {
            self.wake.notify_one();
        }
    }

    /// Lets those go who may. Says when there is a token for the next one, if that is what it waits for.
    fn let_go(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let mut going = Vec::new();
        let next = {
            let mut state = self.state();
            state.fill(now);
            loop {
                match state.next(now, self.pace.max_in_flight) {
                    Next::Goes(turn) => going.push(turn),
                    Next::At(at) => break Some(at),
                    Next::Nobody => break None,
                }
            }
        };
        for turn in going {
            // Somebody who has just left drops the permit, which comes back here: outside of the lock.
            let _ = turn.send(Permit { lane: Arc::clone(self), since: now });
        }
        next
    }
}

impl Queue {
    fn insert(&mut self, position: Position, turn: oneshot::Sender<Permit>) {
        self.of_class[position.0 as usize] += 1;
        self.turns.insert(position, turn);
    }

    fn remove(&mut self, position: Position) -> Option<oneshot::Sender<Permit>> {
        let turn = self.turns.remove(&position)?;
        self.of_class[position.0 as usize] -= 1;
        Some(turn)
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Permit>> {
        let (position, turn) = self.turns.pop_first()?;
        self.of_class[position.0 as usize] -= 1;
        Some(turn)
    }

    /// The class of the one who is served next.
    fn first(&self) -> Option<Priority> {
        self.turns.first_key_value().map(|((priority, _), _)| *priority)
    }

    /// How many of this class and the more urgent ones wait.
    fn up_to(&self, priority: Priority) -> usize {
        self.of_class[..=priority as usize].iter().sum()
    }

    fn len(&self) -> usize {
        self.turns.len()
    }
}

/// What can be done for the first in the queue.
enum Next {
    Goes(oneshot::Sender<Permit>),
    At(Instant),
    Nobody,
}

impl State {
    /// Adds the tokens of the time since the last call.
    fn fill(&mut self, now: Instant) {
        let rate = self.rate.per_second(now);
        let time = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + time * rate).min(burst(rate));
        self.filled = now;
    }

    fn next(&mut self, now: Instant, max_in_flight: usize) -> Next {
        let Some(priority) = self.waiting.first() else { return Next::Nobody };
        // A probe goes even where every other request hangs.
        let places = max_in_flight + usize::from(priority == Priority::Health);
        if self.in_flight >= places {
            return Next::Nobody;
        }
        if let Some(at) = self.outage.trial {
            if now < at {
                return Next::At(at);
            }
            self.outage.trial = Some(now + TRIAL_EVERY);
        } else if self.tokens < 1.0 {
            let missing = (1.0 - self.tokens) / self.rate.per_second(now);
            return Next::At(now + Duration::from_secs_f64(missing));
        }
        let Some(turn) = self.waiting.pop() else { return Next::Nobody };
        self.tokens -= 1.0;
        self.in_flight += 1;
        Next::Goes(turn)
    }

    /// Refuses a newcomer who would wait too long, and one of a class that has its share of the queue.
    fn check_wait(&self, ticket: &Ticket, now: Instant, pace: &Pace) -> Result<(), Turned> {
        let priority = ticket.urgency.priority;
        let ahead = self.waiting.up_to(priority);
        let free = if self.in_flight < pace.max_in_flight { self.tokens.max(0.0) } else { 0.0 };
        let wait = self.time_for(ahead as f64 + 1.0 - free, now, pace);
        let patience = ticket.urgency.deadline.saturating_duration_since(now).min(pace.queue_wait);
        let filled = self.time_for(self.waiting.len() as f64, now, pace);
        let room = share(priority) * pace.queue_wait.as_secs_f64();
        if wait <= patience && (self.waiting.len() == 0 || filled.as_secs_f64() <= room) {
            return Ok(());
        }
        Err(self.turned_away(pace))
    }

    /// Why there is no turn for somebody whose deadline has not passed.
    fn turned_away(&self, pace: &Pace) -> Turned {
        if self.outage.trial.is_some() {
            return Turned::Away(self.outage.reason.clone());
        }
        let half = self.time_for(self.waiting.len() as f64 / 2.0, self.filled, pace);
        Turned::Busy(half.max(Duration::from_millis(1)))
    }

    /// How long so many requests take: by the rate or, if that is slower, by the places.
    fn time_for(&self, requests: f64, now: Instant, pace: &Pace) -> Duration {
        let by_places = pace.max_in_flight as f64 / self.round_trip.as_secs_f64().max(1e-6);
        let speed = self.rate.per_second(now).min(by_places);
        Duration::try_from_secs_f64(requests.max(0.0) / speed).unwrap_or(Duration::MAX)
    }

    fn learn<T>(
        &mut self,
        outcome: &Result<T, WireError>,
        sent: Instant,
        now: Instant,
        metrics: &StoreMetrics,
    ) {
        let took = now.saturating_duration_since(sent);
        if let Err(error) = outcome {
            metrics.error(error.class.name(), &error.code);
        }
        match outcome.as_ref().map_err(|error| (error.class, error)) {
            Err((Class::Throttled { .. }, _)) => {
                metrics.throttled();
                self.rate.answered(sent, now, true);
                self.outage = Outage::default();
            }
            Err((Class::Transient, error)) => {
                self.slower_or_faster(took);
                self.unanswered(&error.reason, now);
            }
            Ok(_) | Err(_) => {
                self.slower_or_faster(took);
                self.rate.answered(sent, now, false);
                self.outage = Outage::default();
            }
        }
        metrics.rate_limit(self.rate.per_second(now) as u64);
    }

    fn slower_or_faster(&mut self, took: Duration) {
        self.round_trip = self.round_trip.mul_f64(1.0 - SMOOTHING) + took.mul_f64(SMOOTHING);
    }

    fn unanswered(&mut self, reason: &str, now: Instant) {
        self.outage.unanswered = self.outage.unanswered.saturating_add(1);
        reason.clone_into(&mut self.outage.reason);
        if self.outage.unanswered >= AWAY_AFTER && self.outage.trial.is_none() {
            self.outage.trial = Some(now + TRIAL_EVERY);
        }
    }
}

fn burst(rate: f64) -> f64 {
    (rate * BURST).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One request at a time; what waits is told by the order in which it goes.
    fn narrow() -> Lane {
        let pace = Pace {
            max_in_flight: 1,
            max_rate: 1000,
            queue_wait: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(1),
        };
        Lane::open(pace, StoreMetrics::default(), Instant::now())
    }

    fn ticket(lane: &Lane, priority: Priority) -> Ticket {
        lane.ticket(Urgency::within(priority, Duration::from_secs(30), Instant::now()))
    }

    async fn enter(lane: &Lane, priority: Priority) -> Result<Permit, Turned> {
        lane.enter(&mut ticket(lane, priority)).await
    }

    #[tokio::test]
    async fn the_more_urgent_go_first_and_equals_in_their_order() {
        let lane = Arc::new(narrow());
        let held = enter(&lane, Priority::New).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut callers = Vec::new();
        let classes = [Priority::Bulk, Priority::New, Priority::Refresh, Priority::New];
        for (number, priority) in classes.into_iter().chain([Priority::Expiring]).enumerate() {
            let (lane, order) = (Arc::clone(&lane), Arc::clone(&order));
            callers.push(tokio::spawn(async move {
                let _permit = enter(&lane, priority).await.unwrap();
                order.lock().unwrap().push(number);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [4, 1, 3, 2, 0]);
    }

    #[tokio::test]
    async fn a_probe_goes_even_where_every_other_request_hangs() {
        let lane = narrow();
        let _held = enter(&lane, Priority::New).await.unwrap();
        enter(&lane, Priority::Health).await.unwrap();
    }

    #[tokio::test]
    async fn a_class_fills_its_share_of_the_queue_and_the_urgent_still_find_room() {
        let lane = narrow();
        let _held = enter(&lane, Priority::New).await.unwrap();
        let now = Instant::now();
        // One at a time of 10 ms each: a hundred within the wait of a second.
        let mut turns = Vec::new();
        let mut fill = |priority| {
            let mut taken = 0;
            while let Ok(turn) = lane.shared.line_up(&ticket(&lane, priority), now) {
                turns.push(turn);
                taken += 1;
            }
            taken
        };
        let counts =
            [Priority::Bulk, Priority::Refresh, Priority::New, Priority::Expiring].map(&mut fill);
        assert_eq!(counts, [51, 25, 15, 10]);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_is_not_counted_any_more() {
        let lane = narrow();
        let held = enter(&lane, Priority::New).await.unwrap();
        for _ in 0..1000 {
            let left = tokio::time::timeout(Duration::ZERO, enter(&lane, Priority::New)).await;
            assert!(left.is_err());
        }
        assert_eq!(lane.shared.state().waiting.len(), 0);
        drop(held);
        enter(&lane, Priority::New).await.unwrap();
        assert_eq!(lane.shared.state().in_flight, 0);
    }
}
