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
