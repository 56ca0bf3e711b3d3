//! Power lost, processes killed, the mesh lost, effects that fail: before and after every effect, for every kind of new
//! version and every mood of the coordinator. It ends well.

use bramble_agent::core::upgrade::Attempt;
use bramble_contracts::v1::Status;

use super::coordinator::{self, Mood};
use super::kinds::{self, Kind};
use super::process::SIZE;
use super::world::{Accident, Fuse, HOUR, MINUTE, SECOND, When, World, version, wish};

const ACCIDENTS: [(Accident, When); 9] = [
    (Accident::Power, When::Before),
    (Accident::Power, When::After),
    (Accident::KillSelf, When::Before),
    (Accident::KillSelf, When::After),
    (Accident::KillPeer, When::Before),
    (Accident::KillPeer, When::After),
    (Accident::MeshLost, When::Before),
    (Accident::MeshLost, When::After),
    (Accident::Fails, When::Before),
];

/// How the wish changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// 0.5 to 0.6, which is of the kind.
    Up(Kind),
    /// The same, and to 0.7, which is good, after so long.
    ChangeOfMind(Kind, u64),
    /// To 0.4, which is above the floor.
    Down,
    /// To 0.2, which is below it.
    TooFarDown,
}

impl Way {
    fn target(self) -> u16 {
        match self {
            Self::Up(_) => 6,
            Self::ChangeOfMind(..) => 7,
            Self::Down => 4,
            Self::TooFarDown => 2,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Up(kind) => kind,
            Self::ChangeOfMind(..) | Self::Down => Kind::Good,
            Self::TooFarDown => Kind::BelowFloor,
        }
    }

    /// For how long nobody may act, at most: an agent that hangs holds the lease until its time is over.
    fn unmanaged_max(self) -> u64 {
        match self {
            Self::Up(Kind::HangsLong) | Self::ChangeOfMind(Kind::HangsLong, _) => 21 * MINUTE,
            Self::Up(Kind::HangsActing | Kind::HangsStarting) => 5 * MINUTE,
            Self::Up(_) | Self::ChangeOfMind(..) | Self::Down | Self::TooFarDown => 3 * MINUTE,
        }
    }
}

/// All ways and moods that make a difference.
fn stories() -> Vec<(Way, Mood)> {
    let mut stories = Vec::new();
    for kind in kinds::ALL {
        let moods = coordinator::ALL.into_iter().filter(|mood| kind.acts() || *mood == Mood::Good);
        stories.extend(moods.map(|mood| (Way::Up(kind), mood)));
    }
    for after in [1, 4, 8, 10, 13] {
        stories.push((Way::ChangeOfMind(Kind::Good, after * SECOND), Mood::Good));
        stories.push((Way::ChangeOfMind(Kind::HangsLong, after * SECOND), Mood::Good));
    }
    stories.push((Way::ChangeOfMind(Kind::NeverConnects, 60 * SECOND), Mood::Good));
    stories.push((Way::Down, Mood::Good));
    stories.push((Way::TooFarDown, Mood::Good));
    stories
}

fn begin(way: Way, mood: Mood) -> World {
    let mut world = World::new();
    world.mood = mood;
    // It stands long enough to be a witness.
    world.run(5 * MINUTE);
    (world.effects, world.unmanaged_max) = (0, 0);
    match way {
        Way::Up(kind) | Way::ChangeOfMind(kind, _) => {
            world.kinds.insert(version(6), kind);
        }
        Way::Down | Way::TooFarDown => {}
    }
    world
}

fn set_out(world: &mut World, way: Way) {
    let first = if let Way::ChangeOfMind(..) = way { 6 } else { way.target() };
    ask_for(world, first);
    if let Way::ChangeOfMind(_, after) = way {
        world.run(after);
        ask_for(world, 7);
    }
}

pub fn ask_for(world: &mut World, minor: u16) {
    world.wish = Some(wish(minor, 1));
    let pids: Vec<u32> = world.procs.values().map(|proc| proc.pid).collect();
    for pid in pids {
        world.tell(pid, &bramble_agent::core::upgrade::Event::Wished);
    }
}

/// Nothing is under way, one agent runs and acts, and it is the one that everything names.
fn is_at_rest(world: &World, minor: u16) -> bool {
    let (disk, is) = (&world.disk, version(minor));
    let links = (disk.links.current, disk.links.confirmed) == (is, is);
    let instance = world.procs.keys().next().copied();
    let one = world.procs.len() == 1 && Some(disk.enabled) == instance && world.wanted.len() == 1;
    links && one && world.acting() == Some(is) && disk.ledger.confirmed.version == is && disk.ledger.upgrade.is_none()
}

