//! The record of keys: those prepared by an administrator, those retired, and those that may be destroyed.

#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

use std::time::{Duration, Instant};

use ca_core::authority::{
    self, Authorities, AuthorityError, AuthorityKind, AuthoritySettings, CaSubject, KeyCreation,
    KeyVerdict, Ledger, PreparedKeys, Retirement, Standing, Verdict, expired_keys,
};
use ca_core::clock::Timestamp;
use ca_core::id::TrustDomain;
use ca_core::issuer::Lifetimes;
use ca_core::key::{KeyError, KeyName, KeyStore, KeyType, Priority, RsaScheme, Urgency};
use ca_core::serial::RandomSerials;
use ca_core::store::Embedded;
use ca_core::token::TokenSettings;
use keymanager::SoftwareStore;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    Timestamp::from_unix(1_800_000_000)
}

fn name(rest: &str) -> KeyName {
    KeyName::parse(&format!("mintmark/example.test/{rest}")).unwrap()
}

/// A state store and a key store; an authority lives ten days.
struct World {
    store: Embedded,
    keys: SoftwareStore,
    _directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            store: Embedded::open(directory.path()).unwrap(),
            keys: SoftwareStore::in_memory("example.test"),
            _directory: directory,
        }
    }

    /// A world with these keys of P-256.
    async fn with(names: &[&str]) -> Self {
        let world = Self::new();
        world.prepare(names).await;
        world
    }

    async fn prepare(&self, names: &[&str]) {
        for rest in names {
            self.keys.create(&name(rest), KeyType::EcP256).await.unwrap();
        }
    }

    async fn start(
        &self,
        creation: KeyCreation,
        at: Timestamp,
    ) -> Result<Authorities, AuthorityError> {
        let settings = AuthoritySettings {
            trust_domain: TrustDomain::parse("example.test").unwrap(),
            ca_key_type: KeyType::EcP256,
            jwt_key_type: KeyType::EcP256,
            key_creation: creation,
            rsa_scheme: RsaScheme::Pkcs1,
            ca_ttl: 10 * DAY,
            ca_subject: CaSubject { common_name: Some("Root".to_owned()), ..CaSubject::default() },
            lifetimes: Lifetimes::default(),
            tokens: TokenSettings::default(),
            refresh_hint: Duration::from_secs(300),
        };
        let (serials, patience) = (RandomSerials::new(), Duration::from_secs(60));
        let urgency = Urgency::within(Priority::New, patience, Instant::now());
        authority::establish(&settings, &self.store, &self.keys, &serials, at, urgency).await
    }

    async fn retire(&self, rest: &str, at: Timestamp) -> Result<Timestamp, AuthorityError> {
        let retirement = Retirement::of(&self.keys, &name(rest)).await?;
        retirement.carry_out(&self.store, &self.keys, None, 10 * DAY, at).await
    }

    /// Another process on the same stores: what it retired is forgotten, the record is not.
    async fn verdict(&self, rest: &str, at: Timestamp) -> KeyVerdict {
        let ledger = Ledger::read(&self.store).await.unwrap();
        let verdicts = expired_keys(&ledger, &self.keys, at).await.unwrap();
        verdicts.into_iter().find(|verdict| verdict.name == name(rest)).unwrap()
    }

    async fn standing(&self, rest: &str) -> Standing {
        Ledger::read(&self.store).await.unwrap().standing(&name(rest), None)
    }
}

