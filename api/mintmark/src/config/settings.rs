//! What the program will do: a [`File`] checked as a whole, defaults in place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ca_core::authority::{AuthoritySettings, CaSubject, KeyCreation};
use ca_core::id::TrustDomain;
use ca_core::issuer::Lifetimes;
use ca_core::issuing::{DelegationSettings, IssuingMode, LongTtl};
use ca_core::key::{KeyType, RsaScheme};
use ca_core::log::identity::origin;
use ca_core::name::{Attribute, Name};
use ca_core::pipeline::admission::Bounds;
use ca_core::token::TokenSettings;
use keymanager::SecretSource;
use mintmark_signer::admin_socket::LONGEST_PATH;
use mintmark_signer::signing::Limits;
use toml::Spanned;

use super::Period;
use super::fault::Misfit;
use super::file::{
    AdminSection, Durability, File, IssuingSection, KeySection, LogFormat, LogLevel, LogSection,
    Mode, Secret, SignerSection, SubjectSection,
};
use super::key_store::KeySettings;

/// Everything that `mintmark server` needs to know, checked. Paths are absolute; whether anything is at
/// them is not known here.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The trust domain that the server speaks for.
    pub trust_domain: TrustDomain,
    /// What and how to log.
    pub logging: Logging,
    /// The admin socket.
    pub admin: Admin,
    /// The key stores by name.
    pub keys: BTreeMap<String, KeySettings>,
    /// The folder of the embedded store.
    pub store_dir: PathBuf,
    /// Which of [`keys`](Self::keys) holds the authorities' keys; the name is there.
    pub authority_keys: String,
    /// What the authorities are like and what they issue.
    pub authorities: AuthoritySettings,
    /// Whose key signs leaves.
    pub issuing_mode: IssuingMode,
    /// How much may wait to be minted.
    pub queue: Bounds,
    /// Where front ends are served, if anywhere, and how many.
    pub signing: Option<(SocketAddr, Limits)>,
    /// The issuance log.
    pub log: IssuanceLogSettings,
    /// Where figures and health are told over HTTP, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// The issuance log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuanceLogSettings {
    /// Where its files are.
    pub directory: PathBuf,
    /// The last part of its name; the trust domain is before it.
    pub name: String,
    /// What it means that it has taken a record.
    pub durability: ca_core::log::Durability,
}

impl IssuanceLogSettings {
    /// The name of a log when nobody says otherwise.
    pub const DEFAULT_NAME: &str = "signer";

    /// A log beside a store, of which nobody has said anything.
    #[must_use]
    pub fn beside(store: &Path) -> Self {
        Self {
            directory: store.join("log"),
            name: Self::DEFAULT_NAME.to_owned(),
            durability: ca_core::log::Durability::Durable,
        }
    }
}

/// How much may wait when nobody says otherwise: several seconds of what two cores mint.
pub const DEFAULT_QUEUE: Bounds =
    Bounds { memory: 64 << 20, wait: Duration::from_secs(5), caller_percent: 50 };

/// What and how to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Logging {
    /// The most detailed level that is written.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// The admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where it is; at most [`LONGEST_PATH`] bytes.
    pub socket: PathBuf,
    /// The name or number of a group that may use it beside its owner.
    pub group: Option<String>,
}

impl Settings {
    /// Where the admin socket is when nobody says otherwise.
    pub const DEFAULT_SOCKET: &str = "/run/mintmark/admin.sock";

