//! What this machine has to bring an old system back: our layout, firmware that boots on trial, the units, the programs.
//!
//! Decides the tier of protection, and in words what a better one lacks. All of it can be seen without privileges, and costs
//! a machine without our layout next to nothing.

use std::fs;
use std::path::Path;

use bramble_contracts::boot::{BootRecord, GROUP, ONE_SET, ROOT, Slot, SlotBy, Tryboot, root_is_ours, seen};

use super::slots;
use crate::core::os::Protection;

const UNIT: &str = "etc/systemd/system/bramble-os@.service";
/// Without these no upgrade is made.
const PROGRAMS: [&str; 4] = ["usr/bin/apt-get", "usr/bin/apt-mark", "usr/bin/dpkg", "usr/sbin/lvm"];

/// What was found; the same for a whole boot, but for the guard's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    is_ours: bool,
    one_set: bool,
    tryboot: Tryboot,
    booted: (Slot, SlotBy),
    record: Option<BootRecord>,
    lacks_unit: bool,
    lacks_program: Option<&'static str>,
    lacks_map: bool,
}

/// How well it is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strength {
    /// The tier.
    pub protection: Protection,
    /// What a better one lacks, in words; empty when there is none better.
    pub lacks: String,
}

impl Machine {
    /// Looks.
    pub fn look() -> Self {
        Self::below(Path::new("/"))
    }

    fn below(base: &Path) -> Self {
        let cmdline = fs::read_to_string(base.join("proc/cmdline")).unwrap_or_default();
        let cell = |name: &str| fs::read(base.join("proc/device-tree/chosen/bootloader").join(name)).ok();
        let below = |path: &str| base.join(path.trim_start_matches('/'));
        let record = fs::read(below(BootRecord::PATH)).ok();
        let one_set = below(ONE_SET).exists();
        let (slot, by, tryboot) = seen(one_set, cell, &cmdline);
        Self {
            is_ours: root_is_ours(&cmdline) || has_volume(base),
            one_set,
            tryboot,
            booted: (slot, by),
            record: record.and_then(|text| serde_json::from_slice(&text).ok()),
            lacks_unit: !base.join(UNIT).exists(),
            lacks_program: PROGRAMS.into_iter().find(|program| !base.join(program).exists()),
            lacks_map: !base.join(slots::BOOT_FILES).is_file(),
        }
    }

    /// The same, where nobody here can start units.
    pub fn without_units(self) -> Self {
        Self { lacks_unit: true, ..self }
    }

    /// Is root on our layout? Else there is nothing to look at.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// What the guard says of this boot.
    pub fn record(&self) -> Option<&BootRecord> {
        self.record.as_ref()
    }

    /// The slot whose files were booted; the same that the guard found, also where it did not run.
    pub fn booted(&self) -> Option<Slot> {
        match self.booted {
            (_, SlotBy::Nobody) => None,
            (slot, SlotBy::Firmware | SlotBy::CommandLine) => Some(slot),
        }
    }

    /// What firmware and layout are able to. Never less for what is missing besides: where a device is in an upgrade is told
    /// by this, also when it cannot begin another one.
    pub fn tier(&self) -> Protection {
        match self.tryboot {
            _ if !self.is_ours => Protection::None,
            Tryboot::Set | Tryboot::Clear => Protection::Tryboot,
            Tryboot::Unsupported => Protection::Bootcount,
        }
    }

    /// What an upgrade could count on, as far as it does not change from boot to boot: a wish that asks for more is refused.
    pub fn lasting(&self) -> Protection {
        let lacks = self.lacks_unit || self.lacks_program.is_some();
        match self.tier() {
            Protection::Tryboot if lacks || self.lacks_map => Protection::None,
            Protection::Bootcount if lacks => Protection::None,
            tier => tier,
        }
    }

