//! Between the wire's words and the core's: a wish that comes in, a report that goes out. Decides nothing.

use bramble_contracts::boot::{self, Slot};
use bramble_contracts::v1::Status;
use bramble_contracts::v3::{
    self, OsPackages, OsPlan, OsReport, OsRoom, OsSnapshot, OsUpgradeReport, OsWish, PackageChange, SnapshotPhase,
};

use crate::core::os::{Change, Foreseen, OsPhase, OsStatus, Package, Plan, Protection, What, Wish};
use crate::core::report::cut;

/// The wire's seconds.
const SECOND: u64 = 1000;

/// Which packages.
pub(super) fn what(packages: &OsPackages) -> What {
    let package = |package: &v3::OsPackage| Package {
        name: package.name.to_string(),
        version: package.version.as_ref().map(ToString::to_string),
    };
    match packages {
        OsPackages::All => What::Full,
        OsPackages::These(these) => What::Packages(these.iter().map(package).collect()),
    }
}

/// What is asked.
pub(super) fn wish(wish: &OsWish) -> Wish {
    let v3::Probation { confirm_secs, give_up_secs, give_up_in_all_secs } = wish.probation;
    Wish {
        id: wish.id.to_string(),
        attempt: wish.attempt,
        what: what(&wish.packages),
        least: match wish.least {
            v3::Protection::None => Protection::None,
            v3::Protection::Bootcount => Protection::Bootcount,
            v3::Protection::Tryboot => Protection::Tryboot,
        },
        confirm_for_ms: u64::from(confirm_secs) * SECOND,
        give_up_after_ms: u64::from(give_up_secs) * SECOND,
        give_up_in_all_ms: u64::from(give_up_in_all_secs) * SECOND,
        window: wish.window.clone(),
    }
}

/// What is told. `pool_percent` says how full the pool is, where that was seen.
pub(super) fn report(
    protection: Protection,
    lacks: &str,
    slot: Option<Slot>,
    pool_percent: Option<u8>,
    status: &OsStatus,
) -> OsReport {
    let snapshot = status.snapshot.map(|snapshot| OsSnapshot {
        phase: match snapshot.phase {
            boot::Phase::Apply => SnapshotPhase::Apply,
            boot::Phase::Trial => SnapshotPhase::Trial,
            boot::Phase::Failed => SnapshotPhase::Failed,
        },
        pool_percent: pool_percent.unwrap_or(0),
    });
    let protection = self::protection(protection);
    OsReport { protection, lacks: lacks.to_owned(), slot, snapshot, upgrade: upgrade(status) }
}

/// What is told to somebody who only asks.
pub(super) fn plan(protection: Protection, lacks: &str, plan: &Plan, foreseen: &Foreseen) -> OsPlan {
    let (changes, changes_more) = changes(&plan.delta.changes, plan.delta.more);
    let Foreseen { refused, waits, fetch_need, room } = foreseen;
    OsPlan {
        protection: self::protection(protection),
        lacks: cut(lacks, OsPlan::WORDS_MAX),
        changes,
        changes_more,
        held: plan.held.iter().filter_map(|name| plain(name).parse().ok()).take(OsPlan::HELD_MAX).collect(),
        download_bytes: plan.fetch_bytes,
        room: room.map(|room| OsRoom {
            fetch_need: *fetch_need,
            fetch_free: room.fetch_free,
            pool_need: room.root,
            pool_free: room.pool_free,
        }),
        refused: cut(refused.as_deref().unwrap_or_default(), OsPlan::WORDS_MAX),
        waits: cut(waits.as_deref().unwrap_or_default(), OsPlan::WORDS_MAX),
    }
}

/// A tier.
pub(super) fn protection(tier: Protection) -> v3::Protection {
    match tier {
        Protection::None => v3::Protection::None,
        Protection::Bootcount => v3::Protection::Bootcount,
        Protection::Tryboot => v3::Protection::Tryboot,
    }
}

/// One that nobody remembers has no name, and none is made up.
fn upgrade(told: &OsStatus) -> Option<OsUpgradeReport> {
    let (id, status) = (told.wish.as_ref()?.parse().ok()?, told.status?);
    let (changes, changes_more) = changes(&told.delta.changes, told.delta.more);
    let phase = phase(told.phase, status);
    Some(OsUpgradeReport {
        id,
        attempt: told.attempt,
        status,
        phase,
        percent: if phase == v3::OsPhase::Done { 100 } else { told.percent.unwrap_or(0) },
        reason: reason(told),
        blamed: told.blamed,
        changes,
        changes_more,
        download_bytes: told.bytes,
        took_ms: told.took_ms,
        down_ms: told.down_ms,
    })
}

