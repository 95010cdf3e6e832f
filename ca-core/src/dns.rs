//! DNS names as certificates hold them (RFC 5280 §4.2.1.6, RFC 1123 §2.1, RFC 9525 §6.3).

use std::fmt;

use thiserror::Error;

use crate::excerpt::Excerpt;

/// Longest name in bytes (RFC 1035 §2.3.4, as text without the final dot).
pub const LONGEST_NAME: usize = 253;
/// Longest label in bytes.
pub const LONGEST_LABEL: usize = 63;
/// Most names in one certificate.
pub const MOST_NAMES: usize = 100;

/// A host name, or a wildcard for all hosts of one domain. Kept as it was written, case included, and
/// compared without regard to case (RFC 4343).
#[derive(Debug, Clone)]
pub struct DnsName(String);

impl DnsName {
    /// Reads a name: ASCII labels of letters, digits and inner hyphens, no dot at the end. The whole
    /// first label may be `*` if another follows. A label with hyphens third and fourth must be an
    /// A-label, `xn--…` (RFC 5891 §4.2.3.1).
    pub fn parse(text: &str) -> Result<Self, DnsError> {
        check(text).map_err(|fault| DnsError::Malformed { name: Excerpt::of(text), fault })?;
        Ok(Self(text.to_owned()))
    }

    /// Reads the names of one certificate: repeats are dropped, the first spelling stays in its place,
    /// and overlaps are refused as by [`check_overlap`].
    pub fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Self>, DnsError> {
        let mut names: Vec<Self> = Vec::new();
        for text in texts {
            let name = Self::parse(text)?;
            if !names.contains(&name) {
                names.push(name);
            }
            if names.len() > MOST_NAMES {
                return Err(DnsError::TooMany);
            }
        }
        check_overlap(&names)?;
        Ok(names)
    }

    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it starts with `*`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether this is a wildcard and `other` a host directly below its domain. A `*` stands for one
    /// whole label (RFC 9525 §6.3).
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self.0.strip_prefix("*."), other.0.split_once('.')) {
            (Some(domain), Some((host, parent))) => {
                host != "*" && parent.eq_ignore_ascii_case(domain)
            }
            _ => false,
        }
    }
}

/// Refuses a list in which a wildcard covers another name: the other says nothing more. A repeated
/// name is no overlap.
pub fn check_overlap(names: &[DnsName]) -> Result<(), DnsError> {
    for wildcard in names.iter().filter(|name| name.is_wildcard()) {
        if let Some(covered) = names.iter().find(|name| wildcard.covers(name)) {
            return Err(DnsError::Overlap {
                name: covered.0.clone(),
                wildcard: wildcard.0.clone(),
            });
        }
    }
    Ok(())
}

/// Why DNS names are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DnsError {
    /// A text is no DNS name.
    #[error("{name} is not a DNS name: {fault}")]
    Malformed {
        /// The text.
        name: Excerpt,
        /// The broken rule.
        fault: DnsFault,
    },
    /// A wildcard covers another name of the list.
    #[error(
        "name {name:?} overlaps with {wildcard:?} in the same list: wildcard overlap; leave out one of the two"
    )]
    Overlap {
        /// The covered name.
        name: String,
        /// The wildcard.
        wildcard: String,
    },
    /// More than 100 names.
    #[error("there are more than 100 DNS names; spread them over several certificates")]
    TooMany,
}

/// The rule that a text breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DnsFault {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("it has {0} bytes; at most 253 are allowed")]
    TooLong(usize),
    /// A label of more than 63 bytes.
    #[error("a label has {0} bytes; at most 63 are allowed")]
    LabelTooLong(usize),
    /// Two dots in a row, or one at the start.
    #[error("it has an empty label")]
    EmptyLabel,
    /// A dot at the end.
    #[error("it must not end with a dot")]
    TrailingDot,
    /// A `*` that is not the whole first label of several.
    #[error("a '*' must be the whole first label, with a domain after it, and the only one")]
    Wildcard,
    /// A label that starts or ends with a hyphen.
    #[error("a label must not start or end with a hyphen")]
    Hyphen,
    /// `--` in the third and fourth place of a label that is no A-label.
    #[error("hyphens in third and fourth place are for labels that start with xn--")]
    ReservedLabel,
    /// A letter outside ASCII.
    #[error("it is not ASCII; write an internationalised label in its xn-- form")]
    NotAscii,
    /// Another character than letters, digits, hyphens and dots.
    #[error("it has the character {0:?}; only letters, digits, '-' and '.' are allowed")]
    Character(char),
}

fn check(text: &str) -> Result<(), DnsFault> {
    if text.is_empty() {
        return Err(DnsFault::Empty);
    }
    if text.len() > LONGEST_NAME {
        return Err(DnsFault::TooLong(text.len()));
    }
    if !text.is_ascii() {
        return Err(DnsFault::NotAscii);
    }
    let host = text.strip_prefix("*.").unwrap_or(text);
    if host.contains('*') {
        return Err(DnsFault::Wildcard);
    }
    if text.ends_with('.') {
        return Err(DnsFault::TrailingDot);
    }
    host.split('.').try_for_each(check_label)
}

