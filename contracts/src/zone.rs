//! Time zones by their IANA names: how far their clocks are from UTC at a moment.
//!
//! Decides that by the rule that is in force now, from a table of this build (`zones.txt`): a coordinator in an empty
//! container and a device without tzdata know the same zones. Deliberately does not: know the past, nor the two zones that
//! follow the moon (`Africa/Casablanca`, `Africa/El_Aaiun`), which are an hour off in Ramadan.

/// Each line is a rule as POSIX writes it, and the zones that follow it: the last lines of tzdata's own files, version
/// 2025b.
const ZONES: &str = include_str!("zones.txt");
const DAY_SECS: i64 = 86_400;

/// One zone. Times are in seconds since 1970, offsets in seconds east of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone {
    standard: i64,
    summer: Option<Summer>,
}

/// The time of the other half of the year.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Summer {
    offset: i64,
    begins: Change,
    ends: Change,
}

/// The `week`th (5: last) `day` (0: Sunday) of a month, so many seconds after its midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    month: i64,
    week: i64,
    day: i64,
    secs: i64,
}

impl Zone {
    /// The zone of this name.
    pub fn named(name: &str) -> Option<Self> {
        ZONES.lines().find_map(|line| {
            let (rule, names) = line.split_once(' ')?;
            names.split(' ').any(|other| other == name).then(|| Self::read(rule))?
        })
    }

    /// How far its clocks are ahead of UTC at this moment.
    pub fn offset_secs(&self, at_secs: i64) -> i64 {
        let Some(Summer { offset, begins, ends }) = self.summer else { return self.standard };
        let year = year_of((at_secs + self.standard).div_euclid(DAY_SECS));
        let (begins, ends) = (begins.in_year(year) - self.standard, ends.in_year(year) - offset);
        let is_summer = match begins < ends {
            true => (begins..ends).contains(&at_secs),
            // South of the equator.
            false => at_secs >= begins || at_secs < ends,
        };
        if is_summer { offset } else { self.standard }
    }

    /// `CET-1CEST,M3.5.0,M10.5.0/3`: what POSIX counts is west of UTC.
    fn read(rule: &str) -> Option<Self> {
        let mut parts = rule.split(',');
        let (standard, rest) = time(after_name(parts.next()?)?)?;
        let standard = -standard;
        if rest.is_empty() {
            return Some(Self { standard, summer: None });
        }
        let rest = after_name(rest)?;
        let offset = if rest.is_empty() { standard + 3600 } else { -time(rest)?.0 };
        let (begins, ends) = (Change::read(parts.next()?)?, Change::read(parts.next()?)?);
        Some(Self { standard, summer: Some(Summer { offset, begins, ends }) })
    }
}

impl Change {
    /// `M3.5.0/1`.
    fn read(text: &str) -> Option<Self> {
        let (date, secs) = match text.split_once('/') {
            Some((date, at)) => (date, time(at)?.0),
            None => (text, 2 * 3600),
        };
        let mut numbers = date.strip_prefix('M')?.split('.').map(|n| n.parse::<i64>().ok());
        let mut number = || numbers.next().flatten();
        Some(Self { month: number()?, week: number()?, day: number()?, secs })
    }

    /// In seconds since 1970, by the clock on the wall.
    fn in_year(self, year: i64) -> i64 {
        let Self { month, week, day, secs } = self;
        let first = days(year, month);
        let next = if month == 12 { days(year + 1, 1) } else { days(year, month + 1) };
        let mut found = first + (day - weekday(first)).rem_euclid(7) + 7 * (week - 1);
        while found >= next {
            found -= 7;
        }
        found * DAY_SECS + secs
    }
}

/// What follows a name, `CET` or `<+0330>`.
fn after_name(text: &str) -> Option<&str> {
    let end = match text.strip_prefix('<') {
        Some(inner) => inner.find('>')? + 2,
        None => text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len()),
    };
    text.get(end..)
}

/// `-3:30`, in seconds, and what follows.
fn time(text: &str) -> Option<(i64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | ':'))).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (sign, number) = match number.strip_prefix('-') {
        Some(number) => (-1, number),
        None => (1, number.strip_prefix('+').unwrap_or(number)),
    };
    let mut secs = 0;
    for (part, unit) in number.split(':').zip([3600, 60, 1]) {
        secs += part.parse::<i64>().ok()? * unit;
    }
    Some((sign * secs, rest))
}

/// Days since 1970 of the first of a month.
fn days(year: i64, month: i64) -> i64 {
    // Years begin in March, so that the day that some have more is their last.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 - 719_468
}

fn year_of(day: i64) -> i64 {
    // Near enough to be off by one at most.
    let guess = 1970 + day.div_euclid(366);
    (guess..).find(|year| days(year + 1, 1) > day).unwrap_or(guess)
}

/// 0 is Sunday.
pub(crate) fn weekday(day: i64) -> i64 {
    (day + 4).rem_euclid(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zone_of_the_table_can_be_read() {
        let mut names = 0;
        for line in ZONES.lines() {
            let (rule, of) = line.split_once(' ').unwrap();
            assert!(Zone::read(rule).is_some(), "{rule}");
            names += of.split(' ').count();
        }
        assert_eq!((ZONES.lines().count(), names), (94, 597));
        assert_eq!(Zone::named("Europe/Atlantis"), None);
        assert_eq!(Zone::named(""), None);
        assert_eq!(Zone::named("CET-1CEST,M3.5.0,M10.5.0/3"), None, "a rule is no name");
    }

    /// What Python's `zoneinfo` says, at and just before changes.
    #[test]
    fn clocks_change_when_they_do() {
        for (name, at, hours) in [
            ("UTC", 0, 0.0),
            ("Asia/Kathmandu", 1_800_000_000, 5.75),
            ("America/Phoenix", 1_800_000_000, -7.0),
            ("Europe/Paris", 1_774_745_999, 1.0),
            ("Europe/Paris", 1_774_746_000, 2.0),
            ("Europe/Paris", 1_792_889_999, 2.0),
            ("Europe/Paris", 1_792_890_000, 1.0),
            ("Europe/Dublin", 1_774_745_999, 0.0),
            ("Europe/Dublin", 1_774_746_000, 1.0),
            ("America/New_York", 1_772_953_199, -5.0),
            ("America/New_York", 1_772_953_200, -4.0),
            ("Australia/Sydney", 1_775_318_399, 11.0),
            ("Australia/Sydney", 1_775_318_400, 10.0),
            ("Australia/Sydney", 1_767_225_600, 11.0),
            ("Australia/Lord_Howe", 1_767_225_600, 11.0),
            ("America/Nuuk", 1_774_745_999, -2.0),
            ("America/Nuuk", 1_774_746_000, -1.0),
        ] {
            let found = Zone::named(name).unwrap().offset_secs(at);
            assert_eq!(found as f64 / 3600.0, hours, "{name} at {at}");
        }
    }

    #[test]
    fn days_are_counted_as_calendars_do() {
        assert_eq!((days(1970, 1), days(2000, 3), days(2026, 11)), (0, 11_017, 20_758));
        for day in [0, 364, 365, 11_016, 20_819, 20_820, 47_481, 47_482] {
            let year = year_of(day);
            assert!(days(year, 1) <= day && day < days(year + 1, 1), "{day}: {year}");
        }
        assert_eq!((weekday(0), weekday(20_785)), (4, 6), "a Thursday, and Saturday 28 November 2026");
    }
}
