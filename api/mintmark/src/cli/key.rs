//! `mintmark key …`, as it is typed.

use std::time::Duration;

use ca_core::key::{KeyName, KeyType};
use clap::{Args, Subcommand, ValueEnum};

use super::{Configuration, Shown};

/// `mintmark key …`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List the keys of the trust domain, and what our record says of each
    List(ListKeys),
    /// Make keys for authorities to come
    Create(CreateKeys),
    /// Show what the store tells of a key
    Show(ShowKey),
    /// Have keys sign a probe, and verify it
    Verify(VerifyKeys),
    /// Record that a key signs no more
    Retire(RetireKey),
    /// Destroy keys that nothing needs any more
    Destroy(DestroyKeys),
    /// Measure how many signatures at once the device can use
    Probe(ProbeKeys),
}

/// Which key store is meant.
#[derive(Debug, Args)]
pub struct KeyPlace {
    /// Which file describes it.
    #[command(flatten)]
    pub configuration: Configuration,
    /// The store's section [keys.NAME]; by default the one that issuing.keys names
    #[arg(long, value_name = "NAME")]
    pub keys: Option<String>,
}

/// `mintmark key list`
#[derive(Debug, Args)]
pub struct ListKeys {
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show them.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key create`
#[derive(Debug, Args)]
pub struct CreateKeys {
    /// In which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// Kind of authority to make keys for
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub authority: Authority,
    /// Kind of key: ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096, ed25519, ml-dsa-44 or ml-dsa-65; as
    /// configured if it is not given
    #[arg(long = "type", value_name = "TYPE")]
    pub key_type: Option<KeyType>,
    /// How many; 1 to 100
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub count: u8,
    /// How to show what was made.
    #[command(flatten)]
    pub shown: Shown,
}

/// What has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Authority {
    /// Signs X.509-SVIDs.
    #[default]
    X509,
    /// Signs JWT-SVIDs.
    Jwt,
    /// Signs the heads of the issuance log.
    Log,
}

/// `mintmark key show`
#[derive(Debug, Args)]
pub struct ShowKey {
    /// Name of the key
    #[arg(value_name = "NAME", value_parser = KeyName::parse)]
    pub name: KeyName,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show it.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key verify`
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["name", "all"])]
pub struct VerifyKeys {
    /// Name of the key
    #[arg(value_name = "NAME", value_parser = KeyName::parse)]
    pub name: Option<KeyName>,
    /// Every key of the trust domain
    #[arg(long)]
    pub all: bool,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show what was found.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key retire`
#[derive(Debug, Args)]
pub struct RetireKey {
    /// Name of the key
    #[arg(value_name = "NAME", value_parser = KeyName::parse)]
    pub name: KeyName,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show what was done.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key destroy`
#[derive(Debug, Args)]
pub struct DestroyKeys {
    /// Names of the keys; every key that may be destroyed if none is given
    #[arg(value_name = "NAME", value_parser = KeyName::parse)]
    pub names: Vec<KeyName>,
    /// Show what would be destroyed, and why the others stay
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show what was done.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark key probe`
#[derive(Debug, Args)]
pub struct ProbeKeys {
    /// Key to sign with; the first one that can be used if it is not given
    #[arg(long, value_name = "NAME", value_parser = KeyName::parse)]
    pub key: Option<KeyName>,
    /// How long each step lasts, in seconds; 0.1 to 600
    #[arg(long, value_name = "N", default_value = "3", value_parser = step)]
    pub seconds: Duration,
    /// The highest number of signatures at once to try; 1 to 1024
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub sessions: u16,
    /// Of which store.
    #[command(flatten)]
    pub place: KeyPlace,
    /// How to show what was measured.
    #[command(flatten)]
    pub shown: Shown,
}

fn step(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=600.0).contains(seconds));
    let seconds = seconds.ok_or("a number of seconds from 0.1 to 600 is wanted")?;
    Ok(Duration::from_secs_f64(seconds))
}
