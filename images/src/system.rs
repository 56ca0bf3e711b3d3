//! Debian's root file system becomes a device's: our files, programs and users in it, its services set, what one machine must
//! not share with another out of it. Decides that; how the card is laid out is `assemble`'s matter.

use std::fs;
use std::path::{Path, PathBuf};

use crate::recipe::Recipe;
use crate::tool::Tool;
use crate::{Error, Package, Programs, checkout, tree};

/// Where our programs lie.
const PROGRAMS: &str = "usr/lib/bramble";
/// Names of what one device must not share with another, removed wherever they are.
const OF_ONE_MACHINE: [&str; 2] = ["etc/machine-id", "var/lib/dbus/machine-id"];

/// Folders of the checkout whose files every image of this board gets, laid out as on the device.
pub(crate) fn trees(board: &str) -> Vec<PathBuf> {
    let board = format!("images/files/{board}");
    ["initramfs/files", "bootstrap/files", "images/files/all", &board].map(|dir| checkout().join(dir)).into()
}

/// Makes it so. Afterwards `var/lib/bramble` holds the state's files, `var/lib/bramble-apps` the apps'.
pub(crate) fn prepare(recipe: &Recipe, programs: &Programs, root: &Path) -> Result<(), Error> {
    for over in trees(&recipe.name).iter().chain(&recipe.overlay).filter(|over| over.is_dir()) {
        tree::lay(over, root)?;
    }
    if let Some(missing) = recipe.overlay.iter().find(|over| !over.is_dir()) {
        return Err(Error::Image(format!("the recipe lays {} over it, which is no folder", missing.display())));
    }
    ours(programs, root)?;
    names(root)?;
    no_passwords(root)?;
    services(recipe, root)?;
    for dir in ["boot/bramble", "boot/firmware"] {
        tree::folder(&root.join(dir))?;
    }
    Ok(())
}

fn ours(programs: &Programs, root: &Path) -> Result<(), Error> {
    for (name, path) in [("bramble-bootstrap", &programs.bootstrap), ("bramble-bootguard", &programs.bootguard)] {
        let bytes = fs::read(path).map_err(|err| Error::file("read", path, err))?;
        tree::file(&root.join(PROGRAMS).join(name), &bytes, 0o755)?;
    }
    let install = Tool::new(&programs.bootstrap).arg("install").arg("--image").arg("--root").arg(root);
    install.arg("--agent").arg(&programs.agent).run().map(drop)
}

/// Names are resolved by systemd.
fn names(root: &Path) -> Result<(), Error> {
    tree::link(&root.join("etc/resolv.conf"), Path::new("../run/systemd/resolve/stub-resolv.conf"))
}

/// Nobody comes in with a password.
fn no_passwords(root: &Path) -> Result<(), Error> {
    let path = root.join("etc/shadow");
    let text = fs::read_to_string(&path).map_err(|err| Error::file("read", &path, err))?;
    match open_accounts(&text)[..] {
        [] => Ok(()),
        ref open => Err(Error::Image(format!("{} may log in with a password, or with none", open.join(", ")))),
    }
}

fn open_accounts(shadow: &str) -> Vec<&str> {
    let account = |line: &'_ str| {
        let mut fields = line.split(':');
        let (name, password) = (fields.next()?, fields.next()?);
        (!password.starts_with(['*', '!'])).then_some(name.len())
    };
    shadow.lines().filter_map(|line| account(line).map(|length| &line[..length])).collect()
}

fn services(recipe: &Recipe, root: &Path) -> Result<(), Error> {
    let services = &recipe.services;
    // Masks by hand: systemctl refuses where a file of ours already is one.
    for unit in &services.mask {
        tree::link(&root.join("etc/systemd/system").join(unit), Path::new("/dev/null"))?;
    }
    if services.enable.is_empty() {
        return Ok(());
    }
    Tool::inside(root, "systemctl").arg("enable").args(&services.enable).run().map(drop)
}

