//! Many mints at once, through the whole pipeline and into the log, beside the bare cryptography on as many
//! threads. CPU time of all threads of the process, so that nothing is hidden on another one.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use ca_core::authority::CaSubject;
use ca_core::clock::{Clock, SystemClock};
use ca_core::csr::{Csr, VerifiedCsr};
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::issuing::{DelegationSettings, IssuingMode, LongTtl};
use ca_core::key::KeyStore as _;
use ca_core::key::{KeyName, KeyType};
use ca_core::log::local::{LocalLog, LogSettings, RealDisk};
use ca_core::log::{Durability, IssuanceLog, WriterId};
use ca_core::mint::Mint;
use ca_core::pipeline::admission::{Bounds, Class};
use ca_core::pipeline::metrics::PipelineMetrics;
use ca_core::pipeline::{Minted, Order, Pipeline, Wish};
use ca_core::policy;
use ca_core::serial::RandomSerials;
use keymanager::SoftwareStore;
use tokio::runtime::Runtime;

use crate::mint::{
    CALLER, Forgetful, ID, TRUST_DOMAIN, authorities, csr_der, signed_part, urgency,
};
use crate::paired::{Row, process_cost};

/// Wishes of one call.
const BATCH: usize = 64;
/// Callers at once.
const CALLERS: usize = 16;

/// From a key whose possession was proved, policy included.
pub(crate) fn verified_key() -> anyhow::Result<Row> {
    let bench = Bench::new(Log::On)?;
    let length = bench.certificate_length()?;
    let raw = raw_sign(length);
    Ok(process_cost(
        "pipeline/verified-key/p256/log-on",
        "raw sign, all threads",
        |count| bench.run(count, Bench::verified_wish),
        |count| on_all_threads(count, &raw),
    ))
}

/// From the bytes of a CSR.
pub(crate) fn csr() -> anyhow::Result<Row> {
    let bench = Bench::new(Log::On)?;
    let sign = raw_sign(bench.certificate_length()?);
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let message = vec![0x5a; signed_part(&bench.csr)?];
    let signature = key.sign(&SystemRandom::new(), &message)?;
    let public_key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let raw = || {
        public_key.verify(&message, signature.as_ref()).expect("a fresh signature verifies");
        sign();
    };
    Ok(process_cost(
        "pipeline/csr/p256/log-on",
        "raw verify + raw sign, all threads",
        |count| bench.run(count, Bench::csr_wish),
        |count| on_all_threads(count, &raw),
    ))
}

/// A JWT-SVID for one audience.
pub(crate) fn jwt() -> anyhow::Result<Row> {
    let bench = Bench::new(Log::On)?;
    let raw = raw_sign(bench.token_length()?);
    Ok(process_cost(
        "pipeline/jwt/es256/log-on",
        "raw sign, all threads",
        |count| bench.run(count, Bench::jwt_wish),
        |count| on_all_threads(count, &raw),
    ))
}

