//! Version 1 of everything a device acts on or says. Frozen by `golden/v1`: a change of meaning is a new version.

mod command;
mod depend;
mod desired;
mod enroll;
mod heartbeat;
mod log;
mod policy;
mod probe;
mod report;
mod spec;
mod time;
mod validate;

pub use command::{
    Command, CommandInput, END_OF_INPUT, ExecArgs, FrameBody, INPUT_BYTES_MAX, INPUT_WINDOW, LogArgs, ReplyFrame,
    SESSION_SILENCE, SessionArgs, Terminal, TerminalSize, Verb,
};
pub use depend::{circle, circle_words};
pub use desired::{DesiredApp, DesiredDocument, ImagePin};
pub use enroll::{
    EnrollRequest, EnrollResponse, EnrollState, Nonce, RenewHttpRequest, RenewReply, RenewRequest, TRUST_STEPS_MAX,
};
pub use heartbeat::{AgentVersion, Health, Heartbeat, Instance};
pub use log::{LogCursor, LogLine, LogLives, LogPart, LogPlace, LogRest, LogSpan, LogWindow, LogWish};
pub use policy::{Handover, Lifecycle, Rollout, Signal, Window};
pub use probe::{ExecProbe, HttpProbe, Probe, TcpProbe};
pub use report::{
    AppReport, ContainerReport, ContainerRole, ContainerState, DeviceFacts, Phase, Refusal, RefusalKind, Report, Status,
};
pub use spec::{
    ApiVersion, Container, Dependency, DependencyCondition, Deployment, DeploymentSpec, EnvName, EnvVar,
    ImagePullPolicy, ImageRef, InitContainer, Manifest, ManifestKind, Metadata, MountPath, Port, Protocol, Resources,
    Restart, SecretRef, ValueFrom, VolumeMount,
};
pub use time::{SignedTime, TimeNonce, TimeRequest};
