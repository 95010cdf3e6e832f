//! The binary that ships, from its configuration to what other people's software says of its SVIDs.
//!
//! Needs what `make test` installs: SoftHSM, OpenSC, OpenBao, OpenSSL and the Python judges.
#![expect(clippy::unwrap_used, reason = "tests state their expectations by unwrapping")]

mod bad_request;
mod bad_start;
mod dev;
mod front_end;
mod front_ends;
mod issuing;
mod keys;
mod log;
mod minting;
mod other_programs;
mod restart;
mod secrets;
mod signer;
mod site;
mod token;
mod under_load;
mod watching;
mod wire;