/// Runs the rest of a story and says what is wrong with its end.
fn finish(world: &mut World, way: Way, mood: Mood) {
    let target = way.target();
    let of = Attempt::from(&wish(target, 1));
    let denied = |world: &World| world.disk.ledger.denial(&of).is_some();
    let sound = way.kind().is_sound();
    if sound && mood == Mood::Silent {
        world.run(2 * HOUR);
        if world.disk.ledger.confirmed.version != version(5) && !confirmed_before(world) {
            world.wrong.push("nobody confirmed it, and it is confirmed".into());
        }
        world.mood = Mood::Good;
        world.look_soon();
    }
    let gives_up = matches!(mood, Mood::AbortsEarly | Mood::AbortsLate);
    let end = world.now + 24 * HOUR;
    let fine = world.run_until(end, |world| {
        let refused = denied(world) && is_at_rest(world, 5);
        if sound && !gives_up { is_at_rest(world, target) } else { refused || gives_up && is_at_rest(world, target) }
    });
    if !fine {
        world.wrong.push(format!("it did not end well: {:?}", world.disk));
    }
    if sound && !gives_up && denied(world) {
        world.wrong.push("a good version was refused".into());
    }
    if gives_up && sound && mood == Mood::AbortsLate && !denied(world) {
        world.wrong.push("it was given up, and is not refused".into());
    }
    if world.unmanaged_max > way.unmanaged_max() {
        world.wrong.push(format!("nobody acted for {} s", world.unmanaged_max / 1000));
    }
    cold_boot(world);
}

fn confirmed_before(world: &World) -> bool {
    world.disk.ledger.last.as_ref().is_some_and(|last| last.status == Status::Confirmed)
}

/// Offline: the agent that was confirmed acts soon.
fn cold_boot(world: &mut World) {
    let confirmed = world.disk.ledger.confirmed.version;
    world.lose_mesh(None);
    world.boot();
    world.run(2 * MINUTE);
    if world.acting() != Some(confirmed) || world.procs.len() != 1 {
        world.wrong.push("after a cold boot the confirmed agent does not act alone".into());
    }
}

/// Tells a case again, with all that happened.
fn tell(way: Way, mood: Mood, fuses: &[Fuse]) -> String {
    let mut world = begin(way, mood);
    world.recording = true;
    world.fuses = fuses.to_vec();
    set_out(&mut world, way);
    finish(&mut world, way, mood);
    let story: Vec<String> = world.story.into_iter().take(250).collect();
    format!("{way:?} {mood:?} {fuses:?}\n{}\n@@@{}", story.join("\n"), world.wrong.join("\n"))
}

/// How many effects a story has without an accident.
fn effects(way: Way, mood: Mood) -> u32 {
    let mut world = begin(way, mood);
    set_out(&mut world, way);
    finish(&mut world, way, mood);
    assert!(world.wrong.is_empty(), "{}", tell(way, mood, &[]));
    world.effects
}

fn suffer(way: Way, mood: Mood, fuses: &[Fuse]) -> Result<(), String> {
    let mut world = begin(way, mood);
    world.fuses = fuses.to_vec();
    set_out(&mut world, way);
    finish(&mut world, way, mood);
    if world.wrong.is_empty() { Ok(()) } else { Err(tell(way, mood, fuses)) }
}

#[test]
fn an_accident_at_any_effect_ends_in_one_of_the_two_versions() {
    let mut cases = 0;
    let mut wrong: Vec<String> = Vec::new();
    let mut by: std::collections::BTreeMap<String, u32> = Default::default();
    for (way, mood) in stories() {
        for effect in 1..=effects(way, mood).min(120) {
            for (accident, when) in ACCIDENTS {
                cases += 1;
                if let Err(e) = suffer(way, mood, &[Fuse { effect, when, accident }]) {
                    let key = e.split("@@@").nth(1).unwrap().chars().take(90).collect::<String>();
                    let n = by.entry(format!("{way:?} {mood:?} {key}")).or_default();
                    *n += 1;
                    if *n == 1 { println!("{e}"); }
                    wrong.push(e);
                }
            }
        }
    }
    println!("{cases} crash cases {by:#?}");
    assert!(wrong.is_empty(), "{} of {cases} cases:\n{}", wrong.len(), wrong[0]);
    let _ = SIZE;
}
