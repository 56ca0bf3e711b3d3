//! What happens to an upgrade, and why things failed. Every answer names what it answers: a late one changes nothing.

use std::fmt;

use bramble_contracts::bytes::Sha256;
use bramble_contracts::v1::{AgentVersion, Instance};
use bramble_contracts::v2::{AgentWish, UpgradeWord};
use serde::{Deserialize, Serialize};

use super::effect::Effect;

/// One try at one release. An operator's retry has the next number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attempt {
    /// The digest of the signed manifest.
    pub manifest: Sha256,
    /// From 1.
    pub number: u32,
}

impl From<&AgentWish> for Attempt {
    fn from(wish: &AgentWish) -> Self {
        Self { manifest: wish.manifest, number: wish.attempt }
    }
}

/// A release that was judged and may be taken by this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// As people say it.
    pub version: AgentVersion,
    /// Its sequence.
    pub release_seq: u64,
    /// Once it is confirmed, none below this is taken.
    pub min_seq: u64,
    /// Bytes of the binary.
    pub size: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// What went wrong, and who is to blame for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In words, for people.
    pub why: String,
    /// Whose.
    pub fault: Fault,
}

impl Failure {
    /// In words.
    pub fn new(fault: Fault, why: impl Into<String>) -> Self {
        Self { why: why.into(), fault }
    }
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// The release's: it is refused until the next attempt.
    Release,
    /// Perhaps the release's (it died; somebody may have killed it): so many of these, and it is.
    Doubt,
    /// It had no connection. The release's, when the one that takes over stands connected; else nobody's.
    Unconnected,
    /// Nobody's: it is tried again by itself, after a pause.
    Nobody,
}

/// What the host tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// This process has started, and has tried once to get the lease without waiting: `facts.lease` says how that went.
    Started,
    /// The lease it waited for is its own.
    LeaseGot,
    /// A desired document was accepted; or the connection, the clock or the room changed.
    Wished,
    /// The answer to [`Effect::Judge`].
    Judged {
        /// To which.
        of: Attempt,
        /// It may be taken, or why not.
        result: Result<Admission, Failure>,
    },
    /// The answer to [`Effect::Stage`]: the binary lies in its place, whole and durable.
    Staged {
        /// Which.
        of: Attempt,
        /// Or why not.
        result: Result<(), Failure>,
    },
    /// The answer to [`Effect::SelfTest`].
    Tested {
        /// Which.
        of: Attempt,
        /// It passed, or what failed.
        result: Result<(), Failure>,
    },
    /// The other instance, which [`Effect::StartInstance`] started, has said that it is ready; or it will not be.
    Ready {
        /// Of which.
        of: Attempt,
        /// Or why not.
        result: Result<(), Failure>,
    },
    /// The answer to [`Effect::TurnLink`]: `current` names this version, durably.
    LinkTurned(AgentVersion),
    /// The answer to [`Effect::Halt`]: apps are not supervised, commands not answered, nothing is reported any more.
    Halted,
    /// Every desired app was looked at by this process since it acts, on the newest document, and nothing is under way.
    Reconciled,
    /// The coordinator says something, signed, to this very session.
    Word(UpgradeWord),
    /// The process of the other instance has ended.
    InstanceGone(Instance),
    /// An effect could not be done; those after it in its list were not tried.
    Failed {
        /// Which.
        effect: Effect,
        /// In words.
        why: String,
    },
    /// Time has passed: see [`super::wake_at`].
    Tick,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut answer = |what: &str, failed: Option<&Failure>| match failed {
            None => write!(f, "{what}"),
            Some(Failure { why, fault }) => write!(f, "not {what}: {why} ({fault})"),
        };
        match self {
            Self::Judged { result, .. } => answer("admitted", result.as_ref().err()),
            Self::Staged { result, .. } => answer("staged", result.as_ref().err()),
            Self::Tested { result, .. } => answer("tested", result.as_ref().err()),
            Self::Ready { result, .. } => answer("ready", result.as_ref().err()),
            Self::Started => f.write_str("started"),
            Self::LeaseGot => f.write_str("got the lease"),
            Self::Wished => f.write_str("wished"),
            Self::LinkTurned(version) => write!(f, "link turned to {version}"),
            Self::Halted => f.write_str("halted"),
            Self::Reconciled => f.write_str("reconciled"),
            Self::Word(UpgradeWord::Confirm { release_seq }) => write!(f, "told: confirm {release_seq}"),
            Self::Word(UpgradeWord::Retire) => f.write_str("told: retire"),
            Self::Word(UpgradeWord::Abort { release_seq, why }) => write!(f, "told: abort {release_seq} ({why})"),
            Self::InstanceGone(instance) => write!(f, "instance {} is gone", instance.name()),
            Self::Failed { effect, why } => write!(f, "could not {effect}: {why}"),
            Self::Tick => f.write_str("tick"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Release => "the release is to blame",
            Self::Doubt => "in doubt",
            Self::Unconnected => "unconnected",
            Self::Nobody => "nobody is to blame",
        })
    }
}
