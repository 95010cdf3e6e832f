//! Whoever asks: some streams that always have so many items unanswered, on a thread of its own.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::join_all;
use futures_util::stream;
use hyper_util::rt::TokioIo;
use mintmark_proto::signing::v1::signing_client::SigningClient;
use mintmark_proto::signing::v1::{MintRequest, MintResponse, jwt_result, x509_result};
use mintmark_transport::Connector;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// The name by which its thread's CPU time is told from the server's.
const THREAD: &str = "bench-client";
/// As a front end has them.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// How it asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) connections: usize,
    /// On each of them.
    pub(super) streams: usize,
    /// Items of a stream that wait for their answers, at most.
    pub(super) unanswered: usize,
}

pub(super) struct Client {
    runtime: Runtime,
    streams: Vec<MintStream>,
    spent: Spent,
}

/// What all of its runs took, in microseconds of CPU time.
#[derive(Default)]
struct Spent {
    items: u64,
    server: f64,
    client: f64,
}

impl Client {
    pub(super) fn connect(
        connector: &Connector,
        address: SocketAddr,
        shape: Shape,
        message: MintRequest,
    ) -> anyhow::Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name(THREAD).enable_all().build()?;
        let connecting = async {
            let mut streams = Vec::new();
            for _ in 0..shape.connections {
                let channel = channel(connector.clone(), address).await?;
                for _ in 0..shape.streams {
                    let message = message.clone();
                    streams.push(MintStream::open(&channel, message, shape.unanswered).await?);
                }
            }
            anyhow::Ok(streams)
        };
        let streams = runtime.block_on(connecting)?;
        Ok(Self { runtime, streams, spent: Spent::default() })
    }

    /// Asks for that long on all streams, waits for what is unanswered, and says how many SVIDs came.
    pub(super) fn run_for(&mut self, slice: Duration) -> u64 {
        let end = Instant::now() + slice;
        let (all, client) = (process_time(), client_time());
        let running = std::mem::take(&mut self.streams).into_iter().map(|mut stream| {
            self.runtime.spawn(async move {
                let items = stream.run_until(end).await.expect("the server answers");
                (items, stream)
            })
        });
        let ended = self.runtime.block_on(join_all(running.collect::<Vec<_>>()));
        let mut items = 0;
        for ended in ended {
            let (answered, stream) = ended.expect("no stream panics");
            items += answered;
            self.streams.push(stream);
        }
        let client = client_time() - client;
        self.spent.server += process_time() - all - client;
        self.spent.client += client;
        self.spent.items += items;
        items
    }

    /// CPU time of all threads but the client's, for an item, in microseconds.
    pub(super) fn server_cost(&self) -> f64 {
        self.spent.server / self.spent.items as f64
    }

    /// The same of the client's.
    pub(super) fn client_cost(&self) -> f64 {
        self.spent.client / self.spent.items as f64
    }
}

/// CPU time of this process in microseconds.
fn process_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// CPU time of the threads with the client's name, in microseconds.
fn client_time() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let of = |file| fs::read_to_string(task.path().join(file)).ok();
        if of("comm")?.trim_end() != THREAD {
            return None;
        }
        of("schedstat")?.split(' ').next()?.parse::<f64>().ok()
    });
    times.sum::<f64>() / 1e3
}

async fn channel(connector: Connector, address: SocketAddr) -> anyhow::Result<Channel> {
    let connect = service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (stream, _) = connector.connect(stream).await.map_err(io::Error::other)?;
            io::Result::Ok(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://signer.bench")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(endpoint.connect_with_connector(connect).await?)
}

struct MintStream {
    message: MintRequest,
    items: usize,
    most: usize,
    requests: mpsc::Sender<MintRequest>,
    answers: Streaming<MintResponse>,
}

impl MintStream {
    async fn open(
        channel: &Channel,
        message: MintRequest,
        unanswered: usize,
    ) -> anyhow::Result<Self> {
        let items = message.x509.len() + message.jwt.len();
        let (requests, mut sent) = mpsc::channel(unanswered.div_ceil(items).max(1));
        let requests_of = stream::poll_fn(move |context| sent.poll_recv(context));
        let answers = SigningClient::new(channel.clone()).mint(requests_of).await?.into_inner();
        Ok(Self { message, items, most: unanswered, requests, answers })
    }

    async fn run_until(&mut self, end: Instant) -> anyhow::Result<u64> {
        let (mut answered, mut unanswered) = (0, 0);
        loop {
            while unanswered + self.items <= self.most && Instant::now() < end {
                self.requests.send(self.message.clone()).await?;
                unanswered += self.items;
            }
            if unanswered == 0 {
                return Ok(answered);
            }
            let answer = self.answers.message().await?.context("the stream has ended")?;
            let items = svids(&answer)?;
            unanswered -= items;
            answered += items as u64;
        }
    }
}

/// How many there are; none may be a failure.
fn svids(answer: &MintResponse) -> anyhow::Result<usize> {
    for result in &answer.x509 {
        if let Some(x509_result::Outcome::Failure(failure)) = &result.outcome {
            anyhow::bail!("no certificate: {}", failure.text);
        }
    }
    for result in &answer.jwt {
        if let Some(jwt_result::Outcome::Failure(failure)) = &result.outcome {
            anyhow::bail!("no token: {}", failure.text);
        }
    }
    Ok(answer.x509.len() + answer.jwt.len())
}
