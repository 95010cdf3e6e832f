//! A server in this process: a CA of its own, as slow and as wrong as a test says.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use mintmark_proto::spire::bundle::v1 as bundle;
use mintmark_proto::spire::bundle::v1::bundle_server::{Bundle, BundleServer};
use mintmark_proto::spire::svid::v1::svid_server::{Svid, SvidServer};
use mintmark_proto::spire::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest,
    BatchNewX509svidResponse, MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest,
    MintWitsvidResponse, MintX509svidRequest, MintX509svidResponse, NewDownstreamX509caRequest,
    NewDownstreamX509caResponse, NewJwtsvidRequest, NewJwtsvidResponse,
};
use mintmark_proto::spire::types::{self, JwtKey, Jwtsvid, X509Certificate, X509svid};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData, SanType, SignatureAlgorithm,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::request::{CertReq, ExtensionReq};

/// A CA that stands still once, and works on so many requests at a time, on each for so long.
pub(crate) struct TestCa {
    pub(crate) slots: Semaphore,
    pub(crate) work: Duration,
    /// From the first request.
    pub(crate) stall: Duration,
    pub(crate) first: OnceLock<Instant>,
    pub(crate) answer: Answer,
    root: CertifiedIssuer<'static, KeyPair>,
    issuer: CertifiedIssuer<'static, KeyPair>,
    stranger: CertifiedIssuer<'static, KeyPair>,
    token_key: EcdsaKeyPair,
}

/// What a CA makes of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Svid,
    Nothing,
    Busy,
    /// Not even the bundle is handed out.
    Refused,
    WrongKey,
    WrongId,
    WrongChain,
    WrongSignature,
    WrongAudience,
    Ended,
}

impl TestCa {
    /// Answers at once.
    pub(crate) fn quick(answer: Answer) -> Self {
        Self::working(1_000, Duration::ZERO, answer)
    }

    pub(crate) fn working(at_once: usize, work: Duration, answer: Answer) -> Self {
        let root = authority("root", None);
        let token_key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self {
            slots: Semaphore::new(at_once),
            work,
            stall: Duration::ZERO,
            first: OnceLock::new(),
            answer,
            issuer: authority("issuer", Some(&root)),
            stranger: authority("issuer", None),
            root,
            token_key,
        }
    }

    /// Whether an SVID is to be answered, when it is time to.
    async fn wait(&self) -> Result<bool, Status> {
        let first = *self.first.get_or_init(Instant::now);
        tokio::time::sleep_until(first + self.stall).await;
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        tokio::time::sleep(self.work).await;
        match self.answer {
            Answer::Busy => Err(Status::unavailable("every signing slot is taken")),
            answer => Ok(answer != Answer::Nothing),
        }
    }

