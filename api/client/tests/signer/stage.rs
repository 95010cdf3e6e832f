//! A signing listener with keys in memory, and folders of front ends that are enrolled with it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ca_core::authority::{self, Authorities, AuthoritySettings, CaSubject, KeyCreation};
use ca_core::bundle::Bundle;
use ca_core::certificate::CaCertificate;
use ca_core::clock::{Clock as _, SystemClock, Timestamp};
use ca_core::frontend::{
    Certified, Enrolment, Existing, FrontEndName, FrontEnds, Grants, PathScope, Terms, Wanted,
};
use ca_core::id::TrustDomain;
use ca_core::issuer::Lifetimes;
use ca_core::issuing::{DelegationSettings, IssuingMode, LongTtl};
use ca_core::key::{KeyName, KeyStore as _, KeyType, Priority, PublicKey, RsaScheme, Urgency};
use ca_core::log::{Appending, Issuance, IssuanceLog};
use ca_core::mint::Mint;
use ca_core::pipeline::Pipeline;
use ca_core::pipeline::admission::Bounds;
use ca_core::pipeline::metrics::PipelineMetrics;
use ca_core::serial::{RandomSerials, SerialSource as _};
use ca_core::store::Embedded;
use ca_core::token::TokenSettings;
use futures_util::FutureExt as _;
use keymanager::SoftwareStore;
use mintmark_signer::signing::{Limits, by_records};
use mintmark_signer::{ServiceMetrics, SigningListener, SigningServices};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType, date_time_ymd,
};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub(crate) const TRUST_DOMAIN: &str = "client.test";
pub(crate) const FRONT_END: &str = "spiffe://client.test/mintmark/frontend/one";

/// Long enough for the busiest machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What stops a listener, and what says that it has stopped.
type Serving = (oneshot::Sender<()>, JoinHandle<()>);

/// A running listener, to be made on a runtime with several threads.
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) log: Arc<HeldLog>,
    pub(crate) bundle: watch::Sender<Arc<Bundle>>,
    pub(crate) ca: Ca,
    pipeline: Arc<Pipeline>,
    front_ends: Arc<FrontEnds>,
    serving: Option<Serving>,
    folder: TempDir,
}

impl Stage {
    /// Leaves are signed by an issuing key, as by default: chains have an intermediate.
    pub(crate) async fn start() -> Self {
        let (authorities, ca, log) = (authorities().await, Ca::new(), Arc::new(HeldLog::default()));
        let mut bundle = Bundle::clone(&authorities.bundle);
        bundle.add_x509(CaCertificate::from_der(&ca.root()).unwrap());
        let pipeline = pipeline(authorities, log.clone()).await;
        tokio::spawn(pipeline.clone().run());
        let store = Arc::new(Embedded::in_memory().unwrap());
        let mut stage = Self {
            address: "127.0.0.1:0".parse().unwrap(),
            log,
            bundle: watch::channel(Arc::new(bundle)).0,
            ca,
            pipeline,
            front_ends: FrontEnds::load(store).await.unwrap(),
            serving: None,
            folder: TempDir::new().unwrap(),
        };
        stage.listen();
        stage
    }

    /// At the address that it had, if it had one.
    pub(crate) fn listen(&mut self) {
        let clock = Arc::new(SystemClock);
        let services = SigningServices {
            pipeline: self.pipeline.clone(),
            clock: clock.clone(),
            gate: by_records(self.front_ends.clone(), self.pipeline.mint(), clock),
            bundle: self.bundle.subscribe(),
            metrics: ServiceMetrics::default(),
            limits: Limits::default(),
        };
        let listener = SigningListener::bind(self.address).unwrap();
        self.address = listener.address();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async {
            let listener = listener.prepare(services).await.unwrap();
            listener.serve(async { drop(stopped.await) }).await;
        });
        self.serving = Some((stop, serving));
    }

    /// As a signal would stop it; returns when it has stopped.
    pub(crate) async fn stop(&mut self) {
        let (stop, serving) = self.serving.take().unwrap();
        drop(stop);
        serving.await.unwrap();
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The folder of a front end that is enrolled, as `mintmark frontend enroll` makes it.
    pub(crate) async fn enrolled(&self) -> PathBuf {
        self.enrolled_with(leaf(FRONT_END)).await
    }

    /// The same with another certificate.
    pub(crate) async fn enrolled_with(&self, params: CertificateParams) -> PathBuf {
        let (folder, fingerprint) = self.certified(params);
        let wanted = Wanted {
            path_scopes: vec![PathScope::parse("/").unwrap()],
            grants: Grants { named: true, ..Grants::default() },
            ..Wanted::default()
        };
        let existing = Existing { replace: true, again: false };
        let enrolment = Enrolment { name: name(), terms: Terms::new(wanted).unwrap(), existing };
        let serial = RandomSerials::new().next().unwrap();
        let not_after = SystemClock.now().plus(Duration::from_secs(3600));
        let key = Certified { fingerprint, serial, not_after };
        self.front_ends.enroll(&enrolment, &key, SystemClock.now()).await.unwrap();
        folder
    }

    /// The folder of a front end whose certificate is good and whose key is not enrolled.
    pub(crate) fn unknown(&self) -> (PathBuf, [u8; 32]) {
        self.certified(leaf(FRONT_END))
    }

    fn certified(&self, params: CertificateParams) -> (PathBuf, [u8; 32]) {
        let folder = self.folder.path().join(fastrand::u64(..).to_string());
        let pair = self.ca.folder(&folder, params);
        fs::write(folder.join("bundle.pem"), self.bundle.borrow().pem()).unwrap();
        let key = PublicKey::from_spki(&pair.subject_public_key_info()).unwrap();
        (folder, *key.fingerprint())
    }

    pub(crate) async fn withdraw(&self) {
        self.front_ends.withdraw(&name(), SystemClock.now()).await.unwrap();
    }
}

