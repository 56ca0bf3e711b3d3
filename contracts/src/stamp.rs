//! Moments in full precision: what a log line carries, and what `--since` and `--until` name. RFC 3339 where people read.
//!
//! Decides how such a moment is read and written. Does not read a clock: whose clock a stamp is by is its owner's word.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::quantity::{BadQuantity, Millis};

/// Nanoseconds since 1970. What lies before is 1970; the last moment is in 2554.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp(pub u64);

const WANT: &str = "a moment such as 2026-01-02T03:04:05Z";
const WANT_TIME: &str = "a duration such as 10m, or a moment such as 2026-01-02T03:04:05Z";
const NANOS: u64 = 1_000_000_000;
const DAY_S: i64 = 86_400;

impl Stamp {
    /// Reads RFC 3339: `2026-01-02T03:04:05.678901234+01:00`; digits beyond nanoseconds are dropped.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let number = |from: usize, digits: usize| -> Option<i64> {
            let digits = text.get(from..from + digits)?;
            digits.iter().try_fold(0, |sum, d| d.is_ascii_digit().then(|| sum * 10 + i64::from(d - b'0')))
        };
        let is = |at: usize, any: &[u8]| text.get(at).is_some_and(|byte| any.contains(byte));
        let marks = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
        let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
        let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
        if !marks || !in_range {
            return None;
        }
        let (mut at, mut nanos, mut weight) = (19, 0, NANOS / 10);
        if is(at, b".") {
            at += 1;
            while let Some(digit) = text.get(at).filter(|d| d.is_ascii_digit()) {
                nanos += u64::from(digit - b'0') * weight;
                weight /= 10;
                at += 1;
            }
        }
        let zone_s = match text.get(at..)? {
            b"Z" | b"z" => 0,
            [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
                let (hours, minutes) = (number(at + 1, 2)?, number(at + 4, 2)?);
                (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
            }
            _ => return None,
        };
        let seconds = days(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - zone_s;
        let seconds = u64::try_from(seconds).unwrap_or(0);
        Some(Self(seconds.saturating_mul(NANOS).saturating_add(nanos)))
    }

    /// This much earlier.
    pub const fn before(self, age: Millis) -> Self {
        Self(self.0.saturating_sub(age.0.saturating_mul(1_000_000)))
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; years begin in March here, so that leap days come last.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The other way round: year, month, day.
const fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + if month <= 2 { 1 } else { 0 }, month, day)
}

impl fmt::Display for Stamp {
    /// In UTC, with all nine digits: stamps of one width are easy to compare.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0 / NANOS, self.0 % NANOS);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let (year, month, day) = date(seconds.div_euclid(DAY_S));
        let of_day = seconds.rem_euclid(DAY_S);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    }
}

impl FromStr for Stamp {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        Self::parse(text.as_bytes()).ok_or_else(|| BadQuantity { want: WANT, text: text.chars().take(80).collect() })
    }
}

/// A moment of a device, as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// So long ago, by the device's own clock.
    Ago(Millis),
    /// This one.
    At(Stamp),
}

impl Moment {
    /// As a stamp, where the clock shows `now`.
    pub const fn at(self, now: Stamp) -> Stamp {
        match self {
            Self::Ago(age) => now.before(age),
            Self::At(stamp) => stamp,
        }
    }
}

impl FromStr for Moment {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let read = text.parse().map(Self::Ago).or_else(|_| text.parse().map(Self::At));
        read.map_err(|BadQuantity { text, .. }| BadQuantity { want: WANT_TIME, text })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ago(age) => age.fmt(f),
            Self::At(stamp) => stamp.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn moments_are_read_whatever_their_zone_and_precision() {
        let at = |text: &str| Stamp::parse(text.as_bytes()).map(|stamp| stamp.0);
        assert_eq!(at("1970-01-01T01:00:01.5+01:00"), Some(1_500_000_000));
        assert_eq!(at("2026-07-14T03:33:20.123Z"), Some(1_784_000_000_123_000_000));
        assert_eq!(at("2026-11-24T15:28:58.138188166+00:00"), Some(1_795_534_138_138_188_166));
        assert_eq!(at("2024-02-29T23:59:59Z"), Some(1_709_251_199_000_000_000));
        assert_eq!(at("1960-01-01T00:00:00Z"), Some(0));
        for bad in
            ["", "yesterday", "2026-01-02", "2026-13-02T00:00:00Z", "2026-01-02T03:04:05", "2026-01-02T03:04:05+1"]
        {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn people_say_how_long_ago_or_when() {
        assert_eq!("10m".parse(), Ok(Moment::Ago(Millis::secs(600))));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Moment::At(Stamp(1_000_000_000))));
        assert!("soon".parse::<Moment>().unwrap_err().to_string().contains("10m"));
        assert_eq!(Moment::Ago(Millis::secs(1)).at(Stamp(1_500_000_000)), Stamp(500_000_000));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in any::<u64>()) {
            let stamp = Stamp(nanos);
            prop_assert_eq!(stamp.to_string().parse(), Ok(stamp));
            prop_assert_eq!(stamp.to_string().len(), 30);
        }
    }
}
