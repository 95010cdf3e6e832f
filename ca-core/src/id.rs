//! SPIFFE IDs and trust domains by the strict grammar of SPIFFE-ID §2.
//!
//! One policy for the whole code base: what the grammar does not allow is refused, never folded. The
//! specification calls scheme and trust domain case-insensitive and asks issuers for lower case; an id
//! in upper case is refused, so that equal ids are equal bytes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use thiserror::Error;

use crate::excerpt::Excerpt;

/// Longest SPIFFE ID in bytes, scheme included (SPIFFE-ID §2.3).
pub const LONGEST_ID: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE-ID §2.3).
pub const LONGEST_TRUST_DOMAIN: usize = 255;

const SCHEME: &str = "spiffe://";
/// First path segments that name the servers' own identities; no workload may have them.
const RESERVED: [&str; 2] = ["spire", "mintmark"];

/// A well-formed SPIFFE ID. Says nothing about who may hold it.
///
/// Holds one shared text: cloning, comparing and hashing allocate nothing.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the trust domain ends and the path starts.
    path: usize,
}

impl SpiffeId {
    /// Reads an id, with or without a path.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let path = check(text).map_err(|fault| IdError::malformed(text, fault))?;
        Ok(Self { text: text.into(), path })
    }

    /// The id of `path` (empty, or starting with a slash) in `trust_domain`, as messages carry it in
    /// two fields. Each part is checked on its own: a slash in the trust domain is no path.
    pub fn from_parts(trust_domain: &str, path: &str) -> Result<Self, IdError> {
        check_trust_domain(trust_domain)
            .map_err(|fault| IdError::malformed(trust_domain, fault))?;
        check_path(path).map_err(|fault| IdError::malformed(path, fault))?;
        let length = SCHEME.len() + trust_domain.len() + path.len();
        if length > LONGEST_ID {
            return Err(IdError::malformed(path, IdFault::TooLong(length)));
        }
        let text = [SCHEME, trust_domain, path].concat();
        Ok(Self { text: text.into(), path: SCHEME.len() + trust_domain.len() })
    }

    /// The whole id, `spiffe://…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of its trust domain, without the scheme.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }

    /// The path with its leading slash; empty if this is the id of a trust domain.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// Whether the id lies in `trust_domain`.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.name()
    }
}

/// The name of a trust domain, and with it its id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(SpiffeId);

impl TrustDomain {
    /// Reads a name such as `example.org`, without scheme or path. Any name of the grammar is taken:
    /// one that looks like an address or is no DNS name gets no special treatment (SPIFFE-ID §2.1).
    pub fn parse(name: &str) -> Result<Self, IdError> {
        SpiffeId::from_parts(name, "").map(Self)
    }

    /// The name, without the scheme.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.trust_domain_name()
    }

    /// The id of the trust domain itself: `spiffe://` and the name, no path and no slash.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        self.0.clone()
    }
}

/// An id that a workload may have: in our trust domain, with a path, and not reserved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId(SpiffeId);

impl WorkloadId {
    /// Checks `id` against the trust domain that we speak for (SPIFFE-ID §2, X509-SVID §2). `/spire`
    /// and `/mintmark`, and everything below them, are the servers' own.
    pub fn new(id: SpiffeId, trust_domain: &TrustDomain) -> Result<Self, IdError> {
        if !id.is_member_of(trust_domain) {
            return Err(IdError::ForeignTrustDomain {
                id: Excerpt::of(id.as_str()),
                found: Excerpt::of(id.trust_domain_name()),
                expected: trust_domain.name().to_owned(),
            });
        }
        let Some(path) = id.path().strip_prefix('/') else {
            return Err(IdError::NoPath(Excerpt::of(id.as_str())));
        };
        let first = path.split('/').next().expect("split yields one part at least");
        if let Some(reserved) = RESERVED.into_iter().find(|&name| name == first) {
            return Err(IdError::Reserved { id: Excerpt::of(id.as_str()), reserved });
        }
        Ok(Self(id))
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0
    }

    /// The id, given up.
    #[must_use]
    pub fn into_id(self) -> SpiffeId {
        self.0
    }
}

/// Why a text is no SPIFFE ID or trust domain, or an id may not be a workload's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// The text breaks the grammar.
    #[error("{text} is not a SPIFFE ID or a part of one: {fault}")]
    Malformed {
        /// The id, or the part of it, that was read.
        text: Excerpt,
        /// The broken rule.
        fault: IdFault,
    },
    /// The id is another trust domain's.
    #[error("{id} is in trust domain {found}; this server speaks for {expected:?} only")]
    ForeignTrustDomain {
        /// The id.
        id: Excerpt,
        /// The trust domain that it names.
        found: Excerpt,
        /// The trust domain of this server.
        expected: String,
    },
    /// The id is a trust domain's own (X509-SVID §2: a leaf has a path).
    #[error("{0} has no path; a workload's SPIFFE ID needs one")]
    NoPath(Excerpt),
    /// The path belongs to the servers.
    #[error("{id} is reserved: paths under /{reserved} name servers and agents; choose another")]
    Reserved {
        /// The id.
        id: Excerpt,
        /// The reserved first segment.
        reserved: &'static str,
    },
}

