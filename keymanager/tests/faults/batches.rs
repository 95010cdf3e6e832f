//! A pipeline whose authority is a key in the token: faults in the middle of a batch. Each wish has its own
//! outcome, and what is released is in the log and verifies.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use ca_core::clock::{Clock, SystemClock};
use ca_core::der::{Reader, tag};
use ca_core::issuer::{IssueError, X509Svid};
use ca_core::key::{SignError, Signature, SignatureAlgorithm};
use ca_core::log::entry::Entry;
use ca_core::log::local::{LocalLog, LogSettings, RealDisk};
use ca_core::log::records::Segment;
use ca_core::log::{Document, Durability, WriterId};
use ca_core::mint::MintError;
use ca_core::pipeline::Minted;
use keymanager::Pkcs11Store;
use pkcs11_proxy::cryptoki_sys::*;
use pkcs11_proxy::{Effect, Function, When};

use crate::bench::{Bench, DOMAIN};
use crate::minting::{Answer, Leaves, Minting};

const BATCH: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn two_refusals_in_the_middle_of_a_batch_are_those_of_two_wishes() {
    let world = World::new().await;
    for call in [10, 33] {
        world.bench.fault(Function::Sign, When::Nth(call), Effect::Fail(CKR_DATA_LEN_RANGE));
    }
    let outcomes = world.batch().await;
    let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(refused.len(), 2);
    for error in refused {
        assert!(error.to_string().contains("CKR_DATA_LEN_RANGE"), "{error}");
    }
    world.check(&outcomes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_and_a_wrong_signature_in_the_middle_of_a_batch_cost_no_wish() {
    let world = World::new().await;
    let lost = Effect::Fail(CKR_SESSION_HANDLE_INVALID);
    world.bench.fault(Function::SignInit, When::Nth(20), lost);
    world.bench.fault(Function::Sign, When::Nth(40), Effect::Corrupt);
    let outcomes = world.batch().await;
    world.check(&outcomes);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), BATCH);
    assert_eq!(world.bench.figures.sum("wrong_signatures_total", &[]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_device_that_goes_wrong_in_the_middle_of_a_batch_what_was_right_is_released() {
    let world = World::new().await;
    let from_now_on = When::From { call: 30, times: 1_000 };
    world.bench.fault(Function::Sign, from_now_on, Effect::Corrupt);
    let outcomes = world.batch().await;
    world.check(&outcomes);
    let released = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(released, 29);
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        let is = matches!(error, MintError::X509(IssueError::Sign(SignError::Wrong { .. })));
        assert!(is, "{error:?}");
    }
    world.bench.device.clear_rules();
    let again = world.batch().await;
    assert!(again.iter().all(Result::is_ok), "and it goes on when the device is well");
    world.check(&again);
}

type Outcome = Result<Minted, MintError>;

/// A pipeline that signs leaves with the authority's key, which is in the token.
struct World {
    minting: Minting,
    directory: tempfile::TempDir,
    bench: Bench,
}

impl World {
    async fn new() -> Self {
        let bench = Bench::new();
        let store = Pkcs11Store::open(bench.settings(), DOMAIN).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock);
        let log =
            LogSettings { directory: directory.path().to_owned(), durability: Durability::Durable };
        let writer = WriterId::new(1).unwrap();
        let log = LocalLog::open(&log, Arc::new(RealDisk), writer, &[], clock.now()).unwrap();
        let minting = Minting::start(&store, Leaves::ByAuthority, Arc::new(log), clock).await;
        Self { minting, directory, bench }
    }

    async fn batch(&self) -> Vec<Outcome> {
        let outcomes = self.minting.certificates(BATCH).await;
        assert_eq!(outcomes.len(), BATCH, "each wish has its outcome");
        outcomes
    }

    /// That all that was released verifies, and is in the log by now.
    fn check(&self, outcomes: &[Outcome]) {
        let logged = logged(self.directory.path());
        for minted in outcomes.iter().flatten() {
            let Minted::X509(svid) = minted else { panic!("a certificate") };
            assert!(self.verifies(svid));
            assert!(logged.contains(&Answer::of(minted)), "it is in the log");
        }
    }

    fn verifies(&self, svid: &X509Svid) -> bool {
        let mut parts = Reader::new(&svid.leaf).enter(tag::SEQUENCE, "certificate").unwrap();
        let signed = parts.any("what is signed").unwrap().whole;
        parts.any("algorithm").unwrap();
        let signature = parts.bit_string("signature").unwrap();
        let signature = Signature::from_x509(SignatureAlgorithm::EcdsaP256Sha256, signature);
        let authority = &self.minting.pipeline.mint().authorities().x509;
        authority.certificate().key().verifies(signed, &signature.unwrap())
    }
}

/// What is in the log that is being written.
fn logged(directory: &Path) -> HashSet<Answer> {
    let mut logged = HashSet::new();
    for segment in Segment::list(directory).unwrap() {
        let content = segment.read().unwrap();
        let blocks = segment.blocks(&content).map(Result::unwrap);
        for entry in blocks.flat_map(|(_, block)| block.entries().collect::<Vec<_>>()) {
            if let Entry::Issuance(record) = Entry::decode(entry).unwrap()
                && let Document::X509 { serial, .. } = record.document
            {
                logged.insert(Answer { serial: Some(*serial.bytes()), digest: record.digest });
            }
        }
    }
    logged
}
