//! Keys in a transit engine, against OpenBao's own server, one for each test.

#![expect(clippy::unwrap_used, reason = "a test: the message is the line")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use ca_core::key::{
    KeyError, KeyName, KeyStore, KeyType, Priority, SignError, Signature, SigningKey, ToBeSigned,
    Urgency, contract,
};
use keymanager::metrics::StoreMetrics;
use keymanager::transit::{self, Settings};
use keymanager::{Oversight, Pace, RemoteStore, SecretSource, Verification};
use peers::openbao::{OpenBao, Secret};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

const DOMAIN: &str = "vault.test";
/// How the engine calls `x509/1` of the trust domain.
const KEY: &str = "mintmark.vault.test.x509.1";

/// What a service needs to use and make keys, and to destroy them.
const RULES: &str = r#"
    path "transit/sign/mintmark.vault.test.*" { capabilities = ["update"] }
    path "transit/keys/mintmark.vault.test.*" { capabilities = ["read", "update", "delete"] }
    path "transit/keys" { capabilities = ["list"] }"#;

/// What all tests of this process log. A subscriber of one test would miss what another has logged first: whether a
/// line is wanted is asked once.
fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER
        .call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| ToLog).init());
    &LOG
}

struct ToLog;

impl std::io::Write for ToLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        log().lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A server and the token file of a service that uses it.
struct Bao {
    server: OpenBao,
    home: TempDir,
}

impl Bao {
    fn start() -> Self {
        Self::of(OpenBao::start().unwrap(), tempfile::tempdir().unwrap())
    }

    /// One that listens with TLS too, by a certificate for this name; `ca.pem` is what that leads to.
    fn with_tls(name: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = authority();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        let file = |name: &str, content: String| {
            let path = home.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        file("ca.pem", authority.pem());
        let certificate = file("server.pem", certificate.pem());
        let key = file("server.key", key.serialize_pem());
        Self::of(OpenBao::start_with_tls(&certificate, &key).unwrap(), home)
    }

    /// The way to it with TLS, by `ca.pem`.
    fn tls_settings(&self) -> Settings {
        let ca_file = Some(self.home.path().join("ca.pem"));
        Settings { address: self.server.tls_address().unwrap(), ca_file, ..self.settings() }
    }

    fn of(server: OpenBao, home: TempDir) -> Self {
        log();
        let bao = Self { server, home };
        bao.give(&bao.token(Duration::from_secs(3600)));
        bao
    }

    fn token(&self, life: Duration) -> Secret {
        self.server.token(RULES, life).unwrap()
    }

    fn token_file(&self) -> PathBuf {
        self.home.path().join("token")
    }

    fn give(&self, token: &Secret) {
        std::fs::write(self.token_file(), format!("{}\n", token.expose())).unwrap();
        std::fs::set_permissions(self.token_file(), std::fs::Permissions::from_mode(0o600))
            .unwrap();
    }

    fn settings(&self) -> Settings {
        let token = SecretSource::File(self.token_file());
        let settings = Settings::of_server(&self.server.address(), token);
        let pace = Pace { queue_wait: Duration::from_secs(2), ..settings.pace };
        Settings { pace, ..settings }
    }

    async fn try_open(&self, settings: Settings) -> Result<RemoteStore, KeyError> {
        let metrics = StoreMetrics::default();
        let oversight = Oversight { verification: Verification::OUTSIDE, metrics };
        transit::open(settings, DOMAIN, oversight).await
    }

    async fn open(&self) -> RemoteStore {
        self.try_open(self.settings()).await.unwrap()
    }

    async fn key(&self) -> (RemoteStore, Arc<dyn SigningKey>) {
        let store = self.open().await;
        let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
        (store, key)
    }

    /// Why `x509/1` is refused when it is looked for.
    async fn refusal(&self) -> String {
        let refused = self.open().await.find(&name("x509/1")).await.unwrap_err();
        assert!(matches!(refused, KeyError::Unsafe { .. }), "{refused}");
        refused.to_string()
    }
}

/// A new authority for certificates of servers.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap()
}

