//! Time as a value: functions take a [`Timestamp`], loops and doors ask a [`Clock`].

use std::fmt;
use std::time::Duration;

/// An instant as whole Unix seconds, UTC, without leap seconds.
///
/// Certificates and tokens know no finer time (RFC 5280 §4.1.2.5, RFC 7519 §2 as JWT-SVID uses it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 9999-12-31T23:59:59Z, the last instant a certificate can name (RFC 5280 §4.1.2.5).
    pub const MAX: Self = Self(253_402_300_799);
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The instant `seconds` after the epoch, held within [`EPOCH`](Self::EPOCH)..=[`MAX`](Self::MAX).
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds.clamp(0, Self::MAX.0))
    }

    /// Seconds since the epoch.
    #[must_use]
    pub fn unix(self) -> i64 {
        self.0
    }

    /// The instant `span` later, whole seconds, never past [`MAX`](Self::MAX).
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Self::from_unix(self.0.saturating_add(seconds))
    }

    /// The instant `span` earlier, whole seconds, never before [`EPOCH`](Self::EPOCH).
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Self::from_unix(self.0.saturating_sub(seconds))
    }

    /// How long after `earlier` this is; zero if it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// The instant of a date and a time of day in UTC; `None` if no instant within [`EPOCH`](Self::EPOCH)..=
    /// [`MAX`](Self::MAX) has them.
    #[must_use]
    pub fn from_civil(date: (u16, u8, u8), time: (u8, u8, u8)) -> Option<Self> {
        let ((year, month, day), (hour, minute, second)) = (date, time);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_of_month = match month {
            2 if is_leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        let is_date = (1970..=9999).contains(&year) && (1..=days_of_month).contains(&day);
        if !is_date || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        // As in `civil`.
        let (year, month) = (u32::from(year), u32::from(month));
        let (year, month_from_march) =
            if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let (era, year_of_era) = (year / 400, year % 400);
        let day_of_year = (153 * month_from_march + 2) / 5 + u32::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let [hour, minute, second] = [hour, minute, second].map(i64::from);
        Some(Self(i64::from(days) * 86_400 + hour * 3_600 + minute * 60 + second))
    }

    /// Year, month, day, hour, minute, second in UTC.
    #[must_use]
    pub fn civil(self) -> (u16, u8, u8, u8, u8, u8) {
        // Days to a date by the proleptic Gregorian calendar, counted in eras of 400 years that
        // start on 1 March, so that the leap day is the last day of a year. In 32 bits, where a division by a
        // constant costs half of what it does in 64: each certificate has four of these.
        const BOUNDED: &str = "a timestamp is within 1970..=9999";
        let days = u32::try_from(self.0 / 86_400).expect(BOUNDED);
        let second = u32::try_from(self.0 % 86_400).expect(BOUNDED);
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u32::from(month <= 2);
        let small = |value: u32| u8::try_from(value).expect("a calendar field is below 60");
        (
            u16::try_from(year).expect(BOUNDED),
            small(month),
            small(day),
            small(second / 3_600),
            small(second / 60 % 60),
            small(second % 60),
        )
    }
}

/// RFC 3339, for people and logs: `2026-11-24T11:06:43Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Where the wall time comes from. Asked once per request, at the door, and by loops that wait.
pub trait Clock: Send + Sync {
    /// The current instant.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where real time enters")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp::EPOCH.plus(since)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_instants_have_their_calendar_dates() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (2_524_607_999, "2049-12-31T23:59:59Z"),
            (2_524_608_000, "2050-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp::from_unix(unix).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn the_calendar_leads_back(unix in 0..=Timestamp::MAX.0) {
            let instant = Timestamp(unix);
            let (year, month, day, hour, minute, second) = instant.civil();
            let back = Timestamp::from_civil((year, month, day), (hour, minute, second));
            prop_assert_eq!(back, Some(instant));
        }

        #[test]
        fn what_no_calendar_has_is_no_instant(
            date in (1960..=10_010u16, 0..=13u8, 0..=32u8),
            time in (0..=24u8, 0..=60u8, 0..=60u8),
        ) {
            if let Some(instant) = Timestamp::from_civil(date, time) {
                let ((year, month, day), (hour, minute, second)) = (date, time);
                prop_assert_eq!(instant.civil(), (year, month, day, hour, minute, second));
            }
        }
    }

    #[test]
    fn leap_days_are_those_of_the_gregorian_calendar() {
        let last_of_february = |year| Timestamp::from_civil((year, 2, 29), (23, 59, 59));
        for (year, is_leap) in [(1972, true), (2000, true), (2023, false), (2100, false)] {
            assert_eq!(last_of_february(year).is_some(), is_leap, "{year}");
        }
    }

    #[test]
    fn arithmetic_stays_within_what_a_certificate_can_name() {
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.minus(Duration::MAX), Timestamp::EPOCH);
        assert_eq!(Timestamp::EPOCH.since(Timestamp::MAX), Duration::ZERO);
    }
}
