//! `mintmark.control.v1`: what front ends ask beside minting. A front end gets its next certificate here; the other calls
//! are refused, for nothing is behind them yet.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use ca_core::clock::Clock;
use ca_core::excerpt::Excerpt;
use ca_core::frontend::Shown;
use ca_core::issuer::X509Svid;
use ca_core::log::Caller;
use ca_core::mint::MintError;
use ca_core::pipeline::Pipeline;
use ca_core::policy;
use mintmark_proto::control::v1::control_server::{self, ControlServer};
use mintmark_proto::control::v1::{
    AttestNodeRequest, AttestNodeResponse, Chain, PromoteNodeRequest, PromoteNodeResponse,
    PublishJwtAuthorityRequest, PublishJwtAuthorityResponse, RedeemJoinTokenRequest,
    RedeemJoinTokenResponse, RenewFrontEndRequest, RenewFrontEndResponse, RenewNodeRequest,
    RenewNodeResponse, ReportRequest, ReportResponse,
};
use tonic::{Request, Response, Status};

use super::seat::Seat;
use crate::audit::Audit;
use crate::front_ends::{FrontEndDesk, Renewal};
use crate::status::{Document, Failure};

/// Largest message in bytes: 64 KiB of evidence, a CSR of 16 KiB, selectors.
const LARGEST_MESSAGE: usize = 128 * 1024;

/// How a renewal is called where it is refused.
const RENEWAL: &str = "renewal of its certificate";

/// What the calls have from the listener; what they have from their connection is its [`Seat`].
#[derive(Clone)]
pub(super) struct Control {
    pipeline: Arc<Pipeline>,
    clock: Arc<dyn Clock>,
    audit: Arc<Audit>,
}

impl Control {
    pub(super) fn new(pipeline: Arc<Pipeline>, clock: Arc<dyn Clock>, audit: Arc<Audit>) -> Self {
        Self { pipeline, clock, audit }
    }

    /// With its limits.
    pub(super) fn service(self) -> ControlServer<Self> {
        ControlServer::new(self)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    fn desk(&self, seat: &Seat) -> FrontEndDesk {
        let (pipeline, clock) = (Arc::clone(&self.pipeline), Arc::clone(&self.clock));
        FrontEndDesk::new(Arc::clone(&seat.front_ends), pipeline, clock)
    }

    async fn mint_next(&self, seat: &Seat, csr: &[u8]) -> Result<Renewal, Failure> {
        let (front_end, peer) = (&seat.front_end, &seat.peer);
        let shown = Shown {
            fingerprint: peer.key_fingerprint,
            not_before: peer.not_before,
            not_after: peer.not_after,
        };
        let (name, budgets) = (front_end.record.name(), &front_end.budgets);
        self.desk(seat).mint_next(name, &shown, budgets, csr, &caller(seat)).await
    }

    /// Commits a renewal, and has it written down how that went.
    async fn record(self, seat: Arc<Seat>, renewal: Renewal) -> Result<X509Svid, Status> {
        let svid = self.desk(&seat).renew(renewal).await;
        let svid = svid.map_err(|failure| self.refused(&seat, RENEWAL, failure))?;
        let (caller, by, serial, until) = (caller(&seat), key(&seat), svid.serial, svid.expires_at);
        tracing::info!(%caller, %by, %serial, %until, "certificate of a front end renewed");
        Ok(svid)
    }

    /// Refuses a call behind which there is nothing, once it is known that its caller might have made it.
    fn not_offered<T, R>(
        &self,
        request: &Request<T>,
        method: &'static str,
        authorise: impl FnOnce(&Seat) -> Result<(), policy::Refusal>,
    ) -> Result<Response<R>, Status> {
        let seat = Seat::of(request)?;
        let failure = match authorise(&seat) {
            Ok(()) => Failure::NotOffered(method),
            Err(refusal) => Failure::Refused(refusal),
        };
        Err(self.refused(&seat, method, failure))
    }

    /// Has it written down that something was not done, and by which key it was asked for: instances share a name.
    fn refused(&self, seat: &Seat, what: &str, failure: Failure) -> Status {
        let key = || Some(Excerpt::of(&key(seat)));
        self.audit.refused(&caller(seat), what, key, &failure, Instant::now());
        failure.into()
    }
}

fn caller(seat: &Seat) -> Caller {
    let name = Arc::clone(seat.front_end.record.name().shared());
    Caller::FrontEnd { name, instance: Arc::default() }
}

/// The key of a connection, as `mintmark frontend show` has it.
fn key(seat: &Seat) -> String {
    let mut text = "key ".to_owned();
    for byte in seat.peer.key_fingerprint {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn by_all(_: &Seat) -> Result<(), policy::Refusal> {
    Ok(())
}

#[tonic::async_trait]
impl control_server::Control for Control {
    async fn renew_front_end(
        &self,
        request: Request<RenewFrontEndRequest>,
    ) -> Result<Response<RenewFrontEndResponse>, Status> {
        let seat = Seat::of(&request)?;
        let minted = self.mint_next(&seat, &request.get_ref().csr).await;
        let renewal = minted.map_err(|failure| self.refused(&seat, RENEWAL, failure))?;
        // A task of its own, for whoever asks may leave: what has been committed by then is to have its line all the
        // same. There are as many as renewals, which are counted, and each ends within the time of a commit.
        let recorded = tokio::spawn(self.clone().record(Arc::clone(&seat), renewal)).await;
        let broken_off = |_| Err(Failure::Mint(Document::X509Svid, MintError::BrokenOff).into());
        let svid = recorded.unwrap_or_else(broken_off)?;
        let chain = Chain { certificates: svid.chain().cloned().collect() };
        Ok(Response::new(RenewFrontEndResponse { chain: Some(chain) }))
    }

    async fn attest_node(
        &self,
        request: Request<AttestNodeRequest>,
    ) -> Result<Response<AttestNodeResponse>, Status> {
        self.not_offered(&request, "AttestNode", by_all)
    }

    async fn renew_node(
        &self,
        request: Request<RenewNodeRequest>,
    ) -> Result<Response<RenewNodeResponse>, Status> {
        self.not_offered(&request, "RenewNode", by_all)
    }

    async fn promote_node(
        &self,
        request: Request<PromoteNodeRequest>,
    ) -> Result<Response<PromoteNodeResponse>, Status> {
        self.not_offered(&request, "PromoteNode", by_all)
    }

    async fn redeem_join_token(
        &self,
        request: Request<RedeemJoinTokenRequest>,
    ) -> Result<Response<RedeemJoinTokenResponse>, Status> {
        self.not_offered(&request, "RedeemJoinToken", by_all)
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        let granted = |seat: &Seat| policy::frontend_publish(&seat.front_end.record);
        self.not_offered(&request, "PublishJwtAuthority", granted)
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        self.not_offered(&request, "Report", by_all)
    }
}
