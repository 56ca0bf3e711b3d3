//! A device meets an upgrade: foreseen by a plan, held by a window, good, or one that does harm.
//!
//! Decides what has to be so at the end of each, from inside (root and boot files of one system, apps, the agent's ledger), from
//! outside (LVM's metadata, both slots, `autoboot.txt`) and at the operator's. What a harm does is `harm`'s.

use std::time::Duration;

use bramble_contracts::api::{OsPlanState, OsPlannedDevice};
use bramble_contracts::boot::Slot;
use bramble_contracts::v1::Status;
use bramble_contracts::v3::{OsPhase, OsUpgradeReport, Protection};
use bramble_fleet_tests::clock::{full, unix_secs};
use bramble_fleet_tests::wait_until;

use crate::campaign::cut::{choose, kept};
use crate::campaign::{Recorder, survive};
use crate::card::Marks;
use crate::clock::Clock;
use crate::harm::{ANSWER, Besides, CONFIG, Does, End, HARD, HARMS, Harm, SOFT};
use crate::member::NAME;
use crate::sample;
use crate::upgrade::{Asked, Lab, MARK, OF_AN_APP, OF_THE_STATE, Story};

/// The longest for a device to say what stands in its way.
const SAYS: Duration = Duration::from_secs(300);
const AGENT: &str = "/etc/bramble/agent.toml";
const KEPT: &str = "/var/lib/bramble/of-the-old";
/// Of the boot on trial, which the journal outlives.
const JOURNAL: &str = "journalctl -b -1 -o short-monotonic --no-pager -u 'bramble-*' | tail -n 400";
const FILLER: &str = "/var/lib/bramble/filler";
/// From behind the reserved sectors on: chains that lead nowhere, in a file system that says it was left in order.
const DAMAGE_SLOT: &str = "case $(cat /proc/cmdline) in *bramble.slot=b*) slot=BOOT_A;; *) slot=BOOT_B;; esac\n\
    dd if=/dev/urandom of=/dev/disk/by-label/$slot bs=512 seek=33 count=4000 conv=notrunc,fsync";

/// A test is to end. What is well has more time than it needs: emulation is slow, and slower beside other work.
#[must_use]
pub fn words<'a>(name: &'a str, give_up: &'a str) -> [&'a str; 7] {
    ["--full", "--name", name, "--confirm-for", "20s", "--give-up-after", give_up]
}

/// What a run without `BRAMBLE_FULL` does to one device, which is recorded since its last boot: a good upgrade, the same with
/// a power cut in it, one that is given up, one that is dead, and the harm that is this run's sample, if one is.
pub fn short(lab: &Lab, mut recorder: Recorder) {
    recorder.mark().unwrap_or_else(|err| panic!("{err:#}"));
    clean(lab);
    loses_its_power(lab, recorder);
    // Before its app can be up: it is given up for one reason or another.
    let soft = Harm { give_up: "70s", says: &["no broker for", "app hello", "the agent did nothing"], ..SOFT };
    suffers(lab, &soft);
    suffers(lab, &HARD);
    let others = HARMS.iter().filter(|harm| ![SOFT.name, HARD.name].contains(&harm.name));
    others.filter(|harm| sample::takes(harm.name)).for_each(|harm| suffers(lab, harm));
}

/// At some write of the upgrade that has just been; it goes on from there.
fn loses_its_power(lab: &Lab, recorder: Recorder) {
    let recording = recorder.end(&lab.member.pi).unwrap_or_else(|err| panic!("{err:#}"));
    let mut dice = lab.member.pi.case().dice();
    let cut = choose(&recording.stretches, &mut dice);
    println!("── power cut in {}, write {} of {}, lost: {}", cut.phase, cut.at, recording.tape.entries.len(), cut.loss);
    let kept = kept(&recording.tape.entries, &cut, &mut dice);
    let ending = survive(lab, &recording, &cut, &kept).unwrap_or_else(|err| panic!("{err:#}"));
    println!("── {} serves after {} boot(s): {}", ending.version, ending.boots, ending.reason);
}

