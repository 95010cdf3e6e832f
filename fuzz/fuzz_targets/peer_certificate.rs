//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/peer_certificate.rs"]
mod peer_certificate;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    peer_certificate::holds(data);
});
