//! What a running agent tells of itself to people on the device, in a file that lives as long as the boot.
//!
//! Decides what is told. Holds no secret: it may be copied into a support bundle.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use bramble_contracts::v1::{Health, Instance};
use bramble_contracts::v2::{AgentReport, AppReport, ClockReport};

use serde::{Deserialize, Serialize};

use crate::core::clock;

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

    /// For people.
    pub fn text(&self, running: bool, age_secs: u64) -> String {
        let mut out = String::new();
        let state = if running { "running" } else { "not running (what follows is what it said last)" };
        let mut line = |name: &str, text: &str| {
            let _ = writeln!(out, "{name:<12} {text}");
        };
        line("agent", &format!("{} {state}, pid {}", self.version, self.pid));
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
