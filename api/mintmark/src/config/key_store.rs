//! One key store of a configuration, checked: `[keys.<name>]`.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::slice;
use std::time::Duration;

use ca_core::authority::KeyCreation;
use keymanager::pkcs11::{self, Hashing, Template, TokenSelector};
use keymanager::pkcs11_uri::Pkcs11Uri;
use keymanager::{SecretSource, Verification};
use toml::Spanned;

use super::Wait;
use super::file::{Create, Hash, KeySection, KeyStoreType, TemplateSection};
use super::settings::Check;

/// One key store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySettings {
    /// Who makes the keys of new authorities.
    pub creation: KeyCreation,
    /// Which signatures are verified before they are released.
    pub verification: Verification,
    /// Where the keys are.
    pub backend: Backend,
}

/// Where keys are, and how they are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Sealed files.
    Software(SoftwareSettings),
    /// A PKCS#11 token.
    Pkcs11(Pkcs11Settings),
    /// AWS KMS.
    AwsKms(AwsKmsSettings),
    /// A transit engine.
    Transit(TransitSettings),
}

/// A key store of sealed files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftwareSettings {
    /// Their folder.
    pub dir: PathBuf,
    /// Where the key is that seals them.
    pub seal_key: SecretSource,
}

/// A key store behind a PKCS#11 library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Settings {
    /// The library.
    pub module: PathBuf,
    /// Which of its tokens.
    pub token: TokenSelector,
    /// Where the user PIN is.
    pub pin: SecretSource,
    /// Sessions that sign at once; 1 to 1024.
    pub sessions: u16,
    /// Signatures that may wait for a session; 1 to 65536.
    pub queue: u32,
    /// How long one may wait; up to a minute.
    pub queue_wait: Duration,
    /// After how long a call hangs; 100 ms to 10 minutes.
    pub stall_limit: Duration,
    /// How often a probe is signed; a second to an hour.
    pub probe_interval: Duration,
    /// Who computes digests.
    pub hashing: Hashing,
    /// Whether sessions that only sign are opened read-write too.
    pub read_write_sessions: bool,
    /// What is said of a new key.
    pub template: Template,
}

/// A key store in AWS KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsKmsSettings {
    /// The region.
    pub region: String,
    /// Another URL than the region's own.
    pub endpoint: Option<String>,
    /// The profile that gives the credentials.
    pub profile: Option<String>,
    /// The file of credentials.
    pub credentials_file: Option<PathBuf>,
    /// Keys that an administrator made, by `<authority>/<generation>`.
    pub arns: BTreeMap<String, String>,
    /// How long KMS keeps a destroyed key; 7 to 30 days.
    pub deletion_days: u8,
    /// How fast KMS may be asked.
    pub pace: PaceSettings,
}

/// A key store in a transit engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransitSettings {
    /// The server.
    pub address: String,
    /// The certificates that the server's leads to.
    pub ca_file: Option<PathBuf>,
    /// Where the engine is mounted.
    pub mount: String,
    /// The namespace of the mount.
    pub namespace: Option<String>,
    /// Where the token is.
    pub access_token: SecretSource,
    /// How fast the server may be asked.
    pub pace: PaceSettings,
}

/// How fast a key store on the network may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceSettings {
    /// Requests under way at one time; 1 to 4096.
    pub in_flight: u16,
    /// Signing requests per second; 1 to 100000.
    pub rate: u32,
    /// How long a signature may wait for its turn; up to a minute.
    pub queue_wait: Duration,
    /// How long one request may take; 10 ms to a minute.
    pub attempt_timeout: Duration,
}

impl PaceSettings {
    /// For the quota that an AWS account starts with.
    const AWS_KMS: Self = Self {
        in_flight: 128,
        rate: 1_000,
        queue_wait: Duration::from_millis(500),
        attempt_timeout: Duration::from_secs(2),
    };
    /// For one server, whose operator has set no quota.
    const TRANSIT: Self = Self { in_flight: 32, rate: 20_000, ..Self::AWS_KMS };
}

