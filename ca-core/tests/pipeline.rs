//! The pipeline as its callers see it: each wish has its own answer, in the order of the wishes, whatever becomes
//! of the others.

#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

mod minting;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ca_core::authority::{self, Authorities};
use ca_core::clock::{Clock, SystemClock, Timestamp};
use ca_core::csr::{Csr, CsrError, VerifiedKey};
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::issuer::{IssueError, X509Svid};
use ca_core::issuing::{DelegationSettings, IssuingMode, LongTtl};
use ca_core::key::{
    KeyName, KeyStore as _, KeyType, PublicKey, SignError, Signature, SignatureAlgorithm,
    SigningKey, ToBeSigned, Urgency,
};
use ca_core::log::{Appending, Caller, Issuance, IssuanceLog, IssuanceRecord};
use ca_core::mint::{Mint, MintError};
use ca_core::name::{Attribute, Name};
use ca_core::pipeline::admission::{Bounds, Class, MOST_ITEMS, Refused};
use ca_core::pipeline::metrics::PipelineMetrics;
use ca_core::pipeline::{Asked, Minted, Order, Pipeline, Wish};
use ca_core::policy::{self, Refusal};
use ca_core::serial::{RandomSerials, Serial, SerialError, SerialSource};
use ca_core::store::Embedded;
use ca_core::token::TokenError;
use keymanager::SoftwareStore;
use minting::{Answer, CA_TTL, delegation, order, settings, urgency};
use rcgen::{CertificateParams, KeyPair, SanType};

const DOMAIN: &str = "faults.test";
const HOUR: i32 = 3_600;
/// Longer than the week that an issuing key has.
const LONG: i32 = 30 * 24 * HOUR;

/// As a stream of many uses it: nothing waits for what another key signs, or another class.
#[tokio::test]
async fn wishes_that_are_submitted_are_answered_in_pieces_each_with_its_tag() {
    let world =
        World::start(Setup { long_ttl: Some(LongTtl::Authority), ..Setup::default() }).await;
    let deadline = order().deadline;
    let asked = (0..90_usize).map(|number| {
        let wish = match number % 3 {
            0 => world.leaf(&number.to_string(), HOUR),
            1 => world.token(&number.to_string()),
            _ => world.leaf(&number.to_string(), LONG),
        };
        let class = if number < 45 { Class::New } else { Class::Bulk };
        Asked { tag: number, wish, class, deadline }
    });
    let pieces = world.pipeline.submit(asked.collect(), &order().caller);
    assert_eq!(pieces.len(), 6, "three keys, two classes");
    world.serve();
    let mut tags = BTreeSet::new();
    // The last first: no piece needs another one to be looked at.
    for piece in pieces.into_iter().rev() {
        assert_eq!(piece.items(), 15);
        for (number, answer) in piece.answers(std::future::pending()).await {
            assert_eq!(subject(&answer.unwrap()), id(&number.to_string()));
            tags.insert(number);
        }
    }
    assert_eq!(tags.len(), 90);
}

/// A grant cannot be had for a token that policy refuses, so among the bad wishes are none of those; see
/// [`what_policy_refuses_never_becomes_a_wish`].
#[tokio::test]
async fn in_a_batch_with_every_kind_of_bad_wish_each_has_its_own_answer_and_the_good_are_minted() {
    let world = World::start(Setup { long_ttl: Some(LongTtl::Refuse), ..Setup::default() }).await;
    world.serve();
    let bad = bad_wishes();
    let (mut wishes, mut expected) = (Vec::new(), Vec::new());
    for number in 0..64_usize {
        let name = format!("web-{number}");
        let (wish, wanted) = match number % 4 {
            0 => (world.leaf(&name, HOUR), Wanted::Certificate(name)),
            1 => (csr_wish(request(&[&id(&name)], &[]), HOUR), Wanted::Certificate(name)),
            2 => (world.token(&name), Wanted::Token(name)),
            _ => {
                let bad = &bad[number / 4 % bad.len()];
                (csr_wish(bad.der.clone(), bad.ttl), Wanted::Error(bad.name, bad.is))
            }
        };
        wishes.push(wish);
        expected.push(wanted);
    }
    assert!(bad.len() <= 64 / 4, "each kind is there");
    let answers = world.pipeline.batch(wishes, &order()).await;
    assert_eq!(answers.len(), 64);
    let mut released = BTreeSet::new();
    for (answer, wanted) in answers.iter().zip(expected) {
        wanted.check(&world, answer);
        released.extend(answer.iter().map(|minted| Answer::of(minted).digest));
    }
    let logged = world.log.digests();
    assert_eq!(logged.len(), 48, "what is good is logged once, and nothing else");
    assert_eq!(logged.into_iter().collect::<BTreeSet<_>>(), released);
}