fn name(text: &str) -> KeyName {
    KeyName::parse(&format!("mintmark/{DOMAIN}/{text}")).unwrap()
}

fn within(patience: Duration) -> Urgency {
    Urgency::within(Priority::New, patience, Instant::now())
}

async fn sign(key: &Arc<dyn SigningKey>) -> Result<Signature, SignError> {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).unwrap();
    let message = ToBeSigned::probe(nonce, key.algorithm());
    let signature = key.sign(message.clone(), within(Duration::from_secs(20))).await?;
    assert!(key.public_key().verifies(message.message(), &signature), "a wrong one was released");
    Ok(signature)
}

/// Signs until it works again, for some seconds.
async fn heals(key: &Arc<dyn SigningKey>) {
    let since = Instant::now();
    while let Err(error) = sign(key).await {
        assert!(since.elapsed() < Duration::from_secs(10), "it does not heal: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transit_engine_keeps_the_contract() {
    contract::key_store(&Bao::start().open().await, DOMAIN).await.report("OpenBao transit");
}

#[tokio::test]
async fn every_kind_of_key_but_ml_dsa_is_offered() {
    let store = Bao::start().open().await;
    assert_eq!(store.description().key_types, KeyType::ALL[..6]);
    assert_eq!(store.description().kind, "transit");
}

#[tokio::test]
async fn a_key_is_the_same_key_for_another_store_and_for_no_other_trust_domain() {
    let bao = Bao::start();
    let (_store, made) = bao.key().await;
    bao.server.create_key("mintmark.vault.test.more.x509.1", "ecdsa-p256").unwrap();
    bao.server.create_key("somebody-elses", "aes256-gcm96").unwrap();
    let store = bao.open().await;
    let found = store.find(&name("x509/1")).await.unwrap().unwrap();
    assert_eq!(found.public_key(), made.public_key());
    assert_eq!(store.list().await.unwrap(), [name("x509/1")]);
}

#[tokio::test]
async fn a_sealed_server_is_refused_at_start_with_its_reason() {
    let bao = Bao::start();
    bao.server.seal().unwrap();
    let refused = bao.try_open(bao.settings()).await.unwrap_err();
    assert!(matches!(refused, KeyError::Unavailable { .. }), "{refused}");
    assert!(refused.to_string().contains("it is sealed; unseal it"), "{refused}");
}

#[tokio::test]
async fn a_server_that_is_sealed_meanwhile_is_told_and_signs_again_when_it_is_unsealed() {
    let bao = Bao::start();
    let (_store, key) = bao.key().await;
    for _ in 0..3 {
        bao.server.seal().unwrap();
        let refused = sign(&key).await.unwrap_err();
        assert!(matches!(refused, SignError::Unavailable { .. }), "{refused}");
        assert!(refused.to_string().contains("sealed; unseal it"), "{refused}");
        bao.server.unseal().unwrap();
        heals(&key).await;
    }
}

#[tokio::test]
async fn no_server_a_wrong_mount_and_a_dead_token_are_told_at_start() {
    let bao = Bao::start();
    let settings = bao.settings();
    let nobody = Settings { address: "http://127.0.0.1:1".to_owned(), ..settings.clone() };
    let refused = bao.try_open(nobody).await.unwrap_err();
    assert!(matches!(refused, KeyError::Unavailable { .. }), "{refused}");

    let mount = Settings { mount: "elsewhere".to_owned(), ..settings.clone() };
    let refused = bao.try_open(mount).await.unwrap_err().to_string();
    assert!(refused.contains("correct the mount if the engine is not at elsewhere/"), "{refused}");
    bao.give(bao.server.root_token());
    let mount = Settings { mount: "elsewhere".to_owned(), ..settings.clone() };
    let refused = bao.try_open(mount).await.unwrap_err();
    assert!(matches!(refused, KeyError::Setup { .. }), "{refused}");
    assert!(refused.to_string().contains("correct the mount"), "{refused}");

    bao.give(&Secret::from("s.nonsense4711"));
    let refused = bao.try_open(settings).await.unwrap_err();
    assert!(matches!(refused, KeyError::Setup { .. }), "{refused}");
    assert!(refused.to_string().contains("never was one: give another"), "{refused}");
    assert!(!refused.to_string().contains("nonsense4711"), "{refused}");
}

#[tokio::test]
async fn a_server_with_tls_signs_for_who_knows_its_authority() {
    let bao = Bao::with_tls("127.0.0.1");
    let store = bao.try_open(bao.tls_settings()).await.unwrap();
    let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    contract::signing_key(&key, 1 << 20).await;
}

#[tokio::test]
async fn a_server_whose_certificate_does_not_pass_is_told_with_what_to_set() {
    let bao = Bao::with_tls("127.0.0.1");
    let other = bao.home.path().join("other.pem");
    std::fs::write(&other, authority().pem()).unwrap();
    let of_the_system = Settings { ca_file: None, ..bao.tls_settings() };
    let of_another = Settings { ca_file: Some(other), ..bao.tls_settings() };
    let elsewhere = Bao::with_tls("vault.example");
    for settings in [of_the_system, of_another, elsewhere.tls_settings()] {
        let since = Instant::now();
        let refused = bao.try_open(settings).await.unwrap_err();
        assert!(matches!(refused, KeyError::Setup { .. }), "{refused}");
        for text in ["invalid peer certificate", "ca_file has to name"] {
            assert!(refused.to_string().contains(text), "{refused}");
        }
        assert!(since.elapsed() < Duration::from_secs(5), "another try does not help");
    }

    let missing = bao.home.path().join("missing.pem");
    let empty = bao.token_file();
    for (file, text) in [(missing, "missing.pem: No such file"), (empty, "it holds no certificate")]
    {
        let settings = Settings { ca_file: Some(file), ..bao.tls_settings() };
        let refused = bao.try_open(settings).await.unwrap_err();
        assert!(matches!(refused, KeyError::Setup { .. }), "{refused}");
        assert!(refused.to_string().contains(text), "{refused}");
    }
}

/// What a server says to each request, by the beginning of its path.
fn scripted(answers: &'static [(&str, &str, &str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let line = request_line(&stream);
            let said = |(path, ..): &&(&str, &str, &str)| line.contains(path);
            let (_, status, body) = answers.iter().find(said).expect("a path of the script");
            answer(&mut stream, status, body);
        }
    });
    address
}