/// It is told before what it would come to, waits for its window, is tried, confirmed and kept, with what an app has written
/// to root meanwhile.
pub fn clean(lab: &Lab) {
    let pi = &lab.member.pi;
    let (before, device) = (lab.inside(), lab.device());
    // It ends when the app's file is there, which is after the snapshot; and a kernel's package makes an initramfs.
    let waits = format!("i=0; while [ ! -e {OF_AN_APP} ] && [ $i -lt 300 ]; do sleep 1; i=$((i+1)); done\n");
    let initramfs = if full() { "update-initramfs -u\n" } else { "" };
    let new = lab.offer(|package, first| package.postinst(&format!("{first}{waits}{initramfs}")));
    is_foreseen(lab, &before.1, &new);
    waits_for_its_window(lab);
    let boots = pi.board().boots();
    let asked = lab.ask(&words("clean", "900s"));
    let mut written = false;
    let story = lab.watch(&asked, |upgrade| {
        if upgrade.phase == OsPhase::Applying && !written {
            lab.writes_meanwhile();
            written = true;
        }
    });
    assert!(story.passes(&[OsPhase::Applying, OsPhase::Trial, OsPhase::Done]), "{story:?}");
    assert!(story.seen.iter().any(|(phase, percent)| *phase == OsPhase::Applying && (1..100).contains(percent)));
    assert_eq!(changes(&story.end), [format!("{MARK} {} {new}", before.1)]);
    assert_eq!(pi.board().boots(), boots + 1, "one boot on trial, and it stays");
    told("clean", &story, &format!("down for {:?} ms", story.end.down_ms));
    let said = asked.output();
    println!("{}", said.stderr);
    assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
    for part in ["applying", "trial", "1 confirmed"] {
        assert!(said.stderr.contains(part), "the operator reads {part}: {}", said.stderr);
    }
    has_new(lab, &story, before.0.other(), &new);
    assert_eq!(pi.ok(&format!("cat {OF_AN_APP} {OF_THE_STATE}")), "kept\nkept\n");
    if full() {
        // A plain boot is of the new system, too.
        pi.switch_off();
        pi.boot();
        assert_eq!(lab.inside(), (before.0.other(), new));
        lab.member.answers();
    }
    lab.member.online();
    assert_eq!(lab.device(), device);
}

fn changes(upgrade: &OsUpgradeReport) -> Vec<String> {
    let word = |version: &Option<_>| version.as_ref().map(ToString::to_string).unwrap_or_default();
    upgrade.changes.iter().map(|c| format!("{} {} {}", c.name, word(&c.from), word(&c.to))).collect()
}

/// The same that will happen, to the byte; and asking changes nothing.
fn is_foreseen(lab: &Lab, old: &str, new: &str) {
    let before = (lab.inside(), lab.os());
    let planned =
        lab.member.fleet.bramble().cmd().clone().args(["os", "plan", "--device", NAME, "--full", "-o", "json"]);
    let said = planned.within(Duration::from_secs(900)).output().unwrap_or_else(|err| panic!("{err}"));
    assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
    println!("── plan: {}", said.stdout.trim());
    let value: serde_json::Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|err| panic!("{err}: {}", said.stdout));
    let devices: Vec<OsPlannedDevice> =
        serde_json::from_value(value["items"].clone()).unwrap_or_else(|err| panic!("{err}: {}", said.stdout));
    let [OsPlannedDevice { state: OsPlanState::Upgrade, protection, plan: Some(plan), reason, .. }] = &devices[..]
    else {
        panic!("{devices:?}")
    };
    assert_eq!((protection, reason.as_str()), (&Some(Protection::Tryboot), ""));
    let [change] = &plan.changes[..] else { panic!("{plan:?}") };
    let word = |version: &Option<_>| version.as_ref().map(ToString::to_string).unwrap_or_default();
    assert_eq!((change.name.to_string(), word(&change.from), word(&change.to)), (MARK.into(), old.into(), new.into()));
    assert_eq!((plan.download_bytes, plan.changes_more), (lab.repo.size(MARK, new), 0));
    let room = plan.room.as_ref().unwrap_or_else(|| panic!("no room is told: {plan:?}"));
    assert!(room.fetch_need > plan.download_bytes && room.fetch_free > room.fetch_need, "{room:?}");
    assert!(room.pool_need > 1 << 30 && room.pool_free > room.pool_need, "{room:?}");
    assert_eq!((plan.refused.as_str(), plan.waits.as_str()), ("", ""));
    assert_eq!((lab.inside(), lab.os().and_then(|os| os.upgrade)), (before.0, before.1.and_then(|os| os.upgrade)));
    let outside = lab.outside();
    assert_eq!(outside.marks, Marks::default());
}

