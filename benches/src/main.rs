//! `mintmark-bench`: every speed claim of Mintmark beside its physical limit, measured in the same run.
//!
//! Prints one table and writes it as `target/bench/summary.json` under the current folder: a list of
//! `{name, unit, better, measured: {best, median}, limit: {name, best, median}, ratio}`.

#![expect(clippy::print_stdout, reason = "a command line program prints its result")]

mod files;
mod kms;
mod mint;
mod paired;
mod pipeline;
mod signer;
mod stream;

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use ca_core::key::KeyType::{EcP256, Rsa2048};
use clap::Parser;
use keymanager::Verification::{Always, Off};

use crate::paired::Row;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures every speed claim beside its limit.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only rows whose name contains this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// A row's name and how to measure it.
type Measurement = (&'static str, fn() -> anyhow::Result<Row>);

const ROWS: &[Measurement] = &[
    ("mint/verified-key/p256", mint::verified_key),
    ("mint/csr/p256", mint::csr),
    ("mint/jwt/es256", mint::jwt),
    ("pipeline/verified-key/p256/log-on", pipeline::verified_key),
    ("pipeline/csr/p256/log-on", pipeline::csr),
    ("pipeline/jwt/es256/log-on", pipeline::jwt),
    ("pipeline/log-on-against-off", pipeline::log_on_against_off),
    ("direct/softhsm/p256", pipeline::direct_softhsm),
    ("direct/proxy-2ms-30-slots/p256", pipeline::direct_proxy),
    ("direct/proxy-2ms-30-slots/p256/verified", pipeline::direct_proxy_verified),
    ("direct/proxy-2ms-30-slots/p256/500-in-one-request", pipeline::direct_proxy_one_request),
    ("direct/proxy-2ms-30-slots/p256/p99-after-the-queue", pipeline::direct_proxy_p99),
    ("stream/verified-key/p256/batch-1", || stream::verified_key(1)),
    ("stream/verified-key/p256/batch-16", || stream::verified_key(16)),
    ("stream/verified-key/p256/batch-64", || stream::verified_key(64)),
    ("stream/verified-key/p256/batch-256", || stream::verified_key(256)),
    ("stream/csr/p256/batch-1", || stream::csr(1)),
    ("stream/csr/p256/batch-16", || stream::csr(16)),
    ("stream/csr/p256/batch-64", || stream::csr(64)),
    ("stream/csr/p256/batch-256", || stream::csr(256)),
    ("stream/jwt/es256/batch-64", || stream::jwt(64)),
    ("transport/handshake", stream::handshake),
    ("signer/softhsm/p256/k1", || signer::softhsm(EcP256, 1, Off)),
    ("signer/softhsm/p256/k2", || signer::softhsm(EcP256, 2, Off)),
    ("signer/softhsm/p256/k4", || signer::softhsm(EcP256, 4, Off)),
    ("signer/softhsm/p256/k1/verified", || signer::softhsm(EcP256, 1, Always)),
    ("signer/softhsm/p256/k2/verified", || signer::softhsm(EcP256, 2, Always)),
    ("signer/softhsm/p256/k4/verified", || signer::softhsm(EcP256, 4, Always)),
    ("signer/softhsm/rsa2048/k1", || signer::softhsm(Rsa2048, 1, Off)),
    ("signer/softhsm/rsa2048/k2", || signer::softhsm(Rsa2048, 2, Off)),
    ("signer/softhsm/rsa2048/k4", || signer::softhsm(Rsa2048, 4, Off)),
    ("signer/softhsm/rsa2048/k1/verified", || signer::softhsm(Rsa2048, 1, Always)),
    ("signer/softhsm/rsa2048/k2/verified", || signer::softhsm(Rsa2048, 2, Always)),
    ("signer/softhsm/rsa2048/k4/verified", || signer::softhsm(Rsa2048, 4, Always)),
    ("signer/softhsm/p256/k2/runtime-on-all-cores", signer::softhsm_on_all_threads),
    ("signer/softhsm/p256/idle-added-p50", signer::softhsm_idle),
    ("signer/proxy-2ms-30-slots/p256", signer::proxy),
    ("signer/proxy-2ms-30-slots/p256/p99", signer::proxy_p99),
    ("signer/proxy-2ms-30-slots/p256/p99/queue-for-nothing", signer::proxy_p99_of_an_ideal_queue),
    ("signer/aws-fake-10ms-1000-per-second/p256", kms::aws),
    ("signer/aws-fake-10ms-1000-per-second/p256/halved-and-doubled", kms::aws_recovered),
    ("signer/transit/p256", kms::transit),
];

fn main() -> anyhow::Result<()> {
    // Names the folder of the tokens, which has to be done before there are threads.
    pkcs11_proxy::testing::before_main();
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    for (name, measure) in ROWS.iter().filter(|(name, _)| name.contains(&arguments.only)) {
        println!("measuring {name} …");
        rows.push(measure().with_context(|| format!("cannot measure {name}"))?);
    }
    anyhow::ensure!(!rows.is_empty(), "no row's name contains {:?}", arguments.only);
    print(&rows);
    let folder = Path::new("target/bench");
    fs::create_dir_all(folder).context("cannot create target/bench")?;
    let path = folder.join("summary.json");
    fs::write(&path, serde_json::to_vec_pretty(&rows)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("\nwritten to {}", path.display());
    pipeline::remove_logs();
    pkcs11_proxy::testing::after_main();
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "\n{:<60} {:>6} {:>10} {:>10}   {:<40} {:>10} {:>10}   {:>5}",
        "claim", "unit", "best", "median", "limit", "best", "median", "ratio"
    );
    for row in rows {
        println!(
            "{:<60} {:>6} {:>10.2} {:>10.2}   {:<40} {:>10.2} {:>10.2}   {:>5.3}",
            row.name,
            row.unit,
            row.measured.best,
            row.measured.median,
            row.limit.name,
            row.limit.best,
            row.limit.median,
            row.ratio
        );
    }
    println!(
        "\nratio: median over {} interleaved pairs; 1 is the limit, less is worse",
        paired::ROUNDS
    );
}
