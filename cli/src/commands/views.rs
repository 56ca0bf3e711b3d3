//! What lists show of each kind of thing.

use std::fmt::Debug;

use bramble_contracts::{
    Labels,
    api::{
        AuditEvent, Connection, DeploymentView, DeviceState, DeviceView, Outcome, TargetView, TenantView, TokenView,
    },
    v1::{Health, Phase, Status},
    v2::{ClockReport, ClockVerdict},
};
use serde::{Serialize, de::DeserializeOwned};
use time::OffsetDateTime;

use crate::output::{Tone, age, clean, pipeline};

/// A cell of a table.
pub(super) type Cell = (Tone, String);

/// Something that can be listed.
pub(super) trait Listed: Serialize + DeserializeOwned {
    /// Headings.
    const HEAD: &'static [&'static str];
    /// More headings, for `-o wide`.
    const WIDE: &'static [&'static str];
    /// What it is called, among its like.
    fn key(&self) -> String;
    /// Its row.
    fn cells(&self, now: OffsetDateTime) -> Vec<Cell>;
    /// The rest of its row.
    fn wide(&self) -> Vec<Cell>;
    /// What stands below the row where one thing is shown wide; nothing for most.
    fn below(&self) -> String {
        String::new()
    }
}

/// A plain cell.
pub(super) fn plain(text: impl Into<String>) -> Cell {
    (Tone::Plain, text.into())
}

fn dim(text: impl Into<String>) -> Cell {
    (Tone::Dim, text.into())
}

/// The word that the API uses for a value of one of our closed lists.
pub(super) fn word<T: Serialize + Debug>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => format!("{value:?}"),
    }
}

/// `a=1,b=2`.
pub(super) fn labels(labels: &Labels) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// A connection in its colour.
pub(super) fn connection(c: Connection) -> Cell {
    let tone = match c {
        Connection::Online => Tone::Good,
        Connection::Offline => Tone::Bad,
        Connection::Recovering => Tone::Warn,
        Connection::Never => Tone::Dim,
    };
    (tone, word(&c))
}

/// Health in its colour.
pub(super) fn health(h: Health) -> Cell {
    let tone = match h {
        Health::Unknown => Tone::Dim,
        Health::Healthy => Tone::Good,
        Health::Progressing => Tone::Warn,
        Health::Degraded => Tone::Bad,
    };
    (tone, word(&h))
}

/// Health in its colour; where the clock is why, it says so.
pub(super) fn device_health(d: &DeviceView) -> Cell {
    let (tone, text) = health(d.health);
    if d.clock.is_wrong() { (tone, format!("{text} (clock)")) } else { (tone, text) }
}

/// A clock in its colour: `fit`, or by how much it is wrong.
pub(super) fn clock(c: &ClockReport) -> Cell {
    let tone = match c.verdict {
        ClockVerdict::Unknown => Tone::Dim,
        ClockVerdict::Fit => Tone::Good,
        ClockVerdict::Skewed | ClockVerdict::Disputed => Tone::Bad,
    };
    let skew = c.skew_ms.filter(|_| c.is_wrong()).map(|ms| format!(" {:+}s", ms / 1000)).unwrap_or_default();
    (tone, format!("{}{skew}", word(&c.verdict)))
}

/// A status in its colour.
pub(super) fn status(s: Status) -> Cell {
    let tone = match s {
        Status::Staged | Status::Trial => Tone::Warn,
        Status::Confirmed => Tone::Good,
        Status::RolledBack | Status::Failed => Tone::Bad,
    };
    (tone, word(&s))
}

/// A phase in its colour.
pub(super) fn phase(p: Phase) -> Cell {
    let tone = match p {
        Phase::Preparing | Phase::Stopping | Phase::Starting | Phase::Probing | Phase::Removing | Phase::Waiting => {
            Tone::Warn
        }
        Phase::Running | Phase::Completed => Tone::Good,
        Phase::CrashLoop | Phase::Failed => Tone::Bad,
    };
    (tone, word(&p))
}

impl Listed for DeviceView {
    const HEAD: &'static [&'static str] = &["NAME", "STATE", "CONNECTION", "HEALTH", "GENERATION", "SEEN", "LABELS"];
    const WIDE: &'static [&'static str] = &["AGENT", "CLOCK", "ID", "ENROLLED", "NOTE"];

    fn key(&self) -> String {
        self.name.to_string()
    }

    fn cells(&self, now: OffsetDateTime) -> Vec<Cell> {
        let tone = match self.state {
            DeviceState::Active => Tone::Good,
            DeviceState::Pending => Tone::Warn,
            DeviceState::Quarantined => Tone::Bad,
            DeviceState::Decommissioned => Tone::Dim,
        };
        let generation = if self.hold.is_some() {
            (Tone::Bad, format!("{} (on hold)", self.reported_generation))
        } else if self.reported_generation == self.desired_generation {
            plain(self.desired_generation.to_string())
        } else {
            (Tone::Warn, format!("{} of {}", self.reported_generation, self.desired_generation))
        };
        vec![
            plain(self.name.as_str()),
            (tone, word(&self.state)),
            connection(self.connection),
            device_health(self),
            generation,
            dim(self.last_seen.as_deref().map_or_else(|| "never".to_owned(), |at| age(at, now))),
            plain(labels(&self.labels)),
        ]
    }

    fn wide(&self) -> Vec<Cell> {
        let note = self.quarantine.iter().chain(&self.hold).map(String::as_str).collect::<Vec<_>>().join("; ");
        let agent = plain(self.agent.as_str());
        vec![agent, clock(&self.clock), dim(self.id.as_str()), dim(self.created.as_str()), (Tone::Warn, note)]
    }
}

