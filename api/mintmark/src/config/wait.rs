//! A short wait as people write it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use thiserror::Error as ThisError;

/// How long a machine waits for a machine, written `"50ms"`, `"10s"` or `"2m"`: one number and its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(pub Duration);

/// A text that is no wait.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("{0:?} is no wait; write it like \"50ms\", \"10s\" or \"2m\"")]
pub struct WaitError(String);

/// Units, largest first, in milliseconds.
const UNITS: [(&str, u64); 3] = [("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Wait {
    type Err = WaitError;

    fn from_str(text: &str) -> Result<Self, WaitError> {
        let form = || WaitError(text.chars().take(40).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(form)?;
        let number: u64 = number.parse().map_err(|_| form())?;
        number.checked_mul(*unit).map(|wait| Self(Duration::from_millis(wait))).ok_or_else(form)
    }
}

/// With the largest unit that leaves a whole number.
impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wait = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let whole = |(_, unit): &&(&str, u64)| wait > 0 && wait.is_multiple_of(*unit);
        let (name, unit) = UNITS.iter().find(whole).unwrap_or(&UNITS[1]);
        write!(f, "{}{name}", wait / unit)
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = Wait;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a wait in quotes, such as \"50ms\", \"10s\" or \"2m\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Wait, E> {
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
    fn a_wait_is_a_number_and_its_unit() {
        for (text, wait) in [("50ms", 50), ("10s", 10_000), ("2m", 120_000), ("0s", 0)] {
            let parsed: Wait = text.parse().unwrap();
            assert_eq!(parsed.0, Duration::from_millis(wait), "{text}");
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!("1500ms".parse::<Wait>().unwrap().to_string(), "1500ms");
        assert_eq!("1000ms".parse::<Wait>().unwrap().to_string(), "1s");
        for text in ["", "10", "s", "1 s", "-1s", "1.5s", "1h", "1s1ms", "99999999999999999999s"] {
            assert!(text.parse::<Wait>().is_err(), "{text}");
        }
    }
}
