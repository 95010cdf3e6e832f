//! The stand-in of AWS KMS through AWS's own client: what a client is promised holds.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, ML_DSA_44, ML_DSA_65,
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::sign::SignOutput;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{
    KeySpec as Spec, KeyState, KeyUsageType, MessageType, SigningAlgorithmSpec as Algorithm, Tag,
};
use aws_sdk_kms::{Client, Config};
use peers::fake_kms::{self, FakeKms, Fault, KeySpec, Knobs, Latency, Operation, Outcome};

const MESSAGE: &[u8] = b"a message to sign";

fn started() -> FakeKms {
    FakeKms::start(Knobs::default()).unwrap()
}

fn client(kms: &FakeKms) -> Client {
    client_with(kms, kms.credentials().secret_access_key())
}

fn client_with(kms: &FakeKms, secret: &str) -> Client {
    let id = kms.credentials().access_key_id();
    client_of(kms, Credentials::new(id, secret, None, None, "test"))
}

fn client_of(kms: &FakeKms, credentials: Credentials) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(kms.endpoint())
        .region(Region::new(fake_kms::REGION))
        .credentials_provider(credentials)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(5)).build())
        .build();
    Client::from_conf(config)
}

/// The exception's name.
fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata, R>(
    result: Result<T, SdkError<E, R>>,
) -> String {
    let Err(SdkError::ServiceError(refused)) = result else {
        panic!("no refusal: {:?}", result.ok())
    };
    refused.err().code().unwrap_or("no code").to_owned()
}

async fn sign(client: &Client, key: &str, algorithm: &Algorithm) -> SignOutput {
    signing(client, key, algorithm).send().await.unwrap()
}

fn signing(
    client: &Client,
    key: &str,
    algorithm: &Algorithm,
) -> aws_sdk_kms::operation::sign::builders::SignFluentBuilder {
    let message = Blob::new(MESSAGE);
    client.sign().key_id(key).message(message).signing_algorithm(algorithm.clone())
}

async fn create(client: &Client, spec: Spec) -> String {
    let made = client.create_key().key_spec(spec).key_usage(KeyUsageType::SignVerify).send().await;
    made.unwrap().key_metadata.unwrap().arn.unwrap()
}

async fn verifies(
    client: &Client,
    key: &str,
    algorithm: &'static dyn VerificationAlgorithm,
    signature: &Blob,
) -> bool {
    let answer = client.get_public_key().key_id(key).send().await.unwrap();
    let spki = answer.public_key.unwrap();
    UnparsedPublicKey::new(algorithm, spki.as_ref()).verify(MESSAGE, signature.as_ref()).is_ok()
}

