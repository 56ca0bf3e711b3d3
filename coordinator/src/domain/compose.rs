//! What one device should run, out of its record and all deployments; and whether that is worth a new document.
//!
//! Decides: which deployments a device gets, in what order, and which are left out by name. A document is written
//! only where its meaning differs. Whether it is a device's turn in a rollout is for `rollout::gate` to say.
//! Deliberately does not: sign or write.

use std::borrow::Cow;

use bramble_contracts::v2::AgentWish;

use bramble_contracts::v3::{DesiredDocument, OsWish};
use bramble_contracts::{
    Generation, envelope,
    id::{Name, Tenant},
    label::Selector,
    problem::FieldError,
    v1::{Deployment, DesiredApp, Port},
};

use super::{
    depend,
    record::{DeploymentRecord, DeviceRecord},
    rollout::gate::{Gate, Gets},
};

/// A deployment that a device would get and does not, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Of the deployment.
    pub tenant: Tenant,
    /// Of the deployment.
    pub deployment: Name,
    /// In words.
    pub reason: String,
}

/// What a device should run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Composition {
    /// Sorted by tenant and name.
    pub apps: Vec<DesiredApp>,
    /// Left out, in the order of age.
    pub blocked: Vec<Blocked>,
    /// The release its agent should become.
    pub agent: Option<AgentWish>,
    /// The upgrade its operating system should make.
    pub os: Option<OsWish>,
}

impl Composition {
    /// Why this deployment is left out, if it is.
    pub fn blocked(&self, tenant: &Tenant, name: &Name) -> Option<&str> {
        self.blocked.iter().find(|b| b.tenant == *tenant && b.deployment == *name).map(|b| b.reason.as_str())
    }
}

/// Does `selector` pick this device for a deployment of `tenant`?
pub fn selects(tenant: &Tenant, selector: &Selector, device: &DeviceRecord) -> bool {
    *tenant == device.tenant && selector.matches(&device.name, &device.labels)
}

/// Composes what `device` should run. Where two deployments want the same port, or wait for each other, the older one
/// has its way. What is rolled out in batches it gets when `gate` says so.
pub fn compose<'a>(
    device: &DeviceRecord,
    deployments: impl IntoIterator<Item = &'a DeploymentRecord>,
    gate: &Gate<'_>,
) -> Composition {
    let mut selected: Vec<&DeploymentRecord> =
        deployments.into_iter().filter(|d| selects(d.tenant(), &d.deployment.spec.selector, device)).collect();
    selected.sort_unstable_by(|a, b| a.age().cmp(&b.age()));
    let turns: Vec<Cow<'_, DeploymentRecord>> = selected
        .into_iter()
        .filter_map(|record| match gate.app(record, &device.id) {
            Gets::New => Some(Cow::Borrowed(record)),
            Gets::Old(old) => Some(Cow::Owned(*old)),
            Gets::Nothing => None,
        })
        .collect();
    let mut placed: Vec<&DeploymentRecord> = vec![];
    let mut blocked = vec![];
    for record in turns.iter().map(AsRef::as_ref) {
        let reason = too_new(device, &record.deployment)
            .or_else(|| taken(&placed, &record.deployment))
            .or_else(|| depend::blocked(&placed, &record.deployment));
        match reason {
            Some(reason) => blocked.push(block(record, reason)),
            None => placed.push(record),
        }
    }
    let mut composition =
        Composition { apps: sorted(&placed), blocked, agent: gate.agent(device), os: gate.os(device) };
    while envelope::encode(&document(device, Generation(u64::MAX), &composition)).is_err() {
        let youngest = placed.pop().expect("invariant: a document without apps fits");
        let full = "the device's document is full: delete a deployment, or select fewer";
        composition.blocked.push(block(youngest, full.into()));
        composition.apps = sorted(&placed);
    }
    composition
}

fn block(record: &DeploymentRecord, reason: String) -> Blocked {
    Blocked { tenant: record.tenant().clone(), deployment: record.name().clone(), reason }
}

fn sorted(placed: &[&DeploymentRecord]) -> Vec<DesiredApp> {
    let mut apps: Vec<DesiredApp> = placed
        .iter()
        .map(|record| DesiredApp {
            uid: record.uid.clone(),
            revision: record.revision,
            deployment: record.deployment.clone(),
            pins: vec![],
        })
        .collect();
    apps.sort_unstable_by(|a, b| app_key(a).cmp(&app_key(b)));
    apps
}