/// One that is open three days from now: nothing begins, and the operator reads why.
fn waits_for_its_window(lab: &Lab) {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let day = usize::try_from((unix_secs() / 86_400 + 3) % 7).unwrap_or_default();
    let (bramble, before) = (lab.member.fleet.bramble(), lab.os().and_then(|os| os.upgrade));
    let window = format!("{} 02:00-05:00", DAYS[day]);
    bramble.ok(&[
        "os",
        "upgrade",
        "--device",
        NAME,
        "--full",
        "--batches",
        "100%",
        "--name",
        "at-night",
        "--window",
        &window,
    ]);
    let said = wait_until("the operator to read that it waits", SAYS, || {
        let said = bramble.ok(&["describe", "rollout", "at-night"]);
        if said.contains("devices begin only within") && said.contains(&window) { Ok(said) } else { Err(said) }
    });
    println!("{said}");
    assert_eq!(lab.os().and_then(|os| os.upgrade), before, "the device has begun nothing");
    bramble.ok(&["rollout", "abort", "at-night"]);
}

/// One harm, to its end.
pub fn suffers(lab: &Lab, harm: &Harm) {
    println!("── {}", harm.name);
    let pi = &lab.member.pi;
    let (before, device) = (lab.inside(), lab.device());
    prepare(lab, harm);
    let new = lab.offer(|package, first| harm.package(package, first));
    let (boots, barks) = (pi.board().boots(), pi.board().barks());
    let asked = lab.ask(&words(harm.name, harm.give_up));
    accompany(lab, harm, &asked, boots);
    let mut written = false;
    let story = lab.watch(&asked, |upgrade| {
        if upgrade.phase == OsPhase::Applying && !written {
            pi.ok(&format!("echo kept > {KEPT}; sync"));
            written = true;
        }
        set_clock(lab, harm, upgrade, boots);
    });
    let (boots, barks) = (pi.board().boots() - boots, pi.board().barks() - barks);
    told(harm.name, &story, &format!("{boots} boots, {barks} by a watchdog"));
    let said = asked.output();
    println!("{}", said.stderr);
    match harm.end {
        End::Back => {
            assert_eq!(story.end.status, Status::RolledBack, "{story:?}");
            let words = |text: &str| harm.says.iter().any(|says| text.contains(says));
            if !words(&story.end.reason) {
                println!("{}", pi.ok(JOURNAL));
            }
            assert!(words(&story.end.reason), "{}", story.end.reason);
            assert!(!said.status.success() && words(&said.stderr), "{}{}", said.stdout, said.stderr);
            lab.member.answers();
            assert_eq!(lab.inside(), before);
            assert_eq!(lab.outside().autoboot, Some(before.0));
        }
        End::Stays => {
            assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
            has_new(lab, &story, before.0.other(), &new);
        }
    }
    assert!(barks >= harm.barks, "{barks} resets by a watchdog");
    let ledger = pi.ok("cat /var/lib/bramble/os/ledger.json");
    assert!(ledger.contains("\"upgrade\":null"), "{ledger}");
    lab.member.online();
    assert_eq!(lab.device(), device, "the same device, not enrolled again");
    tidy_up(lab, harm, written);
}

/// For the table of `docs/tests/os-canary.md`.
pub fn told(name: &str, story: &Story, more: &str) {
    let (secs, end) = (story.took.as_secs_f64(), &story.end);
    println!("| {name} | {:?} | {} | {secs:.0} | {more} |", end.status, end.reason);
}

