//! Between the wire's words and the core's: a wish that comes in, a report that goes out. Decides nothing.

use bramble_contracts::boot::{self, Slot};
use bramble_contracts::v1::Status;
use bramble_contracts::v3::{
    self, OsPackages, OsReport, OsSnapshot, OsUpgradeReport, OsWish, PackageChange, SnapshotPhase,
};

use crate::core::os::{Change, OsPhase, OsStatus, Package, Protection, What, Wish};

/// The wire's seconds.
const SECOND: u64 = 1000;

/// What is asked.
pub(super) fn wish(wish: &OsWish) -> Wish {
    let package = |package: &v3::OsPackage| Package {
        name: package.name.to_string(),
        version: package.version.as_ref().map(ToString::to_string),
    };
    let v3::Probation { confirm_secs, give_up_secs, give_up_in_all_secs } = wish.probation;
    Wish {
        id: wish.id.to_string(),
        attempt: wish.attempt,
        what: match &wish.packages {
            OsPackages::All => What::Full,
            OsPackages::These(these) => What::Packages(these.iter().map(package).collect()),
        },
        least: match wish.least {
            v3::Protection::None => Protection::None,
            v3::Protection::Bootcount => Protection::Bootcount,
            v3::Protection::Tryboot => Protection::Tryboot,
        },
        confirm_for_ms: u64::from(confirm_secs) * SECOND,
        give_up_after_ms: u64::from(give_up_secs) * SECOND,
        give_up_in_all_ms: u64::from(give_up_in_all_secs) * SECOND,
        until_ms: wish.until_ms,
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
    let all = told.delta.changes.len();
    let changes: Vec<PackageChange> =
        told.delta.changes.iter().filter_map(change).take(OsUpgradeReport::CHANGES_MAX).collect();
    let left_out = u32::try_from(all - changes.len()).unwrap_or(u32::MAX);
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
        changes_more: told.delta.more.saturating_add(left_out),
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

/// A name with an architecture is told without it.
fn change(change: &Change) -> Option<PackageChange> {
    let name = change.name.split(':').next().unwrap_or_default();
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
            until_ms: Some(5),
        };
        let heard = wish(&wire);
        assert_eq!((heard.id.parse(), heard.attempt, heard.least), (Ok(uid()), 2, Protection::Bootcount));
        assert_eq!(
            (heard.confirm_for_ms, heard.give_up_after_ms, heard.give_up_in_all_ms),
            (120_000, 600_000, 1_800_000)
        );
        let package = Package { name: "podman".into(), version: Some("5.4-1".into()) };
        assert_eq!((heard.what.clone(), heard.until_ms), (What::Packages(vec![package]), Some(5)));
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
    fn an_upgrade_that_nobody_remembers_is_not_made_up() {
        assert_eq!(upgrade(&OsStatus { wish: Some(String::new()), ..status() }), None);
        assert_eq!(upgrade(&OsStatus { status: None, ..status() }), None);
    }
}