/// By what apps are sorted and told apart.
pub fn app_key(app: &DesiredApp) -> (&Tenant, &Name) {
    (&app.deployment.metadata.tenant, &app.deployment.metadata.name)
}

/// The document version that carries everything this deployment uses.
pub fn needed_document(_deployment: &Deployment) -> u8 {
    1
}

fn too_new(device: &DeviceRecord, deployment: &Deployment) -> Option<String> {
    let need = needed_document(deployment);
    (device.newest_document < need).then(|| {
        format!(
            "it needs document version {need} and the agent of {} reads up to {}: upgrade the agent",
            device.name, device.newest_document
        )
    })
}

fn host_ports(deployment: &Deployment) -> impl Iterator<Item = (String, &Port)> {
    deployment.spec.containers.iter().enumerate().flat_map(|(i, c)| {
        c.ports.iter().enumerate().map(move |(j, p)| (format!("spec.containers[{i}].ports[{j}].host"), p))
    })
}

fn taken(placed: &[&DeploymentRecord], deployment: &Deployment) -> Option<String> {
    placed.iter().find_map(|other| {
        let (_, port) =
            host_ports(deployment).find(|(_, p)| host_ports(&other.deployment).any(|(_, q)| p.clashes(q)))?;
        Some(format!(
            "host port {} is taken by the older deployment {}: change one of them, or select other devices",
            port.host,
            other.name()
        ))
    })
}

/// Where `deployment`, as it would be applied, wants ports that other deployments have on the same devices.
pub fn clashes<'a>(
    deployment: &Deployment,
    devices: impl IntoIterator<Item = &'a DeviceRecord>,
    others: &[&DeploymentRecord],
) -> Vec<FieldError> {
    let metadata = &deployment.metadata;
    let mut found: Vec<FieldError> = vec![];
    for device in devices.into_iter().filter(|d| selects(&metadata.tenant, &deployment.spec.selector, d)) {
        let there = others.iter().filter(|o| {
            (o.tenant(), o.name()) != (&metadata.tenant, &metadata.name)
                && selects(o.tenant(), &o.deployment.spec.selector, device)
        });
        for other in there {
            let clash = host_ports(deployment).find(|(_, p)| host_ports(&other.deployment).any(|(_, q)| p.clashes(q)));
            let Some((path, port)) = clash else { continue };
            if found.iter().all(|f| f.path != path) {
                let message = format!(
                    "host port {} is used already by deployment {} on device {}: take another port, or select other devices",
                    port.host,
                    other.name(),
                    device.name
                );
                found.push(FieldError { path, message });
            }
        }
    }
    found
}

/// The document of `device` that says this.
pub fn document(device: &DeviceRecord, generation: Generation, composition: &Composition) -> DesiredDocument {
    DesiredDocument {
        device: device.id.clone(),
        generation,
        tenant: device.tenant.clone(),
        name: device.name.clone(),
        labels: device.labels.clone(),
        apps: composition.apps.clone(),
        agent: composition.agent.clone(),
        os: composition.os.clone(),
    }
}

