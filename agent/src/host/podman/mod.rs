//! Podman, by libpod's REST API over its unix socket (API level 4.0.0: Podman 4.3 and 5.4 answer it).
//!
//! Decides how each question is put and its answer read. Does not decide what should run: `core` does.

mod containers;
mod damage;
mod events;
mod exec;
mod frames;
mod http;
mod images;
mod manifests;
mod pods;
pub mod service;
mod store;
pub mod told;
mod types;

pub use containers::{
    ContainerSpec, Follow, LogFile, LogLines, Mount, MountMode, Output, Port, Protocol, Stamps, Started,
};
pub use events::Events;
pub use exec::{Attach, ExecEnd, ExecInput, ExecOutput, ExecSpec};
pub use frames::{BadFrame, Demux, Stream};
pub use http::{CHANGE, LOOK, Limit, Podman, PodmanError};
pub use images::{PullLimits, Pulled, Users};
pub use pods::PodSpec;
pub use store::moved_aside;
pub use types::{
    ContainerDetail, ContainerLine, EventLine, ExecDetail, ImageDetail, ImageLine, Info, PodDetail, PodLine, PortLine,
    State,
};
