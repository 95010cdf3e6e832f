//! What is wrong in a configuration, and where: from byte offsets to lines that help.

use std::ops::Range;
use std::path::Path;

use super::Fault;

/// Sections whose meaning is settled and which have no settings yet.
const RESERVED: [(&str, &str); 2] = [
    ("attestors", "how nodes and workloads prove who they are"),
    ("frontend", "the front end's listeners"),
];

/// Something wrong at a place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    span: Option<Range<usize>>,
    problem: String,
}

impl Misfit {
    pub(super) fn at(span: Range<usize>, problem: impl Into<String>) -> Self {
        Self { span: Some(span), problem: problem.into() }
    }

    /// Rewords what the TOML reader says in the terms of a configuration.
    pub(super) fn of_toml(error: &toml::de::Error) -> Self {
        Self { span: error.span(), problem: reword(error.message()) }
    }

    pub(super) fn locate(self, text: &str, path: &Path) -> Fault {
        let start = self.span.map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Fault {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            problem: self.problem,
        }
    }
}

fn reword(message: &str) -> String {
    // serde says: unknown field `a`, expected one of `b`, `c`.
    let mut quoted = message.split('`').skip(1).step_by(2);
    let first = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    if message.starts_with("unknown field `") {
        unknown_key(first, &known)
    } else if message.starts_with("unknown variant `") {
        format!("unknown value {first:?}; {}", suggestion(first, &known))
    } else if message.starts_with("missing field `") {
        format!("key {first:?} is missing here")
    } else {
        message.trim().replace('\n', ", ")
    }
}

fn unknown_key(key: &str, known: &[&str]) -> String {
    let at_top = known.contains(&"trust_domain");
    match RESERVED.iter().find(|(name, _)| at_top && *name == key) {
        Some((name, purpose)) => format!(
            "section [{name}] is reserved for {purpose} and has no settings in this version; remove it"
        ),
        None => format!("unknown key {key:?}; {}", suggestion(key, known)),
    }
}

/// The nearest known name, or all of them when none is near.
fn suggestion(name: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3));
    match nearest {
        Some((_, candidate)) => format!("did you mean {candidate:?}?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let text = "a = 1\n[é] b = 2";
        let fault = |start| Misfit::at(start..start, "x").locate(text, Path::new("/f"));
        assert_eq!((fault(0).line, fault(0).column), (1, 1));
        assert_eq!((fault(11).line, fault(11).column), (2, 5));
        assert_eq!((fault(999).line, fault(999).column), (2, 10));
        assert_eq!(fault(11).to_string(), "/f:2:5: x");
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        assert_eq!(
            reword("unknown field `tll`, expected one of `ttl`, `name`"),
            "unknown key \"tll\"; did you mean \"ttl\"?"
        );
        assert_eq!(
            reword("unknown field `colour`, expected `ttl` or `name`"),
            "unknown key \"colour\"; known here: ttl, name"
        );
    }
}