/// The next document, only where its meaning differs from `current`; one generation above `current` and `floor`.
pub fn next_document(
    current: Option<&DesiredDocument>,
    floor: Generation,
    device: &DeviceRecord,
    composition: &Composition,
) -> Option<DesiredDocument> {
    let have = current.map_or(Generation(0), |c| c.generation).max(floor);
    let next = document(device, have.next(), composition);
    let same = current.is_some_and(|c| c.same_meaning(&next) && c.generation >= floor);
    (!same).then_some(next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::testing::{deployment, device, record};

    fn compose<'a>(device: &DeviceRecord, all: impl IntoIterator<Item = &'a DeploymentRecord>) -> Composition {
        super::compose(device, all, &Gate::default())
    }

    fn names(composition: &Composition) -> Vec<String> {
        composition.apps.iter().map(|a| a.deployment.metadata.name.to_string()).collect()
    }

    #[test]
    fn only_what_selects_the_device_in_its_tenant_is_there() {
        let device = device(1, &[("site", "paris")]);
        let mut foreign = record("foreign", ("site", "paris"), 1, 1);
        foreign.deployment.metadata.tenant = "other".parse().unwrap();
        let all = [record("web", ("site", "paris"), 2, 2), record("rome", ("site", "rome"), 3, 3), foreign];
        assert_eq!(names(&compose(&device, &all)), ["web"]);
    }

    #[test]
    fn an_agent_that_is_too_old_is_refused_by_name() {
        let mut device = device(1, &[("site", "paris")]);
        device.newest_document = 0;
        let composition = compose(&device, &[record("web", ("site", "paris"), 2, 2)]);
        assert!(composition.apps.is_empty());
        assert!(composition.blocked[0].reason.contains("upgrade the agent"), "{composition:?}");
    }

    #[test]
    fn a_document_is_written_only_where_its_meaning_differs() {
        let device = device(1, &[("site", "paris")]);
        let apps = compose(&device, &[record("web", ("site", "paris"), 2, 2)]);
        let first = next_document(None, Generation(0), &device, &Composition::default()).unwrap();
        assert_eq!(first.generation, Generation(1));
        let second = next_document(Some(&first), Generation(0), &device, &apps).unwrap();
        assert_eq!(second.generation, Generation(2));
        assert_eq!(next_document(Some(&second), Generation(2), &device, &apps), None);
        let above = next_document(Some(&second), Generation(7), &device, &apps).unwrap();
        assert_eq!(above.generation, Generation(8), "a device that knows more is never sent something older");
    }

    #[test]
    fn a_full_document_leaves_out_the_youngest_by_name() {
        let device = device(1, &[("site", "paris")]);
        let big = |age: u8| {
            let mut record = record(&format!("d{age}"), ("site", "paris"), 1000 + u16::from(age), age);
            record.deployment.spec.containers[0].args = vec!["x".repeat(30_000); 4];
            record
        };
        let all: Vec<_> = (1..=6).map(big).collect();
        let composition = compose(&device, &all);
        assert_eq!(names(&composition), ["d1", "d2", "d3", "d4"]);
        assert_eq!(composition.blocked.len(), 2);
        assert!(envelope::encode(&document(&device, Generation(1), &composition)).is_ok());
    }

    #[test]
    fn a_clash_names_port_deployment_and_device() {
        let (a, b) = (device(1, &[("site", "paris")]), device(2, &[("site", "rome")]));
        let old = record("old", ("site", "paris"), 80, 1);
        let found = clashes(&deployment("new", ("site", "paris"), 80), [&a, &b], &[&old]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].message.contains("port 80")
                && found[0].message.contains("old")
                && found[0].message.contains("pi-1")
        );
        assert!(clashes(&deployment("new", ("site", "rome"), 80), [&a, &b], &[&old]).is_empty());
        assert!(clashes(&deployment("old", ("site", "paris"), 80), [&a, &b], &[&old]).is_empty(), "not with itself");
    }

    proptest! {
        #[test]
        fn any_order_of_any_deployments_gives_one_sound_document(
            mut specs in proptest::collection::vec((0u8..6, 0u8..3, 1u16..4, 0u8..5), 0..12),
            seed in any::<u64>(),
        ) {
            specs.sort_unstable();
            specs.dedup_by_key(|s| s.0);
            let device = device(1, &[("a", "0"), ("b", "1")]);
            let labels = [("a", "0"), ("b", "1"), ("c", "2")];
            let all: Vec<_> = specs
                .iter()
                .map(|(n, label, port, age)| record(&format!("d{n}"), labels[usize::from(*label)], *port, *age))
                .collect();
            let mut shuffled = all.clone();
            let turn = usize::try_from(seed % 97).unwrap() % shuffled.len().max(1);
            shuffled.rotate_left(turn);
            let one = compose(&device, &all);
            // Equal ages are told apart by their names' uids only where those differ.
            let ages: std::collections::BTreeSet<_> = all.iter().map(|d| d.created_ms).collect();
            if ages.len() == all.len() {
                prop_assert_eq!(&one, &compose(&device, &shuffled));
            }
            prop_assert!(one.apps.is_sorted_by(|x, y| app_key(x) < app_key(y)));
            let selected = all.iter().filter(|d| selects(d.tenant(), &d.deployment.spec.selector, &device)).count();
            prop_assert_eq!(one.apps.len() + one.blocked.len(), selected, "nothing is left out without a word");
            let ports: std::collections::BTreeSet<u16> =
                one.apps.iter().map(|a| a.deployment.spec.containers[0].ports[0].host).collect();
            prop_assert_eq!(ports.len(), one.apps.len(), "no two want the same port");
            let first = next_document(None, Generation(0), &device, &one).unwrap();
            prop_assert_eq!(next_document(Some(&first), first.generation, &device, &one), None);
        }
    }
}
