//! What is so at the moment a step is decided: read by the host just before it, and an input like any other.

use std::fmt;

use bramble_contracts::release::Target;
use bramble_contracts::v1::{AgentVersion, Instance};
use bramble_contracts::v2::AgentWish;
use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Milliseconds since boot.
    pub up_ms: u64,
    /// Changes with every boot.
    pub boot: String,
    /// The version of the program that asks.
    pub own: AgentVersion,
    /// Which instance it runs as.
    pub instance: Instance,
    /// Does it hold the acting lease?
    pub lease: Lease,
    /// What the two links name; absent where the agent does not run from `state/bin`, and so does not replace itself.
    pub links: Option<Links>,
    /// For which machines this program was made; absent in one that takes no releases.
    pub target: Option<Target>,
    /// What the newest accepted document wishes. None changes nothing.
    pub wish: Option<AgentWish>,
    /// Its connection.
    pub mesh: Mesh,
    /// What the wall clock is worth.
    pub clock: Clock,
    /// Bytes free where binaries lie.
    pub free_bytes: u64,
    /// No release below this sequence is taken.
    pub floor: u64,
    /// What the guard did since the last confirmation.
    pub guard: Option<TurnedBack>,
    /// Is the operating system upgraded meanwhile? Then no upgrade of the agent begins.
    #[serde(default)]
    pub system: System,
    /// How long things may take.
    #[serde(default)]
    pub bounds: Bounds,
}

/// The operating system, as far as it stands in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum System {
    /// It is left alone.
    #[default]
    Settled,
    /// It is upgraded: see `os::Ledger::excludes_own_upgrade`.
    Upgrading,
}

/// Who may act, and write the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lease {
    /// This process.
    Held,
    /// Another one, or nobody.
    NotHeld,
}

/// `state/bin/current` and `state/bin/confirmed`, by the versions in the names of what they lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Links {
    /// What a start runs.
    pub current: AgentVersion,
    /// What the guard runs, and turns back to.
    pub confirmed: AgentVersion,
}

/// The connection to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mesh {
    /// None.
    Down,
    /// It stands, without a break.
    Up {
        /// Since this uptime, in milliseconds.
        since_ms: u64,
    },
}

impl Mesh {
    /// Does it stand, and for so long?
    pub fn stands_for(self, up_ms: u64, least_ms: u64) -> bool {
        match self {
            Self::Down => false,
            Self::Up { since_ms } => up_ms.saturating_sub(since_ms) >= least_ms,
        }
    }
}

/// The wall clock, as the clock guard judges it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Clock {
    /// Dates can be judged by it.
    Fit,
    /// They cannot; in words.
    Unfit(String),
}

/// Why the guard turned `current` back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TurnedBack {
    /// It was started too often in one boot.
    Crashes,
    /// It was started in too many boots.
    Boots,
}

impl fmt::Display for TurnedBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crashes => "it was started again and again in one boot without being confirmed",
            Self::Boots => "it was started in one boot after the other without being confirmed",
        })
    }
}

/// How long things may take, in milliseconds of uptime, and how often they may happen. The same for both agents of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bounds {
    /// Keys, manifest and timestamp.
    pub judge_ms: u64,
    /// The download.
    pub stage_ms: u64,
    /// The self-test.
    pub test_ms: u64,
    /// From the start of the new instance until it is ready.
    pub start_ms: u64,
    /// Until the supervisor has stopped and the lease is let go.
    pub halt_ms: u64,
    /// Until the new one has the lease that was let go.
    pub handover_ms: u64,
    /// From the new one's taking over until it is confirmed.
    pub trial_ms: u64,
    /// What the one that waits adds to every bound of the one that acts, before it ends the other's instance.
    pub grace_ms: u64,
    /// Boots in which a trial may act.
    pub trial_boots: u8,
    /// The old one has to be connected for so long to be a witness that the mesh was there.
    pub witness_ms: u64,
    /// Doubts after which the release is to blame.
    pub strikes: u8,
    /// The first pause after a failure that nobody is to blame for; it doubles.
    pub pause_ms: u64,
    /// The longest pause.
    pub pause_max_ms: u64,
    /// A pause is over after so many boots, however short they were.
    pub pause_boots: u8,
    /// Until an effect that failed is tried again.
    pub mend_ms: u64,
    /// Bytes that stay free beside a download.
    pub reserve_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        const MINUTE: u64 = 60_000;
        Self {
            judge_ms: 5 * MINUTE,
            stage_ms: 6 * 60 * MINUTE,
            test_ms: 5 * MINUTE,
            start_ms: 3 * MINUTE,
            halt_ms: 5 * MINUTE,
            handover_ms: MINUTE,
            trial_ms: 10 * MINUTE,
            grace_ms: MINUTE,
            trial_boots: 3,
            witness_ms: 2 * MINUTE,
            strikes: 3,
            pause_ms: MINUTE / 2,
            pause_max_ms: 60 * MINUTE,
            pause_boots: 5,
            mend_ms: MINUTE / 2,
            reserve_bytes: 32 << 20,
        }
    }
}
