//! What is so at the moment: gathered just before a step is decided. Units first, then the volumes and autoboot.txt, then
//! all that the agent sees by itself.
//!
//! Decides when the machine is worth a look: one without our layout never is, one with nothing to do once.

use std::collections::BTreeMap;
use std::path::Path;

use bramble_contracts::boot::PutBack;
use bramble_contracts::v1::{ContainerState, Phase, Status};
use bramble_contracts::v2::AppReport;

use super::wire;
use crate::core::os::{
    App, Apps, Bounds, Facts, Ledger, OwnUpgrade, Protection, Room, Unit, Verb, Volumes, Wish, window,
};
use crate::core::upgrade::Clock;
use crate::host::clock::{up_ms, wall_ms};
use crate::host::facts;
use crate::host::instances::Manager;
use crate::host::os::{Files, Machine, Panics, Seen, Units};
use crate::mesh::board::View;
use crate::mesh::standing::Standing;

/// Where apt puts what it fetches.
const FETCHED: &str = "/var/cache/apt/archives";

/// What was seen last.
pub(super) struct Sight {
    boot: String,
    pub(super) machine: Machine,
    standing: Standing,
    wish: Option<Wish>,
    /// Of the last look; kept while nothing is under way.
    seen: Option<Seen>,
    bounds: Bounds,
}

impl Sight {
    pub(super) fn new(bounds: Bounds) -> Self {
        let machine = Machine::look();
        // Whoever has started this agent has to start the units, too.
        let by_systemd = Manager::of_this_agent() == Some(Manager::Systemd);
        Self {
            boot: facts::boot_id(),
            machine: if by_systemd { machine } else { machine.without_units() },
            standing: Standing::new(),
            wish: None,
            seen: None,
            bounds,
        }
    }

    /// Takes in what the agent knows of itself; true when that can make a difference to an upgrade.
    pub(super) fn saw(&mut self, view: &View) -> bool {
        // Without a document nothing is known; what was known last stays.
        let wish = match &view.desired {
            Some(document) => document.os.as_ref().map(wire::wish),
            None => self.wish.clone(),
        };
        let is_new_wish = wish != self.wish;
        self.wish = wish;
        self.standing.saw(view) || is_new_wish
    }

    /// How full the pool was, when it was looked at last.
    pub(super) fn pool_percent(&self) -> Option<u8> {
        self.seen.as_ref()?.pool.map(|pool| pool.percent)
    }

    /// Is there anything to do for it?
    fn has_work(&self, ledger: &Ledger) -> bool {
        let is_open = |wish: &Wish| {
            let over = ledger.last.as_ref().is_some_and(|last| {
                last.status == Status::Confirmed && (&last.ticket.wish, last.ticket.attempt) == (&wish.id, wish.attempt)
            });
            !over && ledger.denial(wish).is_none()
        };
        ledger.upgrade.is_some() || self.wish.as_ref().is_some_and(is_open)
    }

    /// All of it. Waits for the machine.
    pub(super) async fn gather(
        &mut self,
        files: &Files,
        ledger: &Ledger,
        apps: &[AppReport],
        own: OwnUpgrade,
    ) -> Facts {
        let works = self.machine.is_ours() && self.has_work(ledger);
        let units = if works { units(files).await } else { Ok(BTreeMap::new()) };
        let is_settled = self.seen.as_ref().is_some_and(|seen| seen.volumes == Volumes::Plain);
        if self.machine.is_ours() && (works || !is_settled) {
            self.seen = Some(look(files, &self.boot).await);
        }
        let (places, is_ours) = (files.clone(), self.machine.is_ours());
        let said = tokio::task::spawn_blocking(move || Said::read(&places, is_ours)).await.unwrap_or_default();
        let mut facts = self.facts(ledger, apps, own, said);
        match units {
            Ok(units) => facts.units = units,
            // What runs is not known: nothing follows from what the volumes say.
            Err(why) => facts.volumes = Volumes::Unreadable(format!("what runs is not known: {why}")),
        }
        facts
    }

    /// The same for somebody who only asks: looks anew, and at no unit.
    pub(super) async fn gather_for_plan(&mut self, files: &Files, ledger: &Ledger, own: OwnUpgrade) -> Facts {
        let is_ours = self.machine.is_ours();
        if is_ours {
            self.seen = Some(look(files, &self.boot).await);
        }
        let places = files.clone();
        let said = tokio::task::spawn_blocking(move || Said::read(&places, is_ours)).await.unwrap_or_default();
        self.facts(ledger, &[], own, said)
    }

