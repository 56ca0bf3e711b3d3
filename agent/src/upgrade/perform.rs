//! Effects, done. Each may be asked for again.
//!
//! Decides how; an error is in words and ends the list of effects it stood in.

use std::path::Path;
use std::time::Duration;

use bramble_contracts::smoke::{CheckState, Suite};
use bramble_contracts::v1::{AgentVersion, Instance};
use bramble_contracts::v2::AgentWish;

use super::Driver;
use super::download::{Download, DownloadError};
use super::judge::fetch_and_judge;
use crate::check::{Blame, blame};
use crate::core::upgrade::{Admission, Attempt, Effect, Event, ExitCode, Failure, Fault, prune};
use crate::host::cmd::{self, Bounds, CmdError};
use crate::host::instances::{Link, Manager, ManagerError};
use crate::host::systemd;
use crate::mesh::OnDuty;
use crate::run::{Acting, Ended};

/// For so long what may not be cut in two is waited for before an upgrade goes on.
const DRAIN_MAX: Duration = Duration::from_secs(60);
const WORDS_MAX: usize = 600;
/// Old binaries that nobody needs are kept as long as they fit into this.
const KEPT_BYTES: u64 = 64 << 20;

impl Driver {
    /// Does one. `Some` ends this process.
    pub(super) async fn perform(&mut self, effect: &Effect, acting: &mut Acting) -> Result<Option<Ended>, String> {
        let site = self.site.clone();
        match effect {
            Effect::Judge(wish) => self.judge(wish.clone(), acting.on_duty())?,
            Effect::Stage { of, what } => self.stage(*of, *what),
            Effect::SelfTest { of, version } => self.self_test(*of, *version),
            Effect::Abandon => self.jobs.abandon(),
            Effect::TurnLink(version) => {
                let version = *version;
                files(move || site.binaries.turn(Link::Current, version)).await?;
                self.pending.push_back(Event::LinkTurned(version));
            }
            Effect::MarkConfirmed(version) => {
                let version = *version;
                files(move || site.binaries.turn(Link::Confirmed, version)).await?;
            }
            Effect::RaiseFloor(floor) => {
                let floor = *floor;
                files(move || site.files.raise_floor(floor)).await?;
            }
            Effect::StartInstance(instance) => self.start(*instance).await?,
            Effect::StopInstance(instance) => {
                self.manager()?.stop(*instance).await.map_err(|err| err.to_string())?;
            }
            Effect::EnableInstance(instance) => {
                self.manager()?.enable(*instance).await.map_err(|err| err.to_string())?;
            }
            Effect::Halt if self.jobs.is_halting() => {}
            Effect::Halt => {
                let (supervisor, halt) = (acting.supervisor(), acting.halt());
                self.jobs.halt(supervisor, async move {
                    halt.await;
                    drop(site.events.send(Event::Halted).await);
                });
            }
            Effect::ReleaseLease => {
                tracing::info!("this agent acts no more");
                self.held = None;
            }
            Effect::WaitForLease => {
                if self.waiting.is_none() && self.held.is_none() {
                    self.waiting = Some(self.lease.wait().map_err(|err| err.to_string())?);
                }
            }
            Effect::Act => self.act(acting).await?,
            Effect::Prune => {
                let (ledger, facts) = (self.ledger.clone(), self.facts());
                files(move || {
                    let all = site.binaries.all()?;
                    let binaries: Vec<_> = all.iter().map(|(_, binary)| *binary).collect();
                    let go = prune(&ledger, &facts, &binaries, KEPT_BYTES);
                    all.iter()
                        .filter(|(_, binary)| go.contains(binary))
                        .try_for_each(|(name, _)| site.binaries.remove(name))
                })
                .await?;
            }
            Effect::Exit(ExitCode::Retire) => return Ok(Some(Ended::Retired)),
            Effect::Exit(ExitCode::Restart) => return Ok(Some(Ended::Again)),
        }
        Ok(None)
    }

    async fn act(&mut self, acting: &mut Acting) -> Result<(), String> {
        self.jobs.end_halt().await;
        if acting.supervisor().is_none() {
            self.told_reconciled = false;
            acting.act().map_err(|err| err.to_string())?;
            // What is stored is acted on, and known: also which release is wished.
            if self.sight.saw(&self.site.board.view()) {
                self.pending.push_back(Event::Wished);
            }
        }
        self.told_ready = true;
        systemd::ready();
        Ok(())
    }

    fn manager(&self) -> Result<&Manager, String> {
        let why = "nobody here can start a second agent: run it as a unit of systemd, or by `bramble-agent supervise`";
        self.site.manager.as_ref().ok_or_else(|| why.to_owned())
    }

    fn judge(&mut self, wish: AgentWish, on_duty: OnDuty) -> Result<(), String> {
        let site = self.site.clone();
        let facts = self.facts();
        let target = facts.target.ok_or("this agent was not made to be replaced")?;
        self.jobs.progress.store(0, std::sync::atomic::Ordering::Relaxed);
        self.jobs.begin(async move {
            drained(on_duty).await;
            let (of, result) = (Attempt::from(&wish), fetch_and_judge(&site, &wish, &target, facts.floor).await);
            drop(site.events.send(Event::Judged { of, result }).await);
        });
        Ok(())
    }

