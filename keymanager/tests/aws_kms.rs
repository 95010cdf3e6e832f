//! Keys in AWS KMS, against its stand-in: the life of a key, each fault, and what is refused at start.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ca_core::key::{
    KeyError, KeyName, KeyStore, KeyType, Priority, SignError, Signature, SigningKey, ToBeSigned,
    Urgency, contract,
};
use keymanager::aws_kms::{self, Settings};
use keymanager::metrics::Metrics;
use keymanager::{Oversight, Pace, RemoteStore, Verification};
use peers::fake_kms::{
    Credentials, FakeKms, Fault, KeySpec, Knobs, Latency, Operation, Outcome, Quota, REGION,
};
use tempfile::TempDir;

const DOMAIN: &str = "kms.test";

/// A stand-in of KMS with the credentials file of a service that uses it.
struct Kms {
    service: FakeKms,
    home: TempDir,
    metrics: Metrics,
}

impl Kms {
    fn start(knobs: Knobs) -> Self {
        let service = FakeKms::start(knobs).unwrap();
        let home = tempfile::tempdir().unwrap();
        let kms = Self { service, home, metrics: Metrics::default() };
        kms.give(kms.service.credentials());
        kms
    }

    fn credentials_file(&self) -> PathBuf {
        self.home.path().join("credentials")
    }

    fn give(&self, credentials: &Credentials) {
        self.give_with(credentials, "");
    }

    /// The same with more lines in the profile.
    fn give_with(&self, credentials: &Credentials, more: &str) {
        let mut text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            credentials.access_key_id(),
            credentials.secret_access_key()
        );
        if let Some(token) = credentials.session_token() {
            text += &format!("aws_session_token = {token}\n");
        }
        std::fs::write(self.credentials_file(), text + more).unwrap();
        std::fs::set_permissions(self.credentials_file(), std::fs::Permissions::from_mode(0o600))
            .unwrap();
    }

    fn settings(&self) -> Settings {
        let settings = Settings::of_region(REGION);
        Settings {
            endpoint: Some(self.service.endpoint()),
            credentials_file: Some(self.credentials_file()),
            pace: Pace { queue_wait: Duration::from_secs(10), ..settings.pace },
            ..settings
        }
    }

    fn oversight(&self) -> Oversight {
        Oversight { verification: Verification::OUTSIDE, metrics: self.metrics.store("kms") }
    }

    async fn try_open(&self, settings: Settings) -> Result<RemoteStore, KeyError> {
        aws_kms::open(settings, DOMAIN, self.oversight()).await
    }

    async fn open(&self) -> RemoteStore {
        self.try_open(self.settings()).await.unwrap()
    }

    /// A store with a P-256 key, at a pace.
    async fn key_at(&self, pace: Pace) -> (RemoteStore, Arc<dyn SigningKey>) {
        let store = self.try_open(Settings { pace, ..self.settings() }).await.unwrap();
        let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
        self.service.reset_counters();
        (store, key)
    }

    async fn key(&self) -> (RemoteStore, Arc<dyn SigningKey>) {
        self.key_at(self.settings().pace).await
    }

    fn asked(&self, operation: Operation) -> u64 {
        self.service.counters().requests(operation)
    }

    fn throttled(&self) -> u64 {
        self.service.counters().of(Operation::Sign, Outcome::Refused("ThrottlingException"))
    }

    /// The store's figure of that name.
    fn figure(&self, name: &str) -> u64 {
        let start = format!("mintmark_key_{name}{{store=\"kms\"}} ");
        let figures = self.figures();
        figures.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    }

    /// All figures, as Prometheus reads them.
    fn figures(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

fn name(text: &str) -> KeyName {
    KeyName::parse(&format!("mintmark/{DOMAIN}/{text}")).unwrap()
}

fn started() -> Kms {
    Kms::start(Knobs::default())
}

fn within(patience: Duration) -> Urgency {
    Urgency::within(Priority::New, patience, Instant::now())
}

fn soon() -> Urgency {
    within(Duration::from_secs(20))
}

fn probe(key: &Arc<dyn SigningKey>) -> ToBeSigned {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).unwrap();
    ToBeSigned::probe(nonce, key.algorithm())
}

