//! A clock under every kind of witness.

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::*;

const YEAR: i64 = 365 * 86_400_000;
const BUILT: u64 = 1_780_000_000_000;
/// What time it really is when the device is up for [`UP`].
const TRUE: u64 = BUILT + 86_400_000 * 30;
const UP: u64 = 100_000;

fn floor() -> Floor {
    Floor { built_ms: BUILT, trusted_ms: 0 }
}

/// A witness that is `off` milliseconds from the truth.
fn says(off: i64) -> Sample {
    Sample { unix_ms: u64::try_from(signed(TRUE) + off).unwrap(), up_ms: UP, round_trip_ms: 40 }
}

fn told(ntp: &[i64], coordinator: Option<i64>) -> Told {
    Told { ntp: ntp.iter().map(|off| says(*off)).collect(), asked: ntp.len(), signed: coordinator.map(says) }
}

/// The device's clock, `off` milliseconds from the truth, `later` after the witnesses were asked.
fn wall(off: i64, later: u64) -> Now {
    Now { wall_ms: u64::try_from(signed(TRUE + later) + off).unwrap_or(0), up_ms: UP + later }
}

fn verdict(told: &Told, now: Now) -> (ClockVerdict, Option<i64>) {
    let report = judge(floor(), told, now).report;
    assert_eq!(report.detail.is_empty(), report.verdict == Fit, "{report:?}");
    (report.verdict, report.skew_ms)
}

use ClockVerdict::{Disputed, Fit, Skewed, Unknown};

#[test]
fn either_source_alone_suffices_and_thirty_seconds_are_the_bound() {
    for one in [told(&[0], None), told(&[], Some(0)), told(&[1, -1, 0], Some(0))] {
        for (off, want) in [(0, Fit), (30_000, Fit), (-29_999, Fit), (30_002, Skewed), (-30_002, Skewed)] {
            assert_eq!(verdict(&one, wall(off, 0)).0, want, "{one:?} {off}");
        }
        assert_eq!(verdict(&one, wall(10 * YEAR, 0)), (Skewed, Some(10 * YEAR)));
    }
    let far = judge(floor(), &told(&[], Some(0)), wall(10 * YEAR, 0)).report;
    assert!(far.detail.starts_with("clock skew 315360000s; JWT validation will fail"), "{}", far.detail);
    assert!(far.detail.contains("enable systemd-timesyncd or chrony"));
    assert_eq!(far.sources, "the coordinator");
}

#[test]
fn sources_that_contradict_each_other_are_not_believed_either_of_them() {
    let (verdict_, skew) = verdict(&told(&[0, 0, 0], Some(31_000)), wall(0, 0));
    assert_eq!((verdict_, skew), (Disputed, None));
    assert_eq!(
        verdict(&told(&[0, 0, 0], Some(29_000)), wall(0, 0)),
        (Fit, Some(-29_000)),
        "both have to find it right"
    );
    assert_eq!(verdict(&told(&[0, 0, 0], Some(29_000)), wall(-2_000, 0)), (Skewed, Some(-31_000)));
    let said = judge(floor(), &told(&[0, 0], Some(3_600_000)), wall(0, 0)).report;
    assert!(said.detail.contains("3600s from what NTP says"), "{}", said.detail);
    assert_eq!(said.sources, "the coordinator, 2 of 2 NTP servers");
}

#[test]
fn outliers_are_outvoted_and_no_majority_is_no_time() {
    assert_eq!(verdict(&told(&[0, 10, -20, YEAR], None), wall(0, 0)).0, Fit);
    assert_eq!(verdict(&told(&[0, YEAR], None), wall(0, 0)), (Disputed, None));
    assert_eq!(verdict(&told(&[0, YEAR], Some(0)), wall(0, 0)).0, Fit, "the coordinator decides then");
    let slow = Sample { round_trip_ms: NTP_ROUND_TRIP_MAX_MS + 1, ..says(YEAR) };
    let mut mixed = told(&[0], None);
    mixed.ntp.push(slow);
    assert_eq!(verdict(&mixed, wall(0, 0)).0, Fit, "an answer that took too long is none");
}

#[test]
fn alone_only_a_clock_before_the_floor_is_known_to_be_wrong() {
    assert_eq!(verdict(&Told::default(), Now { wall_ms: 10_000, up_ms: UP }).0, Skewed);
    assert_eq!(verdict(&Told::default(), wall(0, 0)), (Unknown, None));
    assert_eq!(verdict(&Told::default(), wall(10 * YEAR, 0)), (Unknown, None), "nobody can know");
}

#[test]
fn what_was_told_holds_for_a_week_and_sees_a_set_clock_without_asking_anybody() {
    let (week, one) = (7 * 86_400_000, told(&[], Some(0)));
    assert_eq!(verdict(&one, wall(0, week)).0, Fit);
    assert_eq!(verdict(&one, wall(3_600_000, 60_000)), (Skewed, Some(3_600_000)));
    assert_eq!(verdict(&one, wall(0, week + 1)).0, Unknown);
}

