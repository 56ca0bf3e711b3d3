//! Tells the program for which machines and when it was built: a time below which no clock can be right. Reproducible: `SOURCE_DATE_EPOCH` where
//! that is set, else the date of the commit, else a date before the first commit.
//!
//! Not run again for every commit: an older date is as true, only lower.

/// 2026-01-01: before any of this was written.
const BEFORE: u64 = 1_767_225_600;

#[allow(clippy::disallowed_methods, reason = "a build script: no agent, and git ends by itself")]
fn commit_date() -> Option<u64> {
    let output = std::process::Command::new("git").args(["log", "-1", "--format=%ct"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn main() {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let built = given.or_else(commit_date).unwrap_or(BEFORE).max(BEFORE);
    println!("cargo::rustc-env=BRAMBLE_BUILT_SECS={built}");
    // Cargo sets it for build scripts.
    println!("cargo::rustc-env=BRAMBLE_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    println!("cargo::rerun-if-env-changed=BRAMBLE_VERSION");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
}
