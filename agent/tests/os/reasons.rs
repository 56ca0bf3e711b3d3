//! How upgrades end that nobody disturbs, in the words that people read; and what stands in the way of one.

use bramble_agent::core::os::{OwnUpgrade, Phase, Protection, Wish, hindrance, status};
use bramble_contracts::v1::Status;

use super::crashes::Story;
use super::kinds::{self, Kind};
use super::world::{HOUR, MINUTE, World, wish};

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
        (|world| world.window = Err("the window is over".into()), "the window is over"),
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
