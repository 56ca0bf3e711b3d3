//! The coordinator over a store in memory and a simulated mesh: its API, and how it converges.
//!
//! The same code with the real broker and real agents is tested in `fleet-tests`.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod api;
mod bounds;
mod converge;
mod hold;
mod releases;
mod rollouts;
mod sessions;
mod sim;
mod smoke;
