//! The limit: a server of the same streams that verifies and signs as many bytes as a mint would, and answers with the
//! same SVID each time. No policy, no encoding, no log, no queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, Signature,
    UnparsedPublicKey,
};
use bytes::Bytes;
use ca_core::clock::SystemClock;
use ca_core::issuer::X509Svid;
use futures_util::stream::{BoxStream, StreamExt as _};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mintmark_proto::signing::v1::signing_server::{Signing, SigningServer};
use mintmark_proto::signing::v1::{
    FollowRequest, FollowResponse, JwtResult, JwtSvid, MintRequest, MintResponse, X509Result,
    X509Svid as X509Answer, jwt_result, x509_result,
};
use mintmark_transport::{Acceptor, Identity, Trust};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::mint::signed_part;

/// Messages of a stream that are worked on at once.
const AT_ONCE: usize = 64;
/// As the signing listener has them.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
const LARGEST_FRAME: u32 = 64 * 1024;
const SEND_BUFFER: usize = 1 << 20;
/// Items of a message that are worked on where they are.
const SMALL: usize = 16;

/// What is done for an item, and answered.
pub(crate) struct RawCrypto {
    key: EcdsaKeyPair,
    random: SystemRandom,
    signed: Vec<u8>,
    verified: Option<Verified>,
    answer: Answer,
}

/// A signature that is verified for each item.
struct Verified {
    message: Vec<u8>,
    signature: Signature,
}

enum Answer {
    X509 { leaf: Bytes, intermediates: Vec<Bytes> },
    Jwt(String),
}

impl RawCrypto {
    /// A signature as that of this certificate.
    pub(super) fn sign(svid: X509Svid) -> anyhow::Result<Self> {
        let signed = vec![0x5a; signed_part(&svid.leaf)?];
        let intermediates = svid.intermediates.to_vec();
        Self::new(signed, Answer::X509 { leaf: svid.leaf, intermediates })
    }

    /// The same, and a verification as that of this CSR.
    pub(super) fn verify_and_sign(csr: &[u8], svid: X509Svid) -> anyhow::Result<Self> {
        let mut raw = Self::sign(svid)?;
        let message = vec![0x5a; signed_part(csr)?];
        let signature = raw.key.sign(&raw.random, &message)?;
        raw.verified = Some(Verified { message, signature });
        Ok(raw)
    }

    /// A signature as that of this token.
    pub(super) fn token(token: String) -> anyhow::Result<Self> {
        let signed = vec![0x5a; token.rfind('.').context("a JWS has three parts")?];
        Self::new(signed, Answer::Jwt(token))
    }

    fn new(signed: Vec<u8>, answer: Answer) -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        Ok(Self { key, random: SystemRandom::new(), signed, verified: None, answer })
    }

    /// The public half of its key, an uncompressed point.
    pub(super) fn point(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// Answers whoever `trust` vouches for, for as long as the runtime lives.
    pub(super) async fn serve(
        self,
        identity: Arc<Identity>,
        trust: Arc<Trust>,
    ) -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let clock = Arc::new(SystemClock);
        let acceptor = Acceptor::new(identity, trust, clock, Duration::from_secs(10))?;
        let signing = SigningServer::new(Raw(Arc::new(self)));
        let routes = Routes::new(signing.max_decoding_message_size(1 << 20));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(acceptor.clone(), routes.clone(), stream));
            }
        });
        Ok(address)
    }

    fn answer(&self, request: &MintRequest) -> MintResponse {
        let items = request.x509.iter().map(|item| item.request_id);
        let items = items.chain(request.jwt.iter().map(|item| item.request_id));
        let mut message = MintResponse::default();
        for request_id in items {
            self.work();
            match &self.answer {
                Answer::X509 { leaf, .. } => {
                    let svid = X509Answer { leaf: leaf.clone(), expires_at: 1 };
                    let outcome = Some(x509_result::Outcome::Svid(svid));
                    message.x509.push(X509Result { request_id, outcome });
                }
                Answer::Jwt(token) => {
                    let svid = JwtSvid { token: token.clone(), expires_at: 1, issued_at: 1 };
                    let outcome = Some(jwt_result::Outcome::Svid(svid));
                    message.jwt.push(JwtResult { request_id, outcome });
                }
            }
        }
        if let Answer::X509 { intermediates, .. } = &self.answer {
            message.intermediates.clone_from(intermediates);
        }
        message
    }

    fn work(&self) {
        if let Some(Verified { message, signature }) = &self.verified {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.point())
                .verify(message, signature.as_ref())
                .expect("a fresh signature verifies");
        }
        let signature = self.key.sign(&self.random, &self.signed);
        std::hint::black_box(signature.expect("a software key signs"));
    }
}

fn items(message: &Result<MintRequest, Status>) -> usize {
    message.as_ref().map_or(0, |message| message.x509.len() + message.jwt.len())
}

async fn connection(acceptor: Acceptor, routes: Routes, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok((stream, _)) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        routes.clone().call(request.map(Body::new))
    });
    // It ends when its client does.
    let _ = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_frame_size(LARGEST_FRAME)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

struct Raw(Arc<RawCrypto>);

#[tonic::async_trait]
impl Signing for Raw {
    type MintStream = BoxStream<'static, Result<MintResponse, Status>>;
    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    /// Each message is worked on by itself, so that one stream has all cores: where it is if it is small, else by a
    /// pool of threads, so that reading and writing goes on meanwhile. That is the faster way of each.
    async fn mint(
        &self,
        request: Request<Streaming<MintRequest>>,
    ) -> Result<Response<Self::MintStream>, Status> {
        let raw = Arc::clone(&self.0);
        let answers = request.into_inner().map(move |message| {
            let raw = Arc::clone(&raw);
            let is_small = items(&message) <= SMALL;
            let (done, answer) = oneshot::channel();
            let work = move || drop(done.send(message.map(|message| raw.answer(&message))));
            if is_small {
                tokio::spawn(async move { work() });
            } else {
                rayon::spawn(work);
            }
            async { answer.await.map_err(|error| Status::internal(error.to_string()))? }
        });
        Ok(Response::new(answers.buffer_unordered(AT_ONCE).boxed()))
    }

    async fn follow(
        &self,
        _: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        Err(Status::unimplemented("it mints"))
    }
}
