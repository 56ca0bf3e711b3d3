//! OS upgrades on a virtual Pi: real apt, real volumes, real boots on trial; good packages and those that do harm.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use bramble_contracts::boot::Slot;
use bramble_contracts::v1::Status;
use bramble_contracts::v3::OsPhase;
use bramble_qemu_tests::upgrade::{Lab, MARK, NEW, OLD, mark, marks_slot};

/// A test is to end. What is well has more time than it needs: emulation is slow, and slower beside other work.
fn words<'a>(name: &'a str, give_up: &'a str) -> [&'a str; 7] {
    ["--full", "--name", name, "--confirm-for", "20s", "--give-up-after", give_up]
}

#[test]
fn a_clean_upgrade_is_tried_confirmed_and_kept() {
    let lab = Lab::new("os-clean");
    let pi = &lab.member.pi;
    assert_eq!(lab.inside(), (Slot::A, OLD.to_owned()));
    // It ends when the app's file is there, which is after the snapshot; and a kernel's package makes an initramfs.
    let waits =
        "i=0; while [ ! -e /srv/of-an-app ] && [ $i -lt 300 ]; do sleep 1; i=$((i+1)); done\nupdate-initramfs -u\n";
    lab.repo.add(&[mark(NEW).postinst(&format!("{}{waits}", marks_slot(NEW)))]);
    let boots = pi.board().boots();
    let asked = lab.ask(&words("clean", "900s"));
    let mut written = false;
    let story = lab.watch(&asked, |upgrade| {
        if upgrade.phase == OsPhase::Applying && !written {
            pi.ok("echo kept > /srv/of-an-app; sync");
            written = true;
        }
    });
    println!("── confirmed after {:.0} s, down for {:?} ms", story.took.as_secs_f64(), story.end.down_ms);
    assert_eq!((story.end.status, story.end.reason.as_str()), (Status::Confirmed, ""), "{story:?}");
    assert!(story.passes(&[OsPhase::Applying, OsPhase::Trial, OsPhase::Done]), "{story:?}");
    assert!(story.seen.iter().any(|(phase, percent)| *phase == OsPhase::Applying && (1..100).contains(percent)));
    let delta: Vec<String> = story.end.changes.iter().map(|c| format!("{} {:?} {:?}", c.name, c.from, c.to)).collect();
    assert_eq!(delta.len(), 1, "{delta:?}");
    assert!(delta[0].starts_with(MARK) && delta[0].contains(OLD) && delta[0].contains(NEW), "{delta:?}");
    assert_eq!(story.os.snapshot, None);
    assert_eq!(pi.board().boots(), boots + 1, "one boot on trial, and it stays");
    let said = asked.output();
    println!("{}", said.stderr);
    assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
    for part in ["applying", "trial", "1 confirmed"] {
        assert!(said.stderr.contains(part), "the operator reads {part}: {}", said.stderr);
    }
    assert_eq!(lab.inside(), (Slot::B, NEW.to_owned()));
    assert_eq!(pi.ok("cat /srv/of-an-app").trim(), "kept");
    lab.member.answers();
    let outside = lab.at_rest();
    assert_eq!((outside.autoboot, outside.differ), (Some(Slot::B), vec![]));
    // A plain boot is of the new system, too.
    pi.boot();
    assert_eq!(lab.inside(), (Slot::B, NEW.to_owned()));
    lab.member.answers();
}

/// A package that does harm, and the words that an operator reads.
struct Harm {
    name: &'static str,
    /// What it runs when it is configured.
    does: &'static str,
    says: &'static str,
}

const SOFT: Harm = Harm {
    name: "no-network",
    does: "ln -sf /dev/null /etc/systemd/system/systemd-networkd.service\n",
    says: "no broker for",
};
const HARD: Harm = Harm {
    name: "panics-early",
    does: "script=/etc/initramfs-tools/scripts/init-top/fleet-harm\n\
           printf '#!/bin/sh\\n[ \"$1\" = prereqs ] && exit 0\\necho c > /proc/sysrq-trigger\\n' > $script\n\
           chmod 755 $script\nupdate-initramfs -u\n",
    says: "the new system did not come up",
};

#[test]
fn without_a_broker_the_old_system_comes_back() {
    comes_back(&SOFT);
}

#[test]
fn after_a_panic_the_old_system_comes_back() {
    comes_back(&HARD);
}

/// The old root with the old boot files, the same device, its apps, what was written to the state volume meanwhile, and words.
fn comes_back(harm: &Harm) {
    let lab = Lab::new(&format!("os-{}", harm.name));
    let pi = &lab.member.pi;
    let before = lab.inside();
    lab.repo.add(&[mark(NEW).postinst(&format!("{}{}", marks_slot(NEW), harm.does))]);
    let asked = lab.ask(&words(harm.name, "240s"));
    let mut written = false;
    let story = lab.watch(&asked, |upgrade| {
        if upgrade.phase == OsPhase::Applying && !written {
            pi.ok("echo kept > /var/lib/bramble/of-the-old; sync");
            written = true;
        }
    });
    println!("── back after {:.0} s: {}", story.took.as_secs_f64(), story.end.reason);
    assert_eq!(story.end.status, Status::RolledBack, "{story:?}");
    assert!(story.end.reason.contains(harm.says), "{}", story.end.reason);
    let said = asked.output();
    println!("{}", said.stderr);
    assert!(!said.status.success() && said.stderr.contains(harm.says), "{}{}", said.stdout, said.stderr);
    lab.member.answers();
    assert_eq!(lab.inside(), before);
    assert_eq!(pi.ok("cat /var/lib/bramble/of-the-old").trim(), "kept");
    lab.member.online();
    let outside = lab.at_rest();
    assert_eq!(outside.autoboot, Some(before.0));
}
