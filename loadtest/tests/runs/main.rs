//! Whole runs, against a server in this process and against targets that are none.

mod server;
mod signer;
#[path = "../../../api/client/tests/signer/stage.rs"]
#[expect(clippy::unwrap_used, reason = "a test states its expectations by unwrapping")]
#[allow(dead_code, reason = "api/client's own tests use all of it")]
mod stage;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use mintmark_loadtest::plan::{Document, Plan, TargetPlan};
use mintmark_loadtest::report::{Loop, Measured, Report, page};
use mintmark_loadtest::shape::{Knee, Shape};
use tempfile::TempDir;

use server::{Answer, TestCa, TestServer};

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// At an even rate.
fn plan(target: TargetPlan, document: Document, rate: u32, duration: Duration) -> Plan {
    Plan {
        target,
        document,
        spiffe_id: "spiffe://load.test/web".parse().expect("an ID"),
        ids: 3,
        shape: Shape::Constant { rate, batch: 1, duration },
        warm_up: Duration::ZERO,
        max_in_flight: 1_000,
        answer_within: Duration::from_secs(30),
        check_share: 1.0,
        window: None,
    }
}

impl TestServer {
    fn plan(&self, document: Document, rate: u32, duration: Duration) -> Plan {
        let target =
            TargetPlan::Spire { socket: self.socket.clone(), connections: 2, server_pid: None };
        plan(target, document, rate, duration)
    }
}

fn run(plan: &Plan) -> Report {
    mintmark_loadtest::run(plan, &|_| ()).expect("a run that reports")
}

fn errors(measured: &Measured) -> Vec<(&str, u64)> {
    measured.errors.iter().map(|errors| (errors.code, errors.count)).collect()
}

#[test]
fn a_server_at_half_the_offered_rate_shows_its_queue_in_the_latency() {
    // 50 requests a second at most, 100 a second offered: the last one waits for a second.
    let server = TestServer::start(TestCa::working(1, milliseconds(20), Answer::Svid));
    let report = run(&server.plan(Document::X509Svid, 100, milliseconds(1_000)));
    let found = &report.measured;
    assert_eq!((found.offered, found.sent, found.ok, found.dropped), (100, 100, 100, 0));
    // A closed loop would have seen 20 ms for each.
    assert!(found.latency.p50.unwrap() >= milliseconds(400), "{report}");
    assert!(found.latency.max.unwrap() >= milliseconds(950), "{report}");
    assert!(found.achieved_rate <= 50.5, "{report}");
}

#[test]
fn a_stall_is_in_the_latency_of_every_request_that_met_it() {
    let mut ca = TestCa::quick(Answer::Svid);
    ca.stall = milliseconds(500);
    let server = TestServer::start(ca);
    let report = run(&server.plan(Document::JwtSvid, 100, milliseconds(1_000)));
    assert_eq!((report.measured.sent, report.measured.ok), (100, 100));
    assert!(report.measured.latency.max.unwrap() >= milliseconds(500), "{report}");
    // Half of the requests fell into the stall; a closed loop would have had one there.
    assert!(report.measured.latency.p90.unwrap() >= milliseconds(400), "{report}");
}

#[test]
fn the_open_loop_shows_a_regular_stall_in_p99_9_and_the_closed_loop_hides_it_and_says_so() {
    let (every, stall) = (milliseconds(1_500), milliseconds(300));
    let target = TargetPlan::Stall { every, stall };
    let open = plan(target, Document::JwtSvid, 1_000, milliseconds(3_200));
    let closed = Shape::Closed { callers: 1, duration: milliseconds(3_200) };
    let closed = Plan { shape: closed, ..open.clone() };
    let (open, closed) = (run(&open), run(&closed));
    assert!(open.measured.latency.p999.unwrap() >= stall / 2, "{open}");
    assert!(closed.measured.latency.p999.unwrap() < stall / 2, "{closed}");
    // It was there all the same.
    assert!(closed.measured.latency.max.unwrap() >= stall / 2, "{closed}");
    assert_eq!((open.kind, closed.kind), (Loop::Open, Loop::Closed));
    assert!(closed.to_string().contains("closed loop: each caller waits"), "{closed}");
    assert!(page(&closed).contains("closed loop: each caller waits"));
    assert_eq!(serde_json::to_value(&closed).unwrap()["loop"], "closed");
}

#[test]
fn the_knee_is_not_above_what_the_server_can_do_and_half_of_it_is_measured() {
    // 500 a second at most.
    let server = TestServer::start(TestCa::working(1, milliseconds(2), Answer::Svid));
    let knee = Knee {
        from: 50,
        to: 100_000,
        factor: 2.0,
        step: milliseconds(300),
        short_by: 0.1,
        p99: milliseconds(10_000),
        batch: 1,
        duration: milliseconds(300),
    };
    let plan = server.plan(Document::JwtSvid, 1, milliseconds(1));
    let report = run(&Plan { shape: Shape::Knee(knee), ..plan });
    let found = report.knee.as_ref().unwrap();
    assert!(found.bounded, "{report}");
    let highest = found.knee.unwrap_or(knee.from);
    assert!(highest <= 560, "{report}");
    let half = f64::from(highest / 2);
    assert!((report.measured.offered_rate / half - 1.0).abs() < 0.05, "{report}");
    assert!(page(&report).contains("<h2>Knee: "));
}

