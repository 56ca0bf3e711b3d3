//! The harness itself on a real machine: an image boots, obeys, loses its power, and boots again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use bramble_fleet_tests::case::Case;
use bramble_qemu_tests::{Setup, VirtualPi, image};

#[test]
fn a_virtual_pi_boots_obeys_and_survives_a_power_cut() {
    let image = image::for_tests();
    let case = Case::new("qemu-boot");
    let pi = VirtualPi::new(&case, "pi-1", &image, &Setup::default());
    pi.boot();
    assert_eq!(pi.ok("uname -m").trim(), "aarch64");
    assert_eq!(pi.ok("od -An -tx1 /proc/device-tree/chosen/bootloader/partition").trim(), "00 00 00 02");
    pi.ok("echo kept > /var/lib/bramble/mark && sync");
    pi.cut_power();
    let group = pi.card().volume_group(4).unwrap();
    assert_eq!((group.name.as_str(), group.volumes["root"].kind.as_str()), ("vg0", "thin"));
    assert!(pi.card().text(1, "autoboot.txt").unwrap().contains("boot_partition=2"));
    pi.boot();
    assert_eq!(pi.ok("cat /var/lib/bramble/mark").trim(), "kept");
    assert_eq!(pi.board().boots(), 2);
}
