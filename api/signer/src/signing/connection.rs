//! One connection: who it is, whether it is let in, and when it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::clock::{Clock, Timestamp};
use ca_core::id::SpiffeId;
use futures_util::future::BoxFuture;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mintmark_transport::{Acceptor, Peer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::service::Routes;

use super::gate::{Admitted, Gate};
use super::places::{Place, Places};
use super::seat::{Room, Seat};
use crate::audit::Audit;

/// Most streams at once on one connection; a further one is refused. Each may hold a message that is not whole yet.
const MOST_STREAMS: u32 = 8;
/// So much of a stream, and of all streams of a connection, may be on its way to us.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// So much of a stream's answers waits for the peer to take it.
const SEND_BUFFER: usize = 1 << 20;
/// Largest set of request headers in bytes, and largest frame.
const LARGEST_HEADERS: u32 = 16 * 1024;
const LARGEST_FRAME: u32 = 64 * 1024;
/// Streams that a peer opens and resets before they are looked at; more end the connection.
const MOST_RESETS: usize = 64;
/// How often a silent peer is asked whether it is still there, and how long it has for an answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// So long before its certificate ends a peer is told to connect anew.
const NOTICE: Duration = Duration::from_secs(10);
/// A certificate ends by the wall clock, which may be set: it is read at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What every connection has from the listener.
pub(super) struct Hall {
    pub(super) acceptor: Acceptor,
    pub(super) gate: Gate,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) places: Arc<Places>,
    pub(super) routes: Routes,
    pub(super) audit: Arc<Audit>,
    /// Items that a connection may have under way.
    pub(super) items: usize,
    pub(super) stopping: watch::Receiver<bool>,
}

impl Hall {
    /// Lets the peer in or not, and serves it until one of its ends comes.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        handshake: OwnedSemaphorePermit,
    ) {
        // A batch is a message, and leaves as soon as it is written.
        let _ = stream.set_nodelay(true);
        let mut stopping = self.stopping.clone();
        let accepted = tokio::select! {
            accepted = self.acceptor.accept(stream) => accepted,
            // The sender is gone with the listener.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        drop(handshake);
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return self.audit.turned_away(from, None, &error, Instant::now()),
        };
        match self.admit(&peer) {
            Ok((admitted, place)) => {
                let io = TokioIo::new(stream);
                if let Some(reason) = self.answer(io, &peer, admitted).await {
                    self.audit.turned_away(from, Some(&peer.id), &reason, Instant::now());
                }
                drop(place);
            }
            Err(reason) => {
                self.audit.turned_away(from, Some(&peer.id), &reason, Instant::now());
            }
        }
    }

    /// The gate decides; then there has to be a place.
    fn admit(&self, peer: &Peer) -> Result<(Admitted, Place), String> {
        let admitted = (self.gate)(peer).map_err(|refused| refused.to_string())?;
        let place = self.places.take(&peer.id).map_err(|full| full.to_string())?;
        Ok((admitted, place))
    }

    /// Answers until the peer leaves; says why, if it was cut off.
    async fn answer<I>(&self, io: I, peer: &Peer, admitted: Admitted) -> Option<String>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let Admitted { front_end, front_ends, until } = admitted;
        let (leave, leaving) = watch::channel(false);
        let (room, peer_of_seat) = (Room::of(self.items), peer.clone());
        let seat = Arc::new(Seat { peer: peer_of_seat, front_end, front_ends, room, leaving });
        let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Arc::clone(&seat));
            // Clones share what they route to, and are always ready.
            self.routes.clone().call(request.map(Body::new))
        });
        let mut connection = std::pin::pin!(http().serve_connection(io, service));
        let mut ends = self.ends(&peer.id, peer.not_after, until);
        loop {
            tokio::select! {
                // A broken connection concerns the peer alone, who knows.
                _ = connection.as_mut() => return None,
                end = ends.next() => match end {
                    End::Leave => {
                        // What is read is answered; a GOAWAY says that nothing more is.
                        let _ = leave.send(true);
                        connection.as_mut().graceful_shutdown();
                    }
                    End::CutOff(reason) => return Some(reason),
                }
            }
        }
    }

    fn ends<'a>(
        &'a self,
        id: &'a SpiffeId,
        not_after: Timestamp,
        until: BoxFuture<'static, String>,
    ) -> Ends<'a> {
        let stopping = self.stopping.clone();
        Ends { clock: &*self.clock, id, not_after, until, stopping, left: false }
    }
}

fn http() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(LARGEST_HEADERS)
        .max_frame_size(LARGEST_FRAME)
        .max_pending_accept_reset_streams(MOST_RESETS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    http
}

/// What ends a connection, beside its peer.
struct Ends<'a> {
    clock: &'a dyn Clock,
    id: &'a SpiffeId,
    not_after: Timestamp,
    until: BoxFuture<'static, String>,
    stopping: watch::Receiver<bool>,
    /// Whether the peer was told to leave.
    left: bool,
}

enum End {
    /// In good time: what is under way is answered.
    Leave,
    /// At once.
    CutOff(String),
}

impl Ends<'_> {
    async fn next(&mut self) -> End {
        loop {
            let now = self.clock.now();
            if now > self.not_after {
                let (id, end) = (self.id, self.not_after);
                return End::CutOff(format!("the certificate of {id} has ended at {end}"));
            }
            if !self.left && now.plus(NOTICE) > self.not_after {
                self.left = true;
                return End::Leave;
            }
            let left = self.not_after.since(now) + Duration::from_secs(1);
            let (notice, left) = (left.saturating_sub(NOTICE), left.min(LOOK_EVERY));
            let look = if self.left { left } else { left.min(notice) };
            tokio::select! {
                reason = &mut self.until => return End::CutOff(reason),
                // The sender is gone with the listener, which waits for this.
                _ = self.stopping.wait_for(|stopping| *stopping), if !self.left => {
                    self.left = true;
                    return End::Leave;
                }
                () = tokio::time::sleep(look) => {}
            }
        }
    }
}
