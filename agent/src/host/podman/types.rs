//! The parts of libpod's answers that the agent reads, tolerant of everything else in them.
//!
//! Podman 4.3 and 5.4 differ in spelling here and there; what differs is read in both forms.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer};

use crate::core::disk::StoredImage;

/// `null`, absent and present are one thing for lists and maps.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// What state a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, never started in this boot.
    Created,
    /// Runs.
    Running,
    /// Ended.
    Exited,
    /// Frozen by somebody.
    Paused,
    /// Its removal has begun; where it was cut off, only another removal helps.
    Removing,
    /// On its way out, or a word we do not know: look again.
    Unsettled,
}

impl State {
    fn parse(word: &str) -> Self {
        match word {
            "created" | "configured" | "initialized" => Self::Created,
            "running" => Self::Running,
            "exited" | "stopped" | "dead" => Self::Exited,
            "paused" => Self::Paused,
            "removing" => Self::Removing,
            _ => Self::Unsettled,
        }
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&String::deserialize(d)?.to_ascii_lowercase()))
    }
}

/// One line of a container list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerLine {
    /// Full id.
    pub id: String,
    /// Names, the first is ours.
    #[serde(default, deserialize_with = "or_default")]
    pub names: Vec<String>,
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// State.
    pub state: State,
    /// Exit code of the last run.
    #[serde(default)]
    pub exit_code: i32,
    /// Main process, 0 when it does not run.
    #[serde(default)]
    pub pid: i64,
    /// Image reference it was made from.
    #[serde(default)]
    pub image: String,
    /// Image id.
    #[serde(default, rename = "ImageID")]
    pub image_id: String,
    /// Pod id, empty when in none.
    #[serde(default)]
    pub pod: String,
    /// The pod's pause container.
    #[serde(default)]
    pub is_infra: bool,
    /// Seconds since 1970 by the device's clock, for people only.
    #[serde(default)]
    pub started_at: i64,
    /// Ports of the host that lead into it.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<PortLine>,
}

/// A port of the host in a list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PortLine {
    /// Address of the host, empty for all of them.
    #[serde(default)]
    pub host_ip: String,
    /// The first port.
    pub host_port: u16,
    /// How many.
    #[serde(default)]
    pub range: u16,
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: String,
}

impl PortLine {
    /// All ports of it.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.host_port..=self.host_port.saturating_add(self.range.saturating_sub(1))
    }

    /// It is for all addresses of the host.
    pub fn is_on_all(&self) -> bool {
        matches!(self.host_ip.as_str(), "" | "0.0.0.0" | "::")
    }

    /// Both are for the same port of some address.
    pub fn meets(&self, other: &Self) -> bool {
        let (one, two) = (self.ports(), other.ports());
        let same_host = self.is_on_all() || other.is_on_all() || self.host_ip == other.host_ip;
        same_host && self.protocol == other.protocol && one.start() <= two.end() && two.start() <= one.end()
    }
}

/// One container, in detail.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerDetail {
    /// Full id.
    pub id: String,
    /// Name.
    pub name: String,
    /// State.
    pub state: DetailState,
    /// Image id.
    #[serde(default)]
    pub image: String,
    /// Pod id, empty when in none.
    #[serde(default)]
    pub pod: String,
    /// Addresses.
    #[serde(default)]
    pub network_settings: NetworkSettings,
    /// Configuration it was made with.
    pub config: DetailConfig,
    /// Commands in it, also ended ones.
    #[serde(default, rename = "ExecIDs", deserialize_with = "or_default")]
    pub exec_ids: Vec<String>,
}

/// State of one container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DetailState {
    /// State.
    pub status: State,
    /// Main process.
    #[serde(default)]
    pub pid: i64,
    /// Exit code of the last run.
    #[serde(default)]
    pub exit_code: i32,
    /// Why a start failed.
    #[serde(default)]
    pub error: String,
    /// Killed by the memory limit (not told on cgroup v1).
    #[serde(default, rename = "OOMKilled")]
    pub oom_killed: bool,
}

/// Configuration of one container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DetailConfig {
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// Addresses of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkSettings {
    /// Address on the default network.
    #[serde(default, rename = "IPAddress")]
    pub ip_address: String,
    /// Per network.
    #[serde(default, deserialize_with = "or_default")]
    pub networks: BTreeMap<String, Network>,
}

