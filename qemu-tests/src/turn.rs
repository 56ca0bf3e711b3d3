//! As many guests at a time as this machine has processors for them. Decides who waits; a turn ends with its holder.

use std::fs::OpenOptions;
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use xtask::clock::until;

/// The longest that somebody else's test may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The right to run a guest, for this program.
#[derive(Debug)]
pub struct Turn(#[allow(dead_code, reason = "held, and let go when dropped")] Flock<std::fs::File>);

/// So many guests with so many processors each have room; one always has.
fn places(processors: usize, each: usize) -> usize {
    (processors / each.max(1)).max(1)
}

fn take(places: usize) -> Result<Turn, String> {
    let files = (0..places).map(|place| std::env::temp_dir().join(format!("bramble-virtual-pi-{place}.lock")));
    let mut taken = String::new();
    for file in files {
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
        match Flock::lock(open.map_err(|err| format!("{}: {err}", file.display()))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Turn(lock)),
            Err((_, err)) => taken = format!("{} is held by another one ({err})", file.display()),
        }
    }
    Err(taken)
}

impl Turn {
    /// Waits for it, on the whole machine.
    ///
    /// # Errors
    /// When it does not come within half an hour.
    pub fn wait(cpus: u32) -> anyhow::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let places = places(processors, usize::try_from(cpus).unwrap_or(usize::MAX));
        let mut told = false;
        let turn = until("the turn to run a virtual Pi", PATIENCE, || {
            take(places).inspect_err(|_| {
                if !std::mem::replace(&mut told, true) {
                    println!("other virtual Pis run on this machine: waiting for the end of one");
                }
            })
        })?;
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_share_the_processors_and_one_always_has_room() {
        assert_eq!([(2, 2), (2, 1), (1, 2), (8, 2), (4, 0)].map(|(all, each)| places(all, each)), [1, 2, 1, 4, 4]);
    }
}
