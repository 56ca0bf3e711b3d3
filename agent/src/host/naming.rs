//! How an app's containers are called and labelled in Podman, and how they are read back.

use std::collections::BTreeMap;

use bramble_contracts::v1::Protocol as WireProtocol;

use super::podman::{ContainerLine, PodLine, Port, Protocol, State};
use crate::core::app::{App, Role};
use crate::core::have::{Seen, SeenState};
use crate::core::mapping::Publisher;

/// Labels on everything we make.
pub(super) mod label {
    pub(in crate::host) const APP: &str = "bramble.app";
    pub(in crate::host) const UID: &str = "bramble.deployment";
    pub(in crate::host) const REVISION: &str = "bramble.revision";
    pub(in crate::host) const SPEC: &str = "bramble.spec";
    pub(in crate::host) const CONTAINER: &str = "bramble.container";
    pub(in crate::host) const ROLE: &str = "bramble.role";
    pub(in crate::host) const BOOT: &str = "bramble.boot";
    pub(in crate::host) const INSTANCE: &str = "bramble.instance";
    pub(in crate::host) const PUBLISHER: &str = "bramble.publisher";
}

/// Every label of one container.
pub(super) fn labels(app: &App, name: &str, role: Role, boot: &str, nonce: &str) -> BTreeMap<String, String> {
    let pairs = [
        (label::APP, app.key().to_string()),
        (label::UID, app.uid().to_string()),
        (label::REVISION, app.revision().to_string()),
        (label::SPEC, app.hash().to_string()),
        (label::CONTAINER, name.to_owned()),
        (label::ROLE, role.word().to_owned()),
        (label::BOOT, boot.to_owned()),
        (label::INSTANCE, nonce.to_owned()),
        (label::PUBLISHER, Publisher::of(app).word().to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

pub(super) fn podman_name(app: &App, part: &str) -> String {
    app.key().podman_name(part, &app.short_hash())
}

/// The host ports that Podman is to lead to a container of this app: none where the agent does it.
pub(super) fn published<'a>(app: &App, ports: impl Iterator<Item = &'a bramble_contracts::v1::Port>) -> Vec<Port> {
    let one = |port: &bramble_contracts::v1::Port| Port {
        // Netavark of Debian 12 takes 0.0.0.0 for one address, which no packet is for: all of them are said by none.
        host_ip: (!port.host_ip.is_unspecified()).then(|| port.host_ip.to_string()),
        host: port.host,
        container: port.container,
        protocol: match port.protocol {
            WireProtocol::Tcp => Protocol::Tcp,
            WireProtocol::Udp => Protocol::Udp,
        },
    };
    match Publisher::of(app) {
        Publisher::Podman if !app.host_network() => ports.map(one).collect(),
        Publisher::Podman | Publisher::Agent => Vec::new(),
    }
}

pub(super) fn read_line(line: &ContainerLine) -> Option<Seen> {
    let state = match line.state {
        State::Created => SeenState::Created,
        State::Running => SeenState::Running,
        State::Exited => SeenState::Exited,
        State::Paused => SeenState::Paused,
        State::Removing => SeenState::Removing,
        State::Unsettled => SeenState::Unsettled,
    };
    let name = line.names.first().map(String::as_str).unwrap_or_default();
    let mut seen = read_labels(&line.id, name, &line.labels, state)?;
    seen.exit_code = line.exit_code;
    seen.started_at_ms = u64::try_from(line.started_at).unwrap_or_default().saturating_mul(1000);
    seen.image_id = line.image_id.clone();
    Some(seen)
}

/// A pod's pause container holds its network. Once that has ended, the members run on, but nobody reaches them; and where
/// the pod's making was cut off there is none, or none that the pod knows of, and nothing can join it.
pub(super) fn read_pod(pod: &PodLine) -> Option<Seen> {
    let pause = pod.containers.iter().find(|c| c.id == pod.infra_id);
    let state = if pause.is_none_or(|c| c.state == State::Exited) {
        SeenState::Exited
    } else if pod.containers.iter().any(|c| c.state == State::Running) {
        SeenState::Running
    } else {
        SeenState::Created
    };
    read_labels(&pod.id, &pod.name, &pod.labels, state)
}

/// `None` when the labels are not whole: then it is not ours, whatever it is.
fn read_labels(id: &str, podman_name: &str, labels: &BTreeMap<String, String>, state: SeenState) -> Option<Seen> {
    let get = |key: &str| labels.get(key).cloned();
    Some(Seen {
        id: id.to_owned(),
        podman_name: podman_name.to_owned(),
        name: get(label::CONTAINER)?.parse().ok()?,
        role: Role::parse(&get(label::ROLE)?)?,
        hash: get(label::SPEC)?,
        boot: get(label::BOOT)?,
        revision: get(label::REVISION)?.parse().ok()?,
        nonce: get(label::INSTANCE)?,
        publisher: Publisher::parse(labels.get(label::PUBLISHER).map(String::as_str)),
        addresses: Vec::new(),
        state,
        exit_code: 0,
        oom_killed: false,
        started_at_ms: 0,
        image_id: String::new(),
        last_lines: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Podman 4.3.1 was killed at the making of the first two: before it made a pause container, and before it told the
    /// pod of it.
    #[test]
    fn a_pod_whose_making_was_cut_off_is_of_no_use() {
        let pods: Vec<PodLine> = serde_json::from_str(include_str!("captured/pod_cut.json")).unwrap();
        let ours = [
            (label::CONTAINER, "app"),
            (label::ROLE, "pod"),
            (label::SPEC, "1"),
            (label::BOOT, "1"),
            (label::REVISION, "1"),
            (label::INSTANCE, "1"),
        ];
        let states = pods.into_iter().map(|mut pod| {
            pod.labels = ours.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            read_pod(&pod).unwrap().state
        });
        assert_eq!(states.collect::<Vec<_>>(), [SeenState::Exited, SeenState::Exited, SeenState::Created]);
    }
}
