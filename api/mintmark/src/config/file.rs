//! What a person may write in `mintmark.toml`, key by key.
//!
//! Each type is a section; unknown keys are errors everywhere. A value that has a grammar of its own
//! (span of time, trust domain, kind of key) is checked while it is read, so that the error points at
//! it. What depends on more than one key is checked in [`Settings`](super::Settings).

use std::collections::BTreeMap;
use std::path::PathBuf;

use ca_core::id::TrustDomain;
use ca_core::issuing;
use ca_core::key::{KeyType, RsaScheme};
use keymanager::Verification;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use toml::Spanned;

use super::{Period, Wait};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[trust_domain]`
    pub trust_domain: TrustDomainSection,
    /// `[server]`
    #[serde(default)]
    pub server: ServerSection,
    /// `[keys.<name>]`: the key stores, by the names that other sections use.
    pub keys: Spanned<BTreeMap<String, Spanned<KeySection>>>,
    /// `[store]`
    pub store: StoreSection,
    /// `[issuing]`
    #[serde(default)]
    pub issuing: IssuingSection,
    /// `[signer]`
    #[serde(default)]
    pub signer: SignerSection,
    /// `[log]`
    #[serde(default)]
    pub log: LogSection,
    /// `[metrics]`
    #[serde(default)]
    pub metrics: MetricsSection,
}

/// Whom this authority speaks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDomainSection {
    /// The name, without `spiffe://`.
    #[serde(deserialize_with = "trust_domain")]
    pub name: TrustDomain,
}

/// The process itself.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSection {
    /// How much is logged.
    pub log_level: Option<LogLevel>,
    /// How a log line looks.
    pub log_format: Option<LogFormat>,
    /// `[server.admin]`
    #[serde(default)]
    pub admin: AdminSection,
}

/// The socket through which the server is administered.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSection {
    /// Where the socket is.
    pub socket: Option<Spanned<PathBuf>>,
    /// A group that may use it beside its owner.
    pub group: Option<String>,
}

/// How much is logged; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What is odd and does not stop work.
    Warn,
    /// What was done.
    #[default]
    Info,
    /// How it was done.
    Debug,
    /// Every step.
    Trace,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// One key store. Which keys belong to which type is checked in [`Settings`](super::Settings).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySection {
    /// What kind of store it is.
    #[serde(rename = "type")]
    pub store_type: KeyStoreType,
    /// Who makes the keys of new authorities.
    pub create: Option<Create>,
    /// Which signatures are verified before they are released.
    #[serde(default, deserialize_with = "verification")]
    pub verify: Option<Verification>,
    /// `software`: the folder of the sealed key files.
    pub dir: Option<Spanned<PathBuf>>,
    /// `software`: where the 32-byte key that seals them is.
    pub seal_key: Option<Spanned<Secret>>,
    /// `pkcs11`: token, library and PIN file in one text (RFC 7512).
    pub uri: Option<Spanned<String>>,
    /// `pkcs11`: the vendor's library.
    pub module: Option<Spanned<PathBuf>>,
    /// `pkcs11`: the label of the token.
    pub token: Option<Spanned<String>>,
    /// `pkcs11`: the serial number of the token.
    pub serial: Option<Spanned<String>>,
    /// `pkcs11`: where the user PIN is.
    pub pin: Option<Spanned<Secret>>,
    /// `pkcs11`: how many sessions sign at once.
    pub sessions: Option<Spanned<u16>>,
    /// `pkcs11`: how many signatures may wait for a session.
    pub queue: Option<Spanned<u32>>,
    /// All but `software`: how long a signature may wait for its turn.
    pub queue_wait: Option<Spanned<Wait>>,
    /// `pkcs11`: after how long a call of the library hangs.
    pub stall_limit: Option<Spanned<Wait>>,
    /// `pkcs11`: how often a probe is signed.
    pub probe_interval: Option<Spanned<Wait>>,
    /// `pkcs11`: who computes digests.
    pub hash: Option<Spanned<Hash>>,
    /// `pkcs11`: whether sessions that only sign are opened read-write too.
    pub read_write_sessions: Option<Spanned<bool>>,
    /// `[keys.<name>.template]`, of `pkcs11`
    pub template: Option<Spanned<TemplateSection>>,
    /// `aws_kms`: the region.
    pub region: Option<Spanned<String>>,
    /// `aws_kms`: another URL than the region's own.
    pub endpoint: Option<Spanned<String>>,
    /// `aws_kms`: the profile of AWS's files that gives the credentials.
    pub profile: Option<Spanned<String>>,
    /// `aws_kms`: the file of credentials.
    pub credentials_file: Option<Spanned<PathBuf>>,
    /// `[keys.<name>.arns]`, of `aws_kms`: keys that an administrator made.
    pub arns: Option<Spanned<BTreeMap<String, String>>>,
    /// `aws_kms`: how long KMS keeps a destroyed key.
    pub deletion_days: Option<Spanned<u8>>,
    /// `transit`: the server.
    pub address: Option<Spanned<String>>,
    /// `transit`: the certificates that the server's leads to.
    pub ca_file: Option<Spanned<PathBuf>>,
    /// `transit`: where the engine is mounted.
    pub mount: Option<Spanned<String>>,
    /// `transit`: the namespace of the mount.
    pub namespace: Option<Spanned<String>>,
    /// `transit`: where the token is that the server wants.
    pub access_token: Option<Spanned<Secret>>,
    /// `aws_kms`, `transit`: requests under way at one time.
    pub in_flight: Option<Spanned<u16>>,
    /// `aws_kms`, `transit`: signing requests per second.
    pub rate: Option<Spanned<u32>>,
    /// `aws_kms`, `transit`: how long one request may take.
    pub attempt_timeout: Option<Spanned<Wait>>,
}

