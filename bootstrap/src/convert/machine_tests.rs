//! The conversion on a simulated card that loses its power at any write: the piece under the head is then rubbish.

use std::collections::BTreeMap;

use super::*;

const OLD_USES: std::ops::Range<usize> = 0..24;
/// In front of the physical volume: copied, the rest is shared.
const FRONT: std::ops::Range<usize> = 0..3;
const COPIES: usize = 24;
const HEAD: usize = 30;
const THIN: usize = 31;
const COW: std::ops::Range<usize> = 32..36;
const STATE: usize = 36;
const NEW_WRITES: usize = 37;
const PIECES: usize = 40;
const RUBBISH: u64 = 0xdead;

/// The power is gone.
#[derive(Debug)]
struct Cut;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum New {
    Fine,
    /// Starts, and is never well.
    Sick,
    /// Ends in a reset before anything of it runs.
    Crashes,
    /// A step of making it fails.
    Fails(Build),
    /// A person wants the old system back on the first trial boot.
    Unwanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    Old,
    New,
    Nothing,
}

struct Card {
    pieces: Vec<u64>,
    table: Table,
    ledger: Ledger,
    cmdline_new: bool,
    converter: bool,
    /// Counts what the old system wrote: its superblock, and one of its pieces.
    old_epoch: u64,
    /// What the new root consists of, by piece.
    new_is: BTreeMap<usize, u64>,
    old_dropped: bool,
    new: New,
    fuses: Vec<u32>,
    ticks: u32,
    cuts: usize,
    attempts: u64,
}

impl Card {
    fn new(new: New, fuses: &[u32]) -> Self {
        let mut pieces = vec![0; PIECES];
        OLD_USES.for_each(|at| pieces[at] = 1000 + at as u64);
        let asked = Ledger { phase: Phase::GaveUp { why: "never asked".into() }, made: None };
        let (ledger, effects) =
            step(asked, Event::Asked, Facts { table: Table::Old, old_unchanged: true, volumes: false });
        assert!(effects.is_empty());
        Self {
            pieces,
            table: Table::Old,
            ledger,
            cmdline_new: false,
            converter: true,
            old_epoch: 0,
            new_is: BTreeMap::new(),
            old_dropped: false,
            new,
            fuses: fuses.iter().rev().copied().collect(),
            ticks: 0,
            cuts: 0,
            attempts: 0,
        }
    }

    /// One write. True when it must not be done any more, because the power went.
    fn tick(&mut self) -> Result<(), Cut> {
        self.ticks += 1;
        if self.fuses.last() == Some(&self.ticks) {
            self.fuses.pop();
            self.ticks = 0;
            self.cuts += 1;
            return Err(Cut);
        }
        Ok(())
    }

    fn write(&mut self, piece: usize, value: u64) -> Result<(), Cut> {
        let used_by_old = OLD_USES.contains(&piece) && !self.old_dropped;
        assert!(!used_by_old, "piece {piece} of the old root is written before it is given up");
        self.pieces[piece] = RUBBISH;
        self.tick()?;
        self.pieces[piece] = value;
        Ok(())
    }

    fn print(&self) -> String {
        self.old_epoch.to_string()
    }

    fn facts(&self) -> Facts {
        let made = self.ledger.made.as_ref();
        Facts {
            table: self.table,
            old_unchanged: made.is_none_or(|made| made.print == self.print()),
            volumes: self.table == Table::New && self.pieces[HEAD] != RUBBISH,
        }
    }

    fn old_whole(&self) -> bool {
        OLD_USES.skip(1).all(|at| self.pieces[at] == 1000 + at as u64) && self.pieces[0] == 1000 + self.old_epoch
    }

    fn new_whole(&self) -> bool {
        !self.new_is.is_empty() && self.new_is.iter().all(|(at, value)| self.pieces[*at] == *value)
    }

    fn store(&mut self, next: Ledger) -> Result<(), Cut> {
        if next != self.ledger {
            self.tick()?;
            self.ledger = next;
        }
        Ok(())
    }

    fn build(&mut self, build: Build) -> Result<(), Cut> {
        let tag = self.attempts * 100;
        match build {
            Build::Check | Build::Plan | Build::Compare | Build::Seal => {}
            Build::Copy => {
                for at in FRONT {
                    self.write(COPIES + at, self.pieces[at])?;
                }
            }
            Build::Thin => self.write(THIN, tag + 1)?,
            Build::Volumes => self.write(HEAD, tag + 2)?,
            Build::Snapshot => self.write(THIN, tag + 3)?,
            Build::Shrink => {
                for at in COW {
                    self.write(at, tag + at as u64)?;
                    self.write(THIN, tag + 4 + at as u64)?;
                }
            }
            Build::Dress => self.write(STATE, tag + 5)?,
        }
        Ok(())
    }