    /// What can be said before anything was looked at.
    pub(super) fn unseen(&self, ledger: &Ledger, own: OwnUpgrade) -> Facts {
        self.facts(ledger, &[], own, Said::default())
    }

    fn facts(&self, ledger: &Ledger, apps: &[AppReport], own: OwnUpgrade, said: Said) -> Facts {
        let volumes = match (&self.seen, self.machine.is_ours()) {
            (Some(seen), true) => seen.volumes.clone(),
            (None, true) => Volumes::Unreadable("nobody has looked yet".into()),
            (_, false) => Volumes::Plain,
        };
        let pool = self.seen.as_ref().and_then(|seen| seen.pool);
        let asked = self.wish.as_ref().and_then(|wish| wish.window.as_ref());
        let clock = self.standing.clock();
        let now_ms = (clock == Clock::Fit).then(wall_ms);
        Facts {
            up_ms: up_ms(),
            boot: self.boot.clone(),
            wish: self.wish.clone(),
            protection: protection(&self.machine, ledger, &volumes),
            volumes,
            booted: self.machine.booted(),
            autoboot: self.seen.as_ref().and_then(|seen| seen.autoboot),
            record: self.machine.record().cloned(),
            put_back: said.put_back.map(|note| note.why),
            stamp: self.seen.as_ref().and_then(|seen| seen.stamp.clone()),
            units: BTreeMap::new(),
            sentence: said.sentence,
            room: pool.map(|pool| Room {
                pool_free: pool.free,
                root: pool.root,
                metadata_percent: pool.metadata_percent,
                fetch_free: said.fetch_free,
                state_free: said.state_free,
            }),
            apps: of_reports(apps),
            mesh: self.standing.mesh,
            clock,
            window: window(asked, now_ms),
            own_upgrade: own,
            panic: said.panic,
            bounds: self.bounds,
        }
    }
}

/// Where a device is in an upgrade is told by its tier; what it may begin by what it has.
fn protection(machine: &Machine, ledger: &Ledger, volumes: &Volumes) -> Protection {
    match (&ledger.upgrade, volumes) {
        (None, Volumes::Plain | Volumes::Unreadable(_)) => machine.lasting(),
        (Some(_), _) | (None, Volumes::Snapshot(_)) => machine.tier(),
    }
}

/// What lies in files.
#[derive(Default)]
struct Said {
    put_back: Option<PutBack>,
    sentence: Option<crate::core::os::Sentence>,
    panic: Option<String>,
    fetch_free: u64,
    state_free: u64,
}

impl Said {
    fn read(files: &Files, is_ours: bool) -> Self {
        if !is_ours {
            return Self::default();
        }
        Self {
            put_back: files.put_back(),
            sentence: files.said(),
            panic: Panics::of(files).newest(),
            fetch_free: facts::space(Path::new(FETCHED)).free,
            state_free: facts::space(files.state_dir()).free,
        }
    }
}

/// Results are read after it was asked what runs: one that ends between the two still counts as running.
async fn units(files: &Files) -> Result<BTreeMap<Verb, Unit>, String> {
    let (active, files) = (Units.active().await?, files.clone());
    let read = move || {
        let unit = |verb: Verb| {
            let runs = active.contains(&verb).then_some(Unit::Running);
            Some((verb, runs.or_else(|| files.result(verb).map(Unit::Ended))?))
        };
        Verb::ALL.into_iter().filter_map(unit).collect()
    };
    tokio::task::spawn_blocking(read).await.map_err(|err| err.to_string())
}

/// Only what this look saw counts.
async fn look(files: &Files, boot: &str) -> Seen {
    let unreadable = |why: String| Seen {
        boot: boot.to_owned(),
        volumes: Volumes::Unreadable(why),
        pool: None,
        autoboot: None,
        stamp: None,
    };
    if let Err(err) = files.forget_seen() {
        return unreadable(err.to_string());
    }
    if let Err(why) = Units.look().await {
        return unreadable(why);
    }
    match files.seen().filter(|seen| seen.boot == boot) {
        Some(seen) => seen,
        None => unreadable("the unit that looks left no word".into()),
    }
}

