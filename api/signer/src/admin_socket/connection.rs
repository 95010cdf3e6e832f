//! Accepted connections: a bounded number, each with the caller that the kernel names.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ca_core::log::Caller;
use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Request;
use tonic::transport::server::Connected;

use crate::status::Failure;

/// Most connections at once. Further ones wait in the kernel's queue until a place is free.
const MOST_CONNECTIONS: usize = 64;

/// How long to wait after a failed accept: it fails again at once while the process is out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who makes the call, as the kernel named it when the connection was opened.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, Failure> {
    request.extensions().get::<Caller>().cloned().ok_or(Failure::CallerUnknown)
}

/// The connections to `listener`, for as long as they are asked for.
pub(super) fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    stream::unfold((listener, places), async |(listener, places)| {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, caller) = accept(&listener).await;
        Some((Ok(Connection { stream, caller, _place: place }), (listener, places)))
    })
}

/// The next connection whose caller is known (unix(7), `SO_PEERCRED`).
async fn accept(listener: &UnixListener) -> (UnixStream, Caller) {
    loop {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            let peer = stream.peer_cred()?;
            Ok((stream, Caller::Local { uid: peer.uid(), pid: peer.pid() }))
        });
        match accepted {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::warn!(%error, "admin socket: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection and its place among the [`MOST_CONNECTIONS`].
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
