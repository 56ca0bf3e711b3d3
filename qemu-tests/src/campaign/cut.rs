//! Where the power goes, and what of the last writes is on the card then. Pure.
//!
//! Decides the odds: every phase of the upgrade as often as every other one however little it writes (the moments before
//! it less often), half of the cuts within a few writes of a phase's edge; and what a card does with writes that nobody
//! has flushed: it keeps them all, all but half of the last one, none, or some of them.

use std::fmt;

use bramble_contracts::boot::{self, Slot};
use bramble_fleet_tests::clock::Dice;

use super::tape::{Entry, Kept, Kind};
use crate::card::Marks;

/// So many entries from an edge are near it.
const NEAR: u64 = 24;

/// What the upgrade was at, as its card tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Planned, packages being fetched: nothing that counts has been written.
    Before,
    /// The snapshot is being made.
    Snapshot,
    /// Snapshot made; apt writes root and the other slot.
    Applying,
    /// To be tried; the old system still runs.
    Armed,
    /// Booted, or being booted, on trial.
    Trial,
    /// The new slot is named; the snapshot is still there.
    Committing,
    /// Stays; the other slot becomes like it, and then all is done.
    Committed,
    /// Judged, and not good.
    Failed,
    /// Root is put back.
    Merging,
    /// Root has been put back.
    Returned,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Before => "before",
            Self::Snapshot => "snapshot",
            Self::Applying => "applying",
            Self::Armed => "armed",
            Self::Trial => "trial",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Failed => "failed",
            Self::Merging => "merging",
            Self::Returned => "returned",
        })
    }
}

/// What can be read from a card at one moment of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The slot that a plain boot gets.
    pub autoboot: Option<Slot>,
    /// What the volume group says.
    pub marks: Marks,
    /// Boots so far.
    pub boot: usize,
}

/// Tells phases apart; asked in the order of time.
#[derive(Debug)]
pub struct Follow {
    home: Slot,
    /// The boot in which the trial was armed.
    armed_in: Option<usize>,
    begun: bool,
}

impl Follow {
    /// From a device that boots this slot.
    #[must_use]
    pub fn new(home: Slot) -> Self {
        Follow { home, armed_in: None, begun: false }
    }

    /// The phase that this moment belongs to.
    pub fn phase(&mut self, seen: &Seen) -> Phase {
        let Marks { snapshot, untagged, merging } = seen.marks;
        self.begun |= snapshot.is_some() || merging;
        if merging {
            return Phase::Merging;
        }
        let away = seen.autoboot.is_some_and(|slot| slot != self.home);
        match snapshot.map(|snapshot| snapshot.phase) {
            Some(boot::Phase::Apply) => Phase::Applying,
            Some(boot::Phase::Failed) => Phase::Failed,
            Some(boot::Phase::Trial) if away => Phase::Committing,
            Some(boot::Phase::Trial) if *self.armed_in.get_or_insert(seen.boot) == seen.boot => Phase::Armed,
            Some(boot::Phase::Trial) => Phase::Trial,
            None if away => Phase::Committed,
            None if self.begun => Phase::Returned,
            None if untagged => Phase::Snapshot,
            None => Phase::Before,
        }
    }
}

/// Entries that belong to one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The phase.
    pub phase: Phase,
    /// The first entry.
    pub from: usize,
    /// One after the last.
    pub to: usize,
}

/// What a card did with the writes that nobody had flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// They are all there.
    Nothing,
    /// All but half of the last one.
    Torn,
    /// None of them is there.
    All,
    /// Some of them are there, as the dice say.
    Some,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Torn => "half a write",
            Self::All => "all unflushed",
            Self::Some => "some unflushed",
        })
    }
}

/// One cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// What the upgrade was at.
    pub phase: Phase,
    /// Entries that the card had been given.
    pub at: usize,
    /// What became of the last ones.
    pub loss: Loss,
}

/// Where and how.
///
/// # Panics
/// Without stretches.
#[must_use]
pub fn choose(stretches: &[Stretch], dice: &mut Dice) -> Cut {
    let weight = |stretch: &Stretch| if stretch.phase == Phase::Before { 1 } else { 6 };
    let mut left = dice.below(stretches.iter().map(weight).sum());
    let stretch = stretches.iter().find(|stretch| {
        let found = left < weight(stretch);
        left = left.saturating_sub(weight(stretch));
        found
    });
    let stretch = stretch.expect("invariant: an upgrade has phases");
    let length = (stretch.to - stretch.from) as u64;
    let within = match dice.below(4) {
        0 => dice.below(length.min(NEAR)),
        1 => length - 1 - dice.below(length.min(NEAR)),
        _ => dice.below(length),
    };
    let at = stretch.from + 1 + usize::try_from(within).expect("invariant: below a length");
    let loss = [Loss::Nothing, Loss::Torn, Loss::All, Loss::Some][usize::try_from(dice.below(4)).unwrap_or(0)];
    Cut { phase: stretch.phase, at, loss }
}