/// The kinds of key store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStoreType {
    /// Keys in sealed files, used in memory.
    Software,
    /// Keys in a token or HSM behind a PKCS#11 library.
    Pkcs11,
    /// Keys in AWS KMS.
    AwsKms,
    /// Keys in the transit engine of HashiCorp Vault or OpenBao.
    Transit,
}

/// Who makes the keys of new authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Create {
    /// The server, when it needs one.
    Auto,
    /// An administrator, with `mintmark key create`.
    Never,
}

/// Who computes the digest of what a token signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// This process.
    Host,
    /// The token.
    Device,
}

/// What is said of a new key in a token, where the vendor takes less than the usual.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateSection {
    /// Attributes that are not said.
    #[serde(default)]
    pub omit: Vec<Spanned<String>>,
    /// Attributes whose value is another one.
    #[serde(default)]
    pub set: BTreeMap<Spanned<String>, bool>,
}

/// Where a secret is; never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Secret {
    /// A file of mode 0600 or 0400.
    File(PathBuf),
    /// A systemd credential, by name (`LoadCredential=`).
    Credential(String),
    /// An environment variable, by name.
    Env(String),
}

/// Where authorities and bundle are kept.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// Which engine keeps them.
    #[serde(rename = "type", default)]
    pub store_type: StoreType,
    /// The folder of the engine's file.
    pub dir: PathBuf,
}

/// The state stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreType {
    /// One file on this machine, one process.
    #[default]
    Embedded,
}

/// What the authority issues.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuingSection {
    /// The `[keys.<name>]` that holds the authority's keys.
    pub keys: Option<Spanned<String>>,
    /// Whose key signs leaves.
    pub mode: Option<Mode>,
    /// Kind of the keys that issue in the authority's stead.
    #[serde(default, deserialize_with = "spanned_key_type")]
    pub issuing_key_type: Option<Spanned<KeyType>>,
    /// Life of their certificates.
    pub issuing_key_life: Option<Spanned<Period>>,
    /// What becomes of a leaf that is to live longer than that.
    pub long_ttl: Option<Spanned<LongTtl>>,
    /// Kind of the X.509 authority's key.
    #[serde(default, deserialize_with = "key_type")]
    pub ca_key_type: Option<KeyType>,
    /// Kind of the JWT authority's key.
    #[serde(default, deserialize_with = "jwt_key_type")]
    pub jwt_key_type: Option<KeyType>,
    /// How RSA keys of either kind sign.
    #[serde(default, deserialize_with = "rsa_scheme")]
    pub rsa_scheme: Option<RsaScheme>,
    /// Life of a new X.509 authority.
    pub ca_ttl: Option<Spanned<Period>>,
    /// Life of an X.509-SVID when the request does not say.
    pub default_x509_svid_ttl: Option<Spanned<Period>>,
    /// Life of a JWT-SVID when the request does not say.
    pub default_jwt_svid_ttl: Option<Spanned<Period>>,
    /// `iss` of JWT-SVIDs.
    pub jwt_issuer: Option<Spanned<String>>,
    /// Whether JWT-SVIDs carry a `jti`.
    pub jti: Option<bool>,
    /// Taken off the start of every certificate.
    pub backdate: Option<Spanned<Period>>,
    /// How often holders of the bundle are asked to fetch it anew.
    pub refresh_hint: Option<Spanned<Period>>,
    /// `[issuing.ca_subject]`
    pub ca_subject: Option<Spanned<SubjectSection>>,
}

