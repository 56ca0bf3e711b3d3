//! One wanted app, as the planner sees it: the deployment of the desired document with its key and spec hash.
//!
//! Decides what is refused here because this agent cannot do it yet; everything else about an app is data.

use std::fmt;

use bramble_contracts::bytes::Sha256;
use bramble_contracts::v1::{
    Container, DependencyCondition, DesiredApp, EnvVar, ImagePullPolicy, ImageRef, InitContainer, Lifecycle, Probe,
    Resources, Restart, VolumeMount,
};
use bramble_contracts::{Name, Revision, Tenant, Uid};
use serde::{Deserialize, Serialize};

/// Tenant and name: what an app is called on a device. Neither may hold a dot, so `tenant.name` is unambiguous.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AppKey {
    /// Whose.
    pub tenant: Tenant,
    /// Name of the deployment.
    pub name: Name,
}

impl fmt::Display for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tenant, self.name)
    }
}

impl AppKey {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (tenant, name) = text.split_once('.')?;
        Some(Self { tenant: tenant.parse().ok()?, name: name.parse().ok()? })
    }

    /// What one of its parts is called in Podman: readable, unique per spec, and never that of another app, because
    /// names cannot hold dots.
    pub fn podman_name(&self, part: &str, short_hash: &str) -> String {
        format!("bramble.{self}.{part}.{short_hash}")
    }
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs to completion before the mains.
    Init,
    /// The app.
    Main,
    /// Not a container: the pod that several mains share.
    Pod,
}

impl Role {
    /// As it stands in labels.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Main => "main",
            Self::Pod => "pod",
        }
    }

    /// Reads a label.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Init, Self::Main, Self::Pod].into_iter().find(|role| role.word() == word)
    }
}

/// An image an app needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What Podman is asked for; pinned to a digest where the document pins it.
    pub reference: String,
    /// When to pull.
    pub policy: ImagePullPolicy,
    /// Made on the device, never pulled.
    pub local: bool,
    /// The image id a local image must have.
    pub pinned_id: Option<Sha256>,
}

/// Init and main containers, by what they share.
#[derive(Clone, Copy, Debug)]
pub struct ContainerView<'a> {
    /// Name in the deployment.
    pub name: &'a Name,
    /// Image.
    pub image: &'a ImageRef,
    /// Entry point.
    pub command: &'a [String],
    /// Arguments.
    pub args: &'a [String],
    /// Environment.
    pub env: &'a [EnvVar],
    /// Volumes.
    pub volumes: &'a [VolumeMount],
    /// Limits.
    pub resources: &'a Resources,
    /// When to pull.
    pub policy: ImagePullPolicy,
}

/// One wanted app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    desired: DesiredApp,
    key: AppKey,
    hash: Sha256,
}

impl App {
    /// The app a desired document lists.
    pub fn new(desired: DesiredApp) -> Self {
        let meta = &desired.deployment.metadata;
        let key = AppKey { tenant: meta.tenant.clone(), name: meta.name.clone() };
        let hash = desired.deployment.spec_hash();
        Self { desired, key, hash }
    }

    /// Tenant and name.
    pub fn key(&self) -> &AppKey {
        &self.key
    }

    /// The document's entry.
    pub fn desired(&self) -> &DesiredApp {
        &self.desired
    }

    /// Uid of the deployment.
    pub fn uid(&self) -> &Uid {
        &self.desired.uid
    }

    /// Revision of the deployment.
    pub fn revision(&self) -> Revision {
        self.desired.revision
    }

    /// Spec hash: only a change of this replaces containers.
    pub fn hash(&self) -> Sha256 {
        self.hash
    }

    /// The first eight digits of the hash, for names that people read.
    pub fn short_hash(&self) -> String {
        self.hash.to_string().chars().take(8).collect()
    }

    /// Init containers, in order.
    pub fn inits(&self) -> &[InitContainer] {
        &self.desired.deployment.spec.init_containers
    }

    /// Main containers.
    pub fn mains(&self) -> &[Container] {
        &self.desired.deployment.spec.containers
    }

    /// The main container of that name.
    pub fn main(&self, name: &Name) -> Option<&Container> {
        self.mains().iter().find(|c| c.name == *name)
    }

    /// The probe of a main container.
    pub fn probe(&self, name: &Name) -> Option<&Probe> {
        self.main(name)?.probe.as_ref()
    }

    /// The restart policy of a main container.
    pub fn restart(&self, name: &Name) -> Restart {
        self.main(name).map_or(Restart::Always, |c| c.restart)
    }

