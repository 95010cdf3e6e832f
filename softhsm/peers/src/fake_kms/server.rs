//! The HTTP side: connections, and the road of a request from its arrival to its answer.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

use super::exception::Exception;
use super::identity::uuid;
use super::service::Service;
use super::{Fault, Operation, Outcome};

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
        return respond(&service, Err(Exception::new("UnknownOperationException", "")));
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
        _ => respond(&service, result),
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

fn respond(
    service: &Service,
    result: Result<Value, Exception>,
) -> Result<Response<Full<Bytes>>, Dropped> {
    let (status, body) = match result {
        Ok(Value::Null) => (StatusCode::OK, Vec::new()),
        Ok(value) => (StatusCode::OK, value.to_string().into_bytes()),
        Err(exception) => (exception.status, exception.body()),
    };
    let now = Duration::from_secs(service.now().try_into().unwrap_or_default());
    Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.1")
        // Clients set their clocks by it.
        .header("date", httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + now))
        .header("x-amzn-requestid", uuid().map_err(|_| Dropped)?)
        .body(Full::from(body))
        .map_err(|_| Dropped)
}

/// Counts a request from its arrival to its end, even if the client leaves before.
struct Visit {
    service: Arc<Service>,
    operation: Operation,
    outcome: Outcome,
}

impl Visit {
    fn begin(service: Arc<Service>, operation: Operation) -> Self {
        service.count_begin();
        Self { service, operation, outcome: Outcome::Abandoned }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.service.count_end(self.operation, self.outcome);
    }
}
