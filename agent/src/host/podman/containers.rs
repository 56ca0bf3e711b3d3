//! Containers: make, start, signal, wait, remove, look at, read their logs.
//!
//! Restart policy is always `no`: the agent is the only starter.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::frames::{BadFrame, Demux, Stream};
use super::http::{CHANGE, Call, LOOK, Limit, Podman, PodmanError, escape, label_filter};
use super::types::{ContainerDetail, ContainerLine, Made};
use crate::host::podman::http::parse;

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Address of the host, `None` for all of them.
    pub host_ip: Option<String>,
    /// Port of the host.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl Port {
    pub(super) fn json(&self) -> Value {
        json!({
            "host_ip": self.host_ip.as_deref().unwrap_or(""),
            "host_port": self.host,
            "container_port": self.container,
            "protocol": self.protocol.word(),
        })
    }
}

/// Whether a container may write to a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountMode {
    /// It may.
    ReadWrite,
    /// It may not.
    ReadOnly,
}

/// A directory of the host in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Directory of the host.
    pub source: String,
    /// Where the container sees it.
    pub target: String,
    /// Mode.
    pub mode: MountMode,
}

/// What a container is made of, in Podman's terms.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// Name in Podman.
    pub name: String,
    /// Image reference or id; it must be in the store already.
    pub image: String,
    /// Replaces the image's entrypoint when not empty.
    pub entrypoint: Vec<String>,
    /// Replaces the image's command when not empty.
    pub command: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Ports; empty for members of a pod, whose ports are the pod's.
    pub ports: Vec<Port>,
    /// Pod id, when a member of one.
    pub pod: Option<String>,
    /// Shares the device's network instead of having one.
    pub host_network: bool,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU limit in thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Where what it prints is written; below Podman's own folder for it where absent.
    pub log: Option<LogFile>,
}

/// A file that conmon writes by itself, in Kubernetes' format, and replaces when it is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Where.
    pub path: String,
    /// How large it gets.
    pub bytes_max: u64,
}

/// Length of the period that a CPU limit is counted over.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel's smallest quota.
const CPU_QUOTA_US_MIN: u64 = 1_000;
/// A container's log on disk; older lines are dropped.
const LOG_BYTES_MAX: u64 = 10 << 20;

impl ContainerSpec {
    fn json(&self) -> Value {
        let mounts: Vec<Value> = self
            .mounts
            .iter()
            .map(|m| {
                let mode = match m.mode {
                    MountMode::ReadWrite => "rw",
                    MountMode::ReadOnly => "ro",
                };
                json!({ "type": "bind", "source": m.source, "destination": m.target, "options": ["rbind", mode] })
            })
            .collect();
        let mut spec = json!({
            "name": self.name,
            "image": self.image,
            "env": self.env,
            "labels": self.labels,
            "mounts": mounts,
            "restart_policy": "no",
            // A proxy for pulls is not the apps' business.
            "httpproxy": false,
            "log_configuration": match &self.log {
                Some(file) => json!({ "driver": "k8s-file", "path": file.path, "size": file.bytes_max }),
                None => json!({ "driver": "k8s-file", "size": LOG_BYTES_MAX }),
            },
        });
        let mut set = |key: &str, value: Value| {
            spec[key] = value;
        };
        if !self.entrypoint.is_empty() {
            set("entrypoint", json!(self.entrypoint));
        }
        if !self.command.is_empty() {
            set("command", json!(self.command));
        }
        match &self.pod {
            Some(pod) => set("pod", json!(pod)),
            None if self.host_network => set("netns", json!({ "nsmode": "host" })),
            None => {
                set("netns", json!({ "nsmode": "bridge" }));
                set("portmappings", Value::Array(self.ports.iter().map(Port::json).collect()));
            }
        }
        let mut limits = serde_json::Map::new();
        if let Some(bytes) = self.memory_bytes {
            limits.insert("memory".into(), json!({ "limit": bytes }));
        }
        if let Some(millis) = self.cpu_millis {
            let quota = (millis * CPU_PERIOD_US / 1000).max(CPU_QUOTA_US_MIN);
            limits.insert("cpu".into(), json!({ "quota": quota, "period": CPU_PERIOD_US }));
        }
        if !limits.is_empty() {
            spec["resource_limits"] = Value::Object(limits);
        }
        spec
    }
}

/// Whether a start or stop changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It changed.
    Now,
    /// It already was.
    Already,
}

