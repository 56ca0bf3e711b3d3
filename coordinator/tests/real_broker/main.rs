//! Keys, broker, store and mesh against a real nats-server: `$BRAMBLE_NATS_SERVER`, else the one in
//! `$BRAMBLE_CACHE` (or `~/.cache/bramble`), else the one on `PATH`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod attacks;
mod broker;
mod common;
mod mesh;
mod quarantine;
mod releases;
mod smoke;
mod store;
mod upgrade;
