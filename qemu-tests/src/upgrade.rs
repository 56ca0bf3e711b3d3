//! A virtual Pi whose operating system is upgraded: a member of a fleet with the tests' own apt repository, begun by the
//! operator's command line, watched at the coordinator until it ends, and judged from inside and outside.
//!
//! Decides what a sound device is after any upgrade, good or bad. What a package does to it is the case's matter.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bramble_contracts::DeviceId;
use bramble_contracts::boot::Slot;
use bramble_contracts::v1::Status;
use bramble_contracts::v3::{OsPhase, OsReport, OsUpgradeReport, Protection};
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::{Watch, wait_until};
use xtask::run::Output;

use crate::apt::{AptRepo, Package};
use crate::card::{Marks, Outside};
use crate::image;
use crate::member::{HOST, Member, NAME};

/// The package that every case makes newer.
pub const MARK: &str = "fleet-mark";
/// What it leaves on the slot that is written.
pub const MARK_FILE: &str = "fleet-mark.txt";
/// The version that a device has before.
pub const OLD: &str = "1.0";
/// On root, written while packages are applied.
pub const OF_AN_APP: &str = "/srv/of-an-app";
/// On the state volume, written then, too.
pub const OF_THE_STATE: &str = "/var/lib/bramble/of-the-state";
/// The longest from the operator's word to the end.
pub const UPGRADE: Duration = Duration::from_secs(1800);
/// For a command that installs.
const INSTALL: Duration = Duration::from_secs(300);

/// A device that can be upgraded.
pub struct Lab {
    /// The device and its fleet.
    pub member: Member,
    /// What it is upgraded from.
    pub repo: AptRepo,
    /// How well it is protected.
    protection: Protection,
    /// Of the newest package. One that failed is told from the next one by its version.
    version: AtomicU32,
}

/// How an upgrade went.
#[derive(Debug)]
pub struct Story {
    /// Each phase and percentage that the coordinator told, in their order.
    pub seen: Vec<(OsPhase, u8)>,
    /// What it told at the end.
    pub end: OsUpgradeReport,
    /// Of the device, at the end.
    pub os: OsReport,
    /// From the operator's word to the end.
    pub took: Duration,
}

impl Story {
    /// Were these phases seen, in this order?
    #[must_use]
    pub fn passes(&self, phases: &[OsPhase]) -> bool {
        let mut seen = self.seen.iter().map(|(phase, _)| *phase);
        phases.iter().all(|phase| seen.any(|seen| seen == *phase))
    }
}

/// An operator who waits.
pub struct Asked {
    command: JoinHandle<Output>,
    before: Option<String>,
    watch: Watch,
}

/// The package in a version, which leaves its word on the slot that is written.
#[must_use]
pub fn mark(version: &str) -> Package {
    Package::new(MARK, version).file("/usr/share/fleet-mark", version, 0o644)
}

/// What the newer one runs at least, so that the boot files change with root.
#[must_use]
pub fn marks_slot(version: &str) -> String {
    format!("set -e\necho {version} > /boot/firmware/{MARK_FILE}\n")
}

