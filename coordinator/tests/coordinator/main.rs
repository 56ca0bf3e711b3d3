//! The coordinator over a store in memory and a simulated mesh: its API, and how it converges.
//!
//! The same code with the real broker and real agents is tested in `fleet-tests`.

mod api;
mod converge;
mod hold;
mod sim;