impl Listed for DeploymentView {
    const HEAD: &'static [&'static str] =
        &["NAME", "REVISION", "DEVICES", "CONFIRMED", "PROGRESSING", "FAILED", "UNREACHABLE", "BLOCKED", "CHANGED"];
    const WIDE: &'static [&'static str] = &["UID", "SELECTOR", "IMAGES"];

    fn key(&self) -> String {
        self.manifest.metadata.name.to_string()
    }

    fn cells(&self, now: OffsetDateTime) -> Vec<Cell> {
        let s = &self.summary;
        let count = |n: u32, tone| (if n == 0 { Tone::Dim } else { tone }, n.to_string());
        vec![
            plain(self.manifest.metadata.name.as_str()),
            plain(self.revision.to_string()),
            plain(s.devices.to_string()),
            count(s.confirmed, Tone::Good),
            count(s.progressing, Tone::Warn),
            count(s.failed, Tone::Bad),
            count(s.unreachable, Tone::Warn),
            count(s.blocked, Tone::Bad),
            dim(age(&self.updated, now)),
        ]
    }

    fn wide(&self) -> Vec<Cell> {
        let spec = &self.manifest.spec;
        let images: Vec<_> = spec.containers.iter().map(|c| c.image.as_str()).collect();
        vec![dim(self.uid.as_str()), plain(selector(self)), plain(images.join(","))]
    }

    fn below(&self) -> String {
        let width = self.devices.iter().map(|t| t.name.as_str().len()).max().unwrap_or(0);
        let line = |t: &TargetView| {
            // Without a status, what it reports is about an older revision.
            let stages = t.app.as_ref().filter(|_| t.status.is_some()).map_or(&[][..], |app| &app.stages);
            let shown = match (&t.blocked, stages) {
                (Some(why), _) => clean(why).into_owned(),
                (None, []) => clean(t.phase.map_or(t.reason.clone(), |p| word(&p)).as_str()).into_owned(),
                (None, stages) => pipeline::pipeline(&pipeline::of_stages(stages)),
            };
            format!("  {:width$}  {shown}\n", t.name)
        };
        self.devices.iter().map(line).collect()
    }
}

/// For which devices.
pub(super) fn selector(d: &DeploymentView) -> String {
    let s = &d.manifest.spec.selector;
    if s.devices.is_empty() {
        return labels(&s.match_labels);
    }
    s.devices.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(",")
}

impl Listed for TokenView {
    const HEAD: &'static [&'static str] = &["ID", "STATE", "USED", "EXPIRES", "APPROVAL", "LABELS"];
    const WIDE: &'static [&'static str] = &["TENANT", "CREATED"];

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn cells(&self, now: OffsetDateTime) -> Vec<Cell> {
        let until = OffsetDateTime::parse(&self.expires, &time::format_description::well_known::Rfc3339);
        let state = if self.revoked {
            (Tone::Bad, "revoked".to_owned())
        } else if self.used >= self.uses {
            dim("used")
        } else if until.is_ok_and(|at| at <= now) {
            dim("expired")
        } else {
            (Tone::Good, "good".to_owned())
        };
        let approval = if self.auto_approve || self.uses == 1 { "automatic" } else { "by hand" };
        vec![
            plain(self.id.as_str()),
            state,
            plain(format!("{}/{}", self.used, self.uses)),
            plain(self.expires.as_str()),
            plain(approval),
            plain(labels(&self.labels)),
        ]
    }

    fn wide(&self) -> Vec<Cell> {
        vec![plain(self.tenant.as_str()), dim(self.created.as_str())]
    }
}

impl Listed for TenantView {
    const HEAD: &'static [&'static str] = &["NAME", "DEVICES", "DEPLOYMENTS"];
    const WIDE: &'static [&'static str] = &[];

    fn key(&self) -> String {
        self.name.to_string()
    }

    fn cells(&self, _now: OffsetDateTime) -> Vec<Cell> {
        vec![plain(self.name.as_str()), plain(self.devices.to_string()), plain(self.deployments.to_string())]
    }

    fn wide(&self) -> Vec<Cell> {
        vec![]
    }
}

impl Listed for AuditEvent {
    const HEAD: &'static [&'static str] = &["TIME", "WHO", "ACTION", "OBJECT", "OUTCOME", "REASON"];
    const WIDE: &'static [&'static str] = &["TENANT", "REQUEST", "CORRELATION"];

    fn key(&self) -> String {
        self.seq.to_string()
    }

    fn cells(&self, _now: OffsetDateTime) -> Vec<Cell> {
        let tone = match self.outcome {
            Outcome::Intent => Tone::Dim,
            Outcome::Done => Tone::Good,
            Outcome::Refused | Outcome::Failed => Tone::Bad,
        };
        let reason =
            [self.reason.as_str(), self.detail.as_str()].iter().filter(|t| !t.is_empty()).copied().collect::<Vec<_>>();
        vec![
            dim(self.at.as_str()),
            plain(self.who.as_str()),
            plain(self.action.as_str()),
            plain(self.object.as_str()),
            (tone, word(&self.outcome)),
            plain(reason.join(": ")),
        ]
    }

    fn wide(&self) -> Vec<Cell> {
        vec![plain(self.tenant.as_str()), dim(self.request_id.as_str()), dim(self.correlation_id.as_str())]
    }
}
