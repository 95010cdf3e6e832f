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
pub(crate) const RESERVED: [&str; 2] = ["spire", SERVICE];
/// The one that is this service's.
const SERVICE: &str = "mintmark";

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
        let path = check(text).map_err(|fault| IdError::malformed("a SPIFFE ID", text, fault))?;
        Ok(Self { text: text.into(), path })
    }

    /// The id of `path` (empty, or starting with a slash) in `trust_domain`, as messages carry it in
    /// two fields. Each part is checked on its own: a slash in the trust domain is no path.
    pub fn from_parts(trust_domain: &str, path: &str) -> Result<Self, IdError> {
        check_trust_domain(trust_domain)
            .map_err(|fault| IdError::malformed("a trust domain name", trust_domain, fault))?;
        let length = SCHEME.len() + trust_domain.len() + path.len();
        if length > LONGEST_ID {
            return Err(IdError::malformed("a SPIFFE ID", path, IdFault::TooLong(length)));
        }
        check_path(path).map_err(|fault| IdError::malformed("a SPIFFE ID path", path, fault))?;
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

    /// Whether the id is one of the service's own: `/mintmark`, or below it. Signers and front ends have such.
    #[must_use]
    pub fn is_of_service(&self) -> bool {
        self.path().split('/').nth(1) == Some(SERVICE)
    }
}

/// The name of a trust domain, and with it its id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(SpiffeId);

