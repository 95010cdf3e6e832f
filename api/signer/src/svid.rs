//! `spire.api.server.svid.v1.SVID`: minting for whoever may use the admin socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ca_core::csr::Csr;
use ca_core::excerpt::Excerpt;
use ca_core::id::SpiffeId;
use ca_core::log::Caller;
use ca_core::mint::MintError;
use ca_core::pipeline::admission::Class;
use ca_core::pipeline::{Minted, Order, Pipeline, Wish};
use ca_core::policy;
use mintmark_proto::spire::svid::v1::svid_server::Svid;
use mintmark_proto::spire::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest,
    BatchNewX509svidResponse, MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest,
    MintWitsvidResponse, MintX509svidRequest, MintX509svidResponse, NewDownstreamX509caRequest,
    NewDownstreamX509caResponse, NewJwtsvidRequest, NewJwtsvidResponse,
};
use mintmark_proto::spire::types::{Jwtsvid, Spiffeid, X509svid};
use tonic::{Request, Response, Status};

use crate::admin_socket::caller;
use crate::audit::Audit;
use crate::metrics::ServiceMetrics;
use crate::status::{Document, Failure};

/// How long a mint may take, its wait included. A busy key says so at once, so only a device or a disk that
/// hangs comes near it.
const LONGEST_MINT: Duration = Duration::from_secs(20);

pub(crate) struct Svids {
    pipeline: Arc<Pipeline>,
    metrics: ServiceMetrics,
    audit: Arc<Audit>,
}

impl Svids {
    pub(crate) fn new(pipeline: Arc<Pipeline>, metrics: ServiceMetrics, audit: Arc<Audit>) -> Self {
        Self { pipeline, metrics, audit }
    }

    async fn x509(
        &self,
        request: MintX509svidRequest,
        caller: &Caller,
    ) -> Result<X509svid, Failure> {
        if request.csr.is_empty() {
            return Err(Failure::CsrMissing);
        }
        let wish = Wish::Csr { der: request.csr, ttl_seconds: request.ttl };
        match self.mint(Document::X509Svid, wish, caller).await? {
            Minted::X509(svid) => Ok(X509svid {
                id: Some(message(&svid.id)),
                cert_chain: svid.chain().cloned().collect(),
                expires_at: svid.expires_at.unix(),
                hint: String::new(),
            }),
            Minted::Jwt(_) => Err(Failure::Mint(Document::X509Svid, MintError::BrokenOff)),
        }
    }

    async fn jwt(&self, request: MintJwtsvidRequest, caller: &Caller) -> Result<Jwtsvid, Failure> {
        let id = request.id.ok_or(Failure::IdMissing)?;
        let id = SpiffeId::from_parts(&id.trust_domain, &id.path).map_err(Failure::Id)?;
        let trust_domain = self.pipeline.mint().trust_domain();
        let grant = policy::mint_jwt(trust_domain, id, request.audience, request.ttl)?;
        match self.mint(Document::JwtSvid, Wish::Jwt(grant), caller).await? {
            Minted::Jwt(svid) => Ok(Jwtsvid {
                token: svid.token().to_owned(),
                id: Some(message(svid.id())),
                expires_at: svid.expires_at().unix(),
                issued_at: svid.issued_at().unix(),
                hint: String::new(),
            }),
            Minted::X509(_) => Err(Failure::Mint(Document::JwtSvid, MintError::BrokenOff)),
        }
    }

    /// Mints for a person or a script that waits for it.
    async fn mint(
        &self,
        document: Document,
        wish: Wish,
        caller: &Caller,
    ) -> Result<Minted, Failure> {
        let deadline = Instant::now() + LONGEST_MINT;
        let order = Order { caller: caller.clone(), class: Class::New, deadline };
        tokio::time::timeout(LONGEST_MINT, self.pipeline.one(wish, &order))
            .await
            .map_err(|_| Failure::TooSlow { document, limit: LONGEST_MINT })?
            .map_err(|error| Failure::of_mint(document, error))
    }

    /// Counts how a mint ended. What was not minted, and why, is written down in full, as long as that is not
    /// too much; the caller is told what concerns it.
    fn told<T>(
        &self,
        document: Document,
        caller: &Caller,
        id: impl FnOnce() -> Option<Excerpt>,
        ended: Result<T, Failure>,
    ) -> Result<T, Status> {
        ended.inspect(|_| self.metrics.minted(document)).map_err(|failure| {
            self.metrics.not_minted(document, &failure);
            self.audit.refused(caller, document.name(), id, &failure, Instant::now());
            failure.into()
        })
    }
}

/// The IDs that a CSR asks for, if it can be read.
fn asked_by_csr(der: &[u8]) -> Option<Excerpt> {
    let csr = Csr::parse(der).ok()?;
    Some(Excerpt::of(&csr.requested().uris.join(" ")))
}

fn message(id: &SpiffeId) -> Spiffeid {
    Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

#[tonic::async_trait]
impl Svid for Svids {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let csr = request.csr.clone();
        let ended = self.x509(request, &caller).await;
        let svid = self.told(Document::X509Svid, &caller, || asked_by_csr(&csr), ended)?;
        Ok(Response::new(MintX509svidResponse { svid: Some(svid) }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let id = request.id.clone();
        let ended = self.jwt(request, &caller).await;
        let id = || id.map(|id| Excerpt::of(&format!("spiffe://{}{}", id.trust_domain, id.path)));
        let svid = self.told(Document::JwtSvid, &caller, id, ended)?;
        Ok(Response::new(MintJwtsvidResponse { svid: Some(svid) }))
    }

    async fn mint_witsvid(
        &self,
        _: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(Failure::NotOffered("MintWITSVID").into())
    }

    async fn batch_new_x509svid(
        &self,
        _: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        Err(Failure::NotOffered("BatchNewX509SVID").into())
    }

    async fn new_jwtsvid(
        &self,
        _: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        Err(Failure::NotOffered("NewJWTSVID").into())
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(Failure::NotOffered("BatchNewWITSVID").into())
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        Err(Failure::NotOffered("NewDownstreamX509CA").into())
    }
}
