//! Names of what is kept: digests of all that goes into it. Decides what counts (names, modes, contents), not what is named.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::fat::sorted;

/// A digest in the making. Each part is told apart from the next by its length.
#[derive(Debug, Clone, Default)]
pub struct Digest(Sha256);

impl Digest {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    /// With a file's content.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(self, path: &Path) -> Result<Self, Error> {
        Ok(self.text(&of_file(path)?))
    }

    /// With a folder: names, contents, links, and whether files may be run.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn tree(self, dir: &Path) -> Result<Self, Error> {
        self.tree_without(dir, &[])
    }

    /// Likewise, but without some of what is in it. Device nodes and the like count by their names.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn tree_without(mut self, dir: &Path, without: &[PathBuf]) -> Result<Self, Error> {
        for path in sorted(dir)?.into_iter().filter(|path| !without.contains(path)) {
            let meta = fs::symlink_metadata(&path).map_err(|err| Error::file("look at", &path, err))?;
            self = self.text(&path.file_name().unwrap_or_default().to_string_lossy());
            if meta.is_symlink() {
                let target = fs::read_link(&path).map_err(|err| Error::file("read", &path, err))?;
                self = self.text("link").text(&target.to_string_lossy());
            } else if meta.is_dir() {
                self = self.text("folder").tree_without(&path, without)?.text("end");
            } else if meta.is_file() {
                let runs = meta.permissions().mode() & 0o100 != 0;
                self = self.text(if runs { "program" } else { "file" }).file(&path)?;
            }
        }
        Ok(self)
    }

    /// In hex.
    #[must_use]
    pub fn hex(self) -> String {
        hex(&self.0.finalize())
    }
}

/// A file's SHA-256, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn of_file(path: &Path) -> Result<String, Error> {
    let failed = |err| Error::file("read", path, err);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(failed)?;
    Ok(hex(&hasher.finalize()))
}

/// Bytes in hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_its_names_contents_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let of = || Digest::new().tree(dir.path()).unwrap().hex();
        let file = dir.path().join("a");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let first = of();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        assert_eq!(first, of(), "a umask is no change");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let runs = of();
        assert_ne!(first, runs);
        fs::rename(&file, dir.path().join("b")).unwrap();
        assert_ne!(runs, of());
    }

    #[test]
    fn what_is_left_out_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        let out = dir.path().join("inner/out");
        let of = || Digest::new().tree_without(dir.path(), std::slice::from_ref(&out)).unwrap().hex();
        let first = of();
        fs::write(&out, "x").unwrap();
        assert_eq!(first, of());
        fs::write(dir.path().join("inner/in"), "x").unwrap();
        assert_ne!(first, of());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Digest::new().text("ab").text("c").hex(), Digest::new().text("a").text("bc").hex());
    }
}