#[tokio::test]
async fn under_an_ended_jwt_authority_tokens_fail_and_certificates_beside_them_do_not() {
    let made = now().minus(2 * CA_TTL);
    let ended = World::start(Setup { made, ..Setup::default() }).await;
    let jwt = Some(Arc::clone(&ended.pipeline.mint().authorities().jwt));
    let world = World::start(Setup { jwt, ..Setup::default() }).await;
    world.serve();
    let wishes = (0..16).map(|number| match number % 2 {
        0 => world.leaf(&number.to_string(), HOUR),
        _ => world.token(&number.to_string()),
    });
    let answers = world.pipeline.batch(wishes.collect(), &order()).await;
    for pair in answers.chunks(2) {
        let [Ok(Minted::X509(svid)), Err(MintError::Jwt(TokenError::Ended { .. }))] = pair else {
            panic!("{pair:?}")
        };
        world.stranger_accepts(svid);
    }
    assert_eq!((answers.len(), world.log.digests().len()), (16, 8));
}

#[test]
fn what_policy_refuses_never_becomes_a_wish() {
    let trust_domain = TrustDomain::parse(DOMAIN).unwrap();
    let token = |id: &str, audience: &[&str], ttl| {
        let audience = audience.iter().map(|&text| text.to_owned()).collect();
        policy::mint_jwt(&trust_domain, SpiffeId::parse(id).unwrap(), audience, ttl).unwrap_err()
    };
    let good = id("job");
    assert_eq!(token(&good, &[], 60), Refusal::AudienceMissing);
    assert_eq!(token(&good, &["a"], -1), Refusal::Ttl(-1));
    assert_eq!(token(&good, &[&"a".repeat(4097)], 60), Refusal::AudienceTooLong(4097));
    for bad in ["spiffe://other.test/job", "spiffe://faults.test", "spiffe://faults.test/spire/job"]
    {
        assert!(matches!(token(bad, &["a"], 60), Refusal::Id(_)), "{bad}");
    }
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_wishes_whatever_key_signs_them() {
    let world =
        World::start(Setup { long_ttl: Some(LongTtl::Authority), ..Setup::default() }).await;
    world.serve();
    let wishes = (0..64_usize).map(|number| match number % 5 {
        0 | 1 => world.leaf(&number.to_string(), HOUR),
        2 => world.token(&number.to_string()),
        3 => world.leaf(&number.to_string(), LONG),
        _ => world.ca(),
    });
    let answers = world.pipeline.batch(wishes.collect(), &order()).await;
    assert_eq!(answers.len(), 64);
    for (number, answer) in answers.iter().enumerate() {
        let minted = answer.as_ref().unwrap();
        let named = match number % 5 {
            4 => format!("spiffe://{DOMAIN}"),
            _ => id(&number.to_string()),
        };
        assert_eq!(subject(minted), named);
        if let Minted::X509(svid) = minted {
            let own = number % 5 < 2;
            assert_eq!(svid.intermediates.len(), usize::from(own), "{number}: who signed it");
            if number % 5 != 4 {
                world.stranger_accepts(svid);
            }
        }
    }
    let delegation = world.pipeline.mint().delegation().unwrap();
    assert_eq!(delegation.signed_by_authority(), 13, "long lives are counted");
}

#[tokio::test]
async fn a_panic_while_one_batch_is_prepared_breaks_off_that_batch_alone() {
    let serials = Serials::default();
    serials.0.panics.store(true, Ordering::Relaxed);
    let world = World::start(Setup { serials: serials.clone(), ..Setup::default() }).await;
    world.serve();
    let wishes = |count: usize| (0..count).map(|at| world.leaf(&at.to_string(), HOUR)).collect();
    let answers = world.pipeline.batch(wishes(20), &order()).await;
    assert_eq!(answers.len(), 20);
    assert!(answers.iter().all(|answer| matches!(answer, Err(MintError::BrokenOff))));
    assert!(world.log.digests().is_empty());
    let answers = world.pipeline.batch(wishes(20), &order()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(world.log.digests().len(), 20);
}

#[tokio::test]
async fn a_panic_while_one_wish_is_signed_elsewhere_breaks_off_that_wish_alone() {
    let world =
        World::start(Setup { long_ttl: Some(LongTtl::Authority), ..Setup::default() }).await;
    let key = Arc::new(Breaking { key: key().await, panics: AtomicBool::new(false) });
    let mint = world.pipeline.mint();
    mint.delegate(mint.delegation().unwrap(), key.clone(), now(), urgency()).await.unwrap();
    world.serve();
    key.panics.store(true, Ordering::Relaxed);
    let wishes = (0..8).map(|at| world.leaf(&at.to_string(), HOUR)).collect();
    let order = order();
    let minting = world.pipeline.batch(wishes, &order);
    let answers = tokio::time::timeout(Duration::from_secs(10), minting).await.unwrap();
    let broken = answers.iter().filter(|answer| matches!(answer, Err(MintError::BrokenOff)));
    assert_eq!(broken.count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7, "{answers:?}");
    world.pipeline.one(world.token("after"), &order).await.unwrap();
}

#[tokio::test]
async fn closing_answers_what_was_let_in_and_refuses_the_rest() {
    let world = World::start(Setup::default()).await;
    let (leaf, token) = (world.ask(world.leaf("a", HOUR)), world.ask(world.token("b")));
    let [mut leaf, mut token] = [leaf, token].map(Box::pin);
    assert!(poll(leaf.as_mut()).is_pending() && poll(token.as_mut()).is_pending());
    world.pipeline.close();
    for wish in [world.leaf("c", HOUR), world.token("d")] {
        let refused = world.pipeline.one(wish, &order()).await;
        assert!(matches!(refused, Err(MintError::NotAdmitted(Refused::Closed))), "{refused:?}");
    }
    // It ends, since all is served.
    Arc::clone(&world.pipeline).run().await;
    assert!(leaf.await.is_ok() && token.await.is_ok());
}

#[tokio::test]
async fn nothing_is_prepared_for_callers_that_left() {
    let serials = Serials::default();
    let world = World::start(Setup { serials: serials.clone(), ..Setup::default() }).await;
    let before = serials.0.drawn.load(Ordering::Relaxed);
    let wishes = |count: usize| (0..count).map(|at| world.leaf(&at.to_string(), HOUR)).collect();
    let orders = order();
    let mut leaving: Vec<_> =
        (0..500).map(|_| Box::pin(world.pipeline.batch(wishes(MOST_ITEMS), &orders))).collect();
    assert!(leaving.iter_mut().all(|asking| poll(asking.as_mut()).is_pending()));
    let mut staying = Box::pin(world.pipeline.batch(wishes(3), &orders));
    assert!(poll(staying.as_mut()).is_pending());
    drop(leaving);
    world.serve();
    assert!(staying.await.iter().all(Result::is_ok));
    assert_eq!(serials.0.drawn.load(Ordering::Relaxed), before + 3);
    assert_eq!(world.log.digests().len(), 3);
}

#[tokio::test]
async fn what_waits_takes_the_memory_that_it_may_and_no_more() {
    const EACH: usize = 16 << 10;
    // Each of the three queues has a third.
    let memory = 4 << 20;
    let bounds = Bounds { memory: 3 * memory, ..ROOMY };
    let world = World::start(Setup { bounds, ..Setup::default() }).await;
    // Until the queue is served, nothing leaves it.
    let mut asking = Vec::new();
    let ask = |caller| {
        let wish = csr_wish(vec![0; EACH].into(), HOUR);
        Box::pin(world.ask_as(Caller::Local { uid: caller, pid: None }, wish))
    };
    let refused = loop {
        let mut one = ask(asking.len() as u32);
        match poll(one.as_mut()) {
            Poll::Pending => asking.push(one),
            Poll::Ready(answer) => break answer.unwrap_err(),
        }
    };
    let MintError::NotAdmitted(Refused::Full(hint)) = refused else { panic!("{refused:?}") };
    assert!(!hint.is_zero(), "nobody is told to ask again at once");
    let held = asking.len() * EACH;
    assert!(held <= memory && held + memory / 20 >= memory, "{held} of {memory} bytes");
    // Its places are free as soon as it has left, though nothing is served.
    drop(asking.split_off(asking.len() / 2));
    tokio::time::sleep(Duration::from_millis(20)).await;
    for _ in 0..asking.len() {
        let mut one = ask(asking.len() as u32);
        assert!(poll(one.as_mut()).is_pending());
        asking.push(one);
    }
    assert!(asking.len() * EACH <= memory);
}

/// A CSR that is not to become a certificate, and why.
struct Bad {
    name: &'static str,
    der: Bytes,
    ttl: i32,
    is: fn(&MintError) -> bool,
}

fn bad_wishes() -> Vec<Bad> {
    let bad = |name, der, is| Bad { name, der, ttl: HOUR, is };
    let good = || request(&[&id("bad")], &[]);
    let asks = |uri: &str| request(&[uri], &[]);
    vec![
        bad("no DER", Bytes::from_static(b"no DER"), |error| {
            matches!(error, MintError::Csr(CsrError::Malformed(_)))
        }),
        bad("cut short", good().slice(..good().len() / 2), |error| {
            matches!(error, MintError::Csr(CsrError::Malformed(_)))
        }),
        bad("a signature over other bytes", forged(good()), |error| {
            matches!(error, MintError::Csr(CsrError::Signature))
        }),
        bad("a key on an unknown curve", on_another_curve(good()), |error| {
            matches!(error, MintError::Csr(CsrError::Key(_)))
        }),
        bad(
            "an algorithm that does not go with the key",
            Bytes::from_static(include_bytes!("corpus/csr/openssl-p256-sha384.der")),
            |error| matches!(error, MintError::Csr(CsrError::Algorithm { .. })),
        ),
        bad("no URI", request(&[], &["web.faults.test"]), |error| {
            *error == MintError::Refused(Refusal::UriMissing)
        }),
        bad("two URIs", request(&[&id("a"), &id("b")], &[]), |error| {
            *error == MintError::Refused(Refusal::UriNotSingle(2))
        }),
        bad("another trust domain", asks("spiffe://other.test/web"), is_uri),
        bad("the trust domain itself", asks("spiffe://faults.test"), is_uri),
        bad("a path that is ours", asks("spiffe://faults.test/mintmark/signer"), is_uri),
        bad("a path of SPIRE's", asks("spiffe://faults.test/spire/server"), is_uri),
        bad("no SPIFFE ID", asks("https://faults.test/web"), is_uri),
        bad("a bad DNS name", request(&[&id("web")], &["-a.test"]), |error| {
            matches!(error, MintError::Refused(Refusal::Dns(_)))
        }),
        Bad {
            ttl: -5,
            ..bad("a negative life", good(), |error| *error == MintError::Refused(Refusal::Ttl(-5)))
        },
        Bad {
            ttl: LONG,
            ..bad("a life that is too long", good(), |error| {
                matches!(error, MintError::X509(IssueError::LongTtl { .. }))
            })
        },
    ]
}

fn is_uri(error: &MintError) -> bool {
    matches!(error, MintError::Refused(Refusal::Uri(_)))
}

/// A CSR for these names.
fn request(uris: &[&str], dns_names: &[&str]) -> Bytes {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let uris = uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap()));
    let dns_names = dns_names.iter().map(|&name| SanType::DnsName(name.try_into().unwrap()));
    parameters.subject_alt_names = uris.chain(dns_names).collect();
    parameters.serialize_request(&key).unwrap().der().to_vec().into()
}

