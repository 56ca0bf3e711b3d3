//! How upgrades end that nobody disturbs, in the words that people read; and what stands in the way of one.

use bramble_agent::core::os::{
    Change, Facts, Foreseen, OwnUpgrade, Package, Phase, Plan, Protection, Room, What, Wish, foresee, hindrance,
    status, unasked, wake_at,
};
use bramble_contracts::v1::Status;

use super::crashes::Story;
use super::kinds::{self, Kind};
use super::world::{HOUR, MINUTE, World, closed, wish};

/// Until the first run is over.
fn first_run(kind: Kind) -> World {
    let mut world = Story::of(kind).begin();
    world.wish = Some(wish(1));
    world.news();
    let end = world.now + 6 * HOUR;
    assert!(world.run_until(end, |world| world.is_at_rest() && world.disk.ledger.last.is_some()), "{kind:?}");
    world
}

#[test]
fn every_kind_of_new_system_ends_in_its_own_words() {
    for kind in kinds::ALL.into_iter().chain([Kind::NoTryboot]) {
        let world = first_run(kind);
        let last = world.disk.ledger.last.clone().unwrap();
        let why = last.reason.map(|reason| reason.to_string()).unwrap_or_default();
        assert_eq!((last.status, why.as_str(), last.blamed), kind.first_end(), "{kind:?}");
        assert_eq!(last.sick_before, ["cam"], "{kind:?}");
    }
}

#[test]
fn between_packages_and_reboot_nobody_is_told_that_it_begins_anew() {
    let mut world = Story::of(Kind::Good).begin();
    world.wish = Some(wish(1));
    world.news();
    let arming = |world: &World| world.disk.ledger.upgrade.as_ref().is_some_and(|one| one.phase == Phase::Arming);
    let end = world.now + HOUR;
    assert!(world.run_until(end, arming));
    assert_eq!(status(&world.disk.ledger, &world.facts(), None).headline(), "applying 100 %");
}

#[test]
fn a_confirmed_upgrade_tells_what_it_took() {
    let world = first_run(Kind::Good);
    let told = status(&world.disk.ledger, &world.facts(), None);
    assert_eq!(told.headline(), "confirmed");
    assert_eq!((told.status, told.delta.changes.len(), told.bytes), (Some(Status::Confirmed), 2, 2 << 20));
    assert!(told.took_ms.is_some_and(|ms| (40_000..90_000).contains(&ms)), "{told:?}");
    assert!(told.down_ms.is_some_and(|ms| ms > 10_000 && ms < 20_000), "{told:?}");
}

#[test]
fn a_set_that_failed_is_refused_until_a_retry() {
    let mut world = first_run(Kind::SickApp);
    let told = status(&world.disk.ledger, &world.facts(), None);
    assert_eq!(told.headline(), "rolled back: app web unhealthy: probe http :80 → 500");
    let boots = world.boots;
    world.run(24 * HOUR);
    assert_eq!(world.boots, boots, "it is not tried again by itself");
    // Another campaign with the same packages is refused too; one with others is not.
    world.wish = Some(Wish { id: "another".into(), ..wish(1) });
    world.news();
    world.run(10 * MINUTE);
    let told = status(&world.disk.ledger, &world.facts(), None);
    assert!(told.headline().starts_with("failed: these packages failed before: app web"), "{}", told.headline());
    assert_eq!(world.boots, boots);
    // The operator says retry, and it is well now.
    (world.wish, world.kind) = (Some(wish(2)), Kind::Good);
    world.news();
    world.run(10 * MINUTE);
    assert_eq!(status(&world.disk.ledger, &world.facts(), None).headline(), "confirmed");
    assert!(world.is_new());
}

