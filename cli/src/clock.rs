//! The only place that reads a clock.

use std::time::Instant;

use time::OffsetDateTime;

/// Wall-clock time.
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Time that only goes on.
#[allow(clippy::disallowed_methods, reason = "the one place that reads a clock")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}
