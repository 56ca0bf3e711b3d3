//! What the types alone cannot say about a deployment. Every finding names its place; nothing is repaired silently.

use std::collections::BTreeMap;

use super::{
    depend,
    policy::{Handover, Rollout},
    probe::Probe,
    spec::{Container, Deployment, DeploymentSpec, EnvVar, Protocol, VolumeMount},
};
use crate::{
    bytes::Sha256,
    problem::FieldError,
    quantity::{Amount, Millis},
};

const MAX_CONTAINERS: usize = 32;
const MAX_LIST: usize = 256;
const MAX_TEXT: usize = 32 * 1024;
/// Bounds that keep one deployment well inside a desired document.
const MAX_DEPLOYMENT_BYTES: usize = 128 * 1024;

/// Collects findings below a path.
pub(super) struct Findings(Vec<FieldError>);

impl Findings {
    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { path: path.into(), message: message.into() });
    }
}

impl Deployment {
    /// Everything that is wrong with this deployment on its own; empty when it is acceptable.
    pub fn problems(&self) -> Vec<FieldError> {
        let mut found = Findings(vec![]);
        let spec = &self.spec;
        selector(spec, &mut found);
        if spec.containers.is_empty() {
            found.add("spec.containers", "at least one container is needed");
        }
        if spec.containers.len() + spec.init_containers.len() > MAX_CONTAINERS {
            found.add("spec.containers", format!("more than {MAX_CONTAINERS} containers"));
        }
        names(spec, &mut found);
        ports(spec, &mut found);
        for (i, c) in spec.init_containers.iter().enumerate() {
            let at = format!("spec.initContainers[{i}]");
            lists(&at, &c.command, &c.args, &c.env, &c.volumes, &mut found);
            if c.timeout.0 == 0 {
                found.add(format!("{at}.timeout"), "must be longer than 0");
            }
        }
        for (i, c) in spec.containers.iter().enumerate() {
            let at = format!("spec.containers[{i}]");
            lists(&at, &c.command, &c.args, &c.env, &c.volumes, &mut found);
            if let Some(p) = &c.probe {
                probe(&format!("{at}.probe"), p, &mut found);
            }
        }
        depend::dependencies(&self.metadata.name, spec, &mut found);
        handover(spec, &mut found);
        found.0.extend(spec.rollout.problems("spec.rollout"));
        if postcard::experimental::serialized_size(self).is_ok_and(|n| n > MAX_DEPLOYMENT_BYTES) {
            found.add("", format!("the deployment is larger than {MAX_DEPLOYMENT_BYTES} bytes"));
        }
        found.0
    }

    /// What is valid and not built yet: refused by name, never accepted and ignored.
    pub fn unsupported(&self) -> Vec<FieldError> {
        let mut found = Findings(vec![]);
        let later = "does not exist in this version yet; leave it out";
        let secrets = |at: &str, env: &[EnvVar], pull: bool, found: &mut Findings| {
            for (j, _) in env.iter().enumerate().filter(|(_, e)| e.value_from.is_some()) {
                found.add(format!("{at}.env[{j}].valueFrom"), format!("a value from a secret {later}"));
            }
            if pull {
                found.add(format!("{at}.pullSecret"), format!("a pull secret {later}"));
            }
        };
        for (i, c) in self.spec.init_containers.iter().enumerate() {
            secrets(&format!("spec.initContainers[{i}]"), &c.env, c.pull_secret.is_some(), &mut found);
        }
        for (i, c) in self.spec.containers.iter().enumerate() {
            let at = format!("spec.containers[{i}]");
            secrets(&at, &c.env, c.pull_secret.is_some(), &mut found);
        }
        if self.spec.rollout.window.is_some() {
            found.add("spec.rollout.window", format!("a window {later}"));
        }
        found.0
    }

    /// What a container *is*. Only a change of this replaces containers: selector, labels, probes, lifecycle,
    /// restart policy and rollout may change while it runs.
    pub fn spec_hash(&self) -> Sha256 {
        let DeploymentSpec {
            selector: _,
            init_containers,
            containers,
            lifecycle: _,
            rollout: _,
            host_network,
            depends_on: _,
        } = &self.spec;
        let mains: Vec<_> = containers
            .iter()
            .map(|c| {
                let Container {
                    name,
                    image,
                    command,
                    args,
                    env,
                    ports,
                    volumes,
                    resources,
                    probe: _,
                    restart: _,
                    image_pull_policy: _,
                    pull_secret: _,
                    depends_on: _,
                } = c;
                (name, image, command, args, env, ports, volumes, resources)
            })
            .collect();
        let inits: Vec<_> = init_containers
            .iter()
            .map(|c| (&c.name, &c.image, &c.command, &c.args, &c.env, &c.volumes, &c.resources))
            .collect();
        let bytes = postcard::to_stdvec(&("bramble spec v1", inits, mains, host_network));
        Sha256::of(&bytes.expect("invariant: our types always fit postcard"))
    }
}

