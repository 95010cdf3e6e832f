//! The authorities of a trust domain: made on the first start, found again on every other.
//!
//! Each kind (X.509, JWT) has a slot in the state store. A new authority takes three steps, and a crash
//! after any of them is mended by the next start:
//!
//! 1. the slot names the key that is going to be made,
//! 2. the key store makes it (or finds it, if the crash came after),
//! 3. one commit writes the authority, activates it in the slot and adds it to the bundle.

mod ledger;
mod record;
mod stock;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use self::ledger::{KeyVerdict, KnownKey, Ledger, Retirement, Standing, Verdict, expired_keys};
use self::record::{AuthorityRecord, BundleRecord, FORMAT, SlotRecord};
use self::stock::Stock;
pub use self::stock::prepared_keys;
pub use self::upstream::{UpstreamAuthority, UpstreamChain, UpstreamError};
use crate::bundle::{Bundle, thumbprint};
use crate::certificate::CaCertificate;
use crate::clock::Timestamp;
use crate::id::TrustDomain;
use crate::issuer::{self, IssueError, Issuer, Lifetimes};
use crate::key::{
    KeyError, KeyName, KeyStore, KeyType, PublicKey, RsaScheme, SignError, SignatureAlgorithm,
    SigningKey, ToBeSigned, Urgency,
};
use crate::name::{Attribute, Name, NameError};
use crate::serial::{Serial, SerialError, SerialSource};
use crate::store::key::{self, Slot, TrustDomainNumber};
use crate::store::{
    Check, Commit, CommitOutcome, Consistency, Key, Op, StateStore, StoreError, Version,
    record as envelope,
};
use crate::token::{TokenError, TokenIssuer, TokenSettings};

/// How many key names a new authority tries: those that lost state directories have left behind.
const GENERATIONS: u64 = 1000;

/// How often a start tries again after another process has changed the same slot.
const ROUNDS: usize = 8;

/// What the authorities of a trust domain are to be like.
#[derive(Debug, Clone)]
pub struct AuthoritySettings {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The kind of key of a new X.509 authority.
    pub ca_key_type: KeyType,
    /// The kind of key of a new JWT authority.
    pub jwt_key_type: KeyType,
    /// Who makes the keys of new authorities.
    pub key_creation: KeyCreation,
    /// How RSA keys of either kind sign.
    pub rsa_scheme: RsaScheme,
    /// The life of a new authority of either kind.
    pub ca_ttl: Duration,
    /// The subject of a new CA certificate. Its serial number is added, so that no two authorities share a
    /// name: verifiers that look roots up by name would try each of them.
    pub ca_subject: CaSubject,
    /// The lives of certificates.
    pub lifetimes: Lifetimes,
    /// What tokens say.
    pub tokens: TokenSettings,
    /// How often clients of the bundle look for changes.
    pub refresh_hint: Duration,
}

/// Who makes the keys of new authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyCreation {
    /// This process, when it needs one.
    #[default]
    Auto,
    /// An administrator, ahead of time: making keys is beyond the rights of the service on most HSMs. The
    /// next key is the one of the lowest generation after the recorded one that can be used.
    Never,
}

/// The configurable attributes of a CA certificate's subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaSubject {
    /// `C`, two letters each.
    pub country: Vec<String>,
    /// `O`.
    pub organization: Vec<String>,
    /// `CN`.
    pub common_name: Option<String>,
}

/// What a trust domain signs with, and what others verify it by.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// The X.509 authority.
    pub x509: Arc<Issuer>,
    /// The JWT authority.
    pub jwt: Arc<TokenIssuer>,
    /// The bundle, both in it.
    pub bundle: Arc<Bundle>,
    /// The name of the X.509 authority's key in its key store.
    pub x509_key: KeyName,
    /// The name of the JWT authority's key in its key store.
    pub jwt_key: KeyName,
    /// How many keys are left for the authorities to come; `None` where they are made when they are needed.
    pub prepared: Option<PreparedKeys>,
}

/// How many keys an administrator has made ahead that no authority has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreparedKeys {
    /// For X.509 authorities.
    pub x509: usize,
    /// For JWT authorities.
    pub jwt: usize,
}

