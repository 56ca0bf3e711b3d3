//! One process at a time makes a thing that is kept. Decides nothing about what.

use std::fs::{self, File};
use std::path::Path;

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
