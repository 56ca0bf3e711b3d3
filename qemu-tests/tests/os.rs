//! The canary matrix of OS upgrades on virtual Pis: real apt, real volumes, real boots on trial; good packages and those that
//! do harm. Several harms follow each other on one device: it has to survive them all.
//!
//! Only in full runs: of short ones the story's device takes a part of them. `BRAMBLE_ONLY=wrong-root,churn` repeats some.

use bramble_qemu_tests::canary;
use bramble_qemu_tests::harm::harm;
use bramble_qemu_tests::sample;
use bramble_qemu_tests::upgrade::Lab;

#[test]
fn a_clean_upgrade_is_tried_confirmed_and_kept() {
    if sample::is_whole() {
        canary::clean(&Lab::new("os-clean"));
    }
}

#[test]
fn what_boots_no_further_than_the_initramfs_comes_back() {
    suffers("os-initramfs", &["panics-early", "wrong-root", "hollow-initramfs", "init-panics", "hang-initramfs"]);
}

#[test]
fn what_has_no_first_process_or_no_end_of_it_comes_back() {
    suffers("os-root", &["broken-init", "emergency", "hang-userspace", "hang-unit"]);
}

#[test]
fn what_is_not_well_comes_back() {
    suffers("os-unwell", &["no-network", "no-agent", "agent-loops", "newer-store"]);
}

#[test]
fn packages_that_fail_are_not_tried() {
    suffers("os-packages", &["postinst-fails", "truncated-initramfs", "fills-disk", "postinst-hangs"]);
}

#[test]
fn what_does_no_harm_stays() {
    suffers("os-stays", &["cmdline", "asks", "slot-damaged", "churn"]);
}

#[test]
fn a_wrong_clock_and_a_full_state_volume_brick_nothing() {
    suffers("os-odd", &["trial-1970", "trial-ahead", "state-full-before", "state-full-on-trial"]);
}

/// Those of them that this run takes, one after another on one device.
fn suffers(name: &str, harms: &[&str]) {
    if sample::is_short() {
        return;
    }
    let mut taken = harms.iter().filter(|name| sample::takes(name)).peekable();
    if taken.peek().is_some() {
        let lab = Lab::new(name);
        taken.for_each(|name| canary::suffers(&lab, harm(name)));
    }
}
