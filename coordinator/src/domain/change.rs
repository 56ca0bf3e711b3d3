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
    Now, compose, depend,
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
    let living = || devices.iter().copied().filter(|d| d.state != DeviceState::Decommissioned);
    found.extend(compose::clashes(deployment, living(), others));
    found.extend(depend::problems(deployment, living(), others));
    found
}

/// All deployments but this one, as they will be when `more` has been applied.
pub fn others<'a>(lens: &Lens<'a>, of: &Deployment, more: &'a [DeploymentRecord]) -> Vec<&'a DeploymentRecord> {
    let replaced = |d: &&DeploymentRecord| !more.iter().any(|m| m.key() == d.key());
    let all = lens.fleet.deployment_records().filter(replaced).chain(more);
    all.filter(|d| (d.tenant(), d.name()) != (&of.metadata.tenant, &of.metadata.name)).collect()
}

/// What is allowed and probably not meant.
pub fn warnings(record: &DeploymentRecord, lens: &Lens<'_>, others: &[&DeploymentRecord]) -> Vec<FieldError> {
    let mut found = vec![];
    let spec = &record.deployment.spec;
    let selected = lens.selected(record);
    if selected.is_empty() {
        let message = "selects no device now: label a device, or change the selector".to_owned();
        found.push(FieldError { path: "spec.selector".into(), message });
    }
    found.extend(depend::warnings(record, &selected, others));
    found.extend(repeats::warnings(spec));
    found
}

/// The plan of going from `existing` to `next` (absent: deleted).
pub fn planned(
    lens: &Lens<'_>,
    existing: Option<&DeploymentRecord>,
    next: Option<&DeploymentRecord>,
    change: Change,
    others: &[&DeploymentRecord],
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
        .map(|(device, had, has)| {
            let change = on_device(had, has);
            let mut waits: Vec<String> = absent(lens, device).into_iter().collect();
            match change {
                Change::Created | Change::Replaced | Change::Updated => {
                    waits.extend(next.into_iter().flat_map(|next| depend::waits(next, device, others)));
                }
                Change::Removed | Change::Unchanged => {}
            }
            PlannedDevice { name: device.name.clone(), change, waits: waits.join("; ") }
        })
        .collect()
}

/// Why nothing reaches the device now.
fn absent(lens: &Lens<'_>, device: &DeviceRecord) -> Option<String> {
    lens.barrier(device).or_else(|| match lens.connection(&device.id) {
        Connection::Online => None,
        Connection::Offline => Some("the device is offline".to_owned()),
        Connection::Recovering => Some("the coordinator is recovering".to_owned()),
        Connection::Never => Some("the device has never connected".to_owned()),
    })
}

/// A planned deployment out of its parts.
pub fn plan_view(
    lens: &Lens<'_>,
    existing: Option<&DeploymentRecord>,
    next: &DeploymentRecord,
    change: Change,
    errors: Vec<FieldError>,
    others: &[&DeploymentRecord],
) -> PlannedDeployment {
    PlannedDeployment {
        tenant: next.tenant().clone(),
        name: next.name().clone(),
        change,
        devices: planned(lens, existing, Some(next), change, others),
        errors,
        warnings: warnings(next, lens, others),
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