/// The new root with the new boot files, which both slots have now; no way back is kept.
fn has_new(lab: &Lab, story: &Story, slot: Slot, version: &str) {
    assert_eq!((story.end.status, story.end.reason.as_str()), (Status::Confirmed, ""), "{story:?}");
    assert_eq!(story.os.snapshot, None);
    lab.member.answers();
    assert_eq!(lab.inside(), (slot, version.to_owned()));
    let outside = lab.outside();
    assert_eq!((outside.autoboot, outside.differ), (Some(slot), vec![]));
}

fn prepare(lab: &Lab, harm: &Harm) {
    let pi = &lab.member.pi;
    if let Does::Asks = harm.does {
        pi.ok(&format!("echo by hand > {CONFIG}"));
    }
    match harm.besides {
        Besides::ShortApply => agent_setting(lab, &format!("printf '\\n[os]\\napply_secs = 120\\n' >> {AGENT}")),
        Besides::StateFullBefore => {
            let avail = "$(($(df --output=avail -k /var/lib/bramble | tail -n1) - 32768))";
            pi.ok(&format!("fallocate -l {avail}K {FILLER}"));
        }
        Besides::SlotDamaged => drop(pi.ok(DAMAGE_SLOT)),
        Besides::Nothing | Besides::TrialClock(_) | Besides::StateFullAfter => {}
    }
}

fn agent_setting(lab: &Lab, change: &str) {
    lab.member.pi.ok(&format!("{change}\nsystemctl restart 'bramble-agent@*.service'"));
    lab.member.online();
    lab.member.answers();
}

/// What has to be done before its end can come.
fn accompany(lab: &Lab, harm: &Harm, asked: &Asked, boots: u32) {
    let pi = &lab.member.pi;
    match harm.besides {
        Besides::StateFullBefore => {
            wait_until("the device to say that its state volume is full", SAYS, || match lab.upgrade_of(asked) {
                Some(upgrade) if upgrade.reason.contains("are free for state") => Ok(()),
                other => Err(format!("{other:?}")),
            });
            pi.ok(&format!("rm {FILLER}"));
        }
        Besides::StateFullAfter => {
            pi.wait_boot(boots + 1);
            pi.wait_boot(boots + 2);
            let free = pi.ok("df --output=avail -k /var/lib/bramble | tail -n1");
            assert!(free.trim().parse::<u64>().is_ok_and(|kib| kib < 1024), "{free} KiB are free for state");
            lab.member.answers();
            pi.ok(&format!("rm {FILLER}"));
        }
        Besides::Nothing | Besides::TrialClock(_) | Besides::ShortApply | Besides::SlotDamaged => {}
    }
}

/// Wrong in the boot on trial alone.
fn set_clock(lab: &Lab, harm: &Harm, upgrade: &OsUpgradeReport, boots: u32) {
    let Besides::TrialClock(clock) = harm.besides else { return };
    let pi = &lab.member.pi;
    if pi.board().boots() > boots {
        pi.set_clock(Clock::Right);
        if clock == Clock::Unset && upgrade.phase == OsPhase::Trial {
            pi.is_past_floor();
            // It is behind by what the reboot took.
            pi.put_time_right();
        }
    } else if matches!(upgrade.phase, OsPhase::Applying | OsPhase::Armed) {
        pi.set_clock(clock);
    }
}

fn tidy_up(lab: &Lab, harm: &Harm, written: bool) {
    let pi = &lab.member.pi;
    if written {
        assert_eq!(pi.ok(&format!("cat {KEPT}; rm {KEPT}")).trim(), "kept", "the state volume loses nothing");
    }
    if let Does::Asks = harm.does {
        assert_eq!(pi.ok(&format!("cat {CONFIG}")).trim(), "by hand");
        assert_eq!(pi.ok(&format!("cat {ANSWER}")).trim(), "apple");
    }
    if harm.besides == Besides::ShortApply {
        agent_setting(lab, &format!("sed -i '/^\\[os\\]/,$d' {AGENT}"));
    }
}
