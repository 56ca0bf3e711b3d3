//! A machine with one set of boot files: enrolled as it is, turned into volumes while the power goes, and then upgraded, well
//! and badly, with nothing but a count of boots to come back by.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_contracts::boot::{BootRecord, Outcome, Tryboot};
use bramble_contracts::v1::Status;
use bramble_contracts::v3::Protection;
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::clock::full;
use bramble_fleet_tests::wait_until;
use bramble_qemu_tests::apt::AptRepo;
use bramble_qemu_tests::harm::harm;
use bramble_qemu_tests::image::STOCK_BOOTSTRAP;
use bramble_qemu_tests::member::{Member, NAME};
use bramble_qemu_tests::upgrade::{Lab, MARK, OLD};
use bramble_qemu_tests::{BOOT, VirtualPi, canary, image};

const CARD_MIB: u64 = 4096;
/// What is not to change: plain and odd files, those of apps, programs.
const FILL: &str = "mkdir -p /srv/data /var/lib/bramble-apps/volumes/cam && cd /srv/data && \
    for i in $(seq 40); do head -c $((i * 37813)) /dev/urandom > f$i; done && ln f1 hard && ln -s f2 soft && \
    truncate -s 300M sparse && chmod 600 f3 && chown 33:33 f4 && touch -d 2001-01-01 f5 && \
    head -c 9000000 /dev/urandom > /var/lib/bramble-apps/volumes/cam/film";
const LIST: &str = "cd / && find srv/data var/lib/bramble/bin var/lib/bramble-apps/volumes usr/bin usr/sbin \
    -not -type d -printf '%p %y %m %U %G %n %s %l %T@\\n' | sort && \
    find srv/data var/lib/bramble/bin var/lib/bramble-apps/volumes usr/bin -type f -not -name sparse | sort | \
    xargs -d '\\n' sha256sum";

/// A command that takes longer than a look.
fn long(pi: &VirtualPi, command: &str) -> String {
    let said = pi.board().run(command, BOOT).unwrap_or_else(|err| panic!("{err:#}. {}", pi.serial().last_words()));
    assert_eq!(said.code, 0, "`{command}`: {}", said.out);
    said.out
}

fn is_unchanged(pi: &VirtualPi) {
    long(pi, &format!("({LIST}) > /run/list && diff /srv/list /run/list"));
}

#[test]
fn a_machine_in_use_becomes_volumes_whenever_the_power_goes_and_is_upgraded_by_counted_boots() {
    if !full() {
        return;
    }
    let case = Case::new("qemu-convert");
    let repo = AptRepo::start(&case);
    let member = Member::on_card(&case, &image::stock(CARD_MIB), CARD_MIB, &[repo.address()]);
    member.pi.boot();
    joins(&member);
    let device = member.online().id;
    becomes_volumes(&member);
    member.online();
    member.answers();
    assert_eq!(guard(&member.pi).outcome, Outcome::Plain);

    let lab = Lab::of(member, repo, Protection::Bootcount);
    assert!(lab.os().is_some_and(|os| os.lacks.contains("one set of boot files")), "{:?}", lab.os());
    let stays = upgraded(&lab, "stays", Status::Confirmed, "");
    let back = upgraded(&lab, "broken-init", Status::RolledBack, "the new system did not come up");
    assert_ne!(stays, OLD);
    assert_eq!(back, stays, "the one before");
    assert_eq!(lab.device(), device, "the same device");
}

/// As docs/guide/devices.md says.
fn joins(member: &Member) {
    let seed = member.seed();
    let pi = &member.pi;
    pi.ok(&format!("umask 077; echo '{}' > /run/token", seed.token));
    let install = format!(
        "{STOCK_BOOTSTRAP} install --coordinator {} --token-file /run/token --name {NAME} && rm /run/token",
        seed.coordinator
    );
    let said = long(pi, &install);
    assert!(said.contains("bramble-bootstrap convert"), "{said}");
    member.online();
    member.apply_hello();
    member.answers();
}

