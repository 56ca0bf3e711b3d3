//! The boot firmware of a Raspberry Pi as a pure function: out of the card's FAT partitions and what a reset leaves in
//! the chip it decides which kernel, initramfs and command line are started.
//!
//! Written from Raspberry Pi's documentation (autoboot.txt, config.txt, conditional filters, boot flow of the EEPROM).
//! Decides nothing about how a kernel is started. What it does not know: `boot.img`, overlays, USB and network boot,
//! `include`, and what only hardware can tell.

mod settings;

use std::collections::BTreeMap;

use settings::{AUTOBOOT_BYTES_MAX, Dialect, Now, Setting, last, read};

/// A FAT partition: its files by lower-case path, such as `config.txt` or `old/cmdline.txt`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fat(pub BTreeMap<String, Content>);

/// What the firmware sees of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A text that it reads itself.
    Text(String),
    /// Something it loads, of so many bytes.
    Bytes(u64),
}

/// The FAT partitions of a card by number, from 1.
pub type Card = BTreeMap<u32, Fat>;

/// What a board's firmware is like.
#[derive(Debug, Clone, Copy)]
pub struct Board {
    /// The model filters it sees.
    pub models: &'static [&'static str],
    /// A partition is bootable when it has one of these, and it is not empty.
    pub bootable_by: &'static [&'static str],
    /// Kernels it looks for when `config.txt` names none, in order.
    pub kernels: &'static [&'static str],
    /// `PARTITION_WALK`: when the partition that was asked for is not bootable, the next ones are tried.
    pub walks: Walk,
}

/// `PARTITION_WALK` of the EEPROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// 1; the default since August 2025.
    On,
    /// 0
    Off,
}

/// The board QEMU gives us. It has no `start4.elf`: what stands in for it is a `config.txt` that says something.
pub const VIRT: Board = Board { models: &[], bootable_by: &["config.txt"], kernels: &["kernel8.img"], walks: Walk::On };

/// A Raspberry Pi 4 with an EEPROM of 2025 or later.
pub const PI4: Board = Board {
    models: &["pi4"],
    bootable_by: &["start4.elf", "start.elf"],
    kernels: &["kernel8.img", "kernel7l.img"],
    walks: Walk::On,
};

/// A Raspberry Pi 5 with an EEPROM of 2025 or later.
pub const PI5: Board = Board {
    models: &["pi5"],
    bootable_by: &["config.txt"],
    kernels: &["kernel_2712.img", "kernel8.img"],
    walks: Walk::On,
};

/// What a reset leaves behind for the firmware. After power-on: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reset {
    /// The one-shot flag of `reboot "0 tryboot"`.
    pub tryboot: bool,
    /// The partition of `reboot N`; `autoboot.txt` is not read then.
    pub partition: Option<u32>,
}

/// What is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// `/chosen/bootloader/partition`
    pub partition: u32,
    /// `/chosen/bootloader/tryboot`; the flag itself is spent.
    pub tryboot: bool,
    /// The kernel's path on the partition.
    pub kernel: String,
    /// The initramfs' path on the partition.
    pub initramfs: Option<String>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Why nothing is started. A board stays there, blinking, unless a watchdog of its EEPROM resets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// No partition has what makes it bootable.
    #[error("no bootable partition")]
    NothingBootable,
    /// The kernel that is named is not there, or is empty.
    #[error("partition {partition}: kernel {kernel} is not there or is empty")]
    NoKernel {
        /// Where.
        partition: u32,
        /// Which.
        kernel: String,
    },
}

/// What the firmware did, in words, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For the serial log.
    pub trail: Vec<String>,
    /// What is started.
    pub boot: Result<Boot, Fatal>,
}

impl Fat {
    fn text(&self, file: &str) -> Option<&str> {
        match self.0.get(&file.to_lowercase())? {
            Content::Text(text) => Some(text),
            Content::Bytes(_) => None,
        }
    }

    fn holds(&self, file: &str) -> bool {
        self.0.get(&file.trim_start_matches('/').to_lowercase()).is_some_and(|content| match content {
            Content::Text(text) => !text.is_empty(),
            Content::Bytes(n) => *n > 0,
        })
    }
}