/// Signs a probe; a signature that is given out verifies.
async fn sign(key: &Arc<dyn SigningKey>, urgency: Urgency) -> Result<Signature, SignError> {
    let message = probe(key);
    let signature = key.sign(message.clone(), urgency).await?;
    assert!(key.public_key().verifies(message.message(), &signature), "a wrong one was released");
    Ok(signature)
}

/// So many callers sign one after the other until `end`; what each attempt came to.
async fn load_until(
    key: &Arc<dyn SigningKey>,
    callers: usize,
    end: impl Future<Output = ()>,
) -> Vec<Result<Signature, SignError>> {
    let over = Arc::new(AtomicBool::new(false));
    let callers = (0..callers).map(|_| {
        let (key, over) = (Arc::clone(key), Arc::clone(&over));
        tokio::spawn(async move {
            let mut answers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                answers.push(sign(&key, within(Duration::from_secs(120))).await);
            }
            answers
        })
    });
    let callers: Vec<_> = callers.collect();
    end.await;
    over.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for caller in callers {
        answers.extend(caller.await.unwrap());
    }
    answers
}

async fn load(
    key: &Arc<dyn SigningKey>,
    callers: usize,
    time: Duration,
) -> Vec<Result<Signature, SignError>> {
    load_until(key, callers, tokio::time::sleep(time)).await
}

