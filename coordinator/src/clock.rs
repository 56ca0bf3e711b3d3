//! The only place of the coordinator that reads a clock.
//!
//! Decides: which clock answers which question (wall time for people and JWTs, monotonic time for deadlines).
//! Deliberately does not: judge the time; callers that need a decision take the reading as an input.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Wall clock, seconds since 1970.
pub fn unix_secs() -> u64 {
    u64::try_from(now().unix_timestamp()).unwrap_or(0)
}

/// Wall clock, milliseconds since 1970.
pub fn unix_ms() -> u64 {
    u64::try_from(now().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// Wall clock, UTC.
#[expect(clippy::disallowed_methods, reason = "the one clock module of this program")]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::from(std::time::SystemTime::now())
}

/// Wall clock as people and the API read it.
pub fn rfc3339() -> String {
    now().format(&Rfc3339).expect("invariant: the years 1970 to 9999 have an RFC 3339 form")
}

/// Monotonic time since the first reading in this process: for deadlines and durations.
#[expect(clippy::disallowed_methods, reason = "the one clock module of this program")]
pub fn monotonic() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    now.duration_since(*START.get_or_init(|| now))
}

#[cfg(test)]
mod tests {
    #[test]
    fn clocks_agree_and_only_grow() {
        let (a, b) = (super::monotonic(), super::monotonic());
        assert!(a <= b);
        assert!(super::unix_ms() / 1000 >= super::unix_secs() - 1);
        assert!(super::rfc3339().ends_with('Z'));
    }
}
