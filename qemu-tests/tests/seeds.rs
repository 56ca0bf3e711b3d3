//! What a device says when it cannot become one: on the console, in the journal, and beside the seed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::sync::Arc;

use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::{Device, DeviceSetup, wait_until};
use bramble_qemu_tests::member::{HOST, Member};
use bramble_qemu_tests::{BOOT, image, sample};

/// The journal and the file beside the seed say what the console says.
fn is_told(member: &Member, mark: usize, words: &str) {
    let pi = &member.pi;
    pi.serial().wait(words, mark, BOOT).unwrap_or_else(|err| panic!("{err:#}"));
    let ask = format!("journalctl -b --no-pager | grep -F '{words}'");
    pi.until("the journal to say so", BOOT, &ask);
    pi.until(
        "the result beside the seed to say so",
        BOOT,
        &format!("grep -F '{words}' /boot/bramble/bramble-result.txt"),
    );
}

#[test]
fn a_damaged_seed_is_told_and_a_mended_one_taken() {
    if !sample::takes("damaged-seed") {
        return;
    }
    let image = image::for_tests();
    let case = Case::new("qemu-damaged-seed");
    let member = Member::new(&case, &image);
    let good = member.seed().text();
    member.plant(&good.replace("hostname =", "hostnam ="));
    let mark = member.pi.serial().mark();
    member.pi.boot();
    is_told(&member, mark, "bramble.toml, line 3");
    member.pi.switch_off();
    member.plant(&good);
    member.pi.boot();
    member.online();
}

#[test]
fn a_used_token_is_told() {
    if !sample::takes("used-token") {
        return;
    }
    let image = image::for_tests();
    let case = Case::new("qemu-used-token");
    let member = Member::new(&case, &image);
    let seed = member.seed();
    // The broker is named by its address for guests, so that this one enrols and then reaches nobody, outside neither.
    member.net.cmd(&["ip", "route", "add", "unreachable", &format!("{HOST}/32")]).check().unwrap();
    let setup = DeviceSetup {
        token: Some(seed.token.clone()),
        net: Some(Arc::clone(&member.net)),
        ..member.fleet.device_setup("other")
    };
    let other = Device::new(&case, setup);
    other.start_agent();
    wait_until("the other to have enrolled", BOOT, || member.fleet.device_view("other").map(drop));
    other.kill_agent();
    member.plant(&seed.text());
    let mark = member.pi.serial().mark();
    member.pi.boot();
    is_told(&member, mark, "token");
    assert!(member.fleet.device_view(bramble_qemu_tests::member::NAME).is_err(), "it is no device");
}

#[test]
fn a_full_state_volume_is_told_and_the_apps_run() {
    if !sample::takes("state-full") {
        return;
    }
    let image = image::for_tests();
    let case = Case::new("qemu-state-full");
    let member = Member::new(&case, &image);
    member.plant(&member.seed().text());
    member.pi.boot();
    member.online();
    member.apply_hello();
    member.answers();
    member.pi.ok("dd if=/dev/zero of=/var/lib/bramble/filler bs=1M 2>/dev/null; sync");
    let mark = member.pi.serial().mark();
    member.pi.reboot();
    is_told(&member, mark, "is full");
    member.answers();
    member.pi.ok("rm /var/lib/bramble/filler");
    member.pi.reboot();
    member.answers();
    member.online();
}
