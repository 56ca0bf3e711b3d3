//! Is a device there? A judgement over numbers; the heartbeat's arrival is the coordinator's own clock.

use bramble_contracts::api::Connection;

use super::Now;

/// When a device was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A heartbeat arrived while this coordinator was listening.
    At(Now),
    /// The broker said that its connection is gone, and no heartbeat came since.
    Left(Now),
    /// The store holds one, or a report: it was there once, nobody knows when.
    Once,
    /// Never.
    Never,
}

/// How long this coordinator has been hearing heartbeats without a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// Since then, in milliseconds of its monotonic clock.
    Since(u64),
    /// Not now: the broker is away, or the feed is catching up.
    Not,
}

/// What can be said of a device's connection.
pub fn judge(heard: Heard, listening: Listening, now_mono_ms: u64, timeout_ms: u64) -> Connection {
    let within = |then: u64| now_mono_ms.saturating_sub(then) <= timeout_ms;
    match (heard, listening) {
        (Heard::Never, Listening::Since(_) | Listening::Not) => Connection::Never,
        (Heard::Left(_), Listening::Since(_)) => Connection::Offline,
        (Heard::At(_) | Heard::Left(_) | Heard::Once, Listening::Not) => Connection::Recovering,
        (Heard::At(at), Listening::Since(_)) if within(at.mono_ms) => Connection::Online,
        (Heard::At(_) | Heard::Once, Listening::Since(since)) if within(since) => Connection::Recovering,
        (Heard::At(_) | Heard::Once, Listening::Since(_)) => Connection::Offline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_offline_only_after_we_listened_long_enough() {
        let heard = |mono_ms| Heard::At(Now { wall_ms: 0, mono_ms });
        let since = Listening::Since(10_000);
        for (heard, listening, now, want) in [
            (Heard::Never, since, 99_000, Connection::Never),
            (Heard::Once, since, 12_000, Connection::Recovering),
            (Heard::Once, since, 26_000, Connection::Offline),
            (heard(20_000), since, 30_000, Connection::Online),
            (heard(20_000), since, 40_000, Connection::Offline),
            (heard(20_000), Listening::Not, 21_000, Connection::Recovering),
            (heard(20_000), Listening::Since(50_000), 60_000, Connection::Recovering),
        ] {
            assert_eq!(judge(heard, listening, now, 15_000), want, "{heard:?} {listening:?} {now}");
        }
    }
}
