//! Waiting and random moments. Decides that every wait has an end and says what it saw last.

use std::time::Duration;

pub use xtask::clock::Watch;

/// What "soon" is on two busy cores: for things that take a second on an idle machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Waits until `attempt` answers; its `Err` is the reason for "not yet", and the last one is in the panic message.
///
/// # Panics
/// When `limit` is over.
#[track_caller]
pub fn wait_until<T>(what: &str, limit: Duration, attempt: impl FnMut() -> Result<T, String>) -> T {
    match xtask::clock::until(what, limit, attempt) {
        Ok(answer) => answer,
        Err(vain) => panic!("{vain}"),
    }
}

/// [`wait_until`] with [`SOON`].
///
/// # Panics
/// When the condition does not come true.
#[track_caller]
pub fn soon<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    wait_until(what, SOON, attempt)
}

/// Looks again and again that something stays as it is: for "nothing happens", which no condition can announce.
///
/// # Panics
/// As soon as `check` says otherwise.
#[track_caller]
pub fn stays(what: &str, time: Duration, mut check: impl FnMut() -> Result<(), String>) {
    let watch = Watch::start();
    while watch.elapsed() < time {
        if let Err(why) = check() {
            panic!("after {} ms it was no longer so that {what}: {why}", watch.elapsed().as_millis());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A moment passes; only for choosing *when* something is done to the fleet, never for hoping that it is done.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Seconds since 1970, for making JWTs.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module is the harness's clock")]
pub fn unix_secs() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("invariant: it is after 1970 on a machine that runs tests").as_secs()
}

/// Nanoseconds since 1970, to tell how long a line of a program on this machine has travelled.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this module is the harness's clock")]
pub fn unix_nanos() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("invariant: it is after 1970 on a machine that runs tests").as_nanos()
}

/// Is this the long run?
#[must_use]
pub fn full() -> bool {
    std::env::var_os("BRAMBLE_FULL").is_some_and(|v| v == "1")
}

/// The seed of this run: the one it was given, else another every second.
#[must_use]
pub fn seed() -> u64 {
    std::env::var("BRAMBLE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(unix_secs)
}

/// Random choices that a seed repeats (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Puts them into a random order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for n in (1..all.len()).rev() {
            let other = self.below(n as u64 + 1);
            all.swap(n, usize::try_from(other).expect("invariant: not above n"));
        }
    }

    /// The next number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }

    /// Waits a random time of at most `max`.
    pub fn moment(&mut self, max: Duration) {
        let ms = self.below(u64::try_from(max.as_millis()).unwrap_or(u64::MAX));
        println!("  (a moment of {ms} ms)");
        pause(Duration::from_millis(ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let roll = |seed| (0..20).map(|_| Dice::new(seed).below(6)).collect::<Vec<_>>();
        assert_eq!(roll(7), roll(7));
        let mut dice = Dice::new(1);
        let rolls: Vec<u64> = (0..200).map(|_| dice.below(6)).collect();
        assert!((0..6).all(|n| rolls.contains(&n)), "{rolls:?}");
    }

    #[test]
    #[should_panic(expected = "the sky is clear")]
    fn a_wait_in_vain_tells_what_it_saw() {
        wait_until("rain", Duration::from_millis(20), || Err::<(), _>("the sky is clear".into()));
    }
}
