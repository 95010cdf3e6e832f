//! What an SVID says and who may have it.
//!
//! Bytes, times and traits in; bytes out. No gRPC, no TLS, no threads: this crate returns futures and
//! whoever calls it spawns them. `docs/architecture.md` follows one mint through these modules.

pub mod clock;
pub mod csr;
pub mod der;
pub mod dns;
pub mod excerpt;
pub mod id;
pub mod key;
pub mod name;
