//! Random bits and jitter. The only reader of the system's random source in the mesh.
//!
//! Decides how waits are spread, so that a thousand devices never ask at once. Decides nothing about what is asked.

use std::time::Duration;

/// `N` random bytes from the kernel.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("invariant: Linux always has a random source once it has booted");
    out
}

/// Somewhere between half of `wait` and `wait`.
pub(crate) fn jittered(wait: Duration) -> Duration {
    let half = wait / 2;
    half + half.mul_f64(f64::from(u32::from_le_bytes(bytes())) / f64::from(u32::MAX))
}

/// A wait that doubles from `first` to `max` with every attempt in a row (from 1), jittered.
pub(crate) fn backoff(first: Duration, max: Duration, attempt: u32) -> Duration {
    let doubled = first.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    jittered(doubled.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_half_and_the_bound() {
        let (first, max) = (Duration::from_millis(200), Duration::from_secs(30));
        for attempt in 0..100 {
            let want = first.saturating_mul(1u32.checked_shl(attempt.max(1) - 1).unwrap_or(u32::MAX)).min(max);
            let got = backoff(first, max, attempt);
            assert!(got >= want / 2 && got <= want, "attempt {attempt}: {got:?}");
        }
    }
}