/// The first line of a request whose head has come.
fn request_line(stream: &TcpStream) -> String {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    reader.read_line(&mut line).unwrap();
    while reader.read_line(&mut String::new()).unwrap() > 2 {}
    line
}

fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}");
    write!(stream, "{head}\r\n\r\n{body}").unwrap();
}

const LIVING: (&str, &str, &str) =
    ("auth/token/lookup-self", "200 OK", r#"{"data":{"ttl":0,"expire_time":null}}"#);

#[tokio::test]
async fn a_standby_that_forwards_is_as_good_as_the_active_node() {
    let bao = Bao::start();
    let address = scripted(&[
        ("sys/health", "429 Too Many Requests", r#"{"sealed":false,"standby":true}"#),
        LIVING,
        ("transit/keys?list=true", "200 OK", r#"{"data":{"keys":["mintmark.vault.test.x509.1"]}}"#),
    ]);
    let store = bao.try_open(Settings { address, ..bao.settings() }).await.unwrap();
    assert_eq!(store.list().await.unwrap(), [name("x509/1")]);
}

#[tokio::test]
async fn a_node_that_cannot_sign_is_told_with_the_one_to_name() {
    let bao = Bao::start();
    const STANDBY: (&str, &str, &str) = ("sys/health", "429 Too Many Requests", "{}");
    const MOVED: [(&str, &str, &str); 3] =
        [STANDBY, LIVING, ("transit/keys", "307 Temporary Redirect", "")];
    const NOBODY: &str =
        r#"{"errors":["local node not active but active cluster node not found"]}"#;
    const ALONE: [(&str, &str, &str); 3] =
        [STANDBY, LIVING, ("transit/keys", "500 Internal Server Error", NOBODY)];
    for (address, text) in [
        (scripted(&MOVED), "name the active node"),
        (scripted(&ALONE), "active cluster node not found"),
        (scripted(&[("sys/health", "472 ", "{}")]), "a secondary for disaster recovery"),
        (scripted(&[("sys/health", "501 Not Implemented", "{}")]), "it is not initialised"),
    ] {
        let refused = bao.try_open(Settings { address, ..bao.settings() }).await.unwrap_err();
        assert!(matches!(refused, KeyError::Unavailable { .. }), "{refused}");
        assert!(refused.to_string().contains(text), "{refused}");
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let bao = Bao::start();
    bao.give(&bao.token(Duration::from_secs(3)));
    let (_store, key) = bao.key().await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sign(&key).await.unwrap();
    }
}

/// A server that leaves the first renewal unanswered; tells of each that comes.
fn silent_at_first(life: Duration) -> (String, Receiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (renewals, told) = mpsc::channel();
    let seconds = life.as_secs();
    let auth = format!(r#"{{"auth":{{"lease_duration":{seconds},"renewable":true}}}}"#);
    let data = format!(r#"{{"data":{{"ttl":{seconds},"renewable":true,"expire_time":"soon"}}}}"#);
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let line = request_line(&stream);
            let renews = line.contains("renew-self");
            if renews {
                let _ = renewals.send(Instant::now());
                if silent.is_empty() {
                    silent.push(stream);
                    continue;
                }
            }
            match line {
                line if line.contains("lookup-self") => answer(&mut stream, "200 OK", &data),
                line if line.contains("keys?list") => answer(&mut stream, "404 Not Found", ""),
                _ => answer(&mut stream, "200 OK", &auth),
            }
        }
    });
    (address, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_without_an_answer_is_tried_again_before_the_token_ends() {
    let bao = Bao::start();
    // Halfway is 13 s, after 12 more the first renewal is given up: half a second later is the last moment.
    let (address, renewals) = silent_at_first(Duration::from_secs(26));
    let opened = Instant::now();
    let _store = bao.try_open(Settings { address, ..bao.settings() }).await.unwrap();
    let next = || renewals.recv_timeout(Duration::from_secs(28).saturating_sub(opened.elapsed()));
    let first = next().expect("halfway");
    let second = next().expect("before the end");
    assert!(second.duration_since(first) > Duration::from_secs(11), "{opened:?} {first:?}");
}

#[tokio::test]
async fn a_token_that_took_the_place_of_a_refused_one_is_kept_alive_by_its_own_life() {
    let hour = Duration::from_secs(3600);
    for renewable in [true, false] {
        let bao = Bao::start();
        let old = [("renewable", renewable.into())];
        let old = bao.server.token_with(RULES, hour, &old).unwrap();
        bao.give(&old);
        let (_store, key) = bao.key().await;
        bao.give(&bao.token(Duration::from_secs(3)));
        bao.server.revoke(&old).unwrap();
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            sign(&key).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_prolonged_is_warned_of_before_it_ends_and_seldom_afterwards() {
    let longest = [("renewable", true.into()), ("explicit_max_ttl", "12s".into())];
    for (more, reason) in [
        (&[("type", "batch".into())][..], "it cannot be renewed"),
        (&longest, "it has reached its longest life"),
    ] {
        let bao = Bao::start();
        let source = bao.token_file().display().to_string();
        let lines = || -> Vec<String> {
            let log = String::from_utf8_lossy(&log().lock().unwrap()).into_owned();
            let ours = log.lines().filter(|line| line.contains(&source));
            ours.filter(|line| line.contains("token is not renewed")).map(str::to_owned).collect()
        };
        let warned = || lines().len();
        // Long enough for a start on a machine that is busy.
        bao.give(&bao.server.token_with(RULES, Duration::from_secs(12), more).unwrap());
        let (_store, key) = bao.key().await;
        while warned() == 0 {
            sign(&key).await.expect("it has not ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sign(&key).await.expect("it has not ended");
        let line = lines().concat();
        assert!(line.contains(reason) && line.contains("before it ends"), "{line}");

        let end = Instant::now() + Duration::from_secs(15);
        while sign(&key).await.is_ok() {
            assert!(Instant::now() < end, "it ends");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let then = warned();
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(warned() <= then + 1, "{then}, then {}", warned());
        bao.give(&bao.token(Duration::from_secs(3600)));
        heals(&key).await;
    }
}

#[tokio::test]
async fn a_revoked_token_is_told_and_the_next_one_taken_by_itself() {
    let bao = Bao::start();
    let token = bao.token(Duration::from_secs(3600));
    bao.give(&token);
    let (_store, key) = bao.key().await;
    bao.server.revoke(&token).unwrap();
    let refused = sign(&key).await.unwrap_err();
    assert!(matches!(refused, SignError::Unavailable { .. }), "{refused}");
    assert!(refused.to_string().contains("the token has ended: put a new one into"), "{refused}");
    assert!(!refused.to_string().contains(token.expose()), "{refused}");
    bao.give(&bao.token(Duration::from_secs(3600)));
    heals(&key).await;
}

#[tokio::test]
async fn a_token_that_was_replaced_is_taken_without_a_single_failure() {
    let bao = Bao::start();
    let old = bao.token(Duration::from_secs(3600));
    bao.give(&old);
    let (_store, key) = bao.key().await;
    bao.give(&bao.token(Duration::from_secs(3600)));
    bao.server.revoke(&old).unwrap();
    let answers: Vec<_> = (0..20)
        .map(|_| {
            let key = Arc::clone(&key);
            tokio::spawn(async move { sign(&key).await })
        })
        .collect();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_policy_that_does_not_allow_signing_is_told_from_a_dead_token() {
    let bao = Bao::start();
    bao.key().await;
    let rule = format!("path \"transit/sign/{KEY}\" {{ capabilities = [\"update\"] }}");
    for (from, to, said) in [
        ("transit/sign", "transit/other", "its policy does not allow this: extend it by "),
        (r#"["update"]"#, r#"["read"]"#, "its policy allows read on transit/sign/"),
    ] {
        let rules = RULES.replacen(from, to, 1);
        bao.give(&bao.server.token(&rules, Duration::from_secs(3600)).unwrap());
        let refused = bao.open().await.find(&name("x509/1")).await.unwrap_err();
        assert!(matches!(refused, KeyError::Unsafe { .. }), "{refused}");
        let refused = refused.to_string();
        assert!(refused.contains(said) && refused.contains(&rule), "{refused}");
        assert!(!refused.contains("mount"), "the engine is there: {refused}");
    }
}

#[tokio::test]
async fn a_rotated_key_goes_on_signing_with_its_first_version() {
    let bao = Bao::start();
    let (store, key) = bao.key().await;
    bao.server.rotate_key(KEY).unwrap();
    sign(&key).await.unwrap();
    let found = store.find(&name("x509/1")).await.unwrap().unwrap();
    assert_eq!(found.public_key(), key.public_key());
    let described = store.describe(&name("x509/1")).await.unwrap().unwrap();
    assert!(described.facts.contains(&("version".to_owned(), "1 of 2".to_owned())));
}

#[tokio::test]
async fn a_first_version_that_was_withdrawn_is_told() {
    let bao = Bao::start();
    let (_store, key) = bao.key().await;
    bao.server.rotate_key(KEY).unwrap();
    let config = json!({ "min_decryption_version": 2, "min_encryption_version": 2 });
    bao.server.configure_key(KEY, config).unwrap();
    let refused = sign(&key).await.unwrap_err();
    assert!(matches!(refused, SignError::Refused { .. }), "{refused}");
    let refused = bao.refusal().await;
    assert!(refused.contains("version 1, which signs, was withdrawn"), "{refused}");
    bao.server.trim_key(KEY, 2).unwrap();
    let refused = bao.refusal().await;
    assert!(refused.contains("rotate the authority to a new key"), "{refused}");
}

#[tokio::test]
async fn a_key_that_can_leave_or_be_deleted_is_refused() {
    let bao = Bao::start();
    bao.key().await;
    for (setting, reason) in [
        ("deletion_allowed", "set deletion_allowed=false"),
        ("exportable", "it is exportable"),
        ("allow_plaintext_backup", "backed up in plain text"),
    ] {
        bao.server.configure_key(KEY, json!({ (setting): true })).unwrap();
        let refused = bao.refusal().await;
        assert!(refused.contains(reason), "{refused}");
        // The other two cannot be taken back.
        bao.server.configure_key(KEY, json!({ "deletion_allowed": false })).unwrap();
        if setting == "exportable" {
            bao.server.configure_key(KEY, json!({ "deletion_allowed": true })).unwrap();
            bao.server.request("DELETE", &format!("transit/keys/{KEY}"), Value::Null).unwrap();
            bao.server.create_key(KEY, "ecdsa-p256").unwrap();
        }
    }
}

#[tokio::test]
async fn a_key_that_does_not_sign_or_is_of_another_kind_is_refused() {
    let bao = Bao::start();
    for (key_type, reason) in
        [("aes256-gcm96", "its type does not sign"), ("ecdsa-p521", "of type ecdsa-p521")]
    {
        bao.server.create_key(KEY, key_type).unwrap();
        let refused = bao.refusal().await;
        assert!(refused.contains(reason), "{refused}");
        bao.server.configure_key(KEY, json!({ "deletion_allowed": true })).unwrap();
        bao.server.request("DELETE", &format!("transit/keys/{KEY}"), Value::Null).unwrap();
    }
}

#[tokio::test]
async fn a_key_that_was_deleted_meanwhile_refuses() {
    let bao = Bao::start();
    let (_store, key) = bao.key().await;
    bao.server.configure_key(KEY, json!({ "deletion_allowed": true })).unwrap();
    bao.server.request("DELETE", &format!("transit/keys/{KEY}"), Value::Null).unwrap();
    let refused = sign(&key).await.unwrap_err();
    assert!(matches!(refused, SignError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("signing key not found"), "{refused}");
}

#[tokio::test]
async fn a_key_of_the_same_name_that_is_another_one_does_not_pass_for_the_first() {
    let bao = Bao::start();
    let (store, key) = bao.key().await;
    bao.server.configure_key(KEY, json!({ "deletion_allowed": true })).unwrap();
    bao.server.request("DELETE", &format!("transit/keys/{KEY}"), Value::Null).unwrap();
    bao.server.create_key(KEY, "ecdsa-p256").unwrap();
    let wrong = sign(&key).await.unwrap_err();
    assert!(matches!(wrong, SignError::Wrong { .. }), "{wrong}");
    let other = store.find(&name("x509/1")).await.unwrap().unwrap();
    assert_ne!(other.public_key(), key.public_key());
    sign(&other).await.unwrap();
}

#[tokio::test]
async fn a_rate_limit_of_the_server_is_kept_and_nobody_is_told() {
    let bao = Bao::start();
    let settings = bao.settings();
    let pace = Pace { queue_wait: Duration::from_secs(20), ..settings.pace };
    let store = bao.try_open(Settings { pace, ..settings }).await.unwrap();
    let key = store.create(&name("x509/1"), KeyType::EcP256).await.unwrap();
    let quota = json!({ "path": "transit/", "rate": 40, "interval": "1s" });
    bao.server.request("POST", "sys/quotas/rate-limit/test", quota).unwrap();
    let answers: Vec<_> = (0..80)
        .map(|_| {
            let key = Arc::clone(&key);
            tokio::spawn(async move { sign(&key).await })
        })
        .collect();
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn no_secret_is_shown() {
    let bao = Bao::start();
    let token = bao.token(Duration::from_secs(3600));
    bao.give(&token);
    let (store, key) = bao.key().await;
    bao.server.revoke(&token).unwrap();
    let refused = sign(&key).await.unwrap_err();
    let shown = format!("{store:?} {key:?} {refused:?} {refused} {:?}", bao.settings());
    assert!(!shown.contains(token.expose()), "{shown}");
}
