//! The machine that QEMU is asked for. Pure.
//!
//! A `virt` board, because nothing that QEMU offers as a Raspberry Pi has a watchdog that resets, or boots in bearable
//! time. The network is closed: the guest reaches only what a wire leads to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Sockets;
use crate::firmware::Boot;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The card's file.
    pub card: PathBuf,
    /// Where everything written to the card is recorded, too.
    pub tape: Option<PathBuf>,
    /// Processors.
    pub cpus: u32,
    /// MiB of memory.
    pub memory_mib: u32,
    /// The clock at power-on: `utc` or a time such as `1970-01-01T00:00:00`.
    pub rtc: String,
    /// Ports of this machine that lead into the guest.
    pub forwards: Vec<Forward>,
    /// Addresses in the guest's network that lead out to this machine.
    pub wires: Vec<Wire>,
    /// The program that joins a wire's two ends.
    pub wire_program: PathBuf,
    /// Where its sockets lie.
    pub sockets: Sockets,
}

/// `127.0.0.1:host` leads to the guest's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// On this machine.
    pub host: u16,
    /// In the guest.
    pub guest: u16,
}

/// What the guest reaches at `guest` is `host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// In the guest's network, 10.0.2.0/24.
    pub guest: SocketAddr,
    /// On this machine.
    pub host: SocketAddr,
}

/// The board itself, which the device tree depends on.
pub(super) fn board(machine: &Machine) -> Vec<String> {
    let (cpus, memory) = (machine.cpus.to_string(), machine.memory_mib.to_string());
    // Signed pointers cost a third of the time under TCG.
    ["-cpu", "max,pauth=off", "-smp", &cpus, "-m", &memory, "-nodefaults", "-no-user-config"].map(String::from).into()
}

/// Machine type with its options.
pub(super) const TYPE: &str = "virt,gic-version=3";

/// The whole command line, for one boot.
pub(super) fn of(machine: &Machine, boot: &Boot, files: &Path, dtb: &Path) -> Vec<String> {
    let mut args = vec!["-M".to_owned(), TYPE.to_owned()];
    args.extend(board(machine));
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
    let path = |path: &Path| path.display().to_string();
    add(&["-accel", "tcg,thread=multi,tb-size=512", "-display", "none", "-no-reboot", "-action", "watchdog=reset"]);
    add(&["-rtc", &format!("base={}", machine.rtc)]);
    let card = card(machine);
    // Requests that QEMU joins may have more parts than the tape takes.
    let join = if machine.tape.is_some() { "off" } else { "on" };
    add(&[card.0, &card.1, "-device", &format!("virtio-blk-pci,drive=card,request-merging={join}")]);
    add(&["-device", "virtio-rng-pci", "-device", "i6300esb", "-device", "virtio-serial-pci"]);
    for (name, socket) in [("control", machine.sockets.control()), ("firmware", machine.sockets.firmware())] {
        add(&["-chardev", &format!("socket,id={name},path={},server=on,wait=off", path(&socket))]);
        add(&["-device", &format!("virtserialport,chardev={name},name=org.bramble.{name}")]);
    }
    add(&["-netdev", &network(machine), "-device", &format!("virtio-net-pci,netdev={NETWORK},id=nic,romfile=")]);
    add(&["-qmp", &format!("unix:{},server=on,wait=off", path(&machine.sockets.qmp()))]);
    add(&["-serial", "stdio", "-monitor", "none", "-dtb", &path(dtb)]);
    add(&["-kernel", &path(&files.join(boot.kernel.to_lowercase())), "-append", &boot.cmdline]);
    if let Some(initramfs) = &boot.initramfs {
        add(&["-initrd", &path(&files.join(initramfs.to_lowercase()))]);
    }
    args
}

/// The card: what the guest flushes lies in this machine's memory, for this machine does not lose its power.
fn card(machine: &Machine) -> (&'static str, String) {
    let card = machine.card.display();
    let Some(tape) = &machine.tape else {
        return ("-drive", format!("file={card},if=none,id=card,format=raw,cache=unsafe,discard=unmap"));
    };
    let file =
        |path: &Path| json!({ "driver": "file", "filename": path, "cache": { "no-flush": true }, "discard": "unmap" });
    let mut drive = json!({
        "driver": "blklogwrites", "node-name": "card", "discard": "unmap", "file": file(&machine.card), "log": file(tape)
    });
    let goes_on = tape.metadata().is_ok_and(|tape| tape.len() > 0);
    drive[if goes_on { "log-append" } else { "log-sector-size" }] = if goes_on { json!(true) } else { json!(512) };
    ("-blockdev", drive.to_string())
}

/// The network's id in QEMU: its cable can be pulled by this name.
pub(super) const NETWORK: &str = "net";

fn network(machine: &Machine) -> String {
    let mut text = format!("user,id={NETWORK},restrict=on,ipv6=off");
    for Forward { host, guest } in &machine.forwards {
        text.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
    }
    for Wire { guest, host } in &machine.wires {
        text.push_str(&format!(",guestfwd=tcp:{guest}-cmd:{} {host}", machine.wire_program.display()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            card: "/c/card.img".into(),
            tape: None,
            cpus: 2,
            memory_mib: 1024,
            rtc: "utc".into(),
            forwards: vec![Forward { host: 12345, guest: 8080 }],
            wires: vec![Wire { guest: "10.0.2.100:7980".parse().unwrap(), host: "10.128.0.1:1234".parse().unwrap() }],
            wire_program: "/t/bramble-wire".into(),
            sockets: Sockets::in_dir(Path::new("/run/x")),
        }
    }

    #[test]
    fn the_network_is_closed_and_leads_only_where_it_is_told() {
        let want = "user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:12345-:8080,\
                    guestfwd=tcp:10.0.2.100:7980-cmd:/t/bramble-wire 10.128.0.1:1234";
        assert_eq!(network(&machine()), want);
    }

    #[test]
    fn a_tape_is_begun_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let tape = dir.path().join("tape");
        std::fs::write(&tape, "").unwrap();
        let (word, begun) = card(&Machine { tape: Some(tape.clone()), ..machine() });
        assert_eq!(word, "-blockdev");
        assert!(begun.contains(r#""log-sector-size":512"#) && !begun.contains("append"), "{begun}");
        std::fs::write(&tape, "something").unwrap();
        let (_, more) = card(&Machine { tape: Some(tape), ..machine() });
        assert!(more.contains(r#""log-append":true"#) && !more.contains("sector"), "{more}");
    }

    #[test]
    fn what_the_firmware_decided_is_what_is_started() {
        let boot = Boot {
            partition: 2,
            tryboot: false,
            kernel: "Vmlinuz".into(),
            initramfs: None,
            cmdline: "root=/dev/vg0/root rw".into(),
        };
        let line = of(&machine(), &boot, Path::new("/f/2"), Path::new("/f/x.dtb"));
        let after = |word: &str| line.iter().position(|w| w == word).map(|at| line[at + 1].as_str());
        assert_eq!(after("-kernel"), Some("/f/2/vmlinuz"));
        assert_eq!(after("-append"), Some("root=/dev/vg0/root rw"));
        assert_eq!(after("-initrd"), None);
        assert!(line.contains(&"-no-reboot".to_owned()));
        let with = Boot { initramfs: Some("initrd.img".into()), ..boot };
        let line = of(&machine(), &with, Path::new("/f/2"), Path::new("/f/x.dtb"));
        assert!(line.contains(&"/f/2/initrd.img".to_owned()));
    }
}
