//! The life of a device, told on one virtual Pi: from the flashed card to all the blows it has to survive.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_contracts::v2::ClockVerdict;
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::clock::full;
use bramble_fleet_tests::wait_until;
use bramble_qemu_tests::member::{Member, NAME};
use bramble_qemu_tests::{BOOT, Clock, Hang, image, sample};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[test]
fn a_flashed_card_becomes_a_device_and_stays_one() {
    let image = image::for_tests();
    let case = Case::new("qemu-story");
    let member = Member::new(&case, &image);
    first_boot(&member);
    power_cuts(&member);
    for (name, blow) in [
        ("reboot-offline", reboot_offline as fn(&Member)),
        ("clock-1970", clock_1970),
        ("clock-ahead", clock_ahead),
        ("hang-init", |member| hang(member, Hang::Init)),
        ("hang-processors", |member| hang(member, Hang::Processors)),
        ("panic", panic_reboots),
    ] {
        if sample::takes(name) {
            println!("── {name}");
            blow(&member);
        }
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

/// Power goes at any moment, also while it boots.
fn power_cuts(member: &Member) {
    let mut dice = member.pi.case().dice();
    for cut in 1..=if full() { 10 } else { 1 } {
        println!("── power cut {cut}");
        dice.moment(Duration::from_secs(if cut % 2 == 0 { 60 } else { 20 }));
        member.pi.cut_power();
        member.pi.card().volume_group(4).unwrap();
        member.pi.board().power_on();
    }
    member.pi.wait_boot(member.pi.board().boots());
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
    let year: u32 = member.pi.ok("date +%Y").trim().parse().unwrap();
    assert!(year >= 2026, "the time floor holds: {year}");
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
    wait_until("the clock to be fit again", BOOT, || match verdict(member) {
        ClockVerdict::Fit => Ok(()),
        other => Err(format!("{other:?}")),
    });
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
