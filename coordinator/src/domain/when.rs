//! Moments as people read them (RFC 3339). Reads no clock.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Milliseconds since 1970 as RFC 3339 in UTC; what no calendar can say becomes the beginning of 1970.
pub fn rfc3339(wall_ms: u64) -> String {
    let nanos = i128::from(wall_ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// A moment written as RFC 3339, in milliseconds since 1970 (0 for what lies before); none for what is not one.
pub fn parse(text: &str) -> Option<u64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_back() {
        assert_eq!(rfc3339(1_784_000_000_123), "2026-07-14T03:33:20.123Z");
        assert_eq!(parse(&rfc3339(1_784_000_000_123)), Some(1_784_000_000_123));
        assert_eq!(rfc3339(u64::MAX), "1970-01-01T00:00:00Z");
        assert_eq!((parse("yesterday"), parse("1960-01-01T00:00:00Z")), (None, Some(0)));
    }
}