/// One network of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Network {
    /// Address on it.
    #[serde(default, rename = "IPAddress")]
    pub ip_address: String,
    /// Bits of its network.
    #[serde(default, rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// IPv6 address on it, empty when it has none.
    #[serde(default, rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Bits of its IPv6 network.
    #[serde(default, rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
}

impl NetworkSettings {
    /// Every address on every network.
    pub fn all(&self) -> Vec<IpAddr> {
        let of = |network: &Network| [network.ip_address.clone(), network.global_ipv6_address.clone()];
        let each = self.networks.values().flat_map(of);
        each.chain([self.ip_address.clone()]).filter_map(|text| text.parse().ok()).collect()
    }
}

impl ContainerDetail {
    /// Its addresses on its first network, each with the bits of its prefix: at most one of either family.
    pub fn addresses(&self) -> Vec<(IpAddr, u8)> {
        let Some(network) = self.network_settings.networks.values().next() else { return Vec::new() };
        let both = [
            (&network.ip_address, network.ip_prefix_len),
            (&network.global_ipv6_address, network.global_ipv6_prefix_len),
        ];
        both.into_iter().filter_map(|(text, prefix)| Some((text.parse().ok()?, prefix))).collect()
    }

    /// An address the host reaches it by.
    pub fn address(&self) -> Option<&str> {
        let own = Some(self.network_settings.ip_address.as_str());
        let others = self.network_settings.networks.values().map(|n| n.ip_address.as_str());
        own.into_iter().chain(others).find(|a| !a.is_empty())
    }
}

/// One line of a pod list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PodLine {
    /// Full id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Podman's word for it (`Running`, `Degraded`, `Exited`, `Created`).
    #[serde(default)]
    pub status: String,
    /// The pause container.
    #[serde(default)]
    pub infra_id: String,
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// What is in it.
    #[serde(default, deserialize_with = "or_default")]
    pub containers: Vec<PodMember>,
}

/// A container of a pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PodMember {
    /// Full id.
    pub id: String,
    /// State.
    #[serde(alias = "Status")]
    pub state: State,
}

/// One pod, in detail.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PodDetail {
    /// Full id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Podman's word for its state.
    #[serde(default)]
    pub state: String,
    /// The pause container.
    #[serde(default, rename = "InfraContainerID")]
    pub infra_container_id: String,
    /// Labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// What is in it.
    #[serde(default, deserialize_with = "or_default")]
    pub containers: Vec<PodMember>,
}

/// A network that containers can be in.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NetworkLine {
    /// Its bridge on the host; empty for other kinds.
    #[serde(default)]
    pub(super) network_interface: String,
}

/// One image.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageDetail {
    /// Id without `sha256:`.
    pub id: String,
    /// Digest of the manifest, `sha256:…`.
    #[serde(default)]
    pub digest: String,
    /// Bytes on disk.
    #[serde(default)]
    pub size: u64,
    /// `name@sha256:…`, as pulled.
    #[serde(default, deserialize_with = "or_default")]
    pub repo_digests: Vec<String>,
}

/// One line of the list of images.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageLine {
    /// Id without `sha256:`.
    pub id: String,
    /// `name:tag`.
    #[serde(default, deserialize_with = "or_default")]
    pub repo_tags: Vec<String>,
    /// `name@sha256:…`.
    #[serde(default, deserialize_with = "or_default")]
    pub repo_digests: Vec<String>,
    /// When it was built, in seconds since 1970.
    #[serde(default)]
    pub created: i64,
    /// Bytes on disk, with layers that others use too.
    #[serde(default)]
    pub size: u64,
    /// Containers made of it.
    #[serde(default)]
    pub containers: i64,
}

impl ImageLine {
    /// As the judgement over room sees it.
    pub fn stored(self) -> StoredImage {
        StoredImage {
            id: self.id,
            names: self.repo_tags.into_iter().chain(self.repo_digests).collect(),
            bytes: self.size,
            created_s: self.created,
            containers: u64::try_from(self.containers).unwrap_or_default(),
        }
    }
}

/// One line of Podman's event stream.
#[derive(Clone, Debug, Deserialize)]
pub struct EventLine {
    /// `container`, `pod`, `image`, …
    #[serde(rename = "Type")]
    pub kind: String,
    /// `start`, `died`, `remove`, …
    #[serde(rename = "Action")]
    pub action: String,
    /// Whom it happened to.
    #[serde(rename = "Actor")]
    pub actor: Actor,
}

