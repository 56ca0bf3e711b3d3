//! Weekly windows: what is a good one, and when it is open.
//!
//! Decides that from the window and a moment. Whoever asks brings the time, and has to know whether its clock is fit.

use std::{fmt, str::FromStr};

use crate::{
    problem::FieldError,
    v1::Window,
    zone::{Zone, weekday},
};

const MINUTE_SECS: i64 = 60;
const DAY_SECS: i64 = 86_400;
/// As people write them; a week begins on Monday.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const TEXT_MAX: usize = 64;

/// A window that can be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weekly {
    /// From Monday on: does it open on this day?
    days: [bool; 7],
    /// Seconds after midnight.
    from: i64,
    /// The same; not after `from` where it crosses midnight.
    to: i64,
    zone: Zone,
}

/// What is wrong with a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Flaw {
    /// As it stands in a manifest.
    pub field: &'static str,
    /// In words.
    pub message: String,
}

impl Window {
    /// What is wrong with it; `at` is where it stands.
    pub fn problems(&self, at: &str) -> Vec<FieldError> {
        let flaw = Weekly::of(self).err();
        flaw.map(|Flaw { field, message }| FieldError { path: format!("{at}.{field}"), message }).into_iter().collect()
    }
}

impl Weekly {
    /// Reads one.
    ///
    /// # Errors
    /// The field that cannot be read, or a zone that this build does not know.
    pub fn of(window: &Window) -> Result<Self, Flaw> {
        let Window { days, from, to, time_zone } = window;
        let flaw = |field, message: String| Flaw { field, message };
        let bad_days = || flaw("days", format!("is such as Mon-Fri or Sat,Sun, not {days:.20?}"));
        let days = read_days(days).ok_or_else(bad_days)?;
        let time = |field, text: &str| {
            clock(text).ok_or_else(|| flaw(field, format!("is a time such as 02:00, up to 23:59, not {text:.20?}")))
        };
        let (from, to) = (time("from", from)?, time("to", to)?);
        if from == to {
            return Err(flaw("to", "is the same as from: leave the window out for any time".to_owned()));
        }
        let unknown = || flaw("timeZone", format!("is a name such as Europe/Paris or UTC; {time_zone:.40?} is none"));
        Ok(Self { days, from, to, zone: Zone::named(time_zone).ok_or_else(unknown)? })
    }

    /// Is it open? In milliseconds since 1970. Where clocks are put forward over all of it, it stays closed that day.
    pub fn is_open(&self, at_ms: u64) -> bool {
        let at = secs(at_ms);
        let local = at + self.zone.offset_secs(at);
        let (day, second) = (local.div_euclid(DAY_SECS), local.rem_euclid(DAY_SECS));
        if self.from < self.to {
            return self.opens_on(day) && (self.from..self.to).contains(&second);
        }
        (self.opens_on(day) && second >= self.from) || (self.opens_on(day - 1) && second < self.to)
    }

    /// For how long it stays closed, in milliseconds; 0 when it is open. None where that is not within eight days.
    pub fn opens_in_ms(&self, at_ms: u64) -> Option<u64> {
        if self.is_open(at_ms) {
            return Some(0);
        }
        let at = secs(at_ms);
        let today = (at + self.zone.offset_secs(at)).div_euclid(DAY_SECS);
        let opening = |day: i64| {
            let local = day * DAY_SECS + self.from;
            let opens = local - self.zone.offset_secs(local - self.zone.offset_secs(at));
            let opens_ms = u64::try_from(opens).ok()?.checked_mul(1000)?;
            (opens_ms > at_ms && self.is_open(opens_ms)).then(|| opens_ms - at_ms)
        };
        (today..=today + 8).filter(|day| self.opens_on(*day)).find_map(opening)
    }

    fn opens_on(&self, day: i64) -> bool {
        // A week of days since 1970 begins on Sunday.
        let from_monday = (weekday(day) + 6).rem_euclid(7);
        usize::try_from(from_monday).is_ok_and(|day| self.days[day])
    }
}

fn secs(ms: u64) -> i64 {
    i64::try_from(ms / 1000).unwrap_or(i64::MAX / 2)
}

/// `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn read_days(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| *day == name);
    let mut days = [false; 7];
    for part in text.split(',').filter(|_| text.len() <= TEXT_MAX) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        for step in 0..=(last + 7 - first) % 7 {
            days[(first + step) % 7] = true;
        }
    }
    days.contains(&true).then_some(days)
}