#[test]
fn only_a_fit_time_raises_the_floor_and_ntp_alone_never_goes_below_it() {
    let raised = judge(floor(), &told(&[0], None), wall(5_000, 0));
    assert_eq!(raised.floor, Floor { built_ms: BUILT, trusted_ms: TRUE }, "the time that was told, not the clock's");
    for bad in [told(&[], None), told(&[YEAR], None), told(&[0], Some(YEAR))] {
        assert_eq!(judge(floor(), &bad, wall(0, 0)).floor, floor(), "{bad:?}");
    }
    let high = Floor { built_ms: BUILT, trusted_ms: TRUE + u64::try_from(YEAR).unwrap() };
    let replayed = judge(high, &told(&[0, 0, 0], None), wall(0, 0));
    assert_eq!((replayed.report.verdict, replayed.floor), (Disputed, high));
    let restored = judge(high, &told(&[], Some(0)), wall(-3_600_000, 0));
    assert_eq!((restored.report.verdict, restored.floor), (Disputed, high), "the clock does not agree");
}

#[test]
fn a_floor_in_the_future_is_overruled_by_a_signature_that_the_clock_agrees_with() {
    for high in [
        Floor { built_ms: BUILT, trusted_ms: TRUE + u64::try_from(10 * YEAR).unwrap() },
        Floor { built_ms: TRUE + u64::try_from(YEAR).unwrap(), trusted_ms: 0 },
    ] {
        let judged = judge(high, &told(&[], Some(0)), wall(200, 0));
        assert_eq!((judged.report.verdict, judged.floor.ms()), (Fit, TRUE));
        assert!(worth_storing(judged.floor, Some(StoredFloor { trusted_ms: high.trusted_ms })) || high.trusted_ms == 0);
    }
}

#[test]
fn what_needs_a_right_clock_is_refused_with_the_reason() {
    let ask = |told: &Told, off| require(&judge(floor(), told, wall(off, 0)).report);
    assert!(ask(&told(&[], Some(0)), 0).is_ok());
    let why = |told: &Told, off| ask(told, off).unwrap_err().to_string();
    assert!(why(&told(&[], Some(0)), -YEAR).starts_with("clock skew -31536000s;"));
    assert!(why(&Told::default(), 0).contains("nobody has told"));
    assert!(require(&ClockReport::default()).is_err(), "before the first look");
}

#[test]
fn a_set_clock_is_told_from_one_that_goes() {
    let before = wall(0, 0);
    assert_eq!(jumped(before, wall(4_900, 3_600_000)), None);
    assert_eq!(jumped(before, wall(-6_000, 10)), Some(-6_000));
    assert_eq!(jumped(Now { wall_ms: 10, up_ms: 0 }, wall(0, 0)), Some(signed(TRUE) - 10 - signed(UP)));
}

#[test]
fn it_looks_every_six_hours_and_sooner_while_it_is_not_fit() {
    assert_eq!(pause(Fit, 0), Duration::from_secs(21_600));
    let secs = |looks| pause(Skewed, looks).as_secs();
    assert_eq!([0, 1, 2, 3, 20].map(secs), [2, 2, 4, 8, 600]);
}

#[test]
fn the_floor_is_written_by_the_hour() {
    let at = |ms| Floor { built_ms: 0, trusted_ms: ms };
    let stored = |ms| Some(StoredFloor { trusted_ms: ms });
    assert!(worth_storing(at(TRUE), None));
    assert!(!worth_storing(at(TRUE + 3_599_999), stored(TRUE)));
    assert!(worth_storing(at(TRUE + 3_600_000), stored(TRUE)));
    assert!(worth_storing(at(TRUE - 1), stored(TRUE)), "an overruled one at once");
    assert!(!worth_storing(at(0), None), "nothing is known");
}

proptest! {
    /// Whoever says what: never a panic, the floor moves only for a fit clock, and down only for a signature.
    #[test]
    fn anything_can_be_said(
        ntp in prop::collection::vec((any::<u64>(), any::<u64>(), 0u64..5_000), 0..6),
        coordinator in prop::option::of((any::<u64>(), any::<u64>())),
        clock in (any::<u64>(), any::<u64>()),
        known in (any::<u64>(), any::<u64>()),
    ) {
        let sample = |(unix_ms, up_ms, round_trip_ms)| Sample { unix_ms, up_ms, round_trip_ms };
        let told = Told {
            asked: ntp.len(),
            ntp: ntp.into_iter().map(sample).collect(),
            signed: coordinator.map(|(unix, up)| sample((unix, up, 10))),
        };
        let floor = Floor { built_ms: known.0, trusted_ms: known.1 };
        let judged = judge(floor, &told, Now { wall_ms: clock.0, up_ms: clock.1 });
        if judged.report.verdict != Fit {
            prop_assert_eq!(judged.floor, floor);
        }
        if judged.floor.ms() < floor.ms() {
            prop_assert!(told.signed.is_some());
        }
        if judged.report.verdict == Fit {
            prop_assert!(judged.report.skew_ms.is_some_and(|skew| skew.abs() <= SKEW_MAX_MS));
        }
    }

    /// Fewer than half of the servers lie, by any amount: the honest ones are believed.
    #[test]
    fn a_minority_of_liars_changes_nothing(
        honest in prop::collection::vec(-2_000i64..2_000, 3..6),
        lies in prop::collection::vec(-10 * YEAR..10 * YEAR, 0..3),
        off in -25_000i64..25_000,
    ) {
        let all: Vec<i64> = honest.into_iter().chain(lies).collect();
        prop_assert_eq!(verdict(&told(&all, None), wall(off, 0)).0, Fit);
        prop_assert_eq!(verdict(&told(&all, None), wall(off + 10 * YEAR, 0)).0, Skewed);
    }
}