    /// The apps that have to be there before anything of it starts, and how.
    pub fn dependencies(&self) -> impl Iterator<Item = (AppKey, DependencyCondition)> {
        let all = self.desired.deployment.spec.depends_on.iter();
        all.map(|d| (AppKey { tenant: self.key.tenant.clone(), name: d.name.clone() }, d.condition))
    }

    /// How it stops.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.desired.deployment.spec.lifecycle
    }

    /// Whether it shares the device's network.
    pub fn host_network(&self) -> bool {
        self.desired.deployment.spec.host_network
    }

    /// Whether its mains share a pod.
    pub fn needs_pod(&self) -> bool {
        self.mains().len() > 1
    }

    /// Any of its containers, by name.
    pub fn container(&self, name: &Name) -> Option<ContainerView<'_>> {
        self.views().find(|view| view.name == name)
    }

    fn views(&self) -> impl Iterator<Item = ContainerView<'_>> {
        let inits = self.inits().iter().map(|c| ContainerView {
            name: &c.name,
            image: &c.image,
            command: &c.command,
            args: &c.args,
            env: &c.env,
            volumes: &c.volumes,
            resources: &c.resources,
            policy: c.image_pull_policy,
        });
        let mains = self.mains().iter().map(|c| ContainerView {
            name: &c.name,
            image: &c.image,
            command: &c.command,
            args: &c.args,
            env: &c.env,
            volumes: &c.volumes,
            resources: &c.resources,
            policy: c.image_pull_policy,
        });
        inits.chain(mains)
    }

    /// Every mount of a volume, of all its containers.
    pub fn volumes(&self) -> impl Iterator<Item = &VolumeMount> {
        self.views().flat_map(|view| view.volumes)
    }

    /// What Podman is asked for when the deployment says `image`.
    pub fn reference(&self, image: &ImageRef) -> String {
        let pin = self.desired.pins.iter().find(|pin| pin.image == *image);
        match pin {
            Some(pin) if !image.is_local() => format!("{}@sha256:{}", without_tag(image.as_str()), pin.digest),
            Some(_) | None => image.as_str().to_owned(),
        }
    }

    /// Every image it needs, once each. Of several policies for one image the most eager counts.
    pub fn images(&self) -> Vec<Image> {
        let mut images: Vec<Image> = Vec::new();
        for view in self.views() {
            let reference = self.reference(view.image);
            match images.iter_mut().find(|image| image.reference == reference) {
                Some(known) if view.policy == ImagePullPolicy::Always => known.policy = ImagePullPolicy::Always,
                Some(_) => {}
                None => {
                    let pin = self.desired.pins.iter().find(|pin| pin.image == *view.image);
                    let local = view.image.is_local();
                    let pinned_id = pin.filter(|_| local).map(|pin| pin.digest);
                    images.push(Image { reference, policy: view.policy, local, pinned_id });
                }
            }
        }
        images
    }

    /// Why this agent cannot run it, in words; nothing of it is started then, and what runs stays as it is.
    pub fn refused(&self) -> Option<String> {
        let spec = &self.desired.deployment.spec;
        let secret = self.views().find_map(|view| {
            let variable = view.env.iter().find(|e| e.value_from.is_some())?;
            Some(format!(
                "container {}: variable {} comes from a secret, which this agent cannot fetch yet; give it a value or remove it",
                view.name, variable.name
            ))
        });
        let pull = spec.init_containers.iter().map(|c| (&c.name, &c.pull_secret));
        let pull = pull.chain(spec.containers.iter().map(|c| (&c.name, &c.pull_secret)));
        let pull = pull.filter(|(_, secret)| secret.is_some()).map(|(name, _)| {
            format!("container {name}: pullSecret is not supported by this agent yet; use an image that needs no credentials")
        });
        let empty = spec.containers.is_empty().then(|| "it has no containers; give it at least one".to_owned());
        secret.or_else(|| pull.into_iter().next()).or(empty)
    }
}

/// The name of an image without tag and digest.
pub fn without_tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        Some(_) | None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_ports_are_told_apart() {
        assert_eq!(without_tag("reg:5000/a/b"), "reg:5000/a/b");
        assert_eq!(without_tag("reg:5000/a/b:1"), "reg:5000/a/b");
        assert_eq!(without_tag("docker.io/library/nginx:1.27"), "docker.io/library/nginx");
    }

    #[test]
    fn keys_are_read_back() {
        let key = AppKey::parse("default.web").unwrap();
        assert_eq!(AppKey::parse(&key.to_string()), Some(key));
        assert_eq!(AppKey::parse("web"), None);
        assert_eq!(AppKey::parse("default.we.b"), None);
    }
}