/// Takes away what tells machines apart, and what the build left behind.
pub(crate) fn clean(root: &Path) -> Result<(), Error> {
    for path in OF_ONE_MACHINE {
        tree::remove(&root.join(path))?;
    }
    // Empty: made on the first boot, which is yet no "first boot" to systemd, so units stay as they are.
    tree::file(&root.join("etc/machine-id"), b"", 0o444)?;
    let ssh = root.join("etc/ssh");
    if ssh.is_dir() {
        let keys = crate::fat::sorted(&ssh)?.into_iter();
        for key in keys.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ssh_host_"))) {
            tree::remove(&key)?;
        }
    }
    for dir in ["var/cache/apt", "var/cache/debconf", "var/cache/ldconfig", "var/lib/apt/lists", "tmp", "var/tmp"] {
        let dir = root.join(dir);
        if dir.is_dir() {
            tree::empty(&dir)?;
        }
    }
    logs(&root.join("var/log"))?;
    // What passwd and its like keep of the version before.
    for name in ["passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-"] {
        tree::remove(&root.join("etc").join(name))?;
    }
    Ok(())
}

/// Logs go; their folders, with owners and modes, stay.
fn logs(dir: &Path) -> Result<(), Error> {
    for path in crate::fat::sorted(dir)? {
        if path.is_dir() && !path.is_symlink() {
            logs(&path)?;
        } else {
            tree::remove(&path)?;
        }
    }
    Ok(())
}

/// The installed packages, by name.
pub(crate) fn packages(root: &Path) -> Result<Vec<Package>, Error> {
    let path = root.join("var/lib/dpkg/status");
    let text = fs::read_to_string(&path).map_err(|err| Error::file("read", &path, err))?;
    Ok(installed(&text))
}

fn installed(status: &str) -> Vec<Package> {
    let of = |stanza: &str| {
        let field = |name: &str| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned);
            stanza.lines().find_map(value)
        };
        if field("Status")? != "install ok installed" {
            return None;
        }
        let (name, version, architecture) = (field("Package")?, field("Version")?, field("Architecture")?);
        // "Source: name (version)" where they differ.
        let source = field("Source").map(|source| source.split(' ').next().unwrap_or_default().to_owned());
        Some(Package { name, version, architecture, source })
    };
    let mut packages: Vec<Package> = status.split("\n\n").filter_map(of).collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_from_dpkgs_status() {
        let status = "Package: zlib1g\nStatus: install ok installed\nArchitecture: arm64\nSource: zlib (1:1.3)\nVersion: \
                      1:1.3-1\nDescription: x\n Package: not\n\nPackage: gone\nStatus: deinstall ok \
                      config-files\nArchitecture: all\nVersion: 1\n\nPackage: apt\nStatus: install ok \
                      installed\nArchitecture: arm64\nVersion: 3.0\n";
        let found = installed(status);
        let names: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.source.as_deref())).collect();
        assert_eq!(names, [("apt", "3.0", None), ("zlib1g", "1:1.3-1", Some("zlib"))]);
    }

    #[test]
    fn accounts_without_a_lock_are_found() {
        let shadow = "root:*:1:::\nlocked:!$y$x:1:::\nopen::1:::\nknown:$y$x:1:::\n";
        assert_eq!(open_accounts(shadow), ["open", "known"]);
    }

    #[test]
    fn nothing_of_one_machine_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in
            ["etc/machine-id", "etc/ssh/ssh_host_rsa_key", "etc/ssh/sshd_config", "var/log/apt/term.log", "tmp/x"]
        {
            tree::file(&root.join(path), b"x", 0o600).unwrap();
        }
        clean(root).unwrap();
        assert_eq!(fs::read(root.join("etc/machine-id")).unwrap(), b"");
        assert!(!root.join("etc/ssh/ssh_host_rsa_key").exists() && root.join("etc/ssh/sshd_config").exists());
        assert!(root.join("var/log/apt").is_dir() && !root.join("var/log/apt/term.log").exists());
        assert!(root.join("tmp").is_dir() && !root.join("tmp/x").exists());
    }
}
