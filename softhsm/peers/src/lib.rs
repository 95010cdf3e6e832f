//! Stand-ins and second opinions for tests and benches. Never part of the product.
//!
//! What is real is run as it is, on this machine and for one test alone: [`kryoptic`], a PKCS#11 module
//! that shares no line with SoftHSM, and [`openbao`], a server with a transit engine. `.ci/install`
//! brings both, `.ci/env` says where they are. What cannot be run here is stood in for: [`fake_kms`].
//! [`memory`] looks into a process as who has a core dump of it.

pub mod fake_kms;
pub mod kryoptic;
pub mod memory;
pub mod openbao;