#[tokio::test]
async fn every_kind_of_key_signs_what_its_public_key_verifies() {
    let kms = started();
    let client = client(&kms);
    let kinds: [(Spec, Algorithm, &'static dyn VerificationAlgorithm); 9] = [
        (Spec::EccNistP256, Algorithm::EcdsaSha256, &ECDSA_P256_SHA256_ASN1),
        (Spec::EccNistP384, Algorithm::EcdsaSha384, &ECDSA_P384_SHA384_ASN1),
        (Spec::EccNistEdwards25519, Algorithm::Ed25519Sha512, &ED25519),
        (Spec::Rsa2048, Algorithm::RsassaPkcs1V15Sha256, &RSA_PKCS1_2048_8192_SHA256),
        (Spec::Rsa2048, Algorithm::RsassaPssSha256, &RSA_PSS_2048_8192_SHA256),
        (Spec::Rsa3072, Algorithm::RsassaPkcs1V15Sha256, &RSA_PKCS1_2048_8192_SHA256),
        (Spec::Rsa4096, Algorithm::RsassaPssSha256, &RSA_PSS_2048_8192_SHA256),
        (Spec::MlDsa44, Algorithm::MlDsaShake256, &ML_DSA_44),
        (Spec::MlDsa65, Algorithm::MlDsaShake256, &ML_DSA_65),
    ];
    for (spec, algorithm, verification) in kinds {
        let key = create(&client, spec.clone()).await;
        let answer = sign(&client, &key, &algorithm).await;
        assert_eq!(answer.key_id(), Some(&*key));
        assert_eq!(answer.signing_algorithm(), Some(&algorithm));
        let signature = answer.signature.unwrap();
        assert!(verifies(&client, &key, verification, &signature).await, "{spec} {algorithm}");
    }
}

#[tokio::test]
async fn a_digest_signed_verifies_over_its_message() {
    let kms = started();
    let client = client(&kms);
    let kinds: [(Spec, Algorithm, &'static dyn VerificationAlgorithm, _); 4] = [
        (Spec::EccNistP256, Algorithm::EcdsaSha256, &ECDSA_P256_SHA256_ASN1, &SHA256),
        (Spec::EccNistP384, Algorithm::EcdsaSha384, &ECDSA_P384_SHA384_ASN1, &SHA384),
        (Spec::Rsa2048, Algorithm::RsassaPkcs1V15Sha256, &RSA_PKCS1_2048_8192_SHA256, &SHA256),
        (Spec::Rsa2048, Algorithm::RsassaPssSha256, &RSA_PSS_2048_8192_SHA256, &SHA256),
    ];
    for (spec, algorithm, verification, hash) in kinds {
        let key = create(&client, spec).await;
        let request = signing(&client, &key, &algorithm).message_type(MessageType::Digest);
        let good = digest(hash, MESSAGE).as_ref().to_vec();
        let answer = request.clone().message(Blob::new(good.clone())).send().await.unwrap();
        let signature = answer.signature.unwrap();
        assert!(verifies(&client, &key, verification, &signature).await, "{algorithm}");

        for length in [1, good.len() - 1, good.len() + 1, 20, 64] {
            let wrong = request.clone().message(Blob::new(vec![7; length])).send().await;
            assert_eq!(refusal(wrong), "ValidationException", "{algorithm}, {length} bytes");
        }
    }
}

#[tokio::test]
async fn what_a_key_cannot_sign_is_refused() {
    let kms = started();
    let client = client(&kms);
    let key = create(&client, Spec::EccNistP256).await;
    for algorithm in [Algorithm::EcdsaSha384, Algorithm::RsassaPssSha256, Algorithm::MlDsaShake256]
    {
        let wrong = signing(&client, &key, &algorithm).send().await;
        assert_eq!(refusal(wrong), "InvalidKeyUsageException", "{algorithm}");
    }
    let request = signing(&client, &key, &Algorithm::EcdsaSha256);
    for length in [0, 4097] {
        let wrong = request.clone().message(Blob::new(vec![7; length])).send().await;
        assert_eq!(refusal(wrong), "ValidationException", "{length} bytes");
    }
    request.clone().message(Blob::new(vec![7; 4096])).send().await.unwrap();
    let unknown = signing(&client, &key, &Algorithm::from("MD5")).send().await;
    assert_eq!(refusal(unknown), "ValidationException");
    let external = request.clone().message_type(MessageType::ExternalMu).send().await;
    assert_eq!(refusal(external), "UnsupportedOperationException");
    let dry = request.clone().dry_run(true).send().await;
    assert_eq!(refusal(dry), "DryRunOperationException");

    for spec in [Spec::EccNistEdwards25519, Spec::MlDsa44] {
        let algorithm = match spec {
            Spec::MlDsa44 => Algorithm::MlDsaShake256,
            _ => Algorithm::Ed25519Sha512,
        };
        let key = create(&client, spec).await;
        let wrong = signing(&client, &key, &algorithm).message_type(MessageType::Digest);
        assert_eq!(refusal(wrong.send().await), "ValidationException");
    }
}

#[tokio::test]
async fn a_key_for_another_use_signs_nothing() {
    let kms = started();
    let client = client(&kms);
    for (spec, usage, algorithm) in [
        (Spec::EccNistP256, KeyUsageType::KeyAgreement, Algorithm::EcdsaSha256),
        (Spec::Rsa2048, KeyUsageType::EncryptDecrypt, Algorithm::RsassaPssSha256),
    ] {
        let made =
            client.create_key().key_spec(spec).key_usage(usage.clone()).send().await.unwrap();
        let made = made.key_metadata.unwrap();
        assert_eq!(made.key_usage, Some(usage));
        assert!(made.signing_algorithms.is_none());
        let wrong = signing(&client, &made.key_id, &algorithm).send().await;
        assert_eq!(refusal(wrong), "InvalidKeyUsageException");
    }
    let incompatible = client
        .create_key()
        .key_spec(Spec::EccNistP256)
        .key_usage(KeyUsageType::EncryptDecrypt)
        .send()
        .await;
    assert_eq!(refusal(incompatible), "ValidationException");
    let symmetric = client.create_key().send().await;
    assert_eq!(refusal(symmetric), "UnsupportedOperationException");
}

#[tokio::test]
async fn a_key_is_named_by_id_arn_alias_and_alias_arn() {
    let kms = started();
    let client = client(&kms);
    let arn = create(&client, Spec::EccNistP256).await;
    let id = arn.rsplit('/').next().unwrap();
    client.create_alias().alias_name("alias/here").target_key_id(id).send().await.unwrap();
    let listed = client.list_aliases().key_id(id).send().await.unwrap();
    let alias_arn = listed.aliases()[0].alias_arn().unwrap();
    for name in [id, &arn, "alias/here", alias_arn] {
        let answer = sign(&client, name, &Algorithm::EcdsaSha256).await;
        assert_eq!(answer.key_id(), Some(&*arn), "{name}");
        let described = client.describe_key().key_id(name).send().await.unwrap();
        assert_eq!(described.key_metadata.unwrap().arn, Some(arn.clone()));
    }
    let elsewhere = arn.replace(fake_kms::REGION, "us-east-1");
    for (name, refused) in [
        ("00000000-0000-4000-8000-000000000000", "NotFoundException"),
        ("alias/nowhere", "NotFoundException"),
        (&elsewhere, "InvalidArnException"),
    ] {
        let wrong = client.describe_key().key_id(name).send().await;
        assert_eq!(refusal(wrong), refused, "{name}");
    }
    let by_alias = client.disable_key().key_id("alias/here").send().await;
    assert_eq!(
        refusal(by_alias),
        "NotFoundException",
        "a change of state wants the key's own name"
    );
}

#[tokio::test]
async fn a_disabled_key_and_one_to_be_deleted_sign_nothing() {
    let kms = started();
    let client = client(&kms);
    let key = create(&client, Spec::EccNistP256).await;
    let state = async || {
        let described = client.describe_key().key_id(&key).send().await.unwrap();
        described.key_metadata.unwrap().key_state.unwrap()
    };
    let try_to_sign =
        async || refusal(signing(&client, &key, &Algorithm::EcdsaSha256).send().await);

    client.disable_key().key_id(&key).send().await.unwrap();
    assert_eq!(state().await, KeyState::Disabled);
    assert_eq!(try_to_sign().await, "DisabledException");
    client.enable_key().key_id(&key).send().await.unwrap();
    sign(&client, &key, &Algorithm::EcdsaSha256).await;

    let cancel = client.cancel_key_deletion().key_id(&key);
    assert_eq!(refusal(cancel.clone().send().await), "KMSInvalidStateException");
    for days in [6, 31] {
        let wrong = client.schedule_key_deletion().key_id(&key).pending_window_in_days(days);
        assert_eq!(refusal(wrong.send().await), "ValidationException", "{days} days");
    }
    let schedule = client.schedule_key_deletion().key_id(&key).pending_window_in_days(7);
    let scheduled = schedule.clone().send().await.unwrap();
    assert_eq!(scheduled.key_id(), Some(&*key));
    assert_eq!(state().await, KeyState::PendingDeletion);
    assert_eq!(try_to_sign().await, "KMSInvalidStateException");
    assert_eq!(refusal(schedule.send().await), "KMSInvalidStateException");
    assert_eq!(refusal(client.enable_key().key_id(&key).send().await), "KMSInvalidStateException");

    cancel.send().await.unwrap();
    assert_eq!(state().await, KeyState::Disabled, "a key kept after all is disabled");
    kms.destroy_key(&key).unwrap();
    assert_eq!(try_to_sign().await, "NotFoundException");
    assert!(kms.destroy_key(&key).is_err());
}

#[tokio::test]
async fn keys_are_listed_in_pages() {
    let kms = started();
    let client = client(&kms);
    let mut made: Vec<String> =
        (0..23).map(|_| kms.create_key(KeySpec::EccNistP256).unwrap()).collect();
    let pages: Vec<_> =
        client.list_keys().limit(10).into_paginator().send().try_collect().await.unwrap();
    assert_eq!(pages.iter().map(|page| page.keys().len()).collect::<Vec<_>>(), [10, 10, 3]);
    assert_eq!(pages.iter().map(|page| page.truncated).collect::<Vec<_>>(), [true, true, false]);
    let mut listed: Vec<String> =
        pages.iter().flat_map(|page| page.keys()).map(|key| key.key_arn.clone().unwrap()).collect();
    made.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, made);
}

#[tokio::test]
async fn descriptions_and_tags_stay_with_the_key() {
    let kms = started();
    let client = client(&kms);
    let tag =
        |key: &str, value: &str| Tag::builder().tag_key(key).tag_value(value).build().unwrap();
    let made = client
        .create_key()
        .key_spec(Spec::EccNistP256)
        .key_usage(KeyUsageType::SignVerify)
        .description("whose key it is")
        .tags(tag("name", "x509/1"))
        .send()
        .await
        .unwrap()
        .key_metadata
        .unwrap();
    assert_eq!(made.description(), Some("whose key it is"));
    let tags = (0..49).map(|number| tag(&format!("tag-{number:02}"), "1")).collect();
    client.tag_resource().key_id(&made.key_id).set_tags(Some(tags)).send().await.unwrap();
    let one_more = client.tag_resource().key_id(&made.key_id).tags(tag("one more", "1"));
    assert_eq!(refusal(one_more.send().await), "LimitExceededException");

    let pages: Vec<_> = client
        .list_resource_tags()
        .key_id(&made.key_id)
        .limit(20)
        .into_paginator()
        .send()
        .try_collect()
        .await
        .unwrap();
    let listed: Vec<Tag> = pages.iter().flat_map(|page| page.tags().to_vec()).collect();
    assert_eq!((pages.len(), listed.len()), (3, 50));
    assert!(listed.contains(&tag("name", "x509/1")));

    client.untag_resource().key_id(&made.key_id).tag_keys("name").send().await.unwrap();
    let listed = client.list_resource_tags().key_id(&made.key_id).send().await.unwrap();
    assert!(listed.tags().iter().all(|tag| tag.tag_key != "name"));
    let reserved = client.tag_resource().key_id(&made.key_id).tags(tag("aws:own", "1"));
    assert_eq!(refusal(reserved.send().await), "TagException");
}

#[tokio::test]
async fn an_alias_moves_between_keys_of_one_use() {
    let kms = started();
    let client = client(&kms);
    let first = kms.create_key(KeySpec::EccNistP256).unwrap();
    let second = kms.create_key(KeySpec::EccNistP256).unwrap();
    let name = "alias/mintmark/a-b_c";
    let make = client.create_alias().alias_name(name).target_key_id(&first);
    make.clone().send().await.unwrap();
    assert_eq!(refusal(make.send().await), "AlreadyExistsException");
    for (wrong, refused) in [
        ("mintmark", "ValidationException"),
        ("alias/aws/kms", "NotAuthorizedException"),
        ("alias/a.b", "InvalidAliasNameException"),
    ] {
        let make = client.create_alias().alias_name(wrong).target_key_id(&first);
        assert_eq!(refusal(make.send().await), refused, "{wrong}");
    }
    client.update_alias().alias_name(name).target_key_id(&second).send().await.unwrap();
    let answer = sign(&client, name, &Algorithm::EcdsaSha256).await;
    assert_eq!(answer.key_id(), Some(&*second));
    client.delete_alias().alias_name(name).send().await.unwrap();
    let gone = client.delete_alias().alias_name(name).send().await;
    assert_eq!(refusal(gone), "NotFoundException");
    assert!(client.list_aliases().send().await.unwrap().aliases().is_empty());
}

#[tokio::test]
async fn wrong_and_expired_credentials_are_refused() {
    let kms = started();
    let key = kms.create_key(KeySpec::EccNistP256).unwrap();
    let attempt = async |client: Client| {
        refusal(signing(&client, &key, &Algorithm::EcdsaSha256).send().await)
    };
    assert_eq!(attempt(client_with(&kms, "another secret")).await, "InvalidSignatureException");
    let stranger = Credentials::new("AKIANOBODY", "secret", None, None, "test");
    assert_eq!(attempt(client_of(&kms, stranger)).await, "UnrecognizedClientException");

    let brief = kms.temporary_credentials(Duration::from_secs(1)).unwrap();
    let token = brief.session_token().map(Into::into);
    let brief =
        Credentials::new(brief.access_key_id(), brief.secret_access_key(), token, None, "test");
    let client_for_a_while = client_of(&kms, brief);
    sign(&client_for_a_while, &key, &Algorithm::EcdsaSha256).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(attempt(client_for_a_while).await, "ExpiredTokenException");

    for ahead in [-301 - 5, 301 + 5] {
        kms.change(|knobs| knobs.clock_ahead = ahead);
        assert_eq!(attempt(client(&kms)).await, "InvalidSignatureException", "{ahead} s");
    }
    kms.change(|knobs| knobs.clock_ahead = 290);
    sign(&client(&kms), &key, &Algorithm::EcdsaSha256).await;
    let refused = Outcome::Refused("InvalidSignatureException");
    assert_eq!(kms.counters().of(Operation::Sign, refused), 3);
}

#[tokio::test]
async fn a_client_learns_the_clock_of_the_service() {
    let kms = FakeKms::start(Knobs { clock_ahead: 3600, ..Knobs::default() }).unwrap();
    let client = client(&kms);
    let first = client.list_keys().send().await;
    assert_eq!(refusal(first), "InvalidSignatureException");
    client.list_keys().send().await.unwrap();
}

#[tokio::test]
async fn an_operation_that_the_policy_denies_is_refused() {
    let kms = started();
    let key = kms.create_key(KeySpec::EccNistP256).unwrap();
    kms.change(|knobs| knobs.denied = [Operation::Sign].into());
    let client = client(&kms);
    let denied = signing(&client, &key, &Algorithm::EcdsaSha256).send().await;
    assert_eq!(refusal(denied), "AccessDeniedException");
    client.describe_key().key_id(&key).send().await.unwrap();
}

#[tokio::test]
async fn an_answer_takes_the_latency_and_calls_run_side_by_side() {
    let kms = started();
    let key = kms.create_key(KeySpec::EccNistP256).unwrap();
    let client = client(&kms);
    sign(&client, &key, &Algorithm::EcdsaSha256).await;
    kms.change(|knobs| knobs.latency = Latency::Fixed(Duration::from_millis(300)));
    kms.reset_counters();
    let begin = Instant::now();
    let calls: Vec<_> = (0..16)
        .map(|_| tokio::spawn(signing(&client, &key, &Algorithm::EcdsaSha256).send()))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_millis(300) * 16, "{took:?} for 16 calls side by side");
    assert_eq!(kms.counters().in_flight_maximum(), 16);
    assert_eq!(kms.counters().in_flight(), 0);
}

