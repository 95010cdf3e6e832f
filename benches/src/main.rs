//! `mintmark-bench`: every speed claim of Mintmark beside its physical limit, measured in the same run.
//!
//! Prints one table and writes it as `target/bench/summary.json` under the current folder: a list of
//! `{name, unit, better, measured: {best, median}, limit: {name, best, median}, ratio}`.

#![expect(clippy::print_stdout, reason = "a command line program prints its result")]

mod mint;
mod paired;
mod signer;

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::Parser;

use crate::paired::Row;

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
    ("signer/softhsm/p256/k1", signer::softhsm_one_session),
];

fn main() -> anyhow::Result<()> {
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
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "\n{:<28} {:>6} {:>10} {:>10}   {:<28} {:>10} {:>10}   {:>5}",
        "claim", "unit", "best", "median", "limit", "best", "median", "ratio"
    );
    for row in rows {
        println!(
            "{:<28} {:>6} {:>10.2} {:>10.2}   {:<28} {:>10.2} {:>10.2}   {:>5.3}",
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
