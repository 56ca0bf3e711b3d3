//! Which old binaries go: those below the floor, those that are not whole, and the oldest beyond the budget. Never the
//! confirmed one, the one that runs, the one that `current` names, or the one that is on its way in.

use bramble_contracts::v1::AgentVersion;

use super::facts::Facts;
use super::ledger::Ledger;

/// A file in `state/bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binary {
    /// In its name.
    pub version: AgentVersion,
    /// Its size.
    pub bytes: u64,
    /// Is all of it there?
    pub whole: Whole,
}

/// Whether a file is a binary already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// It is.
    Whole,
    /// A download that has not come to its end.
    Part,
}

/// Which of `binaries` go, so that what stays besides the needed ones fits into `budget` bytes.
pub fn prune(ledger: &Ledger, facts: &Facts, binaries: &[Binary], budget: u64) -> Vec<Binary> {
    let coming = ledger.upgrade.as_ref().map(|upgrade| upgrade.version);
    let links = facts.links.map(|links| [links.current, links.confirmed]);
    let mut needed = vec![ledger.confirmed.version, facts.own];
    needed.extend(coming);
    // What of it has come in already is not fetched again.
    needed.extend(facts.wish.as_ref().map(|wish| wish.version));
    needed.extend(links.into_iter().flatten());
    let seq = |binary: &Binary| {
        let mut known = ledger.known.iter().filter(|known| known.version == binary.version);
        known.next().map_or(0, |known| known.release_seq)
    };
    let mut spare: Vec<Binary> = binaries.iter().filter(|b| !needed.contains(&b.version)).copied().collect();
    // The newest first; those that nobody knows were put there by hand, or are very old.
    spare.sort_by_key(|binary| std::cmp::Reverse((seq(binary), binary.version)));
    let mut left = budget;
    spare.retain(|binary| {
        let legal = binary.whole == Whole::Whole && seq(binary) >= facts.floor;
        let stays = legal && binary.bytes <= left;
        if stays {
            left -= binary.bytes;
        }
        !stays
    });
    spare
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::upgrade::ledger::Known;
    use crate::core::upgrade::testing::{facts, version, wish};
    use bramble_contracts::v1::Instance;

    fn left(ledger: &Ledger, facts: &Facts, there: &[Binary], budget: u64) -> Vec<String> {
        let gone = prune(ledger, facts, there, budget);
        there.iter().filter(|binary| !gone.contains(binary)).map(|binary| binary.version.to_string()).collect()
    }

    fn binary(minor: u16) -> Binary {
        Binary { version: version(minor), bytes: 10, whole: Whole::Whole }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(version(7), Instance::A);
        (1..=9).for_each(|n| ledger.learn(Known { version: version(n), release_seq: n.into() }));
        ledger
    }

    #[test]
    fn the_newest_stay_within_the_budget_and_what_is_needed_in_any_case() {
        let there: Vec<Binary> = (1..=8).map(binary).collect();
        let facts = facts(version(7));
        assert_eq!(left(&ledger(), &facts, &there, 0), ["0.7.0"]);
        assert_eq!(left(&ledger(), &facts, &there, 25), ["0.6.0", "0.7.0", "0.8.0"]);
        assert_eq!(left(&ledger(), &Facts { wish: Some(wish(2, 1)), ..facts }, &there, 0), ["0.2.0", "0.7.0"]);
    }

    #[test]
    fn below_the_floor_nothing_stays_that_is_not_needed() {
        let there: Vec<Binary> = (1..=8).map(binary).collect();
        let facts = Facts { floor: 6, ..facts(version(7)) };
        assert_eq!(left(&ledger(), &facts, &there, 1000), ["0.6.0", "0.7.0", "0.8.0"]);
        let unknown = [binary(7), binary(30)];
        assert_eq!(left(&ledger(), &facts, &unknown, 1000), ["0.7.0"], "nobody knows what it is");
        assert_eq!(left(&ledger(), &Facts { floor: 0, ..facts }, &unknown, 1000), ["0.7.0", "0.30.0"]);
    }

    #[test]
    fn on_trial_both_stay_and_parts_of_others_go() {
        let mut ledger = ledger();
        let facts = Facts { wish: Some(wish(8, 1)), ..facts(version(7)) };
        (ledger, _) = crate::core::upgrade::step(ledger, &crate::core::upgrade::Event::Wished, &facts);
        assert!(ledger.upgrade.is_some(), "it has begun");
        let part = |minor| Binary { whole: Whole::Part, ..binary(minor) };
        let there = [part(6), binary(7), part(8)];
        assert_eq!(left(&ledger, &Facts { wish: None, ..facts.clone() }, &there, 1000), ["0.7.0", "0.8.0"]);
        let links = facts.links.map(|links| crate::core::upgrade::Links { current: version(8), ..links });
        let on_trial = Facts { own: version(8), wish: None, links, ..facts };
        assert_eq!(left(&ledger, &on_trial, &there, 0), ["0.7.0", "0.8.0"]);
    }
}