fn phase(phase: OsPhase, status: Status) -> v3::OsPhase {
    match (phase, status) {
        (OsPhase::Idle, Status::Staged | Status::Trial) => v3::OsPhase::Waiting,
        (OsPhase::Idle, Status::Confirmed | Status::RolledBack | Status::Failed) | (OsPhase::Degraded, _) => {
            v3::OsPhase::Done
        }
        (OsPhase::Preflight, _) => v3::OsPhase::Preflight,
        (OsPhase::Snapshot, _) => v3::OsPhase::Snapshot,
        (OsPhase::Applying, _) => v3::OsPhase::Applying,
        (OsPhase::Armed, _) => v3::OsPhase::Armed,
        // It ends, and the reason says how.
        (OsPhase::Trial | OsPhase::RolledBack, _) => v3::OsPhase::Trial,
        (OsPhase::Confirmed, _) => v3::OsPhase::Committing,
    }
}

/// What the wire has no field for is told in words.
fn reason(told: &OsStatus) -> String {
    let word = match told.phase {
        OsPhase::RolledBack => "rolling back",
        OsPhase::Degraded => "the old system cannot be reached",
        OsPhase::Idle
        | OsPhase::Preflight
        | OsPhase::Snapshot
        | OsPhase::Applying
        | OsPhase::Armed
        | OsPhase::Trial
        | OsPhase::Confirmed => "",
    };
    let held = (!told.held.is_empty()).then(|| format!("held back: {}", told.held.join(", ")));
    let sick = (!told.sick_before.is_empty()).then(|| format!("sick before: {}", told.sick_before.join(", ")));
    let parts = [(!word.is_empty()).then(|| word.to_owned()), Some(told.reason.clone()), held, sick];
    let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    match (word.is_empty(), parts.len()) {
        (false, 2..) => format!("{}: {}", parts[0], parts[1..].join("; ")),
        (_, _) => parts.join("; "),
    }
}

/// The first ones, and how many are left out with those that were before.
fn changes(all: &[Change], more: u32) -> (Vec<PackageChange>, u32) {
    let told: Vec<PackageChange> = all.iter().filter_map(change).take(OsUpgradeReport::CHANGES_MAX).collect();
    let left_out = u32::try_from(all.len() - told.len()).unwrap_or(u32::MAX);
    (told, more.saturating_add(left_out))
}

/// A name with an architecture is told without it.
fn plain(name: &str) -> &str {
    name.split(':').next().unwrap_or_default()
}

fn change(change: &Change) -> Option<PackageChange> {
    let name = plain(&change.name);
    let version = |text: &Option<String>| text.as_ref().map(|text| text.parse()).transpose().ok();
    Some(PackageChange { name: name.parse().ok()?, from: version(&change.from)?, to: version(&change.to)? })
}

#[cfg(test)]
mod tests {
    use bramble_contracts::Uid;
    use bramble_contracts::boot::Snapshot;
    use bramble_contracts::v3::{OsPackage, Probation};

    use super::*;
    use crate::core::os::Delta;

    fn uid() -> Uid {
        Uid::from_entropy([7; 13])
    }

    fn status() -> OsStatus {
        OsStatus {
            wish: Some(uid().to_string()),
            attempt: 2,
            status: Some(Status::Trial),
            phase: OsPhase::Applying,
            percent: Some(40),
            reason: String::new(),
            blamed: false,
            delta: Delta {
                changes: ["podman", "libc6:arm64", "Strange Name"]
                    .map(|name| Change { name: name.into(), from: Some("1".into()), to: None, bytes: 1 })
                    .to_vec(),
                more: 3,
            },
            held: vec![],
            bytes: 9,
            took_ms: None,
            down_ms: None,
            sick_before: vec![],
            protection: Protection::Tryboot,
            slot: Some(Slot::A),
            snapshot: Some(Snapshot::new(Slot::B)),
        }
    }

