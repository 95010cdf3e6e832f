//! The signing side of the service: the admin socket, the signing listener, and what answers on them.
//!
//! [`AdminSocket::bind`] takes the socket, [`AdminSocket::serve`] answers on it until it is told to
//! stop. [`SigningListener`] does the same for front ends, over the network. Each service is a module named after it;
//! `status` alone knows gRPC's codes. [`Monitor`] is the third listener, for whoever watches the process.

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
mod own_identity;
mod services;
pub mod signing;
mod status;
mod svid;

pub use admin_socket::{AdminSocket, SocketError};
pub use log_levels::{LogLevelError, LogLevels};
pub use metrics::ServiceMetrics;
pub use monitor::{Monitor, MonitorError, RunningMonitor};
pub use own_identity::OwnIdentityError;
pub use services::Services;
pub use signing::{SigningError, SigningListener, SigningServices};
