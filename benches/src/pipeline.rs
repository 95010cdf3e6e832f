//! Many mints at once, through the whole pipeline and into the log, beside the bare cryptography on as many
//! threads. CPU time of all threads of the process, so that nothing is hidden on another one.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use ca_core::authority::{Authorities, CaSubject};
use ca_core::clock::{Clock, SystemClock};
use ca_core::csr::{Csr, VerifiedCsr};
use ca_core::id::{SpiffeId, TrustDomain};
use ca_core::issuer::X509Svid;
use ca_core::issuing::{DelegationSettings, IssuingMode, LongTtl};
use ca_core::key::{KeyName, KeyStore, KeyType};
use ca_core::log::local::{LocalLog, LogSettings, RealDisk};
use ca_core::log::{Durability, IssuanceLog, WriterId};
use ca_core::mint::Mint;
use ca_core::pipeline::admission::{Bounds, Class};
use ca_core::pipeline::metrics::PipelineMetrics;
use ca_core::pipeline::{Minted, Order, Pipeline, Wish};
use ca_core::policy;
use ca_core::serial::RandomSerials;
use keymanager::{SoftwareStore, Verification};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::mint::{
    CALLER, Forgetful, ID, TRUST_DOMAIN, authorities, csr_der, raw_sign, signed_part, urgency,
};
use crate::paired::{Row, medians, process_cost, wall_rate};
use crate::signer::token::{Device, Setup};
use crate::signer::{Proxied, SLOTS, percentile};

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
        |count| bench.run(count, Callers::verified_wish),
        |count| on_all_threads(count, &raw),
    ))
}

/// From the bytes of a CSR.
pub(crate) fn csr() -> anyhow::Result<Row> {
    let bench = Bench::new(Log::On)?;
    let sign = raw_sign(bench.certificate_length()?);
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let message = vec![0x5a; signed_part(&bench.callers.csr)?];
    let signature = key.sign(&SystemRandom::new(), &message)?;
    let public_key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let raw = || {
        public_key.verify(&message, signature.as_ref()).expect("a fresh signature verifies");
        sign();
    };
    Ok(process_cost(
        "pipeline/csr/p256/log-on",
        "raw verify + raw sign, all threads",
        |count| bench.run(count, Callers::csr_wish),
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
        |count| bench.run(count, Callers::jwt_wish),
        |count| on_all_threads(count, &raw),
    ))
}

/// What the log costs.
pub(crate) fn log_on_against_off() -> anyhow::Result<Row> {
    let (on, off) = (Bench::new(Log::On)?, Bench::new(Log::Off)?);
    Ok(process_cost(
        "pipeline/log-on-against-off",
        "log off",
        |count| on.run(count, Callers::verified_wish),
        |count| off.run(count, Callers::verified_wish),
    ))
}

/// The authority's own key in SoftHSM signs every leaf, on two sessions.
pub(crate) fn direct_softhsm() -> anyhow::Result<Row> {
    let setup = Setup {
        device: Device::SoftHsm,
        key_type: KeyType::EcP256,
        sessions: 2,
        verification: Verification::Off,
        runtime_threads: 1,
    };
    let opened = setup.open()?;
    let mut bare = opened.bare(2)?;
    let bench = Bench::direct(opened.store(), direct_runtime()?)?;
    Ok(wall_rate(
        "direct/softhsm/p256",
        "bare C_Sign loop, 2 threads",
        |slice| bench.run_for(CALLERS, slice),
        |slice| bare.sign_for(slice),
    ))
}

/// The same on a device as hardware is.
pub(crate) fn direct_proxy() -> anyhow::Result<Row> {
    let mut proxied = Proxied::open(Verification::Off)?;
    let bench = Bench::direct(proxied.opened.store(), direct_runtime()?)?;
    Ok(wall_rate(
        "direct/proxy-2ms-30-slots/p256",
        "bare C_Sign loop, 30 threads",
        |slice| bench.run_for(CALLERS, slice),
        |slice| proxied.bare.sign_for(slice),
    ))
}

/// With each signature verified, as is the default, beside a loop that verifies too.
pub(crate) fn direct_proxy_verified() -> anyhow::Result<Row> {
    let proxied = Proxied::open(Verification::Always)?;
    let bench = Bench::direct(proxied.opened.store(), direct_runtime()?)?;
    let Proxied { opened, bare, _device } = proxied;
    let mut bare = bare.verifying(opened.key.public_key(), KeyType::EcP256)?;
    Ok(wall_rate(
        "direct/proxy-2ms-30-slots/p256/verified",
        "bare C_Sign loop, 30 threads, verifying",
        |slice| bench.run_for(CALLERS, slice),
        |slice| bare.sign_for(slice),
    ))
}

