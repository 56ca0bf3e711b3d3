//! What of the long cases a run takes: all of them in a full run, else some, which change with the commit.
//!
//! Decides which, and tells what was left to the full run. What is checked of a case never depends on it.

use std::fmt::Debug;

use crate::clock::{Dice, full, seed};

/// Cases that wait for times of the product which no setting changes. A short run takes one.
pub const LONG: &[&str] = &["release-hangs", "release-is-deaf", "credentials-run-out", "quiet-log"];

/// Does this run take the case?
///
/// # Panics
/// When it is none of [`LONG`].
#[must_use]
pub fn takes(case: &str) -> bool {
    assert!(LONG.contains(&case), "{case} is no long case");
    let chosen = some("long cases", LONG, 1);
    full() || chosen.contains(&case)
}

/// All of them in a full run, else so many, in the order they have.
#[must_use]
pub fn some<T: Copy + Debug>(what: &str, all: &[T], count: usize) -> Vec<T> {
    if full() {
        return all.to_vec();
    }
    let (taken, left) = split(seed(), all, count);
    println!("of the {what} this run takes {taken:?}; left to the full run: {left:?}");
    taken
}

fn split<T: Copy>(seed: u64, all: &[T], count: usize) -> (Vec<T>, Vec<T>) {
    let mut dice = Dice::new(seed);
    let (mut taken, mut left) = (vec![], vec![]);
    for (n, one) in all.iter().enumerate() {
        let due = count.saturating_sub(taken.len()) as u64;
        let list = if dice.below((all.len() - n) as u64) < due { &mut taken } else { &mut left };
        list.push(*one);
    }
    (taken, left)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_seed_takes_as_many_and_all_have_their_turn() {
        let all = [1, 2, 3, 4, 5];
        for count in 1..=5 {
            let mut seen = BTreeSet::new();
            for seed in 0..100 {
                let (taken, left) = split(seed, &all, count);
                assert_eq!(taken.len(), count);
                assert!(taken.is_sorted() && left.is_sorted());
                assert_eq!(taken.iter().chain(&left).copied().collect::<BTreeSet<_>>(), all.into());
                seen.extend(taken);
            }
            assert_eq!(seen, all.into(), "{count} at a time");
        }
    }
}