    /// Checks what depends on more than one key. Every fault is found, not only the first.
    pub(super) fn new(file: File, base: &Path) -> Result<Self, Vec<Misfit>> {
        let mut check = Check { base, misfits: Vec::new() };
        let trust_domain = file.trust_domain.name;
        let authority_keys = check.chosen_keys(&file.keys, file.issuing.keys.as_ref());
        let delegation = check.delegation(&file.issuing);
        let authorities = check.issuing(file.issuing, &trust_domain);
        let issuing_mode = delegation.mode(&authorities);
        let admin = check.admin(file.server.admin);
        let metrics = file.metrics.listen.and_then(|written| check.address("listen", &written));
        let signing = check.signing(&file.signer);
        let keys: BTreeMap<String, KeySettings> = file
            .keys
            .into_inner()
            .into_iter()
            .filter_map(|(name, section)| Some((name, check.key_store(section)?)))
            .collect();
        let key_creation = keys.get(&authority_keys).map(|keys| keys.creation).unwrap_or_default();
        let authorities = AuthoritySettings { key_creation, ..authorities };
        let logging = Logging {
            level: file.server.log_level.unwrap_or_default(),
            format: file.server.log_format.unwrap_or_default(),
        };
        let store_dir = base.join(file.store.dir);
        let queue = check.queue(&file.signer);
        let log = check.log(file.log, &trust_domain, &store_dir);
        let settings = Self {
            trust_domain,
            logging,
            admin,
            keys,
            store_dir,
            authority_keys,
            authorities,
            issuing_mode,
            queue,
            signing,
            log,
            metrics,
        };
        if check.misfits.is_empty() { Ok(settings) } else { Err(check.misfits) }
    }
}

/// Longer waits nobody for an answer.
const LONGEST_QUEUE_WAIT: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3_600);

/// Authorities of which nobody has said anything but their trust domain.
#[must_use]
pub fn default_authorities(trust_domain: TrustDomain) -> AuthoritySettings {
    // RFC 5280 appendix A.1: ub-common-name is 64 characters.
    let common_name = trust_domain.name().chars().take(64).collect();
    AuthoritySettings {
        trust_domain,
        ca_key_type: KeyType::EcP256,
        jwt_key_type: KeyType::EcP256,
        key_creation: KeyCreation::Auto,
        rsa_scheme: RsaScheme::Pkcs1,
        ca_ttl: 365 * 24 * HOUR,
        ca_subject: CaSubject {
            country: Vec::new(),
            organization: vec!["Mintmark".to_owned()],
            common_name: Some(common_name),
        },
        lifetimes: Lifetimes::default(),
        tokens: TokenSettings::default(),
        refresh_hint: 5 * HOUR / 60,
    }
}

/// How long the certificate of an issuing key is valid when nobody says otherwise.
const ISSUING_KEY_LIFE: Duration = Duration::from_secs(6 * 3_600);

/// What was said of issuing keys.
#[derive(Debug, Clone, Default)]
pub struct IssuingKeySettings {
    direct: bool,
    life: Option<Duration>,
    key_type: Option<KeyType>,
    long_ttl: LongTtl,
}

impl IssuingKeySettings {
    /// Issuing keys under such authorities: alike in kind and name, unless another kind was said.
    #[must_use]
    pub fn mode(&self, authorities: &AuthoritySettings) -> IssuingMode {
        if self.direct {
            return IssuingMode::Direct;
        }
        IssuingMode::Delegated(DelegationSettings {
            key_type: self.key_type.unwrap_or(authorities.ca_key_type),
            life: self.life.unwrap_or(ISSUING_KEY_LIFE).min(authorities.ca_ttl),
            subject: authorities.ca_subject.clone(),
            long_ttl: self.long_ttl,
        })
    }
}

/// The faults found so far, and where relative paths start.
pub(super) struct Check<'a> {
    pub(super) base: &'a Path,
    misfits: Vec<Misfit>,
}

