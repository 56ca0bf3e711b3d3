//! The life of a device on a virtual Pi: from the flashed card to all the blows it has to survive.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_contracts::v2::ClockVerdict;
use bramble_contracts::v3::Protection;
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::clock::full;
use bramble_fleet_tests::wait_until;
use bramble_qemu_tests::apt::AptRepo;
use bramble_qemu_tests::campaign::Recorder;
use bramble_qemu_tests::member::{Member, NAME};
use bramble_qemu_tests::upgrade::Lab;
use bramble_qemu_tests::{BOOT, Clock, Hang, canary, image, sample};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Name of a sampled case, and what is done.
type Blow = (&'static str, fn(&Member));

const ALONE: &[Blow] = &[
    ("reboot-offline", reboot_offline),
    ("clock-1970", clock_1970),
    ("clock-ahead", clock_ahead),
    ("metadata-lost", metadata_lost),
];
const HANGS: &[Blow] = &[("hang-init", hang_init), ("hang-processors", hang_processors), ("panic", panic_reboots)];
const TRYBOOT: &[Blow] = &[("tryboot", tryboot)];

#[test]
fn a_flashed_card_becomes_a_device_and_stays_one() {
    let case = Case::new("qemu-story");
    let repo = AptRepo::start(&case);
    let member = Member::with(&case, &image::for_tests(), &[repo.address()]);
    first_boot(&member);
    power_cuts(&member);
    if !sample::is_short() {
        return comes_back(&member);
    }
    // A short run does all it does on the same device; a full one takes all cases, each group on a device of its own.
    let recorder = Recorder::start(&member.pi, "story").unwrap();
    comes_back(&member);
    let lab = Lab::of(member, repo, Protection::Tryboot);
    canary::short(&lab, recorder);
    strike(&lab.member, &[ALONE, HANGS, TRYBOOT].concat());
}

#[test]
fn apps_run_without_a_network_and_under_any_clock() {
    blows("qemu-alone", ALONE);
}

#[test]
fn what_hangs_or_panics_comes_back() {
    blows("qemu-hangs", HANGS);
}

#[test]
fn a_slot_on_trial_is_booted_once() {
    blows("qemu-tryboot", TRYBOOT);
}

fn member(name: &str) -> Member {
    let image = image::for_tests();
    Member::new(&Case::new(name), &image)
}

/// In a full run, on a device whose app runs.
fn blows(name: &str, blows: &[Blow]) {
    if !full() {
        return;
    }
    let member = member(name);
    member.plant(&member.seed().text());
    member.pi.boot();
    member.online();
    member.apply_hello();
    member.answers();
    strike(&member, blows);
}

fn strike(member: &Member, blows: &[Blow]) {
    for (blow, strike) in blows.iter().filter(|(blow, _)| sample::takes(blow)) {
        println!("── {blow}");
        strike(member);
    }
}

/// Flashed, seeded, powered: enrolled, its app answers, the token is gone, the volumes have the card's size.
fn first_boot(member: &Member) {
    let seed = member.seed();
    member.plant(&seed.text());
    member.pi.boot();
    let device = member.online();
    assert_eq!(device.name.as_str(), NAME);
    assert_eq!(device.labels.iter().filter(|(key, _)| key.to_string() == "site").count(), 1);
    member.apply_hello();
    member.answers();
    member.is_sound();
    let pi = &member.pi;
    assert_eq!(pi.ok("hostname").trim(), NAME);
    assert_eq!(pi.ok("uname -m").trim(), "aarch64");
    let left = pi.run(&format!("grep -rlF '{}' /etc /var/lib/bramble /boot/bramble", seed.token));
    assert_eq!(left.code, 1, "the token is still in {}", left.out);
    pi.switch_off();
    let card = pi.card();
    let text = card.text(1, "bramble.toml").unwrap();
    assert!(!text.contains(&seed.token) && text.contains(&seed.coordinator), "{text}");
    let result = card.text(1, "bramble-result.txt").unwrap();
    assert!(result.contains("has taken its seed"), "{result}");
    let group = card.volume_group(4).unwrap();
    let whole: u64 = ["root", "state", "apps"].iter().map(|name| group.volumes[*name].bytes).sum();
    assert!(whole > 2 << 30, "the volumes have grown to the card: {group:?}");
    pi.boot();
    member.answers();
}

/// Power goes at any moment, also while it boots. It stays off.
fn power_cuts(member: &Member) {
    let mut dice = member.pi.case().dice();
    for cut in 1..=if full() { 10 } else { 1 } {
        println!("── power cut {cut}");
        member.pi.board().power_on();
        dice.moment(Duration::from_secs(if cut % 2 == 0 { 60 } else { 20 }));
        member.pi.cut_power();
        member.pi.card().volume_group(4).unwrap();
    }
}

/// With power again.
fn comes_back(member: &Member) {
    member.pi.boot();
    member.answers();
    member.is_sound();
    member.online();
}

/// Without coordinator and cable everything desired runs again.
fn reboot_offline(member: &Member) {
    member.pi.cut_network();
    member.pi.reboot();
    member.answers_inside();
    member.is_sound();
    member.pi.heal_network();
    member.answers();
    member.online();
}

fn verdict(member: &Member) -> ClockVerdict {
    member.fleet.device_view(NAME).unwrap().clock.verdict
}

/// A board without a battery: the time floor holds, apps run, and the guard judges.
fn clock_1970(member: &Member) {
    member.pi.switch_off();
    member.pi.set_clock(Clock::Unset);
    member.pi.boot();
    member.pi.is_past_floor();
    member.answers();
    member.pi.switch_off();
    member.pi.set_clock(Clock::Right);
    member.pi.boot();
    member.answers();
    member.online();
}

/// Ten years ahead: apps run, and the guard refuses to trust it.
fn clock_ahead(member: &Member) {
    member.pi.switch_off();
    member.pi.set_clock(Clock::Ahead(10 * YEAR));
    member.pi.boot();
    member.answers();
    let said = member.pi.run("/var/lib/bramble/bin/current check --config /etc/bramble/agent.toml");
    assert!(said.out.contains("clock"), "the clock guard says so: {}", said.out);
    member.pi.switch_off();
    member.pi.set_clock(Clock::Right);
    member.pi.boot();
    member.answers();
    member.online();
    // systemd begins with the last time that it has seen.
    member.pi.put_time_right();
    wait_until("the clock to be fit again", BOOT, || match verdict(member) {
        ClockVerdict::Fit => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// LVM's last change was lost or torn, but for the header that leads to it: the guard goes back to the one before.
fn metadata_lost(member: &Member) {
    let pi = &member.pi;
    let tags = || pi.ok("lvm vgs --noheadings -o vg_tags vg0").trim().to_owned();
    pi.ok("lvm vgchange --addtag before vg0");
    for from in [0, 512] {
        let boots = pi.board().boots();
        pi.ok("lvm vgchange --addtag after vg0");
        assert_eq!(tags(), "after,before");
        pi.switch_off();
        pi.card().lose_metadata(4, from).unwrap();
        assert!(pi.card().volume_group(4).unwrap_err().to_string().contains("checksum"));
        pi.boot();
        member.answers();
        assert_eq!(tags(), "before");
        assert_eq!(pi.board().boots(), boots + 2, "one to mend it, one that goes on");
    }
    member.is_sound();
    pi.ok("lvm vgchange --deltag before vg0");
    member.online();
}

fn hang_init(member: &Member) {
    hang(member, Hang::Init);
}

fn hang_processors(member: &Member) {
    hang(member, Hang::Processors);
}

/// A frozen guest is reset by its watchdog and comes back.
fn hang(member: &Member, how: Hang) {
    let (boots, barks) = (member.pi.board().boots(), member.pi.board().barks());
    member.pi.hang(how);
    member.pi.wait_boot(boots + 1);
    assert_eq!(member.pi.board().barks(), barks + 1, "it was the watchdog");
    member.answers();
    member.is_sound();
}

/// A kernel that panics resets the board by itself.
fn panic_reboots(member: &Member) {
    let (boots, barks) = (member.pi.board().boots(), member.pi.board().barks());
    member.pi.hang(Hang::Panic);
    member.pi.wait_boot(boots + 1);
    assert_eq!(member.pi.board().barks(), barks, "before the watchdog");
    member.answers();
    member.is_sound();
}

/// The firmware's one-shot flag: the other slot once, then the first again, and the device is the same in both.
fn tryboot(member: &Member) {
    let pi = &member.pi;
    let slot = || {
        pi.ok(
            "od -An -v -tu1 /proc/device-tree/chosen/bootloader/partition /proc/device-tree/chosen/bootloader/tryboot",
        )
    };
    let words = |text: String| text.split_whitespace().map(String::from).collect::<Vec<_>>().join(" ");
    assert_eq!(words(slot()), "0 0 0 2 0 0 0 0");
    pi.ok("echo tryboot > /dev/virtio-ports/org.bramble.firmware");
    pi.reboot();
    assert_eq!(words(slot()), "0 0 0 3 0 0 0 1");
    assert!(pi.ok("cat /proc/cmdline").contains("bramble.slot=b"));
    assert!(pi.ok("lsblk -no LABEL $(findmnt -n -o SOURCE /boot/firmware)").contains("BOOT_B"));
    member.answers();
    pi.reboot();
    assert_eq!(words(slot()), "0 0 0 2 0 0 0 0", "the flag counts once");
    // A flag that was asked for is lost with the power.
    pi.ok("echo tryboot > /dev/virtio-ports/org.bramble.firmware");
    pi.cut_power();
    pi.boot();
    assert_eq!(words(slot()), "0 0 0 2 0 0 0 0");
    member.answers();
}
