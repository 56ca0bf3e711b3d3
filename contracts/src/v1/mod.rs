//! Version 1 of everything a device acts on or says. Frozen by `golden/v1`: a change of meaning is a new version.

mod command;
mod desired;
mod enroll;
mod heartbeat;
mod report;
mod spec;
mod validate;

pub use command::{Command, CommandInput, END_OF_INPUT, ExecArgs, FrameBody, LogArgs, ReplyFrame, Verb};
pub use desired::{DesiredApp, DesiredDocument, ImagePin};
pub use enroll::{EnrollRequest, EnrollResponse, EnrollState, Nonce, RenewHttpRequest, RenewReply, RenewRequest};
pub use heartbeat::{AgentVersion, Health, Heartbeat, Instance};
pub use report::{
    AppReport, ContainerReport, ContainerRole, ContainerState, DeviceFacts, Phase, Refusal, RefusalKind, Report, Status,
};
pub use spec::{
    ApiVersion, Container, Dependency, DependencyCondition, Deployment, DeploymentSpec, EnvName, EnvVar, ExecProbe,
    Handover, HttpProbe, ImagePullPolicy, ImageRef, InitContainer, Lifecycle, Manifest, ManifestKind, Metadata,
    MountPath, Port, Probe, Protocol, Resources, Restart, Rollout, SecretRef, Signal, TcpProbe, ValueFrom, VolumeMount,
    Window,
};

/// The newest desired document this build reads; agents say it, coordinators write no newer one.
pub const NEWEST_DOCUMENT: u8 = 1;
