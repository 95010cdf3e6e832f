//! Where private keys live: sealed software keys, PKCS#11 tokens, remote KMS.
//!
//! Implements the two seams of [`ca_core::key`]. The only crate that touches a private key or a PIN:
//! both are wiped when they are dropped, and neither is in any `Debug` output, log line or error.
//!
//! Managing keys (open, create, find, list) is rare and blocks, so it runs on tokio's blocking threads.
//! Signing never does: a software key signs where it is called, a token's key on its own threads, a key in
//! a KMS by a request of its caller's.

#[cfg(feature = "aws-kms")]
pub mod aws_kms;
mod blocking;
pub mod memory;
pub mod metrics;
pub mod pkcs11;
pub mod pkcs11_uri;
mod probes;
#[cfg(any(feature = "aws-kms", feature = "transit"))]
pub mod remote;
mod retirement;
pub mod secret;
pub mod software;
#[cfg(feature = "transit")]
pub mod transit;
mod verification;

pub use pkcs11::Pkcs11Store;
#[cfg(any(feature = "aws-kms", feature = "transit"))]
pub use remote::{Pace, RemoteStore};
pub use secret::SecretSource;
pub use software::{SealKey, SoftwareStore};
pub use verification::{Oversight, Verification};
