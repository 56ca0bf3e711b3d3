//! Starting containers after an earlier start was cut off, by a kill of Podman's service or of the agent.
//!
//! Decides that whatever a cut start left behind goes before the next one: processes that hold the ports, forwardings that
//! lead nowhere. Costs nothing for a container that nobody tried to start before, or that this agent started last.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::device::{damaged, refused, text};
use super::podman::{ContainerDetail, ContainerLine, Podman, PodmanError, State};
use super::{dnat, orphans};
use crate::core::heal::Damage;
use crate::core::step::StepError;

/// Starts of a container whose pod is being started by another one.
const POD_TRIES: u32 = 4;
const POD_PAUSE: Duration = Duration::from_millis(250);

/// The starts of one device.
#[derive(Debug)]
pub(super) struct Starts {
    podman: Podman,
    store: PathBuf,
    /// Made by this agent, and never started.
    fresh: Mutex<BTreeSet<String>>,
    /// A start of it was cut off.
    cut: Mutex<BTreeSet<String>>,
    /// This agent started it, so it knows how that ended. Of starts by an agent before it nobody knows.
    known: Mutex<BTreeSet<String>>,
}

impl Starts {
    pub(super) fn new(podman: Podman, store: &Path) -> Self {
        Self {
            podman,
            store: store.to_owned(),
            fresh: Mutex::default(),
            cut: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// It was made just now.
    pub(super) fn made(&self, id: &str) {
        lock(&self.fresh).insert(id.to_owned());
    }

    /// Removes a container. What a cut start of it has left behind would be nobody's then.
    pub(super) async fn remove(&self, id: &str) -> Result<(), PodmanError> {
        let fresh = take(&self.fresh, id);
        let unsure = take(&self.cut, id) | !take(&self.known, id);
        let before = if fresh { None } else { self.podman.line(id).await.ok().flatten() };
        self.podman.remove(id).await?;
        if let Some(line) = before.filter(|line| unsure || line.state == State::Created) {
            dnat::clear(&self.podman, &line, None).await;
        }
        Ok(())
    }

    /// Removes a pod, likewise.
    pub(super) async fn remove_pod(&self, id: &str) -> Result<(), PodmanError> {
        let before = self.podman.list(&[]).await.unwrap_or_default();
        self.podman.pod_remove(id).await?;
        for line in before.iter().filter(|line| line.pod == id) {
            for ids in [&self.fresh, &self.cut, &self.known] {
                take(ids, &line.id);
            }
        }
        for line in before.iter().filter(|line| line.is_infra && line.pod == id) {
            dnat::clear(&self.podman, line, None).await;
        }
        Ok(())
    }

    /// Starts a container.
    pub(super) async fn start(&self, id: &str) -> Result<(), StepError> {
        if !take(&self.fresh, id) {
            let unsure = lock(&self.cut).contains(id) || !lock(&self.known).contains(id);
            // What ended by itself was taken down in good order.
            let may_have =
                |line: &ContainerLine| line.state == State::Created || unsure && line.state != State::Running;
            match self.clear(id, may_have).await {
                Err(err) if err.is_outage() => return Err(refused(&err)),
                // What is wrong the start itself says best.
                _ => {}
            }
        }
        let err = match self.try_start(id).await {
            Ok(()) => {
                lock(&self.known).insert(id.to_owned());
                if take(&self.cut, id) {
                    // Netavark of the start that was cut may have gone on until now.
                    self.clear(id, |_| true).await.unwrap_or_else(|err| tracing::debug!(%err, id, "not looked after"));
                }
                return Ok(());
            }
            Err(err) if err.is_outage() => {
                lock(&self.cut).insert(id.to_owned());
                return Err(refused(&err));
            }
            Err(err) => err,
        };
        if self.end_leftovers(id).await {
            lock(&self.cut).insert(id.to_owned());
            return Err(StepError::Damaged {
                damage: Damage::Start,
                why: format!(
                    "an earlier start was cut off and left processes behind, which were ended; {}",
                    text(&err)
                ),
            });
        }
        Err(if err.is_container_damage() {
            damaged(Damage::Container, &err)
        } else if err.is_program_missing() {
            damaged(Damage::Program, &err)
        } else {
            refused(&err)
        })
    }

    /// Deletes forwardings that earlier starts of it left, if it or its pod's pause container may have some.
    async fn clear(&self, id: &str, may_have: impl Fn(&ContainerLine) -> bool) -> Result<(), PodmanError> {
        for line in self.with_pause(id).await?.iter().filter(|line| may_have(line)) {
            // Podman may have learnt of the network that the cut start made, and use it.
            let detail = match self.podman.inspect(&line.id).await {
                Err(err) if err.is_outage() => return Err(err),
                told => told.ok().flatten(),
            };
            let known = detail.as_ref().and_then(ContainerDetail::address);
            if known.is_some() || line.state != State::Running {
                dnat::clear(&self.podman, line, known).await;
            }
        }
        Ok(())
    }

    /// Containers of a pod start side by side, and each start begins with the pod's pause container: one may meet the
    /// other's half done. Then it is tried again, a few times.
    async fn try_start(&self, id: &str) -> Result<(), PodmanError> {
        for _ in 1..POD_TRIES {
            match self.podman.start(id).await {
                Err(err) if err.is_pod_between() => tokio::time::sleep(POD_PAUSE).await,
                done => return done.map(drop),
            }
        }
        self.podman.start(id).await.map(drop)
    }

    /// The container itself and its pod's pause container, which has the network.
    async fn with_pause(&self, id: &str) -> Result<Vec<ContainerLine>, PodmanError> {
        let Some(line) = self.podman.line(id).await? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        if !line.pod.is_empty() {
            let others = self.podman.list(&[]).await?;
            all.extend(others.into_iter().filter(|other| other.is_infra && other.pod == line.pod));
        }
        all.push(line);
        Ok(all)
    }

    /// Ends processes of containers that do not run, and of containers that Podman does not know. True when there were any.
    async fn end_leftovers(&self, id: &str) -> bool {
        let mut down = self.with_pause(id).await.unwrap_or_default();
        down.retain(|line| line.state != State::Running);
        let mut any = false;
        for served in orphans::served(&self.store) {
            let own = down.iter().any(|line| line.id == served);
            if own || self.podman.exists(&served).await.is_ok_and(|exists| !exists) {
                any |= orphans::end(&self.store, &served).await;
            }
        }
        any
    }
}

fn lock(ids: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    ids.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(ids: &Mutex<BTreeSet<String>>, id: &str) -> bool {
    lock(ids).remove(id)
}
