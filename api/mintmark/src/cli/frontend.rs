//! `mintmark frontend …`, as it is typed.

use std::path::PathBuf;

use ca_core::frontend::{DnsScope, FrontEndName, PathScope, Rate};
use ca_core::key::KeyType;
use ca_core::pipeline::admission::Class;
use clap::{Args, Subcommand};

use super::{Shown, Ttl, life};

/// `mintmark frontend …`
#[derive(Debug, Subcommand)]
pub enum Frontend {
    /// Take in a front end, or a further instance of one: mint its SVID, and record its key and what it may do
    Enroll(Box<EnrollFrontEnd>),
    /// List the front ends, withdrawn ones too
    List(Shown),
    /// Show what a front end may do, and its keys
    Show(NamedFrontEnd),
    /// End a front end: none of its keys is accepted any more
    Withdraw(NamedFrontEnd),
}

impl Frontend {
    /// How the result is shown.
    #[must_use]
    pub fn shown(&self) -> Shown {
        match self {
            Self::Enroll(arguments) => arguments.shown,
            Self::List(shown) => *shown,
            Self::Show(arguments) | Self::Withdraw(arguments) => arguments.shown,
        }
    }
}

/// `mintmark frontend enroll`
#[derive(Debug, Args)]
#[group(id = "delivered", required = true, multiple = true, args = ["csr", "write"])]
pub struct EnrollFrontEnd {
    /// Name of the front end; its instances share it
    #[arg(value_name = "NAME", value_parser = FrontEndName::parse)]
    pub name: FrontEndName,
    /// Path of the SPIFFE IDs that it may ask for, with all below it; / for all; may be given several times
    #[arg(long, value_name = "/PATH", required = true, value_parser = PathScope::parse)]
    pub path_scope: Vec<PathScope>,
    /// DNS name that it may ask for, or *.DOMAIN for all below that; may be given several times
    #[arg(long, value_name = "NAME", value_parser = DnsScope::parse)]
    pub dns_scope: Vec<DnsScope>,
    /// Let it name the IDs that it asks for itself
    #[arg(long)]
    pub allow_named: bool,
    /// Let it ask for CA certificates of downstream servers, which can issue any ID; needs --path-scope /
    #[arg(long)]
    pub allow_downstream: bool,
    /// Let it publish JWT authorities
    #[arg(long)]
    pub allow_publish: bool,
    /// Let it do what can be done over the admin socket
    #[arg(long)]
    pub allow_admin: bool,
    /// Want a CSR for each key, which the signer verifies, instead of its word
    #[arg(long)]
    pub require_csr: bool,
    /// Longest life of what it asks for, such as "1h"; a day if it is not given
    #[arg(long, value_name = "SPAN", value_parser = max_ttl)]
    pub max_ttl: Option<Ttl>,
    /// Kind of key that it may ask for: ec-p256, ec-p384, ed25519, or rsa-2048, rsa-3072, rsa-4096 for that size and
    /// larger ones; may be given several times; all if it is not given
    #[arg(long, value_name = "TYPE")]
    pub allow_key: Vec<KeyType>,
    /// How much it may ask for: items a second, and how many at once
    #[arg(long, value_name = "RATE[/BURST]")]
    pub budget: Option<Rate>,
    /// How much of a class (expiring, new, refresh or bulk) it may ask for; may be given several times
    #[arg(long, value_name = "CLASS=RATE[/BURST]", value_parser = class_budget)]
    pub class_budget: Vec<ClassBudget>,
    /// Change the terms of a front end that is there, for all of its instances
    #[arg(long)]
    pub replace: bool,
    /// Take in a front end again that was withdrawn
    #[arg(long)]
    pub again: bool,
    /// CSR of the front end's key, PEM or DER; "-" reads standard input; without it a key is made here
    #[arg(long, value_name = "FILE")]
    pub csr: Option<PathBuf>,
    /// Kind of key to make: ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096 or ed25519
    #[arg(long, value_name = "TYPE", default_value_t = KeyType::EcP256, conflicts_with = "csr")]
    pub key_type: KeyType,
    /// Folder that receives svid.pem, bundle.pem and, if the key was made here, key.pem
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// How to show the result; `json` carries the PEM texts if nothing is written.
    #[command(flatten)]
    pub shown: Shown,
}

/// `mintmark frontend show` and `withdraw`
#[derive(Debug, Args)]
pub struct NamedFrontEnd {
    /// Name of the front end
    #[arg(value_name = "NAME", value_parser = FrontEndName::parse)]
    pub name: FrontEndName,
    /// How to show it.
    #[command(flatten)]
    pub shown: Shown,
}

/// The budget of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassBudget {
    /// Of which class.
    pub class: Class,
    /// How much.
    pub rate: Rate,
}

fn class_budget(text: &str) -> Result<ClassBudget, String> {
    let wanted =
        "write it like bulk=100 or new=1000/2000; classes are expiring, new, refresh and bulk";
    let (class, rate) = text.split_once('=').ok_or(wanted)?;
    let class = Class::ALL.into_iter().find(|known| known.name() == class).ok_or(wanted)?;
    let rate = rate.parse().map_err(|error: ca_core::frontend::RateError| error.to_string())?;
    Ok(ClassBudget { class, rate })
}

fn max_ttl(text: &str) -> Result<Ttl, String> {
    life(text, "--max-ttl")
}
