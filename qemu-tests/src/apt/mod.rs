//! An apt repository of the test's own, signed and served from this machine: what devices are upgraded from, good packages
//! and those that do harm.
//!
//! Decides the repository's form (one suite `fleet`, one component `main`, a key made for it). What a package does is the
//! test's matter.

mod deb;
mod serve;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use bramble_contracts::bytes::Sha256;
use bramble_fleet_tests::case::Case;
use xtask::run::Cmd;

pub use deb::Package;
use serve::Server;

/// A repository. Dropped, it is not served any more.
pub struct AptRepo {
    dir: PathBuf,
    keys: PathBuf,
    server: Server,
    /// The text about each package, by its file's name.
    index: Mutex<BTreeMap<String, String>>,
}

impl AptRepo {
    /// An empty one, served on a loopback port.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn start(case: &Case) -> Self {
        Self::try_start(case).unwrap_or_else(|err| panic!("cannot make an apt repository: {err:#}"))
    }

    fn try_start(case: &Case) -> anyhow::Result<Self> {
        // The agent of gpg has sockets beside the key, and their names must be short.
        let (dir, home) = (case.subdir("apt"), case.new_run_dir());
        fs::create_dir_all(dir.join("pool")).context("cannot make the pool")?;
        fs::DirBuilder::new().mode(0o700).create(&home).context("cannot make the keys' folder")?;
        let make =
            ["--batch", "--passphrase", "", "--quick-generate-key", "Tests <tests@example>", "ed25519", "sign", "0"];
        gpg(&home).args(make).check()?;
        let server = Server::start(&dir)?;
        let repo = AptRepo { dir, keys: home, server, index: Mutex::default() };
        repo.publish()?;
        Ok(repo)
    }

    /// Where it is served on this machine.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What goes into a device's `/etc/apt/sources.list.d/fleet.sources`, reached at `host`.
    ///
    /// # Panics
    /// When the key cannot be told.
    #[must_use]
    pub fn sources(&self, host: std::net::IpAddr) -> String {
        let key = gpg(&self.keys).args(["--armor", "--export"]).check().unwrap_or_else(|err| panic!("{err}"));
        let lines = key.trim().lines().map(|line| if line.is_empty() { " .\n".into() } else { format!(" {line}\n") });
        let port = self.address().port();
        format!(
            "Types: deb\nURIs: http://{host}:{port}/\nSuites: fleet\nComponents: main\nArchitectures: arm64\nSigned-By:\n{}",
            lines.collect::<String>()
        )
    }

    /// Adds packages; devices see them at once.
    ///
    /// # Panics
    /// When one cannot be built.
    pub fn add(&self, packages: &[Package]) {
        let add = || -> anyhow::Result<()> {
            for package in packages {
                let file = package.build(&self.dir.join("pool"))?;
                let name = file.file_name().context("it has a name")?.to_string_lossy().into_owned();
                let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                let (control, size, digest) = (package.control(), bytes.len(), Sha256::of(&bytes));
                let text = format!("{control}Filename: pool/{name}\nSize: {size}\nSHA256: {digest}\n\n");
                lock(&self.index).insert(name, text);
            }
            self.publish()
        };
        add().unwrap_or_else(|err| panic!("cannot add packages: {err:#}"));
    }

    /// How many bytes a package of it has.
    ///
    /// # Panics
    /// When it was never added.
    #[must_use]
    pub fn size(&self, name: &str, version: &str) -> u64 {
        let file = self.dir.join(format!("pool/{name}_{version}_all.deb"));
        fs::metadata(&file).unwrap_or_else(|err| panic!("{}: {err}", file.display())).len()
    }

    /// Index, release and signature, each in the place of the one before.
    fn publish(&self) -> anyhow::Result<()> {
        let suite = self.dir.join("dists/fleet");
        let folder = suite.join("main/binary-arm64");
        fs::create_dir_all(&folder).context("cannot make the suite")?;
        let index: String = lock(&self.index).values().map(String::as_str).collect();
        replace(&folder.join("Packages"), &index)?;
        let line = format!(" {} {} main/binary-arm64/Packages", Sha256::of(index.as_bytes()), index.len());
        let date = Cmd::new("date").args(["-Ru"]).check()?;
        let release = format!(
            "Origin: Tests\nLabel: Tests\nSuite: fleet\nCodename: fleet\nArchitectures: arm64\nComponents: main\nDate: {}\n\
             SHA256:\n{line}\n",
            date.trim()
        );
        replace(&suite.join("Release"), &release)?;
        let signed =
            gpg(&self.keys).args(["--batch", "--clearsign", "--output", "-"]).arg(suite.join("Release")).check()?;
        replace(&suite.join("InRelease"), &signed)
    }
}

impl Drop for AptRepo {
    fn drop(&mut self) {
        let stop = Cmd::new("gpgconf").arg("--homedir").arg(&self.keys).args(["--kill", "gpg-agent"]);
        if let Err(err) = stop.check() {
            eprintln!("gpg's agent of the apt repository is left behind: {err}");
        }
    }
}

fn gpg(home: &Path) -> Cmd {
    Cmd::new("gpg").arg("--homedir").arg(home).args(["--quiet", "--no-tty", "--pinentry-mode", "loopback"])
}

fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, text)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This machine's own apt, with nothing of its own settings, takes the repository for genuine and reads what is in it.
    #[test]
    fn apt_takes_it_for_genuine() {
        let case = Case::new("apt-repo");
        let repo = AptRepo::start(&case);
        let package = |version: &str| Package::new("bramble-test", version).depends("libc6");
        repo.add(&[package("1.0"), package("1.1").postinst("exit 1")]);
        let root = case.subdir("apt-root");
        for dir in ["lists/partial", "cache/archives/partial", "dpkg", "etc/sources.list.d"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("dpkg/status"), "").unwrap();
        fs::write(root.join("etc/sources.list.d/fleet.sources"), repo.sources([127, 0, 0, 1].into())).unwrap();
        let at = |name: &str, dir: &str| format!("-o{name}={}", root.join(dir).display());
        let apt = |args: &[&str]| {
            let cmd = Cmd::new(args[0]).args(["-oAPT::Architecture=arm64", "-oDir::Etc::sourcelist=/dev/null"]);
            let cmd = cmd.arg(at("Dir::Etc::sourceparts", "etc/sources.list.d")).arg(at("Dir::State::lists", "lists"));
            let cmd = cmd.arg(at("Dir::Cache", "cache")).arg(at("Dir::State::status", "dpkg/status"));
            cmd.arg("-oAPT::Sandbox::User=root").args(&args[1..]).check().unwrap()
        };
        apt(&["apt-get", "update", "-q"]);
        let policy = apt(&["apt-cache", "policy", "bramble-test"]);
        assert!(policy.contains("Candidate: 1.1") && policy.contains(" 1.0 "), "{policy}");
        // Changed after it was signed, it is not.
        fs::write(repo.dir.join("dists/fleet/main/binary-arm64/Packages"), "Package: evil\n").unwrap();
        fs::remove_dir_all(root.join("lists")).unwrap();
        fs::create_dir_all(root.join("lists/partial")).unwrap();
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| apt(&["apt-get", "update", "-q"])));
        assert!(refused.is_err(), "a changed index is refused");
    }
}
