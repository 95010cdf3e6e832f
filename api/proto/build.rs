//! Compiles the protocol definitions in `proto/`, without `protoc`.

use std::error::Error;

/// What the services speak of. Compiled on its own, so that each service module can point to it.
const TYPES: &str = "spire/types.proto";
/// One file per service.
const SERVICES: [&str; 6] = [
    "spire/svid.proto",
    "spire/bundle.proto",
    "spire/debug.proto",
    "spire/logger.proto",
    "mintmark/admin.proto",
    "mintmark/control.proto",
];

/// Batches, whose size is looked at before they are decoded.
const SIGNING: &str = "mintmark/signing.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    tonic_prost_build::configure()
        .bytes(".")
        // Tokens are bearer secrets; `src/redacted.rs` writes their `Debug`.
        .skip_debug(["spire.api.types.JWTSVID", "spire.api.types.WITSVID"])
        .compile_fds(protox::compile([TYPES], ["proto"])?)?;
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug(["mintmark.control.v1.RedeemJoinTokenRequest"])
        // Callers bring their own channel: unix sockets here, verified TLS elsewhere.
        .build_transport(false)
        .extern_path(".spire.api.types", "crate::spire::types")
        .compile_fds(protox::compile(SERVICES, ["proto"])?)?;
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug(["mintmark.signing.v1.JwtSvid"])
        .codec_path("crate::bounds::Codec")
        .build_transport(false)
        .compile_fds(protox::compile([SIGNING], ["proto"])?)?;
    Ok(())
}
