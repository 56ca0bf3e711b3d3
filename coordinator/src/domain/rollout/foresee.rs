//! What would come of an upgrade of the operating system, before one is begun.
//!
//! Decides: whom it is worth asking, and what an answer comes to. Refuses by the same rule as a rollout.

use bramble_contracts::{
    api::{OsPlanState, OsPlannedDevice},
    v3::{OsPlan, Protection},
};

use super::{
    facts::{Reach, reach},
    os,
};
use crate::domain::{record::DeviceRecord, view::Lens};

/// What is known of a device without asking; none where it is to be asked.
pub fn unasked(lens: &Lens<'_>, least: Protection, device: &DeviceRecord) -> Option<OsPlannedDevice> {
    let report = lens.fleet.device(&device.id).report();
    let told = |state, reason| OsPlannedDevice {
        protection: report.map(|report| report.os.protection),
        ..blank(device, state, reason)
    };
    match (os::refused(least, device, report), reach(lens, device)) {
        (Some(why), _) => Some(told(OsPlanState::Refused, why)),
        (None, Reach::Away(why)) => Some(told(OsPlanState::Away, why)),
        (None, Reach::Unknown) => {
            Some(told(OsPlanState::Away, "the coordinator has just started: ask again in a moment".to_owned()))
        }
        (None, Reach::Online) => None,
    }
}

/// What came of asking it.
pub fn answered(least: Protection, device: &DeviceRecord, plan: OsPlan) -> OsPlannedDevice {
    let (state, reason) = match os::too_weak(least, plan.protection, &plan.lacks) {
        Some(why) => (OsPlanState::Refused, why),
        None if !plan.refused.is_empty() => (OsPlanState::Refused, plan.refused.clone()),
        None if plan.changes.is_empty() && plan.changes_more == 0 => (OsPlanState::Nothing, String::new()),
        None => (OsPlanState::Upgrade, plan.waits.clone()),
    };
    OsPlannedDevice { protection: Some(plan.protection), plan: Some(plan), ..blank(device, state, reason) }
}

/// It was asked, and there is no plan.
pub fn unanswered(device: &DeviceRecord, state: OsPlanState, reason: String) -> OsPlannedDevice {
    blank(device, state, reason)
}

fn blank(device: &DeviceRecord, state: OsPlanState, reason: String) -> OsPlannedDevice {
    let (id, name) = (device.id.clone(), device.name.clone());
    OsPlannedDevice { device: id, name, state, reason, protection: None, plan: None }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v3::PackageChange;

    use super::*;
    use crate::domain::testing;

    #[test]
    fn an_answer_comes_to_one_of_four() {
        let device = testing::device(1, &[]);
        let change = PackageChange { name: "curl".parse().unwrap(), from: None, to: None };
        let plan = || OsPlan { protection: Protection::Tryboot, changes: vec![change.clone()], ..OsPlan::default() };
        let of = |plan| {
            let planned = answered(Protection::Tryboot, &device, plan);
            (planned.state, planned.reason)
        };
        assert_eq!(of(plan()), (OsPlanState::Upgrade, String::new()));
        assert_eq!(of(OsPlan { waits: "no clock".into(), ..plan() }), (OsPlanState::Upgrade, "no clock".into()));
        assert_eq!(of(OsPlan { changes: vec![], ..plan() }), (OsPlanState::Nothing, String::new()));
        assert_eq!(of(OsPlan { changes: vec![], changes_more: 1, ..plan() }).0, OsPlanState::Upgrade);
        assert_eq!(of(OsPlan { refused: "no room".into(), ..plan() }), (OsPlanState::Refused, "no room".into()));
        let (state, why) = of(OsPlan { protection: Protection::Bootcount, lacks: "no tryboot".into(), ..plan() });
        let weak = "it is protected by bootcount, and tryboot is asked: no tryboot";
        assert_eq!((state, why.as_str()), (OsPlanState::Refused, weak));
    }
}
