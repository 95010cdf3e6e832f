//! A signing listener with keys in memory, and front ends whose certificates another CA of its bundle has made.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ca_core::authority::{self, Authorities, AuthoritySettings, CaSubject, KeyCreation};
use ca_core::bundle::Bundle;
use ca_core::certificate::CaCertificate;
use ca_core::clock::{Clock as _, SystemClock, Timestamp};
use ca_core::frontend::{
    Certified, Enrolment, Existing, FrontEnd, FrontEndName, FrontEnds, Grants, PathScope, Terms,
    Wanted,
};
use ca_core::id::TrustDomain;
use ca_core::issuer::Lifetimes;
use ca_core::issuing::IssuingMode;
use ca_core::key::{KeyType, Priority, PublicKey, RsaScheme, Urgency};
use ca_core::log::{Appending, Issuance, IssuanceLog, IssuanceRecord};
use ca_core::mint::Mint;
use ca_core::pipeline::Pipeline;
use ca_core::pipeline::admission::Bounds;
use ca_core::pipeline::metrics::PipelineMetrics;
use ca_core::serial::{RandomSerials, SerialSource as _};
use ca_core::store::Embedded;
use ca_core::token::TokenSettings;
use futures_util::FutureExt as _;
use hyper_util::rt::TokioIo;
use keymanager::SoftwareStore;
use mintmark_proto::signing::v1::signing_client::SigningClient;
use mintmark_proto::signing::v1::{MintRequest, MintResponse};
use mintmark_signer::signing::{Admitted, Gate, Limits, by_records};
use mintmark_signer::{ServiceMetrics, SigningListener, SigningServices};
use mintmark_transport::{Connector, Credential, Identity, Peer, Trust};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};
use tower::service_fn;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

use crate::held_store::HeldStore;
use crate::raw::RawPeer;

pub(crate) const TRUST_DOMAIN: &str = "signer.test";
pub(crate) const FRONT_END: &str = "spiffe://signer.test/mintmark/frontend/one";

/// Long enough for the busiest machine.
const LONG: Duration = Duration::from_secs(60);

/// A certificate and its key, and how records name the key.
pub(crate) struct Shown {
    credential: Credential,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) private: PrivateKeyDer<'static>,
    fingerprint: [u8; 32],
}

impl Shown {
    /// What the signer has given for that key.
    pub(crate) fn minted(chain: Vec<Bytes>, key: &KeyPair) -> Self {
        Self::of(chain.into_iter().map(|der| der.to_vec().into()).collect(), key)
    }

    fn of(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let fingerprint = fingerprint(key);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let private = key.clone_key();
        let credential = Credential::new(chain.clone(), key).unwrap();
        Self { credential, chain, private, fingerprint }
    }
}

/// How records name a key.
pub(crate) fn fingerprint(key: &KeyPair) -> [u8; 32] {
    *PublicKey::from_spki(&key.subject_public_key_info()).unwrap().fingerprint()
}

/// A running listener. What it logs is the test's: run it on the test's own thread.
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) log: Arc<HeldLog>,
    bundle: watch::Sender<Arc<Bundle>>,
    pipeline: Arc<Pipeline>,
    counted: PipelineMetrics,
    metrics: ServiceMetrics,
    records: Records,
    ca: CertifiedIssuer<'static, KeyPair>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    text: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

/// The records of front ends, and how many connections they have ended.
#[derive(Clone)]
struct Records {
    front_ends: Arc<FrontEnds>,
    store: Arc<HeldStore>,
    ended: Arc<AtomicUsize>,
}

impl Records {
    async fn new() -> Self {
        let store = Arc::new(HeldStore::default());
        let front_ends = FrontEnds::load(store.clone()).await.unwrap();
        Self { front_ends, store, ended: Arc::default() }
    }

    fn gate(&self, mint: &Mint) -> Gate {
        let admit = by_records(self.front_ends.clone(), mint, Arc::new(SystemClock));
        let ended = self.ended.clone();
        Arc::new(move |peer: &Peer| {
            let Admitted { until, leave, front_end, front_ends } = admit(peer)?;
            let count = Counts(ended.clone());
            let until = async move {
                let _count = count;
                until.await
            };
            Ok(Admitted { until: until.boxed(), leave, front_end, front_ends })
        })
    }