/// Whose key signs leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The authority's own.
    Direct,
    /// A short-lived one in memory.
    Delegated,
}

/// Who signs a leaf that is to live longer than the certificate of the issuing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongTtl {
    /// The authority's own key.
    Authority,
    /// Nobody.
    Refuse,
}

impl From<LongTtl> for issuing::LongTtl {
    fn from(choice: LongTtl) -> Self {
        match choice {
            LongTtl::Authority => Self::Authority,
            LongTtl::Refuse => Self::Refuse,
        }
    }
}

/// The subject of a new X.509 authority.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectSection {
    /// `C`, two letters each.
    #[serde(default)]
    pub country: Vec<String>,
    /// `O`
    #[serde(default)]
    pub organization: Vec<String>,
    /// `CN`
    pub common_name: Option<String>,
}

/// What may wait to be minted, and who is served by TLS.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignerSection {
    /// Where front ends are served.
    pub listen: Option<Spanned<String>>,
    /// How many connections of front ends may be open.
    pub connections: Option<Spanned<u32>>,
    /// Those of one front end, with all its instances.
    pub connections_per_front_end: Option<Spanned<u32>>,
    /// How many that have not shown who they are may come from one address.
    pub handshakes_per_address: Option<Spanned<u32>>,
    /// MiB of all that waits.
    pub queue_memory_mib: Option<Spanned<u32>>,
    /// What is likely to wait longer is refused.
    pub queue_wait: Option<Spanned<Wait>>,
    /// The part of a queue that one caller may fill, for each class of request.
    pub caller_percent: Option<Spanned<u8>>,
}

/// The issuance log.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// The folder of its files.
    pub dir: Option<PathBuf>,
    /// The last part of its name.
    pub name: Option<Spanned<String>>,
    /// What it means that it has taken a record.
    pub durability: Option<Durability>,
    /// `relaxed`: how much may be lost.
    pub window: Option<Spanned<Wait>>,
}

/// What it means that the log has taken a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is on the disk.
    #[default]
    Durable,
    /// The operating system has it.
    Relaxed,
}

/// Who may watch the server.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSection {
    /// Where figures and health are told over HTTP.
    pub listen: Option<Spanned<String>>,
}

fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    let name = String::deserialize(deserializer)?;
    TrustDomain::parse(&name).map_err(D::Error::custom)
}

fn key_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeyType>, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map(Some).map_err(D::Error::custom)
}

fn spanned_key_type<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Spanned<KeyType>>, D::Error> {
    let name = Spanned::<String>::deserialize(deserializer)?;
    let kind = name.get_ref().parse().map_err(D::Error::custom)?;
    Ok(Some(Spanned::new(name.span(), kind)))
}

fn jwt_key_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeyType>, D::Error> {
    let chosen = key_type(deserializer)?;
    match chosen.filter(|kind| kind.signature_algorithm().jws().is_none()) {
        Some(kind) => Err(D::Error::custom(format_args!(
            "a key of type {kind} cannot sign JWT-SVIDs (JWT-SVID §3); choose ec-p256, ec-p384 or an rsa type"
        ))),
        None => Ok(chosen),
    }
}

fn rsa_scheme<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RsaScheme>, D::Error> {
    match &String::deserialize(deserializer)?[..] {
        "pkcs1" => Ok(Some(RsaScheme::Pkcs1)),
        "pss" => Ok(Some(RsaScheme::Pss)),
        other => Err(D::Error::custom(format_args!(
            "unknown RSA scheme {other:?}; \"pkcs1\" or \"pss\" is expected"
        ))),
    }
}

/// `"always"`, `"off"` or `"sampled(N)"`.
fn verification<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Verification>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let sampled = || {
        let number = text.strip_prefix("sampled(")?.strip_suffix(')')?;
        number.parse().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit()))
    };
    match &text[..] {
        "always" => Ok(Some(Verification::Always)),
        "off" => Ok(Some(Verification::Off)),
        _ => sampled().map(|one_of| Some(Verification::Sampled(one_of))).ok_or_else(|| {
            D::Error::custom(format_args!(
                "unknown verification {text:?}; \"always\", \"off\" or \"sampled(N)\" for one of N is \
                 expected"
            ))
        }),
    }
}
