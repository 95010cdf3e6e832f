//! What a front end may ask for.

use std::time::Duration;

use thiserror::Error;

use super::{DnsScope, PathScope, Rates};
use crate::dns::DnsName;
use crate::id::WorkloadId;
use crate::key::{KeyKind, KeyType};

/// What a front end may do beside asking for what entries allow. All off unless somebody has said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grants {
    /// Naming the IDs that it asks for itself.
    pub named: bool,
    /// Asking for CA certificates of downstream servers, which can issue any ID of the trust domain.
    pub downstream: bool,
    /// Publishing JWT authorities.
    pub publish: bool,
    /// The calls of the admin socket.
    pub admin: bool,
}

impl Grants {
    /// The names of those that are on, as the command line has them.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let Self { named, downstream, publish, admin } = self;
        let all =
            [(named, "named"), (downstream, "downstream"), (publish, "publish"), (admin, "admin")];
        all.into_iter().filter_map(|(on, name)| on.then_some(name)).collect()
    }
}

/// Which keys of workloads are certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyKinds {
    ec_p256: bool,
    ec_p384: bool,
    ed25519: bool,
    /// The fewest bits of an RSA key, if one may have one.
    rsa_from: Option<u16>,
}

/// Every kind that is certified at all.
impl Default for KeyKinds {
    fn default() -> Self {
        Self { ec_p256: true, ec_p384: true, ed25519: true, rsa_from: Some(2048) }
    }
}

impl KeyKinds {
    /// These kinds. Of RSA, keys of that size and larger ones.
    ///
    /// # Errors
    /// [`TermsError::KeyType`] for kinds of which nobody is certified; [`TermsError::NoKeyType`] for none.
    pub fn of(types: &[KeyType]) -> Result<Self, TermsError> {
        if types.is_empty() {
            return Err(TermsError::NoKeyType);
        }
        let mut kinds = Self { ec_p256: false, ec_p384: false, ed25519: false, rsa_from: None };
        for &key_type in types {
            match key_type.kind() {
                KeyKind::EcP256 => kinds.ec_p256 = true,
                KeyKind::EcP384 => kinds.ec_p384 = true,
                KeyKind::Ed25519 => kinds.ed25519 = true,
                KeyKind::Rsa { bits } => {
                    kinds.rsa_from = Some(kinds.rsa_from.map_or(bits, |least| least.min(bits)));
                }
                // Peers of workloads do not verify with them yet.
                KeyKind::MlDsa44 | KeyKind::MlDsa65 => return Err(TermsError::KeyType(key_type)),
            }
        }
        Ok(kinds)
    }

    /// Whether a key of that kind is one.
    #[must_use]
    pub fn allow(&self, kind: KeyKind) -> bool {
        match kind {
            KeyKind::EcP256 => self.ec_p256,
            KeyKind::EcP384 => self.ec_p384,
            KeyKind::Ed25519 => self.ed25519,
            KeyKind::Rsa { bits } => self.rsa_from.is_some_and(|least| bits >= least),
            KeyKind::MlDsa44 | KeyKind::MlDsa65 => false,
        }
    }

    /// Their names; an RSA size is the smallest.
    #[must_use]
    pub fn types(&self) -> Vec<KeyType> {
        let rsa = KeyType::ALL.into_iter().find(
            |key_type| matches!(key_type.kind(), KeyKind::Rsa { bits } if Some(bits) == self.rsa_from),
        );
        let others = [
            (self.ec_p256, KeyType::EcP256),
            (self.ec_p384, KeyType::EcP384),
            (self.ed25519, KeyType::Ed25519),
        ];
        let others = others.into_iter().filter_map(|(on, key_type)| on.then_some(key_type));
        others.chain(rsa).collect()
    }
}

/// Terms as somebody wants them; [`Terms::new`] looks whether they can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The paths of the IDs that it may ask for; at least one, at most [`Terms::MOST_PATHS`].
    pub path_scopes: Vec<PathScope>,
    /// The DNS names that it may ask for in certificates of IDs that it names; at most [`Terms::MOST_DNS`].
    pub dns_scopes: Vec<DnsScope>,
    /// What it may do beside.
    pub grants: Grants,
    /// Whether each key comes with a CSR that this process verifies. Without it the front end's word is believed
    /// that whoever gets the SVID has the key.
    pub require_csr: bool,
    /// The longest life of what it asks for.
    pub max_ttl: Duration,
    /// The keys that it may ask for.
    pub key_kinds: KeyKinds,
    /// How much it may ask for.
    pub rates: Rates,
}

/// Nothing: no path, no grant.
impl Default for Wanted {
    fn default() -> Self {
        Self {
            path_scopes: Vec::new(),
            dns_scopes: Vec::new(),
            grants: Grants::default(),
            require_csr: false,
            max_ttl: Terms::USUAL_MAX_TTL,
            key_kinds: KeyKinds::default(),
            rates: Rates::default(),
        }
    }
}