    async fn enroll(&self, fingerprint: [u8; 32], change: impl FnOnce(&mut Wanted)) {
        let mut wanted = Wanted {
            path_scopes: vec![PathScope::parse("/").unwrap()],
            grants: Grants { named: true, ..Grants::default() },
            ..Wanted::default()
        };
        change(&mut wanted);
        let terms = Terms::new(wanted).unwrap();
        let existing = Existing { replace: true, again: false };
        let enrolment = Enrolment { name: name(), terms, existing };
        let serial = RandomSerials::new().next().unwrap();
        let not_after = SystemClock.now().plus(Duration::from_secs(3600));
        let key = Certified { fingerprint, serial, not_after };
        self.front_ends.enroll(&enrolment, &key, SystemClock.now()).await.unwrap();
    }
}

fn name() -> FrontEndName {
    FrontEndName::parse("one").unwrap()
}

/// Counts its end.
struct Counts(Arc<AtomicUsize>);

impl Drop for Counts {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Stage {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        let stage = Self::set(limits).await;
        stage.begin_minting();
        stage
    }

    /// One whose pipeline takes what comes and does nothing with it yet.
    pub(crate) async fn start_idle() -> Self {
        Self::set(Limits::default()).await
    }

    async fn set(limits: Limits) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = SharedText(text.clone());
        let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let layer = layer.with_filter(LevelFilter::INFO);
        let subscriber = tracing_subscriber::Registry::default().with(layer);
        let guard = tracing::subscriber::set_default(subscriber);
        let (authorities, ca) = (authorities().await, ca());
        let mut bundle = Bundle::clone(&authorities.bundle);
        bundle.add_x509(CaCertificate::from_der(ca.as_ref().der()).unwrap());
        let (bundle, follow) = watch::channel(Arc::new(bundle));
        let log = Arc::new(HeldLog::default());
        let mint = Mint::new(
            authorities,
            IssuingMode::Direct,
            Box::new(RandomSerials::new()),
            log.clone(),
        );
        let counted = PipelineMetrics::default();
        let bounds = Bounds { memory: 64 << 20, wait: LONG, caller_percent: 100 };
        let clock = Arc::new(SystemClock);
        let pipeline =
            Pipeline::new(Arc::new(mint), bounds, clock.clone(), counted.clone()).unwrap();
        let (records, metrics) = (Records::new().await, ServiceMetrics::default());
        let services = SigningServices {
            pipeline: pipeline.clone(),
            clock,
            gate: records.gate(pipeline.mint()),
            bundle: follow,
            metrics: metrics.clone(),
            limits,
        };
        let listener = SigningListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address();
        let (stop, stopped) = oneshot::channel();
        let listener = listener.prepare(services).await.unwrap();
        let serving = tokio::spawn(listener.serve(async { drop(stopped.await) }));
        let (stop, serving) = (Some(stop), Some(serving));
        let stage = Self {
            address,
            log,
            bundle,
            pipeline,
            counted,
            metrics,
            records,
            ca,
            stop,
            serving,
            text,
            _guard: guard,
        };
        eventually(|| !stage.log.records().is_empty(), "it has a certificate").await;
        stage
    }

    pub(crate) fn begin_minting(&self) {
        tokio::spawn(self.pipeline.clone().run());
    }

    /// What has been logged so far.
    pub(crate) fn log_text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into()
    }

    /// The lines that front ends and strangers have caused.
    pub(crate) fn audit_lines(&self) -> Vec<String> {
        let text = self.log_text();
        text.lines().filter(|line| line.contains("mintmark::audit")).map(str::to_owned).collect()
    }

    /// Waits for the audit line that has all of these in it.
    pub(crate) async fn audited(&self, parts: &[&str]) {
        let is_it = |line: &String| parts.iter().all(|part| line.contains(part));
        let there = || self.audit_lines().iter().any(is_it);
        eventually(there, &format!("a line with {parts:?} in it: {:#?}", self.audit_lines())).await;
    }

    pub(crate) fn issue(&self, params: CertificateParams) -> Shown {
        self.issue_twice(params).0
    }

    /// One certificate and key, and a copy of both.
    pub(crate) fn issue_twice(&self, params: CertificateParams) -> (Shown, Shown) {
        let key = KeyPair::generate().unwrap();
        let certificate = self.issue_for(params, &key);
        (Shown::minted(vec![certificate.clone()], &key), Shown::minted(vec![certificate], &key))
    }

    /// By a CA that an authority of the bundle has certified, as an issuing key is.
    pub(crate) fn issue_below(&self, params: CertificateParams) -> Shown {
        let [below, leaf] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let certificate = ca_params().signed_by(&below, &self.ca).unwrap().der().clone();
        let issuer = Issuer::new(ca_params(), below);
        let chain = vec![params.signed_by(&leaf, &issuer).unwrap().der().clone(), certificate];
        Shown::of(chain, &leaf)
    }

    pub(crate) fn issue_for(&self, params: CertificateParams, key: &KeyPair) -> Bytes {
        params.signed_by(key, &self.ca).unwrap().der().to_vec().into()
    }

    pub(crate) async fn enrol(&self, shown: &Shown) {
        self.enrol_on(shown, |_| {}).await;
    }

    /// Enrols a key, and gives its front end other terms than naming any workload.
    pub(crate) async fn enrol_on(&self, shown: &Shown, change: impl FnOnce(&mut Wanted)) {
        self.records.enroll(shown.fingerprint, change).await;
    }

    /// A front end that is enrolled.
    pub(crate) async fn front_end(&self) -> Shown {
        let shown = self.issue(leaf(FRONT_END));
        self.enrol(&shown).await;
        shown
    }

    pub(crate) async fn withdraw(&self) {
        self.records.front_ends.withdraw(&name(), SystemClock.now()).await.unwrap();
    }

    /// Where its record is.
    pub(crate) fn store(&self) -> &HeldStore {
        &self.records.store
    }

    /// The front end's record, as the listener knows it.
    pub(crate) fn record(&self) -> Arc<FrontEnd> {
        self.records.front_ends.get(&name()).unwrap()
    }

    pub(crate) fn publish(&self, change: impl FnOnce(&mut Bundle)) {
        self.bundle.send_modify(|bundle| change(Arc::make_mut(bundle)));
    }

    /// How many connections were let in and have ended.
    pub(crate) fn connections_ended(&self) -> usize {
        self.records.ended.load(Ordering::SeqCst)
    }

    /// A figure of the service.
    pub(crate) fn figure(&self, name: &str) -> i64 {
        let text = shown(|registry| self.metrics.register(registry, "1", Timestamp::EPOCH));
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    }

    /// How many certificates wait, or did.
    pub(crate) fn admitted(&self) -> usize {
        let text = shown(|registry| self.counted.register(registry));
        let line = text.lines().find(|line| {
            ["\"leaf\"", "\"new\"", "\"admitted\""].iter().all(|part| line.contains(part))
        });
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) async fn connect(
        &self,
        shown: Shown,
        from: Ipv4Addr,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let bundle = self.pipeline.mint().bundle();
        let trust = Arc::new(Trust::of(bundle).unwrap());
        let (identity, signer) = (Identity::new(shown.credential), bundle.trust_domain.signer_id());
        let connector =
            Connector::new(identity, trust, signer, Arc::new(SystemClock), LONG).unwrap();
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.address).await?;
        let (stream, _) = connector.connect(stream).await.map_err(io::Error::other)?;
        Ok(stream)
    }

    /// A peer with these settings of HTTP/2.
    pub(crate) async fn raw(&self, shown: Shown, settings: &[u8]) -> RawPeer {
        RawPeer::greet(self.connect(shown, Ipv4Addr::LOCALHOST).await.unwrap(), settings).await
    }

    /// A peer whose first bytes come one by one.
    pub(crate) async fn raw_in_pieces(&self, shown: Shown) -> RawPeer {
        RawPeer::greet_in_pieces(self.connect(shown, Ipv4Addr::LOCALHOST).await.unwrap()).await
    }

    pub(crate) async fn channel(&self, shown: Shown) -> io::Result<Channel> {
        self.channel_from(shown, Ipv4Addr::LOCALHOST).await
    }

    pub(crate) async fn channel_from(&self, shown: Shown, from: Ipv4Addr) -> io::Result<Channel> {
        let mut stream = Some(self.connect(shown, from).await?);
        let once = service_fn(move |_: Uri| {
            let stream = stream.take().map(TokioIo::new);
            async { stream.ok_or_else(|| io::Error::other("it connects once")) }
        });
        let endpoint = Endpoint::from_static("http://signer.test");
        endpoint.connect_with_connector(once).await.map_err(io::Error::other)
    }

    /// A `Mint` stream of a front end that is enrolled, on a connection of its own.
    pub(crate) async fn open(&self) -> (mpsc::Sender<MintRequest>, Streaming<MintResponse>) {
        open_over(self.channel(self.front_end().await).await.unwrap()).await.unwrap()
    }

    pub(crate) async fn mint(&self, request: MintRequest) -> Result<Vec<MintResponse>, Status> {
        self.mint_as(self.front_end().await, request).await
    }

    pub(crate) async fn mint_as(
        &self,
        shown: Shown,
        request: MintRequest,
    ) -> Result<Vec<MintResponse>, Status> {
        let channel = self.channel(shown).await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        mint_over(channel, vec![request]).await
    }

    /// As a signal would.
    pub(crate) fn stop_listening(&mut self) {
        self.stop = None;
    }

    pub(crate) async fn stopped(&mut self) {
        self.serving.take().unwrap().await.unwrap()
    }
}

