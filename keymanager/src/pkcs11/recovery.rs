//! What becomes of a store whose device fails: what it says of itself, and how its library is brought back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ca_core::key::{SignError, StoreHealth};

use super::fault::{Class, Fault};
use super::pool::{Inner, rand_below};
use super::watch::Stopwatch;

/// The state of a store, and of the recovery that is under way.
pub(super) struct Recovery {
    health: Mutex<Health>,
    errors: DeviceErrors,
    under_way: AtomicBool,
    /// The library was brought back, and nothing has been signed since.
    unproven: AtomicBool,
    /// The call by which a recovery looks whether the token can be used.
    trial: Stopwatch,
}

struct Health {
    state: StoreHealth,
    /// The last thing that went wrong, for who asks why there was no signature.
    trouble: String,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            health: Mutex::new(Health { state: StoreHealth::Good, trouble: String::new() }),
            errors: DeviceErrors::default(),
            under_way: AtomicBool::new(false),
            unproven: AtomicBool::new(false),
            trial: Stopwatch::default(),
        }
    }
}

impl Health {
    /// Whether it is the end: nothing that this process can do by itself helps.
    fn is_final(&self) -> bool {
        matches!(self.state, StoreHealth::Lost(_) | StoreHealth::Stuck(_))
    }

    /// Changes the state and gives the one before, unless that was the end.
    fn set(&mut self, state: StoreHealth) -> Option<StoreHealth> {
        (!self.is_final()).then(|| std::mem::replace(&mut self.state, state))
    }
}

/// What it says of itself.
impl Inner {
    pub(super) fn health(&self) -> StoreHealth {
        self.state().state.clone()
    }

    /// The answer to who asks a pool that has ended.
    pub(super) fn stopped(&self, key: String) -> SignError {
        ended(&self.state().state, key)
    }

    /// Why there was no signature in time, as far as it is known.
    pub(super) fn late(&self, key: String) -> SignError {
        let health = self.state();
        let reason = match (&health.state, health.trouble.as_str()) {
            (StoreHealth::Good, "") => "the device did not answer before the deadline".to_owned(),
            (StoreHealth::Good, trouble) => {
                format!(
                    "the device did not answer before the deadline; its last trouble: {trouble}"
                )
            }
            (ill, _) => ill.reason().unwrap_or_default().to_owned(),
        };
        SignError::Late { key, reason }
    }

    /// Notes a fault of the device where people look for it.
    pub(super) fn note(&self, fault: &Fault) {
        self.metrics.error(fault.class.name(), &fault.code);
        self.state().trouble.clone_from(&fault.said);
    }

    /// A probe was signed, or was not.
    pub(super) fn probed(&self, outcome: Result<(), String>) {
        let place = self.token.place();
        self.recovery.unproven.store(false, Ordering::SeqCst);
        match outcome {
            Ok(()) => {
                if let Some(StoreHealth::Ailing(_)) = self.good() {
                    tracing::info!(place, "the keys sign again");
                }
            }
            Err(reason) => {
                if self.ailing(reason.clone()).is_some() {
                    tracing::warn!(place, reason, "a probe was not signed");
                }
            }
        }
    }

    /// The end: nothing that this process can do by itself helps.
    pub(super) fn fail(&self, end: StoreHealth) {
        if self.set(end.clone(), false).is_none() {
            return;
        }
        let reason = end.reason().unwrap_or_default();
        tracing::error!(place = self.token.place(), reason, "keys are lost to this process");
        self.close(|key| ended(&end, key));
        self.queue.resume();
    }

    fn good(&self) -> Option<StoreHealth> {
        self.set(StoreHealth::Good, true)
    }

    fn ailing(&self, reason: String) -> Option<StoreHealth> {
        self.set(StoreHealth::Ailing(reason), false)
    }

    /// Changes the state and gives the one before, unless that was the end.
    fn set(&self, state: StoreHealth, healthy: bool) -> Option<StoreHealth> {
        // The figure is changed under the lock, so that it never says other than the state.
        let mut health = self.state();
        let before = health.set(state)?;
        self.metrics.healthy(healthy);
        Some(before)
    }

    fn state(&self) -> MutexGuard<'_, Health> {
        // Two texts and a state: a panic elsewhere leaves nothing half done.
        self.recovery.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer of a store that has come to that end: of a hanging module another process may be free, a refused PIN
/// stays refused.
fn ended(health: &StoreHealth, key: String) -> SignError {
    let reason = health.reason().unwrap_or("the key store is closed").to_owned();
    match health {
        StoreHealth::Lost(_) => SignError::Refused { key, reason },
        _ => SignError::Unavailable { key, reason },
    }
}

/// What a call of a recovery may take beyond the stall limit: a start or a login over a network takes seconds.
const STARTING: Duration = Duration::from_secs(5);

/// How the library is brought back.
impl Inner {
    /// A signature was good. The first one after a recovery has been verified, as that of every handle that was just
    /// looked up.
    pub(super) fn device_works(&self) {
        self.recovery.errors.forget();
        // Read first, as there.
        let unproven = &self.recovery.unproven;
        if unproven.load(Ordering::Relaxed) && unproven.swap(false, Ordering::SeqCst) {
            self.probed(Ok(()));
        }
    }

