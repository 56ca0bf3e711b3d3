//! Upgrades of the operating system.

use bramble_contracts::{
    Uid,
    boot::Slot,
    bytes::Fixed,
    v1::{Command, FrameBody, ReplyFrame, Status, Verb},
    v2,
    v3::{
        DesiredDocument, OsPackage, OsPackages, OsPhase, OsPlan, OsReport, OsRoom, OsSnapshot, OsUpgradeReport, OsWish,
        PackageChange, Probation, Protection, Report, SnapshotPhase,
    },
};

fn id() -> Uid {
    Uid::from_entropy([0x23; 13])
}

fn document(packages: OsPackages, window: Option<&str>) -> DesiredDocument {
    let wish = OsWish {
        id: id(),
        attempt: 2,
        packages,
        least: Protection::Bootcount,
        probation: Probation { confirm_secs: 20, give_up_secs: 60, give_up_in_all_secs: 180 },
        window: window.map(|window| window.parse().unwrap()),
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
    [document(OsPackages::These(these), Some("Mon-Fri 22:00-02:00 Europe/Paris")), document(OsPackages::All, None)]
}

fn change(name: &str, from: Option<&str>, to: Option<&str>) -> PackageChange {
    PackageChange {
        name: name.parse().unwrap(),
        from: from.map(|version| version.parse().unwrap()),
        to: to.map(|version| version.parse().unwrap()),
    }
}

/// What an upgrade would do: asked, and answered.
pub fn plan() -> (Command, ReplyFrame) {
    let command = Command {
        device: super::device(),
        session: Fixed([9; 8]),
        counter: 5,
        expires_uptime_ms: 99_000,
        verb: Verb::OsPlan(OsPackages::These(vec![OsPackage { name: "curl".parse().unwrap(), version: None }])),
    };
    let plan = OsPlan {
        protection: Protection::Bootcount,
        lacks: "no tryboot".into(),
        changes: vec![change("curl", Some("8.14.1-2"), Some("8.14.1-2+deb13u1")), change("new", None, Some("1"))],
        changes_more: 7,
        held: vec!["linux-image-rpi-v8".parse().unwrap()],
        download_bytes: 1 << 20,
        room: Some(OsRoom { fetch_need: 65 << 20, fetch_free: 1 << 33, pool_need: 4 << 30, pool_free: 9 << 30 }),
        refused: String::new(),
        waits: "the clock is not fit".into(),
    };
    (command, ReplyFrame { seq: 1, body: FrameBody::OsPlan(Box::new(plan)) })
}

pub fn report() -> Report {
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
