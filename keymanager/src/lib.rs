//! Where private keys live: sealed software keys and PKCS#11 tokens.
//!
//! Implements the two seams of [`ca_core::key`]. The only crate that touches a private key or a PIN:
//! both are wiped when they are dropped, and neither is in any `Debug` output, log line or error.
//!
//! Managing keys (open, create, find, list) is rare and blocks, so it runs on tokio's blocking threads.
//! Signing never does: a software key signs where it is called, a token's key on its own threads.

mod blocking;
pub mod metrics;
pub mod pkcs11;
pub mod pkcs11_uri;
mod retirement;
pub mod secret;
pub mod software;
mod verification;

pub use pkcs11::Pkcs11Store;
pub use secret::SecretSource;
pub use software::{SealKey, SoftwareStore};
pub use verification::{Oversight, Verification};