    /// Whether the library is being brought back.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovery.under_way.load(Ordering::SeqCst)
    }

    /// Whether the library was brought back, and nothing has been signed since.
    pub(super) fn is_unproven(&self) -> bool {
        self.recovery.unproven.load(Ordering::SeqCst)
    }

    /// The device as a whole failed. Says whether that was once too often: the library has lost it.
    pub(super) fn device_failed(&self) -> bool {
        self.recovery.errors.add()
    }

    /// Brings the library back, unless another thread is at it or has been since generation `seen`. Meanwhile
    /// nobody is served. Tries for as long as it takes; callers wait until their deadlines.
    pub(super) fn recover(&self, seen: u64, cause: &str) {
        if !self.queue.pause() {
            return;
        }
        self.recovery.under_way.store(true, Ordering::SeqCst);
        self.watcher.wake_if_asleep();
        let is_back = self.bring_back(seen, cause);
        if is_back {
            // A device that lets in may still not sign. A store without keys has nothing else to go by.
            let unproven = !self.keys_in_use().is_empty();
            self.recovery.unproven.store(unproven, Ordering::SeqCst);
            if !unproven {
                self.good();
            }
            self.recovery.errors.recovered();
        }
        // Before others are let in, of whom one may begin the next.
        self.recovery.under_way.store(false, Ordering::SeqCst);
        if is_back {
            self.queue.resume();
        }
        // A probe is due, and the watch may have looked just before.
        self.watcher.wake_if_asleep();
    }

    /// Says whether it is back; if not, the store has ended.
    fn bring_back(&self, mut seen: u64, cause: &str) -> bool {
        let (started, place, module) = (Instant::now(), self.token.place(), self.token.module());
        let reason =
            format!("the PKCS#11 library has lost its device ({cause}); it is being reopened");
        if self.ailing(reason.clone()) == Some(StoreHealth::Good) {
            tracing::warn!(place, reason, "keys are unavailable");
        }
        let (mut hung, mut restarts, first) = (0, Restarts::default(), seen);
        for wait in backoff() {
            if self.queue.is_closed() {
                return false;
            }
            // Once it was initialised, it is not this store that it was good for.
            let good_for_others = module.is_good() && module.generation() != first;
            let restart = restarts.are_due(good_for_others, Instant::now());
            match self.try_once(restart.then_some(seen)) {
                Ok(()) => break,
                Err(fault) if fault.class == Class::Credentials => {
                    self.fail(StoreHealth::Lost(fault.said));
                    return false;
                }
                // Another store has the library initialised.
                Err(fault) if fault.class == Class::Past => {}
                Err(fault) => {
                    self.note(&fault);
                    hung += usize::from(fault.class == Class::Hangs);
                    if hung > 1 {
                        let reason = format!("{}; start the process anew", fault.said);
                        self.fail(StoreHealth::Stuck(reason));
                        return false;
                    }
                    let said = fault.said;
                    self.ailing(format!("the PKCS#11 library does not find its device: {said}"));
                }
            }
            seen = module.generation();
            thread::sleep(wait);
        }
        let (generation, took) = (module.generation(), started.elapsed());
        tracing::info!(place, cause, generation, ?took, "the PKCS#11 library is back");
        true
    }

    /// Initialises the library anew, if nobody has since generation `seen`, or leaves it as it is; then looks
    /// whether the token is there.
    fn try_once(&self, seen: Option<u64>) -> Result<(), Fault> {
        if let Some(seen) = seen {
            self.token.module().recover(seen, self.stall_limit)?;
        }
        self.recovery.trial.time(|| self.token.session_at_once().map(drop))
    }

