//! A card that is in use, root on a partition, becomes one of volumes; the power goes on the way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::clock::full;
use bramble_fleet_tests::wait_until;
use bramble_qemu_tests::image::STOCK_BOOTSTRAP;
use bramble_qemu_tests::{BOOT, Setup, VirtualPi, image};

const CARD_MIB: u64 = 4096;
/// What is not to change: plain and odd files, the folders that get volumes of their own, programs.
const FILL: &str = "mkdir -p /srv/data /var/lib/bramble/bin /var/lib/bramble-apps/volumes/cam && cd /srv/data && \
    for i in $(seq 40); do head -c $((i * 37813)) /dev/urandom > f$i; done && ln f1 hard && ln -s f2 soft && \
    truncate -s 300M sparse && chmod 600 f3 && chown 33:33 f4 && touch -d 2001-01-01 f5 && \
    head -c 3000000 /dev/urandom > /var/lib/bramble/bin/agent && \
    head -c 9000000 /dev/urandom > /var/lib/bramble-apps/volumes/cam/film && \
    chmod 700 /var/lib/bramble /var/lib/bramble-apps";
const LIST: &str = "cd / && find srv/data var/lib/bramble var/lib/bramble-apps usr/bin usr/sbin -name lost+found -prune -o \
    -not -type d -printf '%p %y %m %U %G %n %s %l %T@\\n' | sort && \
    find srv/data var/lib/bramble var/lib/bramble-apps usr/bin -type f -not -name sparse | sort | \
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
fn a_card_in_use_becomes_volumes_whenever_the_power_goes() {
    if !full() {
        return;
    }
    let stock = image::stock(CARD_MIB);
    let case = Case::new("qemu-convert");
    let pi = VirtualPi::new(&case, "stock", &stock, &Setup { card_mib: CARD_MIB, ..Setup::default() });
    pi.boot();
    long(&pi, FILL);
    long(&pi, &format!("({LIST}) > /srv/list"));
    let said = long(&pi, &format!("{STOCK_BOOTSTRAP} convert"));
    assert!(said.contains("nothing was touched"), "{said}");
    let said = long(&pi, &format!("{STOCK_BOOTSTRAP} convert --convert-root-to-lvm"));
    assert!(said.contains("prepared"), "{said}");
    let boots = pi.board().boots();
    pi.ok("systemctl --no-block reboot");
    wait_until("it to start again", BOOT, || {
        if pi.board().boots() > boots { Ok(()) } else { Err(pi.serial().last_words()) }
    });

    // Five attempts are made; afterwards the old system starts.
    let mut dice = case.dice();
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
    is_unchanged(&pi);
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
    is_unchanged(&pi);
}