/// How long one request for 500 takes there. A signer that asks for one signature after another needs a second.
pub(crate) fn direct_proxy_one_request() -> anyhow::Result<Row> {
    const KEYS: usize = 500;
    let mut proxied = Proxied::open(Verification::Always)?;
    let bench = Bench::direct(proxied.opened.store(), direct_runtime()?)?;
    Ok(medians(
        "direct/proxy-2ms-30-slots/p256/500-in-one-request",
        "500 signatures of a bare C_Sign loop, 30 threads",
        || {
            let start = Instant::now();
            bench.batch(KEYS);
            start.elapsed()
        },
        || {
            let start = Instant::now();
            proxied.bare.sign(KEYS as u64);
            start.elapsed()
        },
    ))
}

/// The slowest in a hundred there, from leaving the queue to the answer: as many callers as are let through at
/// once, so that nobody waits for a turn.
pub(crate) fn direct_proxy_p99() -> anyhow::Result<Row> {
    let mut proxied = Proxied::open(Verification::Always)?;
    let bench = Bench::direct(proxied.opened.store(), direct_runtime()?)?;
    let slice = Duration::from_millis(500);
    Ok(medians(
        "direct/proxy-2ms-30-slots/p256/p99-after-the-queue",
        "bare C_Sign loop, 30 threads, p99",
        || percentile(bench.times(SLOTS + SLOTS / 8 + 1, slice), 99),
        || percentile(proxied.bare.times(slice), 99),
    ))
}

/// The server's kind of runtime, on the cores that the device's threads leave.
fn direct_runtime() -> anyhow::Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.worker_threads(1).enable_time().build()?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    On,
    Off,
}

/// A pipeline with its log, and who asks it.
pub(crate) struct Bench {
    runtime: Runtime,
    callers: Arc<Callers>,
}

/// What every caller has.
struct Callers {
    pipeline: Arc<Pipeline>,
    trust_domain: TrustDomain,
    csr: bytes::Bytes,
    verified: VerifiedCsr,
}

impl Bench {
    /// Leaves are signed by an issuing key of this process, as by default.
    pub(crate) fn new(log: Log) -> anyhow::Result<Self> {
        let now = SystemClock.now();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let keys = SoftwareStore::in_memory(TRUST_DOMAIN);
        let authorities = runtime.block_on(authorities(&keys, now))?;
        let delegation = DelegationSettings {
            key_type: KeyType::EcP256,
            life: Duration::from_secs(6 * 3600),
            subject: CaSubject::default(),
            long_ttl: LongTtl::Authority,
        };
        let mode = IssuingMode::Delegated(delegation);
        let mint = mint(authorities, mode, log)?;
        runtime.block_on(async {
            let delegation = mint.delegation().context("it is delegated")?;
            let name = KeyName::parse(&format!("mintmark/{TRUST_DOMAIN}/issuing/1"))?;
            let key = keys.create(&name, KeyType::EcP256).await?;
            mint.delegate(delegation, key, now, urgency()).await?;
            anyhow::Ok(())
        })?;
        Self::over(mint, runtime)
    }

    /// Leaves are signed by the authority's own key, wherever that is.
    fn direct(keys: &dyn KeyStore, runtime: Runtime) -> anyhow::Result<Self> {
        let authorities = runtime.block_on(authorities(keys, SystemClock.now()))?;
        Self::over(mint(authorities, IssuingMode::Direct, Log::On)?, runtime)
    }

    fn over(mint: Arc<Mint>, runtime: Runtime) -> anyhow::Result<Self> {
        let csr = csr_der()?;
        let verified = Csr::parse(&csr)?.verify()?;
        let bounds = Bounds { memory: 64 << 20, wait: Duration::from_secs(5), caller_percent: 100 };
        let clock = Arc::new(SystemClock);
        let pipeline = Pipeline::new(mint, bounds, clock, PipelineMetrics::default())?;
        runtime.spawn(Arc::clone(&pipeline).run());
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let csr = csr.into();
        let callers = Arc::new(Callers { pipeline, trust_domain, csr, verified });
        Ok(Self { runtime, callers })
    }