impl IdError {
    fn malformed(text: &str, fault: IdFault) -> Self {
        Self::Malformed { text: Excerpt::of(text), fault }
    }
}

/// The rule of the grammar that a text breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdFault {
    /// Longer than 2048 bytes in all.
    #[error("it has {0} bytes; at most 2048 are allowed")]
    TooLong(usize),
    /// Not `spiffe://`.
    #[error("it must start with spiffe://")]
    Scheme,
    /// `SPIFFE://` in some other case.
    #[error("the scheme must be lower case: spiffe://")]
    SchemeCase,
    /// `spiffe://` and no name.
    #[error("trust domain is missing")]
    NoTrustDomain,
    /// A name of more than 255 bytes.
    #[error("trust domain has {0} bytes; at most 255 are allowed")]
    TrustDomainTooLong(usize),
    /// An upper-case letter in the trust domain.
    #[error("trust domain must be lower case")]
    TrustDomainCase,
    /// Another character than `[a-z0-9._-]` in the trust domain.
    #[error("trust domain has the character {0:?}; only a-z, 0-9, '.', '-' and '_' are allowed")]
    TrustDomainCharacter(char),
    /// An `@`.
    #[error("user information ('@') is not allowed")]
    UserInfo,
    /// A `:`, with or without a number.
    #[error("a port (':') is not allowed")]
    Port,
    /// A `?`, even with nothing behind it.
    #[error("a query ('?') is not allowed")]
    Query,
    /// A `#`, even with nothing behind it.
    #[error("a fragment ('#') is not allowed")]
    Fragment,
    /// A `%`.
    #[error("percent-encoding is not allowed")]
    PercentEncoding,
    /// A path, given on its own, without its leading slash.
    #[error("path must start with a slash")]
    NoLeadingSlash,
    /// `/` at the end.
    #[error("path must not end with a slash")]
    TrailingSlash,
    /// `//` in the path.
    #[error("path has an empty segment")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("path has a segment '.' or '..'")]
    DotSegment,
    /// Another character than `[A-Za-z0-9._-]` in a segment.
    #[error("path has the character {0:?}; only letters, digits, '.', '-' and '_' are allowed")]
    PathCharacter(char),
}

/// Checks a whole id and says where its path starts.
fn check(text: &str) -> Result<usize, IdFault> {
    if text.len() > LONGEST_ID {
        return Err(IdFault::TooLong(text.len()));
    }
    let Some(rest) = text.strip_prefix(SCHEME) else {
        let head = text.as_bytes().get(..SCHEME.len());
        let folded = head.is_some_and(|head| head.eq_ignore_ascii_case(SCHEME.as_bytes()));
        return Err(if folded { IdFault::SchemeCase } else { IdFault::Scheme });
    };
    let end = rest.find('/').unwrap_or(rest.len());
    check_trust_domain(&rest[..end])?;
    check_path(&rest[end..])?;
    Ok(SCHEME.len() + end)
}

fn check_trust_domain(name: &str) -> Result<(), IdFault> {
    if name.is_empty() {
        return Err(IdFault::NoTrustDomain);
    }
    if name.len() > LONGEST_TRUST_DOMAIN {
        return Err(IdFault::TrustDomainTooLong(name.len()));
    }
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    match name.chars().find(|&c| !allowed(c)) {
        None => Ok(()),
        Some(_) if name.contains('@') => Err(IdFault::UserInfo),
        Some(':') => Err(IdFault::Port),
        Some('A'..='Z') => Err(IdFault::TrustDomainCase),
        Some(c) => Err(uri_fault(c).unwrap_or(IdFault::TrustDomainCharacter(c))),
    }
}

fn check_path(path: &str) -> Result<(), IdFault> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(IdFault::NoLeadingSlash)?;
    if path.ends_with('/') {
        return Err(IdFault::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), IdFault> {
    let allowed = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_');
    match segment {
        "" => Err(IdFault::EmptySegment),
        "." | ".." => Err(IdFault::DotSegment),
        _ => match segment.chars().find(|&c| !allowed(c)) {
            None => Ok(()),
            Some(c) => Err(uri_fault(c).unwrap_or(IdFault::PathCharacter(c))),
        },
    }
}

/// The characters that would give an id parts that other URIs have.
fn uri_fault(c: char) -> Option<IdFault> {
    match c {
        '?' => Some(IdFault::Query),
        '#' => Some(IdFault::Fragment),
        '%' => Some(IdFault::PercentEncoding),
        _ => None,
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Maps keyed by id can be asked with a text.
impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

/// The name alone.
impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.name())
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