impl Check<'_> {
    pub(super) fn refuse(&mut self, span: Range<usize>, problem: impl Into<String>) {
        self.misfits.push(Misfit::at(span, problem));
    }

    fn admin(&mut self, section: AdminSection) -> Admin {
        let Some(written) = section.socket else {
            let socket = PathBuf::from(Settings::DEFAULT_SOCKET);
            return Admin { socket, group: section.group };
        };
        let socket = self.base.join(written.get_ref());
        let length = socket.as_os_str().len();
        if length > LONGEST_PATH {
            self.refuse(
                written.span(),
                format!(
                    "socket path {} has {length} bytes; a unix socket's path has at most {LONGEST_PATH}, choose a shorter one",
                    socket.display()
                ),
            );
        }
        Admin { socket, group: section.group }
    }

    /// The key store of the authority: the named one, or the only one.
    fn chosen_keys(
        &mut self,
        stores: &Spanned<BTreeMap<String, Spanned<KeySection>>>,
        chosen: Option<&Spanned<String>>,
    ) -> String {
        let names: Vec<&str> = stores.get_ref().keys().map(String::as_str).collect();
        match (chosen, names.as_slice()) {
            (Some(name), _) if stores.get_ref().contains_key(name.get_ref()) => {
                return name.get_ref().clone();
            }
            (Some(name), _) => self.refuse(
                name.span(),
                format!(
                    "there is no section [keys.{}]; sections are: {}",
                    name.get_ref(),
                    names.join(", ")
                ),
            ),
            (None, [only]) => return (*only).to_owned(),
            (None, []) => self.refuse(
                stores.span(),
                "no key store is described; add a section such as [keys.main]",
            ),
            (None, _) => self.refuse(
                stores.span(),
                format!(
                    "several key stores are described ({}); name the authority's with [issuing] keys = \"...\"",
                    names.join(", ")
                ),
            ),
        }
        String::new()
    }

    /// A key that belongs to another type of key store.
    pub(super) fn foreign<T>(&mut self, store_type: &str, key: &str, value: &Option<Spanned<T>>) {
        if let Some(value) = value {
            self.refuse(
                value.span(),
                format!("key {key:?} means nothing for type = {store_type:?}; remove it"),
            );
        }
    }

    pub(super) fn needed<T>(
        &mut self,
        section: &Range<usize>,
        store_type: &str,
        key: &str,
        value: Option<Spanned<T>>,
    ) -> Option<T> {
        if value.is_none() {
            self.refuse(
                section.clone(),
                format!("key {key:?} is missing here; type = {store_type:?} needs it"),
            );
        }
        value.map(Spanned::into_inner)
    }

    /// A count between 1 and `most`.
    pub(super) fn within<T: Copy + Ord + From<u8> + std::fmt::Display>(
        &mut self,
        key: &str,
        value: Option<Spanned<T>>,
        default: T,
        most: T,
    ) -> T {
        let Some(value) = value else { return default };
        let count = *value.get_ref();
        if count < T::from(1) || count > most {
            self.refuse(value.span(), format!("{key} = {count} is out of bounds; 1 to {most}"));
        }
        count
    }

    /// An IP address with a port. Not a name: it may stand for several, and for others tomorrow.
    fn address(&mut self, key: &str, written: &Spanned<String>) -> Option<SocketAddr> {
        let address = written.get_ref().parse::<SocketAddr>().ok().filter(|it| it.port() != 0);
        if address.is_none() {
            self.refuse(
                written.span(),
                format!(
                    "{key} = {:?} is no IP address with a port; write it like \"127.0.0.1:9464\" or \"[::1]:9464\"",
                    written.get_ref()
                ),
            );
        }
        address
    }

    pub(super) fn secret(&self, secret: Secret) -> SecretSource {
        match secret {
            Secret::File(path) => SecretSource::File(self.base.join(path)),
            Secret::Credential(name) => SecretSource::Credential(name),
            Secret::Env(name) => SecretSource::Environment(name),
        }
    }

    /// Everything of `[issuing]` but the choice of the key store.
    fn issuing(
        &mut self,
        section: IssuingSection,
        trust_domain: &TrustDomain,
    ) -> AuthoritySettings {
        let default = default_authorities(trust_domain.clone());
        let ca_ttl = self.period("ca_ttl", section.ca_ttl, default.ca_ttl, Duration::MAX);
        let ca_key_type = section.ca_key_type.unwrap_or(default.ca_key_type);
        let signs_tokens = ca_key_type.signature_algorithm().jws().is_some();
        let jwt_fallback = if signs_tokens { ca_key_type } else { default.jwt_key_type };
        let lifetimes = Lifetimes {
            default_ttl: self.period(
                "default_x509_svid_ttl",
                section.default_x509_svid_ttl,
                default.lifetimes.default_ttl,
                ca_ttl,
            ),
            backdate: self.span("backdate", section.backdate, default.lifetimes.backdate, HOUR),
        };
        let tokens = TokenSettings {
            default_ttl: self.period(
                "default_jwt_svid_ttl",
                section.default_jwt_svid_ttl,
                default.tokens.default_ttl,
                ca_ttl,
            ),
            issuer: self.issuer(section.jwt_issuer),
            token_id: section.jti.unwrap_or_default(),
        };
        AuthoritySettings {
            ca_key_type,
            jwt_key_type: section.jwt_key_type.unwrap_or(jwt_fallback),
            rsa_scheme: section.rsa_scheme.unwrap_or(default.rsa_scheme),
            ca_ttl,
            ca_subject: self.subject(section.ca_subject, default.ca_subject),
            lifetimes,
            tokens,
            refresh_hint: self.span(
                "refresh_hint",
                section.refresh_hint,
                default.refresh_hint,
                365 * 24 * HOUR,
            ),
            ..default
        }
    }

    /// What `[issuing]` says of issuing keys. With `mode = "direct"` there are none, and nothing may be said.
    fn delegation(&mut self, section: &IssuingSection) -> IssuingKeySettings {
        let direct = section.mode == Some(Mode::Direct);
        let said = [
            ("issuing_key_type", section.issuing_key_type.as_ref().map(Spanned::span)),
            ("issuing_key_life", section.issuing_key_life.as_ref().map(Spanned::span)),
            ("long_ttl", section.long_ttl.as_ref().map(Spanned::span)),
        ];
        for (key, span) in said {
            if let Some(span) = span.filter(|_| direct) {
                let problem = "means nothing for mode = \"direct\"; remove it";
                self.refuse(span, format!("key {key:?} {problem}"));
            }
        }
        let most = section.ca_ttl.as_ref().map_or(Duration::MAX, |ttl| ttl.get_ref().0);
        let life = section.issuing_key_life.clone();
        let life =
            life.map(|life| self.period("issuing_key_life", Some(life), ISSUING_KEY_LIFE, most));
        let long_ttl = section.long_ttl.as_ref().map(|it| (*it.get_ref()).into());
        IssuingKeySettings {
            direct,
            life,
            key_type: section.issuing_key_type.as_ref().map(|it| *it.get_ref()),
            long_ttl: long_ttl.unwrap_or_default(),
        }
    }

    fn signing(&mut self, section: &SignerSection) -> Option<(SocketAddr, Limits)> {
        let usual = Limits::default();
        let mut limit = |key, written: &Option<Spanned<u32>>, usual: usize, most| {
            if let (Some(written), None) = (written, &section.listen) {
                let problem = "means nothing without \"listen\"; remove it, or say where to listen";
                self.refuse(written.span(), format!("key {key:?} {problem}"));
            }
            // No more than 65,536, all of them.
            let usual = u32::try_from(usual).unwrap_or(most);
            self.within(key, written.clone(), usual, most) as usize
        };
        let connections = limit("connections", &section.connections, usual.connections, 65_536);
        let (per_front_end, per_address) =
            (&section.connections_per_front_end, &section.handshakes_per_address);
        let limits = Limits {
            connections,
            connections_of_a_peer: limit(
                "connections_per_front_end",
                per_front_end,
                usual.connections_of_a_peer,
                65_536,
            ),
            handshakes_of_an_address: limit(
                "handshakes_per_address",
                per_address,
                usual.handshakes_of_an_address,
                u32::try_from(usual.handshakes).unwrap_or(u32::MAX),
            ),
            ..usual
        };
        let address = self.address("listen", section.listen.as_ref()?)?;
        Some((address, limits))
    }

    fn queue(&mut self, section: &SignerSection) -> Bounds {
        let memory = self.within("queue_memory_mib", section.queue_memory_mib.clone(), 64, 1 << 20);
        let percent = self.within("caller_percent", section.caller_percent.clone(), 50, 100);
        let wait = section.queue_wait.as_ref().map_or(DEFAULT_QUEUE.wait, |wait| {
            if !(Duration::from_millis(1)..=LONGEST_QUEUE_WAIT).contains(&wait.get_ref().0) {
                let written = wait.get_ref();
                self.refuse(
                    wait.span(),
                    format!("queue_wait = \"{written}\" is out of bounds; \"1ms\" to \"5m\""),
                );
            }
            wait.get_ref().0
        });
        Bounds { memory: (memory as usize) << 20, wait, caller_percent: percent.into() }
    }

    fn log(
        &mut self,
        section: LogSection,
        trust_domain: &TrustDomain,
        store_dir: &Path,
    ) -> IssuanceLogSettings {
        let default = IssuanceLogSettings::beside(store_dir);
        if let Some(name) = &section.name
            && let Err(error) = origin(trust_domain, name.get_ref())
        {
            self.refuse(name.span(), error.to_string());
        }
        let relaxed = section.durability == Some(Durability::Relaxed);
        let window = section.window.as_ref().map(|window| (window.span(), *window.get_ref()));
        let durability = match window {
            None if relaxed => ca_core::log::Durability::Relaxed { window_ms: 100 },
            None => default.durability,
            Some((span, _)) if !relaxed => {
                self.refuse(span, "key \"window\" needs durability = \"relaxed\"; remove it");
                default.durability
            }
            Some((span, window)) => match u32::try_from(window.0.as_millis()) {
                Ok(window_ms @ 1..=60_000) => ca_core::log::Durability::Relaxed { window_ms },
                _ => {
                    let problem =
                        format!("window = \"{window}\" is out of bounds; \"1ms\" to \"1m\"");
                    self.refuse(span, problem);
                    default.durability
                }
            },
        };
        IssuanceLogSettings {
            directory: section.dir.map_or(default.directory, |dir| self.base.join(dir)),
            name: section.name.map_or(default.name, Spanned::into_inner),
            durability,
        }
    }

    /// A life: at least a second, at most `most`.
    fn period(
        &mut self,
        key: &str,
        value: Option<Spanned<Period>>,
        default: Duration,
        most: Duration,
    ) -> Duration {
        if let Some(value) = value.as_ref().filter(|value| value.get_ref().0.is_zero()) {
            self.refuse(value.span(), format!("{key} = \"0s\" is no life; write at least \"1s\""));
        }
        self.span(key, value, default, most)
    }

    /// A span of at most `most`.
    fn span(
        &mut self,
        key: &str,
        value: Option<Spanned<Period>>,
        default: Duration,
        most: Duration,
    ) -> Duration {
        let Some(value) = value else { return default.min(most) };
        let Period(span) = *value.get_ref();
        if span > most {
            self.refuse(
                value.span(),
                format!(
                    "{key} = \"{}\" is too long; at most \"{}\"",
                    value.get_ref(),
                    Period(most)
                ),
            );
        }
        span
    }

    fn issuer(&mut self, written: Option<Spanned<String>>) -> Option<String> {
        let issuer = written?;
        if issuer.get_ref().is_empty() || issuer.get_ref().chars().any(char::is_whitespace) {
            self.refuse(
                issuer.span(),
                "jwt_issuer must be a URL such as \"https://oidc.example.org\"; leave it out for tokens without \"iss\"",
            );
        }
        Some(issuer.into_inner())
    }

    fn subject(
        &mut self,
        written: Option<Spanned<SubjectSection>>,
        default: CaSubject,
    ) -> CaSubject {
        let Some(written) = written else { return default };
        let span = written.span();
        let SubjectSection { country, organization, common_name } = written.into_inner();
        let parts: Vec<(Attribute, &str)> = [
            country.iter().map(|value| (Attribute::Country, value.as_str())).collect::<Vec<_>>(),
            organization.iter().map(|value| (Attribute::Organization, value.as_str())).collect(),
            common_name.iter().map(|value| (Attribute::CommonName, value.as_str())).collect(),
        ]
        .concat();
        if parts.is_empty() {
            self.refuse(span, "ca_subject is empty; give a common_name or leave the section out");
        } else if let Err(error) = Name::from_attributes(&parts) {
            self.refuse(span, format!("ca_subject cannot stand in a certificate: {error}"));
        }
        CaSubject { country, organization, common_name }
    }
}
