//! What the host tells the machine. News carries no data: facts are read anew for each step.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::effect::Effect;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// Something may have changed: the agent started, a document came, a unit ended, the connection or an app changed, time
    /// has passed.
    Look,
    /// An effect could not be done; those after it in its list were not tried. It is tried again at the next look that is
    /// due.
    Failed {
        /// Which.
        effect: Effect,
        /// In words.
        why: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Look => f.write_str("look"),
            Self::Failed { effect, why } => write!(f, "could not {effect}: {why}"),
        }
    }
}
