//! A pipeline over a log, as a process has it, and what a client makes of its answers.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use ca_core::authority::{self, AuthoritySettings, CaSubject, KeyCreation};
use ca_core::clock::Clock;
use ca_core::csr::{Csr, VerifiedCsr};
use ca_core::der::{Reader, tag};
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::issuer::Lifetimes;
use ca_core::issuing::{DelegationSettings, IssuingMode, LongTtl};
use ca_core::key::{KeyName, KeyStore, KeyType, Priority, RsaScheme, Urgency};
use ca_core::log::{Caller, IssuanceLog};
use ca_core::mint::Mint;
use ca_core::pipeline::admission::{Bounds, Class};
use ca_core::pipeline::metrics::PipelineMetrics;
use ca_core::pipeline::{Minted, Order, Pipeline, Wish};
use ca_core::policy;
use ca_core::serial::RandomSerials;
use ca_core::store::Embedded;
use ca_core::token::TokenSettings;
use rcgen::{CertificateParams, KeyPair, SanType};

const ID: &str = "spiffe://faults.test/ns/payments/sa/api";
/// So long are the CA certificates valid; clocks of tests move within it.
pub(crate) const CA_TTL: Duration = Duration::from_secs(90 * 86_400);

/// Whose key signs leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    ByAuthority,
    ByIssuingKey,
}

/// A pipeline at work, and wishes for it.
pub(crate) struct Minting {
    pub(crate) pipeline: Arc<Pipeline>,
    trust_domain: TrustDomain,
    csr: VerifiedCsr,
}

impl Minting {
    /// New authorities with keys of that store, which is for the trust domain `faults.test`. The pipeline is
    /// served until it is closed.
    pub(crate) async fn start(
        keys: &dyn KeyStore,
        leaves: Leaves,
        log: Arc<dyn IssuanceLog>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let bounds =
            Bounds { memory: 64 << 20, wait: Duration::from_secs(30), caller_percent: 100 };
        Self::start_within(bounds, keys, leaves, log, clock).await
    }

    /// The same with other bounds of what waits.
    pub(crate) async fn start_within(
        bounds: Bounds,
        keys: &dyn KeyStore,
        leaves: Leaves,
        log: Arc<dyn IssuanceLog>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let settings = settings();
        let trust_domain = settings.trust_domain.clone();
        let (serials, now) = (RandomSerials::new(), clock.now());
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = Embedded::open(directory.path()).unwrap();
        let establishing = authority::establish(&settings, &store, keys, &serials, now, urgency());
        let authorities = establishing.await.unwrap();
        let mode = match leaves {
            Leaves::ByAuthority => IssuingMode::Direct,
            Leaves::ByIssuingKey => IssuingMode::Delegated(delegation()),
        };
        let mint = Arc::new(Mint::new(authorities, mode, Box::new(serials), log));
        if let Some(delegation) = mint.delegation() {
            let name = KeyName::parse("mintmark/faults.test/issuing/1").unwrap();
            let key = keys.create(&name, KeyType::EcP256).await.unwrap();
            mint.delegate(delegation, key, now, urgency()).await.unwrap();
        }
        let pipeline = Pipeline::new(mint, bounds, clock, PipelineMetrics::default()).unwrap();
        tokio::spawn(Arc::clone(&pipeline).run());
        Self { pipeline, trust_domain, csr: csr() }
    }

    pub(crate) fn certificate(&self) -> Wish {
        Wish::X509(policy::mint_x509(&self.trust_domain, &self.csr, 3_600).unwrap())
    }

    pub(crate) fn token(&self, audience: String) -> Wish {
        let id = SpiffeId::parse(ID).unwrap();
        Wish::Jwt(policy::mint_jwt(&self.trust_domain, id, vec![audience], 300).unwrap())
    }

    /// So many wishes for certificates, as one call.
    pub(crate) async fn certificates(
        &self,
        count: usize,
    ) -> Vec<Result<Minted, ca_core::mint::MintError>> {
        let wishes = (0..count).map(|_| self.certificate()).collect();
        self.pipeline.batch(wishes, &order()).await
    }
}

/// What a client can tell of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Answer {
    /// The serial number that stands in the certificate; `None` of a token.
    pub(crate) serial: Option<[u8; 20]>,
    /// SHA-256 of what was signed.
    pub(crate) digest: [u8; 32],
}

impl Answer {
    pub(crate) fn of(minted: &Minted) -> Self {
        match minted {
            Minted::X509(svid) => {
                let mut certificate =
                    Reader::new(&svid.leaf).enter(tag::SEQUENCE, "certificate").unwrap();
                let tbs = certificate.any("what is signed").unwrap();
                let mut fields = Reader::new(tbs.value);
                fields.expect(tag::context_constructed(0), "version").unwrap();
                let serial = fields.unsigned("serial number").unwrap().try_into().unwrap();
                Self { serial: Some(serial), digest: sha256(tbs.whole) }
            }
            Minted::Jwt(svid) => {
                let (signed, _) = svid.token().rsplit_once('.').unwrap();
                Self { serial: None, digest: sha256(signed.as_bytes()) }
            }
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}

pub(crate) fn order() -> Order {
    let caller = Caller::Local { uid: 7, pid: Some(8) };
    Order { caller, class: Class::New, deadline: Instant::now() + Duration::from_secs(60) }
}

pub(crate) fn urgency() -> Urgency {
    Urgency::within(Priority::New, Duration::from_secs(60), Instant::now())
}

pub(crate) fn settings() -> AuthoritySettings {
    AuthoritySettings {
        trust_domain: TrustDomain::parse("faults.test").unwrap(),
        ca_key_type: KeyType::EcP256,
        jwt_key_type: KeyType::EcP256,
        key_creation: KeyCreation::Auto,
        rsa_scheme: RsaScheme::Pkcs1,
        ca_ttl: CA_TTL,
        ca_subject: CaSubject::default(),
        lifetimes: Lifetimes::default(),
        tokens: TokenSettings::default(),
        refresh_hint: Duration::from_secs(300),
    }
}

pub(crate) fn delegation() -> DelegationSettings {
    DelegationSettings {
        key_type: KeyType::EcP256,
        life: Duration::from_secs(7 * 86_400),
        subject: CaSubject::default(),
        long_ttl: LongTtl::Authority,
    }
}

fn csr() -> VerifiedCsr {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    let request = parameters.serialize_request(&key).unwrap();
    Csr::parse(request.der()).unwrap().verify().unwrap()
}