    fn stage(&mut self, of: Attempt, what: Admission) {
        let site = self.site.clone();
        let download = Download {
            binaries: site.binaries.clone(),
            version: what.version,
            sha256: what.sha256,
            size: what.size,
            reserve: site.config.bounds().reserve_bytes,
            progress: self.jobs.progress.clone(),
        };
        self.jobs.begin(async move {
            let done = download.run(site.config.source().as_ref(), &site.releases).await;
            let result = done.map_err(|err| {
                let fault = match &err {
                    DownloadError::Binary(_)
                    | DownloadError::Io { .. }
                    | DownloadError::NoRoom { .. }
                    | DownloadError::NothingComes(_) => Fault::Nobody,
                    // Somebody on the way may have done it.
                    DownloadError::Digest { .. } => Fault::Doubt,
                    DownloadError::OtherBinary(_) => Fault::Release,
                };
                Failure::new(fault, err.to_string())
            });
            drop(site.events.send(Event::Staged { of, result }).await);
        });
    }

    fn self_test(&mut self, of: Attempt, version: AgentVersion) {
        let site = self.site.clone();
        let time = Duration::from_millis(self.facts().bounds.test_ms);
        self.jobs.begin(async move {
            let result = test(&site.binaries.path(version), &site.config.file, time).await;
            drop(site.events.send(Event::Tested { of, result }).await);
        });
    }

    /// Asks for the start at once; that it is ready is told later.
    async fn start(&mut self, instance: Instance) -> Result<(), String> {
        let manager = self.manager()?.clone();
        manager.begin(instance).await.map_err(|err| err.to_string())?;
        let Some(upgrade) = &self.ledger.upgrade else { return Ok(()) };
        let (of, site) = (upgrade.of, self.site.clone());
        let ready = async move {
            let result = manager.ready(instance).await.map_err(|err| {
                let fault = match &err {
                    ManagerError::Unreachable(_) => Fault::Nobody,
                    ManagerError::Failed { .. } => Fault::Doubt,
                };
                Failure::new(fault, err.to_string())
            });
            let is_ready = result.is_ok();
            drop(site.events.send(Event::Ready { of, result }).await);
            if is_ready {
                super::tell_end(&site, instance).await;
            }
        };
        tokio::spawn(ready);
        Ok(())
    }
}

/// Waits until no container is being started or stopped; not for ever, because a halt waits for the step under way anyway.
async fn drained(on_duty: OnDuty) {
    let Some(duty) = on_duty.duty() else { return };
    let mut settled = duty.supervisor.settled();
    drop(duty);
    if tokio::time::timeout(DRAIN_MAX, settled.wait_for(|settled| *settled)).await.is_err() {
        tracing::info!("apps are on the move; the upgrade goes on all the same");
    }
}

/// Has a new binary test itself.
async fn test(binary: &Path, config: &Path, time: Duration) -> Result<(), Failure> {
    let config = config.display().to_string();
    let args = ["self-test", "-o", "json", "--config", &config];
    let bounds = Bounds { time, ..Bounds::default() };
    let done = match Box::pin(cmd::run(binary, &args, bounds)).await {
        Ok(done) => done,
        Err(err @ CmdError::TimedOut { .. }) => return Err(Failure::new(Fault::Release, format!("self-test: {err}"))),
        Err(err @ CmdError::Start { .. }) => {
            let cause = std::error::Error::source(&err).map(ToString::to_string).unwrap_or_default();
            return Err(Failure::new(Fault::Release, format!("the new agent does not start: {cause}")));
        }
        Err(err @ CmdError::Wait { .. }) => return Err(Failure::new(Fault::Nobody, err.to_string())),
    };
    let suite: Option<Suite> = serde_json::from_str(&done.stdout).ok();
    let Some(suite) = suite else {
        let said = done.stderr.lines().next().unwrap_or("it says nothing");
        let why = format!("the new agent's self-test ended ({}) without a result: {said}", done.status);
        return Err(Failure::new(Fault::Release, cut(&why)));
    };
    let fault = match blame(&suite) {
        None if done.status.success() => return Ok(()),
        None | Some(Blame::Program) => Fault::Release,
        Some(Blame::Device) => Fault::Doubt,
        Some(Blame::Connection) => Fault::Unconnected,
    };
    let failed = suite.checks.iter().filter(|one| one.state == CheckState::Failed).map(ToString::to_string);
    let failed: Vec<String> = failed.collect();
    Err(Failure::new(fault, cut(&format!("the new agent's self-test failed: {}", failed.join("; ")))))
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

/// Work on files, where waiting for the disk hurts nobody.
async fn files<E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|err| err.to_string())?;
    done.map_err(|err| err.to_string())
}
