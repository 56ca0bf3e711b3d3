//! What an image has beyond an installation: units, settings and masks of a machine that is nothing but a device of a fleet.
//!
//! Decides what the packages' own timers and consoles may do, and what an image must not carry because every device makes
//! its own: machine id, host keys, random seed. Puts no partition and no boot file anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::files::{self, Done};
use crate::{payload, units};

/// Where programs other than the agent lie: on root, as they belong to its initramfs.
pub(crate) const PROGRAMS: &str = "usr/lib/bramble";

/// Nobody starts these on a device.
const MASKED: &[&str] = &[
    // The fleet upgrades the system, on trial and with a way back; nothing else does.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "apt-daily.service",
    "apt-daily-upgrade.service",
    "unattended-upgrades.service",
    "rpi-eeprom-update.service",
    "man-db.timer",
    "dpkg-db-backup.timer",
    // They would make snapshots of their own, and discard what a pending one still needs.
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "lvm2-monitor.service",
    // Root is locked, and nobody sits there.
    "getty@.service",
    "serial-getty@.service",
    "console-getty.service",
    "container-getty@.service",
    "autovt@.service",
    "debug-shell.service",
    "ctrl-alt-del.target",
    // Apps run without a network; nothing waits for one.
    "systemd-networkd-wait-online.service",
    // Wi-Fi, where a seed wants it, has an instance of its own; networks of apps have no DHCP.
    "wpa_supplicant.service",
    "netavark-dhcp-proxy.socket",
    "netavark-dhcp-proxy.service",
    // A device that sleeps is lost.
    "sleep.target",
    "suspend.target",
    "hibernate.target",
    "hybrid-sleep.target",
];

/// Units of packages, where the package is in the image, and who wants them.
const ENABLED: &[(&str, &str)] = &[
    ("systemd-networkd.service", "multi-user.target.wants"),
    ("systemd-networkd.socket", "sockets.target.wants"),
    ("systemd-resolved.service", "sysinit.target.wants"),
    ("systemd-timesyncd.service", "sysinit.target.wants"),
    ("ssh.service", "multi-user.target.wants"),
];

/// Folders that others are mounted on, or bound to.
const FOLDERS: &[(&str, u32)] = &[
    ("boot/bramble", 0o755),
    ("boot/firmware", 0o755),
    ("var/log/journal", 0o755),
    ("var/lib/bramble/journal", 0o755),
    ("etc/ssh/authorized_keys.d", 0o755),
];

/// Does all of it below `root`, with the programs that lie beside the agent's. `note` hears what was done.
pub(crate) fn furnish(root: &Path, agent: &Path, note: &mut dyn FnMut(Done, &Path)) -> anyhow::Result<()> {
    programs(root, agent, note)?;
    payload::write(payload::INITRAMFS, root, note)?;
    payload::write(payload::NEVER_STAYS, root, note)?;
    payload::write(payload::IMAGE, root, note)?;
    for (path, mode) in FOLDERS {
        files::folder(&root.join(path), *mode)?;
    }
    let units_dir = root.join("etc/systemd/system");
    payload::write(payload::IMAGE_UNITS, &units_dir, note)?;
    for unit in payload::IMAGE_UNITS {
        for target in units::wanted_by(unit.text) {
            let wants = units_dir.join(format!("{target}.wants"));
            files::folder(&wants, 0o755)?;
            let path = wants.join(unit.path);
            note(files::link(&path, &Path::new("/etc/systemd/system").join(unit.path))?, &path);
        }
    }
    for name in MASKED {
        let path = units_dir.join(name);
        note(files::link(&path, Path::new("/dev/null"))?, &path);
    }
    for (name, wants) in ENABLED.iter().filter(|(name, _)| root.join("usr/lib/systemd/system").join(name).is_file()) {
        let wants = units_dir.join(wants);
        files::folder(&wants, 0o755)?;
        let path = wants.join(name);
        note(files::link(&path, &Path::new("/usr/lib/systemd/system").join(name))?, &path);
    }
    names(root, note)?;
    seal(root, note)
}

fn programs(root: &Path, agent: &Path, note: &mut dyn FnMut(Done, &Path)) -> anyhow::Result<()> {
    let folder = root.join(PROGRAMS);
    files::folder(&folder, 0o755)?;
    for name in ["bramble-bootstrap", "bramble-bootguard"] {
        let (source, path) = (agent.with_file_name(name), folder.join(name));
        if !source.is_file() {
            ensure!(path.is_file(), "{name} lies neither beside the agent ({}) nor in the image", source.display());
            continue;
        }
        let bytes = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
        note(files::file(&path, &bytes, 0o755)?, &path);
    }
    Ok(())
}

