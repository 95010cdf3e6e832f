//! Keys in a KMS beside what the KMS gives: its quota, or a plain HTTP loop for the same request.

mod plain;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ca_core::key::{KeyName, KeyStore as _, KeyType, Priority, SigningKey, ToBeSigned, Urgency};
use keymanager::metrics::StoreMetrics;
use keymanager::{Oversight, Pace, RemoteStore, SecretSource, Verification, aws_kms, transit};
use peers::fake_kms::{FakeKms, Knobs, Latency, Quota, REGION};
use peers::openbao::OpenBao;
use tokio::runtime::Runtime;

use crate::files::private;
use crate::paired::{Row, against, wall_rate};
use plain::Plain;

const TRUST_DOMAIN: &str = "bench.test";
/// The quota of an AWS account for ECC signatures, per second.
const QUOTA: f64 = 1000.0;
/// Callers at once: more than the quota times the latency, so that there is always somebody.
const CALLERS: usize = 64;

/// A KMS that takes 10 ms and throttles at 1,000 requests a second, beside its quota.
pub(crate) fn aws() -> anyhow::Result<Row> {
    let kms = Kms::start()?;
    let (rates, errors) = kms.rates(2, 10);
    errors.check()?;
    let name = "signer/aws-fake-10ms-1000-per-second/p256";
    Ok(against(name, "op/s", "the quota", QUOTA, &rates))
}

/// The same KMS, ten seconds after a quota that was halved was doubled again.
pub(crate) fn aws_recovered() -> anyhow::Result<Row> {
    let kms = Kms::start()?;
    let (_, before) = kms.rates(2, 2);
    kms.service.change(|knobs| knobs.quota = Some(Quota::per_second(QUOTA / 2.0)));
    let (_, halved) = kms.rates(0, 10);
    kms.service.change(|knobs| knobs.quota = Some(Quota::per_second(QUOTA)));
    let (rates, doubled) = kms.rates(10, 5);
    for errors in [before, halved, doubled] {
        errors.check()?;
    }
    let name = "signer/aws-fake-10ms-1000-per-second/p256/halved-and-doubled";
    Ok(against(name, "op/s", "the quota", QUOTA, &rates))
}

/// A transit engine, beside a plain loop that sends it the same request over as many connections.
pub(crate) fn transit() -> anyhow::Result<Row> {
    const CONNECTIONS: usize = 16;
    let server = OpenBao::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let token = private(&folder.path().join("token"), server.root_token().expose())?;
    let defaults = transit::Settings::of_server(&server.address(), SecretSource::File(token));
    let pace = Pace { max_in_flight: CONNECTIONS, queue_wait: LONG, ..defaults.pace };
    let settings = transit::Settings { pace, ..defaults };
    let (_store, key) = runtime.block_on(async {
        let store = transit::open(settings, TRUST_DOMAIN, oversight()).await?;
        let key = store.create(&name()?, KeyType::EcP256).await?;
        anyhow::Ok((store, key))
    })?;
    let mut plain = Plain::connect(&server, "mintmark.bench.test.x509.1", CONNECTIONS)?;
    Ok(wall_rate(
        "signer/transit/p256",
        &format!("plain HTTP loop, {CONNECTIONS} connections"),
        |slice| sign_for(&runtime, &key, 2 * CONNECTIONS, slice).0,
        |slice| plain.sign_for(slice),
    ))
}

const LONG: Duration = Duration::from_secs(10);

/// The stand-in of AWS KMS with a key.
struct Kms {
    service: FakeKms,
    runtime: Runtime,
    key: Arc<dyn SigningKey>,
    _store: RemoteStore,
    _folder: tempfile::TempDir,
}

impl Kms {
    fn start() -> anyhow::Result<Self> {
        let service = FakeKms::start(Knobs {
            latency: Latency::Fixed(Duration::from_millis(10)),
            quota: Some(Quota::per_second(QUOTA)),
            ..Knobs::default()
        })?;
        let folder = tempfile::tempdir()?;
        let credentials = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            service.credentials().access_key_id(),
            service.credentials().secret_access_key()
        );
        let file = private(&folder.path().join("credentials"), &credentials)?;
        let settings = aws_kms::Settings {
            endpoint: Some(service.endpoint()),
            credentials_file: Some(file),
            ..aws_kms::Settings::of_region(REGION)
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (store, key) = runtime.block_on(async {
            let store = aws_kms::open(settings, TRUST_DOMAIN, oversight()).await?;
            let key = store.create(&name()?, KeyType::EcP256).await?;
            anyhow::Ok((store, key))
        })?;
        Ok(Self { service, runtime, key, _store: store, _folder: folder })
    }

    /// Signs without a pause, and answers the rate of each second after the first `warm` ones.
    fn rates(&self, warm: usize, seconds: usize) -> (Vec<f64>, Errors) {
        let mut errors = Errors::default();
        let rates = (0..warm + seconds).map(|_| {
            let start = Instant::now();
            let (signed, failed) =
                sign_for(&self.runtime, &self.key, CALLERS, Duration::from_secs(1));
            errors.signed += signed;
            errors.failed += failed;
            signed as f64 / start.elapsed().as_secs_f64()
        });
        let rates: Vec<f64> = rates.collect();
        (rates.into_iter().skip(warm).collect(), errors)
    }
}

#[derive(Default)]
struct Errors {
    signed: u64,
    failed: u64,
}

impl Errors {
    /// Less than one in a thousand is borne.
    fn check(&self) -> anyhow::Result<()> {
        let Self { signed, failed } = self;
        anyhow::ensure!(
            failed * 1000 < signed + failed,
            "{failed} errors beside {signed} signatures"
        );
        Ok(())
    }
}

/// Signs for that long with so many callers; answers how often it was signed, and how often not.
fn sign_for(
    runtime: &Runtime,
    key: &Arc<dyn SigningKey>,
    callers: usize,
    slice: Duration,
) -> (u64, u64) {
    let end = Instant::now() + slice;
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    runtime.block_on(async {
        let mut tasks = Vec::with_capacity(callers);
        for _ in 0..callers {
            let (key, counts) = (Arc::clone(key), Arc::clone(&counts));
            tasks.push(tokio::spawn(async move {
                while Instant::now() < end {
                    let probe = ToBeSigned::probe([7; 32], key.algorithm());
                    let urgency = Urgency::within(Priority::New, LONG, Instant::now());
                    let signed = key.sign(probe, urgency).await.is_ok();
                    let count = if signed { &counts.0 } else { &counts.1 };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        for task in tasks {
            task.await.expect("a caller does not panic");
        }
    });
    (counts.0.load(Ordering::Relaxed), counts.1.load(Ordering::Relaxed))
}

fn name() -> anyhow::Result<KeyName> {
    Ok(KeyName::parse(&format!("mintmark/{TRUST_DOMAIN}/x509/1"))?)
}

fn oversight() -> Oversight {
    Oversight { verification: Verification::Off, metrics: StoreMetrics::default() }
}
