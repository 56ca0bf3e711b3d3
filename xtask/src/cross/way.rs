//! Where the standard library for the device comes from. Decides the order in which the ways are tried, and remembers that
//! rustup could not; a way that fails is told and the next one is tried.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::TARGET;
use super::build::Place;
use super::std_source::{self, Compiler};
use crate::paths;
use crate::prepare;
use crate::run::Cmd;

/// One way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// The toolchain has it.
    Installed,
    /// rustup adds it.
    Rustup,
    /// Built from source that somebody named.
    Given(PathBuf),
    /// Built from source that lies beside the checkout.
    Beside(PathBuf),
    /// Built from the source that Debian ships.
    Debian,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Installed => write!(f, "the installed target {TARGET}"),
            Way::Rustup => write!(f, "rustup target add {TARGET}"),
            Way::Given(path) => write!(f, "built from BRAMBLE_RUST_STD_SRC={}", path.display()),
            Way::Beside(path) => write!(f, "built from {}", path.display()),
            Way::Debian => f.write_str("built from Debian's rust-src"),
        }
    }
}

impl Way {
    /// Without the names of this machine.
    pub(super) const fn in_short(&self) -> &'static str {
        match self {
            Way::Installed | Way::Rustup => "as rustup ships it",
            Way::Given(_) | Way::Beside(_) | Way::Debian => "built from source",
        }
    }
}

/// What rustup can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rustup {
    /// There is none.
    Absent,
    /// It could not the last time; this file says why.
    Refused(PathBuf),
    /// It may be asked.
    Untried,
}

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    given: Option<PathBuf>,
    installed: bool,
    rustup: Rustup,
    beside: Option<PathBuf>,
}

/// A standard library that can be built with.
#[derive(Debug, Clone)]
pub(super) struct Std {
    /// How it was come by.
    pub(super) way: Way,
    /// The root of a toolchain with its source, where it has to be built.
    pub(super) sysroot: Option<PathBuf>,
}

/// Finds one; says which way it took.
pub(super) fn find(place: &Place, rust: &str, compiler: &Compiler) -> anyhow::Result<Std> {
    let facts = Facts::gather(&place.checkout, rust)?;
    if let Rustup::Refused(file) = &facts.rustup {
        println!("rustup could not add {TARGET} before: not asked again while {} is there", file.display());
    }
    let mut failed = vec![];
    for way in order(&facts) {
        match take(&way, rust, place, compiler) {
            Ok(sysroot) => {
                println!("Standard library: {way}");
                return Ok(Std { way, sysroot });
            }
            Err(err) => {
                println!("Standard library: not by {way}: {err:#}");
                failed.push(format!("{way}: {err:#}"));
            }
        }
    }
    bail!(
        "there is no standard library for {TARGET}; set BRAMBLE_RUST_STD_SRC to the source of Rust {rust}'s (its folder \
         library, or a tar of it). Tried:\n  {}",
        failed.join("\n  ")
    )
}

/// What somebody named is taken or nothing; else the quickest that is there. rustup comes last: its server is one more that a
/// machine has to reach, and many may not.
fn order(facts: &Facts) -> Vec<Way> {
    if let Some(given) = &facts.given {
        return vec![Way::Given(given.clone())];
    }
    if facts.installed {
        return vec![Way::Installed];
    }
    let rustup = (facts.rustup == Rustup::Untried).then_some(Way::Rustup);
    let beside = facts.beside.clone().map(Way::Beside);
    beside.into_iter().chain([Way::Debian]).chain(rustup).collect()
}

/// The root of a toolchain with the library's source, where it has to be built.
fn take(way: &Way, rust: &str, place: &Place, compiler: &Compiler) -> anyhow::Result<Option<PathBuf>> {
    let built_from = |source: &Path| std_source::lay_out(source, &place.sysroot, compiler).map(Some);
    match way {
        Way::Installed => Ok(None),
        Way::Rustup => add_target(rust).map(|()| None),
        Way::Given(source) | Way::Beside(source) => built_from(source),
        Way::Debian => built_from(&prepare::rust_std_of_debian(rust)?),
    }
}

impl Facts {
    fn gather(checkout: &Path, rust: &str) -> anyhow::Result<Self> {
        let refused = refused(rust);
        let rustup = match Cmd::new("rustup").arg("--version").output() {
            Ok(output) if output.status.success() && refused.is_file() => Rustup::Refused(refused),
            Ok(output) if output.status.success() => Rustup::Untried,
            Ok(_) | Err(_) => Rustup::Absent,
        };
        Ok(Facts {
            given: std::env::var_os("BRAMBLE_RUST_STD_SRC").filter(|value| !value.is_empty()).map(PathBuf::from),
            installed: installed()?,
            rustup,
            beside: std_source::beside(checkout, rust),
        })
    }
}

/// Whether the toolchain has the target's standard library.
fn installed() -> anyhow::Result<bool> {
    let dir = Cmd::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).check()?;
    let entries = fs::read_dir(dir.trim()).into_iter().flatten().filter_map(Result::ok);
    Ok(entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libstd-")))
}

fn add_target(rust: &str) -> anyhow::Result<()> {
    println!("Adding the target {TARGET} to the Rust toolchain in use: rustup target add {TARGET}");
    let added = Cmd::new("rustup").args(["target", "add", TARGET]).within(Duration::from_secs(300)).check();
    let there = match added {
        Ok(_) if installed()? => return Ok(()),
        Ok(_) => anyhow::anyhow!("rustup ended well, but rustc does not have the target"),
        Err(err) => err.into(),
    };
    let note = refused(rust);
    let dir = note.parent().unwrap_or(&note);
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&note, format!("{there:#}\n")))
        .with_context(|| format!("cannot write {}", note.display()))?;
    Err(there)
}

/// Where it is kept that rustup could not.
fn refused(rust: &str) -> PathBuf {
    paths::cache().join("rust-std").join(format!("rustup-refused-{rust}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { given: None, installed: false, rustup: Rustup::Untried, beside: Some("/s.tar.xz".into()) }
    }

    #[test]
    fn what_was_named_is_taken_even_when_the_target_is_installed() {
        let facts = Facts { given: Some("/mine".into()), installed: true, ..facts() };
        assert_eq!(order(&facts), [Way::Given("/mine".into())]);
    }

    #[test]
    fn what_is_installed_needs_nothing_else() {
        assert_eq!(order(&Facts { installed: true, ..facts() }), [Way::Installed]);
    }

    #[test]
    fn rustup_is_asked_only_where_no_source_is_to_be_had_and_not_again() {
        let beside = Way::Beside("/s.tar.xz".into());
        assert_eq!(order(&facts()), [beside.clone(), Way::Debian, Way::Rustup]);
        let refused = Facts { rustup: Rustup::Refused("/note".into()), ..facts() };
        assert_eq!(order(&refused), [beside, Way::Debian]);
        assert_eq!(order(&Facts { rustup: Rustup::Absent, beside: None, ..facts() }), [Way::Debian]);
    }
}
