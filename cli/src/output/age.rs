//! Times for people.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How long ago a time of the coordinator was: `12s`, `5m`, `3h`, `9d`. What is no time is shown as it is.
pub(crate) fn age(at: &str, now: OffsetDateTime) -> String {
    let Ok(then) = OffsetDateTime::parse(at, &Rfc3339) else { return at.to_owned() };
    let secs = (now - then).whole_seconds().max(0);
    match secs {
        ..120 => format!("{secs}s"),
        120..7_200 => format!("{}m", secs / 60),
        7_200..172_800 => format!("{}h", secs / 3_600),
        172_800.. => format!("{}d", secs / 86_400),
    }
}

/// Milliseconds since 1970 as a time, as a device says them; `never` for 0.
pub(crate) fn clock(ms: u64) -> String {
    if ms == 0 {
        return "never".to_owned();
    }
    let at = i64::try_from(ms / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{ms} ms after 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_times() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let ago = |secs| age(&(now - time::Duration::seconds(secs)).format(&Rfc3339).unwrap(), now);
        assert_eq!([0, 119, 120, 7_200, 172_800, -5].map(ago), ["0s", "119s", "2m", "2h", "2d", "0s"]);
        assert_eq!(age("soon", now), "soon");
        assert_eq!((clock(0), clock(1_800_000_000_123)), ("never".into(), "2027-01-15T08:00:00Z".into()));
    }
}