#[test]
fn what_is_no_verdict_on_packages_refuses_none() {
    let mut world = first_run(Kind::NoBroker);
    assert!(world.disk.ledger.denied.is_empty());
    let told = status(&world.disk.ledger, &world.facts(), None).headline();
    assert!(told.starts_with("rolled back: no broker for 1 min after reboot; it is tried again by itself"), "{told}");
    let end = world.now + 72 * HOUR;
    assert!(world.run_until(end, |world| world.is_at_rest() && world.is_answered()), "not for ever");
    assert!(world.disk.ledger.denied.iter().all(|denied| denied.set.is_none()));
    // Another campaign may take the same packages.
    (world.wish, world.kind) = (Some(Wish { id: "another".into(), ..wish(1) }), Kind::Good);
    world.news();
    world.run(10 * MINUTE);
    assert!(world.is_new());
}

#[test]
fn a_panic_that_left_a_trace_is_told() {
    let mut world = Story::of(Kind::PanicsEarly).begin();
    world.wish = Some(wish(1));
    world.news();
    world.run_until(world.now + HOUR, |world| world.boots > 2);
    world.panic = Some("VFS: Unable to mount root fs".into());
    world.run(HOUR);
    let told = status(&world.disk.ledger, &world.facts(), None).headline();
    assert_eq!(told, "rolled back: kernel panic: VFS: Unable to mount root fs");
}

