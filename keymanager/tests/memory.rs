//! What can be found in the memory of a process that held keys and a PIN, and what it leaves behind.
//!
//! Each test runs a part of itself in a process of its own, whose memory it reads as a debugger would:
//! all that a core dump would hold.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ca_core::der::{self, tag};
use ca_core::key::{KeyName, KeyStore, KeyType, Priority, SigningKey, ToBeSigned, Urgency};
use keymanager::memory::{Gap, guard_process};
use keymanager::metrics::StoreMetrics;
use keymanager::pkcs11::{Settings, TokenSelector};
use keymanager::{Oversight, Pkcs11Store, SealKey, SecretSource, SoftwareStore, Verification};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, setrlimit,
};
use tokio::runtime::Runtime;

const DOMAIN: &str = "memory.test";

/// Names the folder in which a process of a test works; only there.
const CHILD: &str = "MEMORY_TEST_CHILD";

#[test]
fn an_abort_of_a_guarded_process_leaves_no_core_dump() {
    const NAME: &str = "an_abort_of_a_guarded_process_leaves_no_core_dump";
    if std::env::var_os(CHILD).is_some() {
        // As far from safe as a service manager may have made it.
        let Rlimit { maximum, .. } = getrlimit(Resource::Core);
        setrlimit(Resource::Core, Rlimit { current: maximum, maximum }).unwrap();
        let protection = guard_process();
        assert!(protection.gaps().iter().all(|gap| matches!(gap, Gap::Swappable(_))));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        assert_eq!(getrlimit(Resource::Core), none);
        std::process::abort();
    }
    let folder = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = child(NAME, folder.path()).output().unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert_eq!(status.signal(), Some(6), "it ends by SIGABRT: {status}: {said}");
    assert!(!status.core_dumped(), "{status}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn memory_is_locked_or_the_way_to_lock_it_is_told_and_work_goes_on() {
    const NAME: &str = "memory_is_locked_or_the_way_to_lock_it_is_told_and_work_goes_on";
    if std::env::var_os(CHILD).is_some() {
        let protection = guard_process();
        let locked = locked_kib();
        match protection.gaps() {
            [] => assert!(locked > 0, "{locked} KiB are locked"),
            [gap @ Gap::Swappable(_)] => {
                assert!(gap.to_string().contains("LimitMEMLOCK=infinity"), "{gap}");
                assert_eq!(locked, 0, "a lock under a limit makes later allocations fail");
            }
            gaps => panic!("{gaps:?}"),
        }
        // Beyond any limit that this process may have found.
        assert_eq!(vec![1_u8; 64 << 20].iter().filter(|byte| **byte == 1).count(), 64 << 20);
        assert_eq!(guard_process(), protection, "a second call changes nothing");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = child(NAME, folder.path()).output().unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(status.success(), "{said}");
}

#[test]
fn sealed_keys_and_their_seal_key_are_wiped_when_the_store_is_dropped() {
    const NAME: &str = "sealed_keys_and_their_seal_key_are_wiped_when_the_store_is_dropped";
    if let Some(folder) = std::env::var_os(CHILD) {
        return hold_sealed_keys(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut seal = [0; 32];
    aws_lc_rs::rand::fill(&mut seal).unwrap();
    write_private(&seal_file(folder.path()), STANDARD.encode(seal).as_bytes());

    let mut holder = Holder::start(child(NAME, folder.path()));
    let mut secrets = vec![Secret::new("seal key", &seal)];
    secrets.push(Secret::new("seal key as text", STANDARD.encode(seal).as_bytes()));
    for key_type in KEY_TYPES {
        secrets.extend(parts(*key_type, &unseal(folder.path(), &seal, *key_type)));
    }
    let held = holder.find(&secrets);
    assert!(held.contains(&"seal key"), "the search finds what is there: {held:?}");
    for key_type in KEY_TYPES {
        let found = held.iter().any(|name| name.starts_with(key_type.name()));
        assert!(found, "the search finds a {key_type} key that is there: {held:?}");
    }
    holder.drop_everything();
    let left = holder.find(&secrets);
    assert!(left.is_empty(), "still in memory: {left:?}");
}

/// What ring holds of a key is not wiped, and it makes no RSA keys and no ML-DSA ones.
#[cfg(feature = "ring")]
const KEY_TYPES: &[KeyType] = &[];
#[cfg(not(feature = "ring"))]
const KEY_TYPES: &[KeyType] = &[
    KeyType::EcP256,
    KeyType::EcP384,
    KeyType::Ed25519,
    KeyType::Rsa2048,
    KeyType::MlDsa44,
    KeyType::MlDsa65,
];

fn hold_sealed_keys(folder: &Path) {
    let runtime = Runtime::new().unwrap();
    let keys = runtime.block_on(async {
        let seal = SealKey::read(&SecretSource::File(seal_file(folder))).await.unwrap();
        let store = SoftwareStore::open(folder.join("keys"), seal, DOMAIN, oversight());
        let store = store.await.unwrap();
        let mut keys = Vec::new();
        for key_type in KEY_TYPES {
            store.create(&name(*key_type), *key_type).await.unwrap();
            let key = store.find(&name(*key_type)).await.unwrap().unwrap();
            sign(&*key).await;
            keys.push(key);
        }
        (store, keys)
    });
    say_and_wait("held");
    drop(keys);
    // The runtime stays, as it does in a server: with it the stacks of its threads.
    say_and_wait("dropped");
}

#[test]
fn a_pin_is_wiped_once_its_token_is_logged_in_to() {
    const NAME: &str = "a_pin_is_wiped_once_its_token_is_logged_in_to";
    if let Some(folder) = std::env::var_os(CHILD) {
        return hold_a_token(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../softhsm/token.sh");
    let made = Command::new(script).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pin = fs::read_to_string(folder.path().join("pin")).unwrap();

    let mut command = child(NAME, folder.path());
    command.env("SOFTHSM2_CONF", folder.path().join("softhsm2.conf"));
    let mut holder = Holder::start(command);
    let secrets = [Secret::new("PIN", pin.trim_end().as_bytes())];
    // That the search finds what is there is shown with the seal key.
    assert!(holder.find(&secrets).is_empty(), "the PIN is in memory while the token is in use");
    holder.drop_everything();
    assert!(holder.find(&secrets).is_empty(), "the PIN is still in memory");
}

fn hold_a_token(folder: &Path) {
    let runtime = Runtime::new().unwrap();
    let module = softhsm::find_module().unwrap();
    let pin = SecretSource::File(folder.join("pin"));
    let settings = Settings::new(module, TokenSelector::label("mintmark"), pin, oversight());
    let held = runtime.block_on(async {
        let store = Pkcs11Store::open(settings, DOMAIN).await.unwrap();
        let key = store.create(&name(KeyType::EcP256), KeyType::EcP256).await.unwrap();
        sign(&*key).await;
        (store, key)
    });
    say_and_wait("held");
    drop(held);
    say_and_wait("dropped");
}

async fn sign(key: &dyn SigningKey) {
    let probe = ToBeSigned::probe([7; 32], key.algorithm());
    let soon = Urgency::within(Priority::New, Duration::from_secs(60), Instant::now());
    key.sign(probe, soon).await.unwrap();
}

fn name(key_type: KeyType) -> KeyName {
    KeyName::parse(&format!("mintmark/{DOMAIN}/{key_type}/1")).unwrap()
}

fn oversight() -> Oversight {
    Oversight { verification: Verification::INSIDE, metrics: StoreMetrics::default() }
}

fn seal_file(folder: &Path) -> PathBuf {
    folder.join("seal.key")
}

fn write_private(path: &Path, content: &[u8]) {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(content).unwrap();
}

/// Opens a sealed file by what is written about its format.
fn unseal(folder: &Path, seal: &[u8; 32], key_type: KeyType) -> Vec<u8> {
    let file = folder.join("keys").join(format!("{key_type}+1.sealed"));
    let sealed = fs::read(&file).unwrap();
    let (header, rest) = sealed.split_at(10);
    let (nonce, content) = rest.split_at(12);
    let mut bound = header.to_vec();
    for part in [DOMAIN, name(key_type).as_str()] {
        bound.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        bound.extend_from_slice(part.as_bytes());
    }
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, seal).unwrap());
    let mut content = content.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
    cipher.open_in_place(nonce, Aad::from(bound), &mut content).unwrap().to_vec()
}

/// What is secret in a PKCS#8, in both byte orders: libraries hold numbers with the lowest byte first.
fn parts(key_type: KeyType, pkcs8: &[u8]) -> Vec<Secret> {
    let mut outer = der::sole(pkcs8, tag::SEQUENCE, "PKCS#8").unwrap();
    outer.unsigned("version").unwrap();
    outer.any("algorithm").unwrap();
    let private = outer.expect(tag::OCTET_STRING, "key").unwrap().value;
    let secrets: Vec<&[u8]> = match key_type {
        KeyType::EcP256 | KeyType::EcP384 => {
            let mut key = der::sole(private, tag::SEQUENCE, "ECPrivateKey").unwrap();
            key.unsigned("version").unwrap();
            vec![key.expect(tag::OCTET_STRING, "scalar").unwrap().value]
        }
        KeyType::Ed25519 => {
            let mut key = der::Reader::new(private);
            vec![key.expect(tag::OCTET_STRING, "seed").unwrap().value]
        }
        KeyType::MlDsa44 | KeyType::MlDsa65 => {
            // RFC 9881 §6: the seed, as [0].
            vec![&private[private.len() - 32..]]
        }
        _ => {
            let mut key = der::sole(private, tag::SEQUENCE, "RSAPrivateKey").unwrap();
            let mut numbers = Vec::new();
            while !key.is_empty() {
                numbers.push(key.unsigned("number").unwrap());
            }
            // Version, modulus and public exponent are no secrets.
            numbers.split_off(3)
        }
    };
    let both = |secret: &[u8]| [secret.to_vec(), secret.iter().rev().copied().collect()];
    secrets.into_iter().flat_map(both).map(|bytes| Secret::new(key_type.name(), &bytes)).collect()
}

/// What is looked for, and what to call it.
struct Secret {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Secret {
    fn new(name: &'static str, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 16, "{name} is too short to be found by chance only");
        Self { name, bytes: bytes.to_vec() }
    }
}

/// A process that holds secrets, then drops them.
struct Holder {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Holder {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Self { child, output };
        holder.wait_for("held");
        holder
    }

    fn drop_everything(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.wait_for("dropped");
    }

    fn wait_for(&mut self, stage: &str) {
        let mut line = String::new();
        while !line.trim_end().ends_with(stage) {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended before {stage}");
        }
    }

    /// The names of those secrets that are in its memory now.
    fn find(&self, secrets: &[Secret]) -> Vec<&'static str> {
        let bytes: Vec<&[u8]> = secrets.iter().map(|secret| &secret.bytes[..]).collect();
        let counts = peers::memory::search(self.child.id(), &bytes).unwrap();
        let found = secrets.iter().zip(counts).filter(|(_, count)| *count > 0);
        found.map(|(secret, _)| secret.name).collect()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends by itself once its input is closed.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Tells the parent, and waits until it has looked.
fn say_and_wait(stage: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{stage}").unwrap();
    out.flush().unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

fn locked_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// The test of this name in a process of its own, in this folder.
fn child(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, folder)
        .current_dir(folder);
    command
}