    /// Performs; says whether the machine starts again, and whether the new root is mounted.
    fn perform(&mut self, event: Event) -> Result<(bool, bool), Cut> {
        let (mut events, mut reboot, mut volumes) = (vec![event], false, false);
        while let Some(event) = events.pop() {
            if event == Event::Booted {
                self.attempts += 1;
            }
            let (next, effects) = step(self.ledger.clone(), event, self.facts());
            self.store(next)?;
            for effect in effects {
                match effect {
                    Effect::Build(build) if self.new == New::Fails(build) => {
                        events.push(Event::Failed("a step fails".into()));
                        break;
                    }
                    Effect::Build(build) => {
                        self.build(build)?;
                        if build == Build::Seal {
                            self.new_is = (0..PIECES)
                                .filter(|at| !FRONT.contains(at) && *at != NEW_WRITES)
                                .map(|at| (at, self.pieces[at]))
                                .collect();
                            let made = Made { old_entry: "old".into(), new_entry: "new".into(), print: self.print() };
                            events.push(Event::Built(made));
                        }
                    }
                    Effect::WriteTable(table) => {
                        self.tick()?;
                        self.table = table;
                    }
                    Effect::Reboot => reboot = true,
                    Effect::UseVolumes => volumes = true,
                    Effect::NameRoot => {
                        self.tick()?;
                        self.cmdline_new = true;
                    }
                    Effect::DropOld => {
                        self.tick()?;
                        self.old_dropped = true;
                    }
                    Effect::Retire => {
                        self.tick()?;
                        self.converter = false;
                        events.push(Event::Cleaned);
                    }
                    Effect::Release | Effect::Tell(_) => {}
                }
            }
        }
        Ok((reboot, volumes))
    }

    /// From power-on until a root runs.
    fn boot(&mut self) -> Result<Ran, Cut> {
        loop {
            let (reboot, volumes) =
                if self.converter { self.perform(Event::Booted)? } else { (false, self.cmdline_new) };
            if reboot {
                continue;
            }
            if !volumes && self.table == Table::Old {
                assert!(self.old_whole(), "the old system starts, and is not whole: {:?}", self.ledger);
                self.run_old()?;
                return Ok(Ran::Old);
            }
            assert_eq!(self.table, Table::New, "volumes without their partition");
            assert!(volumes, "nothing to start: {:?}", self.ledger);
            assert!(self.new_whole(), "the new system starts, and is not whole: {:?}", self.ledger);
            if self.new == New::Crashes {
                return Ok(Ran::Nothing);
            }
            self.run_new()?;
            return Ok(Ran::New);
        }
    }

    /// It writes into its own, and into everything it holds for free.
    fn run_old(&mut self) -> Result<(), Cut> {
        self.old_epoch += 1;
        self.pieces[0] = 1000 + self.old_epoch;
        for at in OLD_USES.end..PIECES {
            self.pieces[at] = 7;
        }
        self.tick()
    }

    fn run_new(&mut self) -> Result<(), Cut> {
        self.write(NEW_WRITES, 9)?;
        let event = match (self.new, &self.ledger.phase) {
            (New::Fine, _) => Event::Proven,
            (New::Unwanted, Phase::Trial { .. }) => Event::Unwanted("asked to".into()),
            (New::Unwanted | New::Sick | New::Crashes | New::Fails(_), _) => return Ok(()),
        };
        // The running system's part stays until all is done, whatever became of the initramfs.
        if self.ledger.phase != Phase::Done {
            self.perform(event)?;
        }
        if self.old_dropped {
            self.write(FRONT.start, 11)?;
        }
        Ok(())
    }

    /// Starts it again and again, cut or not, as often as it takes.
    fn live(&mut self) -> Ran {
        let mut last = Ran::Nothing;
        for boot in 0..18 {
            if boot == 16 {
                self.fuses.clear();
            }
            last = self.boot().unwrap_or(Ran::Nothing);
        }
        last
    }
}

fn news() -> Vec<New> {
    let fails = Build::ALL.map(New::Fails);
    [vec![New::Fine, New::Sick, New::Crashes, New::Unwanted], fails.to_vec()].concat()
}