pub(crate) fn client(channel: Channel) -> SigningClient<Channel> {
    SigningClient::new(channel)
}

pub(crate) async fn open_over(
    channel: Channel,
) -> Result<(mpsc::Sender<MintRequest>, Streaming<MintResponse>), Status> {
    let (requests, mut sent) = mpsc::channel(16);
    let stream = futures_util::stream::poll_fn(move |context| sent.poll_recv(context));
    Ok((requests, client(channel).mint(stream).await?.into_inner()))
}

/// All answers to these messages.
pub(crate) async fn mint_over(
    channel: Channel,
    messages: Vec<MintRequest>,
) -> Result<Vec<MintResponse>, Status> {
    let stream = futures_util::stream::iter(messages);
    let mut answers = client(channel).mint(stream).await?.into_inner();
    let mut received = Vec::new();
    while let Some(message) = answers.message().await? {
        received.push(message);
    }
    Ok(received)
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

/// An X509-SVID of an hour, as the standard has it.
pub(crate) fn leaf(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(2020, 1, 1);
    ends_after(&mut params, Duration::from_secs(3600));
    params
}

/// Has it end so long from now.
pub(crate) fn ends_after(params: &mut CertificateParams, span: Duration) {
    params.not_after =
        date_time_ymd(1970, 1, 1) + SystemClock.now().plus(span).since(Timestamp::EPOCH);
}

fn ca() -> CertifiedIssuer<'static, KeyPair> {
    CertifiedIssuer::self_signed(ca_params(), KeyPair::generate().unwrap()).unwrap()
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Figures as they are shown.
fn shown(register: impl FnOnce(&mut Registry)) -> String {
    let mut registry = Registry::default();
    register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
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
    let keys = SoftwareStore::in_memory(TRUST_DOMAIN);
    let record = Embedded::in_memory().unwrap();
    let (serials, now) = (RandomSerials::new(), SystemClock.now());
    let urgency = Urgency::within(Priority::New, LONG, Instant::now());
    authority::establish(&settings, &record, &keys, &serials, now, urgency).await.unwrap()
}

/// A log that keeps what it is given, and answers when it may.
pub(crate) struct HeldLog {
    records: Mutex<Vec<IssuanceRecord>>,
    held: watch::Sender<bool>,
}

impl Default for HeldLog {
    fn default() -> Self {
        Self { records: Mutex::default(), held: watch::channel(false).0 }
    }
}

impl HeldLog {
    pub(crate) fn records(&self) -> Vec<IssuanceRecord> {
        self.records.lock().unwrap().clone()
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
        self.records.lock().unwrap().extend(issued.iter().map(Issuance::to_record));
        let mut held = self.held.subscribe();
        async move {
            drop(held.wait_for(|held| !*held).await);
            Ok(())
        }
        .boxed()
    }
}

#[derive(Clone)]
struct SharedText(Arc<Mutex<Vec<u8>>>);

impl io::Write for SharedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
