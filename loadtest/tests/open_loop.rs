//! Whole runs against a server in this process, whose answers take as long as a test says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use mintmark_loadtest::plan::{Document, Plan};
use mintmark_loadtest::report::Report;
use mintmark_proto::spire::svid::v1::svid_server::{Svid, SvidServer};
use mintmark_proto::spire::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest,
    BatchNewX509svidResponse, MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest,
    MintWitsvidResponse, MintX509svidRequest, MintX509svidResponse, NewDownstreamX509caRequest,
    NewDownstreamX509caResponse, NewJwtsvidRequest, NewJwtsvidResponse,
};
use mintmark_proto::spire::types::{Jwtsvid, X509svid};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A CA that stands still once, and works on so many requests at a time, on each for so long.
struct SlowCa {
    slots: Semaphore,
    work: Duration,
    /// From the first request.
    stall: Duration,
    first: OnceLock<Instant>,
    answer: Answer,
}

#[derive(Clone, Copy)]
enum Answer {
    Svid,
    Nothing,
    Busy,
}

impl SlowCa {
    /// Answers at once.
    fn quick(answer: Answer) -> Self {
        Self::working(1_000, Duration::ZERO, answer)
    }

    fn working(at_once: usize, work: Duration, answer: Answer) -> Self {
        let (stall, first) = (Duration::ZERO, OnceLock::new());
        Self { slots: Semaphore::new(at_once), work, stall, first, answer }
    }

    /// What is to be answered, when it is time to.
    async fn answer(&self) -> Result<bool, Status> {
        let first = *self.first.get_or_init(Instant::now);
        tokio::time::sleep_until(first + self.stall).await;
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        tokio::time::sleep(self.work).await;
        match self.answer {
            Answer::Svid => Ok(true),
            Answer::Nothing => Ok(false),
            Answer::Busy => Err(Status::unavailable("every signing slot is taken")),
        }
    }
}

/// A running server; it ends with its runtime.
struct TestServer {
    socket: PathBuf,
    ca: Arc<SlowCa>,
    runtime: Runtime,
    _directory: TempDir,
}

impl TestServer {
    fn start(ca: SlowCa) -> Self {
        let runtime = Runtime::new().expect("threads");
        let directory = TempDir::new().expect("a temporary directory");
        let socket = directory.path().join("ca.sock");
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(&socket).expect("a free path")
        };
        let ca = Arc::new(ca);
        runtime.spawn(
            Server::builder()
                .add_service(SvidServer::from_arc(ca.clone()))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self { socket, ca, runtime, _directory: directory }
    }

