//! Stopping containers: the signal, the time they get, SIGKILL where it is allowed.
//!
//! Waits for the main process itself. Decides not what is stopped, nor how long it may take.

use std::time::Duration;

use super::device::{PodmanHost, refused};
use super::podman::State;
use crate::core::step::{AfterGrace, StepError, StopRule, Target};

/// After SIGKILL a container is gone within this, or something is badly wrong.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);
/// A main process that ends is noticed between so soon and so late.
const PROCESS_PAUSE_MIN: Duration = Duration::from_millis(2);
const PROCESS_PAUSE_MAX: Duration = Duration::from_millis(20);

impl PodmanHost {
    pub(super) async fn stop(&self, targets: &[Target], rule: &StopRule) -> Result<(), StepError> {
        let mut running = Vec::new();
        for target in targets {
            if let Some(pid) = self.signal(&target.id, &rule.signal).await? {
                running.push((target, pid));
            }
        }
        let waits = running.iter().map(|(target, pid)| self.ended(&target.id, *pid, rule.grace));
        let ended = futures::future::try_join_all(waits).await?;
        let left: Vec<&Target> =
            running.iter().zip(ended).filter(|(_, ended)| !ended).map(|((target, _), _)| *target).collect();
        if left.is_empty() {
            return Ok(());
        }
        match rule.then {
            AfterGrace::GiveUp => Err(StepError::StillRunning {
                names: left.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "),
                grace_s: rule.grace.as_secs(),
            }),
            AfterGrace::Kill => {
                for target in left {
                    self.kill(&target.id).await?;
                }
                Ok(())
            }
        }
    }

    pub(super) async fn kill(&self, id: &str) -> Result<(), StepError> {
        let Some(pid) = self.signal(id, "SIGKILL").await? else { return Ok(()) };
        if self.ended(id, pid, KILL_TIME_MAX).await? {
            return Ok(());
        }
        Err(StepError::Refused("a container does not even end by SIGKILL; its storage may hang".into()))
    }

    /// Sends a signal and gives the process that got it. One that does not run any more needs no signal.
    async fn signal(&self, id: &str, signal: &str) -> Result<Option<i64>, StepError> {
        let pid = match self.podman.inspect(id).await {
            Ok(detail) => detail.map(|detail| detail.state.pid),
            // One whose storage is damaged cannot be looked at, and is to be stopped all the same.
            Err(err) if err.is_container_damage() => {
                self.podman.line(id).await.map_err(|err| refused(&err))?.map(|l| l.pid)
            }
            Err(err) => return Err(refused(&err)),
        };
        let Some(pid) = pid.filter(|pid| *pid > 0) else { return Ok(None) };
        match self.podman.kill(id, signal).await {
            Ok(()) => Ok(Some(pid)),
            Err(err) if err.is_not_found() || err.is_wrong_state() => Ok(None),
            Err(err) => Err(refused(&err)),
        }
    }

    /// Waits for a container's main process. Podman's own `wait` answers only after the network is taken down, a quarter
    /// of a second later, while removing does that too. False when it still runs after `within`.
    async fn ended(&self, id: &str, pid: i64, within: Duration) -> Result<bool, StepError> {
        let proc = format!("/proc/{pid}");
        let gone = async {
            let mut pause = PROCESS_PAUSE_MIN;
            while tokio::fs::try_exists(&proc).await.unwrap_or(false) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PROCESS_PAUSE_MAX);
            }
        };
        if tokio::time::timeout(within, gone).await.is_err() {
            return Ok(false);
        }
        // Podman learns of it from conmon, a moment later.
        let told = async {
            loop {
                match self.podman.inspect(id).await {
                    Ok(Some(detail)) if detail.state.status == State::Running => {}
                    Ok(_) => return Ok(true),
                    Err(err) if err.is_container_damage() => return Ok(true),
                    Err(err) => return Err(refused(&err)),
                }
                tokio::time::sleep(PROCESS_PAUSE_MIN).await;
            }
        };
        tokio::time::timeout(KILL_TIME_MAX, told).await.unwrap_or(Ok(true))
    }
}