    fn certify(&self, csr: &[u8]) -> Vec<Bytes> {
        let request = CertReq::from_der(csr).expect("a CSR");
        let key = &request.info.public_key.subject_public_key;
        let key = AskedKey(key.as_bytes().expect("whole bytes").to_vec());
        let mut id = asked_id(&request);
        if self.answer == Answer::WrongId {
            id += "/not";
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names.push(SanType::URI(id.as_str().try_into().expect("ASCII")));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = if self.answer == Answer::WrongChain { &self.stranger } else { &self.issuer };
        let leaf = match self.answer {
            Answer::WrongKey => params.signed_by(&KeyPair::generate().expect("a key"), issuer),
            _ => params.signed_by(&key, issuer),
        };
        let leaf = leaf.expect("a certificate").der().to_vec();
        vec![leaf.into(), issuer.der().to_vec().into()]
    }

    fn token(&self, id: &str, audience: &str) -> String {
        let id = if self.answer == Answer::WrongId { "spiffe://load.test/not" } else { id };
        let audience = if self.answer == Answer::WrongAudience { "others" } else { audience };
        let end = if self.answer == Answer::Ended { 1_u64 } else { 1 << 40 };
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let header = part(json!({"alg": "ES256", "kid": "key"}));
        let claims = part(json!({"sub": id, "aud": [audience], "exp": end}));
        let signed = format!("{header}.{claims}");
        let signature = self.token_key.sign(&SystemRandom::new(), signed.as_bytes());
        let mut signature = signature.expect("a signature").as_ref().to_vec();
        signature[20] ^= u8::from(self.answer == Answer::WrongSignature);
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn authority(
    name: &str,
    above: Option<&CertifiedIssuer<'static, KeyPair>>,
) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    match above {
        Some(above) => CertifiedIssuer::signed_by(params, key, above),
        None => CertifiedIssuer::self_signed(params, key),
    }
    .expect("a certificate")
}

/// The public key of a CSR, P-256.
struct AskedKey(Vec<u8>);

impl PublicKeyData for AskedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn asked_id(request: &CertReq) -> String {
    let extensions = request.info.attributes.iter().flat_map(|attribute| attribute.values.iter());
    let extensions =
        extensions.flat_map(|value| value.decode_as::<ExtensionReq>().expect("extensions").0);
    let mut names = extensions.flat_map(|extension| {
        let names = SubjectAltName::from_der(extension.extn_value.as_bytes());
        names.map_or(Vec::new(), |names| names.0)
    });
    match names.next() {
        Some(GeneralName::UniformResourceIdentifier(id)) => id.to_string(),
        other => panic!("{other:?} is no URI"),
    }
}

/// A running server; it ends with its runtime.
pub(crate) struct TestServer {
    pub(crate) socket: PathBuf,
    pub(crate) ca: Arc<TestCa>,
    pub(crate) runtime: Runtime,
    _directory: TempDir,
}

impl TestServer {
    pub(crate) fn start(ca: TestCa) -> Self {
        let runtime = Runtime::new().expect("threads");
        let directory = TempDir::new().expect("a temporary directory");
        let socket = directory.path().join("ca.sock");
        let listener = listen(&runtime, &socket);
        let ca = Arc::new(ca);
        runtime.spawn(
            Server::builder()
                .add_service(SvidServer::from_arc(ca.clone()))
                .add_service(BundleServer::from_arc(ca.clone()))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self { socket, ca, runtime, _directory: directory }
    }
}

fn listen(runtime: &Runtime, socket: &Path) -> UnixListener {
    let _context = runtime.enter();
    UnixListener::bind(socket).expect("a free path")
}

#[tonic::async_trait]
impl Bundle for TestCa {
    async fn get_bundle(
        &self,
        _: Request<bundle::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        if self.answer == Answer::Refused {
            return Err(Status::permission_denied("not for you"));
        }
        let root = X509Certificate { asn1: self.root.der().to_vec().into(), tainted: false };
        let key = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
            self.token_key.public_key(),
        );
        let key = JwtKey {
            public_key: key.expect("a key").as_ref().to_vec().into(),
            key_id: "key".to_owned(),
            ..JwtKey::default()
        };
        Ok(Response::new(types::Bundle {
            trust_domain: "load.test".to_owned(),
            x509_authorities: vec![root],
            jwt_authorities: vec![key],
            ..types::Bundle::default()
        }))
    }

    async fn count_bundles(
        &self,
        _: Request<bundle::CountBundlesRequest>,
    ) -> Result<Response<bundle::CountBundlesResponse>, Status> {
        Err(not_asked_for())
    }

    async fn append_bundle(
        &self,
        _: Request<bundle::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(not_asked_for())
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<bundle::PublishJwtAuthorityRequest>,
    ) -> Result<Response<bundle::PublishJwtAuthorityResponse>, Status> {
        Err(not_asked_for())
    }

    async fn publish_wit_authority(
        &self,
        _: Request<bundle::PublishWitAuthorityRequest>,
    ) -> Result<Response<bundle::PublishWitAuthorityResponse>, Status> {
        Err(not_asked_for())
    }

    async fn list_federated_bundles(
        &self,
        _: Request<bundle::ListFederatedBundlesRequest>,
    ) -> Result<Response<bundle::ListFederatedBundlesResponse>, Status> {
        Err(not_asked_for())
    }

    async fn get_federated_bundle(
        &self,
        _: Request<bundle::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Err(not_asked_for())
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<bundle::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchCreateFederatedBundleResponse>, Status> {
        Err(not_asked_for())
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<bundle::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchUpdateFederatedBundleResponse>, Status> {
        Err(not_asked_for())
    }

    async fn batch_set_federated_bundle(
        &self,
        _: Request<bundle::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchSetFederatedBundleResponse>, Status> {
        Err(not_asked_for())
    }

    async fn batch_delete_federated_bundle(
        &self,
        _: Request<bundle::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<bundle::BatchDeleteFederatedBundleResponse>, Status> {
        Err(not_asked_for())
    }
}

#[tonic::async_trait]
impl Svid for TestCa {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let svid = self.wait().await?.then(|| X509svid {
            cert_chain: self.certify(&request.into_inner().csr),
            ..X509svid::default()
        });
        Ok(Response::new(MintX509svidResponse { svid }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let MintJwtsvidRequest { id, audience, .. } = request.into_inner();
        let id = id.expect("an ID");
        let id = format!("spiffe://{}{}", id.trust_domain, id.path);
        let svid = self
            .wait()
            .await?
            .then(|| Jwtsvid { token: self.token(&id, &audience[0]), ..Jwtsvid::default() });
        Ok(Response::new(MintJwtsvidResponse { svid }))
    }

    async fn mint_witsvid(
        &self,
        _: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(not_asked_for())
    }

    async fn batch_new_x509svid(
        &self,
        _: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        Err(not_asked_for())
    }

    async fn new_jwtsvid(
        &self,
        _: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        Err(not_asked_for())
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(not_asked_for())
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        Err(not_asked_for())
    }
}

fn not_asked_for() -> Status {
    Status::unimplemented("no run asks for this")
}
