//! Everything that answers on the admin socket, with the limits that hold for all of it.

use std::sync::Arc;
use std::time::Duration;

use ca_core::clock::Clock;
use ca_core::excerpt::Excerpt;
use ca_core::frontend::FrontEnds;
use ca_core::key::KeyStore;
use ca_core::log::tree::Origin;
use ca_core::pipeline::Pipeline;
use ca_core::store::StateStore;
use mintmark_proto::admin::v1::admin_server::AdminServer;
use mintmark_proto::spire::bundle::v1::bundle_server::BundleServer;
use mintmark_proto::spire::debug::v1::debug_server::DebugServer;
use mintmark_proto::spire::logger::v1::logger_server::LoggerServer;
use mintmark_proto::spire::svid::v1::svid_server::SvidServer;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Response, Uri};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::HealthServer;

use crate::admin::Admin;
use crate::audit::Audit;
use crate::bundle::Bundles;
use crate::debug::Debug;
use crate::health::Health;
use crate::log_levels::LogLevels;
use crate::logger::Logger;
use crate::metrics::ServiceMetrics;
use crate::status::Failure;
use crate::svid::Svids;

/// Largest request in bytes. A CSR ends at 16 KiB, all audiences of a token at 4 KiB.
const LARGEST_REQUEST: usize = 64 * 1024;
/// Largest set of request headers in bytes.
const LARGEST_HEADERS: u32 = 16 * 1024;
/// Most calls at once on one connection; further ones wait.
const MOST_CALLS: u32 = 16;
/// How long one call may take, from its first byte on. Longer than a mint may take, which ends with a
/// better text.
const LONGEST_CALL: Duration = Duration::from_secs(30);
/// How often a silent client is asked whether it is still there, and how long it has for an answer.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// When a connection has to be opened anew, so that forgotten ones give their place back.
const LONGEST_CONNECTION: Duration = Duration::from_secs(300);

/// What the services answer from.
#[derive(Clone)]
pub struct Services {
    /// The pipeline, and with it the mint, its authorities and its bundle.
    pub pipeline: Arc<Pipeline>,
    /// Read once per call, at the door.
    pub clock: Arc<dyn Clock>,
    /// Where the authorities' keys live.
    pub keys: Arc<dyn KeyStore>,
    /// Where it is recorded what keys are for.
    pub record: Arc<dyn StateStore>,
    /// The front ends that are accepted.
    pub front_ends: Arc<FrontEnds>,
    /// The life of a new authority: so long may last what a retired key has signed.
    pub ca_ttl: Duration,
    /// The name of the issuance log.
    pub log: Origin,
    /// What `SetLogLevel` changes.
    pub log_levels: Arc<LogLevels>,
    /// Where it is counted what was minted.
    pub metrics: ServiceMetrics,
    /// The version of the program.
    pub version: &'static str,
}

impl Services {
    pub(crate) fn router(self, audit: &Arc<Audit>) -> Router {
        let admin = AdminServer::new(Admin::new(&self, Arc::clone(audit)));
        let Self { pipeline, log_levels, metrics, .. } = self;
        let mint = Arc::clone(pipeline.mint());
        let svids = SvidServer::new(Svids::new(pipeline, metrics, Arc::clone(audit)));
        let bundles = BundleServer::new(Bundles::new(mint.clone()));
        let debug = DebugServer::new(Debug::new(mint.clone()));
        let logger = LoggerServer::new(Logger::new(log_levels));
        let health = HealthServer::new(Health::new(mint));
        let routes = Routes::new(svids.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(bundles.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(debug.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(logger.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(health.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(admin.max_decoding_message_size(LARGEST_REQUEST));
        Server::builder()
            .timeout(LONGEST_CALL)
            .concurrency_limit_per_connection(MOST_CALLS as usize)
            .max_concurrent_streams(MOST_CALLS)
            .http2_max_header_list_size(LARGEST_HEADERS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_connection_age(LONGEST_CONNECTION)
            .max_connection_age_grace(LONGEST_CALL)
            .add_routes(Routes::from(routes.into_axum_router().fallback(not_offered)))
    }
}

/// Answers calls of services that are not there. Clients of SPIRE have commands for several.
pub(crate) async fn not_offered(uri: Uri) -> Response<Body> {
    Status::from(Failure::ServiceNotOffered(Excerpt::of(uri.path()))).into_http()
}