    /// What an upgrade that begins now could count on, for people.
    pub fn strength(&self) -> Strength {
        let none = |lacks: String| Strength { protection: Protection::None, lacks };
        if !self.is_ours {
            return none(format!(
                "root is not the volume {GROUP}/{ROOT} of a Bramble image: nothing could be put back"
            ));
        }
        if let Some(program) = self.lacks_program {
            return none(format!("/{program} is not there"));
        }
        if self.lacks_unit {
            return none("no systemd runs the units for it here: `bramble-bootstrap install` brings them".into());
        }
        if self.record.is_none() {
            return none("the boot guard did not run in this boot".into());
        }
        match self.tier() {
            Protection::Tryboot if self.lacks_map => {
                none(format!("/{} is not there: which boot files root has is not known", slots::BOOT_FILES))
            }
            Protection::Tryboot if self.booted().is_none() => none("which slot was booted is not known".into()),
            Protection::Bootcount => {
                let why = if self.one_set {
                    "this card has one set of boot files"
                } else {
                    "this firmware cannot boot a slot on trial (no tryboot in its device tree)"
                };
                let lacks = format!("{why}: boot files are held, and root comes back after boots that failed");
                Strength { protection: Protection::Bootcount, lacks }
            }
            tier => Strength { protection: tier, lacks: String::new() },
        }
    }
}

/// Also where root is given otherwise on the command line.
fn has_volume(base: &Path) -> bool {
    let Ok(devices) = fs::read_dir(base.join("sys/block")) else { return false };
    let name = |path: &Path| fs::read_to_string(path.join("dm/name")).unwrap_or_default();
    devices.flatten().any(|device| name(&device.path()).trim() == format!("{GROUP}-{ROOT}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn write(base: &Path, path: &str, bytes: &[u8]) {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn image(base: &Path) {
        write(base, "proc/cmdline", b"root=/dev/vg0/root rw bramble.slot=b");
        write(base, "proc/device-tree/chosen/bootloader/partition", &3u32.to_be_bytes());
        write(base, "proc/device-tree/chosen/bootloader/tryboot", &0u32.to_be_bytes());
        for path in PROGRAMS.into_iter().chain([UNIT, slots::BOOT_FILES]) {
            write(base, path, b"");
        }
        let record = r#"{"format":1,"slot":"b","slot_by":"firmware","tryboot":"clear","autoboot":"b","outcome":{"is":"plain"},
            "watchdog":null,"trouble":[]}"#;
        write(base, "run/bramble/boot.json", record.as_bytes());
    }

    #[test]
    fn a_machine_without_our_layout_has_no_protection_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "proc/cmdline", b"root=PARTUUID=1-02 rootwait");
        let machine = Machine::below(dir.path());
        let Strength { protection, lacks } = machine.strength();
        assert_eq!((machine.is_ours(), machine.tier(), protection), (false, Protection::None, Protection::None));
        assert!(lacks.contains("root is not the volume vg0/root"), "{lacks}");
    }

    #[test]
    fn an_image_under_firmware_with_tryboot_has_the_strongest() {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        let machine = Machine::below(dir.path());
        assert_eq!(machine.strength(), Strength { protection: Protection::Tryboot, lacks: String::new() });
        assert_eq!(machine.booted(), Some(Slot::B));
    }

    #[test]
    fn what_is_missing_is_named_and_changes_nothing_about_where_the_device_is() {
        for (gone, says) in [
            ("usr/bin/apt-get", "/usr/bin/apt-get is not there"),
            (UNIT, "bramble-bootstrap install"),
            ("run/bramble/boot.json", "the boot guard did not run"),
            (slots::BOOT_FILES, "boot-files.json is not there"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            image(dir.path());
            fs::remove_file(dir.path().join(gone)).unwrap();
            let machine = Machine::below(dir.path());
            let Strength { protection, lacks } = machine.strength();
            assert_eq!((protection, machine.tier()), (Protection::None, Protection::Tryboot), "{gone}");
            assert!(lacks.contains(says), "{lacks}");
        }
    }

    #[test]
    fn without_tryboot_boots_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        fs::remove_dir_all(dir.path().join("proc/device-tree")).unwrap();
        let machine = Machine::below(dir.path());
        let Strength { protection, lacks } = machine.strength();
        assert_eq!((protection, machine.booted()), (Protection::Bootcount, Some(Slot::B)), "by the command line");
        assert!(lacks.contains("no tryboot"), "{lacks}");
    }

    #[test]
    fn with_one_set_of_boot_files_boots_are_counted_whatever_the_firmware_can() {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        write(dir.path(), ONE_SET.trim_start_matches('/'), b"/dev/disk/by-partuuid/1-01\n");
        let machine = Machine::below(dir.path());
        let Strength { protection, lacks } = machine.strength();
        assert_eq!((protection, machine.booted()), (Protection::Bootcount, None));
        assert!(lacks.contains("one set of boot files"), "{lacks}");
    }
}