#[test]
fn a_ramp_sends_as_many_as_its_middle_says() {
    let shape = Shape::Ramp { from: 100, to: 500, batch: 10, duration: milliseconds(500) };
    let plan = plan(TargetPlan::Empty, Document::JwtSvid, 1, milliseconds(1));
    let report = run(&Plan { shape, ..plan });
    assert_eq!((report.measured.offered, report.measured.ok), (150, 150));
    assert_eq!(report.windows.iter().map(|window| window.ok).sum::<u64>(), 150);
}

#[test]
fn requests_beyond_the_limit_are_dropped_and_counted() {
    let server = TestServer::start(TestCa::working(1_000, milliseconds(2_000), Answer::Svid));
    let plan = Plan { max_in_flight: 5, ..server.plan(Document::JwtSvid, 100, milliseconds(200)) };
    let found = run(&plan).measured;
    assert_eq!((found.offered, found.sent, found.dropped, found.ok), (20, 5, 15, 5));
}

#[test]
fn refusals_are_counted_by_code_and_are_no_latency() {
    let server = TestServer::start(TestCa::quick(Answer::Busy));
    let found = run(&server.plan(Document::X509Svid, 100, milliseconds(100))).measured;
    assert_eq!((found.ok, found.latency.max), (0, None));
    assert_eq!(errors(&found), [("UNAVAILABLE", 10)]);
    assert_eq!(found.errors[0].first, "every signing slot is taken");
}

#[test]
fn a_server_that_dies_in_mid_run_is_told_from_one_that_refuses() {
    let server = TestServer::start(TestCa::working(1_000, milliseconds(60_000), Answer::Svid));
    let plan = server.plan(Document::JwtSvid, 100, milliseconds(300));
    let TestServer { ca, runtime, .. } = server;
    let dying = thread::spawn(move || {
        while ca.first.get().is_none() {
            thread::sleep(milliseconds(5));
        }
        drop(runtime);
    });
    let found = run(&plan).measured;
    dying.join().unwrap();
    assert_eq!((found.sent, found.ok, errors(&found)), (30, 0, vec![("broken_off", 30)]));
}

#[test]
fn a_request_that_is_never_answered_is_an_error_in_the_end() {
    let server = TestServer::start(TestCa::working(1_000, milliseconds(60_000), Answer::Svid));
    let plan = server.plan(Document::JwtSvid, 100, milliseconds(50));
    let found = run(&Plan { answer_within: milliseconds(200), ..plan }).measured;
    assert_eq!((found.ok, errors(&found)), (0, vec![("unanswered", 5)]));
}

#[test]
fn an_answer_without_an_svid_is_an_error() {
    let server = TestServer::start(TestCa::quick(Answer::Nothing));
    for document in [Document::X509Svid, Document::JwtSvid] {
        let found = run(&server.plan(document, 100, milliseconds(50))).measured;
        assert_eq!((found.ok, errors(&found)), (0, vec![("unusable", 5)]));
    }
}

#[test]
fn every_answer_is_checked_and_each_kind_of_wrong_one_is_found() {
    let (x509, jwt) = (Document::X509Svid, Document::JwtSvid);
    for (document, answer, what) in [
        (x509, Answer::Svid, None),
        (jwt, Answer::Svid, None),
        (x509, Answer::WrongKey, Some("key")),
        (x509, Answer::WrongId, Some("id")),
        (x509, Answer::WrongChain, Some("chain")),
        (jwt, Answer::WrongId, Some("id")),
        (jwt, Answer::WrongSignature, Some("signature")),
        (jwt, Answer::WrongAudience, Some("audience")),
        (jwt, Answer::Ended, Some("life")),
    ] {
        let server = TestServer::start(TestCa::quick(answer));
        let report = run(&server.plan(document, 100, milliseconds(100)));
        let checks = report.checks.unwrap();
        assert_eq!((report.measured.ok, checks.checked, checks.skipped), (10, 10, 0), "{answer:?}");
        let wrong: Vec<_> = checks.wrong.iter().map(|wrong| (wrong.what, wrong.count)).collect();
        let expected: Vec<_> = what.map(|what| (what, 10)).into_iter().collect();
        assert_eq!(wrong, expected, "{answer:?}: {:?}", checks.wrong);
    }
}

