//! How far a front end reaches: paths of SPIFFE IDs, and DNS names.

use std::fmt;

use thiserror::Error;

use crate::dns::{DnsError, DnsName};
use crate::excerpt::Excerpt;
use crate::id::{IdError, RESERVED, SpiffeId, WorkloadId};

/// Longest path of a scope in bytes. A record holds many of them.
const LONGEST_PATH: usize = 512;

/// A path and all paths below it: `/ns/prod` is `/ns/prod` and `/ns/prod/web`, not `/ns/production`. `/` is
/// every path that a workload can have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathScope(String);

impl PathScope {
    /// Reads a path by the grammar of SPIFFE IDs (SPIFFE-ID §2.2), or `/`. Case counts, and nothing is folded: a
    /// slash at the end, an empty segment or `..` is refused.
    ///
    /// # Errors
    /// [`ScopeError`]; also for paths under which no workload may be.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        if text == "/" {
            return Ok(Self(text.to_owned()));
        }
        if text.is_empty() {
            return Err(ScopeError::NoPath);
        }
        if text.len() > LONGEST_PATH {
            return Err(ScopeError::TooLong(text.len()));
        }
        SpiffeId::from_parts("td", text).map_err(ScopeError::Path)?;
        let first = text[1..].split('/').next().expect("split yields one part at least");
        if RESERVED.contains(&first) {
            return Err(ScopeError::Reserved(Excerpt::of(text)));
        }
        Ok(Self(text.to_owned()))
    }

    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is every path.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0 == "/"
    }

    /// Whether the ID's path is this one or below it.
    #[must_use]
    pub fn covers(&self, id: &WorkloadId) -> bool {
        let below = || id.id().path().strip_prefix(&self.0);
        self.is_everything() || below().is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// DNS names: one host, or with `*.` before it everything below a domain, however deep, wildcards too. The domain
/// itself is not below it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsScope(String);

impl DnsScope {
    /// Reads `web.example.org`, or `*.example.org`. Case does not count; lower case is kept.
    ///
    /// # Errors
    /// [`ScopeError::Dns`] if it is no DNS name.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        DnsName::parse(text).map_err(ScopeError::Dns)?;
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The scope in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is within it.
    #[must_use]
    pub fn covers(&self, name: &DnsName) -> bool {
        let name = name.as_str();
        let Some(domain) = self.0.strip_prefix('*') else {
            return name.eq_ignore_ascii_case(&self.0);
        };
        // With its dot, so that only whole labels count. Both are ASCII.
        let start = name.len().checked_sub(domain.len());
        start.is_some_and(|start| start > 0 && name[start..].eq_ignore_ascii_case(domain))
    }
}

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScopeError {
    /// Nothing there.
    #[error("a path scope is missing its path; write it like /ns/prod, or / for all")]
    NoPath,
    /// Longer than a record has room for.
    #[error("a path scope has {0} bytes; at most {LONGEST_PATH} are kept")]
    TooLong(usize),
    /// No path of a SPIFFE ID.
    #[error("path scope: {0}; write it like /ns/prod")]
    Path(IdError),
    /// A path that names servers and agents.
    #[error(
        "path scope {0} is reserved: paths under it name servers and agents, which no front end may ask for"
    )]
    Reserved(Excerpt),
    /// No DNS name.
    #[error("DNS scope: {0}; write it like web.example.org, or *.example.org for all below it")]
    Dns(DnsError),
}

impl fmt::Display for PathScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PathScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathScope({self})")
    }
}