/// Whom an event is about.
#[derive(Clone, Debug, Deserialize)]
pub struct Actor {
    /// Id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Labels, name, image, exit code, all in one map.
    #[serde(default, rename = "Attributes", deserialize_with = "or_default")]
    pub attributes: BTreeMap<String, String>,
}

/// What Podman is and how it is set up.
#[derive(Clone, Debug, Deserialize)]
pub struct Info {
    /// About the host.
    pub host: InfoHost,
    /// About the store.
    pub store: InfoStore,
    /// About itself.
    pub version: InfoVersion,
}

/// `info.host`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InfoHost {
    /// `v1` or `v2`.
    pub cgroup_version: String,
    /// `cgroupfs` or `systemd`.
    #[serde(default)]
    pub cgroup_manager: String,
    /// `netavark` or `cni`.
    #[serde(default)]
    pub network_backend: String,
}

/// `info.store`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InfoStore {
    /// Where images and containers lie.
    pub graph_root: String,
    /// Storage driver.
    pub graph_driver_name: String,
}

/// `info.version`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InfoVersion {
    /// `4.3.1`.
    pub version: String,
}

/// One answer of a running pull.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PullLine {
    /// Progress for people.
    #[serde(default)]
    pub(super) stream: String,
    /// The pull failed.
    #[serde(default)]
    pub(super) error: String,
    /// Id of the image, when done.
    #[serde(default)]
    pub(super) id: String,
}

/// An exec session that ended or runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecDetail {
    /// Whether it still runs.
    #[serde(default)]
    pub running: bool,
    /// Its process on the device, while it runs.
    #[serde(default)]
    pub pid: i64,
    /// Its exit code.
    #[serde(default)]
    pub exit_code: i32,
    /// What was said to be typed for leaving it.
    #[serde(default, deserialize_with = "or_default")]
    pub detach_keys: String,
}