fn good(answers: &[Result<Signature, SignError>]) -> usize {
    answers.iter().filter(|answer| answer.is_ok()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn kms_keeps_the_contract() {
    contract::key_store(&started().open().await, DOMAIN).await.report("AWS fake");
}

#[tokio::test]
async fn every_kind_of_key_is_offered_and_held_by_a_device() {
    let store = started().open().await;
    assert_eq!(store.description().key_types, KeyType::ALL);
    assert!(store.description().hardware);
    assert_eq!(store.description().longest_message, 4096);
}

#[tokio::test]
async fn a_key_is_the_same_key_for_another_store_and_shows_whose_it_is() {
    let kms = started();
    let made = kms.open().await.create(&name("x509/1"), KeyType::EcP384).await.unwrap();
    let store = kms.open().await;
    let found = store.find(&name("x509/1")).await.unwrap().unwrap();
    assert_eq!(found.public_key(), made.public_key());
    let described = store.describe(&name("x509/1")).await.unwrap().unwrap();
    assert!(described.location.starts_with("arn:aws:kms:"), "{}", described.location);
    let facts = format!("{:?}", described.facts);
    assert!(facts.contains("Mintmark CA key mintmark/kms.test/x509/1"), "{facts}");
}

#[tokio::test]
async fn a_signature_is_asked_for_by_arn_and_once() {
    let kms = started();
    let (_store, key) = kms.key().await;
    sign(&key, soon()).await.unwrap();
    assert_eq!(kms.asked(Operation::Sign), 1);
    assert_eq!(kms.asked(Operation::GetPublicKey), 0, "the public key is known");
}

#[tokio::test]
async fn an_alias_instead_of_a_key_is_refused_at_start() {
    let kms = started();
    for alias in ["alias/ca", "arn:aws:kms:eu-central-1:111122223333:alias/ca"] {
        let keys = BTreeMap::from([("x509/1".to_owned(), alias.to_owned())]);
        let refused = kms.try_open(Settings { keys, ..kms.settings() }).await.unwrap_err();
        assert!(matches!(refused, KeyError::Setup { .. }), "{refused}");
        assert!(
            refused.to_string().contains("an alias can be pointed at another key"),
            "{refused}"
        );
    }
    assert_eq!(kms.service.counters().iter().count(), 0, "nothing was asked");
}

/// Opens with a key that an administrator made, who did something to it.
async fn with_the_key(kms: &Kms, arn: &str) -> Result<RemoteStore, KeyError> {
    let keys = BTreeMap::from([("x509/1".to_owned(), arn.to_owned())]);
    kms.try_open(Settings { keys, ..kms.settings() }).await
}

#[tokio::test]
async fn the_key_of_an_administrator_signs_and_is_not_destroyed() {
    let kms = started();
    let arn = kms.service.create_key(KeySpec::EccNistP256).unwrap();
    let store = with_the_key(&kms, &arn).await.unwrap();
    let key = store.find(&name("x509/1")).await.unwrap().unwrap();
    sign(&key, soon()).await.unwrap();
    assert_eq!(store.list().await.unwrap(), [name("x509/1")]);
    let taken = store.create(&name("x509/1"), KeyType::EcP256).await.map(drop);
    assert_eq!(taken, Err(KeyError::Exists(name("x509/1"))));
}

#[tokio::test]
async fn a_disabled_a_dying_and_an_absent_key_are_refused_at_start() {
    let kms = started();
    let refusal = async |arn: &str| with_the_key(&kms, arn).await.unwrap_err().to_string();
    let arn = kms.service.create_key(KeySpec::EccNistP256).unwrap();
    operator(&kms).await.disable_key().key_id(&arn).send().await.unwrap();
    assert!(refusal(&arn).await.contains("it is disabled; enable it"), "{}", refusal(&arn).await);
    let operator = operator(&kms).await;
    operator.schedule_key_deletion().key_id(&arn).send().await.unwrap();
    let dying = refusal(&arn).await;
    assert!(dying.contains("KMS destroys it 20") && dying.contains("cancel"), "{dying}");
    kms.service.destroy_key(&arn).unwrap();
    assert!(refusal(&arn).await.contains("NotFoundException"), "{}", refusal(&arn).await);
}

#[tokio::test]
async fn a_key_of_another_usage_or_kind_is_refused_at_start() {
    use aws_sdk_kms::types::{KeySpec as Spec, KeyUsageType as Usage};
    let kms = started();
    let operator = operator(&kms).await;
    let make = operator.create_key().key_spec(Spec::EccNistP256).key_usage(Usage::KeyAgreement);
    let arn = make.send().await.unwrap().key_metadata.unwrap().arn.unwrap();
    let refused = with_the_key(&kms, &arn).await.unwrap_err();
    assert!(matches!(refused, KeyError::Unsafe { .. }), "{refused}");
    assert!(refused.to_string().contains("its usage is KEY_AGREEMENT"), "{refused}");
    let store = kms.open().await;
    store.create(&name("x509/2"), KeyType::EcP256).await.unwrap();
    let missing = store.find(&name("x509/1")).await.unwrap();
    assert!(missing.is_none(), "a key without our alias is none of ours");
}

/// An operator beside us, with the console's client.
async fn operator(kms: &Kms) -> aws_sdk_kms::Client {
    use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
    let credentials = kms.service.credentials();
    let (id, secret) = (credentials.access_key_id(), credentials.secret_access_key());
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(kms.service.endpoint())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(id, secret, None, None, "operator"))
        .build();
    aws_sdk_kms::Client::from_conf(config)
}

#[tokio::test]
async fn an_alias_that_was_pointed_at_another_key_is_refused_and_does_not_sign() {
    let kms = started();
    let (store, key) = kms.key().await;
    let other = kms.service.create_key(KeySpec::EccNistP256).unwrap();
    let request = operator(&kms).await.update_alias().target_key_id(&other);
    request.alias_name("alias/mintmark/kms_test/x509/1").send().await.unwrap();
    sign(&key, soon()).await.unwrap();
    let refused = store.find(&name("x509/1")).await.map(drop).unwrap_err();
    assert!(matches!(refused, KeyError::Unsafe { .. }), "{refused}");
    assert!(refused.to_string().contains("no tag mintmark:key"), "{refused}");
}

#[tokio::test]
async fn a_key_that_was_just_made_is_waited_for_whatever_does_not_know_it_yet() {
    let operations =
        [Operation::DescribeKey, Operation::GetPublicKey, Operation::CreateAlias, Operation::Sign];
    let kms = started();
    let store = kms.open().await;
    for (number, operation) in operations.into_iter().enumerate() {
        let late = [(operation, Duration::from_millis(700))];
        kms.service.change(|knobs| knobs.unseen = late.into());
        let made = store.create(&name(&format!("x509/{number}")), KeyType::EcP256).await;
        let key = made.unwrap_or_else(|error| panic!("{operation:?}: {error}"));
        sign(&key, soon()).await.unwrap();
        let early = Outcome::Refused("NotFoundException");
        assert!(kms.service.counters().of(operation, early) > 0, "{operation:?} was not early");
    }
    assert_eq!(kms.asked(Operation::CreateKey), 4);
    assert_eq!(kms.asked(Operation::ScheduleKeyDeletion), 0);
}

#[tokio::test]
async fn a_key_that_is_denied_hides_none_of_the_others() {
    let kms = started();
    let (store, _key) = kms.key().await;
    store.create(&name("x509/2"), KeyType::EcP256).await.unwrap();
    let new = store.describe(&name("x509/2")).await.unwrap().unwrap().location;
    let foreign = kms.service.create_key(KeySpec::Rsa2048).unwrap();
    let alias = operator(&kms).await.create_alias().target_key_id(&foreign);
    alias.alias_name("alias/mintmark/kms_test/x509/99").send().await.unwrap();
    let operations = [Operation::ListResourceTags, Operation::DescribeKey, Operation::GetPublicKey];
    for operation in operations {
        let denied = [&new, &foreign].map(|key| (operation, key.clone()));
        kms.service.change(|knobs| knobs.denied_keys = denied.into());
        let store = kms.open().await;
        let all = [name("x509/1"), name("x509/2"), name("x509/99")];
        assert_eq!(store.list().await.unwrap(), all, "{operation:?}");
        let refused = store.describe(&name("x509/2")).await.unwrap_err();
        assert!(matches!(refused, KeyError::Unsafe { .. }), "{operation:?}: {refused}");
        let told = format!("allow kms:{}", operation.name());
        assert!(refused.to_string().contains(&told), "{refused}");
        let refused = store.describe(&name("x509/99")).await.unwrap_err();
        assert!(matches!(refused, KeyError::Unsafe { .. }), "{operation:?}: {refused}");
        let good = store.find(&name("x509/1")).await.unwrap().unwrap();
        sign(&good, soon()).await.unwrap();
    }
}

#[tokio::test]
async fn a_destroyed_key_can_be_saved_until_a_date_that_is_told() {
    let kms = started();
    let (store, _key) = kms.key().await;
    // Only the record of the state store can say that a key has expired; the contract covers that way.
    let arn = store.describe(&name("x509/1")).await.unwrap().unwrap().location;
    operator(&kms).await.schedule_key_deletion().key_id(&arn).send().await.unwrap();
    let refused = store.find(&name("x509/1")).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("cancel the deletion"), "{refused}");
}