/// Why there are no authorities to mint under.
#[derive(Debug, Clone, Error)]
pub enum AuthorityError {
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key store failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The CA certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The key cannot sign tokens.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The CA subject is not acceptable.
    #[error("CA subject: {0}")]
    Subject(#[from] NameError),
    /// No random bytes.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// The key of an authority is not where it was.
    #[error(
        "key {key} of the {kind} authority {authority} is not in {place}; restore the key, or start with \
         an empty state directory to make a new authority"
    )]
    KeyMissing {
        /// The key.
        key: KeyName,
        /// `X.509` or `JWT`.
        kind: &'static str,
        /// The authority.
        authority: String,
        /// The key store.
        place: String,
    },
    /// A key of that name is there, but it is another.
    #[error(
        "key {key} in {place} is not the one that the {kind} authority {authority} was made with"
    )]
    KeyChanged {
        /// The key.
        key: KeyName,
        /// `X.509` or `JWT`.
        kind: &'static str,
        /// The authority.
        authority: String,
        /// The key store.
        place: String,
    },
    /// The key answered a probe with a signature that does not verify.
    #[error(
        "key {0} gave a signature that does not verify; do not use the device before it is checked"
    )]
    Probe(KeyName),
    /// Keys are made by an administrator, and none is left.
    #[error(
        "no key is prepared for the next {} authority: {place} holds none of type {key_type} after generation \
         {generation} that can be used{}; run with an administrator's credentials: mintmark key create \
         --authority {} --count 3", kind.name(), refused_keys(refused), kind.key_part()
    )]
    NoPreparedKey {
        /// Which authority needs it.
        kind: AuthorityKind,
        /// The kind of key that is configured.
        key_type: KeyType,
        /// The last generation that an authority has taken.
        generation: u64,
        /// The key store.
        place: String,
        /// The keys that would be next and are not as they must be.
        refused: Vec<KeyError>,
    },
    /// The key is needed.
    #[error("key {key} cannot be retired: {reason}")]
    KeyInUse {
        /// The key.
        key: KeyName,
        /// What for, and what to do.
        reason: String,
    },
    /// The state directory is another trust domain's.
    #[error(
        "the state store belongs to trust domain {found}, not to {expected}; set [trust_domain] name back, \
         or start {expected} with a state directory of its own"
    )]
    OtherTrustDomain {
        /// The trust domain of the configuration.
        expected: TrustDomain,
        /// The trust domain of the store.
        found: String,
    },
    /// A record of the state store cannot be read.
    #[error("{what} in the state store cannot be read: {reason}")]
    Record {
        /// Which record.
        what: String,
        /// Why.
        reason: String,
    },
    /// An authority would sign what nobody can verify.
    #[error("{0} authority {1} is not in the bundle; restore a backup of the state store")]
    NotInBundle(&'static str, String),
    /// Others kept changing the same record.
    #[error(
        "the {0} record of the state store is being changed by other processes; start again when they are done"
    )]
    Contended(&'static str),
}