fn selector(spec: &DeploymentSpec, found: &mut Findings) {
    match (spec.selector.match_labels.is_empty(), spec.selector.devices.is_empty()) {
        (true, true) => found.add("spec.selector", "selects nothing: give matchLabels or devices"),
        (false, false) => found.add("spec.selector", "give matchLabels or devices, not both"),
        (true, false) | (false, true) => {}
    }
    if spec.selector.match_labels.len().max(spec.selector.devices.len()) > MAX_LIST {
        found.add("spec.selector", format!("more than {MAX_LIST} entries"));
    }
}

fn names(spec: &DeploymentSpec, found: &mut Findings) {
    let inits =
        spec.init_containers.iter().enumerate().map(|(i, c)| (format!("spec.initContainers[{i}].name"), &c.name));
    let mains = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}].name"), &c.name));
    let mut seen = BTreeMap::new();
    for (path, name) in inits.chain(mains) {
        if let Some(first) = seen.insert(name, path.clone()) {
            found.add(path, format!("container name {name} is used already, at {first}"));
        }
    }
}

fn ports(spec: &DeploymentSpec, found: &mut Findings) {
    let mut hosts: Vec<(&super::spec::Port, String)> = vec![];
    let mut inside: BTreeMap<(u16, Protocol), (usize, String)> = BTreeMap::new();
    for (i, c) in spec.containers.iter().enumerate() {
        for (j, p) in c.ports.iter().enumerate() {
            let at = format!("spec.containers[{i}].ports[{j}]");
            if p.host == 0 || p.container == 0 {
                found.add(&at, "a port is a number from 1 to 65535");
            }
            let clash = hosts.iter().find(|(other, _)| p.clashes(other));
            if let Some((_, first)) = clash {
                found.add(format!("{at}.host"), format!("host port {} is used already, at {first}", p.host));
            }
            hosts.push((p, at.clone()));
            match inside.get(&(p.container, p.protocol)) {
                Some((other, first)) if *other != i => found.add(
                    format!("{at}.container"),
                    format!("port {} is declared by another container of the pod, at {first}", p.container),
                ),
                Some(_) => {}
                None => drop(inside.insert((p.container, p.protocol), (i, at))),
            }
        }
    }
}

impl super::spec::Port {
    /// Would these two not fit on one device together?
    pub fn clashes(&self, other: &Self) -> bool {
        let same_address =
            self.host_ip == other.host_ip || self.host_ip.is_unspecified() || other.host_ip.is_unspecified();
        self.host == other.host && self.protocol == other.protocol && same_address
    }
}

fn lists(at: &str, command: &[String], args: &[String], env: &[EnvVar], volumes: &[VolumeMount], found: &mut Findings) {
    for (field, texts) in [("command", command), ("args", args)] {
        if texts.len() > MAX_LIST || texts.iter().any(|t| t.len() > MAX_TEXT || t.contains('\0')) {
            let limit = format!("at most {MAX_LIST} texts of {MAX_TEXT} bytes without NUL");
            found.add(format!("{at}.{field}"), limit);
        }
    }
    if env.len() > MAX_LIST || volumes.len() > MAX_LIST {
        found.add(at, format!("more than {MAX_LIST} variables or volumes"));
    }
    let mut seen = BTreeMap::new();
    for (j, e) in env.iter().enumerate() {
        let path = format!("{at}.env[{j}]");
        match (&e.value, &e.value_from) {
            (Some(_), Some(_)) | (None, None) => found.add(&path, "give value or valueFrom, exactly one"),
            (Some(v), None) if v.len() > MAX_TEXT || v.contains('\0') => {
                found.add(format!("{path}.value"), format!("at most {MAX_TEXT} bytes without NUL"));
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
        if let Some(first) = seen.insert(&e.name, j) {
            found.add(format!("{path}.name"), format!("variable {} is set already, at {at}.env[{first}]", e.name));
        }
    }
    let mut seen = BTreeMap::new();
    for (j, v) in volumes.iter().enumerate() {
        let path = v.path.as_str().trim_end_matches('/');
        if let Some(first) = seen.insert(path, j) {
            found
                .add(format!("{at}.volumes[{j}].path"), format!("{path} is mounted already, at {at}.volumes[{first}]"));
        }
    }
}

fn probe(at: &str, p: &Probe, found: &mut Findings) {
    let given = [p.http.is_some(), p.tcp.is_some(), p.exec.is_some()].iter().filter(|g| **g).count();
    if given != 1 {
        found.add(at, "give exactly one of http, tcp and exec");
    }
    if let Some(http) = &p.http
        && (!http.path.starts_with('/') || http.path.len() > 2048 || http.path.chars().any(|c| c <= ' ' || c > '~'))
    {
        found.add(format!("{at}.http.path"), "begins with / and holds printable ASCII without spaces");
    }
    let ports = [p.http.as_ref().map(|h| h.port), p.tcp.as_ref().map(|t| t.port)];
    if ports.contains(&Some(0)) {
        found.add(at, "a port is a number from 1 to 65535");
    }
    if p.exec.as_ref().is_some_and(|e| e.command.is_empty() || e.command.len() > MAX_LIST) {
        found.add(format!("{at}.exec.command"), "a command of at least one word is needed");
    }
    if p.interval < Millis(100) || p.timeout < Millis(10) || p.failures == 0 {
        found.add(at, "interval of at least 100ms, timeout of at least 10ms and at least one failure are needed");
    }
}

fn handover(spec: &DeploymentSpec, found: &mut Findings) {
    if spec.lifecycle.handover != Handover::StartFirst {
        return;
    }
    if spec.host_network {
        found.add(
            "spec.hostNetwork",
            "startFirst cannot be used with the host's network: both would want the same ports",
        );
    }
    // An init container of the new revision runs while the old one serves, so it may not write either.
    let inits = spec.init_containers.iter().enumerate().map(|(i, c)| (format!("spec.initContainers[{i}]"), &c.volumes));
    let mains = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), &c.volumes));
    for (at, volumes) in inits.chain(mains) {
        for (j, _) in volumes.iter().enumerate().filter(|(_, v)| !v.read_only) {
            let why = "startFirst cannot share a writable volume between the old and the new container: make it readOnly, or use stopFirst";
            found.add(format!("{at}.volumes[{j}]"), why);
        }
    }
}

