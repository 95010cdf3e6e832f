//! The threads that sign: one session each, behind one queue for all keys of a token.
//!
//! A call into a module may take as long as it likes and cannot be cancelled. So callers never wait for a
//! thread but for an answer, until their deadline; the [`Watch`](super::watch) looks after threads that
//! hang; and when the library has lost its device, one thread brings it back ([`recovery`](super::recovery))
//! while the rest wait.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use ca_core::key::{KeyError, Priority, SignError, StoreHealth, ToBeSigned, Urgency};
use prometheus_client::metrics::gauge::Gauge;

use super::answer::{Answers, Reply};
use super::call::Input;
use super::key::Facts;
use super::queue::{Bounds, Full, Queue};
use super::recovery::Recovery;
use super::settings::Settings;
use super::token::Token;
use super::watch;
use super::worker::{Slot, Worker};
use crate::metrics::StoreMetrics;

/// A signature that is wanted. Its caller keeps it too, so that nothing of it is freed on the signing thread.
pub(super) struct Order {
    pub(super) key: Arc<Facts>,
    pub(super) message: ToBeSigned,
    /// Whether the signature is to be verified before it is released.
    pub(super) verify: bool,
    pub(super) input: Input,
    pub(super) urgency: Urgency,
    pub(super) submitted: Instant,
}

/// An order on its way, and what has become of it so far.
pub(super) struct Job {
    pub(super) order: Arc<Order>,
    pub(super) reply: Reply,
    /// How often the device has failed on it.
    pub(super) tries: u8,
    /// A signature of it did not verify.
    pub(super) wrong: bool,
    /// A call for it hung.
    pub(super) hung: bool,
}

impl Job {
    /// One that has not been tried yet.
    pub(super) fn new(order: Arc<Order>, reply: Reply) -> Self {
        Self { order, reply, tries: 0, wrong: false, hung: false }
    }

    /// The name of its key, for errors.
    pub(super) fn key_name(&self) -> String {
        self.order.key.name.to_string()
    }

    /// Whether nobody waits for it any more. Who gave up before the deadline is counted here, since only
    /// the job tells; who waited until then has counted that.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        if now >= self.order.urgency.deadline {
            return true;
        }
        let abandoned = self.reply.is_closed();
        if abandoned {
            self.order.key.metrics.abandoned();
        }
        abandoned
    }
}

/// The threads of a token. They end when this is dropped.
pub(super) struct Pool {
    inner: Arc<Inner>,
    sessions: usize,
    watch: Option<JoinHandle<()>>,
    /// Disconnected when the last thread is about to end; nothing is ever sent.
    ended: Mutex<mpsc::Receiver<()>>,
}

/// What the threads share.
pub(super) struct Inner {
    pub(super) token: Token,
    pub(super) queue: Queue<Job>,
    /// On their way to their callers.
    pub(super) answers: Answers,
    pub(super) metrics: StoreMetrics,
    pub(super) stall_limit: Duration,
    pub(super) probe_interval: Duration,
    /// What each thread is doing; those that hang and were replaced are no longer in it.
    pub(super) slots: Mutex<Vec<Arc<Slot>>>,
    /// The keys that are in use.
    keys: Mutex<Vec<Weak<Facts>>>,
    pub(super) watcher: Watcher,
    pub(super) recovery: Recovery,
    /// Threads that hang in the module.
    hanging: AtomicUsize,
    hanging_sessions: Gauge,
    most_hanging: usize,
    /// Gone when the last thread ends.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

/// How the watching thread is woken.
#[derive(Default)]
pub(super) struct Watcher {
    sleeps: AtomicBool,
    /// There is nothing more to watch.
    ended: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Pool {
    /// Starts the threads; each opens its session when it starts.
    pub(super) fn start(token: Token, settings: &Settings) -> Result<Self, KeyError> {
        let (sender, ended) = mpsc::channel();
        let bounds =
            Bounds { wait: settings.queue_wait, most: settings.queue, servers: settings.sessions };
        let metrics = settings.oversight.metrics.clone();
        metrics.healthy(true);
        let inner = Arc::new(Inner {
            token,
            queue: Queue::new(bounds, Job::is_dead),
            answers: Answers::of(settings.sessions),
            hanging_sessions: metrics.sessions("hanging"),
            metrics,
            stall_limit: settings.stall_limit,
            probe_interval: settings.probe_interval,
            slots: Mutex::default(),
            keys: Mutex::default(),
            watcher: Watcher::default(),
            recovery: Recovery::default(),
            hanging: AtomicUsize::new(0),
            most_hanging: settings.sessions.min(MOST_HANGING),
            alive: Mutex::new(Some(sender)),
        });
        let ended = Mutex::new(ended);
        let mut pool = Self { inner, sessions: settings.sessions, watch: None, ended };
        let no_thread = |error: std::io::Error| KeyError::Unavailable {
            place: pool.inner.token.place().to_owned(),
            reason: format!("cannot start a thread to sign on: {error}"),
        };
        for _ in 0..settings.sessions {
            pool.inner.start_worker().map_err(no_thread)?;
        }
        let watched = Arc::clone(&pool.inner);
        let watch = thread::Builder::new().name("key watch".to_owned());
        pool.watch = Some(watch.spawn(move || watch::run(&watched)).map_err(no_thread)?);
        Ok(pool)
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// How many threads sign.
    pub(super) fn sessions(&self) -> usize {
        self.sessions
    }

    pub(super) fn token(&self) -> &Token {
        &self.inner.token
    }

    pub(super) fn health(&self) -> StoreHealth {
        self.inner.health()
    }
}

/// How many threads may hang before the process had better start anew.
const MOST_HANGING: usize = 4;

/// How long the end of a pool waits for its threads. An idle one ends at once, one that is signing after
/// its signature; one that hangs in the module is left behind.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

impl Drop for Pool {
    /// Sees the threads out: a process that ends while one of them is inside the module crashes there.
    /// Rare enough (the end of the process) to be worth a short wait.
    fn drop(&mut self) {
        let stopped = "the key store is closed";
        self.inner.close(|key| SignError::Unavailable { key, reason: stopped.to_owned() });
        self.inner.watcher.end();
        if let Some(watch) = self.watch.take() {
            // A panic was printed by the thread itself.
            let _ = watch.join();
        }
        self.inner.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                place = self.inner.token.place(),
                "a thread still hangs in the PKCS#11 module and is left behind"
            );
        }
    }
}

impl Inner {
    /// Takes a job in, or answers at once why not.
    pub(super) fn submit(&self, job: Job) -> Result<(), SignError> {
        let order = Arc::clone(&job.order);
        let key = || order.key.name.to_string();
        self.queue.submit(order.urgency.priority, job).map_err(|full| match full {
            Full::Busy(retry_after) => SignError::Busy { key: key(), retry_after },
            Full::Closed => self.stopped(key()),
        })
    }