/// With another path than was signed.
fn forged(der: Bytes) -> Bytes {
    replaced(der, b"faults.test/bad", b"faults.test/mad")
}

/// With the last number of P-256's name, 1.2.840.10045.3.1.7, another.
fn on_another_curve(der: Bytes) -> Bytes {
    replaced(der, &[0xce, 0x3d, 3, 1, 7], &[0xce, 0x3d, 3, 1, 5])
}

fn replaced(der: Bytes, old: &[u8], new: &[u8]) -> Bytes {
    let mut der = der.to_vec();
    let at = der.windows(old.len()).position(|bytes| bytes == old).unwrap();
    der[at..at + new.len()].copy_from_slice(new);
    der.into()
}

fn csr_wish(der: Bytes, ttl_seconds: i32) -> Wish {
    Wish::Csr { der, ttl_seconds }
}

/// What is to become of a wish.
enum Wanted {
    Certificate(String),
    Token(String),
    Error(&'static str, fn(&MintError) -> bool),
}

impl Wanted {
    fn check(&self, world: &World, answer: &Result<Minted, MintError>) {
        match (self, answer) {
            (Self::Certificate(name), Ok(minted @ Minted::X509(svid))) => {
                assert_eq!(subject(minted), id(name));
                world.stranger_accepts(svid);
            }
            (Self::Token(name), Ok(minted @ Minted::Jwt(svid))) => {
                assert_eq!(subject(minted), id(name));
                world.verifies(svid.token());
            }
            (Self::Error(what, is), Err(error)) => assert!(is(error), "{what}: {error:?}"),
            (Self::Error(what, _), Ok(minted)) => panic!("{what} was minted: {minted:?}"),
            (Self::Certificate(name) | Self::Token(name), other) => panic!("{name}: {other:?}"),
        }
    }
}

fn id(name: &str) -> String {
    format!("spiffe://{DOMAIN}/{name}")
}

/// Whom it names.
fn subject(minted: &Minted) -> String {
    match minted {
        Minted::X509(svid) => svid.id.as_str().to_owned(),
        Minted::Jwt(svid) => {
            let claims = svid.token().split('.').nth(1).unwrap();
            let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
            let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
            claims["sub"].as_str().unwrap().to_owned()
        }
    }
}

fn now() -> Timestamp {
    SystemClock.now()
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What a test says about its world; the rest is usual.
struct Setup {
    /// `None`: the authority's own key signs leaves.
    long_ttl: Option<LongTtl>,
    serials: Serials,
    bounds: Bounds,
    /// When the authorities are made.
    made: Timestamp,
    /// Instead of its own.
    jwt: Option<Arc<ca_core::token::TokenIssuer>>,
}

const ROOMY: Bounds =
    Bounds { memory: 512 << 20, wait: Duration::from_secs(30), caller_percent: 100 };

impl Default for Setup {
    fn default() -> Self {
        let (long_ttl, serials, jwt) = (None, Serials::default(), None);
        Self { long_ttl, serials, bounds: ROOMY, made: now(), jwt }
    }
}

/// A pipeline over software keys. It is not served at first, so that a test can fill its queues.
struct World {
    pipeline: Arc<Pipeline>,
    log: Arc<Kept>,
    trust_domain: TrustDomain,
    /// A key that may become a CA's.
    verified: VerifiedKey,
}

impl World {
    async fn start(setup: Setup) -> Self {
        let keys = SoftwareStore::in_memory(DOMAIN);
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path()).unwrap();
        let (settings, serials) = (settings(), RandomSerials::new());
        let establishing =
            authority::establish(&settings, &store, &keys, &serials, setup.made, urgency());
        let made = establishing.await.unwrap();
        let jwt = setup.jwt.unwrap_or_else(|| Arc::clone(&made.jwt));
        let authorities = Authorities { jwt, ..made };
        let mode = setup.long_ttl.map_or(IssuingMode::Direct, |long_ttl| {
            IssuingMode::Delegated(DelegationSettings { long_ttl, ..delegation() })
        });
        // What is logged before the test begins is not the test's.
        let log = Arc::new(Kept::default());
        let mint = Mint::new(authorities, mode, Box::new(setup.serials), log.clone());
        if let Some(delegation) = mint.delegation() {
            mint.delegate(delegation, key().await, now(), urgency()).await.unwrap();
        }
        log.records.lock().unwrap().clear();
        let (clock, metrics) = (Arc::new(SystemClock), PipelineMetrics::default());
        let pipeline = Pipeline::new(Arc::new(mint), setup.bounds, clock, metrics).unwrap();
        let verified = VerifiedKey::of_ours(&*key().await, urgency()).await.unwrap();
        Self { pipeline, log, trust_domain: settings.trust_domain, verified }
    }

    /// Has the queues served from now on.
    fn serve(&self) {
        tokio::spawn(Arc::clone(&self.pipeline).run());
    }

    /// A wish of one caller, by itself.
    fn ask(&self, wish: Wish) -> impl Future<Output = Result<Minted, MintError>> + use<> {
        self.ask_as(order().caller, wish)
    }

    fn ask_as(
        &self,
        caller: Caller,
        wish: Wish,
    ) -> impl Future<Output = Result<Minted, MintError>> + use<> {
        let (pipeline, order) = (Arc::clone(&self.pipeline), Order { caller, ..order() });
        async move { pipeline.one(wish, &order).await }
    }

    fn leaf(&self, name: &str, ttl: i32) -> Wish {
        let csr = Csr::parse(&request(&[&id(name)], &[])).unwrap().verify().unwrap();
        Wish::X509(policy::mint_x509(&self.trust_domain, &csr, ttl).unwrap())
    }

    fn token(&self, name: &str) -> Wish {
        let (id, audience) = (SpiffeId::parse(&id(name)).unwrap(), vec!["somebody".to_owned()]);
        Wish::Jwt(policy::mint_jwt(&self.trust_domain, id, audience, 300).unwrap())
    }

    /// A wish for the certificate of a CA.
    fn ca(&self) -> Wish {
        let subject = Name::from_attributes(&[(Attribute::CommonName, "below")]).unwrap();
        let (domain, key) = (&self.trust_domain, self.verified.clone());
        Wish::X509(policy::issuing_key(domain, key, subject, Duration::from_secs(3_600)))
    }

    /// `rustls-webpki` as the stranger: the chain verifies to the bundle.
    fn stranger_accepts(&self, svid: &X509Svid) {
        let der = |bytes: &[u8]| rustls_pki_types::CertificateDer::from(bytes.to_vec());
        let roots = &self.pipeline.mint().bundle().x509_authorities;
        let roots: Vec<_> = roots.iter().map(|root| der(root.certificate.der())).collect();
        let anchors = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap());
        let anchors: Vec<_> = anchors.collect();
        let leaf = der(&svid.leaf);
        let between: Vec<_> = svid.intermediates.iter().map(|each| der(each)).collect();
        let time = Duration::from_secs(u64::try_from(now().unix()).unwrap());
        webpki::EndEntityCert::try_from(&leaf)
            .unwrap()
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &between,
                rustls_pki_types::UnixTime::since_unix_epoch(time),
                webpki::KeyUsage::client_auth(),
                None,
                None,
            )
            .unwrap();
    }

    /// The bundle's key verifies a token.
    fn verifies(&self, token: &str) {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
        let signature = Signature::from_fixed(algorithm, &signature).unwrap();
        let authority = &self.pipeline.mint().bundle().jwt_authorities[0];
        assert!(authority.key.verifies(signed.as_bytes(), &signature));
    }
}

