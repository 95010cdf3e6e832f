//! One thread that signs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use ca_core::key::{KeyError, SignError, Signature, SignatureError, StoreHealth};
use cryptoki::object::ObjectHandle;

use super::answer::{Answer, Answers};
use super::call::Input;
use super::fault::{Class, Fault};
use super::key::Facts;
use super::object::Failure;
use super::pool::{Inner, Job, rand_below};
use super::queue::Turn;
use super::token::TokenSession;
use super::watch::TICK;
use crate::verification;

/// How often a job may fail for reasons of the device before its caller is told. While the device only wants
/// less, its deadline is the limit.
const MOST_TRIES: u8 = 6;
/// What it means that a key is not there.
const GONE: &str = "it is not in the token any more; restore it, or make a new authority";

/// A thread of a pool, with its session.
pub(super) struct Worker {
    pool: Arc<Inner>,
    slot: Arc<Slot>,
    /// `None` after a failure that cost the session; the next job takes another.
    seat: Option<Seat>,
    /// Naps in a row that this thread has taken because the device wanted less.
    naps: u32,
    /// How long a signature takes when nothing holds this thread up: the shortest of late. That of a
    /// single one tells a slow device from a thread that had to leave its core to another.
    pace: Option<Duration>,
}

/// A logged-in session and the handles of keys in it.
struct Seat {
    session: TokenSession,
    handles: Vec<(Weak<Facts>, ObjectHandle)>,
}

/// A signature.
struct Signed {
    signature: Signature,
    /// Whether its key's handle had to be looked up first.
    looked_up: bool,
    /// When the token was asked for it, with the session open and the handle known.
    asked: Instant,
    /// How long the token took.
    took: Duration,
}

/// On what a job was tried.
#[derive(Clone, Copy)]
struct On {
    /// The generation of the module.
    generation: u64,
    /// Whether the session was opened for this job, or was about to be.
    fresh: bool,
}

/// Whether a fault is one of the few that a job may meet. Sessions that were lost together do not count, nor
/// those that the token allows no more of: there may be many of either, and the others serve the job. Nor does
/// a device that wants less, which may last.
fn counts(fault: &Fault, on: On) -> bool {
    match fault.class {
        Class::Sessions | Class::Later => false,
        Class::Session => on.fresh,
        _ => true,
    }
}

/// What is done about a fault, beside what becomes of the session ([`Trouble::costs_the_session`]).
struct Remedy {
    /// Before others take the job up, this thread leaves the device alone: shortest and longest. The job waits
    /// behind the others of its class then, which may fare better.
    nap_first: Option<(Duration, Duration)>,
    /// Whether another try may help.
    again: bool,
    then: Then,
}

/// What a thread does after a fault, before it takes the next job.
enum Then {
    Go,
    /// Leaves the device alone: shortest and longest.
    Nap(Duration, Duration),
    /// Counts it; after too many, the library is brought back.
    Count,
    /// Brings the library back.
    Recover,
}

impl Remedy {
    /// What helps against a fault on a session that was opened for the job, or on an older one.
    fn of(class: Class, fresh: bool) -> Self {
        let then = |then| Self { nap_first: None, again: true, then };
        let milliseconds = Duration::from_millis;
        match class {
            // A new session would help, and this one was new.
            Class::Session if fresh => then(Then::Count),
            Class::Session | Class::Past => then(Then::Go),
            Class::Device => then(Then::Count),
            Class::Library | Class::Hangs => then(Then::Recover),
            Class::Sessions => then(Then::Nap(milliseconds(50), milliseconds(1000))),
            // The device wants less, not the same from another thread.
            Class::Later => {
                let nap = (milliseconds(1), milliseconds(50));
                Self { nap_first: Some(nap), ..then(Then::Go) }
            }
            Class::Credentials | Class::Refused => Self { again: false, ..then(Then::Go) },
        }
    }
}

/// Why there is no signature.
enum Trouble {
    Token(Fault),
    Key(KeyError),
    /// The key, or a half of it, is not in the token; what that means if it stays so.
    Missing(String),
    Malformed(SignatureError),
    /// The signature does not verify.
    Wrong,
    /// Nobody waits for the signature any more.
    Unwanted,
}

