//! Renewal, against a server of `mintmark.control.v1` in this process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ca_core::clock::{Clock as _, SystemClock};
use ca_core::csr::Csr;
use ca_core::key::PublicKey;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mintmark_client::mint::{Answers, Batch, Sender};
use mintmark_client::renewal::{self, RenewError};
use mintmark_client::{Credentials, Signer};
use mintmark_proto::control::v1::control_server::{Control, ControlServer};
use mintmark_proto::control::v1::{self as wire, Chain};
use mintmark_proto::signing::v1::follow_response::Event;
use mintmark_proto::signing::v1::signing_server::{Signing, SigningServer};
use mintmark_proto::signing::v1::{
    Bundle, FollowRequest, FollowResponse, MintRequest, MintResponse, X509Item, X509Result,
};
use mintmark_transport::{Acceptor, Credential, Identity, Peer, Trust};
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm};
use tempfile::TempDir;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::stage::{Ca, FRONT_END, LONG, eventually, leaf};

const SIGNER: &str = "spiffe://client.test/mintmark/signer";

/// Who renews. It refuses so many requests first, and while it is told so, connections with a key that it has certified.
struct Renewing {
    ca: Ca,
    refuses: AtomicUsize,
    turns_away: AtomicBool,
    /// How many connections there are.
    open: AtomicUsize,
    /// The keys that it has certified.
    certified: Mutex<Vec<[u8; 32]>>,
    /// Who came, by the key that was shown.
    came: Mutex<Vec<[u8; 32]>>,
    uri: &'static str,
}

#[derive(Clone)]
struct Server(Arc<Renewing>);

impl Server {
    async fn start(refuses: usize, uri: &'static str) -> (Self, String) {
        let renewing = Renewing {
            ca: Ca::new(),
            refuses: AtomicUsize::new(refuses),
            turns_away: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            certified: Mutex::default(),
            came: Mutex::default(),
            uri,
        };
        let server = Self(Arc::new(renewing));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = server.acceptor();
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, serving) = (acceptor.clone(), serving.clone());
                tokio::spawn(async move {
                    if let Ok((stream, peer)) = acceptor.accept(stream).await
                        && serving.lets_in(&peer)
                    {
                        serving.0.open.fetch_add(1, Ordering::SeqCst);
                        serving.answer(stream).await;
                        serving.0.open.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        (server, address)
    }

    fn acceptor(&self) -> Acceptor {
        let pair = KeyPair::generate().unwrap();
        let chain = vec![self.0.ca.issue(&leaf(SIGNER), &pair).into()];
        let credential = Credential::new(chain, pair.into()).unwrap();
        let trust_domain = ca_core::id::TrustDomain::parse("client.test").unwrap();
        let trust = Trust::of_roots(trust_domain, &[self.0.ca.root().into()]).unwrap();
        let (identity, clock) = (Identity::new(credential), Arc::new(SystemClock));
        Acceptor::new(identity, Arc::new(trust), clock, LONG).unwrap()
    }

    fn lets_in(&self, peer: &Peer) -> bool {
        let turns_away = self.0.turns_away.load(Ordering::SeqCst);
        if turns_away && self.certified().contains(&peer.key_fingerprint) {
            return false;
        }
        self.0.came.lock().unwrap().push(peer.key_fingerprint);
        true
    }

    fn certified(&self) -> Vec<[u8; 32]> {
        self.0.certified.lock().unwrap().clone()
    }

    fn came(&self) -> Vec<[u8; 32]> {
        self.0.came.lock().unwrap().clone()
    }

    async fn answer(&self, stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) {
        let routes = Routes::new(ControlServer::new(self.clone()))
            .add_service(SigningServer::new(self.clone()));
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            routes.clone().call(request.map(Body::new))
        });
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(http.serve_connection(TokioIo::new(stream), service).await);
    }
}

/// The public key of a CSR, P-256.
struct AskedKey(PublicKey);