/// `02:30`, in seconds after midnight.
fn clock(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |part: &str, max: i64| {
        let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<i64>().ok().filter(|n| plain && *n <= max)
    };
    Some((number(hours, 23)? * 60 + number(minutes, 59)?) * MINUTE_SECS)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { days, from, to, time_zone } = self;
        write!(f, "{days} {from}-{to} {time_zone}")
    }
}

impl FromStr for Window {
    type Err = String;

    /// `Mon-Fri 02:00-05:00 Europe/Paris`. On every day, where none are named, and in UTC without a zone.
    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_time = |word: &&str| word.contains(':');
        let (days, times, zone) = match words[..] {
            [times] => ("Mon-Sun", times, "UTC"),
            [times, zone] if is_time(&times) => ("Mon-Sun", times, zone),
            [days, times] => (days, times, "UTC"),
            [days, times, zone] => (days, times, zone),
            _ => return Err("write it as 'Mon-Fri 02:00-05:00 Europe/Paris'".to_owned()),
        };
        let (from, to) = times.split_once('-').unwrap_or((times, ""));
        let [days, from, to, time_zone] = [days, from, to, zone].map(str::to_owned);
        let window = Self { days, from, to, time_zone };
        Weekly::of(&window).map_err(|flaw| flaw.to_string())?;
        Ok(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weekly(text: &str) -> Weekly {
        Weekly::of(&text.parse().unwrap()).unwrap()
    }

    /// `2026-11-28 01:30`, in UTC and milliseconds since 1970.
    fn at(text: &str) -> u64 {
        let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
        // November 2026 begins on day 20,758, and the months around it are as long as these.
        let months = [(3, 20_513), (10, 20_727), (11, 20_758), (12, 20_788)];
        let month = months.iter().find(|(month, _)| *month == number(5..7)).unwrap();
        assert_eq!(number(0..4), 2026);
        let minutes = ((month.1 + number(8..10) - 1) * 24 + number(11..13)) * 60 + number(14..16);
        u64::try_from(minutes * 60_000).unwrap()
    }

    #[test]
    fn a_window_is_open_on_its_days_from_its_first_minute_on() {
        let window = weekly("Mon-Fri 02:00-05:00 UTC");
        for (moment, open) in [
            ("2026-11-27 01:59", false),
            ("2026-11-27 02:00", true),
            ("2026-11-27 04:59", true),
            ("2026-11-27 05:00", false),
            ("2026-11-28 03:00", false),
            ("2026-11-29 03:00", false),
            ("2026-11-30 03:00", true),
        ] {
            assert_eq!(window.is_open(at(moment)), open, "{moment}");
        }
        assert!(!window.is_open(at("2026-11-27 05:00")) && window.is_open(at("2026-11-27 05:00") - 1));
    }

    #[test]
    fn one_that_crosses_midnight_belongs_to_the_day_it_opens_on() {
        let window = weekly("Sat 22:00-02:00 UTC");
        for (moment, open) in [
            ("2026-11-27 23:00", false),
            ("2026-11-28 01:00", false),
            ("2026-11-28 21:59", false),
            ("2026-11-28 22:00", true),
            ("2026-11-29 00:00", true),
            ("2026-11-29 01:59", true),
            ("2026-11-29 02:00", false),
            ("2026-11-29 23:00", false),
        ] {
            assert_eq!(window.is_open(at(moment)), open, "{moment}");
        }
        let until_midnight = weekly("Sat 22:00-00:00 UTC");
        assert!(until_midnight.is_open(at("2026-11-28 23:59")) && !until_midnight.is_open(at("2026-11-29 00:00")));
    }

    #[test]
    fn the_clock_on_the_wall_counts() {
        let window = weekly("Sun 02:00-04:00 Europe/Paris");
        for (moment, open) in [
            // Summer time begins: 02:00 to 03:00 is left out, and an hour of the window is left.
            ("2026-03-29 00:59", false),
            ("2026-03-29 01:00", true),
            ("2026-03-29 01:59", true),
            ("2026-03-29 02:00", false),
            // It ends: 02:00 to 03:00 comes twice, and the window has three hours.
            ("2026-10-24 23:59", false),
            ("2026-10-25 00:00", true),
            ("2026-10-25 01:30", true),
            ("2026-10-25 02:59", true),
            ("2026-10-25 03:00", false),
            // In winter.
            ("2026-11-29 00:59", false),
            ("2026-11-29 01:00", true),
        ] {
            assert_eq!(window.is_open(at(moment)), open, "{moment}");
        }
        assert!(!weekly("Sun 02:00-03:00 Europe/Paris").is_open(at("2026-03-29 01:00")), "nobody's clock showed it");
        // Another day there than here.
        assert!(weekly("Sun 01:00-02:00 Pacific/Auckland").is_open(at("2026-11-28 12:30")));
    }

    #[test]
    fn when_it_opens_is_known_before() {
        let hours = |window: &str, moment: &str| Some(weekly(window).opens_in_ms(at(moment))? as f64 / 3_600_000.0);
        for (window, moment, wanted) in [
            ("Mon-Fri 02:00-05:00 UTC", "2026-11-27 03:00", Some(0.0)),
            ("Mon-Fri 02:00-05:00 UTC", "2026-11-27 00:30", Some(1.5)),
            ("Mon-Fri 02:00-05:00 UTC", "2026-11-27 05:00", Some(69.0)),
            ("Sat 22:00-02:00 UTC", "2026-11-29 02:00", Some(164.0)),
            ("Sun 02:00-04:00 Europe/Paris", "2026-10-24 12:00", Some(12.0)),
            ("Sun 04:00-05:00 Europe/Paris", "2026-03-28 12:00", Some(14.0)),
            ("Sun 02:00-03:00 Europe/Paris", "2026-03-28 12:00", Some(180.0)),
            ("01:00-02:00 America/New_York", "2026-11-27 12:00", Some(18.0)),
        ] {
            assert_eq!(hours(window, moment), wanted, "{window} at {moment}");
        }
    }

    #[test]
    fn days_are_lists_and_ranges() {
        let shown = |text: &str| read_days(text).map(|days| days.map(|is| if is { 'x' } else { '.' }).iter().collect());
        for (text, wanted) in [
            ("Mon-Fri", "xxxxx.."),
            ("Sat,Sun", ".....xx"),
            ("Fri-Mon", "x...xxx"),
            ("Wed", "..x...."),
            ("Mon-Sun", "xxxxxxx"),
            ("Mon,Wed-Thu", "x.xx..."),
        ] {
            assert_eq!(shown(text), Some(wanted.to_owned()), "{text}");
        }
        for bad in ["", "mon", "Mon-", "Mon Tue", "Funday", "Mon,,Tue"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_judged_is_named() {
        let flaw = |days: &str, from: &str, to: &str, zone: &str| {
            let [days, from, to, time_zone] = [days, from, to, zone].map(str::to_owned);
            Weekly::of(&Window { days, from, to, time_zone }).err().map(|flaw| flaw.field)
        };
        assert_eq!(flaw("Mon", "02:00", "05:00", "Europe/Paris"), None);
        assert_eq!(flaw("Mo", "02:00", "05:00", "UTC"), Some("days"));
        for bad in ["2:00", "24:00", "02:60", "02", "", "+2:00", "02:00:00"] {
            assert_eq!(flaw("Mon", bad, "05:00", "UTC"), Some("from"), "{bad}");
        }
        assert_eq!(flaw("Mon", "02:00", "02:00", "UTC"), Some("to"));
        for bad in ["Paris", "europe/paris", "", "CET-1"] {
            assert_eq!(flaw("Mon", "02:00", "05:00", bad), Some("timeZone"), "{bad}");
        }
    }

    #[test]
    fn words_become_a_window_and_back() {
        for (text, wanted) in [
            ("Mon-Fri 02:00-05:00 Europe/Paris", "Mon-Fri 02:00-05:00 Europe/Paris"),
            ("22:00-02:00", "Mon-Sun 22:00-02:00 UTC"),
            (" 22:00-02:00  Asia/Tokyo", "Mon-Sun 22:00-02:00 Asia/Tokyo"),
            ("Sat,Sun 22:00-02:00", "Sat,Sun 22:00-02:00 UTC"),
        ] {
            assert_eq!(text.parse::<Window>().map(|window| window.to_string()), Ok(wanted.to_owned()));
        }
        for bad in ["", "Mon-Fri", "Mon 02:00", "Mon 02:00-05:00 UTC UTC", "Mon 02:00-05:00 Nowhere"] {
            assert!(bad.parse::<Window>().is_err(), "{bad}");
        }
    }
}
