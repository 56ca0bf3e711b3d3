//! The agent on a device.

pub mod check;
pub mod config;
pub mod core;
pub mod host;
pub mod mesh;
pub mod os;
pub mod parent;
pub mod run;
pub mod sim;
pub mod status;
pub mod supervise;
pub mod upgrade;
pub mod version;
