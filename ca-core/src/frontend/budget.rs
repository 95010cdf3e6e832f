//! How much a front end may ask for in a time: rates that its record names, and the budgets that a signer keeps
//! by them. Each signer keeps its own.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::MOST_KEYS;
use crate::pipeline::admission::Class;

/// So many items a second, and so many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    /// The highest rate, and the largest burst.
    pub const MOST: u32 = 1_000_000;

    /// A rate; both numbers from 1 to [`MOST`](Self::MOST).
    ///
    /// # Errors
    /// [`RateError`] beyond that.
    pub fn new(per_second: u32, burst: u32) -> Result<Self, RateError> {
        let good = [per_second, burst].iter().all(|number| (1..=Self::MOST).contains(number));
        if good { Ok(Self { per_second, burst }) } else { Err(RateError) }
    }

    /// Items a second.
    #[must_use]
    pub fn per_second(self) -> u32 {
        self.per_second
    }

    /// Items at once.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// What one item takes of the time. Rounded up, so that the rate is never exceeded.
    fn of_one(self) -> Duration {
        Duration::from_nanos(1_000_000_000_u64.div_ceil(u64::from(self.per_second)))
    }
}

/// Why two numbers are no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a budget is items a second and a burst, each from 1 to {}; write it like 1000 or 1000/2000",
    Rate::MOST
)]
pub struct RateError;

/// `1000/2000`: items a second, and at once.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.per_second, self.burst)
    }
}

/// `1000/2000`, or `1000`: then a second's worth may come at once.
impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let number = |text: &str| text.parse().map_err(|_| RateError);
        let (per_second, burst) = text.split_once('/').unwrap_or((text, text));
        Self::new(number(per_second)?, number(burst)?)
    }
}

/// The rates of a front end. What has none is unbounded here, and bounded by the queues of the pipeline all the
/// same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Of all that it asks for.
    pub total: Option<Rate>,
    /// Of each [`Class`], in the order of [`Class::ALL`]; beside the total.
    pub classes: [Option<Rate>; Class::ALL.len()],
}

impl Rates {
    /// The rate of a class.
    #[must_use]
    pub fn of(&self, class: Class) -> Option<Rate> {
        self.classes[class as usize]
    }
}

/// What is left of a rate. Time is its caller's.
#[derive(Debug)]
pub struct Budget {
    /// What one item takes of the time.
    of_one: Duration,
    burst: u32,
    /// When a whole burst may be taken again, if nothing is taken until then; `None` before the first. Held for
    /// nanoseconds.
    full_at: Mutex<Option<Instant>>,
}

impl Budget {
    /// A budget of which nothing is used.
    #[must_use]
    pub fn full(rate: Rate) -> Self {
        Self::every(rate.of_one(), rate.burst)
    }

    /// As [`full`](Self::full), of a rate below one a second.
    fn every(of_one: Duration, burst: u32) -> Self {
        Self { of_one, burst, full_at: Mutex::default() }
    }

    fn of(&self, items: u32) -> Duration {
        self.of_one * items
    }

    /// Takes all of the items, or none of them.
    ///
    /// # Errors
    /// [`OverBudget`], with what to do.
    pub fn take(&self, items: u32, now: Instant) -> Result<(), OverBudget> {
        if items > self.burst {
            return Err(OverBudget::AtOnce { items, burst: self.burst });
        }
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = full_at.map_or(now, |at| at.max(now)) + self.of(items);
        let late = wanted.duration_since(now).saturating_sub(self.of(self.burst));
        if late > Duration::ZERO {
            return Err(OverBudget::Used { after: late });
        }
        *full_at = Some(wanted);
        Ok(())
    }

    /// Gives back what was taken for nothing.
    fn give_back(&self, items: u32) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = full_at.and_then(|at| at.checked_sub(self.of(items)));
    }
}

/// Why items are beyond a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OverBudget {
    /// It is used up for now.
    #[error("the front end's budget is used up; try again in {} ms", after.as_millis().max(1))]
    Used {
        /// When there is room for these items, if nothing else is taken.
        after: Duration,
    },
    /// So many can never be taken together.
    #[error(
        "{items} items at once are more than the {burst} of the front end's budget; send smaller batches"
    )]
    AtOnce {
        /// How many were asked for.
        items: u32,
        /// How many may be.
        burst: u32,
    },
}

/// Certificates of its own that a front end may ask for at once: each instance, and again for answers that get lost.
const RENEWALS: u32 = 2 * MOST_KEYS as u32;
/// After that, one in this time.
const RENEWAL_EVERY: Duration = Duration::from_secs(60);

/// The budgets of a front end: one for all that it asks for, one for each class, and one for its own certificates.
#[derive(Debug)]
pub struct Budgets {
    rates: Rates,
    total: Option<Budget>,
    classes: [Option<Budget>; Class::ALL.len()],
    renewals: Budget,
}

impl Budgets {
    /// Budgets of which nothing is used.
    #[must_use]
    pub fn full(rates: Rates) -> Self {
        let full = |rate: Option<Rate>| rate.map(Budget::full);
        let (total, classes) = (full(rates.total), rates.classes.map(full));
        Self { rates, total, classes, renewals: Budget::every(RENEWAL_EVERY, RENEWALS) }
    }

