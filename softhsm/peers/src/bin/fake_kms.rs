//! The `fake-kms` binary: the stand-in of AWS KMS by hand, until it is interrupted.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use peers::fake_kms::{FakeKms, KeySpec, Knobs, Latency, Quota, REGION};

/// Runs a stand-in of AWS KMS on the loopback and prints what a client needs to use it.
#[derive(Parser)]
#[command(name = "fake-kms")]
struct Arguments {
    /// The port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// How long every answer takes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
    /// The 99th percentile of the answers, in milliseconds; `--latency` is then their median.
    #[arg(long, value_name = "MS")]
    latency_p99: Option<u64>,
    /// How many signatures a second are let through; all, if this is not given.
    #[arg(long, value_name = "PER SECOND")]
    quota: Option<f64>,
    /// Makes a key of this spec (such as `ECC_NIST_P256`) at start and prints its ARN; may be repeated.
    #[arg(long, value_name = "SPEC")]
    key: Vec<KeySpec>,
}

impl Arguments {
    fn knobs(&self) -> Knobs {
        let p50 = Duration::from_millis(self.latency);
        let latency = match self.latency_p99 {
            Some(p99) => Latency::Spread { p50, p99: Duration::from_millis(p99) },
            None => Latency::Fixed(p50),
        };
        Knobs { latency, quota: self.quota.map(Quota::per_second), ..Knobs::default() }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told that standard error is closed.
            let _ = writeln!(io::stderr(), "fake-kms: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let kms = FakeKms::start_on(arguments.port, arguments.knobs())?;
    let keys =
        arguments.key.iter().map(|&spec| kms.create_key(spec)).collect::<Result<Vec<_>, _>>()?;
    describe(&kms, &keys)?;
    Ok(tokio::signal::ctrl_c().await?)
}

/// As lines that a shell can take in.
fn describe(kms: &FakeKms, keys: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "AWS_ENDPOINT_URL_KMS={}", kms.endpoint())?;
    writeln!(out, "AWS_REGION={REGION}")?;
    writeln!(out, "AWS_ACCESS_KEY_ID={}", kms.credentials().access_key_id())?;
    writeln!(out, "AWS_SECRET_ACCESS_KEY={}", kms.credentials().secret_access_key())?;
    keys.iter().try_for_each(|key| writeln!(out, "# {key}"))?;
    out.flush()
}
