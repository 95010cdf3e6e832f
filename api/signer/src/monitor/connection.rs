//! Connections to the monitoring listener: few, short, and one request each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::answer::Answers;

/// Most connections at once; further ones wait in the kernel's queue. Some monitors and load balancers
/// ask each second, and each is done in milliseconds.
const MOST_CONNECTIONS: usize = 16;
/// How long a client may take to say what it wants.
const HEADERS_WITHIN: Duration = Duration::from_secs(3);
/// How long a client may hold its place in all: it reads slowly, or not at all.
const LONGEST_CONNECTION: Duration = Duration::from_secs(10);
/// Largest request in bytes, the least that hyper can be held to.
const LARGEST_REQUEST: usize = 8 * 1024;
/// How long to wait after a failed accept: it fails again at once while the process is out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers whoever connects, for as long as it is polled.
pub(super) async fn accept(listener: TcpListener, answers: Arc<Answers>) -> Infallible {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let serving = serve(stream, Arc::clone(&answers));
                // Owned by the monitor's runtime, which ends it when the monitor is stopped.
                tokio::spawn(async move {
                    // What goes wrong on a connection concerns its client alone, who sees it close.
                    let _ = tokio::time::timeout(LONGEST_CONNECTION, serving).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "metrics: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, answers: Arc<Answers>) -> Result<(), hyper::Error> {
    let service = service_fn(|request| {
        let answer = answers.to(request.method(), request.uri().path());
        async { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(LARGEST_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
