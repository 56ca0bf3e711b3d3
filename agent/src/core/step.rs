//! What the agent can do to a device, as printable data.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::Name;

use super::app::{App, AppKey, Role};
use super::heal::Damage;
use super::mapping::{Address, Mapping};

/// Who we are, as containers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Id, for ever.
    pub id: String,
    /// Name, as of now.
    pub name: String,
}

/// How a container is asked to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopRule {
    /// The signal.
    pub signal: String,
    /// How long it may take.
    pub grace: Duration,
    /// What then.
    pub then: AfterGrace,
}

/// What happens to a container that does not stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterGrace {
    /// SIGKILL.
    Kill,
    /// It runs on, and the step fails.
    GiveUp,
}

/// A container by name and Podman's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name in the deployment.
    pub name: Name,
    /// Podman's id.
    pub id: String,
    /// Nonce in the record.
    pub nonce: String,
}

/// Whether the app can do without a fresh pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullNeed {
    /// The image is not there.
    Missing,
    /// It is there; a newer one would be better.
    Refresh,
    /// It is there and damaged: it is removed first, with the containers that are made of it.
    Repair,
}

/// Who may listen on host ports that are about to be led to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listeners {
    /// Nobody: a program that does would be cut off.
    Nobody,
    /// Podman, which holds the ports of this app's old container.
    Podman,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch an image. Runs beside everything else.
    Pull {
        /// Reference.
        image: String,
        /// How badly.
        need: PullNeed,
    },
    /// Compare an image's files with what was unpacked. Runs beside everything else.
    Examine {
        /// Reference.
        image: String,
    },
    /// From here on this spec is in charge: there is no way back but a newer one.
    Adopt {
        /// The spec.
        app: Arc<App>,
    },
    /// Ask containers to stop, all at once, and wait.
    Stop {
        /// Which.
        targets: Vec<Target>,
        /// How.
        rule: StopRule,
    },
    /// Kill an init container that takes too long.
    Expire {
        /// Which.
        target: Target,
        /// How long it was allowed.
        after: Duration,
    },
    /// Remove a stopped container.
    Remove {
        /// Which.
        target: Target,
    },
    /// Remove a pod whose containers are gone.
    RemovePod {
        /// Which.
        target: Target,
    },
    /// Take something that is not there any more out of the record.
    Forget {
        /// What they were.
        names: Vec<Name>,
        /// Their nonces.
        nonces: Vec<String>,
    },
    /// Make the pod.
    CreatePod {
        /// Of which app.
        app: Arc<App>,
        /// The new nonce.
        nonce: String,
    },
    /// Make a container.
    Create {
        /// Of which app.
        app: Arc<App>,
        /// Which.
        name: Name,
        /// What for.
        role: Role,
        /// Id of the pod it joins.
        pod: Option<String>,
        /// The new nonce.
        nonce: String,
        /// Who we are.
        device: Device,
    },
    /// Start a container.
    Start {
        /// Which.
        target: Target,
        /// What for.
        role: Role,
    },
    /// Lead the app's host ports to a container, in one transaction. Connections that are open stay where they are.
    Map {
        /// Which app.
        key: AppKey,
        /// Where they lead from now on.
        mapping: Mapping,
        /// All addresses of the container.
        addresses: Vec<Address>,
        /// Addresses that nothing of the app has any more.
        stale: BTreeSet<IpAddr>,
        /// Whom to expect on the ports.
        listeners: Listeners,
    },
    /// Lead the app's host ports nowhere.
    Unmap {
        /// Which app.
        key: AppKey,
    },
    /// Wait until no connection is open to containers that have been replaced, at most as long as they may take to
    /// stop; then stop them. Runs beside everything else.
    Retire {
        /// Which.
        targets: Vec<Target>,
        /// Where connections to them lead.
        addresses: BTreeSet<IpAddr>,
        /// How.
        rule: StopRule,
    },
    /// Ask a container whether it is healthy. Runs beside everything else.
    Probe {
        /// Of which app.
        app: Arc<App>,
        /// Which.
        target: Target,
    },
}

