//! One key in use: a bounded queue, and behind it threads with a session each.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};
use async_trait::async_trait;
use aws_lc_rs::digest::Digest;
use ca_core::key::{
    KeyError, KeyName, PublicKey, SignError, Signature, SignatureAlgorithm, SignatureError,
    SigningKey, ToBeSigned, Urgency,
};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use tokio::sync::oneshot;

use super::fault::{self, Fault};
use super::token::Token;
use crate::retirement::Retired;

/// A key of a token, ready to sign. Its threads end when the last handle is dropped.
pub(super) struct TokenKey {
    facts: Arc<Facts>,
    jobs: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
    /// Disconnected when the last thread is about to end; nothing is ever sent.
    ended: Mutex<mpsc::Receiver<()>>,
}

/// What the handle and the threads of a key share.
struct Facts {
    name: KeyName,
    algorithm: SignatureAlgorithm,
    public_key: PublicKey,
    retired: Retired,
    /// Nanoseconds that a signature takes, smoothed.
    pace: AtomicU64,
}

struct Job {
    input: Input,
    reply: oneshot::Sender<Answer>,
}

type Answer = Result<Signature, SignError>;

/// What the token is given.
pub(super) enum Input {
    Digest(Digest),
    Message(ToBeSigned),
}

impl Input {
    pub(super) fn new(message: &ToBeSigned) -> Self {
        match message.algorithm().digest(message.message()) {
            Some(digest) => Self::Digest(digest),
            None => Self::Message(message.clone()),
        }
    }
}

impl TokenKey {
    /// Opens the sessions of a key that was inspected, looks it up in each, and starts the threads.
    pub(super) fn start(
        token: &Arc<Token>,
        name: &KeyName,
        public_key: PublicKey,
        sessions: usize,
        queue: usize,
        retired: Retired,
    ) -> Result<Self, KeyError> {
        let algorithm = public_key.kind().usual_algorithm();
        let pace = AtomicU64::new(1_000_000);
        let facts = Facts { name: name.clone(), algorithm, public_key, retired, pace };
        let (facts, (jobs, waiting)) = (Arc::new(facts), async_channel::bounded(queue));
        let (sender, ended) = mpsc::channel();
        let threads = Vec::with_capacity(sessions);
        let mut key = Self { facts, jobs, threads, ended: Mutex::new(ended) };
        // Declared after the key, so that after a failure the key sees the end of its threads.
        let alive = sender;
        for number in 0..sessions {
            let seat = Some(Seat::take(token, &key.facts)?);
            let mut worker = Worker { token: token.clone(), facts: key.facts.clone(), seat };
            let (waiting, alive) = (waiting.clone(), alive.clone());
            let thread = thread::Builder::new().name(thread_name(name, number)).spawn(move || {
                worker.run(&waiting);
                // The session is closed before the end is told.
                drop(worker);
                drop(alive);
            });
            key.threads.push(thread.map_err(|error| KeyError::Unavailable {
                place: format!("key {name}"),
                reason: format!("cannot start a thread to sign on: {error}"),
            })?);
        }
        Ok(key)
    }

    /// Whether no thread is left to sign on.
    pub(super) fn has_stopped(&self) -> bool {
        self.jobs.is_closed()
    }

    /// Refuses a job, and says how long those that wait now will take.
    fn busy(&self) -> SignError {
        let pace = Duration::from_nanos(self.facts.pace.load(Ordering::Relaxed));
        let rounds =
            u32::try_from(self.jobs.len() / self.threads.len().max(1) + 1).unwrap_or(u32::MAX);
        let retry_after =
            pace.saturating_mul(rounds).clamp(Duration::from_millis(1), Duration::from_secs(10));
        SignError::Busy { key: self.facts.name.to_string(), retry_after }
    }

    fn stopped(&self) -> SignError {
        SignError::Unavailable {
            key: self.facts.name.to_string(),
            reason: "its signing thread has stopped; find the key again".to_owned(),
        }
    }
}

/// How long the end of a key waits for its threads. An idle one ends at once, one that is signing after
/// its signature; one that hangs in the module is left behind.
const PATIENCE: Duration = Duration::from_millis(500);

impl Drop for TokenKey {
    /// Sees the threads out: a process that ends while one of them is inside the module crashes there.
    /// Rare enough (a rotation, the end of the process) to be worth a short wait.
    fn drop(&mut self) {
        self.jobs.close();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected) {
            for thread in self.threads.drain(..) {
                // A panic was printed by the thread itself.
                let _ = thread.join();
            }
        }
    }
}