impl Trouble {
    /// Whether the session is not to be used again.
    fn costs_the_session(&self) -> bool {
        match self {
            // Whether one is of the past shows when it is used.
            Self::Token(fault) => {
                !matches!(fault.class, Class::Later | Class::Refused | Class::Past)
            }
            Self::Malformed(_) | Self::Wrong => true,
            Self::Key(_) | Self::Missing(_) | Self::Unwanted => false,
        }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Token(fault)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Token(fault) => Self::Token(fault),
            Failure::Key(error) => Self::Key(error),
        }
    }
}

impl Worker {
    pub(super) fn new(pool: Arc<Inner>, slot: Arc<Slot>) -> Self {
        Self { pool, slot, seat: None, naps: 0, pace: None }
    }

    /// Signs until the pool ends, or until this thread was replaced because it hung.
    pub(super) fn run(mut self) {
        if !self.open_early() {
            return self.leave();
        }
        while let Some(job) = self.next() {
            if !self.serve(job) {
                return self.leave();
            }
        }
        self.pool.answers.hand_out();
    }

    /// Opens its session, so that the first callers do not wait for it. A failure shows, and is dealt with,
    /// when one comes. Says whether this thread is still one of the pool's.
    fn open_early(&mut self) -> bool {
        self.slot.state().opening = Some(Instant::now());
        self.pool.watcher.wake_if_asleep();
        self.seat = self.pool.token.session_at_once().ok().map(Seat::new);
        self.slot.state().opening.take().is_some()
    }

    /// It hung, was replaced, and has come back.
    fn leave(mut self) {
        // Closing it may hang too.
        self.seat = None;
        self.pool.returned();
    }

    /// The next job that somebody waits for; while there is none, nobody is kept waiting for an answer.
    fn next(&mut self) -> Option<Job> {
        loop {
            let turn = match self.pool.queue.next() {
                Turn::None => {
                    self.pool.answers.hand_out();
                    self.pool.queue.wait()
                }
                turn => turn,
            };
            match turn {
                Turn::Job(job) if job.is_dead(Instant::now()) => {}
                Turn::Job(job) => return Some(job),
                Turn::None => {}
                Turn::End => return None,
            }
        }
    }

    /// Signs one job. Says whether this thread is still one of the pool's.
    fn serve(&mut self, job: Job) -> bool {
        let order = Arc::clone(&job.order);
        let key = &order.key;
        if let Err(refused) = key.retired.check(&key.name) {
            job.reply.send(Err(refused));
            return true;
        }
        let started = Instant::now();
        key.metrics.waited(started - order.submitted);
        let verify = order.verify || job.wrong;
        let fresh = self.seat.is_none();
        if fresh {
            // Another session has to be opened first, which may take long.
            self.pool.answers.hand_out();
        }
        self.slot.state().current = Some((job, started));
        self.pool.watcher.wake_if_asleep();
        let present = self.pool.token.module().generation();
        self.pool.answers.begun(started, self.pace.unwrap_or_default());
        let signed = self.sign(key, &order.input);
        let outcome = signed.and_then(|signed| {
            // What a handle that was just looked up signs first is verified whatever is set.
            let due = verify || signed.looked_up;
            let right = !due || key.verifiers.verifies(&order.message, &signed.signature);
            if right { Ok(signed) } else { Err(Trouble::Wrong) }
        });
        // Without a session, what failed was the opening of one.
        let generation = self.seat.as_ref().map_or(present, |seat| seat.session.generation());
        // Closing one is a call into the module like any other, and watched like any other.
        if outcome.as_ref().is_err_and(Trouble::costs_the_session) {
            self.seat = None;
        }
        let Some((job, _)) = self.slot.state().current.take() else { return false };
        self.conclude(job, outcome, started, On { generation, fresh });
        true
    }

