//! The clock of an image is never before the latest time that was known to be right.
//!
//! Boards without a battery begin in 1970. systemd raises the clock to the image's date, and its time service to a stamp that
//! lies on root, which a rollback turns back. The agent judges the clock and never sets it; when it was fit, the agent
//! writes that down on the state volume (`clock`), and the date of this file is then a right time. This raises the clock to
//! it, forward only, before anything asks.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

/// The agent's note of a clock that was fit.
const NOTE: &str = "var/lib/bramble/clock";
/// A note from beyond is damage, not knowledge: 2100.
const BEYOND: Duration = Duration::from_secs(4_102_444_800);

/// Raises this machine's clock, if the note is later.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let path = root.join(NOTE);
    let noted = match std::fs::metadata(&path).and_then(|meta| meta.modified()) {
        Ok(noted) => noted,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err).with_context(|| format!("cannot look at {}", path.display())),
    };
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock here")]
    let now = SystemTime::now();
    let Some(floor) = raised(since_1970(now), since_1970(noted)) else { return Ok(()) };
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(floor)).context("cannot set the clock")?;
    println!("bramble: the clock was before the latest time that is known to have been right, and is raised to that");
    Ok(())
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// What the clock is set to, if it is.
fn raised(now: Duration, noted: Duration) -> Option<Duration> {
    (noted > now && noted < BEYOND).then_some(noted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_only_and_not_beyond() {
        let at = Duration::from_secs;
        assert_eq!(raised(at(0), at(1_790_000_000)), Some(at(1_790_000_000)));
        assert_eq!(raised(at(1_790_000_001), at(1_790_000_000)), None);
        assert_eq!(
            raised(at(2_100_000_000), at(1_790_000_000)),
            None,
            "a clock that runs ahead is the agent's to judge"
        );
        assert_eq!(raised(at(0), at(9_000_000_000)), None);
        let dir = tempfile::tempdir().unwrap();
        assert!(run(dir.path()).is_ok(), "a device that is new has no note");
    }
}
