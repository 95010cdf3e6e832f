//! The HTTP side: connections, and the road of a request from its arrival to its answer.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fastrand::Rng;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

use super::account::{Account, State, Usage};
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

/// The largest request that is read, in bytes.
const LARGEST_REQUEST: usize = 128 * 1024;

/// How many connections are open at a time; more wait to be accepted.
const MOST_CONNECTIONS: usize = 4096;

/// Serves on a thread of its own until `stopped` resolves.
pub(super) fn spawn(
    listener: TcpListener,
    service: Arc<Service>,
    stopped: oneshot::Receiver<()>,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    listener.set_nonblocking(true)?;
    let listener = {
        let _runtime = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    std::thread::Builder::new().name("fake-kms".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                never = accept(&listener, &service) => match never {},
                _ = stopped => {}
            }
        });
        // A key that is being made does not hold up the end.
        runtime.shutdown_background();
    })
}

async fn accept(listener: &tokio::net::TcpListener, service: &Arc<Service>) -> Infallible {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Ok((connection, _)) = listener.accept().await else {
            // Out of descriptors; some come back when clients leave.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = connection.set_nodelay(true);
        let service = Arc::clone(service);
        // Ends with its connection, or with the runtime.
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(Arc::clone(&service), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(connection), answer);
            // What fails here is the client's leaving, or a fault that was asked for.
            let _ = connection.await;
            drop(place);
        });
    }
}

/// The connection ends instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped")]
struct Dropped;

async fn answer(
    service: Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Dropped> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, LARGEST_REQUEST).collect().await.map_err(|_| Dropped)?.to_bytes();
    let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    let Some(operation) = target.and_then(Operation::of_target) else {
        return service.respond(Err(Exception::new("UnknownOperationException", "")));
    };
    let mut visit = Visit::begin(Arc::clone(&service), operation);
    let (latency, admitted) = service.admit(operation, &parts, &body);
    let fault = admitted.as_ref().ok().copied().flatten();
    if fault == Some(Fault::Hang) {
        return std::future::pending().await;
    }
    let result = match admitted {
        Ok(fault) => service.perform(operation, &body, fault).await,
        Err(refused) => Err(refused),
    };
    if !latency.is_zero() {
        tokio::time::sleep_until((arrived + latency).into()).await;
    }
    visit.outcome = outcome(fault, &result);
    match fault {
        Some(Fault::DropBefore | Fault::DropAfter) => Err(Dropped),
        Some(Fault::GarbageBody) => {
            Ok(Response::new(Full::from(&b"\x00<html>{\"KeyId\": \xff"[..])))
        }
        _ => service.respond(result),
    }
}

fn outcome(fault: Option<Fault>, result: &Result<Value, Exception>) -> Outcome {
    use Fault as F;
    match (fault, result) {
        (Some(fault @ (F::DropBefore | F::DropAfter | F::GarbageBody)), _) => {
            Outcome::Faulted(fault)
        }
        (Some(fault @ (F::InternalError | F::DependencyTimeout)), Err(_)) => {
            Outcome::Faulted(fault)
        }
        (Some(fault), Ok(_)) => Outcome::Faulted(fault),
        (_, Err(exception)) => Outcome::Refused(exception.name),
        (None, Ok(_)) => Outcome::Answered,
    }
}

/// Counts a request from its arrival to its end, even if the client leaves before.
struct Visit {
    service: Arc<Service>,
    operation: Operation,
    outcome: Outcome,
}

impl Visit {
    fn begin(service: Arc<Service>, operation: Operation) -> Self {
        lock(&service.counters).begin();
        Self { service, operation, outcome: Outcome::Abandoned }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        lock(&self.service.counters).end(self.operation, self.outcome);
    }
}

/// The service behind all connections.
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
    fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        now.saturating_add(lock(&self.controls).knobs.clock_ahead)
    }

    fn respond(&self, result: Result<Value, Exception>) -> Result<Response<Full<Bytes>>, Dropped> {
        let (status, body) = match result {
            Ok(Value::Null) => (StatusCode::OK, Vec::new()),
            Ok(value) => (StatusCode::OK, value.to_string().into_bytes()),
            Err(exception) => (exception.status, exception.body()),
        };
        let now = Duration::from_secs(self.now().try_into().unwrap_or_default());
        Response::builder()
            .status(status)
            .header("content-type", "application/x-amz-json-1.1")
            // Clients set their clocks by it.
            .header("date", httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + now))
            .header("x-amzn-requestid", uuid().map_err(|_| Dropped)?)
            .body(Full::from(body))
            .map_err(|_| Dropped)
    }

    /// What stands before the work: how long the answer is to take, and whether there is to be one.
    fn admit(
        &self,
        operation: Operation,
        request: &Parts,
        body: &[u8],
    ) -> (Duration, Result<Option<Fault>, Exception>) {
        let authentic = self.authority.check(request, body, self.now());
        let mut controls = lock(&self.controls);
        let latency = controls.knobs.latency;
        let latency = latency.draw(&mut controls.random);
        (latency, authentic.and_then(|()| controls.admit(operation)))
    }

    /// The work.
    async fn perform(
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

impl Controls {
    /// Authorization, quota and the fault of a request, in this order.
    fn admit(&mut self, operation: Operation) -> Result<Option<Fault>, Exception> {
        if self.knobs.denied.contains(&operation) {
            let message = format!(
                "User: mintmark is not authorized to perform: kms:{} because no identity-based \
                 policy allows the kms:{} action",
                operation.name(),
                operation.name()
            );
            return Err(Exception::new("AccessDeniedException", message));
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