/// Changes that stand in the way, and the words for them.
type Hindrances = [(fn(&mut World), &'static str); 7];

#[test]
fn what_stands_in_the_way_is_told_and_waited_for() {
    let all: Hindrances = [
        (|world| world.own_upgrade = OwnUpgrade::UnderWay, "the agent replaces itself just now"),
        (|world| world.window = Err(closed(None)), "its window is not open"),
        (|world| world.room.pool_free = 1 << 30, "1024 MiB are free in the pool, root has 4096"),
        (|world| world.room.metadata_percent = 50, "the pool's metadata is 50 % full"),
        (|world| world.room.state_free = 1 << 20, "1 MiB are free for state, 64 are needed"),
        (|world| world.record = None, "the boot guard did not run in this boot: nothing could be put back"),
        (|world| world.autoboot = None, "autoboot.txt does not name the slot that was booted"),
    ];
    for (change, words) in all {
        let mut world = Story::of(Kind::Good).begin();
        change(&mut world);
        world.wish = Some(wish(1));
        world.news();
        world.run(10 * MINUTE);
        assert_eq!((world.boots, world.effects), (1, 0), "{words}");
        assert_eq!(hindrance(&world.disk.ledger, &wish(1), &world.facts()).as_deref(), Some(words));
        assert_eq!(status(&world.disk.ledger, &world.facts(), None).headline(), format!("waiting: {words}"));
    }
}

#[test]
fn a_window_that_closes_before_anything_is_touched_is_waited_for() {
    let mut world = Story::of(Kind::Good).begin();
    world.wish = Some(wish(1));
    world.news();
    let fetches =
        |world: &World| world.disk.ledger.upgrade.as_ref().is_some_and(|upgrade| upgrade.phase == Phase::Fetching);
    assert!(world.run_until(world.now + HOUR, fetches));
    world.window = Err(closed(Some(8 * HOUR)));
    world.run(10 * MINUTE);
    let (ledger, facts) = (&world.disk.ledger, world.facts());
    assert_eq!((&ledger.upgrade, &ledger.last, &ledger.tally, &world.disk.snapshot), (&None, &None, &None, &None));
    assert_eq!(status(ledger, &facts, None).headline(), "waiting: its window is not open");
    assert_eq!(wake_at(ledger, &facts), Some(facts.up_ms + 8 * HOUR), "it looks again when it opens");
    world.window = Ok(());
    world.news();
    assert!(world.run_until(world.now + HOUR, |world| world.disk.ledger.last.is_some()));
    assert_eq!(world.disk.ledger.last.as_ref().map(|last| last.status), Some(Status::Confirmed));
}

#[test]
fn an_upgrade_that_has_begun_goes_on_when_its_window_closes() {
    let phases: [fn(&Phase) -> bool; 4] = [
        |phase| *phase == Phase::Snapshot,
        |phase| *phase == Phase::Applying,
        |phase| *phase == Phase::Armed,
        |phase| matches!(phase, Phase::Trial(_)),
    ];
    for (n, phase) in phases.into_iter().enumerate() {
        let mut world = Story::of(Kind::Good).begin();
        world.wish = Some(wish(1));
        world.news();
        let is_there =
            move |world: &World| world.disk.ledger.upgrade.as_ref().is_some_and(|upgrade| phase(&upgrade.phase));
        assert!(world.run_until(world.now + HOUR, is_there), "{n}");
        world.window = Err(closed(None));
        assert!(world.run_until(world.now + HOUR, |world| world.disk.ledger.last.is_some()), "{n}");
        let last = world.disk.ledger.last.clone().unwrap();
        assert_eq!((last.status, last.reason), (Status::Confirmed, None), "{n}");
    }
}

#[test]
fn packages_that_failed_are_refused_until_a_retry_whoever_wishes_them() {
    let mut world = first_run(Kind::SickApp);
    let told = |world: &World| status(&world.disk.ledger, &world.facts(), None);
    let first = told(&world);
    assert_eq!((first.status, first.blamed), (Some(Status::RolledBack), true), "{first:?}");
    let (boots, starts) = (world.boots, world.unit_starts);
    world.run(12 * HOUR);
    assert_eq!((world.boots, world.unit_starts), (boots, starts), "it is not tried again by itself");
    // Another rollout that brings the same.
    let other = Wish { id: "another".into(), ..wish(1) };
    world.wish = Some(other.clone());
    world.news();
    world.run(HOUR);
    let again = told(&world);
    assert_eq!((again.status, world.boots), (Some(Status::Failed), boots), "{again:?}");
    assert!(again.headline().starts_with("failed: these packages failed before: app web unhealthy"), "{again:?}");
    // An operator's retry of that one is heard.
    world.wish = Some(Wish { attempt: 2, ..other });
    world.news();
    assert!(world.run_until(world.now + HOUR, |world| world.boots > boots), "it is tried");
}

#[test]
fn what_an_upgrade_would_come_to_is_told_without_one() {
    let world = first_run(Kind::SickApp);
    let (ledger, facts) = (&world.disk.ledger, world.facts());
    let failed = ledger.last.clone().and_then(|last| last.plan).unwrap();
    let refused = foresee(ledger, &facts, &failed).refused.unwrap();
    assert!(refused.starts_with("these packages failed before: app web unhealthy"), "{refused}");

    let change = Change { name: "jq".into(), from: None, to: Some("1.7".into()), bytes: 3 << 20 };
    let other = Plan::new(vec![change], vec![]);
    let fine = Foreseen { refused: None, waits: None, fetch_need: 67 << 20, room: facts.room };
    assert_eq!(foresee(ledger, &facts, &other), fine);
    let with = |change: fn(&mut Room)| {
        let mut room = facts.room.unwrap();
        change(&mut room);
        foresee(ledger, &Facts { room: Some(room), ..facts.clone() }, &other)
    };
    let small = with(|room| room.fetch_free = 66 << 20);
    assert_eq!(small.refused.as_deref(), Some("no room: 66 MiB are free for packages, 67 are needed"));
    let full = with(|room| room.pool_free = 1 << 30);
    assert_eq!((full.refused, full.waits.unwrap()), (None, "1024 MiB are free in the pool, root has 4096".into()));
    let shut = Facts { window: Err(closed(None)), ..facts.clone() };
    assert_eq!(foresee(ledger, &shut, &other), fine, "a plan has no window");

    let nothing = foresee(ledger, &Facts { room: None, ..facts.clone() }, &Plan::new(vec![], vec![]));
    assert_eq!((nothing.refused, nothing.waits), (None, None));
}

#[test]
fn apt_is_not_asked_where_nothing_could_come_of_it() {
    let mut world = Story::of(Kind::Good).begin();
    let (ledger, facts) = (world.disk.ledger.clone(), world.facts());
    assert_eq!(unasked(&ledger, &What::Full, &facts), None);
    let bare = Facts { protection: Protection::None, ..facts.clone() };
    assert!(unasked(&ledger, &What::Full, &bare).unwrap().starts_with("the protection of this device is none"));
    let evil = What::Packages(vec![Package { name: "-o".into(), version: None }]);
    assert!(unasked(&ledger, &evil, &facts).unwrap().contains("no package"));
    world.wish = Some(wish(1));
    world.news();
    assert!(world.run_until(world.now + HOUR, |world| world.disk.ledger.upgrade.is_some()));
    assert!(unasked(&world.disk.ledger, &What::Full, &facts).unwrap().contains("under way"));
}

#[test]
fn a_device_with_less_protection_than_asked_for_is_refused() {
    let story = Story { protection: Protection::Bootcount, ..Story::of(Kind::Good) };
    let mut world = story.begin();
    world.wish = Some(Wish { least: Protection::Tryboot, ..wish(1) });
    world.news();
    world.run(10 * MINUTE);
    let told = status(&world.disk.ledger, &world.facts(), None).headline();
    assert_eq!(told, "failed: the protection of this device is bootcount, asked for was tryboot");
    assert_eq!(world.boots, 1);
}

/// A boot on trial says so until the next one, also when what was tried in it has long been confirmed.
#[test]
fn an_upgrade_in_the_boot_that_the_one_before_was_tried_in_is_tried_in_a_boot_of_its_own() {
    for protection in [Protection::Tryboot, Protection::Bootcount] {
        for (kind, end) in [(Kind::Good, Status::Confirmed), (Kind::SickApp, Status::RolledBack)] {
            let mut world = Story { protection, ..Story::of(Kind::Good) }.begin();
            let mut upgrade = |kind, id: &str| {
                (world.kind, world.base) = (kind, world.root.version);
                world.disk.ledger.last = None;
                world.wish = Some(Wish { id: id.into(), ..wish(1) });
                world.news();
                let end = world.now + 6 * HOUR;
                assert!(world.run_until(end, |world| world.is_at_rest() && world.disk.ledger.last.is_some()));
                assert_eq!(world.wrong, [""; 0], "{protection:?}, {kind:?}");
                (world.disk.ledger.last.as_ref().map(|last| last.status), world.is_new(), world.boots)
            };
            assert_eq!(upgrade(Kind::Good, "first"), (Some(Status::Confirmed), true, 2));
            let (status, is_new, boots) = upgrade(kind, "second");
            let sound = end == Status::Confirmed;
            assert_eq!((status, is_new), (Some(end), sound), "{protection:?}, {kind:?}");
            assert_eq!(boots, if sound { 3 } else { 4 }, "{protection:?}, {kind:?}: a trial, and the way back");
        }
    }
}

#[test]
fn the_agent_and_the_system_are_not_upgraded_at_once_and_apps_are_left_alone() {
    let mut world = Story::of(Kind::Good).begin();
    world.wish = Some(wish(1));
    world.news();
    let (mut held, mut excluded) = (false, false);
    for _ in 0..600 {
        world.run(100);
        let ledger = &world.disk.ledger;
        let Some(upgrade) = &ledger.upgrade else { continue };
        let touched = !matches!(upgrade.phase, Phase::Planning | Phase::Fetching | Phase::Removing | Phase::Resyncing);
        assert_eq!(ledger.holds_apps(), touched, "{:?}", upgrade.phase);
        held |= ledger.holds_apps();
        excluded |= ledger.excludes_own_upgrade();
    }
    assert!(held && excluded && !world.disk.ledger.excludes_own_upgrade());
}
