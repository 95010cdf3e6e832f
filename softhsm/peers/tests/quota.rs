//! The quota of the stand-in of AWS KMS. A program of its own, so that no other test takes its processor.

use std::time::{Duration, Instant};

use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kms::error::ProvideErrorMetadata;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::SigningAlgorithmSpec;
use aws_sdk_kms::{Client, Config};
use peers::fake_kms::{self, FakeKms, KeySpec, Knobs, Operation, Outcome, Quota};

#[tokio::test]
async fn the_quota_is_kept_within_two_percent_and_follows_its_knob() {
    // Deep enough that a machine with other work to do does not spill what a caller could have had.
    let quota = Quota { per_second: 100.0, burst: Duration::from_secs(1) };
    let kms = FakeKms::start(Knobs { quota: Some(quota), ..Knobs::default() }).unwrap();
    let key = kms.create_key(KeySpec::EccNistP256).unwrap();
    let client = client(&kms);
    let callers: Vec<_> =
        (0..4).map(|_| tokio::spawn(call_for_ever(client.clone(), key.clone()))).collect();
    for per_second in [100.0, 50.0] {
        kms.change(|knobs| knobs.quota = Some(Quota { per_second, ..quota }));
        let (before, begin) = signed_until_empty(&kms).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (after, end) = signed_until_empty(&kms).await;
        let rate = (after - before) as f64 / (end - begin).as_secs_f64();
        assert!((rate / per_second - 1.0).abs() < 0.02, "{rate} instead of {per_second} a second");
    }
    for caller in callers {
        caller.abort();
    }
}

/// Waits until the bucket is empty, which a refusal shows: between two such moments, what was signed is
/// what came in.
async fn signed_until_empty(kms: &FakeKms) -> (u64, Instant) {
    let throttled = Outcome::Refused("ThrottlingException");
    let before = kms.counters().of(Operation::Sign, throttled);
    loop {
        let counters = kms.counters();
        if counters.of(Operation::Sign, throttled) > before {
            return (counters.of(Operation::Sign, Outcome::Answered), Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn call_for_ever(client: Client, key: String) {
    loop {
        let call = client.sign().key_id(&key).message(Blob::new(b"a message"));
        let call = call.signing_algorithm(SigningAlgorithmSpec::EcdsaSha256).send().await;
        if let Err(refused) = call {
            let refused = refused.into_service_error();
            assert_eq!(refused.code(), Some("ThrottlingException"), "{refused:?}");
        }
    }
}

fn client(kms: &FakeKms) -> Client {
    let (id, secret) = (kms.credentials().access_key_id(), kms.credentials().secret_access_key());
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(kms.endpoint())
        .region(Region::new(fake_kms::REGION))
        .credentials_provider(Credentials::new(id, secret, None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}
