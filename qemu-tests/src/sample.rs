//! What of the long cases a run takes: all of them in a full run, else one, which changes with the commit; or those that
//! `BRAMBLE_ONLY` names, with commas between them, to repeat some.

use bramble_fleet_tests::clock::{Dice, full, unix_secs};

use crate::harm::HARMS;

/// Cases of a device without an upgrade. The conversion is none of them: alone it takes longer than all that a short run
/// does with guests.
const PLAIN: &[&str] = &[
    "reboot-offline",
    "clock-1970",
    "clock-ahead",
    "metadata-lost",
    "hang-init",
    "hang-processors",
    "panic",
    "tryboot",
    "damaged-seed",
    "used-token",
    "state-full",
];

/// Cases of which a short run takes one.
fn cases() -> Vec<&'static str> {
    PLAIN.iter().copied().chain(HARMS.iter().map(|harm| harm.name)).collect()
}

/// Does this run take the case?
///
/// # Panics
/// When it is no sampled case.
#[must_use]
pub fn takes(case: &str) -> bool {
    let cases = cases();
    assert!(cases.contains(&case), "{case} is no sampled case");
    if let Some(only) = only() {
        return only.split(',').any(|name| name == case);
    }
    let chosen = chosen(&cases);
    let takes = full() || case == chosen;
    if !takes {
        println!("{case} is left to the full run; this one takes {chosen}");
    }
    takes
}

/// Is this a short run, in which one device does all that a device does?
#[must_use]
pub fn is_short() -> bool {
    !full() && only().is_none()
}

/// Is this a full run, of all cases?
#[must_use]
pub fn is_whole() -> bool {
    full() && only().is_none()
}

fn only() -> Option<String> {
    std::env::var("BRAMBLE_ONLY").ok()
}

fn chosen(cases: &[&'static str]) -> &'static str {
    let seed = std::env::var("BRAMBLE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(unix_secs);
    pick(cases, seed)
}

fn pick(cases: &[&'static str], seed: u64) -> &'static str {
    let index = Dice::new(seed).below(cases.len() as u64);
    cases[usize::try_from(index).expect("invariant: below a length")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_chosen_by_some_seed() {
        let cases = cases();
        let chosen: std::collections::BTreeSet<_> = (0..1000).map(|seed| pick(&cases, seed)).collect();
        assert_eq!(chosen.len(), cases.len());
    }
}
