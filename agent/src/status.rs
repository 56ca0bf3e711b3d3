//! What a running agent tells of itself to people on the device, in a file that lives as long as the boot.
//!
//! Decides what is told. Holds no secret: it may be copied into a support bundle.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use bramble_contracts::v1::{Health, Instance, Status as Stand};
use bramble_contracts::v2::{AgentReport, AppReport, ClockReport, UpgradePhase, UpgradeReport};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::core::clock;
use crate::core::disk::Bytes;

/// One look at an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Which of two agents it is.
    #[serde(default)]
    pub instance: Instance,
    /// Does it act? Else it waits until the other one of the device lets go.
    #[serde(default)]
    pub acts: bool,
    /// Of the device; absent before enrolment.
    pub device: Option<String>,
    /// This run.
    pub session: String,
    /// How it stands with the broker, in words.
    pub link: String,
    /// Of the desired document it acts on.
    pub generation: u64,
    /// How it is.
    pub health: Health,
    /// What its wall clock is worth.
    #[serde(default)]
    pub clock: ClockReport,
    /// The agent itself.
    #[serde(default)]
    pub program: AgentReport,
    /// Its apps.
    pub apps: Vec<AppReport>,
    /// What people should look at.
    pub alarms: Vec<String>,
    /// Messages it refused, by number.
    pub refused: u64,
    /// Uptime at which this was written, in milliseconds.
    pub up_ms: u64,
}

impl Status {
    /// Replaces the file as a whole. It lies in memory (`/run`), so nothing is synced.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let temp = path.with_extension("new");
        let mut file = std::fs::File::create(&temp)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(&temp, path)
    }

    /// Reads what an agent wrote last.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Of the agent that acts, or acted last.
    pub fn of_device(config: &Config) -> Option<Self> {
        let both = [Instance::A, Instance::B].map(|instance| Self::read(&config.status_file_of(instance)));
        both.into_iter().flatten().max_by_key(|status| (status.acts, status.up_ms))
    }

    /// For people.
    pub fn text(&self, running: bool, age_secs: u64) -> String {
        let mut out = String::new();
        let state = if running { "running" } else { "not running (what follows is what it said last)" };
        let mut line = |name: &str, text: &str| {
            let _ = writeln!(out, "{name:<12} {text}");
        };
        line("agent", &format!("{} {state}, pid {}, instance {}", self.version, self.pid, self.instance.name()));
        if let Some(upgrade) = &self.program.upgrade {
            line("upgrade", &upgrade_words(upgrade));
        }
        line("device", self.device.as_deref().unwrap_or("not enrolled"));
        line("broker", &self.link);
        line("health", &format!("{:?}, {age_secs} s ago", self.health).to_lowercase());
        line("clock", &clock::words(&self.clock));
        line("generation", &self.generation.to_string());
        for app in &self.apps {
            let mut text = format!("{}/{} revision {}: {:?}", app.tenant, app.deployment, app.revision, app.phase);
            if !app.reason.is_empty() {
                let _ = write!(text, " ({})", app.reason);
            }
            line("app", &text);
        }
        for alarm in &self.alarms {
            line("alarm", alarm);
        }
        if self.refused > 0 {
            line("refused", &format!("{} messages so far; `bramble audit` has them", self.refused));
        }
        out
    }
}

/// An upgrade in one line.
pub fn upgrade_words(upgrade: &UpgradeReport) -> String {
    let UpgradeReport { version, attempt, phase, bytes_got, bytes_all, reason, .. } = upgrade;
    let place = match phase {
        UpgradePhase::Waiting => "waits".to_owned(),
        UpgradePhase::Draining => "its release is judged".to_owned(),
        UpgradePhase::Staging => format!("{} of {} are here", Bytes(*bytes_got), Bytes(*bytes_all)),
        UpgradePhase::Verifying => "it tests itself".to_owned(),
        UpgradePhase::CutoverReady => "it starts beside the old one".to_owned(),
        UpgradePhase::Trial => "it is on trial".to_owned(),
        UpgradePhase::Stopping => "it is confirmed, the old one is about to end".to_owned(),
        UpgradePhase::Done => match upgrade.status {
            Stand::Confirmed => "it is confirmed".to_owned(),
            Stand::RolledBack => "it was rolled back".to_owned(),
            Stand::Failed | Stand::Staged | Stand::Trial => "it failed".to_owned(),
        },
    };
    let refused = if upgrade.blamed { ", and is refused until somebody retries it" } else { "" };
    let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    format!("to {version}, attempt {attempt}: {place}{refused}{why}")
}
