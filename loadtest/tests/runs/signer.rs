//! Runs against a signing listener in this process: its own code, with keys in memory.

use std::path::{Path, PathBuf};
use std::thread;

use mintmark_loadtest::plan::{Document, KeyForm, Plan, TargetPlan};
use mintmark_loadtest::shape::Shape;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::stage::{Ca, Stage, TRUST_DOMAIN, leaf};
use crate::{errors, load, milliseconds, plan, run};

/// A listener, on a runtime of its own.
struct Signer {
    runtime: Runtime,
    stage: Stage,
    credentials: PathBuf,
}

impl Signer {
    fn start() -> Self {
        let runtime = Runtime::new().expect("threads");
        let stage = runtime.block_on(Stage::start());
        let credentials = runtime.block_on(stage.enrolled());
        Self { runtime, stage, credentials }
    }

    fn plan(&self, document: Document, key_form: KeyForm, rate: u32, batch: u32) -> Plan {
        let target = TargetPlan::Signer {
            address: self.stage.address(),
            credentials: self.credentials.clone(),
            connections: 2,
            streams: 4,
            key_form,
            server_pid: None,
        };
        let duration = milliseconds(500);
        let shape = Shape::Constant { rate, batch, duration };
        let spiffe_id = format!("spiffe://{TRUST_DOMAIN}/web").parse().expect("an ID");
        Plan { shape, spiffe_id, ..plan(target, document, rate, duration) }
    }
}

#[test]
fn a_signer_is_asked_over_streams_and_every_answer_is_checked() {
    let signer = Signer::start();
    for (document, key_form) in [
        (Document::X509Svid, KeyForm::Spki),
        (Document::X509Svid, KeyForm::Csr),
        (Document::JwtSvid, KeyForm::Spki),
    ] {
        let before = signer.stage.log.records();
        let report = run(&signer.plan(document, key_form, 400, 10));
        assert_eq!((report.measured.sent, report.measured.ok), (200, 200), "{report}");
        let checks = report.checks.as_ref().expect("checks");
        assert_eq!((checks.checked, checks.wrong_answers()), (200, 0), "{report}");
        assert_eq!(signer.stage.log.records() - before, 200, "none is asked for twice");
    }
}

#[test]
fn a_closed_loop_asks_a_signer_too() {
    let signer = Signer::start();
    let plan = signer.plan(Document::X509Svid, KeyForm::Spki, 1, 1);
    let shape = Shape::Closed { callers: 3, duration: milliseconds(200) };
    let report = run(&Plan { shape, ..plan });
    assert!(report.measured.ok >= 3, "{report}");
    assert_eq!(report.measured.ok, report.measured.sent, "{report}");
}

#[test]
fn a_signers_words_on_items_are_counted_by_its_codes() {
    let signer = Signer::start();
    let reserved = format!("spiffe://{TRUST_DOMAIN}/mintmark/web").parse().expect("an ID");
    let plan = signer.plan(Document::X509Svid, KeyForm::Spki, 100, 5);
    let found = run(&Plan { spiffe_id: reserved, ..plan.clone() }).measured;
    assert_eq!((found.ok, errors(&found)), (0, vec![("REFUSED", 50)]));
    assert!(found.errors[0].first.contains("reserved"), "{:?}", found.errors);

    signer.stage.log.hold();
    let found = run(&Plan { answer_within: milliseconds(300), ..plan }).measured;
    signer.stage.log.release();
    // Its word may come a moment after the time that it was given, and then it is this side's.
    assert_eq!((found.ok, found.failures()), (0, 50), "{:?}", found.errors);
    assert!(found.errors.iter().all(|errors| ["LATE", "unanswered"].contains(&errors.code)));
}