/// The terms on which a front end is served. Scopes are sorted, each there once, so that the same terms are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms(Wanted);

impl Terms {
    /// Most path scopes.
    pub const MOST_PATHS: usize = 32;
    /// Most DNS scopes.
    pub const MOST_DNS: usize = 64;
    /// The longest life, if nobody says otherwise.
    pub const USUAL_MAX_TTL: Duration = Duration::from_secs(86_400);

    /// Terms that can be kept, and that mean what they say.
    ///
    /// # Errors
    /// [`TermsError`].
    pub fn new(mut wanted: Wanted) -> Result<Self, TermsError> {
        wanted.path_scopes.sort();
        wanted.path_scopes.dedup();
        wanted.dns_scopes.sort();
        wanted.dns_scopes.dedup();
        match (wanted.path_scopes.len(), wanted.dns_scopes.len()) {
            (0, _) => return Err(TermsError::NoPath),
            (paths, _) if paths > Self::MOST_PATHS => return Err(TermsError::Paths(paths)),
            (_, names) if names > Self::MOST_DNS => return Err(TermsError::Dns(names)),
            _ => {}
        }
        if wanted.max_ttl < Duration::from_secs(1)
            || i32::try_from(wanted.max_ttl.as_secs()).is_err()
        {
            return Err(TermsError::MaxTtl);
        }
        let everything = wanted.path_scopes.iter().any(PathScope::is_everything);
        if wanted.grants.downstream && !everything {
            return Err(TermsError::Downstream);
        }
        Ok(Self(wanted))
    }

    /// The paths of the IDs that it may ask for.
    #[must_use]
    pub fn path_scopes(&self) -> &[PathScope] {
        &self.0.path_scopes
    }

    /// The DNS names that it may ask for.
    #[must_use]
    pub fn dns_scopes(&self) -> &[DnsScope] {
        &self.0.dns_scopes
    }

    /// What it may do beside.
    #[must_use]
    pub fn grants(&self) -> Grants {
        self.0.grants
    }

    /// Whether each key comes with a CSR that this process verifies.
    #[must_use]
    pub fn require_csr(&self) -> bool {
        self.0.require_csr
    }

    /// The longest life of what it asks for.
    #[must_use]
    pub fn max_ttl(&self) -> Duration {
        self.0.max_ttl
    }

    /// The keys that it may ask for.
    #[must_use]
    pub fn key_kinds(&self) -> &KeyKinds {
        &self.0.key_kinds
    }

    /// How much it may ask for.
    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.0.rates
    }

    /// Whether an ID is within one of its paths.
    #[must_use]
    pub fn cover_id(&self, id: &WorkloadId) -> bool {
        self.0.path_scopes.iter().any(|scope| scope.covers(id))
    }

    /// Whether a DNS name is within one of its scopes.
    #[must_use]
    pub fn cover_dns(&self, name: &DnsName) -> bool {
        self.0.dns_scopes.iter().any(|scope| scope.covers(name))
    }

    /// In what the two differ, by the names of the command line's options.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Wanted { path_scopes, dns_scopes, grants, require_csr, max_ttl, key_kinds, rates } =
            &self.0;
        let other = &other.0;
        let all = [
            ("path-scope", *path_scopes != other.path_scopes),
            ("dns-scope", *dns_scopes != other.dns_scopes),
            ("allow-named", grants.named != other.grants.named),
            ("allow-downstream", grants.downstream != other.grants.downstream),
            ("allow-publish", grants.publish != other.grants.publish),
            ("allow-admin", grants.admin != other.grants.admin),
            ("require-csr", *require_csr != other.require_csr),
            ("max-ttl", *max_ttl != other.max_ttl),
            ("allow-key", *key_kinds != other.key_kinds),
            ("budget", rates.total != other.rates.total),
            ("class-budget", rates.classes != other.rates.classes),
        ];
        all.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }
}

