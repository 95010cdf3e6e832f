//! The search for the number of signatures at once that saturates a device: by doubling until that no longer
//! helps. Up to there the rate grows with the number, beyond it does not; the answer is where the two lines
//! meet. Near that point itself the rate says little: there each wait for a thread to wake shows.

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
    /// The number at which it is saturated.
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

    /// The number to measure next, or `None` when the answer is known.
    pub(super) fn next(&self) -> Option<usize> {
        let Some((&highest, _)) = self.rates.last_key_value() else { return Some(1) };
        let goes_on = self.still_gains() && highest < self.most;
        goes_on.then(|| (highest * 2).min(self.most))
    }

    /// The answer, if anything was measured.
    pub(super) fn answer(&self) -> Option<Saturation> {
        let (&highest, _) = self.rates.last_key_value()?;
        // One alone has nothing to be compared with.
        if self.still_gains() {
            return Some(Saturation::Beyond(highest));
        }
        let best = self.rates.values().copied().reduce(f64::max)?;
        let of_one = self.rates.iter().map(|(&number, rate)| rate / number as f64);
        let of_one = of_one.reduce(f64::max).filter(|rate| *rate > 0.0)?;
        Some(Saturation::At(((best / of_one).round() as usize).clamp(1, highest)))
    }

    /// Whether the highest number brought more than what all lower ones did.
    fn still_gains(&self) -> bool {
        let mut falling = self.rates.values().rev();
        let highest = falling.next().copied().unwrap_or_default();
        falling.all(|rate| *rate < GOOD * highest)
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
    fn the_answer_is_where_growth_and_the_best_rate_meet() {
        let (answer, tried) = search(256, slots(30));
        assert_eq!(answer, Saturation::At(30));
        assert_eq!(tried, [1, 2, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn a_rate_that_sags_near_the_answer_does_not_move_it() {
        let sagging = |number: usize| slots(30)(number) * if number == 32 { 0.9 } else { 1.0 };
        assert_eq!(search(256, sagging).0, Saturation::At(30));
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
