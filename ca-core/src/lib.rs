//! What an SVID says and who may have it.
//!
//! Bytes, times and traits in; bytes out. No gRPC, no TLS, no tasks: this crate returns futures and
//! whoever calls it spawns them. It has threads where something blocks or computes: the store's engine, the
//! writer of the log and the keeper of its tree, and those that mint. `docs/architecture.md` follows one mint through these modules.

pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod clock;
pub mod csr;
pub mod der;
pub mod dns;
pub mod excerpt;
pub mod frontend;
pub mod id;
pub mod issuer;
pub mod issuing;
pub mod key;
pub mod lint;
pub mod log;
pub mod mint;
pub mod name;
pub mod pipeline;
pub mod policy;
pub mod profile;
pub mod serial;
pub mod store;
pub mod template;
pub mod token;
