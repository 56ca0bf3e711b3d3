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
pub struct Turn(#[allow(dead_code, reason = "held, and let go when dropped")] Vec<Flock<std::fs::File>>);

/// As many of the machine's processors as the guest has, if they are free.
fn take(cpus: usize, processors: usize) -> Result<Turn, String> {
    let (mut held, mut taken) = (vec![], String::new());
    for place in 0..processors {
        let file = std::env::temp_dir().join(format!("bramble-virtual-pi-{place}.lock"));
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
        match Flock::lock(open.map_err(|err| format!("{}: {err}", file.display()))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => held.push(lock),
            Err((_, err)) => taken = format!("{} is held by another one ({err})", file.display()),
        }
        if held.len() == cpus.min(processors) {
            return Ok(Turn(held));
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
        let cpus = usize::try_from(cpus).unwrap_or(usize::MAX);
        let mut told = false;
        let turn = until("the turn to run a virtual Pi", PATIENCE, || {
            take(cpus, processors).inspect_err(|_| {
                if !std::mem::replace(&mut told, true) {
                    println!("other virtual Pis run on this machine: waiting for the end of one");
                }
            })
        })?;
        Ok(turn)
    }
}