impl TrustDomain {
    /// Reads a name such as `example.org`, without scheme or path. Any name of the grammar is taken:
    /// one that looks like an address or is no DNS name gets no special treatment (SPIFFE-ID §2.1).
    pub fn parse(name: &str) -> Result<Self, IdError> {
        if name.starts_with(SCHEME) {
            return Err(IdError::malformed("a trust domain name", name, IdFault::WholeId));
        }
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

    /// The id that every signer of the trust domain shows to front ends, `…/mintmark/signer`.
    #[must_use]
    pub fn signer_id(&self) -> SpiffeId {
        SpiffeId::from_parts(self.name(), "/mintmark/signer")
            .expect("a name and a path of the grammar, far below 2,048 bytes")
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
    #[error("{text} is not {wanted}: {fault}")]
    Malformed {
        /// What was read: an id, or a part of one.
        text: Excerpt,
        /// What it should have been.
        wanted: &'static str,
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
    fn malformed(wanted: &'static str, text: &str, fault: IdFault) -> Self {
        Self::Malformed { text: Excerpt::of(text), wanted, fault }
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
    /// An id where the name of a trust domain is wanted.
    #[error("give the name alone, without spiffe:// and path")]
    WholeId,
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
    let end = rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len());
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
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    match first_beyond(name, allowed) {
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
    let allowed =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    match segment {
        "" => Err(IdFault::EmptySegment),
        "." | ".." => Err(IdFault::DotSegment),
        _ => match first_beyond(segment, allowed) {
            None => Ok(()),
            Some(c) => Err(uri_fault(c).unwrap_or(IdFault::PathCharacter(c))),
        },
    }
}

/// The first character that is not among the allowed ones, which are ASCII.
fn first_beyond(text: &str, allowed: impl Fn(u8) -> bool) -> Option<char> {
    let place = text.bytes().position(|byte| !allowed(byte))?;
    text[place..].chars().next()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(result: Result<SpiffeId, IdError>) -> IdFault {
        match result {
            Err(IdError::Malformed { fault, .. }) => fault,
            other => panic!("expected a malformed id, got {other:?}"),
        }
    }

    /// SPIFFE-ID §2, rule by rule.
    #[test]
    fn what_the_grammar_does_not_allow_is_refused_by_name() {
        use IdFault::*;
        for (text, expected) in [
            // scheme and authority
            ("http://td/a", Scheme),
            ("spiffe:td/a", Scheme),
            ("spiffe:/td/a", Scheme),
            ("//td/a", Scheme),
            ("", Scheme),
            (" spiffe://td/a", Scheme),
            ("spiffe://td/a ", PathCharacter(' ')),
            ("spiffe://td ", TrustDomainCharacter(' ')),
            // query and fragment
            ("spiffe://td/a?", Query),
            ("spiffe://td/a?x=1", Query),
            ("spiffe://td?x=1", Query),
            ("spiffe://td/a#", Fragment),
            ("spiffe://td/a#f", Fragment),
            ("spiffe://td#f", Fragment),
            // trust domain present
            ("spiffe://", NoTrustDomain),
            ("spiffe:///a", NoTrustDomain),
            // user information and port
            ("spiffe://u@td/a", UserInfo),
            ("spiffe://u:p@td/a", UserInfo),
            ("spiffe://@td/a", UserInfo),
            ("spiffe://td:8080/a", Port),
            ("spiffe://td:/a", Port),
            // case
            ("spiffe://TD/a", TrustDomainCase),
            ("spiffe://tD/a", TrustDomainCase),
            ("SPIFFE://td/a", SchemeCase),
            ("Spiffe://td/a", SchemeCase),
            // characters of the trust domain
            ("spiffe://t$d/a", TrustDomainCharacter('$')),
            ("spiffe://t%64/a", PercentEncoding),
            ("spiffe://tdé/a", TrustDomainCharacter('é')),
            ("spiffe://t~d/a", TrustDomainCharacter('~')),
            ("spiffe://[::1]/a", TrustDomainCharacter('[')),
            ("spiffe://t\0d/a", TrustDomainCharacter('\0')),
            // percent-encoding in the path
            ("spiffe://td/%41", PercentEncoding),
            ("spiffe://td/a%2Fb", PercentEncoding),
            // segments
            ("spiffe://td//a", EmptySegment),
            ("spiffe://td/a//b", EmptySegment),
            ("spiffe://td/./a", DotSegment),
            ("spiffe://td/a/..", DotSegment),
            ("spiffe://td/..", DotSegment),
            // trailing slash
            ("spiffe://td/", TrailingSlash),
            ("spiffe://td/a/", TrailingSlash),
            // characters of the path
            ("spiffe://td/a!b", PathCharacter('!')),
            ("spiffe://td/a b", PathCharacter(' ')),
            ("spiffe://td/a:b", PathCharacter(':')),
            ("spiffe://td/é", PathCharacter('é')),
            ("spiffe://td/a~b", PathCharacter('~')),
            ("spiffe://td/a\\b", PathCharacter('\\')),
            ("spiffe://td/a\n", PathCharacter('\n')),
        ] {
            assert_eq!(fault(SpiffeId::parse(text)), expected, "{text:?}");
        }
    }

    #[test]
    fn what_the_grammar_allows_is_kept_byte_for_byte() {
        for (domain, path) in [
            ("td", ""),
            ("td", "/a"),
            ("td", "/A"),
            ("example.org", "/ns/prod/sa/web"),
            // no special treatment for names that look like something else
            ("1.2.3.4", "/a"),
            ("999.999.999.999", "/a"),
            ("_x", "/a"),
            ("-a-", "/a"),
            ("a..b", "/a"),
            (".", "/a"),
            ("..", "/a"),
            // dots that are no dot segments
            ("td", "/..."),
            ("td", "/.a"),
            ("td", "/a."),
            ("td", "/a/..b/c"),
        ] {
            let text = format!("spiffe://{domain}{path}");
            let id = SpiffeId::parse(&text).unwrap();
            assert_eq!((id.as_str(), id.trust_domain_name(), id.path()), (&*text, domain, path));
            assert_eq!(SpiffeId::from_parts(domain, path).unwrap(), id);
        }
        assert_ne!(SpiffeId::parse("spiffe://td/A"), SpiffeId::parse("spiffe://td/a"));
    }

    #[test]
    fn lengths_are_held_to_the_byte() {
        let id = |path: usize| format!("spiffe://td/{}", "a".repeat(path));
        assert_eq!(SpiffeId::parse(&id(2036)).unwrap().as_str().len(), 2048);
        assert_eq!(fault(SpiffeId::parse(&id(2037))), IdFault::TooLong(2049));
        let path = |length: usize| format!("/{}", "a".repeat(length));
        assert!(SpiffeId::from_parts("td", &path(2036)).is_ok());
        assert_eq!(fault(SpiffeId::from_parts("td", &path(2037))), IdFault::TooLong(2049));
        assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
        let long = SpiffeId::parse(&format!("spiffe://{}/a", "a".repeat(256)));
        assert_eq!(fault(long), IdFault::TrustDomainTooLong(256));
    }

    #[test]
    fn parts_cannot_lend_each_other_characters() {
        assert_eq!(fault(SpiffeId::from_parts("td/a", "")), IdFault::TrustDomainCharacter('/'));
        assert_eq!(fault(SpiffeId::from_parts("td", "a")), IdFault::NoLeadingSlash);
        assert_eq!(fault(SpiffeId::from_parts("td", "/")), IdFault::TrailingSlash);
        assert_eq!(fault(SpiffeId::from_parts("td", ".example/a")), IdFault::NoLeadingSlash);
    }

    #[test]
    fn a_trust_domain_is_its_name_and_its_id_has_no_slash() {
        let domain = TrustDomain::parse("example.org").unwrap();
        assert_eq!(domain.name(), "example.org");
        assert_eq!(domain.id().as_str(), "spiffe://example.org");
        for (name, text) in [
            (
                "Example.org",
                "\"Example.org\" is not a trust domain name: trust domain must be lower case",
            ),
            (
                "spiffe://example.org",
                "\"spiffe://example.org\" is not a trust domain name: give the name alone, without spiffe:// and path",
            ),
        ] {
            assert_eq!(TrustDomain::parse(name).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn a_workload_has_a_path_of_ours_that_no_server_has() {
        let ours = TrustDomain::parse("example.org").unwrap();
        let refusal = |text: &str| {
            WorkloadId::new(SpiffeId::parse(text).unwrap(), &ours).unwrap_err().to_string()
        };
        for (text, expected) in [
            (
                "spiffe://other.org/a",
                "\"spiffe://other.org/a\" is in trust domain \"other.org\"; this server speaks for \"example.org\" only",
            ),
            (
                "spiffe://example.org",
                "\"spiffe://example.org\" has no path; a workload's SPIFFE ID needs one",
            ),
            (
                "spiffe://example.org/spire",
                "\"spiffe://example.org/spire\" is reserved: paths under /spire name servers and agents; choose another",
            ),
            (
                "spiffe://example.org/mintmark/log",
                "\"spiffe://example.org/mintmark/log\" is reserved: paths under /mintmark name servers and agents; choose another",
            ),
        ] {
            assert_eq!(refusal(text), expected);
        }
        for path in ["/spire/server", "/spire/agent/x509pop/1", "/mintmark"] {
            let id = SpiffeId::from_parts("example.org", path).unwrap();
            assert!(matches!(WorkloadId::new(id, &ours), Err(IdError::Reserved { .. })), "{path}");
        }
        for path in ["/a", "/spirea", "/a/spire", "/mintmark-a", "/Spire"] {
            let id = SpiffeId::from_parts("example.org", path).unwrap();
            assert_eq!(WorkloadId::new(id.clone(), &ours).unwrap().into_id(), id);
        }
    }

    #[test]
    fn an_error_shows_a_bounded_part_of_what_was_sent() {
        let error = SpiffeId::parse(&"\u{1b}[2J".repeat(100_000)).unwrap_err().to_string();
        assert!(error.len() < 1000 && error.is_ascii(), "{error}");
        assert!(error.ends_with("it has 400000 bytes; at most 2048 are allowed"), "{error}");
    }

    #[test]
    fn maps_of_ids_answer_to_texts() {
        let id = SpiffeId::parse("spiffe://td/a").unwrap();
        let set = std::collections::HashSet::from([id]);
        assert!(set.contains("spiffe://td/a"));
        assert!(!set.contains("spiffe://td/b"));
    }

    /// Texts on both sides of every rule of the grammar, with valid ids well represented.
    fn near_ids() -> impl Strategy<Value = String> {
        prop_oneof![
            "spiffe://[a-z0-9._-]{1,8}(/[A-Za-z0-9._-]{1,4}){0,4}",
            "(spiffe|SPIFFE|http)?:?/{0,3}[a-zA-Z0-9._%@:?#/é~ -]{0,12}(/[a-zA-Z0-9._%@:?#é~ -]{0,3}){0,4}",
            "spiffe://a{250,260}(/a)?",
            "spiffe://td/a{2030,2040}",
            any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Against the `spiffe` crate, which shares no code with this one. It reads ids of any length
        /// and folds the case of scheme and trust domain; ours are those that it gives back unchanged.
        #[test]
        fn the_grammar_is_that_of_another_implementation(text in near_ids()) {
            let theirs = spiffe::SpiffeId::new(&text)
                .ok()
                .filter(|id| id.to_string() == text && text.len() <= LONGEST_ID);
            let ours = SpiffeId::parse(&text).ok();
            prop_assert_eq!(ours.is_some(), theirs.is_some(), "{:?}", text);
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                prop_assert_eq!(ours.as_str(), &text);
                prop_assert_eq!(ours.trust_domain_name(), theirs.trust_domain_name());
                prop_assert_eq!(ours.path(), theirs.path());
                let parts = SpiffeId::from_parts(ours.trust_domain_name(), ours.path());
                prop_assert_eq!(parts, Ok(ours));
            }
        }

        #[test]
        fn ids_are_ordered_as_their_texts(a in near_ids(), b in near_ids()) {
            if let (Ok(one), Ok(other)) = (SpiffeId::parse(&a), SpiffeId::parse(&b)) {
                prop_assert_eq!(one.cmp(&other), a.cmp(&b));
                prop_assert_eq!(one == other, a == b);
            }
        }
    }
}
