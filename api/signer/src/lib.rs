//! The signing side of the service: the admin socket and what answers on it.
//!
//! [`AdminSocket::bind`] takes the socket, [`AdminSocket::serve`] answers on it until it is told to
//! stop. Each service is a module named after it; `status` alone knows gRPC's codes. [`Monitor`] is the
//! other listener, for whoever watches the process.

mod admin;
pub mod admin_socket;
pub mod audit;
mod bundle;
mod debug;
mod front_ends;
mod health;
mod log_levels;
mod logger;
pub mod metrics;
pub mod monitor;
mod services;
mod status;
mod svid;

pub use admin_socket::{AdminSocket, SocketError};
pub use log_levels::{LogLevelError, LogLevels};
pub use metrics::ServiceMetrics;
pub use monitor::{Monitor, MonitorError, RunningMonitor};
pub use services::Services;