impl fmt::Display for DnsScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DnsScope({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TrustDomain;
    use proptest::prelude::*;

    fn workload(path: &str) -> Option<WorkloadId> {
        let domain = TrustDomain::parse("td").unwrap();
        let id = SpiffeId::from_parts("td", path).ok()?;
        WorkloadId::new(id, &domain).ok()
    }

    fn covers(scope: &str, path: &str) -> bool {
        PathScope::parse(scope).unwrap().covers(&workload(path).unwrap())
    }

    #[test]
    fn a_path_scope_ends_at_a_segment() {
        assert!(covers("/ns/prod", "/ns/prod") && covers("/ns/prod", "/ns/prod/web/1"));
        assert!(covers("/", "/ns/prod") && covers("/", "/spires") && covers("/spires", "/spires"));
        for other in
            ["/ns/production", "/ns/prod-2/web", "/ns/prod.x", "/ns", "/x/ns/prod", "/NS/prod"]
        {
            assert!(!covers("/ns/prod", other), "{other}");
        }
        // A prefix of the text of a deeper one.
        assert!(!covers("/ns/prod/web", "/ns/prod"));
    }

    #[test]
    fn what_is_no_path_is_no_scope() {
        for (text, reason) in [
            ("", "missing its path"),
            ("ns", "must start with a slash"),
            ("/ns/", "must not end with a slash"),
            ("//", "must not end with a slash"),
            ("//ns", "empty segment"),
            ("/ns//prod", "empty segment"),
            ("/ns/../prod", "'.' or '..'"),
            ("/..", "'.' or '..'"),
            ("/ns/%70rod", "percent"),
            ("/ns/*", "character '*'"),
            ("/ns/prod ", "character ' '"),
            ("spiffe://td/ns", "must start with a slash"),
            ("/spire", "reserved"),
            ("/spire/agent", "reserved"),
            ("/mintmark", "reserved"),
            ("/mintmark/frontend/a", "reserved"),
            (&format!("/{}", "a".repeat(512)), "513 bytes"),
        ] {
            let error = PathScope::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_dns_scope_is_a_host_or_what_is_below_a_domain() {
        let covers = |scope: &str, name: &str| {
            DnsScope::parse(scope).unwrap().covers(&DnsName::parse(name).unwrap())
        };
        for (scope, name) in [
            ("web.example.org", "web.example.org"),
            ("Web.Example.org", "wEB.example.ORG"),
            ("*.example.org", "a.example.org"),
            ("*.example.org", "a.b.example.org"),
            ("*.example.org", "*.example.org"),
            ("*.example.org", "*.a.example.ORG"),
        ] {
            assert!(covers(scope, name), "{scope} {name}");
        }
        for (scope, name) in [
            ("web.example.org", "*.example.org"),
            ("web.example.org", "a.web.example.org"),
            ("example.org", "web.example.org"),
            ("*.example.org", "example.org"),
            ("*.example.org", "badexample.org"),
            ("*.example.org", "a.example.org.evil.test"),
            ("*.example.org", "*.org"),
            ("*.a.example.org", "*.example.org"),
        ] {
            assert!(!covers(scope, name), "{scope} {name}");
        }
        for text in ["", "*", "*.", "a.*", "*a.org", "a.org.", "a b", "*.*.org", "é.org"] {
            let error = DnsScope::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("DNS scope: ") && error.contains("write it like"), "{error}");
        }
    }

    fn segments() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[ab]{1,2}|spire|mintmark|\\.\\.|\\.|", 0..4)
    }

    proptest! {
        /// Held against the definition by segments, which knows nothing of texts.
        #[test]
        fn a_path_scope_covers_what_begins_with_its_segments_and_nothing_else(
            scope in segments(), path in segments(), slash in any::<bool>(),
        ) {
            let text = |parts: &[String], slash| format!("/{}{}", parts.join("/"), if slash { "/" } else { "" });
            let Ok(parsed) = PathScope::parse(&text(&scope, slash)) else {
                let is_plain = |part: &String| !matches!(&**part, "" | "." | "..");
                let reserved = scope.first().is_some_and(|first| first == "spire" || first == "mintmark");
                prop_assert!(slash || reserved || !scope.iter().all(is_plain));
                return Ok(());
            };
            let Some(id) = workload(&text(&path, false)) else { return Ok(()) };
            let scope: Vec<_> = scope.into_iter().filter(|part| !part.is_empty()).collect();
            prop_assert_eq!(parsed.covers(&id), path.starts_with(&scope));
            prop_assert!(!matches!(path.first().map(String::as_str), Some("spire" | "mintmark")));
        }

        #[test]
        fn a_dns_scope_covers_what_ends_with_its_labels_and_nothing_else(
            scope in "(\\*\\.)?[abA](\\.[abB]){0,2}", name in "(\\*\\.)?[abA](\\.[abB]){0,3}",
        ) {
            let (Ok(parsed), Ok(dns)) = (DnsScope::parse(&scope), DnsName::parse(&name)) else {
                return Ok(());
            };
            let labels = |text: &str| -> Vec<String> {
                text.to_ascii_lowercase().split('.').rev().map(str::to_owned).collect()
            };
            let (scope, name) = (labels(&scope), labels(&name));
            let expected = match scope.split_last() {
                Some((star, domain)) if star == "*" => name.len() > domain.len() && name.starts_with(domain),
                _ => name == scope,
            };
            prop_assert_eq!(parsed.covers(&dns), expected);
        }

        #[test]
        fn no_text_makes_reading_a_scope_panic(text in "\\PC{0,40}") {
            let _ = (PathScope::parse(&text), DnsScope::parse(&text));
        }
    }
}
