//! What a front end has of a signer.
//!
//! [`Credentials`] are the folder that `mintmark frontend enroll --write` makes. With them a [`Signer`] is connected to,
//! over mutual TLS and again whenever that breaks; [`mint`] asks it for SVIDs over a stream, many at once, [`follow`]
//! keeps up with its bundle, and [`renewal`] with the front end's own certificate.

mod backoff;
mod credentials;
pub mod follow;
mod key;
pub mod mint;
pub mod renewal;
mod signer;

pub use backoff::Backoff;
/// What time it is, for whoever links no more of ours than this.
pub use ca_core::clock::{Clock, SystemClock, Timestamp};
pub use credentials::{Credentials, CredentialsError, Life};
pub use signer::{ConnectError, Signer};
