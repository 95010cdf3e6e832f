//! `spire.api.server.debug.v1.Debug`: what the server says of itself.

use std::sync::Arc;
use std::time::Instant;

use ca_core::mint::Mint;
use mintmark_proto::spire::debug::v1::debug_server;
use mintmark_proto::spire::debug::v1::{GetInfoRequest, GetInfoResponse};
use tonic::{Request, Response, Status};

use crate::bundle;

pub(crate) struct Debug {
    mint: Arc<Mint>,
    started: Instant,
}

impl Debug {
    /// Counts the age of the server from now on.
    pub(crate) fn new(mint: Arc<Mint>) -> Self {
        Self { mint, started: Instant::now() }
    }
}

#[tonic::async_trait]
impl debug_server::Debug for Debug {
    /// A signer has no SVID of its own, no agents and no entries.
    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(GetInfoResponse {
            uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            federated_bundles_count: bundle::count(&self.mint),
            ..GetInfoResponse::default()
        }))
    }
}
