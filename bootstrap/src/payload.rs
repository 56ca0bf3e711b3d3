//! The files that this program carries: what an image gets beside packages, and what an initramfs of ours is made with.
//!
//! Decides which files, where and with which mode; their words are in `bootstrap/files`, `bootstrap/units` and
//! `initramfs/files`, laid out as in the target. A test holds the lists to these folders.

use std::path::Path;

use crate::files::{self, Done};

/// One file of a target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carried {
    /// Where it lies, from the target's root.
    pub(crate) path: &'static str,
    /// What is in it.
    pub(crate) text: &'static str,
    /// Its mode.
    pub(crate) mode: u32,
}

macro_rules! carried {
    ($tree:literal, $($path:literal $mode:literal),+ $(,)?) => {
        &[$(Carried { path: $path, text: include_str!(concat!("../../", $tree, "/", $path)), mode: $mode }),+]
    };
}

/// What the boot guard needs on a machine whose root is on LVM.
pub(crate) const INITRAMFS: &[Carried] = carried!(
    "initramfs/files",
    "etc/modprobe.d/bramble-watchdog.conf" 0o644,
    "etc/systemd/system.conf.d/50-bramble-watchdog.conf" 0o644,
    "usr/share/initramfs-tools/hooks/bramble" 0o755,
    "usr/share/initramfs-tools/scripts/local-bottom/bramble" 0o755,
    "usr/share/initramfs-tools/scripts/local-top/bramble" 0o755,
);

/// What a machine besides needs that is to boot again whatever happens to it.
pub(crate) const NEVER_STAYS: &[Carried] = carried!(
    "bootstrap/files",
    "etc/sysctl.d/50-bramble.conf" 0o644,
    "etc/systemd/system/emergency.service.d/50-bramble.conf" 0o644,
    "etc/systemd/system/rescue.service.d/50-bramble.conf" 0o644,
);

/// Settings of an image.
pub(crate) const IMAGE: &[Carried] = carried!(
    "bootstrap/files",
    "etc/fstab" 0o644,
    "etc/hostname" 0o644,
    "etc/hosts" 0o644,
    "etc/initramfs-tools/conf.d/bramble.conf" 0o644,
    "etc/lvm/lvmlocal.conf" 0o644,
    "etc/modules-load.d/bramble.conf" 0o644,
    "etc/ssh/sshd_config.d/50-bramble.conf" 0o644,
    "etc/sudoers.d/bramble" 0o440,
    "etc/systemd/journald.conf.d/50-bramble.conf" 0o644,
    "etc/systemd/network/80-bramble.network" 0o644,
    "etc/systemd/system.conf.d/50-bramble.conf" 0o644,
    "etc/systemd/system/bramble-agent@.service.d/50-image.conf" 0o644,
    "etc/systemd/system/ssh.service.d/50-bramble.conf" 0o644,
    "usr/lib/clock-epoch" 0o644,
    "usr/lib/sysusers.d/bramble.conf" 0o644,
    "usr/lib/tmpfiles.d/bramble.conf" 0o644,
);

/// Units of an image, besides those that every installation has.
pub(crate) const IMAGE_UNITS: &[Carried] = carried!(
    "bootstrap/units",
    "boot-bramble.mount" 0o644,
    "bramble-clock-floor.service" 0o644,
    "bramble-enrolling.service" 0o644,
    "bramble-firstboot.service" 0o644,
    "bramble-lost.service" 0o644,
    "var-lib-bramble.mount" 0o644,
    "var-lib-bramble\\x2dapps.mount" 0o644,
    "var-log-journal.mount" 0o644,
);

/// Writes them below a folder. `note` hears of each.
pub(crate) fn write(carried: &[Carried], root: &Path, note: &mut dyn FnMut(Done, &Path)) -> anyhow::Result<()> {
    for Carried { path, text, mode } in carried {
        let path = root.join(path);
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            std::fs::create_dir_all(folder)
                .map_err(|err| anyhow::anyhow!("cannot make {}: {err}", folder.display()))?;
        }
        note(files::file(&path, text.as_bytes(), *mode)?, &path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;
    use crate::units;

    fn tree(folder: &str) -> BTreeSet<String> {
        fn walk(dir: &Path, base: &Path, found: &mut BTreeSet<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, base, found);
                } else {
                    found.insert(path.strip_prefix(base).unwrap().display().to_string());
                }
            }
        }
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(folder);
        let mut found = BTreeSet::new();
        walk(&base, &base, &mut found);
        found
    }

    fn names(carried: &[Carried]) -> BTreeSet<String> {
        carried.iter().map(|file| file.path.to_owned()).collect()
    }

    #[test]
    fn every_file_of_the_folders_is_carried() {
        assert_eq!(names(INITRAMFS), tree("initramfs/files"));
        let files: BTreeSet<String> = names(IMAGE).union(&names(NEVER_STAYS)).cloned().collect();
        assert_eq!(files, tree("bootstrap/files"));
        let common = units::COMMON.map(|(name, _)| name.to_owned());
        let all: BTreeSet<String> = names(IMAGE_UNITS).into_iter().chain(common).collect();
        assert_eq!(all, tree("bootstrap/units"));
    }

    #[test]
    fn scripts_can_be_started_and_are_shell() {
        for file in INITRAMFS.iter().filter(|file| file.path.starts_with("usr/share")) {
            assert_eq!(file.mode, 0o755, "{}", file.path);
            assert!(file.text.starts_with("#!/bin/sh\n# Installed by bramble-bootstrap"), "{}", file.path);
            let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../initramfs/files").join(file.path);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111, "{}", path.display());
            crate::process::output(Path::new("/bin/sh"), &["-n", &path.display().to_string()]).unwrap();
        }
    }
}
