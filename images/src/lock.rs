//! Things that are kept: one process at a time makes one, and those that were made for an older source go. Decides nothing
//! about what.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::Error;

/// Waits for the lock and holds it until it is dropped; a process that dies lets go of it.
pub(crate) fn hold(path: &Path) -> Result<Flock<File>, Error> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|err| Error::file("make", dir, err))?;
    }
    let file = File::create(path).map_err(|err| Error::file("make", path, err))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, err)| Error::file("lock", path, err.into()))
}

/// Removes the oldest of the files beside `kept` that differ from it in their digest only, and their facts, so that `stay` are
/// left: a checkout or two beside this one may still want theirs. One that cannot be removed stays; whoever reads one goes
/// on reading.
pub(crate) fn trim(kept: &Path, stay: usize) {
    for old in oldest(kept, stay).unwrap_or_default() {
        for gone in [old.with_extension("json"), old] {
            let _ = fs::remove_file(gone);
        }
    }
}

fn oldest(kept: &Path, stay: usize) -> Option<Vec<PathBuf>> {
    let shape = |path: &Path| {
        let (name, digest) = path.file_stem()?.to_str()?.rsplit_once('-')?;
        let is_digest = digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| (name.to_owned(), path.extension().map(ToOwned::to_owned)))
    };
    let wanted = shape(kept)?;
    let beside = fs::read_dir(kept.parent()?).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let made = |path: PathBuf| Some((path.metadata().ok()?.modified().ok()?, path));
    let mut all: Vec<_> = beside
        .filter(|path| shape(path).as_ref() == Some(&wanted))
        .filter_map(made)
        .filter(|(_, path)| path != kept)
        .collect();
    all.sort();
    all.truncate(all.len().saturating_sub(stay.saturating_sub(1)));
    Some(all.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_oldest_of_the_same_name_go() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, age: u64| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age)).unwrap();
        };
        for age in 1..=5 {
            make(&format!("virt-{age:016x}.img"), age);
            make(&format!("virt-{age:016x}.json"), age);
            make(&format!("virt-{age:016x}.lock"), age);
        }
        make("virt-demo-00000000000000aa.img", 9);
        make("virt-by-hand.img", 9);
        // The one that was just asked for stays, however old it is.
        trim(&dir.path().join(format!("virt-{:016x}.img", 4)), 3);
        let is = |name: &str| dir.path().join(name).exists();
        let left: Vec<_> = (1..=5).filter(|age| is(&format!("virt-{age:016x}.img"))).collect();
        assert_eq!(left, [1, 2, 4]);
        assert!(is("virt-0000000000000001.json") && !is("virt-0000000000000005.json"));
        assert!(is("virt-demo-00000000000000aa.img") && is("virt-by-hand.img"));
    }
}
