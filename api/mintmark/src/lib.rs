//! The one binary of Mintmark as a library, so that tests start what ships: configuration, command
//! line, wiring.

pub mod certificate;
pub mod cli;
pub mod client;
pub mod command;
pub mod config;
pub mod delivery;
pub mod dev;
pub mod exit;
pub mod inspection;
pub mod issuance_log;
pub mod issuing;
pub mod keys;
pub mod monitoring;
pub mod output;
pub mod pem;
pub mod server;
pub mod stranger;
pub mod telemetry;
pub mod workload;

pub use command::run;
