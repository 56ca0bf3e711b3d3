//! An upgrade that was recorded: the card before it, all that was written since, and which of that belongs to which phase.
//!
//! Decides where phases begin: after each write to the boot settings or to LVM's metadata the card is read as from outside. Whatever
//! write was the last one, the boot settings name a slot.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::cut::{Follow, Phase, Seen, Stretch};
use super::tape::{Kept, Kind, Tape};
use crate::card::{CardFile, GROUP_PARTITION, copy};
use crate::pi::VirtualPi;

/// LVM's label, header and texts are before the first extent.
const METADATA: u64 = 1 << 20;

/// The same.
#[derive(Debug)]
pub struct Recording {
    /// The card before.
    base: PathBuf,
    /// What was written since.
    pub tape: Tape,
    /// Its phases, in order.
    pub stretches: Vec<Stretch>,
}

/// A recording that is being made.
#[derive(Debug)]
pub struct Recorder {
    base: PathBuf,
    tape: PathBuf,
    work: PathBuf,
    /// The tape's length in bytes when the upgrade was asked for.
    asked: u64,
}

impl Recorder {
    /// Of a device that is off, from its next boot on. The first of a device keeps its card, and the others begin with that.
    ///
    /// # Errors
    /// When the card cannot be copied.
    pub fn start(pi: &VirtualPi, name: &str) -> anyhow::Result<Self> {
        let work = pi.case().subdir("recording");
        let (base, tape) = (work.join("base.img"), work.join(format!("{name}.tape")));
        let card = pi.card().path();
        let (from, to) = if base.exists() { (base.as_path(), card) } else { (card, base.as_path()) };
        copy(from, to)?;
        pi.board().record(Some(tape.clone()))?;
        Ok(Recorder { base, tape, work, asked: 0 })
    }

    /// What comes now belongs to the upgrade.
    ///
    /// # Errors
    /// When there is no tape.
    pub fn mark(&mut self) -> anyhow::Result<()> {
        self.asked = self.tape.metadata().with_context(|| format!("no tape at {}", self.tape.display()))?.len();
        Ok(())
    }

    /// Takes the power away and reads what was recorded.
    ///
    /// # Errors
    /// When a file cannot be read, or the card of some moment means nothing.
    pub fn end(self, pi: &VirtualPi) -> anyhow::Result<Recording> {
        pi.cut_power();
        let reels = pi.board().reels();
        pi.board().record(None)?;
        let tape = Tape::read(&self.tape)?;
        let boots: Vec<usize> = reels.iter().map(|bytes| tape.entries_at(*bytes)).collect();
        let scratch = self.work.join("phases.img");
        copy(&self.base, &scratch)?;
        let stretches = stretches(&CardFile::at(&scratch), &tape, &boots, tape.entries_at(self.asked));
        fs::remove_file(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
        Ok(Recording { base: self.base, tape, stretches: stretches? })
    }
}

impl Recording {
    /// Makes the card as it was when so much of each entry had been written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn rewind(&self, card: &Path, kept: &[Kept]) -> anyhow::Result<()> {
        copy(&self.base, card)?;
        self.tape.play(card, 0, kept)
    }

    /// How many entries each phase has.
    #[must_use]
    pub fn told(&self) -> String {
        let told = self.stretches.iter().map(|stretch| format!("{} {}", stretch.phase, stretch.to - stretch.from));
        told.collect::<Vec<_>>().join(", ")
    }
}

/// Plays the tape onto `card`, looking whenever it may mean something else.
fn stretches(card: &CardFile, tape: &Tape, boots: &[usize], asked: usize) -> anyhow::Result<Vec<Stretch>> {
    let places = [card.partition(1)?, card.partition(GROUP_PARTITION)?];
    let places = [places[0].start..places[0].start + places[0].length, places[1].start..places[1].start + METADATA];
    let mut follow = Follow::new(card.autoboot()?.context("autoboot.txt names no slot")?);
    let mut phase = Phase::Before;
    let mut found: Vec<Stretch> = vec![];
    let mut played = 0;
    for (number, entry) in tape.entries.iter().enumerate() {
        let touched = entry.kind == Kind::Write && places.iter().any(|place| meets(place, entry.offset, entry.length));
        if touched || boots.contains(&number) {
            tape.play(card.path(), played, &vec![Kept::Whole; number + 1 - played])?;
            played = number + 1;
            let autoboot = card.autoboot().with_context(|| format!("autoboot.txt after entry {number}"))?;
            ensure!(autoboot.is_some(), "after entry {number} autoboot.txt names no slot");
            // Between two sectors of one change of LVM's it may mean nothing; what it meant before goes on.
            if let Ok(marks) = card.marks() {
                let boot = boots.partition_point(|begins| *begins <= number);
                phase = follow.phase(&Seen { autoboot, marks, boot });
            }
        }
        match found.last_mut().filter(|last| last.phase == phase) {
            _ if number < asked => {}
            Some(last) => last.to = number + 1,
            None => found.push(Stretch { phase, from: number, to: number + 1 }),
        }
    }
    Ok(found)
}

fn meets(place: &Range<u64>, offset: u64, length: u64) -> bool {
    offset < place.end && offset + length > place.start
}