/// `x509/1 #0`, of which Linux shows the first 15 bytes.
fn thread_name(name: &KeyName, number: usize) -> String {
    let short = name.as_str().splitn(3, '/').nth(2).expect("a key name has four parts");
    format!("{short} #{number}")
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({}, {:?})", self.facts.name, self.facts.public_key)
    }
}

#[async_trait]
impl SigningKey for TokenKey {
    async fn sign(&self, message: ToBeSigned, urgency: Urgency) -> Result<Signature, SignError> {
        self.facts.retired.check(&self.facts.name)?;
        if message.algorithm() != self.facts.algorithm {
            let reason = format!("it does not sign by {}", message.algorithm());
            return Err(SignError::Refused { key: self.facts.name.to_string(), reason });
        }
        if Instant::now() >= urgency.deadline {
            let reason = "its deadline had passed when it was asked".to_owned();
            return Err(SignError::Late { key: self.facts.name.to_string(), reason });
        }
        // Hashed here, so that the session is not held up by it.
        let input = Input::new(&message);
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Job { input, reply }) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.stopped())),
            Err(TrySendError::Full(_)) => Err(self.busy()),
            Err(TrySendError::Closed(_)) => Err(self.stopped()),
        }
    }

    fn algorithms(&self) -> &[SignatureAlgorithm] {
        std::slice::from_ref(&self.facts.algorithm)
    }

    fn public_key(&self) -> &PublicKey {
        &self.facts.public_key
    }
}

/// A logged-in session and the key's handle in it.
struct Seat {
    session: Session,
    private: ObjectHandle,
}

impl Seat {
    /// Opens a session and looks the key up, as strictly as ever: after a lost session the token behind
    /// it may be another one.
    fn take(token: &Token, facts: &Facts) -> Result<Self, KeyError> {
        let session = token.session()?;
        let pair = token
            .inspect(&session, &facts.name)?
            .ok_or_else(|| KeyError::NotFound(facts.name.clone()))?;
        if pair.public_key != facts.public_key {
            return Err(KeyError::Unsafe {
                name: facts.name.clone(),
                reason: "another key has taken its name in the token".to_owned(),
            });
        }
        Ok(Self { session, private: pair.private })
    }
}

/// One thread of a key.
struct Worker {
    token: Arc<Token>,
    facts: Arc<Facts>,
    /// `None` after a failure that cost the session; the next job takes another.
    seat: Option<Seat>,
}

impl Worker {
    /// Signs until the last handle of the key is dropped.
    fn run(&mut self, jobs: &Receiver<Job>) {
        let mut answers = Answers::new();
        while let Some(Job { input, reply }) = next(jobs, &mut answers) {
            // Nobody waits for it any more: the device has better things to do.
            if reply.is_closed() {
                continue;
            }
            if self.seat.is_none() {
                // Another session has to be opened first, which may take long.
                answers.hand_out();
            }
            let started = Instant::now();
            let result = self.sign(&input);
            let finished = Instant::now();
            let took = finished - started;
            if result.is_ok() {
                self.note_pace(took);
            }
            answers.add(reply, result, finished, took);
        }
    }

    fn sign(&mut self, input: &Input) -> Result<Signature, SignError> {
        self.facts.retired.check(&self.facts.name)?;
        match self.sign_once(input) {
            Err(Trouble::Token(Fault::Session(_))) => {
                self.seat = None;
                self.sign_once(input).map_err(|trouble| self.error(trouble))
            }
            result => result.map_err(|trouble| self.error(trouble)),
        }
    }

    fn sign_once(&mut self, input: &Input) -> Result<Signature, Trouble> {
        let seat = match &mut self.seat {
            Some(seat) => seat,
            none => none.insert(Seat::take(&self.token, &self.facts).map_err(Trouble::LookUp)?),
        };
        let signed = sign_on(&seat.session, seat.private, self.facts.algorithm, input);
        signed.map_err(|error| Trouble::Token(error.into()))?.map_err(Trouble::Signature)
    }

    fn error(&mut self, trouble: Trouble) -> SignError {
        let key = self.facts.name.to_string();
        match trouble {
            Trouble::Token(fault) => {
                if matches!(fault, Fault::Session(_)) {
                    self.seat = None;
                }
                fault.sign_error(key)
            }
            Trouble::LookUp(error) => fault::sign_error(error, key),
            Trouble::Signature(source) => SignError::Malformed { key, source },
        }
    }

