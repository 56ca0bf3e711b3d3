//! The clock of a virtual board. Decides what QEMU is told; every boot asks again, as a battery-backed clock would go on.

use std::time::Duration;

use bramble_fleet_tests::clock::unix_secs;
use time::OffsetDateTime;

/// What the board's clock shows at power-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The time of this machine.
    Right,
    /// As a board without a battery: 1970.
    Unset,
    /// That much ahead of this machine's.
    Ahead(Duration),
}

impl Clock {
    /// QEMU's word for it.
    #[must_use]
    pub(crate) fn rtc(self) -> String {
        match self {
            Clock::Right => "utc".into(),
            Clock::Unset => text(0),
            Clock::Ahead(by) => text(unix_secs() + by.as_secs()),
        }
    }
}

fn text(unix: u64) -> String {
    let at = i64::try_from(unix).ok().and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, time) = (at.date(), at.time());
    let month = u8::from(date.month());
    let (hour, minute, second) = time.as_hms();
    format!("{:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}", date.year(), date.day())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_is_told_a_time_it_understands() {
        assert_eq!(Clock::Unset.rtc(), "1970-01-01T00:00:00");
        assert_eq!(Clock::Right.rtc(), "utc");
        assert_eq!(text(1_795_863_909), "2026-11-28T11:05:09");
        assert!(Clock::Ahead(Duration::from_secs(3650 * 86_400)).rtc().starts_with("20"));
    }
}
