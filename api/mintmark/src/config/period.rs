//! A span of time as people write it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use thiserror::Error as ThisError;

/// A span of whole seconds, written `"10s"`, `"1h"` or `"1h30m"`; a bare number names no unit and is
/// refused. A day (`d`) has 24 hours. Zero is written `"0s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// Why a text is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum PeriodError {
    /// Not numbers with units, largest unit first.
    #[error("{0:?} is no span of time; write it like \"10s\", \"30m\", \"1h\" or \"1h30m\"")]
    Form(String),
    /// Past anything a certificate can name.
    #[error("{0:?} is longer than 10000 years")]
    TooLong(String),
}

/// Units, largest first, in seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
/// Seconds in ten thousand years.
const LONGEST: u64 = 10_000 * 366 * 86_400;

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let form = || PeriodError::Form(text.chars().take(40).collect());
        let too_long = || PeriodError::TooLong(text.chars().take(40).collect());
        let mut rest = text;
        let mut units = UNITS.iter();
        let mut seconds: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let letter = rest[digits..].chars().next().ok_or_else(form)?;
            // Units already passed are gone: "30m1h" and "1h1h" find none.
            let (_, unit) = units.find(|(name, _)| *name == letter).ok_or_else(form)?;
            if digits == 0 {
                return Err(form());
            }
            let count: u64 = rest[..digits].parse().map_err(|_| too_long())?;
            let part = count.checked_mul(*unit).ok_or_else(too_long)?;
            seconds = seconds.checked_add(part).ok_or_else(too_long)?;
            rest = &rest[digits + 1..];
        }
        if text.is_empty() {
            return Err(form());
        }
        if seconds > LONGEST {
            return Err(too_long());
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}

/// The shortest way to write it: `1h30m`.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_secs();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in UNITS {
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span of time in quotes, such as \"10s\", \"30m\" or \"1h\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_needs_units_in_falling_order() {
        for (text, seconds) in
            [("10s", 10), ("30m", 1_800), ("1h", 3_600), ("1h30m", 5_400), ("365d", 31_536_000)]
        {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.0.as_secs(), seconds, "{text}");
            assert_eq!(period.to_string(), text);
        }
        assert_eq!("0s".parse::<Period>().unwrap().to_string(), "0s");
        assert_eq!("90m".parse::<Period>().unwrap().to_string(), "1h30m");
        for text in ["", "10", "s", "1h 30m", "30m1h", "1h1h", "-1h", "1.5h", "1w", "1é", "١h"] {
            assert!(matches!(text.parse::<Period>(), Err(PeriodError::Form(_))), "{text}");
        }
    }

    #[test]
    fn a_span_that_overflows_is_refused() {
        for text in ["99999999999999999999s", "999999999999999999d", "4000000d"] {
            assert!(matches!(text.parse::<Period>(), Err(PeriodError::TooLong(_))), "{text}");
        }
    }
}
