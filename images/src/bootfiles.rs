//! What the firmware and the kernel are told: `autoboot.txt`, `config.txt`, `cmdline.txt`. Decides their text.

use serde_json::json;

use crate::recipe::{Boot, Kernel};

/// A boot slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Partition 2.
    A,
    /// Partition 3.
    B,
}

impl Slot {
    /// Both, in order.
    pub const ALL: [Slot; 2] = [Slot::A, Slot::B];

    /// Its letter.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Slot::A => "a",
            Slot::B => "b",
        }
    }

    /// The label of its file system.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Slot::A => "BOOT_A",
            Slot::B => "BOOT_B",
        }
    }
}

/// Partition 1's: slot a, and slot b for one boot when asked to try it.
pub const AUTOBOOT: &str = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";

/// The seed as it lies on a new card, all of it commented out.
pub const SEED: &str = include_str!("bootfiles/bramble.toml");

/// A slot's `config.txt`.
#[must_use]
pub fn config(boot: &Boot) -> String {
    let mut text: String = boot.config.iter().map(|line| format!("{line}\n")).collect();
    for kernel in &boot.kernels {
        if !kernel.filter.is_empty() {
            text.push_str(&format!("[{}]\n", kernel.filter));
        }
        // By name, never by auto_initramfs, which firmware releases have read differently.
        text.push_str(&format!("kernel={}\ninitramfs {} followkernel\n", kernel.kernel, kernel.initramfs));
    }
    if boot.kernels.iter().any(|kernel| !kernel.filter.is_empty()) {
        text.push_str("[all]\n");
    }
    text
}

/// A slot's `cmdline.txt`: one line.
#[must_use]
pub fn cmdline(boot: &Boot, slot: Slot) -> String {
    let fixed =
        ["root=/dev/vg0/root", "rootfstype=ext4", "rw", "fsck.repair=yes", "panic=10", "oops=panic"].map(String::from);
    let slot = format!("bramble.slot={}", slot.letter());
    let consoles = boot.consoles.iter().map(|console| format!("console={console}"));
    let words = fixed.into_iter().chain([slot]).chain(boot.words.iter().cloned()).chain(consoles);
    words.collect::<Vec<_>>().join(" ") + "\n"
}

/// Where root says which of its files belong onto a slot: an upgrade brings these there.
pub const MAP: &str = "usr/lib/bramble/boot-files.json";

/// What it says there.
#[must_use]
pub fn map(boot: &Boot, needs: &[String]) -> String {
    let kernel = |kernel: &Kernel| json!({ "versionEnds": kernel.version_ends, "kernel": kernel.kernel, "initramfs": kernel.initramfs });
    let kernels: Vec<_> = boot.kernels.iter().map(kernel).collect();
    json!({ "kernels": kernels, "copy": boot.copy, "needs": needs }).to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(filter: &str, name: &str) -> Kernel {
        let [version_ends, filter, kernel] = ["-arm64", filter, name].map(String::from);
        Kernel { version_ends, filter, initramfs: format!("initrd-{kernel}"), kernel }
    }

    fn boot(kernels: Vec<Kernel>) -> Boot {
        let consoles = vec!["tty1".into(), "ttyAMA0".into()];
        Boot {
            kernels,
            consoles,
            words: vec!["quiet".into()],
            config: vec!["arm_64bit=1".into()],
            copy: vec![],
            copy_config: vec![],
        }
    }

    #[test]
    fn one_kernel_needs_no_condition() {
        let text = config(&boot(vec![kernel("", "vmlinuz")]));
        assert_eq!(text, "arm_64bit=1\nkernel=vmlinuz\ninitramfs initrd-vmlinuz followkernel\n");
    }

    #[test]
    fn several_kernels_are_told_apart_by_the_board() {
        let text = config(&boot(vec![kernel("pi5", "k5"), kernel("pi4", "k4")]));
        let want = "arm_64bit=1\n[pi5]\nkernel=k5\ninitramfs initrd-k5 followkernel\n[pi4]\nkernel=k4\ninitramfs initrd-k4 \
                    followkernel\n[all]\n";
        assert_eq!(text, want);
    }

    #[test]
    fn the_kernels_line_names_root_and_slot() {
        let want = "root=/dev/vg0/root rootfstype=ext4 rw fsck.repair=yes panic=10 oops=panic bramble.slot=b quiet console=tty1 \
                    console=ttyAMA0\n";
        assert_eq!(cmdline(&boot(vec![]), Slot::B), want);
    }

    #[test]
    fn root_says_which_of_its_files_belong_onto_a_slot() {
        let boot = Boot { copy: vec![["/a/{kernel}".into(), "/".into()]], ..boot(vec![kernel("", "vmlinuz")]) };
        // As the agent reads it.
        let want = json!({
            "kernels": [{ "versionEnds": "-arm64", "kernel": "vmlinuz", "initramfs": "initrd-vmlinuz" }],
            "copy": [["/a/{kernel}", "/"]],
            "needs": ["usr/sbin/lvm"],
        });
        let said: serde_json::Value = serde_json::from_str(&map(&boot, &["usr/sbin/lvm".into()])).unwrap();
        assert_eq!(said, want);
    }

    #[test]
    fn autoboot_fits_the_512_bytes_firmware_reads() {
        assert!(AUTOBOOT.len() <= 512);
    }

    #[test]
    fn the_seed_on_a_new_card_says_nothing_yet() {
        let seed: toml::Table = toml::from_str(SEED).unwrap();
        assert!(seed.is_empty(), "{seed:?}");
        let filled: String =
            SEED.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
        let seed: toml::Table = toml::from_str(&filled).unwrap();
        assert!(seed.contains_key("coordinator") && seed.contains_key("token"), "{seed:?}");
    }
}
