//! What systemd finds in `/run`: the boot files of the slot that was booted, as a mount of `/boot/firmware`.
//!
//! By label and by what was booted, never by fstab: after a rollback fstab would name the wrong one. Read-only: upgrades
//! write to the other slot.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use bramble_contracts::boot::{Slot, SlotBy};

const UNIT: &str = "boot-firmware.mount";

/// Leaves the unit below `run`; none where nobody knows the slot.
pub(crate) fn leave_mount(run: &Path, slot: Slot, by: SlotBy) -> Result<(), String> {
    match by {
        SlotBy::Nobody => return Ok(()),
        SlotBy::Firmware | SlotBy::CommandLine => {}
    }
    let units = run.join("systemd/system");
    let wants = units.join("local-fs.target.wants");
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(&wants)?;
        fs::write(units.join(UNIT), text(slot))?;
        match symlink(Path::new("..").join(UNIT), wants.join(UNIT)) {
            Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    };
    write().map_err(|err| format!("{} cannot be written: {err}", units.join(UNIT).display()))
}

fn text(slot: Slot) -> String {
    let label = slot.label();
    format!(
        "# Written by the boot guard in the initramfs, for this boot.\n\
         [Unit]\n\
         Description=Boot files of slot {slot}, which was booted\n\n\
         [Mount]\n\
         What=/dev/disk/by-label/{label}\n\
         Where=/boot/firmware\n\
         Type=vfat\n\
         Options=ro,umask=0022,noexec,nosuid,nodev\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_booted_slot_is_mounted_and_nothing_is_guessed() {
        let dir = tempfile::tempdir().unwrap();
        leave_mount(dir.path(), Slot::B, SlotBy::Nobody).unwrap();
        assert!(!dir.path().join("systemd").exists());
        for slot in [Slot::A, Slot::B] {
            leave_mount(dir.path(), slot, SlotBy::Firmware).unwrap();
            let unit = fs::read_to_string(dir.path().join("systemd/system/local-fs.target.wants").join(UNIT)).unwrap();
            assert!(unit.contains(&format!("What=/dev/disk/by-label/{}\n", slot.label())), "{unit}");
        }
    }
}