/// What the log costs.
pub(crate) fn log_on_against_off() -> anyhow::Result<Row> {
    let (on, off) = (Bench::new(Log::On)?, Bench::new(Log::Off)?);
    Ok(process_cost(
        "pipeline/log-on-against-off",
        "log off",
        |count| on.run(count, Bench::verified_wish),
        |count| off.run(count, Bench::verified_wish),
    ))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Log {
    On,
    Off,
}

struct Bench {
    runtime: Runtime,
    pipeline: Arc<Pipeline>,
    trust_domain: TrustDomain,
    csr: bytes::Bytes,
    verified: VerifiedCsr,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(log: Log) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in(".")?;
        let now = SystemClock.now();
        let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
        let keys = SoftwareStore::in_memory(TRUST_DOMAIN);
        let authorities = runtime.block_on(authorities(&keys, now))?;
        let delegation = DelegationSettings {
            key_type: KeyType::EcP256,
            life: Duration::from_secs(6 * 3600),
            subject: CaSubject::default(),
            long_ttl: LongTtl::Authority,
        };
        let log: Arc<dyn IssuanceLog> = match log {
            Log::Off => Arc::new(Forgetful),
            Log::On => {
                let directory = directory.path().to_owned();
                let settings = LogSettings { directory, durability: Durability::Durable };
                let writer = WriterId::new(1).context("one is a number")?;
                Arc::new(LocalLog::open(&settings, Arc::new(RealDisk), writer, &[], now)?)
            }
        };
        let mode = IssuingMode::Delegated(delegation);
        let mint = Arc::new(Mint::new(authorities, mode, Box::new(RandomSerials::new()), log));
        runtime.block_on(async {
            let delegation = mint.delegation().context("it is delegated")?;
            let name = KeyName::parse(&format!("mintmark/{TRUST_DOMAIN}/issuing/1"))?;
            let key = keys.create(&name, KeyType::EcP256).await?;
            mint.delegate(delegation, key, now, urgency()).await?;
            anyhow::Ok(())
        })?;
        let csr = csr_der()?;
        let verified = Csr::parse(&csr)?.verify()?;
        let bounds = Bounds { memory: 64 << 20, wait: Duration::from_secs(5), caller_percent: 100 };
        let clock = Arc::new(SystemClock);
        let pipeline = Pipeline::new(mint, bounds, clock, PipelineMetrics::default())?;
        runtime.spawn(Arc::clone(&pipeline).run());
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let csr = csr.into();
        Ok(Self { runtime, pipeline, trust_domain, csr, verified, _directory: directory })
    }

    fn verified_wish(&self) -> Wish {
        let grant = policy::mint_x509(&self.trust_domain, &self.verified, 3600);
        Wish::X509(grant.expect("it was granted before"))
    }

    fn csr_wish(&self) -> Wish {
        Wish::Csr { der: self.csr.clone(), ttl_seconds: 3600 }
    }

    fn jwt_wish(&self) -> Wish {
        let id = SpiffeId::parse(ID).expect("an id");
        let grant = policy::mint_jwt(&self.trust_domain, id, vec!["ledger".to_owned()], 300);
        Wish::Jwt(grant.expect("it was granted before"))
    }

    fn one(&self, wish: Wish) -> anyhow::Result<Minted> {
        Ok(self.runtime.block_on(self.pipeline.one(wish, &order()))?)
    }

    fn certificate_length(&self) -> anyhow::Result<usize> {
        match self.one(self.verified_wish())? {
            Minted::X509(svid) => signed_part(&svid.chain[0]),
            Minted::Jwt(_) => anyhow::bail!("a certificate was asked for"),
        }
    }

    fn token_length(&self) -> anyhow::Result<usize> {
        match self.one(self.jwt_wish())? {
            Minted::Jwt(svid) => svid.token().rfind('.').context("a JWS has three parts"),
            Minted::X509(_) => anyhow::bail!("a token was asked for"),
        }
    }

    /// Has so many minted by callers that each send one batch after another.
    fn run(&self, count: u64, wish: fn(&Self) -> Wish) {
        let begun = AtomicU64::new(0);
        let caller = async || {
            while begun.fetch_add(BATCH as u64, Ordering::Relaxed) < count {
                let wishes = (0..BATCH).map(|_| wish(self)).collect();
                for minted in self.pipeline.batch(wishes, &order()).await {
                    black_box(minted.expect("it minted before"));
                }
            }
        };
        let callers = (0..CALLERS).map(|_| caller());
        self.runtime.block_on(futures_util::future::join_all(callers));
    }
}

fn order() -> Order {
    let deadline = Instant::now() + Duration::from_secs(10);
    Order { caller: CALLER, class: Class::New, deadline }
}

/// The limit: the library's own signature over as many bytes.
fn raw_sign(length: usize) -> impl Fn() + Sync {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key is made");
    let random = SystemRandom::new();
    let message = vec![0x5a; length];
    move || {
        black_box(key.sign(&random, &message).expect("a software key signs"));
    }
}

/// So many operations, in batches, on as many threads as the pipeline has.
fn on_all_threads(count: u64, operation: &(impl Fn() + Sync)) {
    let begun = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while begun.fetch_add(BATCH as u64, Ordering::Relaxed) < count {
                    (0..BATCH).for_each(|_| operation());
                }
            });
        }
    });
}