fn check_label(label: &str) -> Result<(), DnsFault> {
    if label.is_empty() {
        return Err(DnsFault::EmptyLabel);
    }
    if label.len() > LONGEST_LABEL {
        return Err(DnsFault::LabelTooLong(label.len()));
    }
    if let Some(c) = label.chars().find(|&c| !c.is_ascii_alphanumeric() && c != '-') {
        return Err(DnsFault::Character(c));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(DnsFault::Hyphen);
    }
    if label.get(2..4) == Some("--") && !label[..2].eq_ignore_ascii_case("xn") {
        return Err(DnsFault::ReservedLabel);
    }
    Ok(())
}

impl PartialEq for DnsName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for DnsName {}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn host_names_and_wildcards_are_kept_as_written() {
        let label = "a".repeat(63);
        let longest = [&*label, &*label, &*label, &"a".repeat(61)].join(".");
        assert_eq!(longest.len(), 253);
        for text in [
            "localhost",
            "web.example.test",
            "Web.Example.Test",
            "*.example.test",
            "*.test",
            "a-b.c--d.test",
            "xn--bcher-kva.test",
            "XN--bcher-kva.test",
            "1.2.3.4",
            "a1",
            &longest,
        ] {
            assert_eq!(DnsName::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        use DnsFault::*;
        let long_label = format!("{}.test", "a".repeat(64));
        let long_name = "a.".repeat(126) + "ab";
        assert_eq!(long_name.len(), 254);
        for (text, expected) in [
            ("", Empty),
            (&*long_name, TooLong(254)),
            (&*long_label, LabelTooLong(64)),
            ("a..b", EmptyLabel),
            (".a", EmptyLabel),
            ("*.", TrailingDot),
            ("a.test.", TrailingDot),
            (".", TrailingDot),
            ("*", Wildcard),
            ("*.*.test", Wildcard),
            ("a.*.test", Wildcard),
            ("a*.test", Wildcard),
            ("**.test", Wildcard),
            ("-a.test", Hyphen),
            ("a-.test", Hyphen),
            ("-", Hyphen),
            ("ab--c.test", ReservedLabel),
            ("bücher.test", NotAscii),
            ("a b.test", Character(' ')),
            ("a/b", Character('/')),
            ("a_b.test", Character('_')),
            ("a\0.test", Character('\0')),
            ("a:443", Character(':')),
        ] {
            let expected = DnsError::Malformed { name: Excerpt::of(text), fault: expected };
            assert_eq!(DnsName::parse(text).map(|_| ()), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_beside_a_name_that_it_covers_is_refused() {
        let list = |names: &[&str]| DnsName::list(names.iter().copied());
        assert!(list(&["example.test", "*.example.test", "a.b.example.test"]).is_ok());
        assert!(list(&["*.test", "*.example.test"]).is_ok());
        for names in [["a.example.test", "*.example.test"], ["*.Example.test", "a.example.TEST"]] {
            let error = list(&names).unwrap_err();
            assert!(matches!(error, DnsError::Overlap { .. }));
            assert!(error.to_string().contains("wildcard overlap"), "{error}");
        }
    }

    #[test]
    fn a_repeated_name_stands_once_in_its_first_spelling() {
        let names = DnsName::list(["b.test", "A.test", "a.TEST", "*.c.test", "*.c.test"]).unwrap();
        let texts: Vec<&str> = names.iter().map(DnsName::as_str).collect();
        assert_eq!(texts, ["b.test", "A.test", "*.c.test"]);
    }

    #[test]
    fn a_certificate_has_a_hundred_names_at_most() {
        let names: Vec<String> = (0..101).map(|number| format!("n{number}.test")).collect();
        let list = |count: usize| DnsName::list(names[..count].iter().map(String::as_str));
        assert_eq!(list(100).unwrap().len(), 100);
        assert_eq!(list(101), Err(DnsError::TooMany));
    }

    proptest! {
        /// The rules once more, as a regular expression would have them, but for the lengths.
        #[test]
        fn a_name_is_what_its_labels_allow(text in "(\\*\\.)?[a-bA-B0*._ -]{0,4}(\\.[ab-]{0,5}){0,3}") {
            let host = text.strip_prefix("*.").unwrap_or(&text);
            let host_label = |label: &str| {
                let ends = [label.bytes().next(), label.bytes().last()];
                let reserved = label.len() > 3 && &label[2..4] == "--";
                ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                    && !reserved
            };
            let well_formed = host.split('.').all(host_label);
            prop_assert_eq!(DnsName::parse(&text).is_ok(), well_formed, "{:?}", text);
        }

        #[test]
        fn no_text_makes_the_reading_panic(text in any::<String>()) {
            let _ = DnsName::list([&*text, &*text]);
        }
    }
}