#[test]
fn what_a_front_end_loses_that_is_withdrawn_is_counted_to_the_last_item() {
    let signer = Signer::start();
    let plan = signer.plan(Document::X509Svid, KeyForm::Spki, 1_000, 10);
    let (before, stage) = (signer.stage.log.records(), &signer.stage);
    let found = thread::scope(|scope| {
        scope.spawn(|| {
            while stage.log.records() == before {
                thread::sleep(milliseconds(5));
            }
            signer.runtime.block_on(stage.withdraw());
        });
        run(&plan).measured
    });
    assert_eq!((found.offered, found.dropped), (500, 0));
    assert!(found.ok > 0, "{found:?}");
    assert_eq!(errors(&found), [("broken_off", 500 - found.ok)], "{:?}", found.errors);
}

#[test]
fn streams_are_opened_again_when_a_signer_comes_back() {
    let mut signer = Signer::start();
    let plan = signer.plan(Document::X509Svid, KeyForm::Spki, 200, 1);
    let duration = milliseconds(3_000);
    let plan = Plan { shape: Shape::Constant { rate: 200, batch: 1, duration }, ..plan };
    let before = signer.stage.log.records();
    let found = thread::scope(|scope| {
        scope.spawn(|| {
            while signer.stage.log.records() == before {
                thread::sleep(milliseconds(5));
            }
            signer.runtime.block_on(async {
                signer.stage.stop().await;
                signer.stage.listen();
            });
        });
        run(&plan)
    });
    let measured = &found.measured;
    assert_eq!((measured.sent, measured.ok + measured.failures()), (600, 600), "{found}");
    let last = found.windows.iter().rfind(|window| window.offered > 0).expect("a window");
    assert!(last.ok > 0, "{found}");
}

/// Runs the program against a signer: exit code, standard output, standard error.
fn ask(address: &str, credentials: &Path, more: &[&str]) -> (i32, String, String) {
    let credentials = credentials.to_str().expect("text");
    let asked = ["x509", "--signer", address, "--credentials", credentials, "--duration", "50ms"];
    let id = format!("spiffe://{TRUST_DOMAIN}/web");
    load(&[&asked[..], &["--spiffe-id", &id], more].concat())
}

#[test]
fn the_program_asks_the_signer_that_it_is_told() {
    let signer = Signer::start();
    let more = ["--streams", "3", "--key-form", "csr", "--batch", "5", "--output", "json"];
    let (code, out, told) = ask(&signer.stage.address(), &signer.credentials, &more);
    assert_eq!(code, 0, "{told}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&report["ok"], &report["loop"]), (&10.into(), &"open".into()));
    let target = &report["plan"]["target"];
    assert_eq!((&target["kind"], &target["streams"]), (&"signer".into(), &3.into()));
    assert_eq!(target["key_form"], "csr");
}

#[test]
fn who_is_refused_and_who_is_not_there_are_told_apart() {
    let signer = Signer::start();
    let address = signer.stage.address();
    let (code, out, told) = ask(&address, &signer.stage.unknown().0, &[]);
    assert_eq!((code, &*out), (6, ""), "{told}");
    assert!(told.contains("does not let spiffe://client.test/mintmark/frontend/one in"), "{told}");

    let nothing = TempDir::new().expect("a folder");
    let (code, _, told) = ask(&address, nothing.path(), &[]);
    assert_eq!(code, 6, "{told}");
    assert!(told.contains("key.pem") && told.contains("mintmark frontend enroll"), "{told}");

    // Certified for the same ID, by a CA that is another one, as is what it trusts.
    Ca::new().folder(nothing.path(), leaf("spiffe://client.test/mintmark/frontend/one"));
    let (code, _, told) = ask(&address, nothing.path(), &[]);
    assert_eq!(code, 4, "{told}");
    assert!(told.contains("is not the signer spiffe://client.test/mintmark/signer"), "{told}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let (code, _, told) = ask(&address, &signer.credentials, &[]);
    assert_eq!(code, 4, "{told}");
    assert!(
        told.contains(&format!("cannot reach a signer at {address}: nobody listens")),
        "{told}"
    );

    let other = ["--set", "ask.spiffe_id=spiffe://other.test/web"];
    let (code, _, told) = ask(&signer.stage.address(), &signer.credentials, &other);
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("\"other.test\", and the signer's is \"client.test\""), "{told}");
}
