//! Debian's root file system becomes a device's. What a device is, `bramble-bootstrap install --image` knows and does, as it
//! does on machines that exist. Decides only what is laid over that, and what the making of an image leaves behind.

use std::fs;
use std::path::Path;

use crate::recipe::Recipe;
use crate::tool::Tool;
use crate::{Error, Package, Programs, tree};

/// Makes it so. Afterwards `var/lib/bramble` holds the state's files, `var/lib/bramble-apps` the apps'.
pub(crate) fn prepare(recipe: &Recipe, programs: &Programs, root: &Path) -> Result<(), Error> {
    let install = Tool::new(&programs.bootstrap).arg("install").arg("--image").arg("--root").arg(root);
    install.arg("--agent").arg(&programs.agent).run()?;
    overlay(recipe, root)?;
    no_passwords(root)
}

/// Lays the recipe's folders over it; afterwards it looks as after a boot.
pub(crate) fn overlay(recipe: &Recipe, root: &Path) -> Result<(), Error> {
    for over in &recipe.overlay {
        if !over.is_dir() {
            return Err(Error::Image(format!("the recipe lays {} over it, which is no folder", over.display())));
        }
        tree::lay(over, root)?;
    }
    updated(recipe, root)
}

/// What systemd does on a boot after packages have changed is done here, once: accounts, the linker's cache. On the device it
/// would take the first boot's time.
fn updated(recipe: &Recipe, root: &Path) -> Result<(), Error> {
    Tool::inside(root, "systemd-sysusers").epoch(recipe.epoch_s).run()?;
    Tool::inside(root, "ldconfig").epoch(recipe.epoch_s).run()?;
    // By its time systemd sees whether /usr is newer.
    for dir in ["etc", "var"] {
        tree::file(&root.join(dir).join(".updated"), b"", 0o644)?;
    }
    Ok(())
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

/// Takes away what the build left behind.
pub(crate) fn clean(root: &Path) -> Result<(), Error> {
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
    fn what_the_build_left_behind_goes_and_folders_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["etc/passwd", "etc/passwd-", "var/log/apt/term.log", "tmp/x"] {
            tree::file(&root.join(path), b"x", 0o600).unwrap();
        }
        clean(root).unwrap();
        assert!(!root.join("etc/passwd-").exists() && root.join("etc/passwd").exists());
        assert!(root.join("var/log/apt").is_dir() && !root.join("var/log/apt/term.log").exists());
        assert!(root.join("tmp").is_dir() && !root.join("tmp/x").exists());
    }
}