/// Why terms cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TermsError {
    /// No path scope.
    #[error("a front end needs a path scope; name the paths it may ask for, or / for all")]
    NoPath,
    /// Too many path scopes.
    #[error(
        "a front end has at most {most} path scopes, not {0}; name a path above them",
        most = Terms::MOST_PATHS
    )]
    Paths(usize),
    /// Too many DNS scopes.
    #[error(
        "a front end has at most {most} DNS scopes, not {0}; name a domain above them",
        most = Terms::MOST_DNS
    )]
    Dns(usize),
    /// No life, or one longer than the wire can carry.
    #[error("the longest life of what a front end asks for is from 1 second to 68 years")]
    MaxTtl,
    /// A kind of key that is not certified.
    #[error("keys of type {0} are not certified; use ec-p256, ec-p384, ed25519 or an RSA key")]
    KeyType(KeyType),
    /// No kind of key.
    #[error("a front end needs a type of key that it may ask for; leave the list out for all")]
    NoKeyType,
    /// A CA can issue every ID, whatever its front end's paths are.
    #[error(
        "a downstream CA can issue any ID, so a front end that may ask for one needs the path scope /; give it \
         that, or leave the grant out"
    )]
    Downstream,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scoped(paths: &[&str]) -> Wanted {
        let path_scopes = paths.iter().map(|path| PathScope::parse(path).unwrap()).collect();
        Wanted { path_scopes, ..Wanted::default() }
    }

    #[test]
    fn everything_is_off_until_it_is_granted() {
        let terms = Terms::new(scoped(&["/ns"])).unwrap();
        assert_eq!(
            terms.grants(),
            Grants { named: false, downstream: false, publish: false, admin: false }
        );
        assert!(terms.grants().names().is_empty() && terms.dns_scopes().is_empty());
    }

    #[test]
    fn the_same_terms_are_equal_in_whatever_order_they_are_named() {
        let (one, other) =
            (Terms::new(scoped(&["/b", "/a", "/b"])), Terms::new(scoped(&["/a", "/b"])));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one, other);
        assert!(one.differences(&other).is_empty());
    }

    #[test]
    fn a_difference_is_named_as_the_option_that_makes_it() {
        let before = Terms::new(scoped(&["/"])).unwrap();
        let grants = Grants { named: true, downstream: true, publish: true, admin: true };
        let rate = Some("1".parse().unwrap());
        let after = Terms::new(Wanted {
            path_scopes: vec![PathScope::parse("/").unwrap(), PathScope::parse("/a").unwrap()],
            dns_scopes: vec![DnsScope::parse("a.test").unwrap()],
            grants,
            require_csr: true,
            max_ttl: Duration::from_secs(1),
            key_kinds: KeyKinds::of(&[KeyType::EcP256]).unwrap(),
            rates: Rates { total: rate, classes: [rate; 4] },
        });
        let all = [
            "path-scope",
            "dns-scope",
            "allow-named",
            "allow-downstream",
            "allow-publish",
            "allow-admin",
            "require-csr",
            "max-ttl",
            "allow-key",
            "budget",
            "class-budget",
        ];
        assert_eq!(before.differences(&after.unwrap()), all);
    }

    #[test]
    fn terms_that_cannot_be_kept_or_do_not_mean_what_they_say_are_refused() {
        let refused = |wanted| Terms::new(wanted).unwrap_err();
        assert_eq!(refused(scoped(&[])), TermsError::NoPath);
        let many: Vec<String> = (0..33).map(|number| format!("/{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(refused(scoped(&many)), TermsError::Paths(33));
        let names = (0..65).map(|number| DnsScope::parse(&format!("{number}.test")).unwrap());
        assert_eq!(
            refused(Wanted { dns_scopes: names.collect(), ..scoped(&["/a"]) }),
            TermsError::Dns(65)
        );
        for seconds in [0, 1 << 31] {
            let wanted = Wanted { max_ttl: Duration::from_secs(seconds), ..scoped(&["/a"]) };
            assert_eq!(refused(wanted), TermsError::MaxTtl);
        }
        let grants = Grants { downstream: true, ..Grants::default() };
        assert_eq!(refused(Wanted { grants, ..scoped(&["/a"]) }), TermsError::Downstream);
        assert!(Terms::new(Wanted { grants, ..scoped(&["/a", "/"]) }).is_ok());
    }

    #[test]
    fn an_rsa_size_stands_for_larger_ones_too() {
        let kinds = KeyKinds::of(&[KeyType::Rsa4096, KeyType::Rsa3072, KeyType::EcP256]).unwrap();
        assert_eq!(kinds.types(), [KeyType::EcP256, KeyType::Rsa3072]);
        for (bits, allowed) in [(2048, false), (3071, false), (3072, true), (4096, true)] {
            assert_eq!(kinds.allow(KeyKind::Rsa { bits }), allowed, "{bits}");
        }
        assert!(kinds.allow(KeyKind::EcP256) && !kinds.allow(KeyKind::EcP384));
        assert!(!kinds.allow(KeyKind::Ed25519) && !KeyKinds::default().allow(KeyKind::MlDsa44));
        assert_eq!(KeyKinds::of(&KeyKinds::default().types()), Ok(KeyKinds::default()));
        let ml_dsa = KeyKinds::of(&[KeyType::MlDsa65]);
        assert_eq!(ml_dsa, Err(TermsError::KeyType(KeyType::MlDsa65)));
        assert_eq!(KeyKinds::of(&[]), Err(TermsError::NoKeyType));
    }
}
