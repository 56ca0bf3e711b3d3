//! Any fleet, any policy, any operator.

use std::collections::BTreeMap;

use bramble_contracts::{api::RolloutState as S, id::DeviceId, quantity::Amount, v1};
use proptest::prelude::*;

use super::{
    super::{Ask, amount, violations},
    Kind, Run, policy,
};

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Fine),
        1 => Just(Kind::FailsOnce),
        1 => Just(Kind::Sick),
        1 => Just(Kind::Vanishes),
        1 => Just(Kind::Hangs),
        1 => Just(Kind::Flaps),
        1 => (1u64..60).prop_map(Kind::Late),
        1 => Just(Kind::TooOld),
        1 => Just(Kind::Notorious),
    ]
}

fn any_policy() -> impl Strategy<Value = v1::Rollout> {
    let size = prop_oneof![(1u32..4).prop_map(Amount::Count), (1u8..=100).prop_map(Amount::Percent)];
    (proptest::collection::vec(size.clone(), 0..3), size, 0u8..=100, any::<bool>()).prop_map(
        |(mut batches, max_unavailable, share, approve)| {
            batches.push(Amount::Percent(100));
            let success_threshold = Amount::Percent(share);
            v1::Rollout { batches, max_unavailable, success_threshold, approve, ..policy(&[]) }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever the fleet, the policy and the operator: what must hold holds after each step, nobody begins beyond what
    /// may be unavailable, and in the end it is over or says what it waits for.
    #[test]
    fn any_rollout_is_sound_and_comes_to_an_end(
        kinds in proptest::collection::vec(any_kind(), 1..12),
        policy in any_policy(),
        asks in proptest::collection::vec((1u64..40, 0usize..6), 0..6),
    ) {
        let most = amount(policy.max_unavailable, kinds.len());
        let mut run = Run::new(&kinds, policy);
        // One that is done lets the rest begin as it comes back; one begun again finds devices that go on by themselves.
        let mut is_free = false;
        for (seconds, ask) in asks {
            for _ in 0..seconds {
                run.second();
                let in_flight = run.stored.devices.values().filter(|m| m.is_in_flight()).count();
                is_free |= run.stored.state == S::Done;
                prop_assert!(is_free || in_flight <= most, "{in_flight} of {most}: {:#?}", run.stored);
            }
            let before = run.stored.clone();
            is_free |= Ask::ALL[ask] == Ask::Retry;
            if run.ask(Ask::ALL[ask]).is_err() {
                prop_assert_eq!(&before, &run.stored);
            }
            prop_assert_eq!(violations(&run.stored), vec![]);
        }
        run.seconds(400);
        let ended = run.stored.clone();
        let open = ended.devices.values().filter(|m| m.is_in_flight()).count();
        prop_assert_eq!(open, 0, "nobody is under way for ever: {:#?}", ended);
        prop_assert!(ended.state != S::Running || !ended.why.is_empty(), "it says what it waits for: {:#?}", ended);
        run.seconds(50);
        prop_assert_eq!(run.stored.state, ended.state, "and stays so");
    }

    /// What a device was told once is never taken back, and its attempts only grow.
    #[test]
    fn attempts_only_grow(kinds in proptest::collection::vec(any_kind(), 1..8), asks in proptest::collection::vec(0usize..6, 1..8)) {
        let mut run = Run::new(&kinds, policy(&["1", "100%"]));
        let mut attempts: BTreeMap<DeviceId, u32> = BTreeMap::new();
        for ask in asks {
            let _ = run.ask(Ask::ALL[ask]);
            run.seconds(7);
            for (id, m) in &run.stored.devices {
                let before = attempts.insert(id.clone(), m.attempt).unwrap_or(0);
                prop_assert!(m.attempt >= before);
            }
        }
    }
}