    /// An eighth of the newest time, seven of what was known: several threads may overwrite each
    /// other's, which an estimate bears.
    fn note_pace(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / 8;
        let known = self.facts.pace.load(Ordering::Relaxed) / 8 * 7;
        self.facts.pace.store(known.saturating_add(took), Ordering::Relaxed);
    }
}

/// The next job; while there is none to do at once, nobody is kept waiting for an answer.
fn next(jobs: &Receiver<Job>, answers: &mut Answers) -> Option<Job> {
    if let Ok(job) = jobs.try_recv() {
        return Some(job);
    }
    answers.hand_out();
    jobs.recv_blocking().ok()
}

/// Answers that are handed out together. Each hand-out wakes the runtime, which costs the signing thread
/// a system call, a good part of a soft token's signature. One for several is enough while more work
/// waits. A slow device's answers go out one by one: the next would take longer than the limit.
struct Answers {
    ready: Vec<(oneshot::Sender<Answer>, Answer)>,
    oldest: Instant,
}

impl Answers {
    /// At most so many wait for each other.
    const MOST: usize = 8;
    /// No answer waits longer for the next one to be signed than about this.
    const LONGEST: Duration = Duration::from_micros(200);

    fn new() -> Self {
        Self { ready: Vec::with_capacity(Self::MOST), oldest: Instant::now() }
    }

    fn add(
        &mut self,
        reply: oneshot::Sender<Answer>,
        answer: Answer,
        now: Instant,
        took: Duration,
    ) {
        if self.ready.is_empty() {
            self.oldest = now;
        }
        self.ready.push((reply, answer));
        if self.ready.len() == Self::MOST || now - self.oldest + took > Self::LONGEST {
            self.hand_out();
        }
    }

    fn hand_out(&mut self) {
        for (reply, answer) in self.ready.drain(..) {
            // The receiver may have gone in the meantime, which harms nobody.
            let _ = reply.send(answer);
        }
    }
}

/// Why a worker has no signature.
enum Trouble {
    Token(Fault),
    LookUp(KeyError),
    Signature(SignatureError),
}

/// Has the token sign. The outer error is the token's, the inner one is about the bytes it gave.
pub(super) fn sign_on(
    session: &Session,
    private: ObjectHandle,
    algorithm: SignatureAlgorithm,
    input: &Input,
) -> cryptoki::error::Result<Result<Signature, SignatureError>> {
    let bytes = match input {
        Input::Digest(digest) if algorithm == SignatureAlgorithm::RsaPkcs1Sha256 => {
            session.sign(&Mechanism::RsaPkcs, private, &digest_info(digest))?
        }
        Input::Digest(digest) => session.sign(&Mechanism::Ecdsa, private, digest.as_ref())?,
        Input::Message(message) => {
            // Pure alone: the other schemes of this crate version point at a temporary.
            let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            session.sign(&pure, private, message.message())?
        }
    };
    Ok(Signature::from_fixed(algorithm, &bytes))
}

/// `DigestInfo` of a SHA-256 digest (RFC 8017 §9.2 note 1), which `CKM_RSA_PKCS` pads as it is.
fn digest_info(digest: &Digest) -> [u8; 51] {
    let mut info = [0; 51];
    info[..19].copy_from_slice(
        b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
    );
    info[19..].copy_from_slice(digest.as_ref());
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Answer {
        Err(SignError::Refused { key: "k".to_owned(), reason: "r".to_owned() })
    }

    /// How many of `count` answers, made one after another, are still held back.
    fn held(count: usize, took: Duration) -> usize {
        let (mut answers, mut now) = (Answers::new(), Instant::now());
        let mut receivers = Vec::new();
        for _ in 0..count {
            let (reply, receiver) = oneshot::channel();
            receivers.push(receiver);
            now += took;
            answers.add(reply, refusal(), now, took);
        }
        let waiting = receivers.iter_mut().filter_map(|receiver| receiver.try_recv().err()).count();
        answers.hand_out();
        waiting
    }

    #[test]
    fn a_fast_devices_answers_go_out_together_and_a_slow_ones_at_once() {
        assert_eq!(held(3, Duration::from_micros(20)), 3);
        assert_eq!(held(8, Duration::from_micros(20)), 0, "eight are enough");
        assert_eq!(held(2, Duration::from_micros(80)), 2);
        assert_eq!(held(3, Duration::from_micros(80)), 0, "the first would grow too old");
        assert_eq!(held(1, Duration::from_millis(2)), 0);
    }

    #[test]
    fn thread_names_tell_the_key() {
        let name = KeyName::parse("mintmark/a.test/x509/7").unwrap();
        assert_eq!(thread_name(&name, 0), "x509/7 #0");
    }
}
