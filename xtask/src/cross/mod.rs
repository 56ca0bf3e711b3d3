//! The device's programs for aarch64: static, stripped, in `target/cross`. Decides where the standard library for them
//! comes from (`way`), how they are built (`build`), what is told of them (`report`), and that the same source gives the
//! same bytes (`twice`).
//!
//! Linked against musl, so that one file runs on every distribution and in the initramfs. C (ring) and linking are Zig's
//! business: it brings musl and its start files for every machine, on every machine.

mod build;
mod report;
mod std_source;
mod twice;
mod way;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::clock::Watch;
use crate::paths;
use crate::prepare::{self, Need, sha256_of};
use crate::run::Cmd;

use build::{Place, Toolchain};

/// What they are built for.
pub const TARGET: &str = "aarch64-unknown-linux-musl";

/// The most bytes of an agent: it is sent to every device.
pub const AGENT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What runs them here; `None` on a machine that needs no help.
pub const EMULATOR: Option<&str> = if cfg!(target_arch = "aarch64") { None } else { Some("qemu-aarch64-static") };

/// The device's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `bramble-agent`.
    pub agent: PathBuf,
    /// `bramble-bootstrap`.
    pub bootstrap: PathBuf,
    /// `bramble-bootguard`.
    pub bootguard: PathBuf,
}

impl Programs {
    /// Those that lie in a folder.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        let [agent, bootstrap, bootguard] =
            ["bramble-agent", "bramble-bootstrap", "bramble-bootguard"].map(|name| dir.join(name));
        Programs { agent, bootstrap, bootguard }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> [&Path; 3] {
        [&self.agent, &self.bootstrap, &self.bootguard]
    }
}

/// What more than building is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Build them a second time elsewhere, and compare.
    pub twice: bool,
    /// The document that gets the table of sizes.
    pub markdown: Option<PathBuf>,
}

/// Builds them and says how, how big they are and which bytes they are.
///
/// # Errors
/// When they cannot be built, or differ when built twice.
pub fn cross(asked: &Asked) -> anyhow::Result<()> {
    let watch = Watch::start();
    let (programs, toolchain) = make()?;
    let rows = report::rows(&programs)?;
    println!("{}\nin {:.0} s, in {}", report::text(&rows), watch.elapsed().as_secs_f64(), place().out.display());
    if let Some(file) = &asked.markdown {
        report::write(file, &toolchain, &rows)?;
    }
    if asked.twice {
        twice::check(&toolchain, &programs)?;
    }
    Ok(())
}

/// The programs, built where their sources changed.
///
/// # Errors
/// When there is no standard library for aarch64 to be had, or the build fails.
pub fn programs() -> anyhow::Result<Programs> {
    Ok(make()?.0)
}

/// The demo app's program for the device, or the one in the folder that `BRAMBLE_CROSS_DIR` names.
///
/// # Errors
/// As [`programs`].
pub fn demo() -> anyhow::Result<PathBuf> {
    const PACKAGE: &str = "bramble-hello";
    if let Some(dir) = std::env::var_os("BRAMBLE_CROSS_DIR") {
        return Ok(PathBuf::from(dir).join(PACKAGE));
    }
    prepare::packages(Need::Cross)?;
    let place = place();
    build::build_one(&place, &Toolchain::find(&place)?, PACKAGE)
}

/// The command that runs one of them here: by emulation where this machine is not aarch64 itself.
#[must_use]
pub fn emulated(program: &Path) -> Cmd {
    EMULATOR.map_or_else(|| Cmd::new(program), |emulator| Cmd::new(emulator).arg(program))
}

fn make() -> anyhow::Result<(Programs, Toolchain)> {
    prepare::packages(Need::Cross)?;
    let place = place();
    let toolchain = Toolchain::find(&place)?;
    let built = build::build(&place, &toolchain)?;
    Ok((lay_out(&built, &place.out)?, toolchain))
}

/// This checkout's own.
fn place() -> Place {
    let (checkout, target) = (paths::checkout(), paths::target());
    Place {
        sysroot: Place::sysroot_in(&checkout),
        build: target.join("cross-build"),
        out: target.join("cross"),
        cargo_home: paths::cargo_home(),
        checkout,
    }
}

/// Copies them to where they are looked for; a program that is the same is not touched, so nothing is made anew of it.
fn lay_out(built: &Programs, out: &Path) -> anyhow::Result<Programs> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let laid = Programs::in_dir(out);
    for (from, to) in built.all().into_iter().zip(laid.all()) {
        if to.is_file() && sha256_of(from)? == sha256_of(to)? {
            continue;
        }
        let beside = to.with_extension(format!("{}.new", std::process::id()));
        fs::copy(from, &beside).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::rename(&beside, to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(laid)
}
