//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/peer_chain.rs"]
mod peer_chain;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    peer_chain::holds(data);
});
