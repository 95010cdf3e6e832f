//! Hands the fuzzer's bytes to the property.
#![no_main]

#[path = "../properties/tls_client_hello.rs"]
mod tls_client_hello;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tls_client_hello::holds(data);
});
