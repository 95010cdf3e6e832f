//! What the monitoring listener answers.

use std::fmt;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::Readiness;

/// OpenMetrics 1.0 §"Protocol Negotiation"; every Prometheus since 2.5 reads it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Everything that is answered from.
pub(super) struct Answers {
    registry: Registry,
    readiness: Readiness,
}

impl Answers {
    pub(super) fn new(registry: Registry, readiness: Readiness) -> Self {
        Self { registry, readiness }
    }

    /// The answer to one request. Whatever else is asked for is not there.
    pub(super) fn to(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        // To a HEAD, hyper sends the head alone.
        match path {
            _ if method != Method::GET && method != Method::HEAD => missing(),
            "/metrics" => self.figures(),
            "/live" | "/healthz" => response(StatusCode::OK, PLAIN, "alive\n"),
            "/ready" | "/readyz" => self.ready(),
            _ => missing(),
        }
    }

    fn figures(&self) -> Response<Full<Bytes>> {
        let mut figures = String::new();
        match text::encode(&mut figures, &self.registry) {
            Ok(()) => response(StatusCode::OK, OPEN_METRICS, figures),
            // A figure that cannot be written is a mistake of ours; half a page would look whole.
            Err(fmt::Error) => {
                tracing::error!("metrics cannot be written as text");
                response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "cannot be written\n")
            }
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let obstacles = (self.readiness)();
        if obstacles.is_empty() {
            return response(StatusCode::OK, PLAIN, "ready\n");
        }
        let lines: String = obstacles.iter().map(|line| format!("{line}\n")).collect();
        response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines)
    }
}

fn missing() -> Response<Full<Bytes>> {
    response(
        StatusCode::NOT_FOUND,
        PLAIN,
        "there is GET /metrics, /live (or /healthz) and /ready (or /readyz)\n",
    )
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // True of one moment only.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
