//! The only reader of clocks in the agent. It reads and listens; it never sets one: systemd-timesyncd or chrony does.
//!
//! Uptime counts from boot, also while suspended, and never jumps: every deadline uses it. The wall clock may be anything
//! (boards boot in 1970) and is for people and for certificates only.
#![allow(clippy::disallowed_methods, reason = "this is the one place that reads clocks")]

use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;

use crate::core::clock::Now;

/// When this program was built, in milliseconds since 1970: see `build.rs`.
pub fn built_ms() -> u64 {
    env!("BRAMBLE_BUILT_SECS").parse::<u64>().map_or(0, |secs| secs.saturating_mul(1000))
}

/// Time since boot.
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// The same in milliseconds.
pub fn up_ms() -> u64 {
    u64::try_from(uptime().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 by the device's wall clock; 0 when it is before 1970.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Both.
pub fn now() -> Now {
    Now { wall_ms: wall_ms(), up_ms: up_ms() }
}

/// Hears when somebody sets the wall clock, or the device wakes from suspend: told by the kernel, without polling.
#[derive(Debug)]
pub struct ClockSet(AsyncFd<Timer>);

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// As late as a timer goes on every kernel: the year 2200.
const NEVER: TimeSpec = TimeSpec::new(7_258_118_400, 0);

impl ClockSet {
    /// Listens from now on.
    pub fn listen() -> std::io::Result<Self> {
        Self::listen_until(NEVER)
    }

    /// A timer that a set clock cancels; it also wakes whoever waits at `end`.
    #[allow(
        deprecated,
        reason = "its successor is `unsafe`; what makes it so, a descriptor closed early, `Timer` rules out"
    )]
    fn listen_until(end: TimeSpec) -> std::io::Result<Self> {
        let timer = TimerFd::new(timerfd::ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(Expiration::OneShot(end), flags)?;
        Ok(Self(AsyncFd::new(Timer(timer))?))
    }

    /// Waits until it was set. What is set while nobody waits is told at the next call.
    pub async fn wait(&mut self) -> std::io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            // Cancelled is what a set clock does to it; it stays armed.
            if let Ok(told) = ready.try_io(|timer| timer.get_ref().0.wait().map_err(std::io::Error::from)) {
                return told;
            }
        }
    }
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

    #[test]
    fn this_program_was_built_before_it_runs() {
        assert!((1_767_225_600_000..=wall_ms()).contains(&built_ms()));
    }

    /// Nobody's clock is set here: that a set clock cancels such a timer is the kernel's word, that this is one is ours.
    #[tokio::test]
    async fn the_kernel_is_asked_to_tell_of_a_set_clock() {
        let mut set = ClockSet::listen().unwrap();
        let fd = set.0.get_ref().as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let says = |name: &str, want: &str| {
            info.lines().any(|line| line.split_once(':').is_some_and(|(n, w)| (n, w.trim()) == (name, want)))
        };
        assert!(says("clockid", "0") && says("settime flags", "03"), "CLOCK_REALTIME, absolute, cancel on set: {info}");
        assert!(tokio::time::timeout(Duration::from_millis(50), set.wait()).await.is_err(), "nobody set it");
        let mut soon = ClockSet::listen_until(TimeSpec::new(1, 0)).unwrap();
        tokio::time::timeout(Duration::from_secs(10), soon.wait()).await.unwrap().unwrap();
    }
}