    /// As [`recover`](Self::recover), for a caller that waits for it no longer than that, whoever is at it. The
    /// recovery goes on without it.
    pub(super) fn recover_within(self: &Arc<Self>, seen: u64, cause: &str, patience: Duration) {
        let end = Instant::now() + patience;
        // The end of the pool waits for this thread as for the others.
        let Some(alive) = self.alive() else { return };
        let (pool, cause) = (Arc::clone(self), cause.to_owned());
        let thread = thread::Builder::new().name("key recovery".to_owned()).spawn(move || {
            pool.recover(seen, &cause);
            drop(alive);
        });
        // Without a thread there is no recovery, and the caller finds the device as it is.
        let Ok(thread) = thread else { return };
        let goes_on = || !thread.is_finished() || self.recovery.under_way.load(Ordering::SeqCst);
        while goes_on() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits while another store has the library initialised anew. Nothing of this one has failed, so it
    /// initialises nothing itself, unless nobody can use the library any more.
    pub(super) fn wait_for_library(&self) {
        let module = self.token.module();
        while module.is_being_initialised() && !self.queue.is_closed() {
            if module.is_down() {
                return self.recover(module.generation(), "the library does not initialise");
            }
            self.look_after_recovery(Instant::now());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the store if a call hangs by which the library is brought back, here or by another store. Says
    /// whether a recovery is under way that is to be looked after.
    pub(super) fn look_after_recovery(&self, now: Instant) -> bool {
        let starting = self.token.module().has_been_starting_for(now);
        let longest = starting.max(self.recovery.trial.elapsed(now));
        if longest.is_some_and(|time| time > self.stall_limit + STARTING) {
            let reason =
                "the PKCS#11 module hangs while it is brought back; start the process anew";
            self.fail(StoreHealth::Stuck(reason.to_owned()));
        }
        self.recovery.under_way.load(Ordering::SeqCst) && !self.state().is_final()
    }
}

/// Errors of the whole device in a row, and recoveries that no good signature has followed: 0 while all is well.
#[derive(Default)]
struct DeviceErrors(AtomicU64);

impl DeviceErrors {
    /// So many errors in a row, and the library is taken to have lost its device. Twice as many after each
    /// recovery that was of no use.
    const MOST: u64 = 3;
    /// One recovery.
    const RECOVERY: u64 = 1 << 32;

    fn forget(&self) {
        // Read first: many threads say so all the time, and it is hardly ever news.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Says whether it was once too often.
    fn add(&self) -> bool {
        let now = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let (recoveries, errors) = (now / Self::RECOVERY, now % Self::RECOVERY);
        errors >= Self::MOST << recoveries.min(10)
    }

    fn recovered(&self) {
        let recoveries = self.0.load(Ordering::Relaxed) / Self::RECOVERY;
        self.0.store((recoveries + 1) * Self::RECOVERY, Ordering::Relaxed);
    }
}

/// When a recovery that has initialised the library in vain may do so again: at once, unless others can use
/// it as it is. They lose their sessions each time.
#[derive(Default)]
struct Restarts {
    /// The next one, and how long to wait for the one after.
    next: Option<(Instant, Duration)>,
}

impl Restarts {
    const LONGEST: Duration = Duration::from_secs(30);

    /// Whether the library is to be initialised now.
    fn are_due(&mut self, good_for_others: bool, now: Instant) -> bool {
        match self.next {
            Some((due, _)) if good_for_others && now < due => false,
            Some((_, wait)) if good_for_others => {
                self.next = Some((now + wait, (wait * 2).min(Self::LONGEST)));
                true
            }
            _ => {
                self.next = Some((now + Duration::from_secs(1), Duration::from_secs(2)));
                true
            }
        }
    }
}

/// Waits between tries to bring a library back: 50 ms by doubling to half a second, each a little different,
/// so that processes that lost one device together do not ask for it together.
fn backoff() -> impl Iterator<Item = Duration> {
    (0..).map(|step: u32| {
        let whole = 50_u64.saturating_mul(1 << step.min(4)).min(500);
        Duration::from_millis(whole / 2 + u64::from(rand_below(256)) * (whole / 2) / 255)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_a_row_are_borne_longer_after_each_recovery_that_was_of_no_use() {
        let errors = DeviceErrors::default();
        let until_too_many = || (1..).find(|_| errors.add()).unwrap();
        for most in [3, 6, 12, 24] {
            assert_eq!(until_too_many(), most);
            errors.recovered();
        }
        errors.forget();
        assert_eq!(until_too_many(), 3, "a good signature");
        (0..100).for_each(|_| errors.recovered());
        assert_eq!(until_too_many(), 3 * 1024, "bounded");
    }

    #[test]
    fn a_library_that_others_can_use_is_initialised_less_and_less_often() {
        let (mut restarts, start) = (Restarts::default(), Instant::now());
        assert!(restarts.are_due(true, start), "the first time");
        let mut at = Vec::new();
        for second in 0..120 {
            let now = start + Duration::from_secs(second);
            if restarts.are_due(true, now) {
                at.push(second);
            }
        }
        assert_eq!(at, [1, 3, 7, 15, 31, 61, 91]);
        let now = start + Duration::from_secs(92);
        assert!(restarts.are_due(false, now) && restarts.are_due(false, now), "of use to nobody");
    }

    #[test]
    fn the_end_is_for_good() {
        let mut health = Health { state: StoreHealth::Good, trouble: String::new() };
        assert_eq!(health.set(StoreHealth::Ailing("a".to_owned())), Some(StoreHealth::Good));
        for end in [StoreHealth::Lost("b".to_owned()), StoreHealth::Stuck("c".to_owned())] {
            let mut health = Health { state: StoreHealth::Good, trouble: String::new() };
            assert!(health.set(end.clone()).is_some() && health.is_final());
            assert_eq!(health.set(StoreHealth::Good), None);
            assert_eq!(health.state, end);
        }
    }
}
