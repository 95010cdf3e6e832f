//! What an SVID says and who may have it.
//!
//! Bytes, times and traits in; bytes out. No gRPC, no TLS, no tasks: this crate returns futures and
//! whoever calls it spawns them. Its only thread is the one on which the embedded store blocks.
//! `docs/architecture.md` follows one mint through these modules.

pub mod clock;
pub mod der;
pub mod key;
pub mod store;
