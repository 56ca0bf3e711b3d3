//! What applying a deployment would do: the next record, and the plan of it on every device.

use std::collections::BTreeMap;

use bramble_contracts::{
    Revision,
    api::{Change, Connection, DeviceState, PlannedDeployment, PlannedDevice},
    id::Uid,
    problem::FieldError,
    v1::Deployment,
};

use super::{
    Now, compose,
    record::{DeploymentRecord, DeviceRecord},
    repeats,
    view::Lens,
};

/// The record after applying `deployment`, and what that is. The same deployment again changes nothing.
pub fn applied(
    existing: Option<&DeploymentRecord>,
    deployment: Deployment,
    fresh_uid: Uid,
    now: Now,
) -> (Change, DeploymentRecord) {
    let Some(old) = existing else {
        let (created_ms, updated_ms) = (now.wall_ms, now.wall_ms);
        let record = DeploymentRecord { uid: fresh_uid, revision: Revision(1), deployment, created_ms, updated_ms };
        return (Change::Created, record);
    };
    if old.deployment == deployment {
        return (Change::Unchanged, old.clone());
    }
    let same_containers = old.deployment.spec_hash() == deployment.spec_hash();
    let change = if same_containers { Change::Updated } else { Change::Replaced };
    let (uid, revision, created_ms) = (old.uid.clone(), old.revision.next(), old.created_ms);
    (change, DeploymentRecord { uid, revision, deployment, created_ms, updated_ms: now.wall_ms })
}

/// Everything that makes a deployment unacceptable here; the empty list accepts it.
pub fn problems(deployment: &Deployment, devices: &[&DeviceRecord], others: &[&DeploymentRecord]) -> Vec<FieldError> {
    let mut found = deployment.problems();
    let living = devices.iter().copied().filter(|d| d.state != DeviceState::Decommissioned);
    found.extend(compose::clashes(deployment, living, others));
    found
}

/// What is allowed and probably not meant.
pub fn warnings(record: &DeploymentRecord, lens: &Lens<'_>) -> Vec<FieldError> {
    let mut found = vec![];
    let spec = &record.deployment.spec;
    if lens.selected(record).is_empty() {
        let message = "selects no device now: label a device, or change the selector".to_owned();
        found.push(FieldError { path: "spec.selector".into(), message });
    }
    found.extend(repeats::warnings(spec));
    found
}

/// The plan of going from `existing` to `next` (absent: deleted).
pub fn planned(
    lens: &Lens<'_>,
    existing: Option<&DeploymentRecord>,
    next: Option<&DeploymentRecord>,
    change: Change,
) -> Vec<PlannedDevice> {
    let mut devices: BTreeMap<&str, (&DeviceRecord, bool, bool)> = BTreeMap::new();
    for device in existing.into_iter().flat_map(|d| lens.selected(d)) {
        devices.entry(device.name.as_str()).or_insert((device, false, false)).1 = true;
    }
    for device in next.into_iter().flat_map(|d| lens.selected(d)) {
        devices.entry(device.name.as_str()).or_insert((device, false, false)).2 = true;
    }
    let on_device = |had, has| match (had, has) {
        (false, true) => Change::Created,
        (true, false) => Change::Removed,
        (true, true) => change,
        (false, false) => Change::Unchanged,
    };
    devices
        .into_values()
        .map(|(device, had, has)| PlannedDevice {
            name: device.name.clone(),
            change: on_device(had, has),
            waits: waits(lens, device),
        })
        .collect()
}

fn waits(lens: &Lens<'_>, device: &DeviceRecord) -> String {
    if let Some(why) = lens.barrier(device) {
        return why;
    }
    match lens.connection(&device.id) {
        Connection::Online => String::new(),
        Connection::Offline => "the device is offline".to_owned(),
        Connection::Recovering => "the coordinator is recovering".to_owned(),
        Connection::Never => "the device has never connected".to_owned(),
    }
}

/// A planned deployment out of its parts.
pub fn plan_view(
    lens: &Lens<'_>,
    existing: Option<&DeploymentRecord>,
    next: &DeploymentRecord,
    change: Change,
    errors: Vec<FieldError>,
) -> PlannedDeployment {
    PlannedDeployment {
        tenant: next.tenant().clone(),
        name: next.name().clone(),
        change,
        devices: planned(lens, existing, Some(next), change),
        errors,
        warnings: warnings(next, lens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::testing::{deployment, record};

    #[test]
    fn only_changed_containers_are_replaced_and_the_same_again_changes_nothing() {
        let old = record("web", ("a", "0"), 80, 1);
        let now = Now { wall_ms: 7, mono_ms: 0 };
        let fresh = || Uid::from_entropy([50; 13]);
        let (change, next) = applied(None, old.deployment.clone(), fresh(), now);
        assert_eq!((change, next.revision, next.created_ms), (Change::Created, Revision(1), 7));
        let (change, next) = applied(Some(&old), old.deployment.clone(), fresh(), now);
        assert_eq!((change, &next), (Change::Unchanged, &old));
        let (change, next) = applied(Some(&old), deployment("web", ("a", "1"), 80), fresh(), now);
        assert_eq!((change, next.revision, &next.uid, next.created_ms), (Change::Updated, Revision(2), &old.uid, 1));
        let (change, _) = applied(Some(&old), deployment("web", ("a", "0"), 81), fresh(), now);
        assert_eq!(change, Change::Replaced);
    }
}