#[tokio::test]
async fn a_name_that_another_server_takes_meanwhile_is_taken_and_no_key_is_left_in_use() {
    let kms = started();
    let (one, two) = (kms.open().await, kms.open().await);
    let name = name("x509/1");
    let (first, second) =
        tokio::join!(one.create(&name, KeyType::EcP256), two.create(&name, KeyType::EcP256));
    let refused = [first.map(drop), second.map(drop)];
    assert_eq!(refused.iter().filter(|it| it.is_ok()).count(), 1, "{refused:?}");
    assert!(refused.contains(&Err(KeyError::Exists(name))), "{refused:?}");
    assert_eq!(kms.asked(Operation::ScheduleKeyDeletion), kms.asked(Operation::CreateKey) - 1);
}

#[tokio::test]
async fn an_alias_whose_answer_was_lost_is_ours_and_its_key_lives() {
    let kms = started();
    kms.service.inject(Operation::CreateAlias, Fault::DropAfter);
    let (store, key) = kms.key().await;
    sign(&key, soon()).await.unwrap();
    assert!(store.find(&name("x509/1")).await.unwrap().is_some());
    // The second try is told that the alias is there already, and another store that its name is taken.
    kms.service.inject(Operation::CreateAlias, Fault::DropAfter);
    store.create(&name("x509/2"), KeyType::EcP256).await.unwrap();
    assert_eq!(kms.asked(Operation::CreateAlias), 2);
    assert_eq!(kms.asked(Operation::ScheduleKeyDeletion), 0);
}

