//! Every byte that crosses a machine, a reboot or a process.
//!
//! Decides: names, limits, wire layouts, subjects, signatures and what a well-formed document is.
//! Deliberately does not: read a clock, a file, a socket or a random source; those are inputs.
//!
//! Programs speak postcard inside a versioned [`envelope`]; people read the same types as JSON, YAML or TOML.
//! Types that devices act on or say live in a module per wire version ([`v1`], [`v2`], [`v3`]), frozen by golden files.
#![warn(missing_docs)]

pub mod api;
pub mod boot;
pub mod bytes;
pub mod envelope;
pub mod id;
pub mod label;
pub mod lvm;
mod multisig;
#[cfg(feature = "openapi")]
mod openapi;
pub mod problem;
pub mod quantity;
pub mod release;
pub mod rights;
pub mod signed;
pub mod smoke;
pub mod stamp;
pub mod subjects;
pub mod token;
pub mod trust;
pub mod v1;
pub mod v2;
pub mod v3;
pub mod window;
pub mod zone;

pub use id::{DeviceId, Generation, Name, Revision, SessionId, Tenant, Uid};
pub use label::{Labels, Selector};
