//! The proxy over SoftHSM, as a client of PKCS#11 sees it. Faults are the process's, so each test takes
//! its turn with the device.

#![expect(clippy::unwrap_used, reason = "tests: the message is the line")]

mod attributes;
mod client;
mod faults;
mod forwarding;
mod other_process;
mod removal;
mod speed;

pkcs11_proxy::test_process!();