/// What a step brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// Something was made, with this id.
    Made(String),
}

/// Why a step did not succeed. All of them are tried again, with growing pauses: what stands in the way may go away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// A name we need belongs to a container or pod that we did not make.
    #[error(
        "{name} exists in Podman and was not made by this agent, so it is not touched; remove or rename it (`podman rm {name}`), then this goes on by itself"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// It did not stop in time, and may not be killed.
    #[error(
        "{names} did not stop within {grace_s} s and sigkillFallback is off, so it runs on; stop it by hand or allow the fallback"
    )]
    StillRunning {
        /// Which.
        names: String,
        /// How long it had.
        grace_s: u64,
    },
    /// A probe failed.
    #[error("{0}")]
    Unhealthy(String),
    /// Storage is damaged.
    #[error("{why}")]
    Damaged {
        /// What of it.
        damage: Damage,
        /// Podman's words.
        why: String,
    },
    /// The device's tools refused or are away.
    #[error("{0}")]
    Refused(String),
    /// Memory of what we did could not be made durable, so nothing was done.
    #[error("{0}")]
    State(String),
}

/// The background key of retiring: one at a time for each app.
pub const RETIRE: &str = "retire";

impl Step {
    /// Runs beside the others, at most once at a time; the key says which is which.
    pub fn background_key(&self) -> Option<String> {
        match self {
            Self::Pull { image, .. } => Some(format!("pull {image}")),
            Self::Examine { image } => Some(format!("examine {image}")),
            Self::Probe { target, .. } => Some(format!("probe {} {}", target.name, target.id)),
            Self::Retire { .. } => Some(RETIRE.to_owned()),
            Self::Adopt { .. }
            | Self::Stop { .. }
            | Self::Expire { .. }
            | Self::Remove { .. }
            | Self::RemovePod { .. }
            | Self::Forget { .. }
            | Self::CreatePod { .. }
            | Self::Create { .. }
            | Self::Map { .. }
            | Self::Unmap { .. }
            | Self::Start { .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pull { image, need: PullNeed::Missing } => write!(f, "pull {image}"),
            Self::Pull { image, need: PullNeed::Refresh } => write!(f, "refresh {image}"),
            Self::Pull { image, need: PullNeed::Repair } => write!(f, "repair {image}"),
            Self::Examine { image } => write!(f, "examine {image}"),
            Self::Adopt { app } => write!(f, "adopt revision {}", app.revision()),
            Self::Stop { targets, rule } | Self::Retire { targets, rule, .. } => {
                f.write_str(if matches!(self, Self::Stop { .. }) { "stop" } else { "retire" })?;
                for target in targets {
                    write!(f, " {}", target.name)?;
                }
                write!(f, " ({} {}s", rule.signal, rule.grace.as_secs())?;
                f.write_str(match rule.then {
                    AfterGrace::Kill => " kill)",
                    AfterGrace::GiveUp => ")",
                })
            }
            Self::Expire { target, after } => write!(f, "expire {} after {}s", target.name, after.as_secs()),
            Self::Remove { target } => write!(f, "remove {}", target.name),
            Self::RemovePod { target } => write!(f, "remove-pod {}", target.name),
            Self::Forget { names, .. } => {
                f.write_str("forget")?;
                names.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Self::CreatePod { app, .. } => write!(f, "create-pod {}", app.key().name),
            Self::Create { name, role: Role::Init, .. } => write!(f, "create-init {name}"),
            Self::Create { name, .. } => write!(f, "create {name}"),
            Self::Start { target, role: Role::Init } => write!(f, "run-init {}", target.name),
            Self::Start { target, .. } => write!(f, "start {}", target.name),
            Self::Map { mapping, .. } => write!(f, "map {mapping}"),
            Self::Unmap { .. } => f.write_str("unmap"),
            Self::Probe { target, .. } => write!(f, "probe {}", target.name),
        }
    }
}
