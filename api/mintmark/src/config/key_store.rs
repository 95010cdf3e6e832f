//! One key store of a configuration, checked: `[keys.<name>]`.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use ca_core::authority::KeyCreation;
use keymanager::pkcs11::TokenSelector;
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
    pub token: TokenIdentity,
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
    pub hash: Hash,
    /// Whether sessions that only sign are opened read-write too.
    pub read_write_sessions: bool,
    /// What is said of a new key.
    pub template: TemplateChanges,
}

/// What a token says of itself; what is not given matches any. Label or serial number is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenIdentity {
    /// Its label.
    pub label: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Who made it.
    pub manufacturer: Option<String>,
    /// What it is.
    pub model: Option<String>,
}

/// Changes to what is said of a new key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TemplateChanges {
    /// Attributes that are not said.
    pub omit: Vec<String>,
    /// Attributes with another value.
    pub set: Vec<(String, bool)>,
}

impl KeySettings {
    /// A place with every default.
    #[must_use]
    pub fn of(backend: Backend) -> Self {
        let verification = match backend {
            Backend::Software(_) => Verification::INSIDE,
            Backend::Pkcs11(_) => Verification::OUTSIDE,
        };
        Self { creation: KeyCreation::Auto, verification, backend }
    }
}

impl Pkcs11Settings {
    /// A token with every default.
    #[must_use]
    pub fn of(module: PathBuf, token: TokenIdentity, pin: SecretSource) -> Self {
        Self {
            module,
            token,
            pin,
            sessions: 4,
            queue: 4096,
            queue_wait: Duration::from_millis(50),
            stall_limit: Duration::from_secs(10),
            probe_interval: Duration::from_secs(5),
            hash: Hash::Host,
            read_write_sessions: false,
            template: TemplateChanges::default(),
        }
    }

    /// How the token is told from the others of its module.
    #[must_use]
    pub fn selector(&self) -> TokenSelector {
        let selector = TokenSelector::label(self.token.label.as_deref().unwrap_or_default());
        match &self.token.serial {
            Some(serial) => selector.with_serial(serial),
            None => selector,
        }
    }
}

/// Refuses, in a section of type `$type`, the keys of other types.
macro_rules! refuse_foreign {
    ($check:expr, $type:expr, $section:expr, [$($key:ident),* $(,)?]) => {
        $($check.foreign($type, stringify!($key), &$section.$key);)*
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
        self.foreign_pkcs11(TYPE, &section);
        let dir = self.needed(&span, TYPE, "dir", section.dir);
        let seal_key = self.needed(&span, TYPE, "seal_key", section.seal_key);
        Some(SoftwareSettings { dir: self.base.join(dir?), seal_key: self.secret(seal_key?) })
    }

    fn foreign_software(&mut self, store_type: &str, section: &KeySection) {
        refuse_foreign!(self, store_type, section, [dir, seal_key]);
    }

    fn foreign_pkcs11(&mut self, store_type: &str, section: &KeySection) {
        refuse_foreign!(
            self,
            store_type,
            section,
            [
                uri,
                module,
                token,
                serial,
                pin,
                sessions,
                queue,
                queue_wait,
                stall_limit,
                probe_interval,
                hash,
                read_write_sessions,
                template,
            ]
        );
    }

    fn pkcs11(&mut self, span: Range<usize>, mut section: KeySection) -> Option<Pkcs11Settings> {
        const TYPE: &str = "pkcs11";
        self.foreign_software(TYPE, &section);
        let place = match section.uri.take() {
            Some(uri) => self.token_by_uri(&span, &uri, &mut section),
            None => self.token_by_keys(&span, &mut section),
        };
        let sessions = self.within("sessions", section.sessions, 4, 1024);
        let queue = self.within("queue", section.queue, 4096, 65_536);
        let ms = Duration::from_millis;
        let queue_wait = self.wait("queue_wait", section.queue_wait, ms(50), ms(1)..=ms(60_000));
        let stall_limit =
            self.wait("stall_limit", section.stall_limit, ms(10_000), ms(100)..=ms(600_000));
        let probe_interval = self.wait(
            "probe_interval",
            section.probe_interval,
            ms(5_000),
            ms(1_000)..=ms(3_600_000),
        );
        let template = self.template(section.template);
        let (module, token, pin) = place?;
        Some(Pkcs11Settings {
            sessions,
            queue,
            queue_wait,
            stall_limit,
            probe_interval,
            hash: section.hash.map_or(Hash::Host, Spanned::into_inner),
            read_write_sessions: section.read_write_sessions.is_some_and(Spanned::into_inner),
            template,
            ..Pkcs11Settings::of(module, token, pin)
        })
    }

    fn token_by_keys(
        &mut self,
        span: &Range<usize>,
        section: &mut KeySection,
    ) -> Option<(PathBuf, TokenIdentity, SecretSource)> {
        const TYPE: &str = "pkcs11";
        let module = self.needed(span, TYPE, "module", section.module.take());
        let label = section.token.take().map(Spanned::into_inner);
        let serial = section.serial.take().map(Spanned::into_inner);
        if label.is_none() && serial.is_none() {
            let problem =
                "key \"token\" or \"serial\" is missing here; type = \"pkcs11\" needs one of them";
            self.refuse(span.clone(), problem);
        }
        let pin = self.needed(span, TYPE, "pin", section.pin.take());
        let token = TokenIdentity { label, serial, ..TokenIdentity::default() };
        Some((self.base.join(module?), token, self.secret(pin?)))
    }

    /// The URI says which token; the library and the PIN may be said by it or beside it.
    fn token_by_uri(
        &mut self,
        span: &Range<usize>,
        uri: &Spanned<String>,
        section: &mut KeySection,
    ) -> Option<(PathBuf, TokenIdentity, SecretSource)> {
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
        let token = TokenIdentity {
            label: said.token,
            serial: said.serial,
            manufacturer: said.manufacturer,
            model: said.model,
        };
        Some((module?, token, pin?))
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

    fn template(&mut self, written: Option<Spanned<TemplateSection>>) -> TemplateChanges {
        /// What a module may reject: that the key does none of it is read back all the same.
        const OMITTABLE: [&str; 8] = [
            "sign_recover",
            "decrypt",
            "unwrap",
            "derive",
            "modifiable",
            "copyable",
            "encrypt",
            "wrap",
        ];
        /// What changes nothing about who can use the key.
        const SETTABLE: [&str; 2] = ["modifiable", "copyable"];
        let Some(written) = written else { return TemplateChanges::default() };
        let TemplateSection { omit, set } = written.into_inner();
        for name in &omit {
            if !OMITTABLE.contains(&name.get_ref().as_str()) {
                let problem = format!(
                    "{:?} cannot be left out: what keeps a key in its token stays; {} can",
                    name.get_ref(),
                    OMITTABLE.join(", ")
                );
                self.refuse(name.span(), problem);
            }
        }
        for name in set.keys() {
            if !SETTABLE.contains(&name.get_ref().as_str()) {
                let problem = format!(
                    "{:?} cannot be changed: a key of an authority signs, does nothing else and never \
                     leaves; {} can",
                    name.get_ref(),
                    SETTABLE.join(" and ")
                );
                self.refuse(name.span(), problem);
            }
        }
        TemplateChanges {
            omit: omit.into_iter().map(Spanned::into_inner).collect(),
            set: set.into_iter().map(|(name, value)| (name.into_inner(), value)).collect(),
        }
    }
}
