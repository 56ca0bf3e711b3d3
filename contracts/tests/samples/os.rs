//! Upgrades of the operating system.

use bramble_contracts::{
    Uid,
    boot::Slot,
    v1::Status,
    v2,
    v3::{
        DesiredDocument, OsPackage, OsPackages, OsPhase, OsReport, OsSnapshot, OsUpgradeReport, OsWish, PackageChange,
        Probation, Protection, Report, SnapshotPhase,
    },
};

fn id() -> Uid {
    Uid::from_entropy([0x23; 13])
}

fn document(packages: OsPackages, until_ms: Option<u64>) -> DesiredDocument {
    let wish = OsWish {
        id: id(),
        attempt: 2,
        packages,
        least: Protection::Bootcount,
        probation: Probation { confirm_secs: 20, give_up_secs: 60, give_up_in_all_secs: 180 },
        until_ms,
    };
    DesiredDocument { os: Some(wish), ..v2::DesiredDocument::from(super::desired()).into() }
}

/// Some packages, and all of them.
pub fn wished() -> [DesiredDocument; 2] {
    let package = |name: &str, version: Option<&str>| OsPackage {
        name: name.parse().unwrap(),
        version: version.map(|version| version.parse().unwrap()),
    };
    let these = vec![package("curl", Some("8.14.1-2+deb13u1")), package("podman", None)];
    [document(OsPackages::These(these), Some(1_793_491_200_000)), document(OsPackages::All, None)]
}

pub fn report() -> Report {
    let change = |name: &str, from: Option<&str>, to: Option<&str>| PackageChange {
        name: name.parse().unwrap(),
        from: from.map(|version| version.parse().unwrap()),
        to: to.map(|version| version.parse().unwrap()),
    };
    let upgrade = OsUpgradeReport {
        id: id(),
        attempt: 2,
        status: Status::RolledBack,
        phase: OsPhase::Done,
        percent: 100,
        reason: "no broker for 10 min after reboot".into(),
        blamed: false,
        changes: vec![change("curl", Some("8.14.1-2"), Some("8.14.1-2+deb13u1")), change("gone", Some("1"), None)],
        changes_more: 3,
        download_bytes: 1 << 33,
        took_ms: Some(900_000),
        down_ms: Some(61_000),
    };
    let os = OsReport {
        protection: Protection::Tryboot,
        lacks: "nothing".into(),
        slot: Some(Slot::B),
        snapshot: Some(OsSnapshot { phase: SnapshotPhase::Trial, pool_percent: 61 }),
        upgrade: Some(upgrade),
    };
    Report { os, ..super::report().into() }
}