    /// Puts a job back that was taken before; answers it if the pool has ended meanwhile.
    pub(super) fn put_back(&self, job: Job) {
        self.put(job, Queue::put_back);
    }

    /// The same, behind the others of its class.
    pub(super) fn put_last(&self, job: Job) {
        self.put(job, Queue::put_last);
    }

    fn put(&self, job: Job, place: fn(&Queue<Job>, Priority, Job) -> Result<(), Job>) {
        job.order.key.metrics.retried();
        if let Err(job) = place(&self.queue, job.order.urgency.priority, job) {
            let stopped = self.stopped(job.key_name());
            job.reply.send(Err(stopped));
        }
    }

    pub(super) fn start_worker(self: &Arc<Self>) -> std::io::Result<()> {
        let slot = Arc::new(Slot::default());
        let alive = self.alive();
        let number = {
            let mut slots = self.slots();
            slots.push(Arc::clone(&slot));
            slots.len() - 1
        };
        let pool = Arc::clone(self);
        let thread = thread::Builder::new().name(thread_name(self.token.label(), number));
        thread.spawn(move || {
            Worker::new(pool, slot).run();
            // The session is closed before the end is told.
            drop(alive);
        })?;
        Ok(())
    }

    /// Held by each thread until it ends; `None` if the pool has ended.
    pub(super) fn alive(&self) -> Option<mpsc::Sender<()>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key is in use from now on.
    pub(super) fn add_key(&self, key: &Arc<Facts>) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|known| known.strong_count() > 0);
        keys.push(Arc::downgrade(key));
    }

    /// The keys that are in use, and not retired.
    pub(super) fn keys_in_use(&self) -> Vec<Arc<Facts>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|known| known.strong_count() > 0);
        let usable = |key: &Arc<Facts>| key.retired.check(&key.name).is_ok();
        keys.iter().filter_map(Weak::upgrade).filter(usable).collect()
    }

    /// Takes nothing in any more and answers all that waits.
    pub(super) fn close(&self, answer: impl Fn(String) -> SignError) {
        for job in self.queue.close() {
            let refusal = answer(job.key_name());
            job.reply.send(Err(refusal));
        }
    }

    /// A thread hangs in the module. Told while its slot is held, so that it cannot come back before.
    pub(super) fn hangs(&self) {
        self.hanging.fetch_add(1, Ordering::SeqCst);
        self.hanging_sessions.inc();
    }

    /// Another takes the place of a thread that hangs, up to a few.
    pub(super) fn replace(self: &Arc<Self>, slot: &Arc<Slot>) {
        let hanging = self.hanging.load(Ordering::SeqCst);
        self.slots().retain(|kept| !Arc::ptr_eq(kept, slot));
        tracing::error!(place = self.token.place(), hanging, "a call hangs in the PKCS#11 module");
        if self.queue.is_closed() {
            return;
        }
        if hanging >= self.most_hanging && hanging > 1 || self.start_worker().is_err() {
            let reason = "calls hang in the PKCS#11 module; start the process anew";
            self.fail(StoreHealth::Stuck(format!("{hanging} {reason}")));
        }
    }

    /// A thread that hung has come back, and ends.
    pub(super) fn returned(&self) {
        self.hanging.fetch_sub(1, Ordering::SeqCst);
        self.hanging_sessions.dec();
    }
}

/// `label #3`, of which Linux shows the first 15 bytes.
fn thread_name(label: &str, number: usize) -> String {
    let short: String = label.chars().filter(|&letter| letter != '\0').take(10).collect();
    format!("{short} #{number}")
}

/// A random number below `below`, at most 256; of no consequence to anyone.
pub(super) fn rand_below(below: u16) -> u16 {
    let mut byte = [0];
    // Without random bytes there is no jitter, and no harm.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    u16::from(byte[0]) * below / 256
}

impl Watcher {
    /// Says which thread watches.
    pub(super) fn is(&self, thread: Thread) {
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// The watching thread is about to look whether there is anything to watch, and to sleep if not: who
    /// begins something after that look wakes it.
    pub(super) fn is_about_to_sleep(&self) {
        self.sleeps.store(true, Ordering::SeqCst);
    }

    /// The watching thread goes to sleep until it is woken, or as long as that.
    pub(super) fn sleep(&self, time: Duration) {
        thread::park_timeout(time);
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// There is something to watch.
    pub(super) fn wake_if_asleep(&self) {
        if self.sleeps.load(Ordering::Relaxed) && self.sleeps.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Has the watching thread end.
    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }
}