#[test]
fn a_cut_anywhere_leaves_a_whole_system_and_a_way_on() {
    let mut cases = 0;
    for new in news() {
        for first in 1..60 {
            for second in std::iter::once(None).chain((1..60).map(Some)) {
                let fuses: Vec<u32> = std::iter::once(first).chain(second).collect();
                let mut card = Card::new(new, &fuses);
                let last = card.live();
                // Fuses that lie behind the end of it prove nothing.
                cases += usize::from(card.cuts == fuses.len());
                let at = format!("{new:?}, cut at {fuses:?}: {:?}", card.ledger.phase);
                match new {
                    New::Fine => {
                        assert_eq!((last, &card.ledger.phase), (Ran::New, &Phase::Done), "{at}");
                        assert!(card.cmdline_new && !card.converter, "{at}");
                    }
                    New::Sick | New::Crashes | New::Unwanted => {
                        assert_eq!(last, Ran::Old, "{at}");
                        assert!(matches!(card.ledger.phase, Phase::Returned { .. }), "{at}");
                    }
                    New::Fails(_) => {
                        assert_eq!(last, Ran::Old, "{at}");
                        assert!(matches!(card.ledger.phase, Phase::GaveUp { .. }), "{at}");
                    }
                }
            }
        }
    }
    assert!(cases > 5_000, "{cases}");
    println!("{cases} crash cases");
}

#[test]
fn power_that_is_cut_in_each_attempt_leaves_the_old_system() {
    let fuses = vec![6; usize::from(ATTEMPTS_MAX)];
    let mut card = Card::new(New::Fine, &fuses);
    assert_eq!(card.live(), Ran::Old);
    let Phase::GaveUp { why } = &card.ledger.phase else { panic!("{:?}", card.ledger.phase) };
    assert!(why.contains("5 attempts"), "{why}");
    assert_eq!(card.cuts, fuses.len());
}

#[test]
fn an_old_system_that_ran_in_between_is_never_overruled() {
    let mut card = Card::new(New::Fine, &[]);
    let made = Made { old_entry: String::new(), new_entry: String::new(), print: "another".into() };
    card.ledger = Ledger { phase: Phase::Trial { boots: 0 }, made: Some(made) };
    assert_eq!(card.boot().unwrap(), Ran::Old);
    assert!(matches!(&card.ledger.phase, Phase::GaveUp { why } if why.contains("stale")), "{:?}", card.ledger);
}

#[test]
fn a_card_that_does_not_take_the_table_is_no_endless_loop() {
    let facts = |table| Facts { table, old_unchanged: true, volumes: true };
    let (phase, table) = (Phase::Trial { boots: 0 }, Table::Old);
    let mut ledger = Ledger { phase, made: None };
    let mut boots = 0;
    while !matches!(ledger.phase, Phase::GaveUp { .. }) {
        ledger = step(ledger, Event::Booted, facts(table)).0;
        boots += 1;
        assert!(boots < 10);
    }
    let mut ledger = Ledger { phase: Phase::Returning { why: "w".into(), tries: 0 }, made: None };
    for _ in 0..10 {
        let (next, effects) = step(ledger, Event::Booted, facts(Table::New));
        ledger = next;
        if effects.contains(&Effect::UseVolumes) {
            return;
        }
    }
    panic!("it goes on starting again: {ledger:?}");
}

#[test]
fn a_table_that_somebody_changed_is_left_alone() {
    let facts = Facts { table: Table::Other, old_unchanged: true, volumes: true };
    for phase in [
        Phase::Prepared,
        Phase::Working { attempt: 1 },
        Phase::Trial { boots: 1 },
        Phase::Confirmed,
        Phase::Returning { why: "w".into(), tries: 1 },
    ] {
        for event in [Event::Booted, Event::Proven, Event::Unwanted("x".into())] {
            let (_, effects) = step(Ledger { phase: phase.clone(), made: None }, event, facts);
            assert!(
                !effects.iter().any(|effect| matches!(effect, Effect::WriteTable(_) | Effect::DropOld)),
                "{phase:?}"
            );
        }
    }
}

#[test]
fn what_was_proven_cannot_be_asked_for_again_or_undone() {
    let facts = Facts { table: Table::New, old_unchanged: true, volumes: true };
    for phase in [Phase::Confirmed, Phase::Done] {
        for event in [Event::Asked, Event::Unwanted("x".into()), Event::Failed("x".into())] {
            let ledger = Ledger { phase: phase.clone(), made: None };
            assert_eq!(step(ledger.clone(), event, facts), (ledger, vec![]));
        }
    }
}