fn becomes_volumes(member: &Member) {
    let pi = &member.pi;
    long(pi, FILL);
    long(pi, &format!("({LIST}) > /srv/list"));
    let said = long(pi, &format!("{STOCK_BOOTSTRAP} convert"));
    assert!(said.contains("nothing was touched"), "{said}");
    // The control channel's own is on /run, which no person's shell has.
    let said = long(pi, &format!("unset TMPDIR; {STOCK_BOOTSTRAP} convert --convert-root-to-lvm"));
    assert!(said.contains("prepared"), "{said}");
    let boots = pi.board().boots();
    pi.ok("systemctl --no-block reboot");
    wait_until("it to start again", BOOT, || {
        if pi.board().boots() > boots { Ok(()) } else { Err(pi.serial().last_words()) }
    });

    // Five attempts are made; afterwards the old system starts.
    let mut dice = pi.case().dice();
    for cut in 1..=4 {
        println!("── power cut {cut}");
        dice.moment(Duration::from_secs(120));
        pi.cut_power();
        pi.board().power_on();
    }
    pi.wait_boot(pi.board().boots());
    let done = format!(
        "{STOCK_BOOTSTRAP} convert | grep -F 'nothing to do' && \
         {STOCK_BOOTSTRAP} convert --status | grep -xE 'done|no conversion is under way'"
    );
    pi.until("the conversion to be done", 2 * BOOT, &done);
    is_unchanged(pi);
    // A mount keeps the name that was typed, and a volume has several.
    for (place, volume) in [("/", "root"), ("/var/lib/bramble", "state"), ("/var/lib/bramble-apps", "apps")] {
        pi.ok(&format!("test $(readlink -f $(findmnt -n -o SOURCE {place})) = $(readlink -f /dev/vg0/{volume})"));
    }

    pi.switch_off();
    let card = pi.card();
    let cmdline = card.text(1, "cmdline.txt").unwrap();
    assert!(cmdline.contains("root=/dev/vg0/root "), "{cmdline}");
    let group = card.volume_group(2).unwrap();
    assert_eq!(group.volumes["root"].kind, "thin");
    assert_eq!(
        group.volumes.values().filter(|volume| volume.kind == "thin").count(),
        1,
        "the old root is gone: {group:?}"
    );
    pi.boot();
    pi.cut_power();
    pi.boot();
    is_unchanged(pi);
}

/// What the boot guard says of this boot. It has slots in no boot of such a card, and a panic is a reboot in all of them.
fn guard(pi: &VirtualPi) -> BootRecord {
    let record: BootRecord = serde_json::from_str(&pi.ok(&format!("cat {}", BootRecord::PATH))).unwrap();
    assert_eq!((record.tryboot, &record.trouble[..]), (Tryboot::Unsupported, &[][..]), "{record:?}");
    assert_eq!(pi.ok("cat /proc/sys/kernel/panic").trim(), "10");
    record
}

/// The package's version afterwards; its boot files have not reached the card.
fn upgraded(lab: &Lab, name: &str, end: Status, why: &str) -> String {
    println!("── {name}");
    let pi = &lab.member.pi;
    lab.offer(|package, first| match end {
        Status::Confirmed => package.postinst(&format!("{first}update-initramfs -u\n")),
        _ => harm(name).package(package, first),
    });
    let boots = pi.board().boots();
    let give_up = if end == Status::Confirmed { "900s" } else { "240s" };
    let asked = lab.ask(&canary::words(name, give_up));
    let story = lab.watch(&asked, |_| ());
    drop(asked.output());
    let boots = pi.board().boots() - boots;
    canary::told(name, &story, &format!("{boots} boots"));
    assert_eq!(story.end.status, end, "{story:?}");
    assert!(story.end.reason.contains(why), "{story:?}");
    // Two trials are counted, and the third boot goes back.
    assert_eq!(boots, if end == Status::Confirmed { 1 } else { 3 }, "boots");
    lab.member.answers();
    assert_eq!(pi.ok("lvm lvs --noheadings -o lv_name vg0 | grep -c preupgrade || true").trim(), "0");
    let held = pi.run("find /boot/firmware -name 'fleet-mark*'");
    assert_eq!((held.code, held.out.trim()), (0, ""), "boot files are held");
    guard(pi);
    pi.ok(&format!("dpkg-query -W -f '${{Version}}' {MARK}")).trim().to_owned()
}