/// Names of hosts are asked for where the network says.
fn names(root: &Path, note: &mut dyn FnMut(Done, &Path)) -> anyhow::Result<()> {
    if root.join("usr/lib/systemd/system/systemd-resolved.service").is_file() {
        let path = root.join("etc/resolv.conf");
        note(files::link(&path, Path::new("../run/systemd/resolve/stub-resolv.conf"))?, &path);
    }
    Ok(())
}

/// Takes out what two devices must not share.
fn seal(root: &Path, note: &mut dyn FnMut(Done, &Path)) -> anyhow::Result<()> {
    // Empty, not absent: systemd fills it in, and does not take this for a system whose units are yet to be chosen.
    let id = root.join("etc/machine-id");
    note(files::file(&id, b"", 0o444)?, &id);
    let ssh = fs::read_dir(root.join("etc/ssh")).context("the image has no etc/ssh")?;
    let keys = ssh.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_host_key(path));
    let others = ["var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret"];
    let gone: Vec<PathBuf> = keys.chain(others.map(|path| root.join(path))).collect();
    for path in gone.iter().filter(|path| path.is_symlink() || path.exists()) {
        files::remove(path).with_context(|| format!("cannot remove {}", path.display()))?;
        note(Done::Written, path);
    }
    Ok(())
}

fn is_host_key(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn target() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bramble-agent", "bramble-bootstrap", "bramble-bootguard"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let root = dir.path().join("root");
        for folder in ["usr/lib/systemd/system", "etc/ssh", "var/lib/dbus"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for unit in ["systemd-networkd.service", "systemd-resolved.service"] {
            fs::write(root.join("usr/lib/systemd/system").join(unit), "").unwrap();
        }
        fs::write(root.join("etc/ssh/ssh_host_ed25519_key"), "secret").unwrap();
        fs::write(root.join("etc/ssh/sshd_config"), "").unwrap();
        fs::write(root.join("etc/machine-id"), "0123").unwrap();
        std::os::unix::fs::symlink("/etc/machine-id", root.join("var/lib/dbus/machine-id")).unwrap();
        dir
    }

    fn furnish_once(dir: &Path) -> Vec<String> {
        let mut wrote = vec![];
        let mut note = |done: Done, path: &Path| {
            if done == Done::Written {
                wrote.push(path.display().to_string());
            }
        };
        furnish(&dir.join("root"), &dir.join("bramble-agent"), &mut note).unwrap();
        wrote
    }

    #[test]
    fn an_image_is_furnished_once_and_sealed() {
        let dir = target();
        let root = dir.path().join("root");
        assert!(!furnish_once(dir.path()).is_empty());
        assert_eq!(furnish_once(dir.path()), Vec::<String>::new());
        let units = root.join("etc/systemd/system");
        let leads = |path: &str| fs::read_link(units.join(path)).map(|to| to.display().to_string()).ok();
        assert_eq!(leads("apt-daily.timer").as_deref(), Some("/dev/null"));
        let first = leads("multi-user.target.wants/bramble-firstboot.service");
        assert_eq!(first.as_deref(), Some("/etc/systemd/system/bramble-firstboot.service"));
        let apps = leads("local-fs.target.wants/var-lib-bramble\\x2dapps.mount");
        assert_eq!(apps.as_deref(), Some("/etc/systemd/system/var-lib-bramble\\x2dapps.mount"));
        assert!(leads("multi-user.target.wants/systemd-networkd.service").is_some());
        assert_eq!(leads("multi-user.target.wants/ssh.service"), None, "it is not in this image");
        assert_eq!(fs::read(root.join("etc/machine-id")).unwrap(), b"");
        assert!(!root.join("etc/ssh/ssh_host_ed25519_key").exists() && root.join("etc/ssh/sshd_config").exists());
        assert!(!root.join("var/lib/dbus/machine-id").is_symlink());
        let guard = root.join("usr/lib/bramble/bramble-bootguard");
        assert_eq!(fs::metadata(guard).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn an_image_without_a_boot_guard_is_refused() {
        let dir = target();
        fs::remove_file(dir.path().join("bramble-bootguard")).unwrap();
        let said = furnish(&dir.path().join("root"), &dir.path().join("bramble-agent"), &mut |_, _| ()).unwrap_err();
        assert!(said.to_string().contains("bramble-bootguard lies neither"), "{said}");
    }
}