/// Finds the authorities of the trust domain, or makes them.
///
/// Each key that is found or made has signed a probe that verified, so a device that signs wrongly is
/// caught here. An authority that has ended is followed by a new one. Each signature that this takes has
/// `urgency`.
pub async fn establish(
    settings: &AuthoritySettings,
    store: &dyn StateStore,
    keys: &dyn KeyStore,
    serials: &dyn SerialSource,
    now: Timestamp,
    urgency: Urgency,
) -> Result<Authorities, AuthorityError> {
    // Before a key is made that could never be used.
    let tokens_by = settings.jwt_key_type.signature_algorithm();
    tokens_by.jws().ok_or(TokenError::Algorithm(tokens_by))?;
    let stock = Stock::read(settings, store, keys).await?;
    let founder = Founder { settings, store, keys, serials, now, urgency, stock };
    founder.bundle().await?;
    let x509 = founder.authority(AuthorityKind::X509).await?;
    let jwt = founder.authority(AuthorityKind::Jwt).await?;
    let bundle = founder.bundle_with_hint().await?;

    let certificate = x509.certificate.ok_or_else(|| AuthorityError::Record {
        what: format!("X.509 authority {}", x509.id),
        reason: "it has no certificate".to_owned(),
    })?;
    // What they sign would verify nowhere.
    let mut roots = bundle.x509_authorities.iter();
    if !roots.any(|root| root.certificate == certificate) {
        return Err(AuthorityError::NotInBundle(AuthorityKind::X509.name(), x509.id));
    }
    if bundle.jwt_authorities.iter().all(|known| known.kid != jwt.id) {
        return Err(AuthorityError::NotInBundle(AuthorityKind::Jwt.name(), jwt.id));
    }
    let trust_domain = settings.trust_domain.clone();
    let (chain, algorithm) = (Vec::new(), founder.algorithm(&*x509.key));
    let issuer =
        Issuer::new(trust_domain, certificate, chain, x509.key, algorithm, settings.lifetimes)?;
    let algorithm = founder.algorithm(&*jwt.key);
    let tokens =
        TokenIssuer::new(jwt.key, algorithm, &jwt.id, jwt.not_after, settings.tokens.clone())?;
    Ok(Authorities {
        x509: Arc::new(issuer),
        jwt: Arc::new(tokens),
        bundle: Arc::new(bundle),
        x509_key: x509.key_name,
        jwt_key: jwt.key_name,
        prepared: prepared_keys(settings, store, keys).await?,
    })
}

/// The two kinds of authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthorityKind {
    /// Signs X.509-SVIDs.
    X509,
    /// Signs JWT-SVIDs.
    Jwt,
}

impl AuthorityKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::X509, Self::Jwt];

    /// The name for people: `X.509` or `JWT`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        }
    }

    /// The third part of the names of its keys: `x509` or `jwt`.
    #[must_use]
    pub fn key_part(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }

    fn slot(self) -> Key {
        let slot = match self {
            Self::X509 => Slot::X509,
            Self::Jwt => Slot::Jwt,
        };
        key::slot(TrustDomainNumber::OWN, slot)
    }
}

/// An authority whose key has proved itself.
struct Found {
    id: String,
    key: Arc<dyn SigningKey>,
    key_name: KeyName,
    certificate: Option<CaCertificate>,
    not_after: Timestamp,
}

/// One start.
struct Founder<'a> {
    settings: &'a AuthoritySettings,
    store: &'a dyn StateStore,
    keys: &'a dyn KeyStore,
    serials: &'a dyn SerialSource,
    now: Timestamp,
    urgency: Urgency,
    stock: Stock<'a>,
}