#[tokio::test]
async fn a_key_whose_alias_is_not_known_to_be_another_is_left_alone() {
    let kms = started();
    let store = kms.open().await;
    kms.service.change(|knobs| knobs.denied = [Operation::CreateAlias].into());
    let refused = store.create(&name("x509/1"), KeyType::EcP256).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("allow kms:CreateAlias"), "{refused}");
    assert_eq!(kms.asked(Operation::ScheduleKeyDeletion), 1, "its name was refused for certain");
    kms.service.change(|knobs| knobs.denied.clear());
    for _ in 0..6 {
        kms.service.inject(Operation::CreateAlias, Fault::InternalError);
    }
    let unknown = store.create(&name("x509/1"), KeyType::EcP256).await.map(drop).unwrap_err();
    assert!(matches!(unknown, KeyError::Unavailable { .. }), "{unknown}");
    let told = unknown.to_string();
    assert!(told.contains("is not known") && told.contains("arn:aws:kms:"), "{told}");
    assert_eq!(kms.asked(Operation::ScheduleKeyDeletion), 1, "KMS may yet do what it was asked");
}

#[tokio::test]
async fn credentials_and_permissions_that_are_wrong_are_told_at_start() {
    let kms = started();
    std::fs::write(
        kms.credentials_file(),
        "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = nonsense4711\n",
    )
    .unwrap();
    let refused = kms.try_open(kms.settings()).await.unwrap_err();
    assert!(matches!(refused, KeyError::Setup { .. }), "{refused}");
    assert!(!refused.to_string().contains("nonsense4711"), "{refused}");
    kms.give(kms.service.credentials());
    kms.service.change(|knobs| knobs.denied = [Operation::ListAliases].into());
    let refused = kms.try_open(kms.settings()).await.unwrap_err().to_string();
    assert!(refused.contains("allow kms:ListAliases"), "{refused}");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(kms.credentials_file(), open).unwrap();
    let refused = kms.try_open(kms.settings()).await.unwrap_err().to_string();
    assert!(refused.contains("chmod 600"), "{refused}");
}

#[tokio::test]
async fn an_endpoint_that_awss_own_configuration_names_has_to_be_as_safe_as_ours() {
    let kms = started();
    kms.give_with(kms.service.credentials(), "endpoint_url = http://kms.example:8080\n");
    let unsaid = || Settings { endpoint: None, ..kms.settings() };
    let refused = kms.try_open(unsaid()).await.unwrap_err();
    assert!(matches!(refused, KeyError::Setup { .. }), "{refused}");
    let told = refused.to_string();
    assert!(told.contains("AWS_ENDPOINT_URL") && told.contains("not encrypted"), "{told}");
    assert_eq!(kms.service.counters().iter().count(), 0, "nothing was asked");
    let endpoint = kms.service.endpoint();
    kms.give_with(kms.service.credentials(), &format!("endpoint_url = {endpoint}\n"));
    let store = kms.try_open(unsaid()).await.unwrap();
    assert!(store.description().place.contains(&endpoint), "{}", store.description().place);
    // The settings' own goes first.
    kms.give_with(kms.service.credentials(), "endpoint_url = https://kms.example\n");
    kms.open().await;
}

#[tokio::test]
async fn each_fault_that_passes_is_healed_by_another_try() {
    let kms = started();
    let pace = Pace { attempt_timeout: Duration::from_millis(300), ..kms.settings().pace };
    let (_store, key) = kms.key_at(pace).await;
    for fault in [
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::InternalError,
        Fault::DependencyTimeout,
        Fault::GarbageBody,
        Fault::Hang,
        Fault::WrongKey,
        Fault::WrongAlgorithm,
        Fault::WrongSigner,
        Fault::CorruptedSignature,
    ] {
        kms.service.reset_counters();
        kms.service.inject(Operation::Sign, fault);
        sign(&key, soon()).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(kms.asked(Operation::Sign), 2, "{fault:?} is tried again once");
    }
}

#[tokio::test]
async fn two_wrong_answers_in_a_row_are_told_and_never_released() {
    let kms = started();
    let (_store, key) = kms.key().await;
    for fault in
        [Fault::WrongKey, Fault::WrongAlgorithm, Fault::WrongSigner, Fault::CorruptedSignature]
    {
        kms.service.reset_counters();
        kms.service.inject(Operation::Sign, fault);
        kms.service.inject(Operation::Sign, fault);
        let refused = sign(&key, soon()).await.unwrap_err();
        let told = matches!(refused, SignError::Wrong { .. } | SignError::Malformed { .. });
        assert!(told, "{fault:?}: {refused}");
        assert_eq!(kms.asked(Operation::Sign), 2, "{fault:?}");
    }
    let figures = kms.figures();
    assert!(figures.contains("mintmark_key_wrong_signatures_total"), "{figures}");
    sign(&key, soon()).await.unwrap();
}

