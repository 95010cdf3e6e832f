//! What holds of any bytes that a front end sends to the signing listener, behind TLS: HTTP/2, gRPC and all calls.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ca_core::authority::{self, AuthoritySettings, CaSubject, KeyCreation};
use ca_core::clock::{Clock, Timestamp};
use ca_core::frontend::{
    Certified, Enrolment, Existing, FrontEndName, FrontEnds, PathScope, Terms, Wanted,
};
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::issuer::Lifetimes;
use ca_core::issuing::IssuingMode;
use ca_core::key::{KeyType, Priority, RsaScheme, Urgency};
use ca_core::log::{Appending, Issuance, IssuanceLog};
use ca_core::mint::Mint;
use ca_core::pipeline::Pipeline;
use ca_core::pipeline::admission::Bounds;
use ca_core::pipeline::metrics::PipelineMetrics;
use ca_core::serial::{RandomSerials, Serial};
use ca_core::store::Embedded;
use ca_core::token::TokenSettings;
use keymanager::SoftwareStore;
use mintmark_signer::signing::testing::BehindTls;
use mintmark_signer::signing::{Limits, by_records};
use mintmark_signer::{ServiceMetrics, SigningServices};
use mintmark_transport::Peer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// Frames that carry headers: of a call that is answered.
const HEADERS: u8 = 1;
/// No connection without a peer that says something lasts longer: it is asked whether it is still there.
const LONGEST: Duration = Duration::from_secs(120);
/// As long as the busiest machine needs for that, whose waiting is skipped.
const LONGEST_WORK: Duration = Duration::from_secs(20);

/// Sends `data` and nothing more; says whether a call was answered. Panics if a promise is broken.
pub(crate) fn holds(data: &[u8]) -> bool {
    static LISTENER: OnceLock<(BehindTls, Peer)> = OnceLock::new();
    let (listener, peer) = LISTENER.get_or_init(|| runtime(false).block_on(listener()));
    let begun = Instant::now();
    let answered = runtime(true).block_on(async {
        let (ours, mut theirs) = duplex(64 * 1024);
        let talking = async {
            let (mut reader, mut writer) = tokio::io::split(&mut theirs);
            let mut received = Vec::new();
            let sending = async {
                // It may end before all is sent.
                let _ = writer.write_all(data).await;
            };
            let (_, ()) = tokio::join!(reader.read_to_end(&mut received), sending);
            received
        };
        let serving = listener.serve(ours, peer);
        let both = async { tokio::join!(serving, talking) };
        let (reason, received) =
            tokio::time::timeout(LONGEST, both).await.expect("every connection ends");
        let shown = reason.unwrap_or_default();
        assert!(shown.len() < 2048 && !shown.contains(char::is_control), "{shown}");
        has_headers(&received)
    });
    assert!(begun.elapsed() < LONGEST_WORK, "{:?}", begun.elapsed());
    answered
}

/// On this thread. Time passes as soon as nothing else can happen, if it is `paused`.
fn runtime(paused: bool) -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(paused).build().expect("a runtime")
}

/// Whether there are headers among the frames that the server has sent (RFC 9113 §4.1).
fn has_headers(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        if *kind == HEADERS {
            return true;
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        frames = rest.get(length..).unwrap_or_default();
    }
    false
}

/// In January of 2027.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix(1_800_000_000)
    }
}

struct Nowhere;

impl IssuanceLog for Nowhere {
    fn append(&self, _: &[Issuance<'_>]) -> Appending {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A listener with a front end that may ask for nothing: items are read and refused, and nothing is minted.
async fn listener() -> (BehindTls, Peer) {
    let trust_domain = TrustDomain::parse("td.test").expect("a name");
    let mint = mint(&trust_domain).await;
    let bounds = Bounds { memory: 1 << 20, wait: Duration::from_secs(1), caller_percent: 100 };
    let clock = Arc::new(Stopped);
    let pipeline = Pipeline::new(Arc::new(mint), bounds, clock.clone(), PipelineMetrics::default());
    let pipeline = pipeline.expect("threads");
    let front_ends = front_ends().await;
    let (_, bundle) = watch::channel(Arc::clone(pipeline.mint().bundle()));
    let services = SigningServices {
        gate: by_records(front_ends, pipeline.mint(), clock.clone()),
        pipeline,
        clock,
        bundle,
        metrics: ServiceMetrics::default(),
        limits: Limits::default(),
    };
    let peer = Peer {
        id: SpiffeId::parse("spiffe://td.test/mintmark/frontend/one").expect("an ID"),
        key_fingerprint: [1; 32],
        not_before: Stopped.now(),
        not_after: Stopped.now().plus(Duration::from_secs(86_400)),
        serial: "01".to_owned(),
    };
    (BehindTls::of(services), peer)
}

async fn mint(trust_domain: &TrustDomain) -> Mint {
    let settings = AuthoritySettings {
        trust_domain: trust_domain.clone(),
        ca_key_type: KeyType::EcP256,
        jwt_key_type: KeyType::EcP256,
        key_creation: KeyCreation::Auto,
        rsa_scheme: RsaScheme::Pkcs1,
        ca_ttl: Duration::from_secs(86_400),
        ca_subject: CaSubject::default(),
        lifetimes: Lifetimes::default(),
        tokens: TokenSettings::default(),
        refresh_hint: Duration::from_secs(300),
    };
    let keys = SoftwareStore::in_memory(trust_domain.name());
    let record = Embedded::in_memory().expect("a store");
    let serials = RandomSerials::new();
    let urgency = Urgency::within(Priority::New, LONGEST, Instant::now());
    let made = authority::establish(&settings, &record, &keys, &serials, Stopped.now(), urgency);
    let authorities = made.await.expect("authorities");
    Mint::new(authorities, IssuingMode::Direct, Box::new(serials), Arc::new(Nowhere))
}

async fn front_ends() -> Arc<FrontEnds> {
    let store = Arc::new(Embedded::in_memory().expect("a store"));
    let front_ends = FrontEnds::load(store).await.expect("no records");
    let path_scopes = vec![PathScope::parse("/").expect("a scope")];
    let wanted = Wanted { path_scopes, ..Wanted::default() };
    let enrolment = Enrolment {
        name: FrontEndName::parse("one").expect("a name"),
        terms: Terms::new(wanted).expect("terms that can be had"),
        existing: Existing::default(),
    };
    let key = Certified {
        fingerprint: [1; 32],
        serial: Serial::from_bytes([1; 20]),
        not_after: Timestamp::MAX,
    };
    front_ends.enroll(&enrolment, &key, Stopped.now()).await.expect("a record");
    front_ends
}