impl Rollout {
    /// Everything that is wrong with it; `at` is where it stands.
    pub fn problems(&self, at: &str) -> Vec<FieldError> {
        let mut found = Findings(vec![]);
        let nobody = |amount: &Amount| matches!(amount, Amount::Count(0) | Amount::Percent(0));
        if self.batches.last() != Some(&Amount::Percent(100)) || self.batches.len() > MAX_LIST {
            found.add(format!("{at}.batches"), "the last batch is \"100%\"");
        }
        for (i, _) in self.batches.iter().enumerate().filter(|(_, amount)| nobody(amount)) {
            found.add(format!("{at}.batches[{i}]"), "a batch has at least one device");
        }
        if !matches!(self.success_threshold, Amount::Percent(_)) {
            found.add(format!("{at}.successThreshold"), "is a share such as 95%");
        }
        if nobody(&self.max_unavailable) {
            found.add(format!("{at}.maxUnavailable"), "with 0 no device could ever begin");
        }
        if self.progress_deadline < self.healthy_for {
            found.add(format!("{at}.progressDeadline"), "is shorter than healthyFor: no device could ever succeed");
        }
        if self.progress_deadline.0 == 0 {
            found.add(format!("{at}.progressDeadline"), "must be longer than 0");
        }
        found.0.extend(self.window.iter().flat_map(|window| window.problems(&format!("{at}.window"))));
        found.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(spec: &serde_json::Value) -> Vec<String> {
        let mut deployment = json!({ "metadata": { "name": "web" }, "spec": {
            "selector": { "devices": ["pi-1"] },
            "containers": [{ "name": "web", "image": "localhost/web:1" }],
            "lifecycle": { "handover": "startFirst" },
        } });
        for (field, value) in spec.as_object().expect("an object") {
            deployment["spec"][field] = value.clone();
        }
        let deployment: Deployment = serde_json::from_value(deployment).expect("a deployment");
        assert_eq!(deployment.unsupported(), [], "startFirst is there");
        deployment.problems().into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn what_two_revisions_cannot_share_excludes_start_first() {
        let with = |name: &str, volumes: serde_json::Value| json!({ "name": name, "image": "a:1", "volumes": volumes });
        let read = json!([{ "name": "data", "path": "/data", "readOnly": true }]);
        let write = json!([{ "name": "conf", "path": "/conf", "readOnly": true }, { "name": "data", "path": "/data" }]);
        assert_eq!(paths(&json!({ "containers": [with("web", read.clone())] })), Vec::<String>::new());
        assert_eq!(paths(&json!({ "containers": [with("web", write.clone())] })), ["spec.containers[0].volumes[1]"]);
        let init = json!({ "initContainers": [with("a", read), with("b", write.clone())] });
        assert_eq!(paths(&init), ["spec.initContainers[1].volumes[1]"]);
        assert_eq!(paths(&json!({ "hostNetwork": true })), ["spec.hostNetwork"]);
        let stop_first = json!({ "lifecycle": {}, "hostNetwork": true, "containers": [with("web", write)] });
        assert_eq!(paths(&stop_first), Vec::<String>::new());
    }
}
