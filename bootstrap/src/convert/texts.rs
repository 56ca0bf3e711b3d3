//! The files whose lines name the root: `fstab`, `cmdline.txt`, Debian's settings of `raspi-firmware`; and what `config.txt`
//! says of the initramfs. Text in, text out.

/// The new root, as all of them name it.
pub(crate) const ROOT: &str = "/dev/vg0/root";

/// The volumes that are mounted beside root.
pub(crate) const MOUNTS: [(&str, &str); 2] = [("state", "/var/lib/bramble"), ("apps", "/var/lib/bramble-apps")];

/// `fstab` with the new root, and with the volumes beside it. The same when it is so already.
pub(crate) fn fstab(text: &str) -> String {
    let mut out = String::new();
    let mut seen = vec![];
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let place = fields.get(1).filter(|_| !line.trim_start().starts_with('#')).copied();
        if place == Some("/") {
            let rest = fields[1..].join(" ");
            out.push_str(&format!("{ROOT} {rest}\n"));
        } else {
            out.push_str(&format!("{line}\n"));
        }
        seen.extend(place.map(str::to_owned));
    }
    if !seen.iter().any(|place| place == "/") {
        out.push_str(&format!("{ROOT} / ext4 defaults,noatime 0 1\n"));
    }
    for (name, place) in MOUNTS.iter().filter(|(_, place)| !seen.iter().any(|held| held == place)) {
        out.push_str(&format!(
            "/dev/vg0/{name} {place} ext4 defaults,noatime,nofail,x-systemd.device-timeout=60 0 2\n"
        ));
    }
    out
}

/// Where a Raspberry Pi's watchdog is built into the kernel, the time that it gives from the initramfs to systemd.
const HEARTBEAT: &str = "bcm2835_wdt.heartbeat=180";

/// The kernel's command line with the new root, and with time for the watchdog; none when it names no root.
pub(crate) fn cmdline(text: &str) -> Option<String> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let named = words.iter().any(|word| word.starts_with("root="));
    if !words.iter().any(|word| word.starts_with("bcm2835_wdt.heartbeat=")) {
        words.push(HEARTBEAT);
    }
    let word = |word: &&str| if word.starts_with("root=") { format!("root={ROOT}") } else { (*word).to_owned() };
    named.then(|| words.iter().map(word).collect::<Vec<_>>().join(" ") + "\n")
}

/// `/etc/default/raspi-firmware` with the new root: its hook writes `cmdline.txt` anew at each kernel.
pub(crate) fn raspi_firmware(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.trim_start().starts_with("ROOTPART="));
    let mut out: String = kept.map(|line| format!("{line}\n")).collect();
    out.push_str(&format!("ROOTPART={ROOT}\n"));
    out
}

/// What the firmware loads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Loads {
    /// Initramfs files that it names.
    pub(crate) named: Vec<String>,
    /// It looks for an initramfs that fits the kernel.
    pub(crate) automatic: bool,
    /// It loads from a folder of its own.
    pub(crate) prefix: bool,
}

/// Reads `config.txt`, all sections alike.
pub(crate) fn loads(config: &str) -> Loads {
    let mut loads = Loads::default();
    for line in config.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["initramfs", file, ..] => loads.named.push(file.to_owned()),
            [] => {}
            [_, ..] => {
                loads.automatic |= line == "auto_initramfs=1";
                loads.prefix |= line.strip_prefix("os_prefix=").is_some_and(|prefix| !prefix.is_empty());
            }
        }
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_gets_the_new_root_once() {
        let old =
            "# root\nPARTUUID=12-02 / ext4 defaults,noatime 0 1\nPARTUUID=12-01  /boot/firmware vfat defaults 0 2\n";
        let new = fstab(old);
        assert_eq!(
            new,
            "# root\n/dev/vg0/root / ext4 defaults,noatime 0 1\nPARTUUID=12-01  /boot/firmware vfat defaults 0 2\n\
             /dev/vg0/state /var/lib/bramble ext4 defaults,noatime,nofail,x-systemd.device-timeout=60 0 2\n\
             /dev/vg0/apps /var/lib/bramble-apps ext4 defaults,noatime,nofail,x-systemd.device-timeout=60 0 2\n"
        );
        assert_eq!(fstab(&new), new);
        assert!(fstab("").starts_with("/dev/vg0/root / ext4"));
    }

    #[test]
    fn the_command_line_gets_the_new_root_and_keeps_the_rest() {
        let new = cmdline("console=tty1 root=PARTUUID=12-02 rootwait\n").unwrap();
        assert_eq!(new, "console=tty1 root=/dev/vg0/root rootwait bcm2835_wdt.heartbeat=180\n");
        assert_eq!(cmdline(&new).unwrap(), new);
        assert_eq!(cmdline("quiet"), None);
        assert_eq!(raspi_firmware("A=1\nROOTPART=LABEL=x\n"), "A=1\nROOTPART=/dev/vg0/root\n");
    }

    #[test]
    fn an_initramfs_is_found_in_config_txt() {
        let loads = loads("[pi4]\n initramfs initrd.img-6.12 followkernel\n#auto_initramfs=1\nos_prefix=\n");
        assert_eq!(loads, Loads { named: vec!["initrd.img-6.12".into()], ..Loads::default() });
        assert!(super::loads("auto_initramfs=1").automatic && super::loads("os_prefix=a/").prefix);
    }
}
