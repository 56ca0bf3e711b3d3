//! What a kernel that died left in memory that survives a reset: pstore, or where systemd-pstore has put it.
//!
//! Decides which of it is new: what was there when an upgrade began is of before. The files are root's own and stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::files::Files;
use crate::host::state::StateError;

const PLACES: [&str; 2] = ["sys/fs/pstore", "var/lib/systemd/pstore"];
/// systemd-pstore puts them two folders deep.
const DEPTH_MAX: usize = 3;
const READ_MAX: usize = 256 * 1024;
const WORDS_MAX: usize = 200;

/// Panics of a machine.
pub struct Panics<'a>(&'a Files);

impl<'a> Panics<'a> {
    /// Of this one.
    pub fn of(files: &'a Files) -> Self {
        Self(files)
    }

    /// What is there now is old from now on, durably.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn forget(&self) -> Result<(), StateError> {
        self.0.panics().store_json(&self.all())
    }

    /// The last words of a kernel that died since.
    pub fn newest(&self) -> Option<String> {
        let all = self.all();
        if all.is_empty() {
            return None;
        }
        let known: BTreeSet<PathBuf> = self.0.panics().load_json().ok().and_then(|known| known.value())?;
        all.iter().rev().filter(|path| !known.contains(*path)).find_map(|path| words(&self.0.root().join(path)))
    }

    fn all(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for place in PLACES {
            walk(self.0.root(), Path::new(place), DEPTH_MAX, &mut found);
        }
        found
    }
}

fn walk(root: &Path, folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    for entry in entries.flatten() {
        let path = folder.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => walk(root, &path, depth - 1, found),
            Ok(kind) if kind.is_file() && entry.file_name().to_string_lossy().contains("dmesg") => {
                found.insert(path);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// The line that says so, without the kernel's time.
fn words(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(READ_MAX)]).into_owned();
    let (_, why) = text.lines().find_map(|line| line.split_once("Kernel panic - not syncing: "))?;
    Some(why.trim().chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::write;
    use super::*;

    #[test]
    fn only_what_came_since_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        let panics = Panics::of(&files);
        assert_eq!(panics.newest(), None);
        let text = b"Oops#1\n<0>[   12.5] Kernel panic - not syncing: VFS: Unable to mount root fs\n<4>more\n";
        write(files.root(), "var/lib/systemd/pstore/170/000/dmesg.txt", text);
        assert_eq!(panics.newest(), None, "nobody knows since when");
        panics.forget().unwrap();
        assert_eq!(panics.newest(), None);
        write(files.root(), "sys/fs/pstore/dmesg-ramoops-0", text);
        assert_eq!(panics.newest().as_deref(), Some("VFS: Unable to mount root fs"));
    }
}