    /// The rates that they keep.
    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Takes all of the items of a class, from its budget and from the total, or none of them.
    ///
    /// # Errors
    /// [`OverBudget`], with what to do.
    pub fn take(&self, class: Class, items: u32, now: Instant) -> Result<(), OverBudget> {
        let of_class = self.classes[class as usize].as_ref();
        if let Some(budget) = of_class {
            budget.take(items, now)?;
        }
        let taken = self.total.as_ref().map_or(Ok(()), |budget| budget.take(items, now));
        if let (Err(_), Some(budget)) = (&taken, of_class) {
            budget.give_back(items);
        }
        taken
    }

    /// Takes one certificate of the front end's own, of which each signer gives it two for every instance at once, and
    /// then one a minute: its record has no say in that.
    ///
    /// # Errors
    /// [`OverBudget`], with what to do.
    pub fn take_renewal(&self, now: Instant) -> Result<(), OverBudget> {
        self.renewals.take(1, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_may_come_at_once_and_then_as_many_as_the_rate_has() {
        let (budget, start) = (Budget::full(rate("10/5")), Instant::now());
        assert_eq!(budget.take(5, start), Ok(()));
        let after = SECOND / 10;
        assert_eq!(budget.take(1, start), Err(OverBudget::Used { after }));
        assert_eq!(budget.take(1, start + after), Ok(()));
        assert_eq!(budget.take(1, start + after), Err(OverBudget::Used { after }));
        assert_eq!(budget.take(3, start + after), Err(OverBudget::Used { after: after * 3 }));
        // A long rest brings one burst, not more.
        assert_eq!(budget.take(5, start + 60 * SECOND), Ok(()));
        assert!(budget.take(1, start + 60 * SECOND).is_err());
    }

    #[test]
    fn more_than_a_burst_is_told_to_come_in_parts() {
        let (budget, start) = (Budget::full(rate("10/5")), Instant::now());
        let refused = budget.take(6, start).unwrap_err();
        assert_eq!(refused, OverBudget::AtOnce { items: 6, burst: 5 });
        assert!(refused.to_string().contains("send smaller batches"));
        assert_eq!(budget.take(5, start), Ok(()), "nothing was taken for it");
    }

    #[test]
    fn a_class_and_the_total_are_both_kept_and_what_one_refuses_costs_the_other_nothing() {
        let start = Instant::now();
        let mut rates = Rates { total: Some(rate("10/10")), ..Rates::default() };
        rates.classes[Class::Bulk as usize] = Some(rate("4"));
        let budgets = Budgets::full(rates);
        assert_eq!(budgets.take(Class::New, 8, start), Ok(()));
        assert!(matches!(budgets.take(Class::Bulk, 3, start), Err(OverBudget::Used { .. })));
        // All four of the class are still there when the total has room for them.
        assert_eq!(budgets.take(Class::Bulk, 2, start), Ok(()));
        assert_eq!(budgets.take(Class::Bulk, 2, start + SECOND), Ok(()));
        assert_eq!(
            budgets.take(Class::Bulk, 5, start),
            Err(OverBudget::AtOnce { items: 5, burst: 4 })
        );
        assert_eq!(Budgets::full(Rates::default()).take(Class::Bulk, u32::MAX, start), Ok(()));
    }

    #[test]
    fn every_instance_may_renew_twice_at_once_and_then_one_a_minute() {
        let (budgets, start) = (Budgets::full(Rates::default()), Instant::now());
        for at in 0..128 {
            assert_eq!(budgets.take_renewal(start), Ok(()), "{at}");
        }
        let after = Duration::from_secs(60);
        assert_eq!(budgets.take_renewal(start), Err(OverBudget::Used { after }));
        assert_eq!(budgets.take_renewal(start + after), Ok(()));
        assert!(budgets.take_renewal(start + after).is_err());
    }

    #[test]
    fn a_rate_is_written_and_read_and_bounded() {
        for text in ["1/1", "1000/2000", "1000000/1000000"] {
            assert_eq!(rate(text).to_string(), text);
        }
        assert_eq!(rate("7").to_string(), "7/7");
        for text in
            ["", "0", "1/0", "0/1", "1000001", "1/1000001", "-1", "1/2/3", "a", "4294967296"]
        {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains("write it like"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_more_is_taken_than_a_burst_and_what_the_time_has_brought(
            per_second in 1..5_000_u32, burst in 1..100_u32,
            asked in proptest::collection::vec((0..120_u32, 0..400_000_000_u64), 1..60),
        ) {
            let start = Instant::now();
            let budget = Budget::full(Rate::new(per_second, burst).unwrap());
            let (mut now, mut taken) = (start, 0_u64);
            for (items, pause) in asked {
                now += Duration::from_nanos(pause);
                match budget.take(items, now) {
                    Ok(()) => taken += u64::from(items),
                    Err(OverBudget::AtOnce { .. }) => prop_assert!(items > burst),
                    // Whoever comes back when it was told to is let in.
                    Err(OverBudget::Used { after }) => {
                        now += after;
                        prop_assert_eq!(budget.take(items, now), Ok(()));
                        taken += u64::from(items);
                    }
                }
                let brought = (now - start).as_secs_f64() * f64::from(per_second);
                prop_assert!(taken as f64 <= f64::from(burst) + brought + 1e-6);
            }
        }
    }
}
