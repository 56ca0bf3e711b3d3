//! What an app is: the deployment as people write it, and as devices read it.
//!
//! One set of types for both. So no `flatten`, no `untagged` and no skipped fields here: postcard could not read them.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{
    policy::{Lifecycle, Rollout},
    probe::Probe,
};
use crate::{
    id::{Name, Tenant, checked_text},
    label::{Labels, Selector},
    quantity::{ByteSize, MilliCpus, Millis},
};

fn is_image(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_./:@".contains(&b);
    (1..=512).contains(&text.len())
        && text.bytes().all(good)
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && !text.contains("//")
}

checked_text!(
    /// An image: `registry/path:tag` or `registry/path@sha256:…`. `localhost/…` is never pulled.
    ImageRef,
    "image",
    "registry/path:tag or registry/path@sha256:digest, at most 512 characters",
    is_image
);
checked_text!(
    /// The name of an environment variable (POSIX).
    EnvName,
    "environment variable name",
    "letters, digits and _, not beginning with a digit, at most 256",
    |t| (1..=256).contains(&t.len())
        && !t.as_bytes()[0].is_ascii_digit()
        && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
);
checked_text!(
    /// An absolute path inside a container, without `.` and `..` parts.
    MountPath,
    "path",
    "absolute, below /, without . or .. parts, : or control characters, at most 1024 characters",
    |t| t.len() > 1
        && t.len() <= 1024
        && t.starts_with('/')
        && !t.chars().any(|c| c.is_control() || c == ':' || c == ',')
        && t[1..].trim_end_matches('/').split('/').all(|part| !matches!(part, "" | "." | ".."))
);

impl ImageRef {
    /// Is it made on the device, and so never pulled?
    pub fn is_local(&self) -> bool {
        self.as_str().starts_with("localhost/")
    }
}

/// The only version of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ApiVersion {
    /// `bramble/v1`
    #[serde(rename = "bramble/v1")]
    V1,
}

/// The only kind of manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ManifestKind {
    /// An app.
    Deployment,
}

/// A deployment as a file or an HTTP body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Always `bramble/v1`.
    pub api_version: ApiVersion,
    /// Always `Deployment`.
    pub kind: ManifestKind,
    /// What it is called.
    pub metadata: Metadata,
    /// What it is.
    pub spec: DeploymentSpec,
}

impl From<Deployment> for Manifest {
    fn from(Deployment { metadata, spec }: Deployment) -> Self {
        Self { api_version: ApiVersion::V1, kind: ManifestKind::Deployment, metadata, spec }
    }
}

impl From<Manifest> for Deployment {
    fn from(
        Manifest { api_version: ApiVersion::V1, kind: ManifestKind::Deployment, metadata, spec }: Manifest,
    ) -> Self {
        Self { metadata, spec }
    }
}

/// A deployment: an app, for the devices its selector picks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deployment {
    /// What it is called.
    pub metadata: Metadata,
    /// What it is.
    pub spec: DeploymentSpec,
}

/// Name, tenant and labels of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Unique in the tenant.
    pub name: Name,
    /// Whom it belongs to.
    #[serde(default)]
    pub tenant: Tenant,
    /// For people and filters.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
}

/// The app and its policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentSpec {
    /// For which devices.
    pub selector: Selector,
    /// In order, each to completion, before the main containers. They run again after a reboot: idempotent, please.
    #[serde(default)]
    pub init_containers: Vec<InitContainer>,
    /// One is a plain container; several share a pod.
    pub containers: Vec<Container>,
    /// How it stops and is replaced.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// How a change goes through the fleet.
    #[serde(default)]
    pub rollout: Rollout,
    /// Share the device's own network instead of having one.
    #[serde(default)]
    pub host_network: bool,
    /// Other deployments on the same device that must be there first.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
}

/// A container that runs to completion before the main ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InitContainer {
    /// Unique in the deployment.
    pub name: Name,
    /// What it runs.
    pub image: ImageRef,
    /// Replaces the image's entry point and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Replaces the image's arguments, or follows `command`.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// Volumes of the deployment.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// After this it is killed and the deployment fails.
    #[serde(default = "init_timeout")]
    pub timeout: Millis,
    /// When to pull.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,
    /// Credentials for the registry.
    #[serde(default)]
    pub pull_secret: Option<SecretRef>,
}

fn init_timeout() -> Millis {
    Millis::secs(300)
}

/// A main container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Unique in the deployment; its host name inside the pod.
    pub name: Name,
    /// What it runs.
    pub image: ImageRef,
    /// Replaces the image's entry point and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Replaces the image's arguments, or follows `command`.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: Vec<EnvVar>,
    /// Ports opened on the device.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Volumes of the deployment.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// How to see that it is healthy.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// When the agent starts it again.
    #[serde(default)]
    pub restart: Restart,
    /// When to pull.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,
    /// Credentials for the registry.
    #[serde(default)]
    pub pull_secret: Option<SecretRef>,
    /// Other containers of this deployment that must be there first.
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
}

/// One environment variable: `value`, or `valueFrom`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// Its name.
    pub name: EnvName,
    /// Its value.
    #[serde(default)]
    pub value: Option<String>,
    /// Or where the device finds its value.
    #[serde(default)]
    pub value_from: Option<ValueFrom>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueFrom {
    /// A secret, fetched by the device.
    pub secret: SecretRef,
}

/// A secret by path and key; never its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Path in the secret store.
    pub path: String,
    /// Key at that path.
    pub key: String,
}

/// A port opened on the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// On the device.
    pub host: u16,
    /// On which of the device's addresses; by default, and as `::`, on all of them. IPv6 ones need an app network with
    /// IPv6.
    #[serde(default = "any_address", rename = "hostIP")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub host_ip: IpAddr,
    /// In the container.
    pub container: u16,
    /// TCP by default.
    #[serde(default)]
    pub protocol: Protocol,
}

fn any_address() -> IpAddr {
    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
}

/// A volume of the deployment, seen at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeMount {
    /// The volume; containers of one deployment that name the same share it.
    pub name: Name,
    /// Where the container sees it.
    pub path: MountPath,
    /// May not be written through this mount.
    #[serde(default)]
    pub read_only: bool,
}

/// Limits of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Memory; more than this and the kernel kills it.
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// Processors.
    #[serde(default)]
    pub cpus: Option<MilliCpus>,
}

/// When the agent starts a main container again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Restart {
    /// Whenever it stops.
    #[default]
    Always,
    /// When it stops with another exit code than 0.
    OnFailure,
    /// Not in this boot.
    Never,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum ImagePullPolicy {
    /// When it is not there.
    #[default]
    IfNotPresent,
    /// Before every fresh container; if the registry is away and the image is there, that one is used.
    Always,
    /// Never: it must be there.
    Never,
}

/// Something that must be there first: a container of the same deployment, or a deployment on the same device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dependency {
    /// Its name.
    pub name: Name,
    /// In what state.
    #[serde(default)]
    pub condition: DependencyCondition,
}

/// What is asked of a dependency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum DependencyCondition {
    /// It was started.
    #[default]
    Started,
    /// Its probe passes.
    Healthy,
    /// It ended with exit code 0.
    Completed,
}