    fn one(&self, wish: Wish) -> anyhow::Result<Minted> {
        Ok(self.runtime.block_on(self.callers.pipeline.one(wish, &order()))?)
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn pipeline(&self) -> &Arc<Pipeline> {
        &self.callers.pipeline
    }

    pub(crate) fn csr(&self) -> &bytes::Bytes {
        &self.callers.csr
    }

    pub(crate) fn certificate(&self) -> anyhow::Result<X509Svid> {
        match self.one(self.callers.verified_wish())? {
            Minted::X509(svid) => Ok(svid),
            Minted::Jwt(_) => anyhow::bail!("a certificate was asked for"),
        }
    }

    pub(crate) fn token(&self) -> anyhow::Result<String> {
        match self.one(self.callers.jwt_wish())? {
            Minted::Jwt(svid) => Ok(svid.token().to_owned()),
            Minted::X509(_) => anyhow::bail!("a token was asked for"),
        }
    }

    fn certificate_length(&self) -> anyhow::Result<usize> {
        signed_part(&self.certificate()?.leaf)
    }

    fn token_length(&self) -> anyhow::Result<usize> {
        self.token()?.rfind('.').context("a JWS has three parts")
    }

    /// Mints so many in one request.
    fn batch(&self, count: usize) {
        self.runtime.block_on(self.callers.batch(count, Callers::verified_wish));
    }

    /// Has batches minted for that long, and answers how many were.
    fn run_for(&self, callers: usize, slice: Duration) -> u64 {
        let end = Instant::now() + slice;
        let done = self.each(callers, |caller| async move {
            let mut done = 0;
            while Instant::now() < end {
                caller.batch(BATCH, Callers::verified_wish).await;
                done += BATCH as u64;
            }
            done
        });
        done.into_iter().sum()
    }

    /// Has one after another minted for that long by each caller, and answers how long each took.
    fn times(&self, callers: usize, slice: Duration) -> Vec<Duration> {
        let end = Instant::now() + slice;
        let times = self.each(callers, |caller| async move {
            let (mut times, mut before) = (Vec::new(), Instant::now());
            while before < end {
                let minted = caller.pipeline.one(caller.verified_wish(), &order()).await;
                black_box(minted.expect("it minted before"));
                let now = Instant::now();
                times.push(now - before);
                before = now;
            }
            times
        });
        times.concat()
    }

    /// Has so many minted by callers that each send one batch after another.
    fn run(&self, count: u64, wish: fn(&Callers) -> Wish) {
        let begun = Arc::new(AtomicU64::new(0));
        self.each(CALLERS, |caller| {
            let begun = Arc::clone(&begun);
            async move {
                while begun.fetch_add(BATCH as u64, Ordering::Relaxed) < count {
                    caller.batch(BATCH, wish).await;
                }
            }
        });
    }

    /// Callers side by side, each a task as a connection of a server is.
    fn each<F>(&self, callers: usize, caller: impl Fn(Arc<Callers>) -> F) -> Vec<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let spawn = |_| self.runtime.spawn(caller(Arc::clone(&self.callers)));
        let callers: Vec<_> = (0..callers).map(spawn).collect();
        let done = self.runtime.block_on(futures_util::future::join_all(callers));
        done.into_iter().map(|done| done.expect("no caller panics")).collect()
    }
}

impl Callers {
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

    /// Mints so many in one request.
    async fn batch(&self, count: usize, wish: fn(&Self) -> Wish) {
        let wishes = (0..count).map(|_| wish(self)).collect();
        for minted in self.pipeline.batch(wishes, &order()).await {
            black_box(minted.expect("it minted before"));
        }
    }
}

/// A mint with a log of its own.
fn mint(authorities: Authorities, mode: IssuingMode, log: Log) -> anyhow::Result<Arc<Mint>> {
    let log: Arc<dyn IssuanceLog> = match log {
        Log::Off => Arc::new(Forgetful),
        Log::On => {
            let settings = LogSettings { directory: place()?, durability: Durability::Durable };
            let writer = WriterId::new(1).context("one is a number")?;
            let now = SystemClock.now();
            Arc::new(LocalLog::open(&settings, Arc::new(RealDisk), writer, &[], now)?)
        }
    };
    Ok(Arc::new(Mint::new(authorities, mode, Box::new(RandomSerials::new()), log)))
}

/// A folder for a log on this disk. None is removed before the [end](remove_logs): a file system that has just
/// forgotten thousands of files makes new ones slower, and every row after the first would pay for that.
fn place() -> anyhow::Result<PathBuf> {
    let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir_in(".")?;
    let place = directory.path().join("log");
    logs.push(directory);
    Ok(place)
}

static LOGS: Mutex<Vec<TempDir>> = Mutex::new(Vec::new());

/// Removes the logs that rows have written.
pub(crate) fn remove_logs() {
    LOGS.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn order() -> Order {
    let deadline = Instant::now() + Duration::from_secs(10);
    Order { caller: CALLER, class: Class::New, deadline }
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
