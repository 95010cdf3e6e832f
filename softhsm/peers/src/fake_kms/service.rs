//! The service behind all connections: its settings, its account, and what it does with a request.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use hyper::http::request::Parts;
use serde_json::Value;

use super::account::{Account, Key, State, Usage, no_key};
use super::authentication::Authority;
use super::exception::Exception;
use super::identity::{key_arn, uuid};
use super::key_pair::{KeyPair, SigningAlgorithm};
use super::managing::KeyRequest;
use super::quota::Bucket;
use super::request::{Blob, blob};
use super::signing::Signing;
use super::{
    Counters, FakeKmsError, Fault, KeySpec, Knobs, Operation, Outcome, aliases, managing, signing,
    tags,
};

/// The service.
#[derive(Default)]
pub(super) struct Service {
    controls: Mutex<Controls>,
    authority: Authority,
    account: Mutex<Account>,
    /// Keys that sign in place of another, made when first needed.
    impostors: Mutex<BTreeMap<KeySpec, Arc<KeyPair>>>,
    counters: Mutex<Counters>,
}

/// The settings, and the state of what they rule.
struct Controls {
    knobs: Knobs,
    random: Rng,
    bucket: Bucket,
    injected: VecDeque<(Operation, Fault)>,
}

impl Default for Controls {
    fn default() -> Self {
        Self {
            knobs: Knobs::default(),
            random: Rng::with_seed(0),
            bucket: Bucket::default(),
            injected: VecDeque::new(),
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl Service {
    pub(super) fn new(knobs: Knobs) -> Self {
        let service = Self::default();
        service.change(|now| *now = knobs);
        service
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn knobs(&self) -> Knobs {
        lock(&self.controls).knobs.clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Knobs)) {
        let mut controls = lock(&self.controls);
        let seed = controls.knobs.seed;
        change(&mut controls.knobs);
        if controls.knobs.seed != seed {
            controls.random = Rng::with_seed(controls.knobs.seed);
        }
    }

    pub(super) fn inject(&self, operation: Operation, fault: Fault) {
        lock(&self.controls).injected.push_back((operation, fault));
    }

    pub(super) fn counters(&self) -> Counters {
        lock(&self.counters).clone()
    }

    pub(super) fn reset_counters(&self) {
        lock(&self.counters).reset();
    }

    /// A request has arrived.
    pub(super) fn count_begin(&self) {
        lock(&self.counters).begin();
    }

    /// A request has ended.
    pub(super) fn count_end(&self, operation: Operation, outcome: Outcome) {
        lock(&self.counters).end(operation, outcome);
    }

    pub(super) fn create_key(&self, spec: KeySpec) -> Result<String, FakeKmsError> {
        let pair = KeyPair::generate(spec)?;
        let now = self.now();
        Ok(lock(&self.account).add(spec, Usage::SignVerify, pair, now)?.arn())
    }

    pub(super) fn destroy_key(&self, key: &str) -> Result<(), FakeKmsError> {
        lock(&self.account).destroy(key)
    }

    /// The service's clock, in seconds since 1970.
    #[expect(clippy::disallowed_methods, reason = "a service has a clock of its own")]
    pub(super) fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        now.saturating_add(lock(&self.controls).knobs.clock_ahead)
    }

    /// What stands before the work: how long the answer is to take, and whether there is to be one.
    pub(super) fn admit(
        &self,
        operation: Operation,
        request: &Parts,
        body: &[u8],
    ) -> (Duration, Result<Option<Fault>, Exception>) {
        let authentic = self.authority.check(request, body, self.now());
        let mut controls = lock(&self.controls);
        let latency = controls.knobs.latency;
        let latency = latency.draw(&mut controls.random);
        let knobs = &controls.knobs;
        let by_key = authentic.and_then(|()| match (&knobs.denied_keys, &knobs.unseen) {
            (denied, unseen) if denied.is_empty() && unseen.is_empty() => Ok(()),
            _ => {
                lock(&self.account).subject(body).map_or(Ok(()), |key| knobs.admit(operation, key))
            }
        });
        (latency, by_key.and_then(|()| controls.admit(operation)))
    }

    /// The work.
    pub(super) async fn perform(
        &self,
        operation: Operation,
        body: &[u8],
        fault: Option<Fault>,
    ) -> Result<Value, Exception> {
        match fault {
            Some(Fault::DropBefore) => return Ok(Value::Null),
            Some(Fault::InternalError) => return Err(Exception::internal()),
            Some(Fault::DependencyTimeout) => return Err(Exception::dependency_timeout()),
            _ => {}
        }
        let mut answer = match operation {
            Operation::CreateKey => self.make_key(body).await,
            Operation::Sign => self.sign(body, fault).await,
            other => self.manage(other, body),
        }?;
        if let Some(fault) = fault {
            self.distort(&mut answer, fault)?;
        }
        Ok(answer)
    }

    async fn make_key(&self, body: &[u8]) -> Result<Value, Exception> {
        let request = KeyRequest::parse(body)?;
        let pair = generate(request.spec).await?;
        let now = self.now();
        request.finish(&mut lock(&self.account), pair, now)
    }

    async fn sign(&self, body: &[u8], fault: Option<Fault>) -> Result<Value, Exception> {
        let mut signing = Signing::parse(&lock(&self.account), body)?;
        if fault == Some(Fault::WrongSigner) {
            signing.key = self.impostor(signing.spec).await?;
        }
        signing.answer()
    }

    /// Everything that takes no time.
    fn manage(&self, operation: Operation, body: &[u8]) -> Result<Value, Exception> {
        let now = self.now();
        let account = &mut *lock(&self.account);
        match operation {
            Operation::CancelKeyDeletion => managing::cancel_deletion(account, body),
            Operation::CreateAlias => aliases::create(account, body, now),
            Operation::DeleteAlias => aliases::delete(account, body),
            Operation::DescribeKey => managing::describe(account, body),
            Operation::DisableKey => managing::set_state(account, body, State::Disabled),
            Operation::EnableKey => managing::set_state(account, body, State::Enabled),
            Operation::GetPublicKey => signing::public_key(account, body),
            Operation::ListAliases => aliases::list(account, body),
            Operation::ListKeys => managing::list(account, body),
            Operation::ListResourceTags => tags::list(account, body),
            Operation::ScheduleKeyDeletion => managing::schedule_deletion(account, body, now),
            Operation::TagResource => tags::tag(account, body),
            Operation::UntagResource => tags::untag(account, body),
            Operation::UpdateAlias => aliases::update(account, body, now),
            // Have roads of their own, above.
            Operation::CreateKey | Operation::Sign => Err(Exception::internal()),
        }
    }

    async fn impostor(&self, spec: KeySpec) -> Result<Arc<KeyPair>, Exception> {
        let known = lock(&self.impostors).get(&spec).cloned();
        if let Some(pair) = known {
            return Ok(pair);
        }
        let pair = Arc::new(generate(spec).await?);
        Ok(Arc::clone(lock(&self.impostors).entry(spec).or_insert(pair)))
    }

    /// Makes a true answer wrong.
    fn distort(&self, answer: &mut Value, fault: Fault) -> Result<(), Exception> {
        let internal = |_| Exception::internal();
        match fault {
            Fault::WrongKey => {
                let id = uuid().map_err(internal)?;
                name_key(answer, &id);
            }
            Fault::WrongAlgorithm => {
                let name = answer["SigningAlgorithm"].as_str();
                let other = SigningAlgorithm::other_than(name.unwrap_or_default());
                answer["SigningAlgorithm"] = other.name().into();
            }
            Fault::CorruptedSignature => {
                let text = answer["Signature"].as_str().unwrap_or_default().to_owned();
                let Blob(mut signature) =
                    Blob::try_from(text).map_err(|_| Exception::internal())?;
                let bit = lock(&self.controls).random.usize(..signature.len() * 8);
                signature[bit / 8] ^= 1 << (bit % 8);
                answer["Signature"] = blob(&signature).into();
            }
            _ => {}
        }
        Ok(())
    }
}

impl Knobs {
    /// What they say of an operation with this key.
    fn admit(&self, operation: Operation, key: &Key) -> Result<(), Exception> {
        if self.denied_keys.contains(&(operation, key.arn())) {
            return Err(denied(operation));
        }
        match self.unseen.get(&operation) {
            Some(&time) if key.made.elapsed() < time => Err(no_key(&key.id)),
            _ => Ok(()),
        }
    }
}

fn denied(operation: Operation) -> Exception {
    let name = operation.name();
    let message = format!(
        "User: mintmark is not authorized to perform: kms:{name} because no identity-based policy \
         allows the kms:{name} action"
    );
    Exception::new("AccessDeniedException", message)
}

impl Controls {
    /// Authorization, quota and the fault of a request, in this order.
    fn admit(&mut self, operation: Operation) -> Result<Option<Fault>, Exception> {
        if self.knobs.denied.contains(&operation) {
            return Err(denied(operation));
        }
        let quota = self.knobs.quota.filter(|_| operation == Operation::Sign);
        if quota.is_some_and(|quota| !self.bucket.take(quota, Instant::now())) {
            return Err(Exception::throttled());
        }
        let injected = self.injected.iter().position(|(of, _)| *of == operation);
        let fault = match injected.and_then(|index| self.injected.remove(index)) {
            Some((_, fault)) => Some(fault),
            None => self.knobs.faults.draw(&mut self.random),
        };
        Ok(fault.filter(|fault| fault.shows_in(operation)))
    }
}

/// Makes a key without holding up the service's thread.
async fn generate(spec: KeySpec) -> Result<KeyPair, Exception> {
    match tokio::task::spawn_blocking(move || KeyPair::generate(spec)).await {
        Ok(Ok(pair)) => Ok(pair),
        Ok(Err(_)) | Err(_) => Err(Exception::internal()),
    }
}

/// Puts another key's name where an answer has one.
fn name_key(answer: &mut Value, id: &str) {
    if let Some(metadata) = answer.get_mut("KeyMetadata") {
        metadata["Arn"] = key_arn(id).into();
        metadata["KeyId"] = id.into();
    } else {
        answer["KeyId"] = key_arn(id).into();
    }
}

/// A panic elsewhere leaves whole values behind: no lock is held over a half-made change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
