//! Where things lie: the checkout, the cache beside it, the local fleet's folder. Decides places, touches nothing.

use std::path::{Path, PathBuf};

/// The checkout this program was built from.
#[must_use]
pub fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("invariant: xtask lies in the checkout").into()
}

/// Where downloads are kept between checkouts: `$BRAMBLE_CACHE`, else `~/.cache/bramble`.
#[must_use]
pub fn cache() -> PathBuf {
    match (std::env::var_os("BRAMBLE_CACHE"), std::env::var_os("HOME")) {
        (Some(dir), _) => dir.into(),
        (None, Some(home)) => Path::new(&home).join(".cache/bramble"),
        (None, None) => std::env::temp_dir().join("bramble-cache"),
    }
}

/// Where cargo puts what it builds.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from)
}

/// Where cargo keeps the sources of crates.
#[must_use]
pub fn cargo_home() -> PathBuf {
    match (std::env::var_os("CARGO_HOME"), std::env::var_os("HOME")) {
        (Some(dir), _) => dir.into(),
        (None, home) => Path::new(&home.unwrap_or_else(|| "/".into())).join(".cargo"),
    }
}

/// A program of the workspace, built in the debug profile.
#[must_use]
pub fn built(program: &str) -> PathBuf {
    target().join("debug").join(program)
}