fn name() -> FrontEndName {
    FrontEndName::parse("one").unwrap()
}

/// Who certifies front ends here.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.0.as_ref().der().to_vec()
    }

    pub(crate) fn issue(
        &self,
        params: &CertificateParams,
        key: &impl rcgen::PublicKeyData,
    ) -> Vec<u8> {
        params.signed_by(key, &self.0).unwrap().der().to_vec()
    }

    /// A folder with a fresh key that is certified.
    pub(crate) fn folder(&self, folder: &Path, params: CertificateParams) -> KeyPair {
        let pair = KeyPair::generate().unwrap();
        let svid = params.signed_by(&pair, &self.0).unwrap().pem();
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("svid.pem"), svid).unwrap();
        fs::write(folder.join("bundle.pem"), self.0.as_ref().pem()).unwrap();
        fs::write(folder.join("key.pem"), pair.serialize_pem()).unwrap();
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(folder.join("key.pem"), private).unwrap();
        pair
    }
}

/// An X509-SVID of an hour, as the standard has it.
pub(crate) fn leaf(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let since = |time: Timestamp| date_time_ymd(1970, 1, 1) + time.since(Timestamp::EPOCH);
    params.not_before = since(SystemClock.now().minus(Duration::from_secs(60)));
    params.not_after = since(SystemClock.now().plus(Duration::from_secs(3600)));
    params
}

/// Waits until that is so.
pub(crate) async fn eventually(is_so: impl Fn() -> bool, what: &str) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "{what}");
}

fn urgency() -> Urgency {
    Urgency::within(Priority::New, LONG, Instant::now())
}

fn keys() -> SoftwareStore {
    SoftwareStore::in_memory(TRUST_DOMAIN)
}

async fn pipeline(authorities: Authorities, log: Arc<HeldLog>) -> Arc<Pipeline> {
    let delegation = DelegationSettings {
        key_type: KeyType::EcP256,
        life: Duration::from_secs(6 * 3600),
        subject: CaSubject::default(),
        long_ttl: LongTtl::Authority,
    };
    let mode = IssuingMode::Delegated(delegation);
    let mint = Mint::new(authorities, mode, Box::new(RandomSerials::new()), log);
    let name = KeyName::parse(&format!("mintmark/{TRUST_DOMAIN}/issuing/1")).unwrap();
    let key = keys().create(&name, KeyType::EcP256).await.unwrap();
    let delegation = mint.delegation().unwrap();
    mint.delegate(delegation, key, SystemClock.now(), urgency()).await.unwrap();
    let bounds = Bounds { memory: 64 << 20, wait: LONG, caller_percent: 100 };
    let counted = PipelineMetrics::default();
    Pipeline::new(Arc::new(mint), bounds, Arc::new(SystemClock), counted).unwrap()
}

async fn authorities() -> Authorities {
    let settings = AuthoritySettings {
        trust_domain: TrustDomain::parse(TRUST_DOMAIN).unwrap(),
        ca_key_type: KeyType::EcP256,
        jwt_key_type: KeyType::EcP256,
        key_creation: KeyCreation::Auto,
        rsa_scheme: RsaScheme::Pkcs1,
        ca_ttl: Duration::from_secs(86_400),
        ca_subject: CaSubject::default(),
        lifetimes: Lifetimes::default(),
        tokens: TokenSettings::default(),
        refresh_hint: Duration::from_secs(300),
    };
    let record = Embedded::in_memory().unwrap();
    let (serials, now) = (RandomSerials::new(), SystemClock.now());
    authority::establish(&settings, &record, &keys(), &serials, now, urgency()).await.unwrap()
}

/// A log that counts what it is given, and answers when it may.
pub(crate) struct HeldLog {
    records: Mutex<usize>,
    held: watch::Sender<bool>,
}

impl Default for HeldLog {
    fn default() -> Self {
        Self { records: Mutex::default(), held: watch::channel(false).0 }
    }
}

impl HeldLog {
    pub(crate) fn records(&self) -> usize {
        *self.records.lock().unwrap()
    }

    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }
}

impl IssuanceLog for HeldLog {
    fn append(&self, issued: &[Issuance<'_>]) -> Appending {
        *self.records.lock().unwrap() += issued.len();
        let mut held = self.held.subscribe();
        async move {
            drop(held.wait_for(|held| !*held).await);
            Ok(())
        }
        .boxed()
    }
}