/// One start of the board.
#[must_use]
pub fn start(board: &Board, card: &Card, reset: Reset) -> Outcome {
    let mut trail = vec![];
    let boot = select(board, card, reset, &mut trail).and_then(|(number, config)| {
        let fat = card.get(&number).ok_or(Fatal::NothingBootable)?;
        load(board, number, fat, &config, reset, &mut trail)
    });
    if let Err(err) = &boot {
        trail.push(format!("stopped: {err}"));
    }
    Outcome { trail, boot }
}

/// The partition, and the name of its `config.txt`.
fn select(board: &Board, card: &Card, reset: Reset, trail: &mut Vec<String>) -> Result<(u32, String), Fatal> {
    let now = Now { models: board.models, tryboot: reset.tryboot, partition: 0 };
    let autoboot = card.iter().next().and_then(|(_, first)| first.text("autoboot.txt"));
    let mut config = if reset.tryboot { "tryboot.txt" } else { "config.txt" };
    let asked = match (reset.partition, autoboot) {
        (Some(number), _) => {
            trail.push(format!("reboot asked for partition {number}"));
            number
        }
        (None, None) => {
            trail.push("no autoboot.txt".into());
            0
        }
        (None, Some(text)) => {
            let end = (0..=AUTOBOOT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
            let settings = read(&text[..end.unwrap_or(0)], Dialect::Autoboot, &now);
            if last(&settings, "tryboot_a_b") == Some("1") {
                config = "config.txt";
            }
            let number = last(&settings, "boot_partition").and_then(|n| n.parse().ok()).unwrap_or(0);
            trail.push(format!("autoboot.txt: partition {number}, tryboot {}", u8::from(reset.tryboot)));
            number
        }
    };
    let bootable = |number: &u32| card.get(number).is_some_and(|fat| board.bootable_by.iter().any(|f| fat.holds(f)));
    if asked != 0 && bootable(&asked) {
        return Ok((asked, config.into()));
    }
    if asked != 0 {
        trail.push(format!("partition {asked} is not bootable"));
        if board.walks == Walk::Off {
            return Err(Fatal::NothingBootable);
        }
    }
    // The first bootable one; a walk begins after the one that was asked for.
    let found = card.keys().filter(|n| **n > asked).chain(card.keys().filter(|n| **n <= asked)).find(|n| bootable(n));
    let number = *found.ok_or(Fatal::NothingBootable)?;
    trail.push(format!("partition {number} is bootable"));
    Ok((number, config.into()))
}

fn load(
    board: &Board,
    number: u32,
    fat: &Fat,
    config: &str,
    reset: Reset,
    trail: &mut Vec<String>,
) -> Result<Boot, Fatal> {
    let now = Now { models: board.models, tryboot: reset.tryboot, partition: number };
    let text = fat.text(config).unwrap_or_else(|| {
        trail.push(format!("partition {number} has no {config}"));
        ""
    });
    let settings = read(text, Dialect::Config, &now);
    let named = last(&settings, "kernel");
    let kernel_in = |prefix: &str| match named {
        Some(kernel) => Some(format!("{prefix}{kernel}")),
        None => board.kernels.iter().map(|k| format!("{prefix}{k}")).find(|k| fat.holds(k)),
    };
    // A prefix that leads to no kernel is ignored.
    let prefix = last(&settings, "os_prefix").unwrap_or_default();
    let prefix = if kernel_in(prefix).is_some_and(|k| fat.holds(&k)) { prefix } else { "" };
    let kernel = kernel_in(prefix)
        .filter(|kernel| fat.holds(kernel))
        .ok_or_else(|| Fatal::NoKernel { partition: number, kernel: named.unwrap_or(board.kernels[0]).into() })?;
    let wanted = settings.iter().rev().find_map(|setting| match setting {
        Setting::Initramfs(file) => Some(format!("{prefix}{file}")),
        Setting::Pair(..) => None,
    });
    let automatic = (last(&settings, "auto_initramfs") == Some("1")).then(|| automatic(&kernel)).flatten();
    let initramfs = wanted.or(automatic).filter(|file| {
        let there = fat.holds(file);
        if !there {
            trail.push(format!("partition {number}: initramfs {file} is not there or is empty; going on without it"));
        }
        there
    });
    let file = format!("{prefix}{}", last(&settings, "cmdline").unwrap_or("cmdline.txt"));
    let cmdline = fat.text(&file).unwrap_or_else(|| {
        trail.push(format!("partition {number} has no {file}"));
        ""
    });
    // Only the first line counts.
    let cmdline = cmdline.lines().next().unwrap_or_default().trim().to_owned();
    trail.push(format!(
        "partition {number}: {kernel}, {}, tryboot {}",
        initramfs.as_deref().unwrap_or("no initramfs"),
        u8::from(reset.tryboot)
    ));
    Ok(Boot { partition: number, tryboot: reset.tryboot, kernel, initramfs, cmdline })
}

/// `auto_initramfs=1`: `kernel8.img` → `initramfs8`.
fn automatic(kernel: &str) -> Option<String> {
    let (dir, name) = kernel.rsplit_once('/').map_or((String::new(), kernel), |(dir, name)| (format!("{dir}/"), name));
    Some(format!("{dir}initramfs{}", name.strip_prefix("kernel")?.strip_suffix(".img")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTOBOOT: &str = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";
    const CONFIG: &str = "kernel=vmlinuz\ninitramfs initrd.img followkernel\n";
    const PLAIN: Reset = Reset { tryboot: false, partition: None };
    const TRY: Reset = Reset { tryboot: true, partition: None };

    fn fat(files: &[(&str, &str)]) -> Fat {
        let content = |name: &str, text: &str| match text.strip_prefix('#').and_then(|n| n.parse().ok()) {
            Some(n) if !name.ends_with(".txt") => Content::Bytes(n),
            _ => Content::Text(text.into()),
        };
        Fat(files.iter().map(|(name, text)| ((*name).to_owned(), content(name, text))).collect())
    }

    fn slot(name: &str) -> Fat {
        let cmdline = format!("root=/dev/vg0/root bramble.slot={name}\n");
        fat(&[("config.txt", CONFIG), ("cmdline.txt", &cmdline), ("vmlinuz", "#1"), ("initrd.img", "#1")])
    }

    /// The layout of our images.
    fn card() -> Card {
        [(1, fat(&[("autoboot.txt", AUTOBOOT), ("config.txt", "")])), (2, slot("a")), (3, slot("b"))].into()
    }

    fn with(mut card: Card, number: u32, file: &str, content: Option<&str>) -> Card {
        let files = &mut card.get_mut(&number).unwrap().0;
        files.remove(file);
        files.extend(content.into_iter().flat_map(|text| fat(&[(file, text)]).0));
        card
    }

    fn short(outcome: &Outcome) -> String {
        match &outcome.boot {
            Ok(boot) => {
                let slot = boot.cmdline.rsplit_once("bramble.slot=").map_or("?", |(_, slot)| slot);
                let initramfs = boot.initramfs.as_deref().unwrap_or("-");
                format!("{} {slot} {} {initramfs} {}", boot.partition, boot.kernel, u8::from(boot.tryboot))
            }
            Err(err) => err.to_string(),
        }
    }

    #[test]
    fn which_slot_is_started() {
        let swapped = "[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n";
        let long = format!("{}{AUTOBOOT}", "#".repeat(520) + "\n");
        let by_number = Reset { tryboot: false, partition: Some(3) };
        let table = [
            ("as flashed", card(), PLAIN, "2 a vmlinuz initrd.img 0"),
            ("on trial", card(), TRY, "3 b vmlinuz initrd.img 1"),
            ("committed", with(card(), 1, "autoboot.txt", Some(swapped)), PLAIN, "3 b vmlinuz initrd.img 0"),
            (
                "committed, the other on trial",
                with(card(), 1, "autoboot.txt", Some(swapped)),
                TRY,
                "2 a vmlinuz initrd.img 1",
            ),
            ("reboot 3", card(), by_number, "3 b vmlinuz initrd.img 0"),
            ("no autoboot.txt", with(card(), 1, "autoboot.txt", None), PLAIN, "2 a vmlinuz initrd.img 0"),
            ("autoboot.txt too long", with(card(), 1, "autoboot.txt", Some(&long)), PLAIN, "2 a vmlinuz initrd.img 0"),
            (
                "garbage in autoboot.txt",
                with(card(), 1, "autoboot.txt", Some("\u{fffd}=\0\n[")),
                PLAIN,
                "2 a vmlinuz initrd.img 0",
            ),
            ("a lost: walks on", with(card(), 2, "config.txt", None), PLAIN, "3 b vmlinuz initrd.img 0"),
            ("a's config empty: walks on", with(card(), 2, "config.txt", Some("")), PLAIN, "3 b vmlinuz initrd.img 0"),
            (
                "b lost on trial: walks round, p1 is not bootable",
                with(card(), 3, "config.txt", None),
                TRY,
                "2 a vmlinuz initrd.img 1",
            ),
            (
                "kernel gone",
                with(card(), 2, "vmlinuz", None),
                PLAIN,
                "partition 2: kernel vmlinuz is not there or is empty",
            ),
            (
                "kernel empty",
                with(card(), 2, "vmlinuz", Some("#0")),
                PLAIN,
                "partition 2: kernel vmlinuz is not there or is empty",
            ),
            ("initramfs gone: without it", with(card(), 2, "initrd.img", None), PLAIN, "2 a vmlinuz - 0"),
            ("cmdline gone", with(card(), 2, "cmdline.txt", None), PLAIN, "2 ? vmlinuz initrd.img 0"),
            ("empty card", Card::new(), PLAIN, "no bootable partition"),
        ];
        for (what, card, reset, want) in table {
            assert_eq!(short(&start(&VIRT, &card, reset)), want, "{what}");
        }
    }

    #[test]
    fn without_a_walk_the_partition_that_was_asked_for_must_be_bootable() {
        let still = Board { walks: Walk::Off, ..VIRT };
        let lost = with(card(), 2, "config.txt", None);
        assert_eq!(short(&start(&still, &lost, PLAIN)), "no bootable partition");
        let default = with(with(card(), 1, "autoboot.txt", None), 2, "config.txt", None);
        assert_eq!(short(&start(&still, &default, PLAIN)), "3 b vmlinuz initrd.img 0", "0 is the first bootable one");
    }

    #[test]
    fn a_card_with_one_partition_uses_tryboot_txt_and_prefixes() {
        let files = [
            ("start4.elf", "#9"),
            ("config.txt", "auto_initramfs=1\nos_prefix=current/\n"),
            ("tryboot.txt", "auto_initramfs=1\nos_prefix=new/\n"),
            ("current/kernel8.img", "#1"),
            ("current/initramfs8", "#1"),
            ("current/cmdline.txt", "bramble.slot=current"),
            ("new/kernel8.img", "#1"),
            ("new/cmdline.txt", "bramble.slot=new"),
            ("kernel8.img", "#1"),
            ("cmdline.txt", "bramble.slot=plain"),
        ];
        let one: Card = [(1, fat(&files))].into();
        let table = [
            (one.clone(), PLAIN, "1 current current/kernel8.img current/initramfs8 0"),
            (one.clone(), TRY, "1 new new/kernel8.img - 1"),
            (with(one.clone(), 1, "new/kernel8.img", None), TRY, "1 plain kernel8.img - 1"),
            (with(one.clone(), 1, "tryboot.txt", None), TRY, "1 plain kernel8.img - 1"),
            (with(one, 1, "start4.elf", None), PLAIN, "no bootable partition"),
        ];
        for (card, reset, want) in table {
            assert_eq!(short(&start(&PI4, &card, reset)), want);
        }
    }

    #[test]
    fn each_model_takes_its_own_section() {
        let config =
            "[pi5]\nkernel=k5\ninitramfs i5 followkernel\n[pi4]\nkernel=k4\ninitramfs i4 followkernel\n[all]\n";
        let files =
            [("start4.elf", "#1"), ("config.txt", config), ("k4", "#1"), ("i4", "#1"), ("k5", "#1"), ("i5", "#1")];
        let card: Card = [(1, fat(&files))].into();
        assert_eq!(short(&start(&PI4, &card, PLAIN)), "1 ? k4 i4 0");
        assert_eq!(short(&start(&PI5, &card, PLAIN)), "1 ? k5 i5 0");
    }

    #[test]
    fn file_names_are_those_of_a_fat() {
        let files = [("config.txt", "kernel=VMLINUZ\n"), ("vmlinuz", "#1")];
        let card: Card = [(1, fat(&files))].into();
        assert_eq!(short(&start(&VIRT, &card, PLAIN)), "1 ? VMLINUZ - 0");
    }
}