#[track_caller]
fn assert_kept(verdict: &KeyVerdict, standing: &str, said: &str) {
    assert_eq!(verdict.standing.name(), standing);
    match &verdict.verdict {
        Verdict::Kept { reason, .. } => assert!(reason.contains(said), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_leave_to_make_keys_none_is_made_and_the_advice_is_the_command() {
    let world = World::new();
    let failed = world.start(KeyCreation::Never, now()).await.unwrap_err();
    assert!(matches!(failed, AuthorityError::NoPreparedKey { kind: AuthorityKind::X509, .. }));
    assert!(failed.to_string().contains("mintmark key create --authority x509"), "{failed}");
    assert!(world.keys.list().await.unwrap().is_empty());

    world.prepare(&["x509/1"]).await;
    let failed = world.start(KeyCreation::Never, now()).await.unwrap_err();
    assert!(matches!(failed, AuthorityError::NoPreparedKey { kind: AuthorityKind::Jwt, .. }));
    world.prepare(&["jwt/1"]).await;
    let started = world.start(KeyCreation::Never, now()).await.unwrap();
    assert_eq!(started.prepared, Some(PreparedKeys { x509: 0, jwt: 0 }));
    assert_eq!(world.keys.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_lowest_prepared_key_that_fits_is_taken_and_the_rest_are_counted() {
    let world = World::with(&["x509/10", "x509/9", "x509/100", "x509/07", "jwt/3"]).await;
    world.keys.create(&name("x509/2"), KeyType::EcP384).await.unwrap();
    let started = world.start(KeyCreation::Never, now()).await.unwrap();
    assert_eq!((started.x509_key, started.jwt_key), (name("x509/9"), name("jwt/3")));
    assert_eq!(started.prepared, Some(PreparedKeys { x509: 2, jwt: 0 }));

    // The same at the next start, and the next key when the authority has ended.
    let again = world.start(KeyCreation::Never, now()).await.unwrap();
    assert_eq!(again.x509_key, name("x509/9"));
    world.prepare(&["jwt/4"]).await;
    let later = world.start(KeyCreation::Never, now().plus(11 * DAY)).await.unwrap();
    assert_eq!((later.x509_key, later.jwt_key), (name("x509/10"), name("jwt/4")));
    assert_eq!(later.prepared, Some(PreparedKeys { x509: 1, jwt: 0 }));
}

#[tokio::test]
async fn where_keys_are_made_when_needed_nothing_is_counted() {
    let started = World::new().start(KeyCreation::Auto, now()).await.unwrap();
    assert_eq!(started.prepared, None);
}

#[tokio::test]
async fn a_retired_key_is_never_taken_and_its_store_hears_of_it() {
    for creation in [KeyCreation::Auto, KeyCreation::Never] {
        let world = World::with(&["x509/1", "x509/2", "jwt/1"]).await;
        world.retire("x509/1", now()).await.unwrap();
        let restarted = World { keys: SoftwareStore::in_memory("example.test"), ..world };
        restarted.prepare(&["x509/1", "x509/2", "jwt/1"]).await;
        let started = restarted.start(creation, now()).await.unwrap();
        match creation {
            KeyCreation::Auto => assert_eq!(started.x509_key, name("x509/3")),
            KeyCreation::Never => assert_eq!(started.x509_key, name("x509/2")),
        }
        assert!(restarted.keys.find(&name("x509/1")).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn the_key_of_an_authority_that_is_needed_is_not_retired() {
    let world = World::new();
    world.start(KeyCreation::Auto, now()).await.unwrap();
    for key in ["x509/1", "jwt/1"] {
        let refused = world.retire(key, now()).await.unwrap_err();
        assert!(matches!(refused, AuthorityError::KeyInUse { .. }), "{refused}");
        assert!(refused.to_string().contains("the active authority"), "{refused}");
    }
    let missing = world.retire("x509/9", now()).await;
    assert!(matches!(missing, Err(AuthorityError::Key(KeyError::NotFound(_)))), "{missing:?}");
    world.start(KeyCreation::Auto, now()).await.unwrap();
}

#[tokio::test]
async fn a_key_that_a_process_signs_with_is_neither_retired_nor_destroyed_by_it() {
    let world = World::new();
    let first = world.start(KeyCreation::Auto, now()).await.unwrap();
    let after = now().plus(11 * DAY);
    world.start(KeyCreation::Auto, after).await.unwrap();
    assert!(matches!(world.standing("x509/1").await, Standing::Old { .. }));

    let mut ledger = Ledger::read(&world.store).await.unwrap();
    ledger.mark_in_use(&first);
    let far = after.plus(100 * DAY);
    for verdict in expired_keys(&ledger, &world.keys, far).await.unwrap() {
        assert_kept(&verdict, "active", "signs with it");
    }
    let retirement = Retirement::of(&world.keys, &name("x509/1")).await.unwrap();
    let signing = Some(&first);
    let refused = retirement.carry_out(&world.store, &world.keys, signing, DAY, far).await;
    assert!(matches!(refused, Err(AuthorityError::KeyInUse { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_a_retired_key_may_have_signed_ends_with_its_authority_or_a_life_from_now() {
    let world = World::with(&["x509/1"]).await;
    world.start(KeyCreation::Auto, now()).await.unwrap();
    let after = now().plus(11 * DAY);
    world.start(KeyCreation::Auto, after).await.unwrap();
    assert_eq!(world.retire("x509/2", after).await.unwrap(), now().plus(10 * DAY));
    assert_eq!(world.retire("x509/1", after).await.unwrap(), after.plus(10 * DAY));
    // Again, later: nothing changes.
    let restarted = World { keys: SoftwareStore::in_memory("example.test"), ..world };
    restarted.prepare(&["x509/1"]).await;
    let recorded = restarted.standing("x509/1").await;
    assert_eq!(
        recorded,
        Standing::Retired { retired_at: after, certificates_end: after.plus(10 * DAY) }
    );
}

#[tokio::test]
async fn a_key_is_destroyable_a_day_after_the_last_end_and_no_second_before() {
    let world = World::new();
    world.start(KeyCreation::Auto, now()).await.unwrap();
    let end = now().plus(10 * DAY);
    assert_kept(&world.verdict("x509/1", end.plus(99 * DAY)).await, "active", "signs with it");

    world.start(KeyCreation::Auto, end.plus(Duration::from_secs(1))).await.unwrap();
    for key in ["x509/1", "jwt/1"] {
        assert_kept(&world.verdict(key, end.plus(DAY)).await, "old", &end.to_string());
        let verdict = world.verdict(key, end.plus(DAY).plus(Duration::from_secs(1))).await;
        let Verdict::Destroyable(expired) = &verdict.verdict else { panic!("{verdict:?}") };
        assert_eq!((expired.name(), verdict.standing.name()), (&name(key), "old"));
        world.keys.destroy(expired).await.unwrap();
    }
    assert_eq!(world.keys.list().await.unwrap(), [name("jwt/2"), name("x509/2")]);
    assert_eq!(world.standing("x509/1").await.name(), "old", "the record stays");
}

#[tokio::test]
async fn a_key_that_nobody_retired_is_kept() {
    let world = World::with(&["x509/1", "x509/9", "x509/x", "other/1"]).await;
    world.start(KeyCreation::Auto, now()).await.unwrap();
    let far = now().plus(9_999 * DAY);
    assert_kept(&world.verdict("x509/1", far).await, "unknown", "retire it first");
    assert_kept(&world.verdict("x509/9", far).await, "prepared", "retire it first");
    assert_kept(&world.verdict("x509/x", far).await, "unknown", "retire it first");
    assert_kept(&world.verdict("other/1", far).await, "unknown", "retire it first");
}

#[tokio::test]
async fn another_key_under_a_recorded_name_is_not_ours_to_destroy() {
    let world = World::new();
    world.start(KeyCreation::Auto, now()).await.unwrap();
    let after = now().plus(12 * DAY);
    world.start(KeyCreation::Auto, after).await.unwrap();
    let other = World { keys: SoftwareStore::in_memory("example.test"), ..world };
    other.prepare(&["x509/1"]).await;
    assert_kept(&other.verdict("x509/1", after).await, "unknown", "another key of that name");
    let refused = other.retire("x509/1", after).await.unwrap_err();
    assert!(refused.to_string().contains("[issuing] keys"), "{refused}");
}
