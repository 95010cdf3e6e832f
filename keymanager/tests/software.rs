//! Software keys, in memory and sealed on disk.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ca_core::key::{KeyError, KeyName, KeyStore, KeyType, Priority, ToBeSigned, Urgency, contract};
use keymanager::metrics::StoreMetrics;
use keymanager::{Oversight, SealKey, SecretSource, SoftwareStore, Verification};
use tempfile::TempDir;

const DOMAIN: &str = "software.test";
/// What signs.
const LIBRARY: &str = if cfg!(feature = "ring") { "ring" } else { "aws-lc-rs" };

/// A directory of keys and its seal key, side by side.
struct Sealed(TempDir);

impl Sealed {
    async fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        SealKey::create_file(&home.seal_file()).await.unwrap();
        home
    }

    fn seal_file(&self) -> PathBuf {
        self.0.path().join("seal.key")
    }

    fn keys(&self) -> PathBuf {
        self.0.path().join("keys")
    }

    async fn seal(&self) -> SealKey {
        SealKey::read(&SecretSource::File(self.seal_file())).await.unwrap()
    }

    async fn open(&self, trust_domain: &str) -> Result<SoftwareStore, KeyError> {
        SoftwareStore::open(self.keys(), self.seal().await, trust_domain, oversight()).await
    }
}

fn name(text: &str) -> KeyName {
    KeyName::parse(&format!("mintmark/{DOMAIN}/{text}")).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    let kept = contract::key_store(&SoftwareStore::in_memory(DOMAIN), DOMAIN).await;
    kept.report(&format!("software ({LIBRARY})"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_files_keep_the_contract() {
    let home = Sealed::new().await;
    let kept = contract::key_store(&home.open(DOMAIN).await.unwrap(), DOMAIN).await;
    kept.report(&format!("sealed file ({LIBRARY})"));
}

#[tokio::test]
async fn a_sealed_key_is_the_same_key_after_a_restart() {
    let home = Sealed::new().await;
    let made = home.open(DOMAIN).await.unwrap().create(&name("x509/1"), KeyType::EcP256).await;
    let made = made.unwrap();
    let again = home.open(DOMAIN).await.unwrap().find(&name("x509/1")).await.unwrap().unwrap();
    assert_eq!(again.public_key(), made.public_key());
    let probe = ToBeSigned::probe([7; 32], made.algorithm());
    let soon = Urgency::within(Priority::New, Duration::from_secs(60), Instant::now());
    let signature = again.sign(probe.clone(), soon).await.unwrap();
    assert!(made.public_key().verifies(probe.message(), &signature));
}

#[tokio::test]
async fn nobody_else_can_read_the_files_and_no_draft_is_left() {
    let home = Sealed::new().await;
    home.open(DOMAIN).await.unwrap().create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    assert_eq!(mode(&home.seal_file()), 0o600);
    assert_eq!(mode(&home.keys()), 0o700);
    let files: Vec<_> = fs::read_dir(home.keys()).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files, [home.keys().join("x509+1.sealed")]);
    assert_eq!(mode(&files[0]), 0o600);
}

#[tokio::test]
async fn a_renamed_a_copied_and_a_changed_file_are_refused() {
    let home = Sealed::new().await;
    let store = home.open(DOMAIN).await.unwrap();
    store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let file = home.keys().join("x509+1.sealed");

    fs::copy(&file, home.keys().join("jwt+1.sealed")).unwrap();
    let renamed = store.find(&name("jwt/1")).await.map(|_| ());
    assert!(matches!(renamed, Err(KeyError::Unsafe { .. })), "{renamed:?}");
    let described = store.describe(&name("jwt/1")).await;
    assert!(matches!(described, Err(KeyError::Unsafe { .. })), "{described:?}");
    assert_eq!(store.list().await.unwrap(), [name("jwt/1"), name("x509/1")]);
    fs::remove_file(home.keys().join("jwt+1.sealed")).unwrap();

    let other = home.open("other.test").await.unwrap();
    let copied = other.find(&KeyName::parse("mintmark/other.test/x509/1").unwrap()).await;
    assert!(matches!(copied, Err(KeyError::Unsafe { .. })), "{copied:?}");

    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let changed = store.find(&name("x509/1")).await.map(|_| ());
    assert!(matches!(changed, Err(KeyError::Unsafe { .. })), "{changed:?}");
}

#[tokio::test]
async fn another_seal_key_opens_nothing() {
    let home = Sealed::new().await;
    home.open(DOMAIN).await.unwrap().create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    fs::remove_file(home.seal_file()).unwrap();
    SealKey::create_file(&home.seal_file()).await.unwrap();
    let found = home.open(DOMAIN).await.unwrap().find(&name("x509/1")).await.map(|_| ());
    assert!(matches!(found, Err(KeyError::Unsafe { .. })), "{found:?}");
}

#[tokio::test]
async fn an_open_directory_or_an_impossible_one_is_refused() {
    let home = Sealed::new().await;
    fs::create_dir(home.keys()).unwrap();
    fs::set_permissions(home.keys(), fs::Permissions::from_mode(0o750)).unwrap();
    let error = home.open(DOMAIN).await.unwrap_err();
    assert!(matches!(error, KeyError::Setup { .. }), "{error}");
    assert!(error.to_string().contains("chmod 700"), "{error}");

    for path in [home.seal_file(), home.seal_file().join("keys")] {
        let error =
            SoftwareStore::open(path, home.seal().await, DOMAIN, oversight()).await.unwrap_err();
        assert!(matches!(error, KeyError::Setup { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_seal_key_file_is_never_replaced() {
    let home = Sealed::new().await;
    let before = fs::read(home.seal_file()).unwrap();
    let error = SealKey::create_file(&home.seal_file()).await.unwrap_err();
    assert!(matches!(error, KeyError::Setup { .. }), "{error}");
    assert_eq!(fs::read(home.seal_file()).unwrap(), before);
}

#[tokio::test]
async fn a_seal_key_that_others_can_read_is_refused() {
    let home = Sealed::new().await;
    fs::set_permissions(home.seal_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let error = SealKey::read(&SecretSource::File(home.seal_file())).await.unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creations_of_one_name_one_succeeds() {
    let home = Sealed::new().await;
    let store = home.open(DOMAIN).await.unwrap();
    let one = name("x509/1");
    let tries = [(); 8].map(|()| store.create(&one, KeyType::EcP256));
    let [a, b, c, d, e, f, g, h] = tries;
    let (a, b, c, d, e, f, g, h) = tokio::join!(a, b, c, d, e, f, g, h);
    let results = [a, b, c, d, e, f, g, h];
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(error, KeyError::Exists(name("x509/1")));
    }
}

/// In a process of its own, in which every write to a file fails as on a full disk.
#[tokio::test]
async fn a_seal_key_that_cannot_be_written_leaves_nothing_in_the_way_of_the_next_try() {
    const NAME: &str =
        "a_seal_key_that_cannot_be_written_leaves_nothing_in_the_way_of_the_next_try";
    const CHILD: &str = "SEAL_TEST_CHILD";
    if let Some(path) = std::env::var_os(CHILD) {
        let error = SealKey::create_file(Path::new(&path)).await.unwrap_err();
        assert!(error.to_string().contains("File too large"), "{error}");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("seal.key");
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!path.exists());
    SealKey::create_file(&path).await.unwrap();
    SealKey::read(&SecretSource::File(path)).await.unwrap();
}

fn oversight() -> Oversight {
    Oversight { verification: Verification::INSIDE, metrics: StoreMetrics::default() }
}