/// Apps by name, as upgrades see them.
fn of_reports(reports: &[AppReport]) -> Apps {
    let one = |report: &AppReport| {
        let revision = report.running_revision.unwrap_or(report.revision).0;
        (format!("{}/{}", report.tenant, report.deployment), App { revision, sick: sick(report) })
    };
    let name = |(full, app): (String, App)| match full.strip_prefix("default/") {
        Some(short) => (short.to_owned(), app),
        None => (full, app),
    };
    reports.iter().map(one).map(name).collect()
}

/// What is wrong with it: it is not proven, or one of its containers is not well.
fn sick(report: &AppReport) -> Option<String> {
    let unstarted = |state| matches!(state, ContainerState::Missing | ContainerState::Created);
    let unwell = report.containers.iter().find(|c| c.healthy == Some(false) && !unstarted(c.state));
    let fails = matches!(report.phase, Phase::CrashLoop | Phase::Failed) || report.status != Status::Confirmed;
    let said = (!report.reason.is_empty()).then(|| report.reason.clone());
    match (unwell, fails) {
        (Some(container), _) => Some(said.unwrap_or_else(|| format!("container {} is unhealthy", container.name))),
        (None, true) => Some(said.unwrap_or_else(|| "it does not run yet".into())),
        (None, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::boot::{Slot, Snapshot};
    use bramble_contracts::v1::{ContainerReport, ContainerRole};
    use bramble_contracts::v2::{ClockReport, ClockVerdict};
    use bramble_contracts::{Revision, Tenant, Uid};

    use super::*;

    fn report(deployment: &str, status: Status, reason: &str) -> AppReport {
        AppReport {
            uid: Uid::from_entropy([1; 13]),
            tenant: Tenant::default(),
            deployment: deployment.parse().unwrap(),
            revision: Revision(4),
            running_revision: Some(Revision(3)),
            running_hash: None,
            status,
            phase: Phase::Running,
            reason: reason.into(),
            last_downtime_ms: None,
            containers: vec![],
            stages: vec![],
        }
    }

    #[test]
    fn an_app_is_sick_in_its_own_words() {
        let mut unwell = report("probed", Status::Confirmed, "");
        unwell.containers.push(ContainerReport {
            name: "main".parse().unwrap(),
            role: ContainerRole::Main,
            id: String::new(),
            state: ContainerState::Running,
            exit_code: None,
            oom_killed: false,
            restarts: 0,
            started_at_ms: 0,
            image_digest: String::new(),
            healthy: Some(false),
            last_lines: vec![],
        });
        let why = "probe http :80 \u{2192} 500";
        let all = [report("web", Status::Confirmed, ""), report("cam", Status::Failed, why), unwell];
        let apps = of_reports(&all);
        assert_eq!(apps["web"], App { revision: 3, sick: None });
        assert_eq!(apps["cam"].sick.as_deref(), Some(why));
        assert_eq!(apps["probed"].sick.as_deref(), Some("container main is unhealthy"));
        let other = AppReport { tenant: "acme".parse().unwrap(), ..report("web", Status::Staged, "") };
        assert_eq!(of_reports(&[other])["acme/web"].sick.as_deref(), Some("it does not run yet"));
    }

    #[test]
    fn a_wrong_clock_is_news_once() {
        let wrong_by = |seconds: u32| View {
            clock: ClockReport {
                verdict: ClockVerdict::Skewed,
                detail: format!("clock skew {seconds}s"),
                ..ClockReport::default()
            },
            ..View::default()
        };
        let mut sight = Sight::new(Bounds::default());
        assert_eq!([315, 315, 316].map(|seconds| sight.saw(&wrong_by(seconds))), [true, false, false]);
        assert_eq!(sight.standing.clock(), Clock::Unfit("clock skew 316s".into()), "the newest words are told");
        assert!(sight.saw(&View::default()));
    }

    #[test]
    fn a_machine_without_our_layout_is_not_looked_at() {
        let mut sight = Sight::new(Bounds::default());
        if sight.machine.is_ours() {
            eprintln!("this machine has our layout: not tested");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (files, ledger) = (Files::of(dir.path()), Ledger::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let facts = runtime.block_on(sight.gather(&files, &ledger, &[], OwnUpgrade::Idle));
        assert_eq!((facts.protection, facts.volumes, facts.room), (Protection::None, Volumes::Plain, None));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let on_trial = Volumes::Snapshot(Snapshot::new(Slot::B));
        assert_eq!(protection(&sight.machine, &ledger, &on_trial), Protection::None);
    }
}
