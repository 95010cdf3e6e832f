//! Who is inside a module: `C_Finalize` while another thread is in a call is undefined (PKCS#11 3.0 §5.4).
//!
//! Every call goes through the gate, and says for which generation of the module its session and handles
//! were made. After a new initialisation the numbers of old handles may name new objects, so whoever holds
//! an old one is not let in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Set while nobody may enter.
const CLOSED: u64 = 1 << 63;

/// Counts the threads inside.
#[derive(Debug)]
pub(super) struct Gate {
    /// How many are inside, and [`CLOSED`].
    inside: AtomicU64,
    generation: AtomicU64,
    /// Until when those inside may stay who may stay long.
    guests: Mutex<Vec<Instant>>,
}

/// A thread inside the module; it leaves when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Inside<'a>(&'a Gate);

/// A thread inside that may stay long.
#[derive(Debug)]
#[must_use]
pub(super) struct Guest<'a> {
    inside: Inside<'a>,
    until: Instant,
}

impl Gate {
    pub(super) fn open_at(generation: u64) -> Self {
        let (inside, generation) = (AtomicU64::new(0), AtomicU64::new(generation));
        Self { inside, generation, guests: Mutex::default() }
    }

    /// Lets in who holds handles of the present generation.
    pub(super) fn enter(&self, generation: u64) -> Option<Inside<'_>> {
        let before = self.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(self);
        let current = self.generation.load(Ordering::SeqCst) == generation;
        (before & CLOSED == 0 && current).then_some(inside)
    }

    /// As [`enter`](Self::enter), for a call that may take until then without hanging.
    pub(super) fn enter_until(&self, generation: u64, until: Instant) -> Option<Guest<'_>> {
        let inside = self.enter(generation)?;
        self.guests().push(until);
        Some(Guest { inside, until })
    }

    /// Whether only those are inside who may stay.
    pub(super) fn has_guests_alone(&self) -> bool {
        let now = Instant::now();
        let guests = self.guests().iter().filter(|until| **until > now).count() as u64;
        self.inside.load(Ordering::SeqCst) & !CLOSED == guests
    }

    fn guests(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody in any more and waits until all have left, or as long as that; then says whether they
    /// have. The gate stays closed.
    pub(super) fn close(&self, patience: Duration) -> bool {
        self.inside.fetch_or(CLOSED, Ordering::SeqCst);
        let end = Instant::now() + patience;
        while self.inside.load(Ordering::SeqCst) != CLOSED {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Opens it for handles of that generation.
    pub(super) fn open(&self, generation: u64) {
        self.generation.store(generation, Ordering::SeqCst);
        self.inside.fetch_and(!CLOSED, Ordering::SeqCst);
    }

    /// The generation for which it is open, or was last.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Whether nobody may enter.
    pub(super) fn is_closed(&self) -> bool {
        self.inside.load(Ordering::SeqCst) & CLOSED != 0
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut guests = self.inside.0.guests();
        if let Some(place) = guests.iter().position(|until| *until == self.until) {
            guests.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_handles_of_the_present_generation_are_let_in() {
        let gate = Gate::open_at(3);
        assert!(gate.enter(3).is_some());
        assert!(gate.enter(2).is_none());
        assert!(gate.close(Duration::ZERO), "nobody is inside");
        assert!(gate.enter(3).is_none() && gate.is_closed());
        gate.open(4);
        assert!(gate.enter(3).is_none() && gate.enter(4).is_some());
        assert_eq!(gate.generation(), 4);
    }

    #[test]
    fn closing_waits_for_those_inside_and_no_longer_than_it_may() {
        let gate = Gate::open_at(1);
        let inside = gate.enter(1).unwrap();
        assert!(!gate.close(Duration::from_millis(2)));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                drop(inside);
            });
            assert!(gate.close(Duration::from_secs(20)));
        });
    }

    #[test]
    fn a_guest_is_told_from_one_who_hangs_until_its_time_is_over() {
        let gate = Gate::open_at(1);
        let soon = Instant::now() + Duration::from_millis(40);
        let guest = gate.enter_until(1, soon).unwrap();
        assert!(!gate.close(Duration::ZERO) && gate.has_guests_alone());
        gate.open(1);
        let other = gate.enter(1).unwrap();
        assert!(!gate.has_guests_alone(), "another is inside");
        drop(other);
        assert!(gate.has_guests_alone());
        thread::sleep(soon.saturating_duration_since(Instant::now()));
        assert!(!gate.has_guests_alone(), "its time is over");
        drop(guest);
        assert!(gate.close(Duration::ZERO), "it has left");
    }
}
