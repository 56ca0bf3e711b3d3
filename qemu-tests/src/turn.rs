//! One guest at a time: it needs the whole of a small machine. Decides who waits; a turn ends with its holder.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use xtask::clock::until;

/// The longest that somebody else's test may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The right to run a guest, for this program.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "held, and let go when dropped")] Flock<std::fs::File>);

fn file() -> PathBuf {
    std::env::temp_dir().join("bramble-virtual-pi.lock")
}

impl Turn {
    /// Waits for it, on the whole machine.
    ///
    /// # Errors
    /// When it does not come within half an hour.
    pub fn wait() -> anyhow::Result<Self> {
        let mut told = false;
        let lock = until("the turn to run a virtual Pi", PATIENCE, || {
            let mut options = OpenOptions::new();
            let open = options.create(true).truncate(false).write(true).open(file()).map_err(|err| err.to_string())?;
            Flock::lock(open, FlockArg::LockExclusiveNonblock).map_err(|(_, err)| {
                if !std::mem::replace(&mut told, true) {
                    println!("another virtual Pi runs on this machine: waiting for its end");
                }
                format!("{} is held by another one ({err})", file().display())
            })
        })?;
        Ok(Turn(lock))
    }
}
