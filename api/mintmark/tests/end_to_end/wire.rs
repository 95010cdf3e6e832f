//! The calls that SPIRE's command line makes, by a plain gRPC client on the admin socket of the binary.

use std::fs;

use hyper_util::rt::TokioIo;
use mintmark_proto::spire::bundle::v1::bundle_client::BundleClient;
use mintmark_proto::spire::bundle::v1::{CountBundlesRequest, GetBundleRequest};
use mintmark_proto::spire::debug::v1::GetInfoRequest;
use mintmark_proto::spire::debug::v1::debug_client::DebugClient;
use mintmark_proto::spire::logger::v1::logger_client::LoggerClient;
use mintmark_proto::spire::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use mintmark_proto::spire::svid::v1::svid_client::SvidClient;
use mintmark_proto::spire::svid::v1::{MintJwtsvidRequest, MintX509svidRequest};
use mintmark_proto::spire::types::{LogLevel, Spiffeid};
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::site::{Site, WORKLOAD};

/// A channel to the server that runs here.
pub(crate) async fn connect(site: &Site) -> Channel {
    let path = site.path("admin.sock");
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

fn id() -> Spiffeid {
    Spiffeid { trust_domain: "example.org".to_owned(), path: "/shop/web".to_owned() }
}

/// A CSR by rcgen, for a key that nobody keeps.
fn csr() -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![rcgen::SanType::URI(WORKLOAD.try_into().unwrap())];
    let request = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap();
    request.der().to_vec()
}

#[tokio::test]
async fn minting_and_the_bundle_are_spires_calls() {
    let site = Site::with_token();
    let server = site.start();
    let channel = connect(&site).await;

    let mut svids = SvidClient::new(channel.clone());
    let request = MintX509svidRequest { csr: csr().into(), ttl: 600 };
    let svid = svids.mint_x509svid(request).await.unwrap().into_inner().svid.unwrap();
    assert_eq!(svid.id, Some(id()));
    assert_eq!(
        svid.cert_chain.len(),
        2,
        "the issuing key's is in the chain, the root in the bundle"
    );
    let request = MintJwtsvidRequest { id: Some(id()), audience: vec!["a".to_owned()], ttl: 0 };
    let token = svids.mint_jwtsvid(request).await.unwrap().into_inner().svid.unwrap();
    assert_eq!(token.expires_at - token.issued_at, 300);
    site.keep_secret(&token.token);

    let mut bundles = BundleClient::new(channel);
    let bundle = bundles.get_bundle(GetBundleRequest::default()).await.unwrap().into_inner();
    assert_eq!(bundle.trust_domain, "example.org");
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
    let count = bundles.count_bundles(CountBundlesRequest {}).await.unwrap().into_inner().count;
    assert_eq!(count, 1);
    server.stop();
}

#[tokio::test]
async fn health_information_and_log_level_are_spires_calls() {
    let mut site = Site::with_sealed_keys();
    site.set("log_level = \"trace\"", "log_level = \"info\"");
    let server = site.start();
    let channel = connect(&site).await;
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    assert_eq!(health.unwrap().into_inner().status(), ServingStatus::Serving);
    let info = DebugClient::new(channel.clone()).get_info(GetInfoRequest {}).await.unwrap();
    assert_eq!(info.into_inner().federated_bundles_count, 1);

    let mut logger = LoggerClient::new(channel);
    let told = logger.get_logger(GetLoggerRequest {}).await.unwrap().into_inner();
    assert_eq!((told.current_level(), told.launch_level()), (LogLevel::Info, LogLevel::Info));
    let request = SetLogLevelRequest { new_level: LogLevel::Debug.into() };
    let told = logger.set_log_level(request).await.unwrap().into_inner();
    assert_eq!((told.current_level(), told.launch_level()), (LogLevel::Debug, LogLevel::Info));
    let told = logger.reset_log_level(ResetLogLevelRequest {}).await.unwrap().into_inner();
    assert_eq!(told.current_level(), LogLevel::Info);
    server.stop();
}

#[tokio::test]
async fn no_csr_of_the_corpus_gets_past_the_server() {
    let site = Site::with_sealed_keys();
    let server = site.start();
    let mut svids = SvidClient::new(connect(&site).await);
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/csr");
    for entry in fs::read_dir(corpus).unwrap() {
        // All are for other trust domains, so that none may be minted, the good ones neither.
        let path = entry.unwrap().path();
        let request = MintX509svidRequest { csr: fs::read(&path).unwrap().into(), ttl: 0 };
        let status = svids.mint_x509svid(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{}: {status}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap();
        let starts: &[&str] = match name {
            "bad-empty" => &["missing CSR"],
            _ if name.starts_with("bad-") => {
                &["malformed CSR: ", "failed to verify CSR signature: "]
            }
            _ => &["CSR URI SAN ", "only one URI SAN ", "CSR DNS name ", "CSR subject "],
        };
        let start = |start: &&str| status.message().starts_with(start);
        assert!(starts.iter().any(start), "{name}: {status}");
    }
    assert!(!server.stop().contains("X.509-SVID"));
}
