//! The agent on a device.

pub mod core;
pub mod host;
pub mod supervise;