    #[test]
    fn a_wish_comes_in_whole() {
        let named = OsPackage { name: "podman".parse().unwrap(), version: Some("5.4-1".parse().unwrap()) };
        let wire = OsWish {
            id: uid(),
            attempt: 2,
            packages: OsPackages::These(vec![named]),
            least: v3::Protection::Bootcount,
            probation: Probation::default(),
            window: Some("Mon 02:00-05:00".parse().unwrap()),
        };
        let heard = wish(&wire);
        assert_eq!((heard.id.parse(), heard.attempt, heard.least), (Ok(uid()), 2, Protection::Bootcount));
        assert_eq!(
            (heard.confirm_for_ms, heard.give_up_after_ms, heard.give_up_in_all_ms),
            (120_000, 600_000, 1_800_000)
        );
        let package = Package { name: "podman".into(), version: Some("5.4-1".into()) };
        assert_eq!((heard.what.clone(), heard.window.clone()), (What::Packages(vec![package]), wire.window.clone()));
        assert_eq!(heard.flaw(), None);
        assert_eq!(wish(&OsWish { packages: OsPackages::All, ..wire }).what, What::Full);
    }

    #[test]
    fn a_report_says_what_is_under_way() {
        let told = report(Protection::Tryboot, "", Some(Slot::A), Some(12), &status());
        assert_eq!(told.snapshot, Some(OsSnapshot { phase: SnapshotPhase::Apply, pool_percent: 12 }));
        let upgrade = told.upgrade.unwrap();
        assert_eq!((upgrade.id, upgrade.attempt, upgrade.percent), (uid(), 2, 40));
        assert_eq!((upgrade.phase, upgrade.status), (v3::OsPhase::Applying, Status::Trial));
        let names: Vec<String> = upgrade.changes.iter().map(|change| change.name.to_string()).collect();
        assert_eq!((names, upgrade.changes_more), (vec!["podman".to_owned(), "libc6".to_owned()], 4));
    }

    #[test]
    fn every_end_is_done_and_a_wait_says_for_what() {
        let of = |phase, word| {
            let told = OsStatus { phase, status: Some(word), reason: "no broker".into(), ..status() };
            let upgrade = upgrade(&told).unwrap();
            (upgrade.phase, upgrade.percent, upgrade.reason)
        };
        let why = "no broker".to_owned();
        for word in [Status::Confirmed, Status::RolledBack, Status::Failed] {
            assert_eq!(of(OsPhase::Idle, word), (v3::OsPhase::Done, 100, why.clone()));
        }
        assert_eq!(of(OsPhase::Idle, Status::Staged), (v3::OsPhase::Waiting, 40, why));
        let back = of(OsPhase::RolledBack, Status::Trial);
        assert_eq!((back.0, back.2.as_str()), (v3::OsPhase::Trial, "rolling back: no broker"));
        let stuck = of(OsPhase::Degraded, Status::Failed);
        assert_eq!((stuck.0, stuck.2.as_str()), (v3::OsPhase::Done, "the old system cannot be reached: no broker"));
    }

    #[test]
    fn a_plan_says_what_would_come_of_it_and_is_bounded() {
        let change = |n: u32| Change { name: format!("p{n:03}:arm64"), from: Some("1".into()), to: None, bytes: 1 };
        let all = Plan::new((0..250).map(change).collect(), vec!["kept:arm64".into(), "Strange".into()]);
        let why = Some("x".repeat(1000));
        let room = crate::core::os::Room { pool_free: 9, root: 4, metadata_percent: 1, fetch_free: 7, state_free: 1 };
        let foreseen = Foreseen { refused: why.clone(), waits: why, fetch_need: 300, room: Some(room) };
        let told = plan(Protection::Bootcount, "no tryboot", &all, &foreseen);
        assert_eq!((told.changes.len(), told.changes_more, told.download_bytes), (100, 150, 250));
        assert_eq!((told.protection, told.held.len()), (v3::Protection::Bootcount, 1));
        let OsRoom { fetch_need, fetch_free, pool_need, pool_free } = told.room.clone().unwrap();
        assert_eq!((fetch_need, fetch_free, pool_need, pool_free), (300, 7, 4, 9));
        assert!(told.refused.len() <= OsPlan::WORDS_MAX && !told.refused.is_empty());
        // Nothing to do is nothing to be told.
        let nothing = Foreseen { refused: None, waits: None, fetch_need: 0, room: None };
        let none = plan(Protection::Tryboot, "", &Plan::new(vec![], vec![]), &nothing);
        assert_eq!((none.refused.as_str(), none.waits.as_str(), none.changes.len()), ("", "", 0));
    }

    #[test]
    fn an_upgrade_that_nobody_remembers_is_not_made_up() {
        assert_eq!(upgrade(&OsStatus { wish: Some(String::new()), ..status() }), None);
        assert_eq!(upgrade(&OsStatus { status: None, ..status() }), None);
    }
}