impl KeySettings {
    /// A place with every default.
    #[must_use]
    pub fn of(backend: Backend) -> Self {
        let verification = match backend {
            Backend::Software(_) => Verification::INSIDE,
            Backend::Pkcs11(_) | Backend::AwsKms(_) | Backend::Transit(_) => Verification::OUTSIDE,
        };
        Self { creation: KeyCreation::Auto, verification, backend }
    }
}

impl Pkcs11Settings {
    /// A token with every default.
    #[must_use]
    pub fn of(module: PathBuf, token: TokenSelector, pin: SecretSource) -> Self {
        Self {
            module,
            token,
            pin,
            sessions: pkcs11::Settings::SESSIONS,
            queue: pkcs11::Settings::QUEUE.into(),
            queue_wait: pkcs11::Settings::QUEUE_WAIT,
            stall_limit: pkcs11::Settings::STALL_LIMIT,
            probe_interval: pkcs11::Settings::PROBE_INTERVAL,
            hashing: Hashing::default(),
            read_write_sessions: false,
            template: Template::default(),
        }
    }
}

/// Refuses the named keys in a section of another type than those that they belong to.
macro_rules! foreign {
    ($check:expr, $section:expr, $type:expr, $types:expr, [$($key:ident),*]) => {
        if !$types.contains(&$type) {
            $($check.foreign($type, stringify!($key), &$section.$key);)*
        }
    };
}

