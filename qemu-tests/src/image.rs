//! The image that virtual Pis boot. Decides which one: the file that `BRAMBLE_VIRT_IMAGE` names.

use std::path::PathBuf;

/// The image with the tests' control channel in it.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn for_tests() -> PathBuf {
    match std::env::var_os("BRAMBLE_VIRT_IMAGE") {
        Some(path) => path.into(),
        None => panic!("BRAMBLE_VIRT_IMAGE is not set"),
    }
}