impl PublicKeyData for AskedKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.key_bits()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[tonic::async_trait]
impl Control for Server {
    async fn renew_front_end(
        &self,
        request: Request<wire::RenewFrontEndRequest>,
    ) -> Result<Response<wire::RenewFrontEndResponse>, Status> {
        let refuses = self.0.refuses.load(Ordering::SeqCst);
        if refuses > 0 {
            self.0.refuses.store(refuses - 1, Ordering::SeqCst);
            return Err(Status::failed_precondition("not past half of its life"));
        }
        let csr = Csr::parse(&request.get_ref().csr).and_then(|csr| csr.verify()).unwrap();
        let key = csr.key.public_key().clone();
        self.0.certified.lock().unwrap().push(*key.fingerprint());
        let leaf = self.0.ca.issue(&leaf(self.0.uri), &AskedKey(key));
        let chain = Some(Chain { certificates: vec![leaf.into()] });
        Ok(Response::new(wire::RenewFrontEndResponse { chain }))
    }

    async fn attest_node(
        &self,
        _: Request<wire::AttestNodeRequest>,
    ) -> Result<Response<wire::AttestNodeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn renew_node(
        &self,
        _: Request<wire::RenewNodeRequest>,
    ) -> Result<Response<wire::RenewNodeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn promote_node(
        &self,
        _: Request<wire::PromoteNodeRequest>,
    ) -> Result<Response<wire::PromoteNodeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn redeem_join_token(
        &self,
        _: Request<wire::RedeemJoinTokenRequest>,
    ) -> Result<Response<wire::RedeemJoinTokenResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<wire::PublishJwtAuthorityRequest>,
    ) -> Result<Response<wire::PublishJwtAuthorityResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn report(
        &self,
        _: Request<wire::ReportRequest>,
    ) -> Result<Response<wire::ReportResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// What a front end asks first.
#[tonic::async_trait]
impl Signing for Server {
    type MintStream = BoxStream<'static, Result<MintResponse, Status>>;
    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    /// Each item is answered with nothing.
    async fn mint(
        &self,
        request: Request<Streaming<MintRequest>>,
    ) -> Result<Response<Self::MintStream>, Status> {
        let nothing = |item: X509Item| X509Result { request_id: item.request_id, outcome: None };
        let answer = move |message: MintRequest| {
            let x509 = message.x509.into_iter().map(nothing).collect();
            MintResponse { x509, ..MintResponse::default() }
        };
        Ok(Response::new(request.into_inner().map_ok(answer).boxed()))
    }

    async fn follow(
        &self,
        _: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let event = Some(Event::Bundle(Bundle::default()));
        let events = futures_util::stream::iter([Ok(FollowResponse { event })]);
        Ok(Response::new(events.boxed()))
    }
}

struct FrontEnd {
    folder: TempDir,
    signer: Signer,
    server: Server,
}

/// A front end whose certificate is past half of its life, or not.
async fn front_end(past_half: bool, refuses: usize, uri: &'static str) -> FrontEnd {
    let (server, address) = Server::start(refuses, uri).await;
    let folder = TempDir::new().unwrap();
    let mut params = leaf(FRONT_END);
    if past_half {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    }
    server.0.ca.folder(folder.path(), params);
    let credentials = Credentials::load(folder.path(), SystemClock.now()).unwrap();
    let signer = Signer::connect(&address, Arc::new(credentials), Arc::new(SystemClock)).await;
    FrontEnd { folder, signer: signer.unwrap(), server }
}