impl Check<'_> {
    /// One key store, with every default in place.
    pub(super) fn key_store(&mut self, section: Spanned<KeySection>) -> Option<KeySettings> {
        let span = section.span();
        let section = section.into_inner();
        let (create, verify) = (section.create, section.verify);
        let backend = match section.store_type {
            KeyStoreType::Software => self.software(span, section).map(Backend::Software),
            KeyStoreType::Pkcs11 => self.pkcs11(span, section).map(Backend::Pkcs11),
            KeyStoreType::AwsKms => self.aws_kms(span, section).map(Backend::AwsKms),
            KeyStoreType::Transit => self.transit(span, section).map(Backend::Transit),
        };
        let default = KeySettings::of(backend?);
        let creation = match create {
            Some(Create::Never) => KeyCreation::Never,
            Some(Create::Auto) | None => KeyCreation::Auto,
        };
        let verification = verify.unwrap_or(default.verification);
        Some(KeySettings { creation, verification, ..default })
    }

    fn software(&mut self, span: Range<usize>, section: KeySection) -> Option<SoftwareSettings> {
        const TYPE: &str = "software";
        self.only_of(&section, TYPE);
        let dir = self.needed(&span, TYPE, "dir", section.dir);
        let seal_key = self.needed(&span, TYPE, "seal_key", section.seal_key);
        Some(SoftwareSettings { dir: self.base.join(dir?), seal_key: self.secret(seal_key?) })
    }

    /// Refuses the keys of other types.
    fn only_of(&mut self, section: &KeySection, kind: &str) {
        const REMOTE: [&str; 2] = ["aws_kms", "transit"];
        const WAITING: [&str; 3] = ["pkcs11", "aws_kms", "transit"];
        foreign!(self, section, kind, ["software"], [dir, seal_key]);
        foreign!(
            self,
            section,
            kind,
            ["pkcs11"],
            [uri, module, token, serial, pin, sessions, queue]
        );
        foreign!(self, section, kind, ["pkcs11"], [stall_limit, probe_interval, hash, template]);
        foreign!(self, section, kind, ["pkcs11"], [read_write_sessions]);
        foreign!(self, section, kind, ["aws_kms"], [region, endpoint, profile, credentials_file]);
        foreign!(self, section, kind, ["aws_kms"], [arns, deletion_days]);
        foreign!(
            self,
            section,
            kind,
            ["transit"],
            [address, ca_file, mount, namespace, access_token]
        );
        foreign!(self, section, kind, REMOTE, [in_flight, rate, attempt_timeout]);
        foreign!(self, section, kind, WAITING, [queue_wait]);
    }

    fn pkcs11(&mut self, span: Range<usize>, mut section: KeySection) -> Option<Pkcs11Settings> {
        const TYPE: &str = "pkcs11";
        self.only_of(&section, TYPE);
        let place = match section.uri.take() {
            Some(uri) => self.token_by_uri(&span, &uri, &mut section),
            None => self.token_by_keys(&span, &mut section),
        };
        let ms = Duration::from_millis;
        type Usual = pkcs11::Settings;
        let sessions = self.within("sessions", section.sessions, Usual::SESSIONS, 1024);
        let queue = self.within("queue", section.queue, Usual::QUEUE.into(), 65_536);
        let (wait, bounds) = (Usual::QUEUE_WAIT, ms(1)..=ms(60_000));
        let queue_wait = self.wait("queue_wait", section.queue_wait, wait, bounds);
        let (limit, bounds) = (Usual::STALL_LIMIT, ms(100)..=ms(600_000));
        let stall_limit = self.wait("stall_limit", section.stall_limit, limit, bounds);
        let (interval, bounds) = (Usual::PROBE_INTERVAL, ms(1_000)..=ms(3_600_000));
        let probe_interval = self.wait("probe_interval", section.probe_interval, interval, bounds);
        let template = self.template(section.template);
        let (module, token, pin) = place?;
        Some(Pkcs11Settings {
            sessions,
            queue,
            queue_wait,
            stall_limit,
            probe_interval,
            hashing: match section.hash.map(Spanned::into_inner) {
                Some(Hash::Device) => Hashing::Device,
                Some(Hash::Host) => Hashing::Host,
                None => Hashing::default(),
            },
            read_write_sessions: section.read_write_sessions.is_some_and(Spanned::into_inner),
            template,
            ..Pkcs11Settings::of(module, token, pin)
        })
    }

    fn token_by_keys(
        &mut self,
        span: &Range<usize>,
        section: &mut KeySection,
    ) -> Option<(PathBuf, TokenSelector, SecretSource)> {
        const TYPE: &str = "pkcs11";
        let module = self.needed(span, TYPE, "module", section.module.take());
        let label = section.token.take().map(Spanned::into_inner);
        let serial = section.serial.take().map(Spanned::into_inner);
        let token = selector(label.as_deref(), serial.as_deref());
        if token.is_none() {
            let problem =
                "key \"token\" or \"serial\" is missing here; type = \"pkcs11\" needs one of them";
            self.refuse(span.clone(), problem);
        }
        let pin = self.needed(span, TYPE, "pin", section.pin.take());
        Some((self.base.join(module?), token?, self.secret(pin?)))
    }

    /// The URI says which token; the library and the PIN may be said by it or beside it.
    fn token_by_uri(
        &mut self,
        span: &Range<usize>,
        uri: &Spanned<String>,
        section: &mut KeySection,
    ) -> Option<(PathBuf, TokenSelector, SecretSource)> {
        let said = match Pkcs11Uri::parse(uri.get_ref()) {
            Ok(said) => said,
            Err(error) => {
                self.refuse(uri.span(), error.to_string());
                return None;
            }
        };
        for (key, value) in [("token", &section.token), ("serial", &section.serial)] {
            self.said_twice(key, "uri", value);
        }
        if said.module_path.is_some() {
            self.said_twice("module", "uri", &section.module);
        }
        if said.pin_source.is_some() {
            self.said_twice("pin", "uri", &section.pin);
        }
        let module = match said.module_path {
            Some(path) => Some(path),
            None => self
                .needed(span, "pkcs11", "module", section.module.take())
                .map(|path| self.base.join(path)),
        };
        let pin = match said.pin_source {
            Some(path) => Some(SecretSource::File(path)),
            None => self
                .needed(span, "pkcs11", "pin", section.pin.take())
                .map(|secret| self.secret(secret)),
        };
        let token = selector(said.token.as_deref(), said.serial.as_deref()).map(|token| {
            let token = match &said.manufacturer {
                Some(manufacturer) => token.with_manufacturer(manufacturer),
                None => token,
            };
            match &said.model {
                Some(model) => token.with_model(model),
                None => token,
            }
        });
        Some((module?, token?, pin?))
    }

    fn said_twice<T>(&mut self, key: &str, other: &str, value: &Option<Spanned<T>>) {
        if let Some(value) = value {
            self.refuse(
                value.span(),
                format!("key {key:?} is said by {other:?} too; say it in one place"),
            );
        }
    }

    fn wait(
        &mut self,
        key: &str,
        written: Option<Spanned<Wait>>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(written) = written else { return default };
        let Wait(wait) = *written.get_ref();
        if !bounds.contains(&wait) {
            let (least, most) = (Wait(*bounds.start()), Wait(*bounds.end()));
            self.refuse(
                written.span(),
                format!("{key} = \"{}\" is out of bounds; \"{least}\" to \"{most}\"", Wait(wait)),
            );
        }
        wait
    }

    fn template(&mut self, written: Option<Spanned<TemplateSection>>) -> Template {
        let Some(written) = written else { return Template::default() };
        let TemplateSection { omit, set } = written.into_inner();
        let mut checked = (Vec::new(), Vec::new());
        for name in omit {
            match Template::new(slice::from_ref(name.get_ref()), &[]) {
                Ok(_) => checked.0.push(name.into_inner()),
                Err(problem) => self.refuse(name.span(), problem),
            }
        }
        for (name, value) in set {
            let (span, change) = (name.span(), (name.into_inner(), value));
            match Template::new(&[], slice::from_ref(&change)) {
                Ok(_) => checked.1.push(change),
                Err(problem) => self.refuse(span, problem),
            }
        }
        Template::new(&checked.0, &checked.1).unwrap_or_default()
    }

    fn aws_kms(&mut self, span: Range<usize>, section: KeySection) -> Option<AwsKmsSettings> {
        const TYPE: &str = "aws_kms";
        self.only_of(&section, TYPE);
        let pace = self.pace(&section, PaceSettings::AWS_KMS);
        let region = self.needed(&span, TYPE, "region", section.region);
        let deletion_days = section.deletion_days.map_or(30, |days| {
            if !(7..=30).contains(days.get_ref()) {
                let problem =
                    format!("deletion_days = {} is out of bounds; 7 to 30", days.get_ref());
                self.refuse(days.span(), problem);
            }
            days.into_inner()
        });
        Some(AwsKmsSettings {
            region: region?,
            endpoint: section.endpoint.map(Spanned::into_inner),
            profile: section.profile.map(Spanned::into_inner),
            credentials_file: section
                .credentials_file
                .map(|file| self.base.join(file.into_inner())),
            arns: section.arns.map(Spanned::into_inner).unwrap_or_default(),
            deletion_days,
            pace,
        })
    }

    fn transit(&mut self, span: Range<usize>, section: KeySection) -> Option<TransitSettings> {
        const TYPE: &str = "transit";
        self.only_of(&section, TYPE);
        let pace = self.pace(&section, PaceSettings::TRANSIT);
        let address = self.needed(&span, TYPE, "address", section.address);
        let access_token = self.needed(&span, TYPE, "access_token", section.access_token);
        Some(TransitSettings {
            address: address?,
            ca_file: section.ca_file.map(|file| self.base.join(file.into_inner())),
            mount: section.mount.map_or_else(|| "transit".to_owned(), Spanned::into_inner),
            namespace: section.namespace.map(Spanned::into_inner),
            access_token: self.secret(access_token?),
            pace,
        })
    }

    fn pace(&mut self, section: &KeySection, default: PaceSettings) -> PaceSettings {
        let ms = Duration::from_millis;
        PaceSettings {
            in_flight: self.within("in_flight", section.in_flight.clone(), default.in_flight, 4096),
            rate: self.within("rate", section.rate.clone(), default.rate, 100_000),
            queue_wait: self.wait(
                "queue_wait",
                section.queue_wait.clone(),
                default.queue_wait,
                ms(1)..=ms(60_000),
            ),
            attempt_timeout: self.wait(
                "attempt_timeout",
                section.attempt_timeout.clone(),
                default.attempt_timeout,
                ms(10)..=ms(60_000),
            ),
        }
    }
}

/// The token of this label, this serial number, or both.
fn selector(label: Option<&str>, serial: Option<&str>) -> Option<TokenSelector> {
    match (label, serial) {
        (Some(label), Some(serial)) => Some(TokenSelector::label(label).with_serial(serial)),
        (Some(label), None) => Some(TokenSelector::label(label)),
        (None, Some(serial)) => Some(TokenSelector::serial(serial)),
        (None, None) => None,
    }
}
