//! The in-process mint beside the bare cryptography that it cannot do without. One thread, CPU time.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use ca_core::authority::{self, Authorities, AuthoritySettings, CaSubject, KeyCreation};
use ca_core::clock::{Clock, SystemClock, Timestamp};
use ca_core::csr::{Csr, VerifiedCsr};
use ca_core::der;
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::issuer::Lifetimes;
use ca_core::issuing::IssuingMode;
use ca_core::key::{KeyStore, KeyType, Priority, RsaScheme, Urgency};
use ca_core::log::{Appending, Caller, Issuance, IssuanceLog};
use ca_core::mint::Mint;
use ca_core::policy;
use ca_core::serial::RandomSerials;
use ca_core::store::Embedded;
use ca_core::token::TokenSettings;
use futures_util::FutureExt as _;
use keymanager::SoftwareStore;
use rcgen::{CertificateParams, KeyPair, SanType};

use crate::paired::{Row, thread_cost};

pub(crate) const TRUST_DOMAIN: &str = "bench.test";
pub(crate) const ID: &str = "spiffe://bench.test/ns/payments/sa/api";
pub(crate) const CALLER: Caller = Caller::Local { uid: 0, pid: None };

/// Policy, template, checks, serial number, signature and record, for a key whose possession was proved.
pub(crate) fn verified_key() -> anyhow::Result<Row> {
    let bench = Bench::new()?;
    let csr = bench.verified()?;
    let length = bench.mint(&csr)?;
    Ok(thread_cost(
        "mint/verified-key/p256",
        "raw sign",
        || {
            black_box(bench.mint(&csr).expect("it minted before"));
        },
        raw_sign(length),
    ))
}

/// The same from the bytes of a CSR: parsing and proof of possession too.
pub(crate) fn csr() -> anyhow::Result<Row> {
    let bench = Bench::new()?;
    let length = bench.mint(&bench.verified()?)?;
    let raw_sign = raw_sign(length);
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let message = vec![0x5a; signed_part(&bench.csr)?];
    let signature = key.sign(&SystemRandom::new(), &message)?;
    let public_key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    Ok(thread_cost(
        "mint/csr/p256",
        "raw verify + raw sign",
        || {
            let verified = bench.verified().expect("it verified before");
            black_box(bench.mint(&verified).expect("it minted before"));
        },
        || {
            public_key.verify(&message, signature.as_ref()).expect("a fresh signature verifies");
            raw_sign();
        },
    ))
}

/// A JWT-SVID for one audience.
pub(crate) fn jwt() -> anyhow::Result<Row> {
    let bench = Bench::new()?;
    let length = bench.mint_jwt()?;
    Ok(thread_cost(
        "mint/jwt/es256",
        "raw sign",
        || {
            black_box(bench.mint_jwt().expect("it minted before"));
        },
        raw_sign(length),
    ))
}

struct Bench {
    mint: Mint,
    trust_domain: TrustDomain,
    csr: Vec<u8>,
    now: Timestamp,
}

impl Bench {
    fn new() -> anyhow::Result<Self> {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let now = SystemClock.now();
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let keys = SoftwareStore::in_memory(trust_domain.name());
        let authorities = runtime.block_on(authorities(&keys, now))?;
        let mint = Mint::new(
            authorities,
            IssuingMode::Direct,
            Box::new(RandomSerials::new()),
            Arc::new(Forgetful),
        );
        Ok(Self { mint, trust_domain, csr: csr_der()?, now })
    }

    fn verified(&self) -> anyhow::Result<VerifiedCsr> {
        Ok(Csr::parse(&self.csr)?.verify()?)
    }

    /// Mints and answers how many bytes were signed. A software key signs where it is called, so the
    /// future is ready at the first look.
    fn mint(&self, csr: &VerifiedCsr) -> anyhow::Result<usize> {
        let grant = policy::mint_x509(&self.trust_domain, csr, 3600)?;
        let svid = self
            .mint
            .x509(grant, CALLER, self.now, urgency())
            .now_or_never()
            .context("it waits")??;
        signed_part(&svid.leaf)
    }

    fn mint_jwt(&self) -> anyhow::Result<usize> {
        let id = SpiffeId::parse(ID)?;
        let grant = policy::mint_jwt(&self.trust_domain, id, vec!["ledger".to_owned()], 300)?;
        let svid = self
            .mint
            .jwt(grant, CALLER, self.now, urgency())
            .now_or_never()
            .context("it waits")??;
        svid.token().rfind('.').context("a JWS has three parts")
    }
}

/// The limit: the library's own signature over as many bytes.
pub(crate) fn raw_sign(length: usize) -> impl Fn() + Sync {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key is made");
    let random = SystemRandom::new();
    let message = vec![0x5a; length];
    move || {
        black_box(key.sign(&random, &message).expect("a software key signs"));
    }
}

/// Authorities of P-256 whose keys are in a store.
pub(crate) async fn authorities(
    keys: &dyn KeyStore,
    now: Timestamp,
) -> anyhow::Result<Authorities> {
    let settings = AuthoritySettings {
        trust_domain: TrustDomain::parse(TRUST_DOMAIN)?,
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
    let directory = tempfile::tempdir()?;
    let store = Embedded::open(directory.path())?;
    let serials = RandomSerials::new();
    Ok(authority::establish(&settings, &store, keys, &serials, now, urgency()).await?)
}

/// Takes every record and keeps none: the log's own cost is a row of its own, of the pipeline's.
pub(crate) struct Forgetful;

impl IssuanceLog for Forgetful {
    fn append(&self, issued: &[Issuance<'_>]) -> Appending {
        black_box(issued);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// How many bytes of a certificate or CSR its signature is over: the first part of the SEQUENCE.
pub(crate) fn signed_part(der: &[u8]) -> anyhow::Result<usize> {
    let mut parts = der::Reader::new(der).enter(der::tag::SEQUENCE, "signed document")?;
    Ok(parts.any("signed part")?.whole.len())
}

pub(crate) fn csr_der() -> anyhow::Result<Vec<u8>> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI(ID.try_into()?)];
    Ok(parameters.serialize_request(&key)?.der().to_vec())
}

pub(crate) fn urgency() -> Urgency {
    Urgency::within(Priority::New, Duration::from_secs(10), Instant::now())
}