/// Whether an item of that stream is answered.
async fn answers(stream: &mut (Sender<()>, Answers<()>)) -> bool {
    let x509 = vec![((), X509Item::default())];
    let batch = Batch { x509, ..Batch::default() };
    stream.0.send(batch).await.is_ok() && stream.1.next().await.is_some_and(|some| some.len() == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_kept_with_its_key_and_shown_to_the_signer() {
    let FrontEnd { folder, signer, server } = front_end(true, 0, FRONT_END).await;
    let clone = signer.clone();
    let life = renewal::renew(&signer, &SystemClock).await.unwrap();
    assert!(life.half() > SystemClock.now());
    let kept = Credentials::load(folder.path(), SystemClock.now()).unwrap();
    assert_eq!((kept.life(), signer.credentials().life()), (life, life));
    // It is shown by the time that the renewal is done, and further calls need no further connection.
    let (came, certified) = (server.came(), server.certified());
    assert_eq!((came.len(), certified.len()), (2, 1));
    assert!(came[1] == certified[0] && came[0] != certified[0]);
    clone.bundle().await.unwrap();
    eventually(|| server.0.open.load(Ordering::SeqCst) == 1, "the one before closes").await;
    assert_eq!(server.came().len(), 2);
    // What is not due is not done again.
    assert_eq!(renewal::renew(&signer, &SystemClock).await.unwrap(), life);
    assert_eq!((server.came().len(), server.certified().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_from_before_a_renewal_goes_on_and_its_connection_ends_with_it() {
    let FrontEnd { signer, server, folder: _folder } = front_end(true, 0, FRONT_END).await;
    let mut before = signer.mint("", 10).await.unwrap();
    assert!(answers(&mut before).await);
    renewal::renew(&signer, &SystemClock).await.unwrap();
    let mut after = signer.mint("", 10).await.unwrap();
    assert!(answers(&mut before).await && answers(&mut after).await);
    assert_eq!(server.0.open.load(Ordering::SeqCst), 2);
    drop(before);
    eventually(|| server.0.open.load(Ordering::SeqCst) == 1, "nobody needs it any more").await;
    assert!(answers(&mut after).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_with_the_next_certificate_stays_and_comes_again_with_the_same() {
    let FrontEnd { signer, server, folder: _folder } = front_end(true, 0, FRONT_END).await;
    let mut stream = signer.mint("", 10).await.unwrap();
    server.0.turns_away.store(true, Ordering::SeqCst);
    let error = renewal::renew(&signer, &SystemClock).await.unwrap_err();
    assert!(matches!(error, RenewError::Connection(_)), "{error}");
    signer.bundle().await.unwrap();
    assert!(answers(&mut stream).await);
    assert_eq!(server.came().len(), 1, "the connection before is in use");
    let keeping = tokio::spawn(async move { renewal::keep_fresh(&signer, &SystemClock).await });
    server.0.turns_away.store(false, Ordering::SeqCst);
    eventually(|| server.came().len() == 2, "it comes again").await;
    assert_eq!(server.certified(), server.came()[1..]);
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_with_one_folder_renew_once_and_both_show_it() {
    let FrontEnd { signer, server, folder: _folder } = front_end(true, 0, FRONT_END).await;
    let (address, credentials) = (signer.address(), signer.credentials().clone());
    let second = Signer::connect(address, credentials, Arc::new(SystemClock)).await.unwrap();
    let both = futures_util::future::join(
        renewal::renew(&signer, &SystemClock),
        renewal::renew(&second, &SystemClock),
    );
    let (first, second) = both.await;
    assert_eq!(first.unwrap(), second.unwrap());
    let (came, certified) = (server.came(), server.certified());
    assert_eq!(certified.len(), 1);
    assert_eq!(came[2..], [certified[0]; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_at_half_of_its_life_and_until_that_has_worked() {
    let FrontEnd { signer, server, .. } = front_end(true, 2, FRONT_END).await;
    let keeping = tokio::spawn(async move { renewal::keep_fresh(&signer, &SystemClock).await });
    eventually(|| server.certified().len() == 1, "it is renewed in the end").await;
    assert_eq!(server.0.refuses.load(Ordering::SeqCst), 0);
    keeping.abort();

    let FrontEnd { signer, server, .. } = front_end(false, 0, FRONT_END).await;
    let keeping = renewal::keep_fresh(&signer, &SystemClock);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), keeping).await;
    assert!(early.is_err() && server.certified().is_empty(), "it is not due");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_somebody_else_is_not_taken() {
    let front_end = front_end(true, 0, "spiffe://client.test/mintmark/frontend/two").await;
    let before = front_end.signer.credentials().life();
    let error = renewal::renew(&front_end.signer, &SystemClock).await.unwrap_err();
    assert!(matches!(error, RenewError::Credentials(_)), "{error}");
    assert_eq!(front_end.signer.credentials().life(), before);
    let kept = Credentials::load(front_end.folder.path(), SystemClock.now()).unwrap();
    assert_eq!(kept.life(), before);
}
