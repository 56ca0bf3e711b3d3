//! Power lost, processes killed, effects that fail, LVM that cannot be read: before and after every effect of the agent, its
//! units, the probation timer and the boot guard, for every kind of new system. Each case ends confirmed or rolled back.

use bramble_agent::core::os::Protection;
use bramble_contracts::boot::Slot;
use bramble_contracts::v1::Status;

use super::bugs::Bug;
use super::cores::on_all_cores;
use super::kinds::{self, Kind};
use super::world::{Accident, Fuse, HOUR, MINUTE, When, World, wish};

const ACCIDENTS: [(Accident, When); 10] = [
    (Accident::Power, When::Before),
    (Accident::Power, When::After),
    (Accident::KillAgent, When::Before),
    (Accident::KillAgent, When::After),
    (Accident::KillUnit, When::Before),
    (Accident::KillUnit, When::After),
    (Accident::Fails, When::Before),
    (Accident::MeshLost, When::After),
    (Accident::Lvm, When::Before),
    (Accident::Lvm, When::After),
];
/// Lines of a story that is told when it went wrong.
const TOLD_MAX: usize = 200;
/// What an accident is tried at; later effects repeat earlier ones.
const EFFECTS_MAX: u32 = 90;
/// Cases with several accidents.
const RANDOM_CASES: u64 = 2000;
/// Effects among which they fall.
const RANDOM_EFFECTS: u64 = 90;

/// Where a story plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Story {
    pub kind: Kind,
    pub active: Slot,
    pub protection: Protection,
}

impl Story {
    pub fn of(kind: Kind) -> Self {
        Self { kind, active: Slot::A, protection: Protection::Tryboot }
    }

    pub fn begin(self) -> World {
        let mut world = World::new(self.active, self.protection);
        (world.kind, world.effects) = (self.kind, 0);
        world
    }
}

/// All that make a difference.
fn stories() -> Vec<Story> {
    let second = |kind| Story { active: Slot::B, ..Story::of(kind) };
    let mut stories: Vec<Story> = vec![Story::of(Kind::Good), second(Kind::Good)];
    stories.extend(kinds::ALL.into_iter().filter(|kind| *kind != Kind::Good).map(Story::of));
    stories.extend([Kind::PanicsEarly, Kind::SickApp, Kind::NoAgent].map(second));
    for kind in [Kind::Good, Kind::NoRoom, Kind::AptFails, Kind::Hangs, Kind::NoAgent, Kind::NoBroker, Kind::SickApp] {
        stories.push(Story { protection: Protection::Bootcount, ..Story::of(kind) });
    }
    stories
}

/// Whether a story has so few accidents that packages are only refused when they are to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Exact,
    /// What is reset again and again looks like one that does not come up.
    Any,
}

/// Lets a story come to its end, and notes what is wrong with it.
fn live(world: &mut World, story: Story, blame: Blame) {
    let (fuses, boots) = (world.fuses.clone(), world.boots);
    world.wish = Some(wish(1));
    world.news();
    let to_its_end =
        |world: &mut World| world.run_until(world.now + 72 * HOUR, |world| world.is_at_rest() && world.is_answered());
    let mut well = to_its_end(world);
    // The guard tried the other slot once, as the volumes could not be read: nothing begins in that boot, and people are told.
    let lvm = fuses.iter().any(|fuse| fuse.accident == Accident::Lvm);
    let away = !world.bootcount && world.autoboot != Some(world.slot);
    if !well && world.wrong.is_empty() && world.is_at_rest() && lvm && away {
        world.lose_power();
        well = to_its_end(world);
    }
    if !world.wrong.is_empty() {
        return;
    }
    if !well {
        let at = world.disk.ledger.upgrade.as_ref().map(|upgrade| upgrade.phase.clone());
        return world.is_wrong(format!("it does not end: {at:?}"));
    }
    ended(world, story, blame);
    if !world.wrong.is_empty() {
        return;
    }
    let kills = |fuse: &Fuse| matches!(fuse.accident, Accident::KillAgent | Accident::KillUnit);
    let quiet = fuses.iter().all(kills) && matches!(story.kind, Kind::Good | Kind::Reconnects);
    if quiet && world.boots != boots + 1 {
        world.is_wrong(format!("nobody cut the power, and it booted {} times", world.boots - boots));
    }
    if world.boots > boots + 80 {
        world.is_wrong(format!("{} boots", world.boots - boots));
    }
    if !world.wrong.is_empty() {
        return;
    }
    if !world.fuses.is_empty() && blame == Blame::Exact {
        world.is_wrong(format!("there was no effect for {:?}", world.fuses));
    }
    cold_boot(world);
}

fn ended(world: &mut World, story: Story, blame: Blame) {
    let last = world.disk.ledger.last.clone();
    let status = last.as_ref().map(|last| last.status);
    let nothing = story.kind == Kind::Nothing;
    let is_new = world.is_new();
    match status {
        Some(Status::Confirmed) if is_new || nothing => {}
        Some(Status::RolledBack | Status::Failed) if !is_new => {}
        other => world.is_wrong(format!("it says {other:?}, and root is {:?}", world.root)),
    }
    let sound = story.kind.is_sound();
    if !sound && is_new {
        world.is_wrong("a bad system is confirmed");
    }
    if sound && status != Some(Status::Confirmed) && blame == Blame::Exact {
        let reason = last.and_then(|last| last.reason).map(|reason| reason.to_string());
        world.is_wrong(format!("a good system is refused: {reason:?}"));
    }
    let slots: Vec<u32> = world.files.iter().map(|files| files.version).collect();
    let same = world.files.iter().all(|files| !files.half && files.version == world.root.version);
    if is_new && !world.bootcount && !same {
        world.is_wrong(format!("slots are {slots:?} after a confirmed upgrade"));
    }
}

