//! What of the long cases a run takes: all of them in a full run, else one, which changes with the commit.

use bramble_fleet_tests::clock::{Dice, full, unix_secs};

/// Cases of which a short run takes one. The conversion is none of them: alone it takes longer than all that a short run
/// does with guests.
pub const CASES: &[&str] = &[
    "reboot-offline",
    "clock-1970",
    "clock-ahead",
    "hang-init",
    "hang-processors",
    "panic",
    "tryboot",
    "damaged-seed",
    "used-token",
    "state-full",
];

/// Does this run take the case?
///
/// # Panics
/// When it is none of [`CASES`].
#[must_use]
pub fn takes(case: &str) -> bool {
    assert!(CASES.contains(&case), "{case} is no sampled case");
    let chosen = chosen();
    let takes = full() || case == chosen;
    if !takes {
        println!("{case} is left to the full run; this one takes {chosen}");
    }
    takes
}

fn chosen() -> &'static str {
    let seed = std::env::var("BRAMBLE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(unix_secs);
    let index = Dice::new(seed).below(CASES.len() as u64);
    CASES[usize::try_from(index).expect("invariant: below a length")]
}
