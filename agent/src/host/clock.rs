//! The only reader of clocks in the agent.
//!
//! Uptime counts from boot, also while suspended, and never jumps: every deadline uses it. The wall clock may be anything
//! (boards boot in 1970) and is for people and for certificates only.
#![allow(clippy::disallowed_methods, reason = "this is the one place that reads clocks")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Time since boot.
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Milliseconds since 1970 by the device's wall clock; 0 when it is before 1970.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_moves_forward() {
        let before = uptime();
        assert!(before > Duration::ZERO);
        assert!(uptime() >= before);
    }
}
