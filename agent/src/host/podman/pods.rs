//! Pods: several main containers that share an address, with a hosts file that maps each one's name to 127.0.0.1.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::containers::{Port, short};
use super::http::{CHANGE, Call, LOOK, Podman, PodmanError, escape, label_filter};
use super::types::{Made, PodDetail, PodLine};

/// What a pod is made of.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// Name in Podman.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports of all members.
    pub ports: Vec<Port>,
    /// Names that lead to 127.0.0.1 inside.
    pub local_names: Vec<String>,
    /// Shares the device's network instead of having one.
    pub host_network: bool,
}

impl PodSpec {
    fn json(&self) -> Value {
        let hosts: Vec<String> = self.local_names.iter().map(|name| format!("{name}:127.0.0.1")).collect();
        let network = if self.host_network { "host" } else { "bridge" };
        json!({
            "name": self.name,
            "labels": self.labels,
            "netns": { "nsmode": network },
            "portmappings": self.ports.iter().map(Port::json).collect::<Vec<_>>(),
            "hostadd": hosts,
        })
    }
}

impl Podman {
    /// Makes a pod; nothing in it runs yet. Returns its id.
    pub async fn pod_create(&self, spec: &PodSpec) -> Result<String, PodmanError> {
        let call = Call::post(format!("create pod {}", spec.name), "/pods/create").json(&spec.json());
        Ok(self.ask_json::<Made>(call, CHANGE).await?.id)
    }

    /// Starts everything in a pod.
    pub async fn pod_start(&self, id: &str) -> Result<(), PodmanError> {
        let call = Call::post(format!("start pod {}", short(id)), format!("/pods/{}/start", escape(id)));
        self.ask(call, CHANGE).await.map(|_| ())
    }

    /// Stops everything in a pod, killing what is left after `grace_s`.
    pub async fn pod_stop(&self, id: &str, grace_s: u32) -> Result<(), PodmanError> {
        let call = Call::post(format!("stop pod {}", short(id)), format!("/pods/{}/stop?t={grace_s}", escape(id)));
        self.ask(call, CHANGE).await.map(|_| ())
    }

    /// Removes a pod and what is in it. One that is gone already is fine.
    pub async fn pod_remove(&self, id: &str) -> Result<(), PodmanError> {
        let call = Call::delete(format!("remove pod {}", short(id)), format!("/pods/{}?force=true", escape(id)));
        match self.ask(call, CHANGE).await {
            Ok(_) => Ok(()),
            Err(err) if err.is_not_found() => Ok(()),
            Err(err) => Err(err),
        }
    }

    /// One pod in detail; `None` when there is none.
    pub async fn pod_inspect(&self, id: &str) -> Result<Option<PodDetail>, PodmanError> {
        let call = Call::get(format!("inspect pod {}", short(id)), format!("/pods/{}/json", escape(id)));
        match self.ask_json(call, LOOK).await {
            Ok(detail) => Ok(Some(detail)),
            Err(err) if err.is_not_found() => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// All pods that carry every one of `labels`.
    pub async fn pod_list(&self, labels: &[String]) -> Result<Vec<PodLine>, PodmanError> {
        let path = format!("/pods/json?filters={}", label_filter(labels));
        self.ask_json(Call::get("list pods", path), LOOK).await
    }
}
