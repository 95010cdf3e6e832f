//! A stranger's text made fit to be shown: bounded and escaped.

use std::fmt;

/// Longest excerpt in characters; enough to recognise an id, short enough for a log line.
const LONGEST: usize = 96;

/// The beginning of a text that came from outside, for error messages. Shows quoted, with control and
/// non-ASCII characters escaped and a mark where it was cut, so that it can neither flood nor forge a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Excerpt {
    start: String,
    cut: bool,
}

impl Excerpt {
    /// The first 96 characters of `text`.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let start: String = text.chars().take(LONGEST).collect();
        let cut = start.len() < text.len();
        Self { start, cut }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}{}\"", self.start.escape_default(), if self.cut { "..." } else { "" })
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_bounded_and_holds_no_control_characters() {
        let shown = Excerpt::of(&"\n\u{1b}[31mé".repeat(1000)).to_string();
        assert!(shown.len() < 1000 && shown.is_ascii());
        assert!(shown.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        assert!(shown.ends_with("...\""));
        assert_eq!(Excerpt::of("spiffe://td/a").to_string(), "\"spiffe://td/a\"");
    }
}