#[tokio::test]
async fn each_fault_shows_as_it_would_at_a_client() {
    let kms = started();
    let key = kms.create_key(KeySpec::EccNistP256).unwrap();
    let client = client(&kms);
    let attempt = async |fault| {
        kms.inject(Operation::Sign, fault);
        let answer = signing(&client, &key, &Algorithm::EcdsaSha256).send().await;
        let counters = kms.counters();
        assert_eq!(counters.of(Operation::Sign, Outcome::Faulted(fault)), 1, "{fault:?}");
        answer
    };
    for fault in [Fault::DropBefore, Fault::DropAfter] {
        let dropped = attempt(fault).await;
        assert!(matches!(dropped, Err(SdkError::DispatchFailure(_))), "{fault:?}: {dropped:?}");
    }
    let garbage = attempt(Fault::GarbageBody).await;
    let Err(SdkError::ServiceError(garbage)) = garbage else { panic!("{garbage:?}") };
    assert_eq!(garbage.err().code(), None, "the client can make nothing of it");
    assert_eq!(refusal(attempt(Fault::InternalError).await), "KMSInternalException");
    assert_eq!(refusal(attempt(Fault::DependencyTimeout).await), "DependencyTimeoutException");

    let answer = attempt(Fault::WrongKey).await.unwrap();
    assert_ne!(answer.key_id(), Some(&*key));
    let answer = attempt(Fault::WrongAlgorithm).await.unwrap();
    assert_eq!(answer.signing_algorithm(), Some(&Algorithm::EcdsaSha384));
    for fault in [Fault::WrongSigner, Fault::CorruptedSignature] {
        let answer = attempt(fault).await.unwrap();
        assert_eq!(answer.key_id(), Some(&*key));
        let signature = answer.signature.unwrap();
        assert!(!verifies(&client, &key, &ECDSA_P256_SHA256_ASN1, &signature).await, "{fault:?}");
    }
    let answer = sign(&client, &key, &Algorithm::EcdsaSha256).await;
    assert!(verifies(&client, &key, &ECDSA_P256_SHA256_ASN1, &answer.signature.unwrap()).await);
}