async fn key() -> Arc<dyn SigningKey> {
    let name = KeyName::parse("mintmark/faults.test/issuing/1").unwrap();
    SoftwareStore::in_memory(DOMAIN).create(&name, KeyType::EcP256).await.unwrap()
}

/// Keeps every record.
#[derive(Default)]
struct Kept {
    records: Mutex<Vec<IssuanceRecord>>,
}

impl Kept {
    fn digests(&self) -> Vec<[u8; 32]> {
        self.records.lock().unwrap().iter().map(|record| record.digest).collect()
    }
}

impl IssuanceLog for Kept {
    fn append(&self, issued: &[Issuance<'_>]) -> Appending {
        self.records.lock().unwrap().extend(issued.iter().map(Issuance::to_record));
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Serial numbers that are counted, and may panic once.
#[derive(Clone, Default)]
struct Serials(Arc<Drawn>);

#[derive(Default)]
struct Drawn {
    serials: RandomSerials,
    drawn: AtomicUsize,
    panics: AtomicBool,
}

impl SerialSource for Serials {
    fn next(&self) -> Result<Serial, SerialError> {
        self.0.drawn.fetch_add(1, Ordering::Relaxed);
        assert!(!self.0.panics.swap(false, Ordering::Relaxed), "as the test wants it");
        self.0.serials.next()
    }
}

/// A key somewhere else, whose client panics once.
#[derive(Debug)]
struct Breaking {
    key: Arc<dyn SigningKey>,
    panics: AtomicBool,
}

#[async_trait]
impl SigningKey for Breaking {
    async fn sign(&self, message: ToBeSigned, urgency: Urgency) -> Result<Signature, SignError> {
        assert!(!self.panics.swap(false, Ordering::Relaxed), "as the test wants it");
        self.key.sign(message, urgency).await
    }

    fn algorithms(&self) -> &[SignatureAlgorithm] {
        self.key.algorithms()
    }

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }
}
