//! The search for the number of signatures at once that saturates a device: by doubling until that no longer
//! helps, then between the last two.

use std::collections::BTreeMap;

/// A rate of this part of the best counts as the best: runs differ by a few percent.
const GOOD: f64 = 0.97;

/// What has been measured so far.
#[derive(Debug)]
pub(super) struct Search {
    /// The highest number to try.
    most: usize,
    rates: BTreeMap<usize, f64>,
}

/// How many signatures at once a device can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saturation {
    /// The smallest number with about the best rate.
    At(usize),
    /// The highest number that was tried still brought more.
    Beyond(usize),
}

impl Search {
    /// Numbers from 1 to `most`, which is at least 1.
    pub(super) fn up_to(most: usize) -> Self {
        Self { most, rates: BTreeMap::new() }
    }

    /// Notes the signatures per second with so many at once.
    pub(super) fn measured(&mut self, number: usize, rate: f64) {
        self.rates.insert(number, rate);
    }

    /// Tries nothing from `number` on: the device refused so many.
    pub(super) fn refused(&mut self, number: usize) {
        self.most = self.most.min(number.saturating_sub(1));
    }

    /// The number to measure next, or `None` when the answer is known. Refines to a sixteenth.
    pub(super) fn next(&self) -> Option<usize> {
        let Some((&highest, _)) = self.rates.last_key_value() else { return Some(1) };
        if self.still_gains() {
            return (highest < self.most).then(|| (highest * 2).min(self.most));
        }
        let (below, enough) = self.bounds()?;
        let middle = below.midpoint(enough);
        (enough - below > enough.div_ceil(16) && !self.rates.contains_key(&middle))
            .then_some(middle)
    }

    /// The answer, if anything was measured.
    pub(super) fn answer(&self) -> Option<Saturation> {
        let (_, enough) = self.bounds()?;
        let is_highest = self.rates.last_key_value().is_some_and(|(&number, _)| number == enough);
        // One alone has nothing to be compared with.
        Some(if is_highest && self.still_gains() {
            Saturation::Beyond(enough)
        } else {
            Saturation::At(enough)
        })
    }

    /// Whether the highest number brought more than what all lower ones did.
    fn still_gains(&self) -> bool {
        let mut falling = self.rates.values().rev();
        let highest = falling.next().copied().unwrap_or_default();
        falling.all(|rate| *rate < GOOD * highest)
    }

    /// The smallest number with about the best rate, and the number that was tried below it (0 if none).
    fn bounds(&self) -> Option<(usize, usize)> {
        let best = self.rates.values().copied().reduce(f64::max)?;
        let mut below = 0;
        for (&number, &rate) in &self.rates {
            if rate >= GOOD * best {
                return Some((below, number));
            }
            below = number;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Searches on a device whose rate with `n` at once is `rate(n)`; gives the answer and what was tried.
    fn search(most: usize, rate: impl Fn(usize) -> f64) -> (Saturation, Vec<usize>) {
        let mut search = Search::up_to(most);
        while let Some(number) = search.next() {
            search.measured(number, rate(number));
        }
        (search.answer().unwrap(), search.rates.keys().copied().collect())
    }

    fn slots(slots: usize) -> impl Fn(usize) -> f64 {
        move |number| 500.0 * number.min(slots) as f64
    }

    #[test]
    fn doubling_is_followed_by_a_search_between_the_last_two() {
        let (answer, tried) = search(256, slots(30));
        assert_eq!(answer, Saturation::At(30));
        assert_eq!(tried, [1, 2, 4, 8, 16, 24, 28, 30, 32, 64]);
    }

    #[test]
    fn a_device_of_one_slot_is_seen_at_once() {
        assert_eq!(search(256, slots(1)), (Saturation::At(1), vec![1, 2]));
    }

    #[test]
    fn what_still_gains_at_the_highest_is_told() {
        assert_eq!(search(20, slots(30)), (Saturation::Beyond(20), vec![1, 2, 4, 8, 16, 20]));
        assert_eq!(search(1, slots(30)), (Saturation::Beyond(1), vec![1]));
    }

    #[test]
    fn a_number_that_is_refused_ends_the_doubling() {
        let mut search = Search::up_to(256);
        while let Some(number) = search.next() {
            if number > 10 {
                search.refused(number);
            } else {
                search.measured(number, slots(30)(number));
            }
        }
        assert_eq!(search.answer(), Some(Saturation::Beyond(10)));
        let mut nothing = Search::up_to(1);
        nothing.refused(1);
        assert_eq!(nothing.answer(), None);
    }

    proptest! {
        #[test]
        fn any_number_of_slots_is_named_within_a_tenth(slots in 1_usize..500, noise: [u8; 32]) {
            let rate = |number: usize| {
                let noise = f64::from(noise[number % 32]) / 255.0;
                self::slots(slots)(number) * (0.985 + 0.015 * noise)
            };
            let (answer, tried) = search(1024, rate);
            let Saturation::At(found) = answer else { panic!("{answer:?}") };
            prop_assert!(found.abs_diff(slots) <= (slots / 10).max(1), "{found} of {slots}");
            prop_assert!(tried.len() < 20);
        }
    }
}
