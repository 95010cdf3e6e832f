//! What was asked of the stand-in and what became of it.

use std::collections::BTreeMap;

use super::{Fault, Operation};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// A true answer.
    Answered,
    /// An error by the service's rules, by its name (`ThrottlingException`, …).
    Refused(&'static str),
    /// A fault that [`Knobs`](super::Knobs) or [`inject`](super::FakeKms::inject) asked for.
    Faulted(Fault),
    /// The client went away before the answer; a request in [`Fault::Hang`] ends so.
    Abandoned,
}

/// The figures of a stand-in at one moment. Requests for operations that it does not know are not counted.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    ended: BTreeMap<(Operation, Outcome), u64>,
    in_flight: u64,
    in_flight_maximum: u64,
}

impl Counters {
    /// How many requests of this operation ended so.
    #[must_use]
    pub fn of(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.ended.get(&(operation, outcome)).copied().unwrap_or_default()
    }

    /// How many requests of this operation ended, however.
    #[must_use]
    pub fn requests(&self, operation: Operation) -> u64 {
        self.ended.iter().filter(|((of, _), _)| *of == operation).map(|(_, count)| count).sum()
    }

    /// Every figure that is not zero, by operation and outcome.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, Outcome, u64)> {
        self.ended.iter().map(|(&(operation, outcome), &count)| (operation, outcome, count))
    }

    /// How many requests are being answered now.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// The most requests that were being answered at one time.
    #[must_use]
    pub fn in_flight_maximum(&self) -> u64 {
        self.in_flight_maximum
    }

    /// A request has arrived.
    pub(super) fn begin(&mut self) {
        self.in_flight += 1;
        self.in_flight_maximum = self.in_flight_maximum.max(self.in_flight);
    }

    /// A request has ended.
    pub(super) fn end(&mut self, operation: Operation, outcome: Outcome) {
        self.in_flight -= 1;
        *self.ended.entry((operation, outcome)).or_default() += 1;
    }

    /// Forgets what has ended; what is under way stays.
    pub(super) fn reset(&mut self) {
        self.ended.clear();
        self.in_flight_maximum = self.in_flight;
    }
}
