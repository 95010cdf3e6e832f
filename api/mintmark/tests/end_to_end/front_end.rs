//! Front ends of a signer that runs as it ships: each asks for SVIDs without a pause, and counts what becomes of them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use ca_core::clock::{Clock as _, SystemClock};
use ca_core::der::{Reader, tag};
use ca_core::key::PublicKey;
use mintmark_client::mint::{Answer, Batch, NotMinted, Svid};
use mintmark_client::{Credentials, Signer};
use mintmark_proto::signing::v1::{NamedX509, X509Item, x509_item};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::site::Site;

/// Items of a message, and how many may be unanswered.
const BATCH: usize = 16;
const UNANSWERED: usize = 256;
/// How long after an error it is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// A front end under way on a runtime of its own.
pub(crate) struct FrontEnd {
    runtime: Runtime,
    asking: JoinHandle<()>,
    told: Arc<Told>,
}

/// What has become of its items. Each is in one of the counts once it has ended.
#[derive(Default)]
pub(crate) struct Told {
    stop: AtomicBool,
    sent: AtomicU64,
    minted: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
    /// SHA-256 of each `TBSCertificate` that came.
    digests: Mutex<Vec<[u8; 32]>>,
    /// What it was told instead of being let in.
    refused: Mutex<Option<String>>,
}

impl FrontEnd {
    /// Enrols it, and has it ask.
    pub(crate) fn start(site: &Site, address: &str, name: &str) -> Self {
        let enroll = ["frontend", "enroll", name, "--path-scope", "/", "--allow-named"];
        site.mintmark(&[&enroll[..], &["--write", name]].concat()).succeeded();
        let credentials = Credentials::load(&site.path(name), SystemClock.now()).unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let told = Arc::new(Told::default());
        let asking = ask(address.to_owned(), Arc::new(credentials), Arc::clone(&told));
        let asking = runtime.spawn(asking);
        Self { runtime, asking, told }
    }

    /// How many SVIDs it has.
    pub(crate) fn minted(&self) -> u64 {
        self.told.minted.load(Ordering::SeqCst)
    }

    /// Waits until it has more than that.
    #[track_caller]
    pub(crate) fn gets_more_than(&self, minted: u64) {
        let limit = Instant::now() + Duration::from_secs(60);
        while self.minted() <= minted {
            assert!(Instant::now() < limit, "it gets nothing: {:?}", self.refused());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many items had no answer because their stream ended.
    pub(crate) fn lost(&self) -> u64 {
        self.told.lost.load(Ordering::SeqCst)
    }

    /// Why it was not let in when it came last.
    pub(crate) fn refused(&self) -> Option<String> {
        self.told.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, and gives the digests of all that it has. Every item that it sent has been answered, or has an error.
    pub(crate) fn stop(self) -> HashSet<[u8; 32]> {
        self.told.stop.store(true, Ordering::SeqCst);
        let ended = self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(30), self.asking).await });
        ended.expect("it ends when its answers have come").unwrap();
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let Told { sent, minted, failed, lost, .. } = &*self.told;
        assert_eq!(of(sent), of(minted) + of(failed) + of(lost), "each item ends in one way");
        let digests = self.told.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let all: HashSet<_> = digests.iter().copied().collect();
        assert_eq!(all.len(), digests.len(), "no SVID comes twice");
        all
    }
}

/// Until it is stopped, through whatever happens to the signer.
async fn ask(address: String, credentials: Arc<Credentials>, told: Arc<Told>) {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let spki = PublicKey::from_ec_point(key.public_key().as_ref()).unwrap().spki().to_vec();
    let named = NamedX509 { path: "/shop/web".to_owned(), ..NamedX509::default() };
    let item = X509Item {
        key: Some(x509_item::Key::Spki(spki.into())),
        subject: Some(x509_item::Subject::Named(named)),
        ..X509Item::default()
    };
    while !told.stop.load(Ordering::SeqCst) {
        match Signer::connect(&address, Arc::clone(&credentials), Arc::new(SystemClock)).await {
            Ok(signer) => over_one_stream(&signer, &item, &told).await,
            Err(error) => {
                let text = Some(error.to_string());
                *told.refused.lock().unwrap_or_else(PoisonError::into_inner) = text;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn over_one_stream(signer: &Signer, item: &X509Item, told: &Told) {
    let Ok((sender, mut answers)) = signer.mint::<()>("", UNANSWERED).await else { return };
    let sending = async move {
        while !told.stop.load(Ordering::SeqCst) {
            let x509 = vec![((), item.clone()); BATCH];
            if sender.send(Batch { x509, ..Batch::default() }).await.is_err() {
                return;
            }
            told.sent.fetch_add(BATCH as u64, Ordering::SeqCst);
        }
    };
    let reading = async {
        while let Some(some) = answers.next().await {
            some.into_iter().for_each(|answer| told.takes(answer));
        }
    };
    tokio::join!(sending, reading);
}

impl Told {
    fn takes(&self, answer: Answer<()>) {
        let count = match answer.outcome {
            Ok(Svid::X509 { leaf, .. }) => {
                let mut parts = Reader::new(&leaf).enter(tag::SEQUENCE, "certificate").unwrap();
                let tbs = parts.any("TBSCertificate").unwrap().whole;
                let digest = digest(&SHA256, tbs).as_ref().try_into().unwrap();
                self.digests.lock().unwrap_or_else(PoisonError::into_inner).push(digest);
                &self.minted
            }
            Ok(other) => panic!("a certificate was asked for: {other:?}"),
            Err(NotMinted::Lost(_)) => &self.lost,
            Err(NotMinted::Failed(_) | NotMinted::Empty) => &self.failed,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}
