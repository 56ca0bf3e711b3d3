//! What the agent decides, as pure functions: no files, sockets, clocks or processes here.
//!
//! Time (uptime), boot id and random bits are inputs. The supervisor joins this with `host`.

pub mod accept;
pub mod app;
pub mod backoff;
pub mod clock;
pub mod disk;
pub mod have;
pub mod heal;
pub mod mapping;
pub mod memory;
pub mod os;
pub mod plan;
pub mod record;
pub mod report;
pub mod sntp;
pub mod stages;
pub mod step;
pub mod upgrade;