/// The power goes and comes: the same system is there, and nothing follows.
fn cold_boot(world: &mut World) {
    let (version, boots) = (world.root.version, world.boots);
    let ledger = world.disk.ledger.clone();
    world.fuses.clear();
    world.group_broken = false;
    world.lose_power();
    world.run(10 * MINUTE);
    let (same, at_rest) = (world.root.version == version, world.is_at_rest());
    if world.disk.snapshot.is_some() {
        world.is_wrong("a snapshot stays");
    }
    if !(same && at_rest && world.boots == boots + 1 && world.disk.ledger.last == ledger.last) {
        world.is_wrong("after a cold boot it is not as it was");
    }
}

/// What is wrong, with all that happened; nothing when it went well.
fn suffer(start: &World, story: Story, fuses: &[Fuse], blame: Blame) -> Option<String> {
    let play = |recording| {
        let mut world = start.clone();
        (world.recording, world.fuses) = (recording, fuses.to_vec());
        live(&mut world, story, blame);
        world
    };
    if play(false).wrong.is_empty() {
        return None;
    }
    let told = play(true);
    let lines: Vec<String> = told.story.into_iter().take(TOLD_MAX).collect();
    Some(format!("{story:?}, {fuses:?}\n{}\n{}", lines.join("\n"), told.wrong.join("\n")))
}

/// Every accident at every effect of one story, and the power twice: how many cases, and the first that went wrong.
fn enumerate(start: &World, story: Story, twice: bool) -> (u32, Option<String>) {
    let undisturbed = suffer(start, story, &[], Blame::Exact);
    if undisturbed.is_some() {
        return (1, undisturbed);
    }
    let mut world = start.clone();
    live(&mut world, story, Blame::Exact);
    let (mut cases, effects) = (1, world.effects.min(EFFECTS_MAX));
    let mut one = |fuses: &[Fuse], blame| {
        cases += 1;
        suffer(start, story, fuses, blame)
    };
    for effect in 1..=effects {
        for (accident, when) in ACCIDENTS {
            if let Some(wrong) = one(&[Fuse { effect, when, accident }], Blame::Exact) {
                return (cases, Some(wrong));
            }
        }
    }
    for (first, second) in (1..=effects).flat_map(|first| (1..=9).map(move |n| (first, first + n))).filter(|_| twice) {
        let fuse = |effect, when| Fuse { effect, when, accident: Accident::Power };
        if let Some(wrong) = one(&[fuse(first, When::After), fuse(second, When::After)], Blame::Any) {
            return (cases, Some(wrong));
        }
    }
    (cases, None)
}

/// The first case in which a planted bug shows: its number, and what was seen.
pub fn first_wrong(bug: Bug) -> Option<(u32, String)> {
    let begin = |story: &Story| {
        let mut world = story.begin();
        world.bug = Some(bug);
        world
    };
    let told = |cases, wrong: &str| {
        let (first, last) = (wrong.lines().next().unwrap_or(""), wrong.lines().last().unwrap_or(""));
        Some((cases, format!("{first}: {last}")))
    };
    let mut cases = 0;
    for story in &stories() {
        cases += 1;
        if let Some(wrong) = suffer(&begin(story), *story, &[], Blame::Exact) {
            return told(cases, &wrong);
        }
    }
    for story in &stories() {
        let (more, wrong) = enumerate(&begin(story), *story, false);
        cases += more;
        if let Some(wrong) = wrong {
            return told(cases, &wrong);
        }
    }
    None
}

#[test]
fn an_accident_at_any_effect_ends_confirmed_or_rolled_back() {
    let cases = on_all_cores(stories(), |story| enumerate(&story.begin(), story, true));
    println!("{cases} crash cases");
    assert!(cases > 5_000, "the enumeration is there: {cases}");
}

/// Two to five accidents in one story. What is blamed then may be wrong; everything else holds.
#[test]
fn several_accidents_in_a_row_end_confirmed_or_rolled_back() {
    let stories = stories();
    let starts: Vec<World> = stories.iter().map(|story| story.begin()).collect();
    let cases = on_all_cores((1..=RANDOM_CASES).collect(), |seed| {
        let mut random = seed;
        let mut next = |below: u64| {
            // Numerical Recipes' generator: any will do, as long as a seed gives the same case again.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let at = usize::try_from(next(stories.len() as u64)).unwrap();
        let fuses: Vec<Fuse> = (0..next(4) + 2)
            .map(|_| {
                let (accident, when) = ACCIDENTS[usize::try_from(next(ACCIDENTS.len() as u64)).unwrap()];
                Fuse { effect: u32::try_from(1 + next(RANDOM_EFFECTS)).unwrap(), when, accident }
            })
            .collect();
        (1, suffer(&starts[at], stories[at], &fuses, Blame::Any))
    });
    println!("{cases} random crash cases");
}
