//! The upgrades that are recorded, and what a device must be after the power went in one.
//!
//! Decides what is sound: the same device, online again by itself, its app answering, one whole system that fits the slot
//! it was booted from, nothing left half done; and which of the two systems, where the card as it was cut says so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::Context as _;
use bramble_contracts::api::{Connection, DeviceView};
use bramble_contracts::boot::{self, Slot};
use bramble_contracts::v1::{Health, Status};
use bramble_contracts::v3::{OsPhase, OsUpgradeReport};
use bramble_fleet_tests::{Watch, wait_until};

use super::cut::{Cut, Phase};
use super::recording::{Recorder, Recording};
use super::tape::Kept;
use crate::canary::words;
use crate::card::Marks;
use crate::harm::{HARD, SOFT};
use crate::member::NAME;
use crate::upgrade::{Lab, OF_AN_APP, OF_THE_STATE, OLD, Story};

/// For a device to end an upgrade that the power cut, trials and all.
const END: Duration = Duration::from_secs(1500);

/// What is upgraded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upgrade {
    /// A sound system, with a new initramfs.
    Good,
    /// One that has no network any more.
    Mute,
    /// One whose kernel panics.
    Panics,
}

impl Upgrade {
    /// All of them.
    pub const ALL: [Upgrade; 3] = [Upgrade::Good, Upgrade::Mute, Upgrade::Panics];

    /// One word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Upgrade::Good => "good",
            Upgrade::Mute => "mute",
            Upgrade::Panics => "panics",
        }
    }

    /// Offers it.
    fn offer(self, lab: &Lab) {
        lab.offer(|package, first| match self {
            Upgrade::Good => package.postinst(&format!("{first}update-initramfs -u\n")),
            Upgrade::Mute => SOFT.package(package, first),
            Upgrade::Panics => HARD.package(package, first),
        });
    }
}

/// How a device ended after a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The version of the system that serves.
    pub version: String,
    /// What the coordinator was told.
    pub reason: String,
    /// Boots that it took.
    pub boots: u32,
    /// From power-on until the app answered.
    pub serving: Duration,
}

impl Ending {
    /// Is it the system from before?
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.version == OLD
    }
}

/// Runs it to its end, recorded, as the card of the first recording of this device begins. It is off before and after.
///
/// # Errors
/// When the recording cannot be made.
///
/// # Panics
/// When the device does not do its part.
pub fn record(lab: &Lab, upgrade: Upgrade) -> anyhow::Result<(Recording, Story)> {
    let pi = &lab.member.pi;
    let mut recorder = Recorder::start(pi, upgrade.name())?;
    upgrade.offer(lab);
    let booted = serving(lab);
    println!("── {}: recorded; it serves after {:.0} s", upgrade.name(), booted.as_secs_f64());
    // An app that is not well before does not count on trial.
    wait_until("the device to be healthy", END, || {
        let view = view(lab)?;
        if view.health == Health::Healthy { Ok(()) } else { Err(format!("{view:?}")) }
    });
    recorder.mark()?;
    // A good one has more time than it needs, on a busy machine, too.
    let give_up = if upgrade == Upgrade::Good { "900s" } else { "240s" };
    let asked = lab.ask(&words(upgrade.name(), give_up));
    let mut written = false;
    let story = lab.watch(&asked, |told| {
        if told.phase == OsPhase::Applying && !written {
            lab.writes_meanwhile();
            written = true;
        }
    });
    let want = if upgrade == Upgrade::Good { Status::Confirmed } else { Status::RolledBack };
    assert_eq!(story.end.status, want, "{story:?}");
    drop(asked.output());
    lab.member.answers();
    Ok((recorder.end(pi)?, story))
}