    fn sign(&mut self, key: &Arc<Facts>, input: &Input) -> Result<Signed, Trouble> {
        let token = &self.pool.token;
        let seat = match &mut self.seat {
            Some(seat) => seat,
            // While the library is being initialised there is none to be had; whoever waited for it with
            // a job in hand would seem to hang in it.
            none => none.insert(Seat::new(token.session_at_once()?)),
        };
        let (private, looked_up) = match seat.handle(key) {
            Some(private) => (private, false),
            None => {
                let private = seat.look_up(&self.pool, key)?;
                // That may have taken long.
                if self.slot.state().is_unwanted(Instant::now()) {
                    return Err(Trouble::Unwanted);
                }
                (private, true)
            }
        };
        let asked = Instant::now();
        let signed = seat.session.run(|session| token.sign_on(session, private, input))?;
        let took = asked.elapsed();
        let signature = signed.map_err(Trouble::Malformed)?;
        Ok(Signed { signature, looked_up, asked, took })
    }

    /// Answers a job or has it tried again.
    fn conclude(&mut self, job: Job, outcome: Result<Signed, Trouble>, started: Instant, on: On) {
        if outcome.is_err() {
            self.pool.answers.none_of(started);
        }
        match outcome {
            Ok(Signed { signature, asked, took, .. }) => {
                job.order.key.metrics.signed(took);
                self.naps = 0;
                self.pool.device_works();
                // With its verification, but without a session that had to be opened for it.
                self.pool.queue.note_pace(asked.elapsed());
                self.answer(job, Ok(signature), started, took);
            }
            Err(Trouble::Wrong) => self.wrong(job, verification::wrong),
            Err(Trouble::Malformed(source)) => {
                self.wrong(job, |name| SignError::Malformed { key: name.to_string(), source });
            }
            Err(Trouble::Token(fault)) if fault.class == Class::Past => self.past(job),
            Err(Trouble::Token(fault)) => self.fault(job, fault, on),
            // Its caller has been told, or has gone.
            Err(Trouble::Unwanted) => drop(job),
            Err(Trouble::Missing(reason)) => self.missing(job, reason, on.generation),
            Err(Trouble::Key(error)) => {
                let (key, reason) = (job.key_name(), error.to_string());
                job.reply.send(Err(SignError::Refused { key, reason }));
            }
        }
    }

    /// Answers a job, together with others if more work waits.
    fn answer(&mut self, job: Job, answer: Answer, started: Instant, took: Duration) {
        let pace = took.min(self.pace.map_or(took, |pace| pace + pace / 8));
        self.pace = Some(pace);
        let now = Instant::now();
        // One that is wanted sooner than that cannot wait for its neighbours.
        let hurry = job.order.urgency.deadline < now + Answers::LONGEST + 2 * TICK;
        let waiting = if hurry { 0 } else { self.pool.queue.len() };
        self.pool.answers.add(job.reply, answer, (started, now), pace, waiting);
    }

    /// A wrong signature is never released. The session that gave it is, and the job tried once more.
    fn wrong(&mut self, mut job: Job, error: impl FnOnce(&ca_core::key::KeyName) -> SignError) {
        job.order.key.metrics.wrong();
        if job.wrong {
            let error = error(&job.order.key.name);
            return job.reply.send(Err(error));
        }
        verification::alarm(&job.order.key.name, self.pool.token.place());
        job.wrong = true;
        self.pool.put_back(job);
    }

    /// The module was initialised anew meanwhile, or is being so: nothing has failed but, maybe, the session.
    fn past(&mut self, job: Job) {
        self.pool.put_back(job);
        self.pool.wait_for_library();
        // An initialisation may have been given up, and then the session is as good as it was.
        let generation = self.pool.token.module().generation();
        self.seat.take_if(|seat| seat.session.generation() != generation);
    }

    fn fault(&mut self, mut job: Job, fault: Fault, on: On) {
        self.pool.note(&fault);
        job.tries += u8::from(counts(&fault, on));
        let remedy = Remedy::of(fault.class, on.fresh);
        if let Some((shortest, longest)) = remedy.nap_first {
            // The longer the job has been at it, the longer each time, whichever threads it met.
            self.nap(shortest.max(job.order.submitted.elapsed() / 4), longest);
        }
        if fault.class == Class::Credentials {
            self.pool.fail(StoreHealth::Lost(fault.said.clone()));
        }
        if remedy.nap_first.is_some() {
            self.pool.put_last(job);
        } else if remedy.again && job.tries < MOST_TRIES {
            self.pool.put_back(job);
        } else {
            let error = fault.clone().sign_error(job.key_name());
            job.reply.send(Err(error));
        }
        match remedy.then {
            Then::Go => {}
            Then::Nap(shortest, longest) => self.nap(shortest, longest),
            Then::Count if !self.pool.device_failed() => {}
            Then::Count | Then::Recover => self.pool.recover(on.generation, &fault.said),
        }
    }

