//! One connection: who it is, whether it is let in, and when it ends.

use std::convert::Infallible;
use std::error::Error as _;
use std::fmt::Display;
use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::{Clock, Timestamp};
use ca_core::excerpt::Excerpt;
use ca_core::id::SpiffeId;
use ca_core::log::Caller;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mintmark_transport::{Acceptor, Peer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::service::Routes;

use super::GRACE;
use super::arrival::Arrival;
use super::departure::{Departure, Departures};
use super::doorstep::Standing;
use super::gate::{Admitted, Gate};
use super::places::{Place, Places};
use super::seat::{Room, Seat, Seen};
use crate::audit::Audit;
use crate::metrics::ServiceMetrics;
use crate::status::Failure;

/// With what HTTP/2 begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most streams at once on one connection; a further one is refused. Each may hold a message that is not whole yet.
const MOST_STREAMS: u32 = 8;
/// So much of all streams of a connection may be on its way to us, and so much of each: streams that are not read from
/// take nothing of what is another's. The alarm of a message that is not there in time ([`Arrival`]) relies on it, for
/// else a peer would be blamed for what it has no window to send. A message may be larger; what is read makes room.
const CONNECTION_WINDOW: u32 = 8 << 20;
const STREAM_WINDOW: u32 = CONNECTION_WINDOW / MOST_STREAMS;
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
const NOTICE: Duration = GRACE;
/// A certificate ends by the wall clock, which may be set: it is read at least so often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// No certificate is trusted for longer by the clock that cannot be set: ten years.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What lets peers in.
pub(super) struct Hall {
    pub(super) acceptor: Acceptor,
    pub(super) gate: Gate,
    pub(super) places: Arc<Places>,
    pub(super) service: Arc<Service>,
}

/// What answers those that were let in.
pub(super) struct Service {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) routes: Routes,
    pub(super) audit: Arc<Audit>,
    pub(super) metrics: ServiceMetrics,
    /// Items that a connection may have under way.
    pub(super) items: usize,
    /// How long a peer may take to begin HTTP/2.
    pub(super) greeting_within: Duration,
    /// How long a message may take from its first byte to its last.
    pub(super) message_within: Duration,
    /// How long a peer may leave an answer where it is.
    pub(super) taken_within: Duration,
    pub(super) stopping: watch::Receiver<bool>,
}

impl Hall {
    /// Lets the peer in or not, and serves it until one of its ends comes.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        standing: Standing,
    ) {
        // A batch is a message, and leaves as soon as it is written.
        let _ = stream.set_nodelay(true);
        let mut stopping = self.service.stopping.clone();
        let accepted = tokio::select! {
            accepted = self.acceptor.accept(stream) => accepted,
            // The sender is gone with the listener.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        drop(standing);
        let audit = &self.service.audit;
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return audit.turned_away(from, None, &error, Instant::now().into()),
        };
        let reason = match self.admit(&peer) {
            Ok((admitted, place)) => {
                let reason = self.service.answer(stream, &peer, admitted).await;
                drop(place);
                reason
            }
            Err(reason) => Some(reason),
        };
        if let Some(reason) = reason {
            audit.turned_away(from, Some(&peer.id), &reason, Instant::now().into());
        }
    }

    /// Writes down that a stranger was refused unheard.
    pub(super) fn turned_away(&self, from: SocketAddr, reason: &dyn Display) {
        self.service.audit.turned_away(from, None, reason, Instant::now().into());
    }

    /// The gate decides; then there has to be a place.
    fn admit(&self, peer: &Peer) -> Result<(Admitted, Place), String> {
        let admitted = (self.gate)(peer).map_err(|refused| refused.to_string())?;
        let place = self.places.take(&peer.id).map_err(|full| full.to_string())?;
        Ok((admitted, place))
    }
}

impl Service {
    /// Answers until the peer leaves; says why, if it was cut off.
    pub(super) async fn answer<S>(
        self: &Arc<Self>,
        stream: S,
        peer: &Peer,
        admitted: Admitted,
    ) -> Option<String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _connected = self.metrics.connected();
        let io = match timeout(self.greeting_within, greeted(stream)).await {
            Ok(Ok(stream)) => TokioIo::new(stream),
            Ok(Err(_)) => return None,
            Err(_) => {
                let milliseconds = self.greeting_within.as_millis();
                return Some(format!("it has not begun HTTP/2 within {milliseconds} ms"));
            }
        };
        let Admitted { front_end, front_ends, until, leave } = admitted;
        let (left, leaving) = watch::channel(false);
        let (room, departures) = (Room::of(self.items), Arc::new(Departures::default()));
        let mut ends = self.ends(peer, (until, leave), &departures);
        let seat = Arc::new(Seat {
            peer: peer.clone(),
            front_end,
            front_ends,
            room,
            departures: Arc::clone(&departures),
            leaving,
        });
        let service = Arc::clone(self);
        let service =
            service_fn(move |request| Arc::clone(&service).call(request, Arc::clone(&seat)));
        let mut connection = std::pin::pin!(http().serve_connection(io, service));
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended.err().as_ref().and_then(fault),
                end = ends.next() => match end {
                    End::Leave => {
                        // What is read is answered; a GOAWAY says that nothing more is.
                        let _ = left.send(true);
                        connection.as_mut().graceful_shutdown();
                    }
                    End::CutOff(reason) => return Some(reason),
                }
            }
        }
    }

    /// Answers one call. What a call did not bring to its service is written down here; the rest is for the service.
    async fn call(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        seat: Arc<Seat>,
    ) -> Result<Response<Departure>, Infallible> {
        let seen = Seen::default();
        request.extensions_mut().insert(Arc::clone(&seat));
        request.extensions_mut().insert(seen.clone());
        let path = request.uri().path().to_owned();
        let request = request.map(|body| Body::new(Arrival::of(body, self.message_within)));
        // Clones share what they route to, and are always ready.
        let response = self.routes.clone().call(request).await?;
        if !seen.is_set()
            && let Some(status) = Status::from_header_map(response.headers())
        {
            let caller = Caller::FrontEnd {
                name: Arc::clone(seat.front_end.record.name().shared()),
                instance: Arc::default(),
            };
            let (id, failure) = (|| Some(Excerpt::of(&path)), Failure::Unreadable(status.into()));
            self.audit.refused(&caller, "call", id, &failure, Instant::now().into());
        }
        Ok(response.map(|body| Departure::of(body, &seat.departures)))
    }

    fn ends<'a>(
        &'a self,
        peer: &'a Peer,
        (until, leave): (BoxFuture<'static, String>, BoxFuture<'static, ()>),
        departures: &'a Departures,
    ) -> Ends<'a> {
        let (id, not_after) = (&peer.id, peer.not_after);
        let life = not_after.since(self.clock.now()) + Duration::from_secs(1);
        let latest = Instant::now() + life.min(LONGEST_LIFE);
        let (clock, stopping) = (&*self.clock, self.stopping.clone());
        let taken_within = self.taken_within;
        Ends {
            clock,
            id,
            not_after,
            latest,
            until,
            leave,
            departures,
            taken_within,
            stopping,
            left: false,
        }
    }
}