/// Gives power, and waits until the device is online in a session of its own and the app answers.
#[track_caller]
fn serving(lab: &Lab) -> Duration {
    let before = view(lab).ok().and_then(|view| view.report).map(|report| report.session);
    let watch = Watch::start();
    lab.member.pi.boot();
    wait_until("the device to report anew", END, || {
        let view = view(lab)?;
        let session = view.report.as_ref().map(|report| report.session);
        let last = lab.member.pi.serial().last_words();
        if view.connection == Connection::Online && session != before {
            Ok(())
        } else {
            Err(format!("{view:?}. {last}"))
        }
    });
    lab.member.answers();
    watch.elapsed()
}

fn view(lab: &Lab) -> Result<DeviceView, String> {
    lab.member.fleet.device_view(NAME)
}

/// The power goes in an upgrade with so much of each write on the card, comes back, and the device is what it must be. It is
/// left on.
///
/// # Errors
/// When it is not, with what was wrong.
pub fn survive(lab: &Lab, recording: &Recording, cut: &Cut, kept: &[Kept]) -> anyhow::Result<Ending> {
    let pi = &lab.member.pi;
    pi.cut_power();
    recording.rewind(pi.board().card().path(), kept)?;
    let ending = catch_unwind(AssertUnwindSafe(|| comes_back(lab, cut)));
    ending.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        anyhow::anyhow!(text.unwrap_or_else(|| panic.downcast_ref::<&str>().map_or("?", |text| text).to_owned()))
    })
}

/// Which system it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    Old,
    New,
    Either,
}

/// By the card alone, as it was cut. Where the newest text of LVM's metadata is lost, the one before counts, whichever that is.
fn must(lab: &Lab) -> anyhow::Result<Must> {
    let card = lab.member.pi.card();
    let marks = card.marks();
    let Marks { snapshot, merging, .. } = marks.as_ref().copied().unwrap_or_default();
    Ok(match (card.autoboot().context("autoboot.txt as it was cut")?, snapshot.map(|s| s.phase)) {
        (Some(Slot::B), _) => Must::New,
        (_, _) if marks.is_err() => Must::Either,
        (_, Some(boot::Phase::Apply | boot::Phase::Failed)) => Must::Old,
        (_, _) if merging => Must::Old,
        (_, Some(boot::Phase::Trial) | None) => Must::Either,
    })
}

fn comes_back(lab: &Lab, cut: &Cut) -> Ending {
    let (pi, member) = (&lab.member.pi, &lab.member);
    let must = must(lab).unwrap_or_else(|err| panic!("{err:#}"));
    let (id, boots) = (lab.device(), pi.board().boots());
    let serving = serving(lab);
    let told = wait_until("the upgrade to end", END, || {
        let os = lab.os().ok_or("no report")?;
        match &os.upgrade {
            Some(upgrade) if ended(upgrade) && os.snapshot.is_none() => Ok(upgrade.clone()),
            _ => Err(format!("{os:?}. {}", pi.serial().last_words())),
        }
    });
    member.answers();
    let (slot, version) = lab.inside();
    let old = version == OLD;
    assert!(must == Must::Either || (must == Must::Old) == old, "by its card it must be {must:?}, and is {version}");
    assert_eq!(old, slot == Slot::A, "{version} on slot {slot}");
    assert_eq!(lab.device(), id, "the same device");
    if cut.phase >= Phase::Armed {
        assert_eq!(pi.ok(&format!("cat {OF_THE_STATE}")).trim(), "kept");
    }
    if !old && cut.phase > Phase::Snapshot {
        assert_eq!(pi.ok(&format!("cat {OF_AN_APP}")).trim(), "kept");
    }
    let boots = pi.board().boots() - boots;
    let seen = pi.board().still(|card| (card.autoboot().ok().flatten(), card.marks().ok()));
    assert_eq!(
        seen.ok(),
        Some((Some(slot), Some(Marks::default()))),
        "a plain boot gets this slot, nothing is half done"
    );
    Ending { version, reason: told.reason, boots, serving }
}

fn ended(upgrade: &OsUpgradeReport) -> bool {
    upgrade.phase == OsPhase::Done && matches!(upgrade.status, Status::Confirmed | Status::RolledBack | Status::Failed)
}