    /// A key that is not there may have gone with the library's device, which is brought back. If the key is
    /// not there then, it is gone.
    fn missing(&mut self, mut job: Job, reason: String, generation: u64) {
        // The generation does not change while the library cannot be finalised.
        if job.order.key.is_gone(generation) || job.tries >= MOST_TRIES {
            self.pool.metrics.error("missing", "");
            let key = job.key_name();
            return job.reply.send(Err(SignError::Refused { key, reason }));
        }
        job.tries += 1;
        self.pool.put_back(job);
        self.pool.recover(generation, "a key is not in the token");
    }

    /// Leaves the device alone for a while, longer each time; other threads may go on.
    fn nap(&mut self, shortest: Duration, longest: Duration) {
        self.pool.answers.hand_out();
        let whole = shortest.saturating_mul(1 << self.naps.min(10)).min(longest);
        self.naps += 1;
        thread::sleep(whole / 2 + whole / 2 * u32::from(rand_below(256)) / 255);
    }
}

impl Seat {
    fn new(session: TokenSession) -> Self {
        Self { session, handles: Vec::new() }
    }

    fn handle(&self, key: &Arc<Facts>) -> Option<ObjectHandle> {
        let mut known = self.handles.iter();
        known.find(|(known, _)| known.as_ptr() == Arc::as_ptr(key)).map(|&(_, private)| private)
    }

    /// Looks the key up, as strictly as ever: behind a new session the token may be another one.
    fn look_up(&mut self, pool: &Inner, key: &Arc<Facts>) -> Result<ObjectHandle, Trouble> {
        let token = &pool.token;
        let found = self.session.run(|session| {
            // A logout by anything else in this process hides the private keys, without an error.
            token.log_in(session)?;
            let found = token.inspect(session, &key.name);
            if !matches!(found, Ok(Some(_))) && !token.is_logged_in(session)? {
                let said = "something else has logged out of the token";
                return Err(Fault::new(Class::Session, "logged out", said).into());
            }
            match found {
                Ok(found) => Ok(Ok(found)),
                // A token that is going shows one half and not the other.
                Err(Failure::Key(error @ KeyError::Incomplete { .. })) => Ok(Err(error)),
                Err(failure) => Err(failure),
            }
        })?;
        let pair = match found {
            Ok(Some(pair)) => pair,
            Ok(None) => return Err(Trouble::Missing(GONE.to_owned())),
            Err(error) => return Err(Trouble::Missing(error.to_string())),
        };
        if pair.public_key != key.public_key {
            return Err(Trouble::Key(KeyError::Unsafe {
                name: key.name.clone(),
                reason: "another key has taken its name in the token".to_owned(),
            }));
        }
        key.found();
        // Keys that nobody uses any more.
        self.handles.retain(|(known, _)| known.strong_count() > 0);
        self.handles.push((Arc::downgrade(key), pair.private));
        Ok(pair.private)
    }
}

/// What a thread is doing, for the thread that watches.
#[derive(Default)]
pub(super) struct Slot(Mutex<SlotState>);

#[derive(Default)]
pub(super) struct SlotState {
    /// What it is signing, and since when. Taken away by the watch if it hangs.
    pub(super) current: Option<(Job, Instant)>,
    /// Since when it opens a session for no job in particular. Taken away likewise.
    pub(super) opening: Option<Instant>,
}

impl Slot {
    pub(super) fn state(&self) -> MutexGuard<'_, SlotState> {
        // Nothing that may panic is done while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotState {
    /// Whether nobody waits for what it is signing, or another thread signs it by now.
    fn is_unwanted(&self, now: Instant) -> bool {
        self.current.as_ref().is_none_or(|(job, _)| job.is_dead(now))
    }

    /// Whether there is anything to watch.
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some() || self.opening.is_some()
    }
}
