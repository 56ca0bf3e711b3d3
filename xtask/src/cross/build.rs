//! The command that builds the device's programs. Decides the flags and the surroundings that make the bytes depend on the
//! source alone: no path of this machine, no date but the source's own, no flags of the person who builds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::std_source::{self, Compiler};
use super::way::{self, Std};
use super::{Programs, TARGET};
use crate::paths;
use crate::prepare;
use crate::run::Cmd;

const PACKAGES: [&str; 3] = ["bramble-agent", "bramble-bootstrap", "bramble-initramfs"];

/// What the programs are made of, as git's paths: the date they were last changed is the date in the programs.
const SOURCES: [&str; 6] = ["agent", "bootstrap", "initramfs", "contracts", "Cargo.toml", "Cargo.lock"];

/// What a person's shell may say to compilers, and is not for programs that are to be the same everywhere.
const NOT_HANDED_ON: [&str; 8] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CFLAGS",
    "TARGET_CFLAGS",
    "CPPFLAGS",
];

/// Folders of one build.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The source.
    pub(super) checkout: PathBuf,
    /// The root of a toolchain with the standard library's source, where that has to be built.
    pub(super) sysroot: PathBuf,
    /// What cargo builds.
    pub(super) build: PathBuf,
    /// The programs.
    pub(super) out: PathBuf,
    /// Where cargo keeps the sources of crates.
    pub(super) cargo_home: PathBuf,
}

impl Place {
    /// That root in a checkout.
    pub(super) fn sysroot_in(checkout: &Path) -> PathBuf {
        checkout.join("target/cross-std")
    }
}

/// What builds.
#[derive(Debug, Clone)]
pub(super) struct Toolchain {
    /// The compiler's version, such as `1.95.0`.
    pub(super) rust: String,
    /// The commit it was built from: the place of the standard library in its own messages.
    commit: String,
    pub(super) compiler: Compiler,
    pub(super) std: Std,
    zig: PathBuf,
    zigbuild: PathBuf,
    /// Seconds since 1970 of the source's last change.
    pub(super) date: String,
}

impl Toolchain {
    /// Finds or fetches all of it.
    pub(super) fn find(place: &Place) -> anyhow::Result<Self> {
        let said = Cmd::new("rustc").arg("-vV").dir(&place.checkout).check()?;
        let field = |name: &str| {
            let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned).with_context(|| format!("rustc -vV names no {name}"))
        };
        let rust = field("release")?;
        let sysroot = Cmd::new("rustc").args(["--print", "sysroot"]).dir(&place.checkout).check()?;
        let compiler = Compiler { sysroot: sysroot.trim().into(), host: field("host")? };
        Ok(Toolchain {
            commit: field("commit-hash")?,
            std: way::find(place, &rust, &compiler)?,
            zig: prepare::zig()?,
            zigbuild: prepare::cargo_zigbuild()?,
            date: date(&place.checkout)?,
            compiler,
            rust,
        })
    }
}

/// `SOURCE_DATE_EPOCH`, else the date of the last commit that changed what the programs are made of: a change of the
/// documents gives the same bytes and builds nothing.
fn date(checkout: &Path) -> anyhow::Result<String> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(given);
    }
    let log = Cmd::new("git").args(["log", "-1", "--format=%ct", "--"]).args(SOURCES).dir(checkout).check();
    let date = log.context("cannot find the date of the source; set SOURCE_DATE_EPOCH (seconds since 1970)")?;
    Ok(date.trim().into())
}

/// Builds what changed, shows what cargo says, and gives cargo's own files.
pub(super) fn build(place: &Place, toolchain: &Toolchain) -> anyhow::Result<Programs> {
    command(place, toolchain, &PACKAGES)?.show().context("cannot build the programs for aarch64")?;
    Ok(Programs::in_dir(&release(place)))
}

/// Builds one more program and gives cargo's own file.
pub(super) fn build_one(place: &Place, toolchain: &Toolchain, package: &str) -> anyhow::Result<PathBuf> {
    let built = command(place, toolchain, &[package])?.show();
    built.with_context(|| format!("cannot build {package} for aarch64"))?;
    Ok(release(place).join(package))
}

fn release(place: &Place) -> PathBuf {
    place.build.join(TARGET).join("release")
}

fn command(place: &Place, toolchain: &Toolchain, packages: &[&str]) -> anyhow::Result<Cmd> {
    let tools = paths::cache().join("zig");
    let mut cmd = NOT_HANDED_ON.iter().fold(Cmd::new(&toolchain.zigbuild), |cmd, name| cmd.without_env(name));
    if let Some(sysroot) = &toolchain.std.sysroot {
        // Building the standard library is no stable feature of cargo.
        cmd = cmd.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", std_source::rustc(sysroot));
    }
    cmd = cmd
        .env(format!("CARGO_TARGET_{}_RUSTFLAGS", TARGET.to_uppercase().replace('-', "_")), flags(place, toolchain)?)
        .env("CARGO_HOME", &place.cargo_home)
        .env("CARGO_INCREMENTAL", "0")
        .env("SOURCE_DATE_EPOCH", &toolchain.date)
        .env("CARGO_ZIGBUILD_ZIG_PATH", &toolchain.zig)
        .env("CARGO_ZIGBUILD_CACHE_DIR", tools.join("zigbuild"))
        .env("ZIG_GLOBAL_CACHE_DIR", tools.join("global"))
        .env("ZIG_LOCAL_CACHE_DIR", tools.join("local"))
        .args(["zigbuild", "--locked", "--release", "--target", TARGET, "--target-dir"])
        .arg(&place.build);
    if toolchain.std.sysroot.is_some() {
        cmd = cmd.arg("-Zbuild-std");
    }
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    Ok(cmd.args(packages).dir(&place.checkout).within(Duration::from_secs(3000)))
}

/// Flags of the compiler. Paths inside the programs (a panic says where it was) are the same on every machine.
fn flags(place: &Place, toolchain: &Toolchain) -> anyhow::Result<OsString> {
    // Start files and libc are Zig's, not the ones that come with the target.
    let mut flags = OsString::from("-C link-self-contained=no -C target-feature=+crt-static");
    let rust = format!("/rustc/{}", toolchain.commit);
    let sysroot = toolchain.std.sysroot.as_ref().unwrap_or(&toolchain.compiler.sysroot);
    // Of several that fit the compiler takes the last.
    let places = [
        (place.cargo_home.clone(), "/cargo"),
        (place.checkout.clone(), "/bramble"),
        (place.build.clone(), "/build"),
        (sysroot.join("lib/rustlib/src/rust"), &rust),
    ];
    for (from, to) in places {
        let spaces = from.to_string_lossy().contains(char::is_whitespace);
        ensure!(!spaces, "cargo takes flags apart at spaces, and {} has one: build in another folder", from.display());
        flags.push(" --remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}"));
    }
    Ok(flags)
}
