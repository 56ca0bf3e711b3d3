//! Dependencies between deployments: what could never be met, what probably is not meant, and what a device waits for.
//!
//! Decides that deployments which wait for each other are not placed on one device. A dependency that is not there (yet)
//! is legal: the device waits and says so. Deliberately does not: order anything; the device does.

use bramble_contracts::{
    id::{Name, Tenant},
    problem::FieldError,
    v1::{Dependency, DependencyCondition, Deployment, Restart, circle, circle_words},
};

use super::{
    compose::selects,
    record::{DeploymentRecord, DeviceRecord},
};

/// What it would close with these older ones, on a device that they are all for.
pub fn blocked(placed: &[&DeploymentRecord], deployment: &Deployment) -> Option<String> {
    let way = closed(deployment, placed)?;
    Some(format!(
        "it and older deployments wait for each other: {}; take one of the dependencies out",
        circle_words(&way)
    ))
}

/// The circle that a deployment closes with others of its tenant, wherever they are.
fn closed(deployment: &Deployment, others: &[&DeploymentRecord]) -> Option<Vec<Name>> {
    if deployment.spec.depends_on.is_empty() {
        return None;
    }
    let metadata = &deployment.metadata;
    let next = |name: &Name| {
        let found = match *name == metadata.name {
            true => Some(deployment),
            false => find(others, &metadata.tenant, name).map(|d| &d.deployment),
        };
        found.map(|d| d.spec.depends_on.iter().map(|d| d.name.clone()).collect()).unwrap_or_default()
    };
    circle(&metadata.name, next)
}

fn find<'a>(others: &[&'a DeploymentRecord], tenant: &Tenant, name: &Name) -> Option<&'a DeploymentRecord> {
    others.iter().find(|d| d.tenant() == tenant && d.name() == name).copied()
}

/// What makes the dependencies of a deployment unacceptable: a circle on a device, or a condition that never comes true.
pub fn problems<'a>(
    deployment: &Deployment,
    devices: impl IntoIterator<Item = &'a DeviceRecord>,
    others: &[&DeploymentRecord],
) -> Vec<FieldError> {
    let tenant = &deployment.metadata.tenant;
    let mut found: Vec<FieldError> = vec![];
    for (j, Dependency { name, condition }) in deployment.spec.depends_on.iter().enumerate() {
        let other = find(others, tenant, name).filter(|_| *condition == DependencyCondition::Completed);
        if let Some(container) = other.and_then(|d| always(&d.deployment)) {
            let message = format!(
                "deployment {name} never completes, because its container {container} restarts always: give that restart onFailure or never, or wait for started"
            );
            found.push(FieldError { path: format!("spec.dependsOn[{j}].condition"), message });
        }
    }
    // Most close no circle at all: then nobody has to look at every device.
    if closed(deployment, others).is_none() {
        return found;
    }
    for device in devices.into_iter().filter(|d| selects(tenant, &deployment.spec.selector, d)) {
        let there: Vec<&DeploymentRecord> =
            others.iter().filter(|o| selects(o.tenant(), &o.deployment.spec.selector, device)).copied().collect();
        if let Some(way) = closed(deployment, &there) {
            let first = deployment.spec.depends_on.iter().position(|d| d.name == way[1]).unwrap_or_default();
            let message = format!(
                "these wait for each other on device {}: {}; take one of the dependencies out",
                device.name,
                circle_words(&way)
            );
            found.push(FieldError { path: format!("spec.dependsOn[{first}].name"), message });
            break;
        }
    }
    found
}

/// A container that is started again whenever it ends.
fn always(deployment: &Deployment) -> Option<&Name> {
    deployment.spec.containers.iter().find(|c| c.restart == Restart::Always).map(|c| &c.name)
}

/// What is allowed and probably not meant, of a deployment that is for these devices.
pub fn warnings(record: &DeploymentRecord, devices: &[&DeviceRecord], others: &[&DeploymentRecord]) -> Vec<FieldError> {
    let mut found = vec![];
    for (j, Dependency { name, condition }) in record.deployment.spec.depends_on.iter().enumerate() {
        let at = format!("spec.dependsOn[{j}]");
        let Some(other) = find(others, record.tenant(), name) else {
            let message = format!("there is no deployment {name} yet: this one waits until it is applied");
            found.push(FieldError { path: format!("{at}.name"), message });
            continue;
        };
        let without = devices.iter().filter(|d| !selects(other.tenant(), &other.deployment.spec.selector, d));
        let without: Vec<&str> = without.map(|d| d.name.as_str()).collect();
        if let Some((first, more)) = without.split_first() {
            let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            let message = format!("deployment {name} is not for {first}{more}: there this one waits");
            found.push(FieldError { path: format!("{at}.name"), message });
        }
        let unprobed = other.deployment.spec.containers.iter().all(|c| c.probe.is_none());
        if *condition == DependencyCondition::Healthy && unprobed {
            let message = format!(
                "deployment {name} has no probe: it counts as healthy as soon as its containers have stayed up for two seconds"
            );
            found.push(FieldError { path: format!("{at}.condition"), message });
        }
    }
    if let Some(container) = always(&record.deployment) {
        let waits =
            |d: &&&DeploymentRecord| conditions(record, d).any(|condition| condition == DependencyCondition::Completed);
        found.extend(others.iter().filter(waits).map(|d| FieldError {
            path: "spec.containers".into(),
            message: format!(
                "deployment {} waits for this one to complete, and container {container} restarts always: it is not started again",
                d.name()
            ),
        }));
    }
    found
}

