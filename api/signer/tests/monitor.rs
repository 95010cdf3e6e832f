//! The monitoring listener, as its clients see it: byte by byte, since a well-behaved library would hide
//! what an ill-behaved client meets.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ca_core::clock::Timestamp;
use mintmark_signer::monitor::Readiness;
use mintmark_signer::{Monitor, MonitorError, RunningMonitor, ServiceMetrics};
use prometheus_client::registry::Registry;

/// How long a client may take to say what it wants, and how many may be at it.
const HEADERS_WITHIN: Duration = Duration::from_secs(3);
const PLACES: usize = 16;

fn always_ready() -> Readiness {
    Box::new(Vec::new)
}

fn start(readiness: Readiness) -> RunningMonitor {
    let mut registry = Registry::default();
    let started = Timestamp::from_unix(1_764_000_000);
    ServiceMetrics::default().register(&mut registry, "1.2.3", started);
    Monitor::bind(([127, 0, 0, 1], 0).into()).unwrap().start(registry, readiness).unwrap()
}

/// A connection that gives up after a while.
fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Everything that is answered to these bytes, until the other side closes.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(monitor: &RunningMonitor, path: &str) -> String {
    exchange(monitor.address(), &format!("GET {path} HTTP/1.1\r\nHost: monitor\r\n\r\n"))
}

#[track_caller]
fn assert_answer(answer: &str, status: &str, text: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    assert!(answer.contains(text), "{text:?} is not in {answer}");
}

#[test]
fn figures_are_told_as_open_metrics() {
    let monitor = start(always_ready());
    let answer = get(&monitor, "/metrics");
    assert_answer(&answer, "200", "content-type: application/openmetrics-text; version=1.0.0");
    for line in [
        "\nmintmark_build_info{version=\"1.2.3\"} 1\n",
        "\nprocess_start_time_seconds 1764000000\n",
        "\nmintmark_svids_total{kind=\"x509\",outcome=\"minted\"} 0\n",
        "\nmintmark_svids_total{kind=\"jwt\",outcome=\"failed\"} 0\n",
    ] {
        assert!(answer.contains(line), "{line:?} is not in {answer}");
    }
    assert!(answer.ends_with("# EOF\n"), "{answer}");
}

#[test]
fn a_server_that_cannot_work_says_why_and_still_lives() {
    let ready = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&ready);
    let monitor = start(Box::new(move || match asked.load(Ordering::Relaxed) {
        true => Vec::new(),
        false => vec!["the token is away".to_owned(), "the bundle is empty".to_owned()],
    }));
    for (live, told_ready) in [("/live", "/ready"), ("/healthz", "/readyz")] {
        ready.store(false, Ordering::Relaxed);
        let answer = get(&monitor, told_ready);
        assert_answer(&answer, "503", "\r\n\r\nthe token is away\nthe bundle is empty\n");
        assert_answer(&get(&monitor, live), "200", "\r\n\r\nalive\n");
        ready.store(true, Ordering::Relaxed);
        assert_answer(&get(&monitor, told_ready), "200", "\r\n\r\nready\n");
    }
}

#[test]
fn nothing_else_is_there() {
    let monitor = start(always_ready());
    for path in ["/", "/metrics/", "//metrics", "/debug/pprof", "/READY"] {
        assert_answer(&get(&monitor, path), "404", "GET /metrics");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n");
        assert_answer(&exchange(monitor.address(), &request), "404", "GET /metrics");
    }
    let head = exchange(monitor.address(), "HEAD /metrics HTTP/1.1\r\nHost: m\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn a_connection_is_good_for_one_request() {
    let monitor = start(always_ready());
    let one = "GET /live HTTP/1.1\r\nHost: monitor\r\nConnection: keep-alive\r\n\r\n";
    let answer = exchange(monitor.address(), &one.repeat(50));
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[test]
fn a_request_that_is_no_request_or_has_no_end_is_refused() {
    let monitor = start(always_ready());
    let garbage = exchange(monitor.address(), "\x16\x03\x01 this is TLS\r\n\r\n");
    assert_answer(&garbage, "400", "");
    let mut stream = connect(monitor.address());
    // More than is read, so the rest may meet a connection that is closed.
    let _ = stream.write_all(format!("GET /{} HTTP/1.1\r\n", "a".repeat(60_000)).as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_answer(&get(&monitor, "/live"), "200", "alive");
}

#[test]
fn slow_clients_do_not_hold_up_others_and_are_shown_out() {
    let monitor = start(always_ready());
    let slow = |_| {
        let mut stream = connect(monitor.address());
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
        stream
    };
    let mut few: Vec<TcpStream> = (0..PLACES - 1).map(slow).collect();
    let begin = Instant::now();
    assert_answer(&get(&monitor, "/metrics"), "200", "# EOF");
    assert!(begin.elapsed() < HEADERS_WITHIN / 2, "{:?}", begin.elapsed());

    // With every place taken the next one waits for the slow ones to be shown out, and no longer.
    let _more: Vec<TcpStream> = (0..PLACES).map(slow).collect();
    assert_answer(&get(&monitor, "/metrics"), "200", "# EOF");
    assert!(begin.elapsed() < HEADERS_WITHIN * 4, "{:?}", begin.elapsed());
    let end = few[0].read_to_end(&mut Vec::new());
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
}

#[test]
fn a_taken_and_an_impossible_address_are_refused_with_the_reason() {
    let monitor = start(always_ready());
    let refused = Monitor::bind(monitor.address()).unwrap_err();
    assert!(matches!(refused, MonitorError::InUse(_)), "{refused}");
    assert!(refused.to_string().contains(&format!("{} is in use", monitor.address())));
    let refused = Monitor::bind("192.0.2.1:9464".parse().unwrap()).unwrap_err();
    assert!(matches!(refused, MonitorError::Elsewhere(_)), "{refused}");
    assert!(refused.to_string().contains("such as 127.0.0.1:9464"), "{refused}");
}

#[test]
fn a_dropped_monitor_is_gone_with_its_connections_and_its_address_is_free() {
    let monitor = start(always_ready());
    let address = monitor.address();
    let mut open = connect(address);
    assert_answer(&get(&monitor, "/live"), "200", "alive");
    drop(monitor);
    let rest = open.read_to_end(&mut Vec::new());
    assert!(rest.is_ok_and(|length| length == 0), "the connection is closed");
    assert!(TcpStream::connect(address).is_err());
    drop(Monitor::bind(address).unwrap());
}
