//! What the kernel says of a process: memory that is its own or its share, time on a core, how often it woke.

use std::fs;
use std::time::Duration;

pub(super) use crate::process::pss;

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    cpu: Duration,
    wakeups: u64,
}

impl Used {
    /// # Panics
    /// When the process is gone.
    pub(super) fn now(pid: i32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
        let mut used = Self { cpu: Duration::ZERO, wakeups: 0 };
        for task in tasks.filter_map(|entry| Some(entry.ok()?.path())) {
            let schedstat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            let nanos = schedstat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            used.cpu += Duration::from_nanos(nanos);
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            let switches = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            used.wakeups += switches.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        used
    }

    /// Percent of one core since `before`, and wake-ups a minute.
    pub(super) fn since(self, before: Self, time: Duration) -> (f64, f64) {
        let cpu = self.cpu.saturating_sub(before.cpu).as_secs_f64() / time.as_secs_f64() * 100.0;
        let wakeups = self.wakeups.saturating_sub(before.wakeups);
        (cpu, f64::from(u32::try_from(wakeups).unwrap_or(u32::MAX)) / time.as_secs_f64() * 60.0)
    }
}
