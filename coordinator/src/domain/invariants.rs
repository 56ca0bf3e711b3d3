//! What must always hold of everything the coordinator knows, as a function. Tests end with it.

use bramble_contracts::{
    api::DeviceState,
    id::{DeviceId, Name},
    v3::DesiredDocument,
};

use super::{
    compose,
    fleet::Fleet,
    rollout::{self, gate::Gate},
};

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A document is for another device than its key says.
    OtherDevice(DeviceId),
    /// Apps are not sorted, or one is there twice.
    Unsorted(DeviceId),
    /// Two apps on one device want the same port.
    PortClash(DeviceId),
    /// Two devices of a tenant have the same name.
    NameTwice(Name),
    /// A device that is not active or on hold has no note why.
    NoReason(DeviceId),
    /// A token was used more often than it may be.
    TokenOverused(String),
    /// A settled device's document says something else than its composition.
    NotConverged(DeviceId),
    /// A rollout is not sound.
    Rollout(String, rollout::Violation),
}

/// Everything that is wrong now. Call it when nothing is under way.
pub fn violations(fleet: &Fleet) -> Vec<Violation> {
    let mut found = vec![];
    let mut names = std::collections::BTreeSet::new();
    for (id, _, record) in fleet.devices.readable() {
        if record.state != DeviceState::Decommissioned && !names.insert((&record.tenant, &record.name)) {
            found.push(Violation::NameTwice(record.name.clone()));
        }
        if record.state == DeviceState::Quarantined && record.quarantine.is_none() {
            found.push(Violation::NoReason(id.clone()));
        }
        let settled = record.state == DeviceState::Active && record.hold.is_none();
        let composition = compose::compose(record, fleet.deployment_records(), &Gate::of(fleet, id));
        let says = |d: &DesiredDocument| {
            (&d.apps, &d.agent, &d.os) == (&composition.apps, &composition.agent, &composition.os)
        };
        if settled && !fleet.device(id).desired().is_some_and(says) {
            found.push(Violation::NotConverged(id.clone()));
        }
    }
    for (id, _, doc) in fleet.desired.readable() {
        if doc.device != *id {
            found.push(Violation::OtherDevice(id.clone()));
        }
        if !doc.apps.is_sorted_by(|a, b| compose::app_key(a) < compose::app_key(b)) {
            found.push(Violation::Unsorted(id.clone()));
        }
        if ports_clash(&doc.apps) {
            found.push(Violation::PortClash(id.clone()));
        }
    }
    for (key, _, rollout) in fleet.rollouts.readable() {
        found.extend(rollout::violations(rollout).into_iter().map(|v| Violation::Rollout(key.clone(), v)));
    }
    for (id, _, token) in fleet.tokens.readable() {
        if token.used.len() > usize::try_from(token.uses).unwrap_or(usize::MAX) {
            found.push(Violation::TokenOverused(id.to_string()));
        }
    }
    found
}

fn ports_clash(apps: &[bramble_contracts::v1::DesiredApp]) -> bool {
    let ports: Vec<(usize, &bramble_contracts::v1::Port)> = apps
        .iter()
        .enumerate()
        .flat_map(|(i, a)| a.deployment.spec.containers.iter().flat_map(|c| &c.ports).map(move |p| (i, p)))
        .collect();
    ports.iter().any(|(i, p)| ports.iter().any(|(j, q)| i < j && p.clashes(q)))
}
