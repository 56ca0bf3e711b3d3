//! Keys, broker, store and mesh against a real nats-server: `$BRAMBLE_NATS_SERVER`, else the one in
//! `$BRAMBLE_CACHE` (or `~/.cache/bramble`), else the one on `PATH`.

mod attacks;
mod broker;
mod common;
mod mesh;
mod quarantine;
mod store;
