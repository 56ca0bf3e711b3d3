//! What to do with devices that know more than the store: show the difference, adopt theirs, or overwrite it.
//!
//! Decides: the differences, and which deployments adopting rebuilds. Only the devices' own signed documents count;
//! reports are never a source of deployments.

use std::collections::BTreeMap;

use bramble_contracts::{
    api::{Change, HeldDevice, PlannedDeployment},
    id::{DeviceId, Name, Tenant},
    problem::FieldError,
    v1::DesiredApp,
};

use super::{
    Now, change, compose,
    record::DeploymentRecord,
    view::{self, Lens},
};

/// Everything about a resume, before anything is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePlan {
    /// The devices, with what overwriting would do to each.
    pub devices: Vec<HeldDevice>,
    /// What adopting would do to deployments.
    pub deployments: Vec<PlannedDeployment>,
    /// The records adopting would write.
    pub adopt: Vec<DeploymentRecord>,
}

/// Devices on hold, or those of them that are named.
pub fn held(lens: &Lens<'_>, tenant: &Tenant, named: &[Name]) -> Vec<DeviceId> {
    let ids = lens.fleet.device_ids().into_iter().filter(|id| lens.hold(id).is_some());
    ids.filter(|id| {
        let seen = lens.fleet.device(id);
        let record = seen.record().cloned().unwrap_or_else(|| view::unrecorded(id, &seen));
        record.tenant == *tenant
            && (named.is_empty() || named.contains(&record.name) || named.iter().any(|n| n.as_str() == id.as_str()))
    })
    .collect()
}

/// The differences between what the devices hold and what the store says.
pub fn plan(lens: &Lens<'_>, devices: &[DeviceId], now: Now) -> ResumePlan {
    let mut newest: BTreeMap<(Tenant, Name), (DesiredApp, Name)> = BTreeMap::new();
    let mut errors: BTreeMap<(Tenant, Name), Vec<FieldError>> = BTreeMap::new();
    let mut views = vec![];
    for id in devices {
        let seen = lens.fleet.device(id);
        let record = seen.record().cloned().unwrap_or_else(|| view::unrecorded(id, &seen));
        let own: &[DesiredApp] = seen.desired().map_or(&[], |d| &d.apps);
        views.push(HeldDevice {
            id: id.clone(),
            name: record.name.clone(),
            reason: lens.hold(id).unwrap_or_default(),
            device_generation: seen.reported_generation(),
            overwrite: difference(own, &lens.composition(&record).apps),
        });
        for app in own {
            merge(&mut newest, &mut errors, app, &record.name);
        }
    }
    let all: Vec<DeploymentRecord> = newest
        .iter()
        .map(|(key, (app, _))| adopted(lens.fleet.deployment(&key.0, &key.1).and_then(|slot| slot.ok()), app, now))
        .collect();
    let mut adopt = vec![];
    let mut deployments = vec![];
    for (key, next) in newest.keys().zip(&all) {
        let existing = lens.fleet.deployment(&key.0, &key.1).and_then(|slot| slot.ok());
        let what = match existing {
            None => Change::Created,
            Some(old) if old == next => Change::Unchanged,
            Some(old) if old.deployment.spec_hash() == next.deployment.spec_hash() => Change::Updated,
            Some(_) => Change::Replaced,
        };
        let found = errors.remove(key).unwrap_or_default();
        let others = change::others(lens, &next.deployment, &all);
        deployments.push(change::plan_view(lens, existing, next, what, found, &others));
        if what != Change::Unchanged {
            adopt.push(next.clone());
        }
    }
    ResumePlan { devices: views, deployments, adopt }
}

fn merge(
    newest: &mut BTreeMap<(Tenant, Name), (DesiredApp, Name)>,
    errors: &mut BTreeMap<(Tenant, Name), Vec<FieldError>>,
    app: &DesiredApp,
    device: &Name,
) {
    let (tenant, name) = compose::app_key(app);
    let key = (tenant.clone(), name.clone());
    match newest.get(&key) {
        Some((other, by)) if other.revision == app.revision && other != app => {
            let message = format!(
                "{by} and {device} hold different deployments {name} of revision {}: adopt one of the two devices, overwrite the other",
                app.revision
            );
            errors.entry(key).or_default().push(FieldError { path: String::new(), message });
        }
        Some((other, _)) if other.revision >= app.revision => {}
        Some(_) | None => drop(newest.insert(key, (app.clone(), device.clone()))),
    }
}