#[tokio::test]
async fn every_answer_that_names_a_key_can_name_another() {
    let kms = started();
    let key = kms.create_key(KeySpec::EccNistP256).unwrap();
    let client = client(&kms);
    kms.change(|knobs| knobs.faults.set(Fault::WrongKey, 1.0));
    let public = client.get_public_key().key_id(&key).send().await.unwrap();
    assert_ne!(public.key_id(), Some(&*key));
    let described = client.describe_key().key_id(&key).send().await.unwrap();
    assert_ne!(described.key_metadata.unwrap().arn(), Some(&*key));
    client.list_keys().send().await.unwrap();
    assert_eq!(kms.counters().of(Operation::ListKeys, Outcome::Answered), 1, "has no key to name");
    kms.change(|knobs| *knobs = Knobs::default());
    let public = client.get_public_key().key_id(&key).send().await.unwrap();
    assert_eq!(public.key_id(), Some(&*key));
}

#[tokio::test]
async fn a_stand_in_that_is_dropped_answers_no_more() {
    let kms = started();
    let client = client(&kms);
    client.list_keys().send().await.unwrap();
    drop(kms);
    let gone = client.list_keys().send().await;
    assert!(matches!(gone, Err(SdkError::DispatchFailure(_))), "{gone:?}");
}

