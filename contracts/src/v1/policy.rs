//! How an app stops, is replaced, and goes through the fleet. No containers here: see `spec`.

use serde::{Deserialize, Serialize};

use crate::{
    id::checked_text,
    quantity::{Amount, Millis},
};

checked_text!(
    /// A signal by name, `SIGTERM`.
    Signal,
    "signal",
    "one of SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGKILL, SIGWINCH",
    |t| matches!(t, "SIGTERM" | "SIGINT" | "SIGQUIT" | "SIGHUP" | "SIGUSR1" | "SIGUSR2" | "SIGKILL" | "SIGWINCH")
);

/// How an app stops and is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    /// Asks the container to stop.
    #[serde(default = "stop_signal")]
    pub stop_signal: Signal,
    /// How long it may take.
    #[serde(default = "grace_period")]
    pub grace_period: Millis,
    /// Kill it afterwards; without, an app that does not stop fails the upgrade and runs on.
    #[serde(default = "yes")]
    pub sigkill_fallback: bool,
    /// In which order the old one goes and the new one comes.
    #[serde(default)]
    pub handover: Handover,
}

fn stop_signal() -> Signal {
    "SIGTERM".parse().expect("invariant: a known signal")
}
fn grace_period() -> Millis {
    Millis::secs(30)
}
fn yes() -> bool {
    true
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            stop_signal: stop_signal(),
            grace_period: grace_period(),
            sigkill_fallback: true,
            handover: Handover::default(),
        }
    }
}

/// In which order the old one goes and the new one comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Handover {
    /// The old one stops, then the new one starts.
    #[default]
    StopFirst,
    /// The new one is healthy before the old one stops.
    StartFirst,
}

/// How a change goes through the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    /// Devices in each batch, the last one `100%`.
    #[serde(default = "one_batch")]
    pub batches: Vec<Amount>,
    /// Share of a batch that must be confirmed before the next.
    #[serde(default = "threshold")]
    pub success_threshold: Amount,
    /// How long an app must be healthy to be confirmed.
    #[serde(default = "healthy_for")]
    pub healthy_for: Millis,
    /// Silence for this long is failure.
    #[serde(default = "progress_deadline")]
    pub progress_deadline: Millis,
    /// How many devices may be without the app at once.
    #[serde(default = "all")]
    pub max_unavailable: Amount,
    /// An operator approves each batch.
    #[serde(default)]
    pub approve: bool,
    /// Apps stop only inside this window.
    #[serde(default)]
    pub window: Option<Window>,
}

fn one_batch() -> Vec<Amount> {
    vec![all()]
}
fn all() -> Amount {
    Amount::Percent(100)
}
fn threshold() -> Amount {
    Amount::Percent(95)
}
fn healthy_for() -> Millis {
    Millis::secs(60)
}
fn progress_deadline() -> Millis {
    Millis::secs(600)
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            batches: one_batch(),
            success_threshold: threshold(),
            healthy_for: healthy_for(),
            progress_deadline: progress_deadline(),
            max_unavailable: all(),
            approve: false,
            window: None,
        }
    }
}

/// A weekly window, judged on the device; see [`crate::window`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// `Mon-Fri`, `Sat,Sun`.
    pub days: String,
    /// `02:00`; later than `to` crosses midnight.
    pub from: String,
    /// `05:00`.
    pub to: String,
    /// IANA name, `Europe/Paris`.
    pub time_zone: String,
}
