//! `grpc.health.v1.Health`: whether the server can say by what its SVIDs are verified.

use std::sync::Arc;

use ca_core::mint::Mint;
use futures_util::stream::Empty;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use crate::bundle;
use crate::status::Failure;

pub(crate) struct Health {
    mint: Arc<Mint>,
}

impl Health {
    pub(crate) fn new(mint: Arc<Mint>) -> Self {
        Self { mint }
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Failure::HealthOfService.into());
        }
        let status = match bundle::published(&self.mint) {
            Some(_) => ServingStatus::Serving,
            None => ServingStatus::NotServing,
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Failure::NotOffered("Watch").into())
    }
}