impl Lab {
    /// A device that is online, with an app that answers and the old package.
    #[must_use]
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let case = Case::new(name);
        let repo = AptRepo::start(&case);
        let member = Member::with(&case, &image::for_tests(), &[repo.address()]);
        member.plant(&member.seed().text());
        member.pi.boot();
        member.online();
        member.apply_hello();
        member.answers();
        Self::of(member, repo, Protection::Tryboot)
    }

    /// The same of a device whose app answers, which reaches the repository, and which is protected so well.
    #[must_use]
    #[track_caller]
    pub fn of(member: Member, repo: AptRepo, protection: Protection) -> Self {
        let lab = Lab { member, repo, protection, version: AtomicU32::new(1) };
        lab.settle_in();
        lab
    }

    fn settle_in(&self) {
        let member = &self.member;
        wait_until("the device to say how it is protected", Duration::from_secs(300), || match self.os() {
            // Only the best one lacks nothing.
            Some(os)
                if os.protection == self.protection
                    && os.lacks.is_empty() == (self.protection == Protection::Tryboot) =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        });
        self.repo.add(&[mark(OLD)]);
        let sources = self.repo.sources(HOST.into());
        member.pi.ok(&format!(
            "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*\n\
             cat > /etc/apt/sources.list.d/fleet.sources <<'END'\n{sources}END\n"
        ));
        let said = member.pi.board().run(&format!("apt-get update && apt-get install -y {MARK}"), INSTALL);
        let said = said.unwrap_or_else(|err| panic!("{err:#}. {}", member.pi.serial().last_words()));
        assert_eq!(said.code, 0, "the old package: {}", said.out);
    }

    /// Publishes a newer package, which `made` makes of the bare one and of what it has to run first. Gives its version.
    pub fn offer(&self, made: impl FnOnce(Package, &str) -> Package) -> String {
        let version = format!("{}.0", self.version.fetch_add(1, Ordering::Relaxed) + 1);
        self.repo.add(&[made(mark(&version), &marks_slot(&version))]);
        version
    }

    /// What apps write between the snapshot and the reboot.
    #[track_caller]
    pub fn writes_meanwhile(&self) {
        self.member.pi.ok(&format!("echo kept > {OF_AN_APP}; echo kept > {OF_THE_STATE}; sync"));
    }

    fn case(&self) -> &Arc<Case> {
        self.member.pi.case()
    }

    /// What the device says of its system; nothing before its first report.
    #[must_use]
    pub fn os(&self) -> Option<OsReport> {
        Some(self.member.fleet.device_view(NAME).ok()?.report?.os)
    }

    /// What the device says of what was asked; nothing before it has taken it.
    #[must_use]
    pub fn upgrade_of(&self, asked: &Asked) -> Option<OsUpgradeReport> {
        asked.of(&self.os()?)
    }

    /// An operator asks for it, with these words, and waits.
    #[must_use]
    pub fn ask(&self, words: &[&str]) -> Asked {
        let before = self.os().and_then(|os| os.upgrade).map(|upgrade| upgrade.id.to_string());
        let limit = format!("{}s", UPGRADE.as_secs());
        let usual =
            ["os", "upgrade", "--device", NAME, "--batches", "100%", "--healthy-for", "1s", "--wait", "--timeout"];
        let least: &[&str] = if self.protection == Protection::Tryboot { &[] } else { &["--least", "bootcount"] };
        let cmd = self.member.fleet.bramble().cmd().clone().args(usual).arg(limit).args(least).args(words);
        let cmd = cmd.within(UPGRADE + Duration::from_secs(60));
        let command = std::thread::spawn(move || cmd.output().unwrap_or_else(|err| panic!("{err}")));
        Asked { command, before, watch: Watch::start() }
    }

    /// Watches it at the coordinator until it ends; `look` sees it again and again.
    #[track_caller]
    pub fn watch(&self, asked: &Asked, mut look: impl FnMut(&OsUpgradeReport)) -> Story {
        let mut seen: Vec<(OsPhase, u8)> = vec![];
        let (end, os) = wait_until("the upgrade to end", UPGRADE, || {
            let last = || self.member.pi.serial().last_words();
            let os = self.os().ok_or_else(|| format!("no report. {}", last()))?;
            let upgrade = asked.of(&os).ok_or_else(|| format!("it has not begun. {}", last()))?;
            let now = (upgrade.phase, upgrade.percent);
            if seen.last() != Some(&now) {
                println!("   {:6.1} s {:?} {} % {}", asked.watch.elapsed().as_secs_f64(), now.0, now.1, upgrade.reason);
                seen.push(now);
            }
            look(&upgrade);
            match (upgrade.status, upgrade.phase) {
                // Confirmed, it still removes the snapshot and makes the other slot like its own.
                (Status::Confirmed | Status::RolledBack | Status::Failed, OsPhase::Done) => Ok((upgrade, os)),
                (_, _) => Err(format!("{upgrade:?}. {}", last())),
            }
        });
        Story { seen, end, os, took: asked.watch.elapsed() }
    }

    /// Stops its processors and reads its card, which is as it must be between upgrades: no snapshot, a slot that is named.
    #[track_caller]
    pub fn outside(&self) -> Outside {
        self.member.pi.ok("sync");
        let seen = self.member.pi.board().still(|card| card.outside(&self.work()));
        let outside = seen.and_then(|seen| seen).unwrap_or_else(|err| panic!("{err:#}"));
        assert_eq!(outside.marks, Marks::default(), "{outside:?}");
        assert!(outside.autoboot.is_some(), "{outside:?}");
        outside
    }

    /// Who it is for the coordinator. An identity that was lost would be another one.
    #[must_use]
    #[track_caller]
    pub fn device(&self) -> DeviceId {
        self.member.fleet.device_view(NAME).unwrap_or_else(|err| panic!("{err}")).id
    }

    fn work(&self) -> PathBuf {
        self.case().subdir("outside")
    }

    /// The guest runs: the slot that was booted, and the version that its root has, which fit together.
    #[track_caller]
    pub fn inside(&self) -> (Slot, String) {
        let pi = &self.member.pi;
        let version = pi.ok(&format!("dpkg-query -W -f '${{Version}}' {MARK}")).trim().to_owned();
        assert_eq!(pi.ok("cat /usr/share/fleet-mark").trim(), version);
        assert_eq!(pi.ok("dpkg --audit").trim(), "", "packages are whole");
        let cmdline = pi.ok("cat /proc/cmdline");
        let slot = if cmdline.contains("bramble.slot=b") { Slot::B } else { Slot::A };
        let mounted = pi.ok(&format!("cat /boot/firmware/{MARK_FILE} 2>/dev/null || echo {OLD}"));
        assert_eq!(mounted.trim(), version, "boot files and root are of one system");
        self.member.is_sound();
        (slot, version)
    }
}

impl Asked {
    fn of(&self, os: &OsReport) -> Option<OsUpgradeReport> {
        os.upgrade.clone().filter(|upgrade| Some(upgrade.id.to_string()) != self.before)
    }

    /// What the operator read, once the command has ended.
    ///
    /// # Panics
    /// When it broke off.
    #[must_use]
    pub fn output(self) -> Output {
        self.command.join().unwrap_or_else(|_| panic!("the operator's command broke off"))
    }
}