impl Founder<'_> {
    /// Goes through the steps of the module's description until there is an active authority.
    async fn authority(&self, kind: AuthorityKind) -> Result<Found, AuthorityError> {
        for _ in 0..ROUNDS {
            match self.read::<SlotRecord>(kind.slot()).await? {
                None => self.announce(kind, None).await?,
                Some((slot, version)) => match (&slot.pending, &slot.active) {
                    (Some(pending), _) => self.make(kind, &slot, pending, version).await?,
                    (None, Some(id)) => {
                        let record = self.record(kind, id).await?;
                        // The key of an ended authority may be gone: nobody needs it any more.
                        if self.now < Timestamp::from_unix(record.not_after) {
                            return self.load(kind, id, &record).await;
                        }
                        self.announce(kind, Some((slot, version))).await?;
                    }
                    (None, None) => self.announce(kind, Some((slot, version))).await?,
                },
            }
        }
        Err(AuthorityError::Contended(kind.key_part()))
    }

    /// Step 1: names the key to come, with a generation that neither record nor key store has used.
    async fn announce(
        &self,
        kind: AuthorityKind,
        current: Option<(SlotRecord, Version)>,
    ) -> Result<(), AuthorityError> {
        let (check, recorded, active) = match current {
            Some((slot, version)) => {
                (Check::At(kind.slot(), version), slot.generation, slot.active)
            }
            None => (Check::Absent(kind.slot()), 0, None),
        };
        let (generation, name) = match self.settings.key_creation {
            KeyCreation::Auto => self.free_generation(kind, recorded).await?,
            KeyCreation::Never => self.next_prepared(kind, recorded).await?,
        };
        // Whoever retires a key checks the slots in turn: one of the two comes too late.
        let checks = vec![check, Check::Absent(retirement_key(&name)?)];
        let pending = Some(name.to_string());
        let slot = SlotRecord { generation, active, pending };
        self.commit(checks, vec![put(kind.slot(), &slot)]).await?;
        Ok(())
    }

    /// Steps 2 and 3. The key that is made is of the kind that is configured now: if the last start failed
    /// because the key store cannot make another kind, a corrected setting is all that it takes.
    async fn make(
        &self,
        kind: AuthorityKind,
        slot: &SlotRecord,
        pending: &str,
        version: Version,
    ) -> Result<(), AuthorityError> {
        let name = parse_key_name(pending)?;
        let key = match self.keys.find(&name).await {
            // Not every key store makes a pair in one step. What a start that was cut short has left of it
            // never signed anything: the next generation takes its place.
            Err(KeyError::Incomplete { .. }) => {
                return self.announce(kind, Some((slot.clone(), version))).await;
            }
            found => found?,
        };
        let key = match (key, self.settings.key_creation) {
            (Some(key), _) => key,
            // Announced by a start that still made keys, or deleted since.
            (None, KeyCreation::Never) => {
                return self.announce(kind, Some((slot.clone(), version))).await;
            }
            (None, KeyCreation::Auto) => {
                match self.keys.create(&name, self.settings.key_type(kind)).await {
                    // Another process was faster by a moment: the next round finds its key.
                    Err(KeyError::Exists(_)) => return Ok(()),
                    created => created?,
                }
            }
        };
        self.probe(&name, &*key).await?;
        let not_after = self.now.plus(self.settings.ca_ttl);
        let (mut bundle, bundle_check) = self.bundle().await?;
        let (id, certificate) = match kind {
            AuthorityKind::X509 => {
                let certificate = self.certify(&*key, not_after).await?;
                bundle.add_x509(certificate.clone());
                (certificate.key_id().to_string(), Some(certificate))
            }
            AuthorityKind::Jwt => {
                let kid = thumbprint(key.public_key());
                bundle.add_jwt(&kid, key.public_key().clone(), not_after);
                (kid, None)
            }
        };
        bundle.prune(self.now);
        let authority = AuthorityRecord {
            state: "active".to_owned(),
            key: name.to_string(),
            certificate: certificate.map(|certificate| record::text(certificate.der())),
            public_key: record::text(key.public_key().spki()),
            created_at: self.now.unix(),
            not_after: not_after.unix(),
        };
        let next =
            SlotRecord { generation: slot.generation, active: Some(id.clone()), pending: None };
        let mut ops = vec![
            put(authority_key(&id)?, &authority),
            put(kind.slot(), &next),
            put(bundle_key(), &BundleRecord::of(&bundle)),
        ];
        if let Some(old) = &slot.active {
            let key = authority_key(old)?;
            if let Some((mut ended, _)) = self.read::<AuthorityRecord>(key.clone()).await? {
                ended.state = "old".to_owned();
                ops.push(put(key, &ended));
            }
        }
        self.commit(vec![Check::At(kind.slot(), version), bundle_check], ops).await?;
        Ok(())
    }

    async fn record(
        &self,
        kind: AuthorityKind,
        id: &str,
    ) -> Result<AuthorityRecord, AuthorityError> {
        let record = self.read::<AuthorityRecord>(authority_key(id)?).await?;
        record.map(|(record, _)| record).ok_or_else(|| AuthorityError::Record {
            what: format!("{} authority {id}", kind.name()),
            reason: "the slot names it, but it is not there".to_owned(),
        })
    }

    /// The active authority with its key, which must be the one of the record.
    async fn load(
        &self,
        kind: AuthorityKind,
        id: &str,
        record: &AuthorityRecord,
    ) -> Result<Found, AuthorityError> {
        let what = format!("{} authority {id}", kind.name());
        let corrupt = |reason: String| AuthorityError::Record { what: what.clone(), reason };
        let key_name = parse_key_name(&record.key)?;
        let place = || self.keys.description().place.clone();
        let key = self.keys.find(&key_name).await?.ok_or_else(|| AuthorityError::KeyMissing {
            key: key_name.clone(),
            kind: kind.name(),
            authority: id.to_owned(),
            place: place(),
        })?;
        let public_key = PublicKey::from_spki(&record::bytes(&record.public_key, &what)?)
            .map_err(|error| corrupt(error.to_string()))?;
        if *key.public_key() != public_key {
            return Err(AuthorityError::KeyChanged {
                key: key_name,
                kind: kind.name(),
                authority: id.to_owned(),
                place: place(),
            });
        }
        self.probe(&key_name, &*key).await?;
        let certificate = match &record.certificate {
            Some(text) => {
                let der = record::bytes(text, &what)?;
                Some(CaCertificate::from_der(&der).map_err(|error| corrupt(error.to_string()))?)
            }
            None => None,
        };
        let not_after = Timestamp::from_unix(record.not_after);
        Ok(Found { id: id.to_owned(), key, key_name, certificate, not_after })
    }

    async fn certify(
        &self,
        key: &dyn SigningKey,
        not_after: Timestamp,
    ) -> Result<CaCertificate, AuthorityError> {
        let serial = self.serials.next()?;
        let subject = self.settings.ca_subject.name(&serial)?;
        let not_before = self.now.minus(self.settings.lifetimes.backdate);
        let trust_domain = &self.settings.trust_domain;
        let (algorithm, validity) = (self.algorithm(key), (not_before, not_after));
        let signed = issuer::self_sign(
            trust_domain,
            &subject,
            key,
            algorithm,
            serial,
            validity,
            self.urgency,
        );
        Ok(signed.await?)
    }

    async fn probe(&self, name: &KeyName, key: &dyn SigningKey) -> Result<(), AuthorityError> {
        let mut nonce = [0; 32];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SerialError)?;
        let probe = ToBeSigned::probe(nonce, self.algorithm(key));
        let signature = key.sign(probe.clone(), self.urgency).await?;
        if key.public_key().verifies(probe.message(), &signature) {
            Ok(())
        } else {
            Err(AuthorityError::Probe(name.clone()))
        }
    }

    /// The first generation after `recorded` whose key name is free. A good key that has a name is one of a
    /// lost state directory, and stays as it is; one that cannot be used is for a person to look at, before
    /// anything is signed in its place.
    async fn free_generation(
        &self,
        kind: AuthorityKind,
        recorded: u64,
    ) -> Result<(u64, KeyName), AuthorityError> {
        for generation in recorded + 1..=recorded + GENERATIONS {
            let name = self.key_name(kind, generation)?;
            if self.stock.is_retired(&name).await? {
                continue;
            }
            match self.keys.find(&name).await {
                Ok(None) => return Ok((generation, name)),
                Ok(Some(_)) | Err(KeyError::Incomplete { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Exists(self.key_name(kind, recorded + GENERATIONS)?).into())
    }

    /// The first prepared key after `recorded`.
    async fn next_prepared(
        &self,
        kind: AuthorityKind,
        recorded: u64,
    ) -> Result<(u64, KeyName), AuthorityError> {
        let (usable, refused) = self.stock.after(kind, recorded).await?;
        usable.into_iter().next().ok_or_else(|| AuthorityError::NoPreparedKey {
            kind,
            key_type: self.settings.key_type(kind),
            generation: recorded,
            place: self.keys.description().place.clone(),
            refused,
        })
    }

    fn key_name(&self, kind: AuthorityKind, generation: u64) -> Result<KeyName, AuthorityError> {
        let trust_domain = &self.settings.trust_domain;
        parse_key_name(&format!("mintmark/{trust_domain}/{}/{generation}", kind.key_part()))
    }

    /// How a key signs: certificates and tokens name it.
    fn algorithm(&self, key: &dyn SigningKey) -> SignatureAlgorithm {
        self.settings.rsa_scheme.algorithm(key.public_key().kind())
    }

    /// The stored bundle, or an empty one, and the check that it has not changed since.
    async fn bundle(&self) -> Result<(Bundle, Check), AuthorityError> {
        let trust_domain = &self.settings.trust_domain;
        Ok(match self.read::<BundleRecord>(bundle_key()).await? {
            Some((record, version)) => {
                (record.into_bundle(trust_domain)?, Check::At(bundle_key(), version))
            }
            None => (
                Bundle::empty(trust_domain.clone(), self.settings.refresh_hint),
                Check::Absent(bundle_key()),
            ),
        })
    }

    /// The stored bundle with the configured refresh hint, stored anew if that is a change.
    async fn bundle_with_hint(&self) -> Result<Bundle, AuthorityError> {
        for _ in 0..ROUNDS {
            let (mut bundle, check) = self.bundle().await?;
            let stored = bundle.sequence;
            bundle.set_refresh_hint(self.settings.refresh_hint);
            if bundle.sequence == stored {
                return Ok(bundle);
            }
            let op = put(bundle_key(), &BundleRecord::of(&bundle));
            if self.commit(vec![check], vec![op]).await? {
                return Ok(bundle);
            }
        }
        Err(AuthorityError::Contended("bundle"))
    }

    async fn read<T: DeserializeOwned>(
        &self,
        key: Key,
    ) -> Result<Option<(T, Version)>, AuthorityError> {
        read(self.store, key).await
    }

    /// Commits, or answers `false` if another process was faster.
    async fn commit(&self, checks: Vec<Check>, ops: Vec<Op>) -> Result<bool, AuthorityError> {
        let commit = Commit::new(checks, ops)?;
        let outcome = self.store.commit(commit).await?;
        Ok(matches!(outcome, CommitOutcome::Done(_)))
    }
}

/// Why the keys that would be next are not taken, for the end of a sentence.
fn refused_keys(refused: &[KeyError]) -> String {
    refused.iter().map(|error| format!(" ({error})")).collect()
}

async fn read<T: DeserializeOwned>(
    store: &dyn StateStore,
    key: Key,
) -> Result<Option<(T, Version)>, AuthorityError> {
    let snapshot = store.get(&[key], Consistency::Strong).await?;
    match snapshot.entries.into_iter().flatten().next() {
        Some(entry) => Ok(Some((envelope::decode(FORMAT, &entry)?, entry.version))),
        None => Ok(None),
    }
}

fn put(key: Key, record: &impl Serialize) -> Op {
    Op::Put(key, envelope::encode(FORMAT, record))
}

fn bundle_key() -> Key {
    key::bundle_head(TrustDomainNumber::OWN)
}

fn authority_key(id: &str) -> Result<Key, AuthorityError> {
    key::authority(TrustDomainNumber::OWN, id).map_err(|limit| StoreError::from(limit).into())
}

fn retirement_key(name: &KeyName) -> Result<Key, AuthorityError> {
    let key = key::retirement(TrustDomainNumber::OWN, name.as_str());
    key.map_err(|limit| StoreError::from(limit).into())
}

fn parse_key_name(text: &str) -> Result<KeyName, AuthorityError> {
    KeyName::parse(text).map_err(|error| AuthorityError::Record {
        what: "key name".to_owned(),
        reason: error.to_string(),
    })
}

impl CaSubject {
    /// The name, with the serial number as its last attribute.
    pub(crate) fn name(&self, serial: &Serial) -> Result<Name, NameError> {
        let number = serial.to_string();
        let countries = self.country.iter().map(|value| (Attribute::Country, value.as_str()));
        let organizations =
            self.organization.iter().map(|value| (Attribute::Organization, value.as_str()));
        let common_name =
            self.common_name.iter().map(|value| (Attribute::CommonName, value.as_str()));
        let attributes: Vec<_> = countries
            .chain(organizations)
            .chain(common_name)
            .chain([(Attribute::SerialNumber, number.as_str())])
            .collect();
        Name::from_attributes(&attributes)
    }
}
