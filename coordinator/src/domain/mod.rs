//! What should be where, who may do what, and what people are told: pure functions over what is known.
//!
//! Decides: documents, states of devices, tokens, holds, plans, explanations and summaries.
//! Deliberately does not: read a clock, a socket or a file. Time and everything known are inputs.

pub mod change;
pub mod compose;
pub mod depend;
pub mod enrollment;
pub mod explain;
pub mod fleet;
pub mod hold;
pub mod invariants;
pub mod lifecycle;
pub mod liveness;
pub mod publish;
pub mod quarantine;
pub mod record;
pub mod releases;
pub mod repeats;
pub mod resume;
pub mod rollout;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod upgrade;
pub mod view;
pub mod when;

/// The moment at which a question is asked: both clocks of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Milliseconds since the coordinator started; never jumps.
    pub mono_ms: u64,
}