/// What the peer has done that no HTTP/2 is. A connection that breaks concerns it alone, who knows.
fn fault(error: &hyper::Error) -> Option<String> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    let reason = error.reason().filter(|_| !error.is_remote())?;
    Some(format!("it does what HTTP/2 does not allow: {}", reason.description()))
}

/// The stream, once as many bytes have come as HTTP/2 begins with (RFC 9113 §3.4). hyper waits for them without end, and
/// asks nobody whether it is still there until they have come.
async fn greeted<S>(stream: S) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let mut preface = [0; PREFACE.len()];
    let mut known = 0;
    // What begins in another way is not waited for to its end: hyper says what is wrong with it.
    while known < preface.len() && preface[..known] == PREFACE[..known] {
        known += match reader.read(&mut preface[known..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => count,
        };
    }
    let preface = Cursor::new(preface).take(known as u64);
    Ok(tokio::io::join(preface.chain(reader), writer))
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
    /// The last second of its certificate, by the wall clock.
    not_after: Timestamp,
    /// The same as it was at the handshake, by the clock that cannot be set.
    latest: Instant,
    until: BoxFuture<'static, String>,
    leave: BoxFuture<'static, ()>,
    departures: &'a Departures,
    taken_within: Duration,
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
            let left = self.life();
            if left.is_zero() {
                let (id, end) = (self.id, self.not_after);
                return End::CutOff(format!("the certificate of {id} has ended at {end}"));
            }
            if !self.left && left <= NOTICE {
                self.left = true;
                return End::Leave;
            }
            if self.departures.since().is_some_and(|since| since.elapsed() > self.taken_within) {
                let milliseconds = self.taken_within.as_millis();
                return End::CutOff(format!("it takes no answers: none for {milliseconds} ms"));
            }
            let notice = if self.left { Duration::ZERO } else { NOTICE };
            let look = (left - notice).min(LOOK_EVERY).min(self.taken_within);
            tokio::select! {
                reason = &mut self.until => return End::CutOff(reason),
                // The sender is gone with the listener, which waits for this.
                _ = self.stopping.wait_for(|stopping| *stopping), if !self.left => {
                    self.left = true;
                    return End::Leave;
                }
                () = &mut self.leave, if !self.left => {
                    self.left = true;
                    return End::Leave;
                }
                () = tokio::time::sleep(look) => {}
            }
        }
    }

    /// How long the certificate still lasts, by the clock that says less: one that is set back prolongs nothing.
    fn life(&self) -> Duration {
        let now = self.clock.now();
        if now > self.not_after {
            return Duration::ZERO;
        }
        let by_wall = self.not_after.since(now) + Duration::from_secs(1);
        by_wall.min(self.latest.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    /// A wall clock that shows what it was set to.
    struct Set(AtomicI64);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix(self.0.load(Ordering::SeqCst))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_prolongs_no_connection() {
        let id = SpiffeId::parse("spiffe://td.test/mintmark/frontend/one").unwrap();
        let (start, life) = (1_000_000, 3600);
        for (set_to, ends_after) in [(start - 1800, life), (start, life), (start + life + 1, 10)] {
            let clock = Set(AtomicI64::new(set_to));
            let (_stop, stopping) = watch::channel(false);
            let begun = Instant::now();
            let mut ends = Ends {
                clock: &clock,
                id: &id,
                not_after: Timestamp::from_unix(start + life),
                latest: begun + Duration::from_secs(3600),
                until: Box::pin(std::future::pending()),
                leave: Box::pin(std::future::pending()),
                departures: &Departures::default(),
                taken_within: Duration::from_secs(30),
                stopping,
                left: false,
            };
            if set_to > start {
                assert!(matches!(ends.next().await, End::CutOff(_)), "it is over");
                continue;
            }
            // The wall clock stands still, as if it were set back again and again.
            assert!(matches!(ends.next().await, End::Leave));
            let notice = begun + Duration::from_secs(3600) - Instant::now();
            assert!(notice > Duration::from_secs(20), "a mint may take as long: {notice:?}");
            let end = timeout(Duration::from_secs(7200), ends.next()).await;
            assert!(matches!(end, Ok(End::CutOff(_))), "the wall clock alone says nothing");
            assert_eq!(begun.elapsed().as_secs(), ends_after.unsigned_abs());
        }
    }
}