#[test]
fn a_share_of_the_answers_is_checked_if_no_more_is_wanted() {
    let server = TestServer::start(TestCa::quick(Answer::Svid));
    let plan = server.plan(Document::JwtSvid, 400, milliseconds(100));
    let checked = |share| run(&Plan { check_share: share, ..plan.clone() }).checks;
    assert_eq!(checked(0.25).unwrap().checked, 10);
    assert!(checked(0.0).is_none());
}

/// Runs the program: exit code, standard output, standard error.
fn load(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mintmark-load"))
        .args(arguments)
        .env_remove("MINTMARK_SOCKET")
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

/// The same with a socket and something to ask.
fn ask(socket: &Path, more: &[&str]) -> (i32, String, String) {
    let socket = socket.to_str().expect("text");
    let asked = ["--socket", socket, "x509", "--spiffe-id", "spiffe://load.test/web"];
    load(&[&asked[..], &["--duration", "50ms"], more].concat())
}

#[test]
fn a_program_reads_the_report_on_standard_output_and_people_get_a_page() {
    let server = TestServer::start(TestCa::quick(Answer::Svid));
    let folder = TempDir::new().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, html) = (place("run.json"), place("run.html"));
    let more = ["--output", "json", "--json", &json, "--report", &html];
    let (code, out, told) = ask(&server.socket, &more);
    assert_eq!(code, 0, "{told}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["ok"], &report["loop"]), (&10.into(), &"open".into()));
    assert_eq!(report["checks"]["checked"], 10);
    assert_eq!(report["plan"]["rate"], 200);
    // The server is this process: its CPU time and memory are known by the socket's other end.
    assert!(report["windows"][0]["server"]["resident_bytes"].as_u64().unwrap() > 0, "{out}");
    assert!(report["calibration"]["before"]["sign_p256_us"].as_f64().unwrap() > 0.0);
    assert_eq!(fs::read_to_string(json).unwrap(), out);

    let page = fs::read_to_string(html).unwrap();
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("<svg"));
    // All that it needs is in it.
    for outside in ["http:", "https:", "src=", "@import", "url(", "<script", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn what_a_server_says_cannot_change_the_page() {
    let server = TestServer::start(TestCa::quick(Answer::Busy));
    let mut report = run(&server.plan(Document::X509Svid, 100, milliseconds(20)));
    report.measured.errors[0].first = "<script>alert(1)</script>&".to_owned();
    assert!(page(&report).contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;"));
}

#[test]
fn a_run_that_minted_nothing_fails_after_its_report() {
    let server = TestServer::start(TestCa::quick(Answer::Busy));
    let (code, out, told) = ask(&server.socket, &[]);
    assert_eq!(code, 1);
    assert!(out.contains("  UNAVAILABLE       10, the first: every signing slot"), "{out}");
    assert!(told.contains("nothing was minted"), "{told}");
}

#[test]
fn a_wrong_answer_fails_the_run_after_its_report() {
    let server = TestServer::start(TestCa::quick(Answer::WrongKey));
    let (code, out, told) = ask(&server.socket, &[]);
    assert_eq!(code, 5);
    assert!(out.contains("Checked             10 answers, 10 of them wrong"), "{out}");
    assert!(out.contains("has another key than its CSR"), "{out}");
    assert!(told.contains("10 answers are not what was asked for"), "{told}");
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let directory = TempDir::new().unwrap();
    let (code, out, told) = ask(&directory.path().join("none.sock"), &[]);
    assert_eq!((code, &*out), (4, ""));
    assert!(told.contains("none.sock: there is no such socket; start the server"), "{told}");

    let dead = directory.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let (code, _, told) = ask(&dead, &[]);
    assert_eq!(code, 4);
    assert!(told.contains("nobody listens there; start the server"), "{told}");
}

#[test]
fn a_server_that_refuses_the_client_is_told_at_once() {
    let server = TestServer::start(TestCa::quick(Answer::Refused));
    let (code, out, told) = ask(&server.socket, &[]);
    assert_eq!((code, &*out), (6, ""));
    assert!(told.contains("refuses this client: PERMISSION_DENIED: not for you"), "{told}");
}

#[test]
fn a_bad_plan_and_a_bad_flag_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("plan.toml");
    fs::write(&file, "[ask]\nspiffe_id = \"spiffe://a.test/b\"\n[load]\nrat = 1\n").unwrap();
    let file = file.to_str().unwrap();
    let (code, out, told) = load(&["run", file]);
    assert_eq!((code, &*out), (3, ""));
    assert!(told.ends_with("plan.toml:4: no plan has the key load.rat; did you mean load.rate?\n"));
    let (code, _, told) = load(&["run", "/nowhere/plan.toml"]);
    assert_eq!(code, 3);
    assert!(told.contains("cannot read the plan /nowhere/plan.toml"), "{told}");
    let (code, _, told) = load(&["jwt", "--spiffe-id", "spiffe://a.test/b", "--rate", "0"]);
    assert_eq!(code, 2);
    assert!(told.contains("--rate: load.rate is 0"), "{told}");
}
