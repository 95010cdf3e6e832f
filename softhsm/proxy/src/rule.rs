//! Rules: on which calls of a function what happens.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use cryptoki_sys::CK_RV;

use crate::Function;

/// One fault. Of several rules that meet in one call the one in the first place decides, which is the
/// oldest unless rules were removed; all of them count the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whose calls.
    pub function: Function,
    /// Which of them, counted from 1 from the moment the rule was set.
    pub when: When,
    /// What happens.
    pub effect: Effect,
}

/// Which calls a rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// This call alone; the first is 1.
    Nth(u64),
    /// This call and those after it, so many in all.
    From {
        /// The first one meant.
        call: u64,
        /// How many.
        times: u64,
    },
    /// Every so many calls: 3 means the third, the sixth, and so on. 1 means every call, 0 none.
    Every(u64),
    /// Each call with this probability in millionths. Which ones follows from the
    /// [seed](crate::Control::set_seed), the rule's place and the number of the call, so it is the same in every run.
    Chance(u32),
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It answers this code and nothing is done. A signature's operation ends, as the standard says,
    /// and its buffer is wiped.
    Fail(CK_RV),
    /// It is done, but answers this code: a key may exist whose handle nobody has. A session is
    /// closed again.
    Lose(CK_RV),
    /// One bit of the signature is flipped ([`Function::Sign`] and [`Function::SignFinal`] alone).
    Corrupt,
    /// It waits for this time, or until [`Control::release`](crate::Control::release), and goes on.
    Hang(Duration),
}

/// A rule that was set; see [`Control::fired`](crate::Control::fired).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(pub(crate) usize);

/// What a rule decided for one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) effect: Effect,
    /// Random and reproducible, for the bit to flip.
    pub(crate) random: u64,
}

/// A rule in the control block.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RuleCell {
    /// [`FREE`], [`CLAIMED`] or the function's index from [`FIRST`] on.
    state: AtomicU32,
    when: AtomicU32,
    call: AtomicU64,
    times: AtomicU64,
    effect: AtomicU32,
    value: AtomicU64,
    seen: AtomicU64,
    fired: AtomicU64,
}

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const FIRST: u32 = 2;

const FROM: u32 = 0;
const EVERY: u32 = 1;
const CHANCE: u32 = 2;

const FAIL: u32 = 0;
const LOSE: u32 = 1;
const CORRUPT: u32 = 2;
const HANG: u32 = 3;

impl RuleCell {
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            when: AtomicU32::new(0),
            call: AtomicU64::new(0),
            times: AtomicU64::new(0),
            effect: AtomicU32::new(0),
            value: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            fired: AtomicU64::new(0),
        }
    }

    /// Sets the rule if the cell is free.
    pub(crate) fn take(&self, rule: Rule) -> bool {
        if self.state.compare_exchange(FREE, CLAIMED, Acquire, Relaxed).is_err() {
            return false;
        }
        let (when, call, times) = match rule.when {
            When::Nth(call) => (FROM, call, 1),
            When::From { call, times } => (FROM, call, times),
            When::Every(calls) => (EVERY, calls, 0),
            When::Chance(per_million) => (CHANCE, u64::from(per_million), 0),
        };
        let (effect, value) = match rule.effect {
            Effect::Fail(code) => (FAIL, code),
            Effect::Lose(code) => (LOSE, code),
            Effect::Corrupt => (CORRUPT, 0),
            Effect::Hang(time) => (HANG, nanoseconds(time)),
        };
        self.when.store(when, Relaxed);
        self.call.store(call, Relaxed);
        self.times.store(times, Relaxed);
        self.effect.store(effect, Relaxed);
        self.value.store(value, Relaxed);
        self.seen.store(0, Relaxed);
        self.fired.store(0, Relaxed);
        self.state.store(FIRST + rule.function as u32, Release);
        true
    }

    pub(crate) fn free(&self) {
        self.state.store(FREE, Release);
    }

    pub(crate) fn fired(&self) -> u64 {
        self.fired.load(Relaxed)
    }

    /// Counts a call and says what happens to it. `seed` is the block's, mixed with the cell's place.
    pub(crate) fn judge(&self, function: Function, seed: u64) -> Option<Verdict> {
        if self.state.load(Acquire) != FIRST + function as u32 {
            return None;
        }
        let number = self.seen.fetch_add(1, Relaxed) + 1;
        let random = mixed(seed ^ mixed(number));
        if !self.means(number, random) {
            return None;
        }
        self.fired.fetch_add(1, Relaxed);
        // The bits that decided are not used again.
        Some(Verdict { effect: self.effect(), random: mixed(random) })
    }

    fn means(&self, number: u64, random: u64) -> bool {
        let call = self.call.load(Relaxed);
        match self.when.load(Relaxed) {
            FROM => number >= call && number - call < self.times.load(Relaxed),
            EVERY => call != 0 && number.is_multiple_of(call),
            _ => random % 1_000_000 < call,
        }
    }

    fn effect(&self) -> Effect {
        let value = self.value.load(Relaxed);
        match self.effect.load(Relaxed) {
            FAIL => Effect::Fail(value),
            LOSE => Effect::Lose(value),
            CORRUPT => Effect::Corrupt,
            _ => Effect::Hang(Duration::from_nanos(value)),
        }
    }
}

/// In full, or the longest time that the block can hold: 584 years.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The finaliser of splitmix64: every bit of the answer depends on every bit given.
pub(crate) fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(when: When, calls: u64) -> Vec<u64> {
        let cell = RuleCell::new();
        let effect = Effect::Corrupt;
        assert!(cell.take(Rule { function: Function::Sign, when, effect }));
        (1..=calls).filter(|_| cell.judge(Function::Sign, 7).is_some()).collect()
    }

    #[test]
    fn a_rule_fires_on_the_calls_it_means() {
        assert_eq!(fired(When::Nth(3), 6), [3]);
        assert_eq!(fired(When::From { call: 2, times: 3 }, 6), [2, 3, 4]);
        assert_eq!(fired(When::From { call: 5, times: u64::MAX }, 7), [5, 6, 7]);
        assert_eq!(fired(When::Every(2), 6), [2, 4, 6]);
        assert_eq!(fired(When::Every(0), 6), [0; 0]);
    }

    #[test]
    fn chance_is_the_same_in_every_run_and_near_its_probability() {
        let some = fired(When::Chance(10_000), 100_000);
        assert_eq!(some, fired(When::Chance(10_000), 100_000));
        assert!((900..1_100).contains(&some.len()), "{}", some.len());
        assert_eq!(fired(When::Chance(0), 1_000).len(), 0);
        assert_eq!(fired(When::Chance(1_000_000), 1_000).len(), 1_000);
    }

    #[test]
    fn a_rule_sees_calls_of_its_function_alone() {
        let cell = RuleCell::new();
        let rule = Rule { function: Function::Login, when: When::Nth(1), effect: Effect::Corrupt };
        assert!(cell.take(rule) && !cell.take(rule), "a cell holds one rule");
        assert!(cell.judge(Function::Sign, 0).is_none());
        assert!(cell.judge(Function::Login, 0).is_some());
        cell.free();
        assert!(cell.judge(Function::Login, 0).is_none());
    }
}