#[tokio::test]
async fn a_call_that_hangs_ends_when_the_client_leaves_or_the_stand_in_does() {
    let kms = started();
    let key = kms.create_key(KeySpec::EccNistP256).unwrap();
    let client = client(&kms);
    let call = || {
        kms.inject(Operation::Sign, Fault::Hang);
        tokio::spawn(signing(&client, &key, &Algorithm::EcdsaSha256).send())
    };
    let hanging = async |call: &tokio::task::JoinHandle<_>| {
        until(|| kms.counters().in_flight() == 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!call.is_finished(), "no answer comes");
    };
    let left = call();
    hanging(&left).await;
    left.abort();
    until(|| kms.counters().of(Operation::Sign, Outcome::Abandoned) == 1).await;
    assert_eq!(kms.counters().in_flight(), 0);

    let cut_off = call();
    hanging(&cut_off).await;
    drop(kms);
    assert!(cut_off.await.unwrap().is_err());
}

async fn until(reached: impl Fn() -> bool) {
    let begin = Instant::now();
    while !reached() {
        assert!(begin.elapsed() < Duration::from_secs(5), "it never comes to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn faults_come_as_often_as_they_are_set() {
    let kms = started();
    let key = kms.create_key(KeySpec::EccNistP256).unwrap();
    let client = client(&kms);
    kms.change(|knobs| {
        knobs.faults.set(Fault::InternalError, 0.2);
        knobs.faults.set(Fault::CorruptedSignature, 0.3);
    });
    for _ in 0..1000 {
        let _ = signing(&client, &key, &Algorithm::EcdsaSha256).send().await;
    }
    let counters = kms.counters();
    let of = |fault| counters.of(Operation::Sign, Outcome::Faulted(fault));
    assert_eq!(counters.requests(Operation::Sign), 1000);
    assert!((150..250).contains(&of(Fault::InternalError)), "{counters:?}");
    assert!((240..360).contains(&of(Fault::CorruptedSignature)), "{counters:?}");
}
