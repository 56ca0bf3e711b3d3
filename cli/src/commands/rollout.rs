//! `rollout`, and what `agent upgrade` and `os upgrade` begin: what operators say to rollouts, and rollouts followed until they end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bramble_contracts::{
    Name,
    api::{
        Because, RolloutDevice, RolloutKind, RolloutRequest, RolloutState, RolloutSummary, RolloutTurn, RolloutView,
    },
};
use reqwest::Method;
use time::OffsetDateTime;

use super::{
    Session,
    views::{self, Cell, Listed, plain, word},
};
use crate::{
    args::{Rollout, Waits, Which},
    client::{Lines, Told},
    clock,
    exit::{Exit, Failure},
    output::{Printed, Tone, age, clean, note, say},
};

const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Says something to a rollout.
pub(super) async fn rollout(s: &Session, args: Rollout) -> Result<Exit, Failure> {
    let (verb, done, which) = match args {
        Rollout::Pause(which) => ("pause", "paused", which),
        Rollout::Resume(which) => ("resume", "goes on", which),
        Rollout::Abort(which) => ("abort", "aborted", which),
        Rollout::Promote(which) => ("promote", "goes on to the next batch", which),
        Rollout::Retry(which) => ("retry", "tries again", which),
        Rollout::Approve(which) => ("approve", "approved", which),
    };
    let Which { name, reason } = which;
    let path = ["rollouts", name.as_str(), verb];
    let view: RolloutView = s.client.write(Method::POST, &path, &vec![], Some(&Because { reason })).await?;
    if s.format.print(&view)? == Printed::No {
        say(&format!("rollout/{name} {done}: {}\n", line(&view)))?;
    }
    Ok(Exit::Done)
}

/// Begins a rollout of a release, or of packages.
pub(super) async fn begin(s: &Session, request: RolloutRequest, waits: Waits) -> Result<Exit, Failure> {
    let view: RolloutView = s.client.write(Method::POST, &["rollouts"], &vec![], Some(&request)).await?;
    if s.format.print(&view)? == Printed::No {
        let n = view.summary.devices;
        let devices = if n == 1 { "1 device".to_owned() } else { format!("{n} devices") };
        say(&format!("rollout/{} brings {} to {devices}, in {} batches\n", view.name, view.brings, view.batches))?;
    }
    if !waits.wait {
        return Ok(Exit::Done);
    }
    follow(s, &view.name, Some(waits.timeout.duration())).await
}

/// Where it is, in a line.
fn line(view: &RolloutView) -> String {
    let reason = if view.reason.is_empty() { String::new() } else { format!(", {}", view.reason) };
    format!("{}, batch {} of {}{reason}", word(&view.state), view.batch, view.batches)
}

/// What was said of it last, so that only changes are said.
#[derive(Default)]
struct Said {
    line: String,
    devices: BTreeMap<Name, String>,
}

impl Said {
    fn show(&mut self, view: &RolloutView) {
        let now = line(view);
        if now != self.line {
            note(&format!("rollout {}: {}", view.name, clean(&now)));
            self.line = now;
        }
        // Whose batch has not come says nothing yet.
        for device in view.devices.iter().filter(|device| device.batch.is_some()) {
            let now = device_line(device);
            // Not each percent is news.
            let news = coarse(&now);
            if self.devices.get(&device.name) != Some(&news) {
                note(&format!("{}  {}", device.name, clean(&now)));
                self.devices.insert(device.name.clone(), news);
            }
        }
    }
}

/// The same in steps of ten percent.
fn coarse(line: &str) -> String {
    match line.split_once(" %") {
        Some((before, after)) => {
            let tens = before.strip_suffix(|c: char| c.is_ascii_digit()).unwrap_or(before);
            format!("{tens} %{after}")
        }
        None => line.to_owned(),
    }
}

fn device_line(device: &RolloutDevice) -> String {
    let phase = match device.turn {
        RolloutTurn::Working if !device.phase.is_empty() => format!(", {}", device.phase),
        RolloutTurn::Waiting
        | RolloutTurn::Unreachable
        | RolloutTurn::Working
        | RolloutTurn::Proving
        | RolloutTurn::Confirmed
        | RolloutTurn::Failed
        | RolloutTurn::Boxed
        | RolloutTurn::Refused => String::new(),
    };
    let reason = if device.reason.is_empty() { String::new() } else { format!(": {}", device.reason) };
    format!("{}{phase}{reason}", word(&device.turn))
}