#[tokio::test]
async fn after_a_wrong_signature_the_next_is_verified_whatever_the_settings_say() {
    let kms = started();
    let sampled = Verification::Sampled(NonZeroU32::new(2).unwrap());
    let oversight = Oversight { verification: sampled, ..kms.oversight() };
    let store = aws_kms::open(kms.settings(), DOMAIN, oversight).await.unwrap();
    let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    // One was signed when the key was made; after the next it is the turn of one to be looked at, and the
    // one after that would not be.
    sign(&key, soon()).await.unwrap();
    kms.service.inject(Operation::Sign, Fault::CorruptedSignature);
    kms.service.inject(Operation::Sign, Fault::WrongSigner);
    let refused = sign(&key, soon()).await.unwrap_err();
    assert!(matches!(refused, SignError::Wrong { .. } | SignError::Malformed { .. }), "{refused}");
}

#[tokio::test]
async fn a_key_that_is_disabled_meanwhile_refuses_at_once_and_heals() {
    let kms = started();
    let (store, key) = kms.key().await;
    let arn = store.describe(&name("x509/1")).await.unwrap().unwrap().location;
    let operator = operator(&kms).await;
    operator.disable_key().key_id(&arn).send().await.unwrap();
    kms.service.reset_counters();
    let refused = sign(&key, soon()).await.unwrap_err();
    assert!(matches!(refused, SignError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("enable the key in KMS"), "{refused}");
    assert_eq!(kms.asked(Operation::Sign), 1, "asking again would not help");
    operator.enable_key().key_id(&arn).send().await.unwrap();
    sign(&key, soon()).await.unwrap();
}

#[tokio::test]
async fn a_permission_that_is_taken_away_is_named() {
    let kms = started();
    let (_store, key) = kms.key().await;
    kms.service.change(|knobs| knobs.denied = [Operation::Sign].into());
    let refused = sign(&key, soon()).await.unwrap_err();
    assert!(matches!(refused, SignError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("allow kms:Sign"), "{refused}");
}

#[tokio::test]
async fn expired_credentials_are_replaced_by_those_that_the_file_has_by_then() {
    let kms = started();
    kms.give(&kms.service.temporary_credentials(Duration::from_secs(2)).unwrap());
    let (_store, key) = kms.key().await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let refused = sign(&key, within(Duration::from_secs(2))).await.unwrap_err();
    assert!(matches!(refused, SignError::Unavailable { .. }), "{refused}");
    assert!(refused.to_string().contains("renew the credentials"), "{refused}");
    kms.give(kms.service.credentials());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    sign(&key, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_replaced_under_load_cost_no_caller_anything() {
    let kms = Kms::start(Knobs {
        latency: Latency::Fixed(Duration::from_millis(20)),
        ..Knobs::default()
    });
    kms.give(&kms.service.temporary_credentials(Duration::from_millis(2500)).unwrap());
    let (_store, key) = kms.key_at(Settings::of_region(REGION).pace).await;
    let next = kms.service.temporary_credentials(Duration::from_millis(4500)).unwrap();
    kms.give(&next);
    let replaced = async {
        tokio::time::sleep(Duration::from_millis(3000)).await;
        kms.give(kms.service.credentials());
        tokio::time::sleep(Duration::from_millis(2500)).await;
    };
    let answers = load_until(&key, 40, replaced).await;
    let failed = answers.iter().find(|answer| answer.is_err());
    assert_eq!(good(&answers), answers.len(), "{failed:?}");
    let expired = Outcome::Refused("ExpiredTokenException");
    assert!(kms.service.counters().of(Operation::Sign, expired) > 20, "they expired under load");
}

#[tokio::test]
async fn a_list_is_asked_for_again_with_new_credentials() {
    let kms = started();
    kms.give(&kms.service.temporary_credentials(Duration::from_millis(1200)).unwrap());
    let store = kms.open().await;
    kms.give(kms.service.credentials());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(store.list().await.unwrap(), []);
    assert_eq!(kms.asked(Operation::ListAliases), 3);
}

#[tokio::test]
async fn a_clock_that_is_off_is_told() {
    let kms = started();
    kms.service.change(|knobs| knobs.clock_ahead = 3600);
    let refused = kms.try_open(kms.settings()).await.unwrap_err().to_string();
    assert!(refused.contains("this machine's clock"), "{refused}");
}

/// The rate, per second, that the store usually allows itself under load, and the part of the requests that
/// is throttled. What it makes of the rate depends on the machine; the benches say.
async fn under_load(
    kms: &Kms,
    key: &Arc<dyn SigningKey>,
    callers: usize,
    rounds: usize,
) -> (u64, f64) {
    kms.service.reset_counters();
    let mut rates = Vec::new();
    let watch = async {
        for _ in 0..rounds {
            tokio::time::sleep(Duration::from_millis(500)).await;
            rates.push(kms.figure("rate_limit"));
        }
    };
    let answers = load_until(key, callers, watch).await;
    assert_eq!(good(&answers), answers.len(), "{:?}", answers.iter().find(|it| it.is_err()));
    rates.sort_unstable();
    (rates[rounds / 2], kms.throttled() as f64 / kms.asked(Operation::Sign) as f64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_found_and_nobody_is_told_of_throttling() {
    let quota = Some(Quota::per_second(200.0));
    let latency = Latency::Fixed(Duration::from_millis(10));
    let kms = Kms::start(Knobs { quota, latency, ..Knobs::default() });
    let pace = Pace { max_rate: 400, queue_wait: Duration::from_secs(60), ..kms.settings().pace };
    let (_store, key) = kms.key_at(pace).await;
    under_load(&kms, &key, 40, 6).await;
    let (rate, throttled) = under_load(&kms, &key, 40, 9).await;
    assert!(rate >= 170, "{rate} of 200 per second");
    assert!(throttled <= 0.1, "{throttled} of all requests were throttled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_halved_and_doubled_again_costs_no_caller_anything() {
    let quota = |rate| Some(Quota::per_second(rate));
    let kms = Kms::start(Knobs { quota: quota(200.0), ..Knobs::default() });
    kms.service.change(|knobs| knobs.latency = Latency::Fixed(Duration::from_millis(10)));
    let pace = Pace { max_rate: 200, queue_wait: Duration::from_secs(60), ..kms.settings().pace };
    let (_store, key) = kms.key_at(pace).await;
    kms.service.change(|knobs| knobs.quota = quota(100.0));
    let (halved, throttled) = under_load(&kms, &key, 20, 7).await;
    assert!(halved >= 85, "{halved} of 100 per second");
    assert!(throttled <= 0.25, "{throttled} of all requests were throttled");
    kms.service.change(|knobs| knobs.quota = quota(200.0));
    under_load(&kms, &key, 20, 16).await;
    let (doubled, _) = under_load(&kms, &key, 20, 5).await;
    assert!(doubled >= 170, "{doubled} of 200 per second");
}

#[tokio::test]
async fn who_would_wait_too_long_is_told_at_once_and_when_to_come_back() {
    let kms = Kms::start(Knobs {
        latency: Latency::Fixed(Duration::from_millis(100)),
        ..Knobs::default()
    });
    let pace = Pace {
        max_in_flight: 2,
        max_rate: 20,
        queue_wait: Duration::from_millis(500),
        attempt_timeout: Duration::from_secs(2),
    };
    let (_store, key) = kms.key_at(pace).await;
    let waiting: Vec<_> = (0..30)
        .map(|_| {
            let key = Arc::clone(&key);
            tokio::spawn(async move { sign(&key, soon()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let asked = Instant::now();
    let busy = sign(&key, soon()).await.unwrap_err();
    let took = asked.elapsed();
    assert!(
        matches!(busy, SignError::Busy { retry_after, .. } if !retry_after.is_zero()),
        "{busy}"
    );
    assert!(took < Duration::from_millis(5), "it took {took:?}");
    let short = sign(&key, within(Duration::from_millis(30))).await.unwrap_err();
    assert!(matches!(short, SignError::Busy { .. }), "{short}");
    let mut served = 0;
    for caller in waiting {
        match caller.await.unwrap() {
            Ok(_) => served += 1,
            Err(error) => assert!(matches!(error, SignError::Busy { .. }), "{error}"),
        }
    }
    assert!((5..=14).contains(&served), "{served} of about ten were served within the wait");
}

#[tokio::test]
async fn a_caller_is_answered_by_its_deadline_whatever_kms_does() {
    let kms = started();
    let (_store, key) = kms.key().await;
    kms.service.change(|knobs| knobs.faults.set(Fault::Hang, 1.0));
    for patience in [50, 200, 2500] {
        let (patience, asked) = (Duration::from_millis(patience), Instant::now());
        let late = sign(&key, within(patience)).await.unwrap_err();
        assert!(matches!(late, SignError::Late { .. }), "{late}");
        let over = asked.elapsed().saturating_sub(patience);
        assert!(over < Duration::from_millis(100), "{over:?} after the deadline");
    }
}

#[tokio::test]
async fn those_who_leave_give_back_their_places() {
    let kms = started();
    let pace = Pace { max_in_flight: 2, ..kms.settings().pace };
    let (_store, key) = kms.key_at(pace).await;
    kms.service.change(|knobs| knobs.faults.set(Fault::Hang, 1.0));
    let gone: Vec<_> = (0..20)
        .map(|_| {
            let key = Arc::clone(&key);
            tokio::spawn(async move { sign(&key, soon()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    gone.iter().for_each(tokio::task::JoinHandle::abort);
    for caller in gone {
        assert!(caller.await.unwrap_err().is_cancelled());
    }
    kms.service.change(|knobs| knobs.faults.set(Fault::Hang, 0.0));
    sign(&key, within(Duration::from_secs(1))).await.unwrap();
    assert!(kms.asked(Operation::Sign) <= 3, "those who wait for their turn are not sent");
    assert!(kms.figures().contains("outcome=\"abandoned\"} 20"), "{}", kms.figures());
}

#[tokio::test]
async fn a_kms_that_is_away_is_told_as_such_and_found_again_by_itself() {
    let kms = started();
    let pace = Pace { queue_wait: Duration::from_millis(300), ..kms.settings().pace };
    let (_store, key) = kms.key_at(pace).await;
    kms.service.change(|knobs| knobs.faults.set(Fault::DropBefore, 1.0));
    let answers = load(&key, 20, Duration::from_secs(2)).await;
    assert_eq!(good(&answers), 0);
    let asked = kms.asked(Operation::Sign);
    for answer in &answers {
        assert!(
            matches!(answer, Err(SignError::Unavailable { .. } | SignError::Busy { .. })),
            "{answer:?}"
        );
    }
    assert!(asked < 200, "{asked} requests to a KMS that is away");
    kms.service.change(|knobs| knobs.faults.set(Fault::DropBefore, 0.0));
    let healed = Instant::now();
    while sign(&key, within(Duration::from_secs(2))).await.is_err() {
        assert!(healed.elapsed() < Duration::from_secs(2), "it is back, and not found");
    }
    let answers = load(&key, 5, Duration::from_millis(300)).await;
    assert_eq!(good(&answers), answers.len(), "all is as it was before");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_mixture_of_faults_nothing_wrong_is_released_and_nobody_is_lost() {
    let kms = Kms::start(Knobs { seed: 7, ..Knobs::default() });
    let pace =
        Pace { attempt_timeout: Duration::from_millis(200), max_rate: 2000, ..kms.settings().pace };
    let (_store, key) = kms.key_at(pace).await;
    kms.service.change(|knobs| {
        for fault in Fault::ALL {
            knobs.faults.set(fault, 0.005);
        }
    });
    let answers = load(&key, 16, Duration::from_secs(3)).await;
    let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    // Two faults in a row on one signature that are each of a wrong answer.
    assert!(
        failed.len() * 100 <= answers.len(),
        "{} of {}: {failed:?}",
        failed.len(),
        answers.len()
    );
    assert!(answers.len() > 300, "{}", answers.len());
}

#[tokio::test]
async fn no_secret_is_shown() {
    let kms = started();
    let (store, key) = kms.key().await;
    kms.service.change(|knobs| knobs.denied = [Operation::Sign].into());
    let refused = sign(&key, soon()).await.unwrap_err();
    let shown =
        format!("{store:?} {key:?} {refused:?} {refused} {:?} {}", kms.settings(), kms.figures());
    assert!(!shown.contains(kms.service.credentials().secret_access_key()), "{shown}");
}