impl Started {
    fn from_status(status: StatusCode) -> Self {
        if status == StatusCode::NOT_MODIFIED { Self::Already } else { Self::Now }
    }
}

/// Which lines of a log are wanted.
#[derive(Clone, Copy, Debug)]
pub struct LogLines {
    /// The last so many.
    pub tail: usize,
    /// Stay and deliver what comes.
    pub follow: Follow,
    /// Begin each line with its time.
    pub stamps: Stamps,
}

/// Whether a log stream stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// End after the last line there is.
    No,
    /// Wait for more.
    Yes,
}

/// Whether lines begin with their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamps {
    /// No.
    Bare,
    /// Yes.
    Stamped,
}

impl Podman {
    /// Makes a container; it does not run yet. Returns its id.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, PodmanError> {
        let call = Call::post(format!("create container {}", spec.name), "/containers/create").json(&spec.json());
        Ok(self.ask_json::<Made>(call, CHANGE).await?.id)
    }

    /// Starts a container.
    pub async fn start(&self, id: &str) -> Result<Started, PodmanError> {
        let call = Call::post(format!("start container {}", short(id)), format!("/containers/{}/start", escape(id)));
        Ok(Started::from_status(self.ask(call, CHANGE).await?.0))
    }

    /// Sends a signal (`SIGTERM`).
    pub async fn kill(&self, id: &str, signal: &str) -> Result<(), PodmanError> {
        let call = Call::post(
            format!("send {signal} to container {}", short(id)),
            format!("/containers/{}/kill?signal={}", escape(id), escape(signal)),
        );
        self.ask(call, CHANGE).await.map(|_| ())
    }

    /// Podman's own stop: its stop signal, then SIGKILL after `grace`.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<Started, PodmanError> {
        let call = Call::post(
            format!("stop container {}", short(id)),
            format!("/containers/{}/stop?timeout={}", escape(id), grace.as_secs()),
        );
        let limit = Limit { time: grace + CHANGE.time, bytes: CHANGE.bytes };
        Ok(Started::from_status(self.ask(call, limit).await?.0))
    }

    /// Waits until a container does not run, at most `within`; `None` when it still does. Gives the exit code.
    pub async fn wait_stopped(&self, id: &str, within: Duration) -> Result<Option<i32>, PodmanError> {
        let call = Call::post(
            format!("wait for container {}", short(id)),
            format!("/containers/{}/wait?condition=stopped&condition=exited&interval=20ms", escape(id)),
        );
        let limit = Limit { time: within, bytes: LOOK.bytes };
        match self.ask(call, limit).await {
            Ok((_, body)) => parse("wait for a container", &body).map(Some),
            Err(PodmanError::TimedOut { .. }) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// Removes a container, killing it first when it runs. One that is gone already is fine.
    pub async fn remove(&self, id: &str) -> Result<(), PodmanError> {
        let call = Call::delete(
            format!("remove container {}", short(id)),
            format!("/containers/{}?force=true&timeout=0&v=true", escape(id)),
        );
        match self.ask(call, CHANGE).await {
            Ok(_) => Ok(()),
            Err(err) if err.is_not_found() => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// One container in detail; `None` when there is none.
    pub async fn inspect(&self, id: &str) -> Result<Option<ContainerDetail>, PodmanError> {
        let call = Call::get(format!("inspect container {}", short(id)), format!("/containers/{}/json", escape(id)));
        match self.ask_json(call, LOOK).await {
            Ok(detail) => Ok(Some(detail)),
            Err(err) if err.is_not_found() => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// All containers, running or not, that carry every one of `labels` (`key` or `key=value`).
    pub async fn list(&self, labels: &[String]) -> Result<Vec<ContainerLine>, PodmanError> {
        let path = format!("/containers/json?all=true&filters={}", label_filter(labels));
        self.ask_json(Call::get("list containers", path), LOOK).await
    }

    /// One container as a list shows it, which also works when its storage is damaged; `None` when there is none.
    pub async fn line(&self, id: &str) -> Result<Option<ContainerLine>, PodmanError> {
        let filters = escape(&json!({ "id": [id] }).to_string());
        let call = Call::get(
            format!("look for container {}", short(id)),
            format!("/containers/json?all=true&filters={filters}"),
        );
        Ok(self.ask_json::<Vec<ContainerLine>>(call, LOOK).await?.into_iter().find(|line| line.id == id))
    }

    /// Whether a container of that name or id is there.
    pub async fn exists(&self, name: &str) -> Result<bool, PodmanError> {
        let call = Call::get(format!("look for container {name}"), format!("/containers/{}/exists", escape(name)));
        match self.ask(call, LOOK).await {
            Ok(_) => Ok(true),
            Err(err) if err.is_not_found() => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Opens a container's log.
    pub async fn logs(&self, id: &str, lines: LogLines) -> Result<Output, PodmanError> {
        let path = format!(
            "/containers/{}/logs?stdout=true&stderr=true&tail={}&follow={}&timestamps={}",
            escape(id),
            lines.tail,
            lines.follow == Follow::Yes,
            lines.stamps == Stamps::Stamped,
        );
        let what = format!("read the log of container {}", short(id));
        let answer = self.open(Call::get(what.clone(), path), LOOK).await?;
        Ok(Output::new(what, answer.into_body()))
    }

    /// The last lines of a log as text, both streams, bounded in lines and bytes.
    pub async fn last_lines(&self, id: &str, tail: usize, bytes_max: usize) -> Result<Vec<String>, PodmanError> {
        let lines = LogLines { tail, follow: Follow::No, stamps: Stamps::Bare };
        let mut output = self.logs(id, lines).await?;
        let mut text = Vec::new();
        let read = async {
            while let Some((_, piece)) = output.next().await? {
                text.extend_from_slice(&piece);
                if text.len() > 2 * bytes_max {
                    text.drain(..text.len() - bytes_max);
                }
            }
            Ok::<(), PodmanError>(())
        };
        if let Ok(ended) = tokio::time::timeout(LOOK.time, read).await {
            ended?;
        }
        if text.len() > bytes_max {
            text.drain(..text.len() - bytes_max);
        }
        let text = String::from_utf8_lossy(&text);
        let all: Vec<String> = text.lines().map(super::http::one_line).collect();
        Ok(all[all.len().saturating_sub(tail)..].to_vec())
    }
}

/// Output of a container or an exec session, piece by piece.
pub struct Output {
    what: String,
    body: Incoming,
    demux: Demux,
}

impl Output {
    pub(super) fn new(what: String, body: Incoming) -> Self {
        Self { what, body, demux: Demux::default() }
    }

    /// The next piece, `None` at the end. Nothing is read ahead of the caller beyond one network buffer.
    pub async fn next(&mut self) -> Result<Option<(Stream, Bytes)>, PodmanError> {
        loop {
            let piece = self.demux.next_piece().map_err(|err| unframed(&self.what, &err))?;
            if piece.is_some() {
                return Ok(piece);
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|err| PodmanError::Broken { what: self.what.clone(), err })?;
            if let Ok(data) = frame.into_data() {
                self.demux.push(&data);
            }
        }
    }
}

/// Output that is not framed as it should be.
pub(super) fn unframed(what: &str, err: &BadFrame) -> PodmanError {
    PodmanError::Refused { what: what.to_owned(), status: 200, message: err.to_string(), cause: String::new() }
}

/// Ids are long; people read twelve characters.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_says_everything_it_was_given() {
        let spec = ContainerSpec {
            name: "a".into(),
            image: "localhost/x:1".into(),
            command: vec!["run".into()],
            ports: vec![Port { host_ip: Some("127.0.0.1".into()), host: 1, container: 2, protocol: Protocol::Udp }],
            mounts: vec![Mount { source: "/v".into(), target: "/d".into(), mode: MountMode::ReadOnly }],
            memory_bytes: Some(1 << 20),
            cpu_millis: Some(500),
            ..ContainerSpec::default()
        };
        let json = spec.json();
        assert_eq!(json["restart_policy"], "no");
        assert_eq!(json["resource_limits"]["cpu"]["quota"], 50_000);
        assert_eq!(json["resource_limits"]["memory"]["limit"], 1 << 20);
        assert_eq!(json["mounts"][0]["options"][1], "ro");
        assert_eq!(json["portmappings"][0]["protocol"], "udp");
        assert_eq!(json["netns"]["nsmode"], "bridge");
        assert!(json.get("entrypoint").is_none());
    }

    #[test]
    fn members_of_a_pod_have_no_network_of_their_own() {
        let spec = ContainerSpec { pod: Some("p".into()), ..ContainerSpec::default() };
        let json = spec.json();
        assert_eq!(json["pod"], "p");
        assert!(json.get("netns").is_none() && json.get("portmappings").is_none());
    }
}