/// What those say that depend on a deployment, when it goes.
pub fn orphans(record: &DeploymentRecord, others: &[&DeploymentRecord]) -> Vec<FieldError> {
    let dependent = others.iter().filter(|d| conditions(record, d).next().is_some());
    dependent
        .map(|d| FieldError {
            path: String::new(),
            message: format!(
                "deployment {0} depends on {1}: it runs on, and waits for {1} when it has to be started again",
                d.name(),
                record.name()
            ),
        })
        .collect()
}

/// What `by` asks of `of`.
fn conditions<'a>(
    of: &'a DeploymentRecord,
    by: &'a DeploymentRecord,
) -> impl Iterator<Item = DependencyCondition> + 'a {
    let all = by.deployment.spec.depends_on.iter().filter(move |d| by.tenant() == of.tenant() && d.name == *of.name());
    all.map(|d| d.condition)
}

/// What a deployment waits for on a device, in words.
pub fn waits(record: &DeploymentRecord, device: &DeviceRecord, others: &[&DeploymentRecord]) -> Vec<String> {
    let one = |d: &Dependency| {
        let text = format!("deployment {} {}", d.name, d.condition.words());
        let there = find(others, record.tenant(), &d.name)
            .is_some_and(|other| selects(other.tenant(), &other.deployment.spec.selector, device));
        if there { text } else { format!("{text} ({} is not for this device)", d.name) }
    };
    record.deployment.spec.depends_on.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        compose::compose,
        rollout::gate::Gate,
        testing::{device, record},
    };

    fn after(mut record: DeploymentRecord, on: &[(&str, DependencyCondition)]) -> DeploymentRecord {
        record.deployment.spec.depends_on = on
            .iter()
            .map(|(name, condition)| Dependency { name: name.parse().unwrap(), condition: *condition })
            .collect();
        record
    }

    fn texts(found: &[FieldError]) -> Vec<String> {
        found.iter().map(|f| format!("{}: {}", f.path, f.message)).collect()
    }

    const STARTED: DependencyCondition = DependencyCondition::Started;

    #[test]
    fn a_circle_counts_only_where_all_of_it_meets() {
        let (paris, rome) = (("site", "paris"), ("site", "rome"));
        let (a, b) = (device(1, &[paris]), device(2, &[rome]));
        let cache = after(record("cache", paris, 2, 2), &[("web", STARTED)]);
        let db = |site| after(record("db", site, 1, 1), &[("other", STARTED), ("cache", STARTED)]);
        let web = after(record("web", paris, 3, 3), &[("none", STARTED), ("db", STARTED)]);
        let found = problems(&web.deployment, [&b, &a], &[&cache, &db(paris)]);
        let wanted = "spec.dependsOn[1].name: these wait for each other on device pi-1: web -> db -> cache -> web; take one of the dependencies out";
        assert_eq!(texts(&found), [wanted]);
        assert_eq!(problems(&web.deployment, [&b, &a], &[&cache, &db(rome)]), [], "db is elsewhere");
        let mut foreign = db(paris);
        foreign.deployment.metadata.tenant = "other".parse().unwrap();
        assert_eq!(problems(&web.deployment, [&a], &[&cache, &foreign]), [], "nor is another tenant's db meant");
    }

    #[test]
    fn a_circle_that_labels_closed_leaves_out_the_youngest_by_name() {
        let paris = ("site", "paris");
        let all = [
            after(record("db", paris, 1, 1), &[("web", STARTED)]),
            after(record("web", paris, 2, 2), &[("db", STARTED)]),
            record("free", paris, 3, 3),
        ];
        let composition = compose(&device(1, &[paris]), &all, &Gate::default());
        let names: Vec<_> = composition.apps.iter().map(|a| a.deployment.metadata.name.as_str()).collect();
        assert_eq!(names, ["db", "free"]);
        assert!(composition.blocked[0].reason.contains("web -> db -> web"), "{composition:?}");
    }

    #[test]
    fn what_never_completes_is_refused_and_what_is_not_there_is_told() {
        let paris = ("site", "paris");
        let (a, b) = (device(1, &[paris]), device(2, &[("site", "rome")]));
        let (db, completed) = (record("db", paris, 1, 1), DependencyCondition::Completed);
        let web = after(record("web", paris, 2, 2), &[("db", completed), ("ghost", STARTED)]);
        let found = problems(&web.deployment, [&a], &[&db]);
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("never completes, because its container main restarts always"), "{found:?}");
        assert_eq!(warnings(&db, &[&a], &[&web]).len(), 1, "and when the dependency becomes so, that is told");
        let found = warnings(&web, &[&a, &b], &[&db]);
        assert_eq!(
            texts(&found),
            [
                "spec.dependsOn[0].name: deployment db is not for pi-2: there this one waits",
                "spec.dependsOn[1].name: there is no deployment ghost yet: this one waits until it is applied"
            ]
        );
        assert!(orphans(&db, &[&web])[0].message.starts_with("deployment web depends on db: it runs on"));
        assert_eq!(orphans(&web, &[&db]), []);
        let healthy = after(record("web", paris, 2, 2), &[("db", DependencyCondition::Healthy)]);
        assert!(warnings(&healthy, &[&a], &[&db])[0].message.contains("db has no probe"));
        assert_eq!(
            waits(&web, &a, &[&db]),
            ["deployment db to complete", "deployment ghost to be started (ghost is not for this device)"]
        );
    }
}