/// How a rollout does, as far as waiting goes.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done(String),
    Waiting(String),
    Failed(String),
    Overtaken(String),
}

fn judge(view: &RolloutView) -> Verdict {
    let name = &view.name;
    match view.state {
        RolloutState::Running | RolloutState::Paused | RolloutState::Approval => Verdict::Waiting(line(view)),
        RolloutState::Done => Verdict::Done(counts(&view.summary)),
        RolloutState::Halted => {
            let failed = view.devices.iter().filter(|device| device.turn == RolloutTurn::Failed);
            let each: Vec<String> = failed.map(|d| format!("\n  {}: {}", d.name, clean(&d.reason))).collect();
            Verdict::Failed(format!("rollout {name} is halted: {}{}", clean(&view.reason), each.concat()))
        }
        RolloutState::Aborted | RolloutState::Superseded => {
            Verdict::Overtaken(format!("rollout {name} ended while it was waited for: {}", clean(&view.reason)))
        }
    }
}

/// Follows one until it ends, or for ever without a time.
pub(super) async fn follow(s: &Session, name: &Name, timeout: Option<Duration>) -> Result<Exit, Failure> {
    let end = timeout.map(|timeout| clock::instant() + timeout);
    let mut said = Said::default();
    let mut last = "no answer yet".to_owned();
    let mut pause = PAUSE_FIRST;
    loop {
        let left = end.map_or(Duration::MAX, |end: Instant| end.saturating_duration_since(clock::instant()));
        if left.is_zero() {
            break;
        }
        let asked = async {
            match s.client.follow::<RolloutView>(&["rollouts", name.as_str()]).await? {
                Told::Once(view) => look(&view, &mut said, &mut last),
                Told::Changes(mut lines) => changes(&mut lines, &mut said, &mut last).await,
            }
        };
        match tokio::time::timeout(left, asked).await {
            Ok(Ok(Some(done))) => {
                note(&format!("rollout {name} is done: {done}"));
                return Ok(Exit::Done);
            }
            Ok(Ok(None)) => {}
            // A coordinator may restart while we wait.
            Ok(Err(Failure::Client(err))) if err.may_pass() => last = err.to_string(),
            Ok(Err(failure)) => return Err(failure),
            Err(_) => break,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
    Err(Failure::TimedOut(format!(
        "rollout {name} is not done: {last}\n  `bramble describe rollout {name}` shows each device."
    )))
}

fn look(view: &RolloutView, said: &mut Said, last: &mut String) -> Result<Option<String>, Failure> {
    said.show(view);
    match judge(view) {
        Verdict::Done(counts) => Ok(Some(counts)),
        Verdict::Waiting(line) => {
            *last = line;
            Ok(None)
        }
        Verdict::Failed(why) => Err(Failure::Failed(why)),
        Verdict::Overtaken(why) => Err(Failure::Conflict(why)),
    }
}

async fn changes(lines: &mut Lines, said: &mut Said, last: &mut String) -> Result<Option<String>, Failure> {
    while let Some(event) = lines.event().await? {
        let Ok(view) = serde_json::from_str::<RolloutView>(&event.data) else {
            let what = "an event cannot be read: are bramble and the coordinator of one version?";
            return Err(Failure::Failed(what.to_owned()));
        };
        if event.kind == "deleted" {
            return Err(Failure::NotFound(format!("rollout {} went away while it was waited for", view.name)));
        }
        if let Some(done) = look(&view, said, last)? {
            return Ok(Some(done));
        }
    }
    Ok(None)
}

/// How its devices do; what is none is left out.
pub(super) fn counts(s: &RolloutSummary) -> String {
    let all = [
        (s.confirmed, "confirmed"),
        (s.working, "working"),
        (s.waiting, "waiting"),
        (s.failed, "failed"),
        (s.unreachable, "unreachable"),
        (s.skipped, "left out"),
    ];
    let some: Vec<String> = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if some.is_empty() { "no devices".to_owned() } else { some.join(", ") }
}

/// A state in its colour.
pub(super) fn state(state: RolloutState) -> Cell {
    let tone = match state {
        RolloutState::Running | RolloutState::Paused | RolloutState::Approval => Tone::Warn,
        RolloutState::Halted => Tone::Bad,
        RolloutState::Done => Tone::Good,
        RolloutState::Aborted | RolloutState::Superseded => Tone::Dim,
    };
    (tone, word(&state))
}

/// How a device does, in its colour.
pub(super) fn turn(turn: RolloutTurn) -> Cell {
    let tone = match turn {
        RolloutTurn::Waiting => Tone::Dim,
        RolloutTurn::Unreachable | RolloutTurn::Working | RolloutTurn::Proving => Tone::Warn,
        RolloutTurn::Confirmed => Tone::Good,
        RolloutTurn::Failed | RolloutTurn::Boxed | RolloutTurn::Refused => Tone::Bad,
    };
    (tone, word(&turn))
}

/// For which devices.
pub(super) fn selector(view: &RolloutView) -> String {
    match &view.selector {
        None => match view.kind {
            RolloutKind::Agent | RolloutKind::Os => format!("every device of tenant {}", view.tenant),
            RolloutKind::Deployment => String::new(),
        },
        Some(selector) if selector.devices.is_empty() => views::labels(&selector.match_labels),
        Some(selector) => selector.devices.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(","),
    }
}

impl Listed for RolloutView {
    const HEAD: &'static [&'static str] =
        &["NAME", "BRINGS", "STATE", "BATCH", "DEVICES", "CONFIRMED", "WORKING", "FAILED", "UNREACHABLE", "CHANGED"];
    const WIDE: &'static [&'static str] = &["KIND", "BY", "SELECTOR", "REASON"];

    fn key(&self) -> String {
        self.name.to_string()
    }

    fn cells(&self, now: OffsetDateTime) -> Vec<Cell> {
        let s = &self.summary;
        let count = |n: u32, tone| (if n == 0 { Tone::Dim } else { tone }, n.to_string());
        vec![
            plain(self.name.as_str()),
            plain(self.brings.as_str()),
            state(self.state),
            plain(format!("{}/{}", self.batch, self.batches)),
            plain(s.devices.to_string()),
            count(s.confirmed, Tone::Good),
            count(s.working, Tone::Warn),
            count(s.failed, Tone::Bad),
            count(s.unreachable, Tone::Warn),
            (Tone::Dim, age(&self.updated, now)),
        ]
    }

    fn wide(&self) -> Vec<Cell> {
        vec![plain(word(&self.kind)), plain(self.by.as_str()), plain(selector(self)), (Tone::Warn, self.reason.clone())]
    }

    fn below(&self) -> String {
        let width = self.devices.iter().map(|d| d.name.as_str().len()).max().unwrap_or(0);
        let line = |d: &RolloutDevice| format!("  {:width$}  {}\n", d.name.as_str(), clean(&device_line(d)));
        self.devices.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(state: &str, devices: &serde_json::Value) -> RolloutView {
        serde_json::from_value(serde_json::json!({
            "uid": "aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "name": "agent-1-2-3", "kind": "agent",
            "brings": "agent 1.2.3", "selector": null, "policy": {}, "state": state, "reason": "because", "batch": 1,
            "batches": 3, "summary": { "devices": 2, "waiting": 0, "working": 0, "confirmed": 1, "failed": 1,
            "unreachable": 0, "skipped": 0 }, "devices": devices, "by": "ann", "created": "", "updated": "",
            "elapsedMs": 0, "version": 1,
        }))
        .unwrap()
    }

    #[test]
    fn not_each_percent_is_news() {
        assert_eq!(coarse("working, applying 41 %"), coarse("working, applying 49 %"));
        for other in ["working, applying 50 %", "working, applying 4 %", "working, applying", "working, preflight 41 %"]
        {
            assert_ne!(coarse("working, applying 41 %"), coarse(other), "{other}");
        }
    }

    #[test]
    fn what_is_waited_for_and_what_ends_it() {
        let none = || serde_json::json!([]);
        assert_eq!(judge(&view("running", &none())), Verdict::Waiting("running, batch 1 of 3, because".into()));
        assert_eq!(judge(&view("done", &none())), Verdict::Done("1 confirmed, 1 failed".into()));
        for over in ["aborted", "superseded"] {
            assert!(matches!(judge(&view(over, &none())), Verdict::Overtaken(_)));
        }
        let device = serde_json::json!([{
            "device": "d-aaaaaaaaaaaaaaaaaaaa", "name": "pi-1", "connection": "online", "batch": 1, "turn": "failed",
            "status": "failed", "phase": "done", "runs": "0.1.0", "reason": "self-test", "attempt": 1, "failures": 1,
        }]);
        assert_eq!(
            judge(&view("halted", &device)),
            Verdict::Failed("rollout agent-1-2-3 is halted: because\n  pi-1: self-test".into())
        );
    }
}