/// `{"Id": …}`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Made {
    #[serde(rename = "Id", alias = "ID", alias = "id")]
    pub(super) id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_captured_list_is_read() {
        let lines: Vec<ContainerLine> = read(include_str!("../captured/list.json"));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].names, ["t1"]);
        assert_eq!(lines[0].state, State::Running);
        assert_eq!(lines[0].labels["x"], "y");
        assert!(!lines[0].is_infra && lines[0].pod.is_empty());
        let in_pod: Vec<ContainerLine> = read(include_str!("../captured/list_pod.json"));
        assert_eq!(in_pod.iter().filter(|c| c.is_infra).count(), 1);
        assert!(in_pod.iter().any(|c| c.names == ["p1-web"] && !c.pod.is_empty()));
    }

    #[test]
    fn captured_details_are_read() {
        let running: ContainerDetail = read(include_str!("../captured/inspect_running.json"));
        assert_eq!(running.state.status, State::Running);
        assert!(running.address().is_some_and(|a| a.starts_with("10.88.")));
        let addresses = running.addresses();
        assert_eq!((addresses.len(), addresses[0].1), (1, 16), "{addresses:?}");
        assert!(running.network_settings.all().contains(&addresses[0].0));
        let exited: ContainerDetail = read(include_str!("../captured/inspect_exit7.json"));
        assert_eq!((exited.state.status, exited.state.exit_code), (State::Exited, 7));
        let created: ContainerDetail = read(include_str!("../captured/inspect_created.json"));
        assert_eq!((created.state.status, created.address()), (State::Created, None));
        assert!(created.network_settings.all().is_empty());
        assert_eq!(created.config.labels["x"], "y");
    }

    #[test]
    fn captured_pods_images_and_info_are_read() {
        let pods: Vec<PodLine> = read(include_str!("../captured/pod_list.json"));
        assert_eq!((pods[0].name.as_str(), pods[0].containers.len()), ("p1", 2));
        let pod: PodDetail = read(include_str!("../captured/pod_inspect.json"));
        assert_eq!(pod.infra_container_id, pods[0].infra_id);
        assert!(pod.containers.iter().all(|c| c.state == State::Running));
        let image: ImageDetail = read(include_str!("../captured/image_inspect.json"));
        assert!(image.digest.starts_with("sha256:") && image.size > 0 && image.repo_digests.len() == 1);
        let info: Info = read(include_str!("../captured/info.json"));
        assert_eq!((info.version.version.as_str(), info.host.cgroup_version.as_str()), ("4.3.1", "v1"));
        let exec: ExecDetail = read(include_str!("../captured/exec_inspect.json"));
        assert_eq!((exec.running, exec.exit_code), (false, 3));
    }

    #[test]
    fn captured_events_are_read() {
        let events: Vec<EventLine> =
            include_str!("../captured/events.ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(events.iter().any(|e| e.action == "died" && e.actor.attributes["x"] == "y"));
        assert!(events.iter().all(|e| e.kind == "container"));
    }

    #[test]
    fn words_of_newer_podman_are_known() {
        for (word, want) in [
            ("Running", State::Running),
            ("stopped", State::Exited),
            ("stopping", State::Unsettled),
            ("removing", State::Removing),
        ] {
            assert_eq!(State::parse(&word.to_ascii_lowercase()), want);
        }
    }

    #[test]
    fn what_podman_5_4_says_of_pods_and_containers_is_read() {
        let members: Vec<ContainerLine> = read(include_str!("../captured/podman-5.4/list_pod.json"));
        let infra = members.iter().find(|c| c.is_infra).unwrap();
        let web = members.iter().find(|c| c.names == ["p1-web"]).unwrap();
        assert_eq!((web.state, web.labels["x"].as_str(), web.exit_code), (State::Running, "y", 0));
        assert_eq!((web.image.as_str(), web.pod.as_str()), ("localhost/t:1", infra.pod.as_str()));
        let pods: Vec<PodLine> = read(include_str!("../captured/podman-5.4/pod_list.json"));
        assert_eq!((pods[0].id.as_str(), pods[0].infra_id.as_str()), (infra.pod.as_str(), infra.id.as_str()));
        assert!(pods[0].containers.len() == 2 && pods[0].containers.iter().all(|c| c.state == State::Running));
        let pod: PodDetail = read(include_str!("../captured/podman-5.4/pod_inspect.json"));
        assert_eq!((pod.infra_container_id.as_str(), pod.labels["x"].as_str()), (infra.id.as_str(), "y"));
        assert!(pod.containers.iter().any(|c| c.id == web.id && c.state == State::Running));
        let running: ContainerDetail = read(include_str!("../captured/podman-5.4/inspect_running.json"));
        assert_eq!((running.state.status, running.address()), (State::Running, Some("10.88.0.2")));
        assert!(running.state.pid > 0 && running.config.labels["x"] == "y");
        let killed: ContainerDetail = read(include_str!("../captured/podman-5.4/inspect_oom.json"));
        assert_eq!((killed.state.status, killed.state.exit_code, killed.state.oom_killed), (State::Exited, 137, true));
    }

    #[test]
    fn what_podman_5_4_says_of_the_rest_is_read() {
        let image: ImageDetail = read(include_str!("../captured/podman-5.4/image_inspect.json"));
        assert!(image.digest.starts_with("sha256:") && image.size > 0 && image.repo_digests.len() == 1);
        let info: Info = read(include_str!("../captured/podman-5.4/info.json"));
        assert_eq!((info.version.version.as_str(), info.host.network_backend.as_str()), ("5.4.2", "netavark"));
        let exec: ExecDetail = read(include_str!("../captured/podman-5.4/exec_inspect.json"));
        assert_eq!((exec.running, exec.exit_code), (false, 3));
        let events: Vec<EventLine> = include_str!("../captured/podman-5.4/events.ndjson").lines().map(read).collect();
        let happened = |kind: &str, action: &str| {
            events.iter().any(|e| e.kind == kind && e.action == action && e.actor.attributes["x"] == "y")
        };
        assert!(happened("container", "died") && happened("container", "remove"));
        assert!(events.iter().any(|e| e.kind == "pod" && e.action == "start"));
    }

    #[test]
    fn ports_that_meet_are_for_one_port_of_one_address() {
        let port = |host_ip: &str, host_port, range| PortLine {
            host_ip: host_ip.into(),
            host_port,
            range,
            protocol: "tcp".into(),
        };
        let web = port("", 8080, 1);
        assert_eq!((port("", 8080, 0).ports(), port("", 65535, 9).ports()), (8080..=8080, 65535..=65535));
        for other in [port("127.0.0.1", 8080, 0), port("0.0.0.0", 8000, 81), port("::", 8080, 2)] {
            assert!(web.meets(&other) && other.meets(&web), "{other:?}");
        }
        let udp = PortLine { protocol: "udp".into(), ..web.clone() };
        for other in [port("", 8081, 1), port("", 8000, 80), udp] {
            assert!(!web.meets(&other) && !other.meets(&web), "{other:?}");
        }
        assert!(!port("127.0.0.1", 8080, 1).meets(&port("192.0.2.1", 8080, 1)));
    }
}