/// How much of each entry is on the card.
#[must_use]
pub fn kept(entries: &[Entry], cut: &Cut, dice: &mut Dice) -> Vec<Kept> {
    let given = &entries[..cut.at];
    let safe = given.iter().rposition(|entry| entry.kind == Kind::Flush).unwrap_or(0);
    let mut kept = vec![Kept::Whole; given.len()];
    for (number, kept) in kept.iter_mut().enumerate().skip(safe) {
        *kept = match cut.loss {
            Loss::Torn if number + 1 == given.len() => Kept::Half,
            Loss::Nothing | Loss::Torn => Kept::Whole,
            Loss::All => Kept::Lost,
            Loss::Some => [Kept::Whole, Kept::Lost][usize::from(dice.below(2) == 1)],
        };
    }
    kept
}

#[cfg(test)]
mod tests {
    use bramble_contracts::boot::Snapshot;

    use super::*;

    fn entry(kind: Kind) -> Entry {
        Entry::at(kind, 0, 4096)
    }

    #[test]
    fn phases_follow_one_another_as_the_card_tells() {
        let snapshot = |phase| Some(Snapshot { phase, ..Snapshot::new(Slot::B) });
        let seen = |autoboot, snapshot, merging, boot| {
            let marks = Marks { snapshot, merging, ..Marks::default() };
            Seen { autoboot: Some(autoboot), marks, boot }
        };
        let untagged = Seen { marks: Marks { untagged: true, ..Marks::default() }, ..seen(Slot::A, None, false, 1) };
        let (apply, trial, failed) =
            (snapshot(boot::Phase::Apply), snapshot(boot::Phase::Trial), snapshot(boot::Phase::Failed));
        let mut good = Follow::new(Slot::A);
        let moments = [
            (seen(Slot::A, None, false, 1), Phase::Before),
            (untagged, Phase::Snapshot),
            (seen(Slot::A, apply, false, 1), Phase::Applying),
            (seen(Slot::A, trial, false, 1), Phase::Armed),
            (seen(Slot::A, trial, false, 2), Phase::Trial),
            (seen(Slot::B, trial, false, 2), Phase::Committing),
            (seen(Slot::B, None, false, 2), Phase::Committed),
        ];
        assert_eq!(moments.map(|(seen, _)| good.phase(&seen)), moments.map(|(_, phase)| phase));
        let mut bad = Follow::new(Slot::A);
        let moments = [
            (seen(Slot::A, apply, false, 1), Phase::Applying),
            (seen(Slot::A, trial, false, 1), Phase::Armed),
            (seen(Slot::A, trial, false, 2), Phase::Trial),
            (seen(Slot::A, failed, false, 2), Phase::Failed),
            (seen(Slot::A, None, true, 3), Phase::Merging),
            (seen(Slot::A, None, false, 3), Phase::Returned),
        ];
        assert_eq!(moments.map(|(seen, _)| bad.phase(&seen)), moments.map(|(_, phase)| phase));
    }

    #[test]
    fn every_phase_is_cut_and_often_near_its_edges() {
        let stretches = [
            Stretch { phase: Phase::Before, from: 0, to: 10 },
            Stretch { phase: Phase::Applying, from: 10, to: 10_010 },
            Stretch { phase: Phase::Armed, from: 10_010, to: 10_011 },
        ];
        let mut dice = Dice::new(1);
        let cuts: Vec<Cut> = (0..1300).map(|_| choose(&stretches, &mut dice)).collect();
        for stretch in &stretches {
            let of: Vec<&Cut> = cuts.iter().filter(|cut| cut.phase == stretch.phase).collect();
            assert!(of.iter().all(|cut| (stretch.from + 1..=stretch.to).contains(&cut.at)), "{:?}", stretch.phase);
            let want = if stretch.phase == Phase::Before { 50..150 } else { 500..700 };
            assert!(want.contains(&of.len()), "{:?}: {}", stretch.phase, of.len());
        }
        let near = cuts.iter().filter(|cut| cut.phase == Phase::Applying).filter(|cut| cut.at <= 34 || cut.at > 9_986);
        assert!((250..350).contains(&near.count()), "half of them");
        for loss in [Loss::Nothing, Loss::Torn, Loss::All, Loss::Some] {
            assert!((250..400).contains(&cuts.iter().filter(|cut| cut.loss == loss).count()), "{loss}");
        }
    }

    #[test]
    fn only_what_nobody_has_flushed_can_be_lost() {
        use Kept::{Half, Lost, Whole};
        let entries = [Kind::Write, Kind::Flush, Kind::Write, Kind::Write, Kind::Write].map(entry);
        let of = |at, loss, seed| kept(&entries, &Cut { phase: Phase::Armed, at, loss }, &mut Dice::new(seed));
        assert_eq!(of(4, Loss::Nothing, 1), [Whole; 4]);
        assert_eq!(of(4, Loss::Torn, 1), [Whole, Whole, Whole, Half]);
        assert_eq!(of(4, Loss::All, 1), [Whole, Lost, Lost, Lost], "a flush has nothing to lose");
        assert_eq!(of(1, Loss::All, 1), [Lost]);
        let some: Vec<Vec<Kept>> = (0..40).map(|seed| of(5, Loss::Some, seed)).collect();
        assert!(some.iter().all(|kept| kept[0] == Whole));
        assert!(some.iter().any(|kept| kept[2..] == [Whole, Lost, Whole]), "in any order");
    }
}