    fn plan(&self, document: Document, rate: u32, duration: Duration) -> Plan {
        Plan {
            socket: self.socket.clone(),
            document,
            spiffe_id: "spiffe://load.test/web".parse().expect("an ID"),
            rate,
            duration,
            connections: 2,
            max_in_flight: 1_000,
        }
    }
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn errors(report: &Report) -> Vec<(&str, u64)> {
    report.errors.iter().map(|errors| (errors.code, errors.count)).collect()
}

#[test]
fn a_server_at_half_the_offered_rate_shows_its_queue_in_the_latency() {
    // 50 requests a second at most, 100 a second offered: the last one waits for a second.
    let server = TestServer::start(SlowCa::working(1, milliseconds(20), Answer::Svid));
    let plan = server.plan(Document::X509Svid, 100, milliseconds(1_000));
    let report = mintmark_loadtest::run(&plan).unwrap();
    assert_eq!((report.offered, report.sent, report.ok, report.dropped), (100, 100, 100, 0));
    // A closed loop would have seen 20 ms for each.
    assert!(report.latency.p50.unwrap() >= milliseconds(400), "{report}");
    assert!(report.latency.max.unwrap() >= milliseconds(950), "{report}");
    assert!(report.achieved_rate <= 50.5, "{report}");
}

#[test]
fn a_stall_is_in_the_latency_of_every_request_that_met_it() {
    let ca = SlowCa { stall: milliseconds(500), ..SlowCa::quick(Answer::Svid) };
    let server = TestServer::start(ca);
    let plan = server.plan(Document::JwtSvid, 100, milliseconds(1_000));
    let report = mintmark_loadtest::run(&plan).unwrap();
    assert_eq!((report.sent, report.ok), (100, 100));
    assert!(report.latency.max.unwrap() >= milliseconds(500), "{report}");
    // Half of the requests fell into the stall; a closed loop would have had one there.
    assert!(report.latency.p90.unwrap() >= milliseconds(400), "{report}");
}

#[test]
fn requests_beyond_the_limit_are_dropped_and_counted() {
    let server = TestServer::start(SlowCa::working(1_000, milliseconds(2_000), Answer::Svid));
    let plan = Plan { max_in_flight: 5, ..server.plan(Document::JwtSvid, 100, milliseconds(200)) };
    let report = mintmark_loadtest::run(&plan).unwrap();
    assert_eq!((report.offered, report.sent, report.dropped, report.ok), (20, 5, 15, 5));
}

#[test]
fn refusals_are_counted_by_code_and_are_no_latency() {
    let server = TestServer::start(SlowCa::quick(Answer::Busy));
    let report =
        mintmark_loadtest::run(&server.plan(Document::X509Svid, 100, milliseconds(100))).unwrap();
    assert_eq!((report.ok, report.latency.max), (0, None));
    assert_eq!(errors(&report), [("UNAVAILABLE", 10)]);
    assert_eq!(report.errors[0].first, "every signing slot is taken");
}

#[test]
fn a_server_that_dies_in_mid_run_is_told_from_one_that_refuses() {
    let server = TestServer::start(SlowCa::working(1_000, milliseconds(60_000), Answer::Svid));
    let plan = server.plan(Document::JwtSvid, 100, milliseconds(300));
    let TestServer { ca, runtime, .. } = server;
    let dying = thread::spawn(move || {
        while ca.first.get().is_none() {
            thread::sleep(milliseconds(5));
        }
        drop(runtime);
    });
    let report = mintmark_loadtest::run(&plan).unwrap();
    dying.join().unwrap();
    assert_eq!((report.sent, report.ok, errors(&report)), (30, 0, vec![("broken_off", 30)]));
}

#[test]
fn an_answer_without_an_svid_is_an_error() {
    let server = TestServer::start(SlowCa::quick(Answer::Nothing));
    for document in [Document::X509Svid, Document::JwtSvid] {
        let report = mintmark_loadtest::run(&server.plan(document, 100, milliseconds(50))).unwrap();
        assert_eq!((report.ok, errors(&report)), (0, vec![("unusable", 5)]));
    }
}

/// Runs the program: exit code, standard output, standard error.
fn load(socket: &Path, more: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mintmark-load"))
        .arg("--socket")
        .arg(socket)
        .args(["x509", "--spiffe-id", "spiffe://load.test/web", "--duration", "50ms"])
        .args(more)
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

#[test]
fn a_program_reads_the_report_on_standard_output() {
    let server = TestServer::start(SlowCa::quick(Answer::Svid));
    let (code, out, _) = load(&server.socket, &["--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["ok"]), (0, &10.into()));
}

#[test]
fn a_run_that_minted_nothing_fails_after_its_report() {
    let server = TestServer::start(SlowCa::quick(Answer::Busy));
    let (code, out, told) = load(&server.socket, &[]);
    assert_eq!(code, 1);
    assert!(out.contains("  UNAVAILABLE       10, the first: every signing slot"), "{out}");
    assert!(told.contains("nothing was minted"), "{told}");
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let directory = TempDir::new().unwrap();
    let (code, out, told) = load(&directory.path().join("none.sock"), &[]);
    assert_eq!((code, &*out), (4, ""));
    assert!(told.contains("none.sock: there is no such socket; start the server"), "{told}");

    let dead = directory.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let (code, _, told) = load(&dead, &[]);
    assert_eq!(code, 4);
    assert!(told.contains("nobody listens there; start the server"), "{told}");
}

#[tonic::async_trait]
impl Svid for SlowCa {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        if !request.into_inner().csr.windows(22).any(|part| part == b"spiffe://load.test/web") {
            return Err(Status::invalid_argument("the CSR names another ID"));
        }
        let cert_chain = vec![Bytes::from_static(b"a certificate")];
        let svid = X509svid { cert_chain, ..X509svid::default() };
        Ok(Response::new(MintX509svidResponse { svid: self.answer().await?.then_some(svid) }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let MintJwtsvidRequest { id, audience, .. } = request.into_inner();
        if id.is_none_or(|id| (&*id.trust_domain, &*id.path) != ("load.test", "/web")) {
            return Err(Status::invalid_argument("the request names another ID"));
        }
        if audience.is_empty() {
            return Err(Status::invalid_argument("the token is for nobody"));
        }
        let svid = Jwtsvid { token: "a token".to_owned(), ..Jwtsvid::default() };
        Ok(Response::new(MintJwtsvidResponse { svid: self.answer().await?.then_some(svid) }))
    }

    async fn mint_witsvid(
        &self,
        _: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(not_asked_for())
    }

    async fn batch_new_x509svid(
        &self,
        _: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        Err(not_asked_for())
    }

    async fn new_jwtsvid(
        &self,
        _: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        Err(not_asked_for())
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(not_asked_for())
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        Err(not_asked_for())
    }
}

fn not_asked_for() -> Status {
    Status::unimplemented("no run asks for this")
}