/// The record that makes the store say what the device holds. Revision and uid stay, so nothing restarts.
fn adopted(existing: Option<&DeploymentRecord>, app: &DesiredApp, now: Now) -> DeploymentRecord {
    let same = existing.filter(|old| {
        old.uid == app.uid
            && (old.revision > app.revision || (old.revision == app.revision && old.deployment == app.deployment))
    });
    match same {
        Some(old) => old.clone(),
        None => DeploymentRecord {
            uid: app.uid.clone(),
            revision: app.revision,
            deployment: app.deployment.clone(),
            created_ms: existing.map_or(now.wall_ms, |old| old.created_ms),
            updated_ms: now.wall_ms,
        },
    }
}

/// What going from `have` to `want` does to each app, by deployment; unchanged ones are left out.
pub fn difference(have: &[DesiredApp], want: &[DesiredApp]) -> BTreeMap<String, Change> {
    let key = |app: &DesiredApp| compose::app_key(app).1.to_string();
    let mut found: BTreeMap<String, Change> = have.iter().map(|app| (key(app), Change::Removed)).collect();
    for app in want {
        let old = have.iter().find(|h| compose::app_key(h) == compose::app_key(app));
        let change = match old {
            None => Change::Created,
            Some(old) if old == app => Change::Unchanged,
            Some(old) if old.uid == app.uid && old.deployment.spec_hash() == app.deployment.spec_hash() => {
                Change::Updated
            }
            Some(_) => Change::Replaced,
        };
        found.insert(key(app), change);
    }
    found.retain(|_, change| *change != Change::Unchanged);
    found
}

#[cfg(test)]
mod tests {
    use bramble_contracts::Revision;

    use super::*;
    use crate::domain::{
        compose::compose,
        rollout::gate::Gate,
        testing::{device, record},
    };

    #[test]
    fn the_difference_names_what_would_happen_to_each_app() {
        let device = device(1, &[("a", "0")]);
        let (web, cam) = (record("web", ("a", "0"), 1, 1), record("cam", ("a", "0"), 2, 2));
        let mut newer = web.clone();
        newer.revision = Revision(2);
        let labelled = newer.clone();
        newer.deployment.spec.containers[0].args = vec!["x".into()];
        let apps = |records: &[DeploymentRecord]| compose(&device, records, &Gate::default()).apps;
        let have = apps(&[web.clone(), cam.clone()]);
        let text = |want: &[DesiredApp]| format!("{:?}", difference(&have, want));
        assert_eq!(text(&have), "{}");
        assert_eq!(text(&apps(std::slice::from_ref(&cam))), r#"{"web": Removed}"#);
        assert_eq!(text(&apps(&[newer, cam.clone()])), r#"{"web": Replaced}"#);
        assert_eq!(text(&apps(&[labelled, cam])), r#"{"web": Updated}"#);
        assert_eq!(format!("{:?}", difference(&[], &have)), r#"{"cam": Created, "web": Created}"#);
    }

    #[test]
    fn adopting_keeps_uid_and_revision_so_that_nothing_restarts() {
        let device = device(1, &[("a", "0")]);
        let held = record("web", ("a", "0"), 1, 1);
        let app = compose(&device, [&held], &Gate::default()).apps.remove(0);
        let now = Now { wall_ms: 99, mono_ms: 0 };
        let made = adopted(None, &app, now);
        assert_eq!((&made.uid, made.revision, &made.deployment), (&held.uid, held.revision, &held.deployment));
        let mut newer = held.clone();
        newer.revision = Revision(5);
        assert_eq!(adopted(Some(&newer), &app, now), newer, "what the store knows better stays");
        let mut remade = held;
        remade.uid = bramble_contracts::Uid::from_entropy([77; 13]);
        assert_eq!(adopted(Some(&remade), &app, now).uid, app.uid, "made anew in the store: the device is right");
    }
}
