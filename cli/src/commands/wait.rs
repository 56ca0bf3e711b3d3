//! `apply --wait`: follows deployments until every reachable device has proven the new revision.
//!
//! Failed devices end it with 1 and their reason, a newer revision with 5, time with 7. Devices that are offline or
//! blocked are told of and not waited for; while no device is reachable at all, it waits.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use bramble_contracts::{
    Name, Revision,
    api::{Applied, Connection, DeploymentView, TargetView},
    v1::Status,
};

use super::{
    Session,
    views::{phase, status},
};
use crate::{
    client::{Lines, Told},
    clock,
    exit::{Exit, Failure},
    output::{
        clean, note,
        pipeline::{self, Mark, Part},
    },
};

/// Before it is asked again, after an answer that ended.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How a deployment does, as far as waiting goes.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Every device that is waited for has proven it. What is told beside it.
    Done(Vec<String>),
    /// These are not there yet.
    Waiting(Vec<String>),
    /// It did not work.
    Failed(String),
    /// Somebody applied another revision meanwhile.
    Overtaken(Revision),
}

/// Waits for all of them.
pub(super) async fn all(s: &Session, applied: &[Applied], timeout: Duration) -> Result<Exit, Failure> {
    let end = clock::instant() + timeout;
    let mut phases = Phases::default();
    for one in applied {
        let meta = &one.deployment.manifest.metadata;
        follow(s, one, end, &mut phases).await.map_err(|failure| match failure {
            Failure::TimedOut(waits) => Failure::TimedOut(format!(
                "deployment {} is not everywhere after {}: {waits}\n  `bramble describe deployment {}` shows how far it is.",
                meta.name,
                bramble_contracts::quantity::Millis(timeout.as_millis().try_into().unwrap_or(u64::MAX)),
                meta.name
            )),
            other => other,
        })?;
    }
    Ok(Exit::Done)
}

/// What is waited for, and what was said of it.
struct Waiting<'a> {
    name: &'a Name,
    revision: Revision,
    phases: &'a mut Phases,
    /// Why it is not done yet.
    last: String,
}

/// What comes after one look.
enum Next {
    /// More looks.
    Wait,
    /// It is proven.
    Done,
}

impl Waiting<'_> {
    fn look(&mut self, view: &DeploymentView) -> Result<Next, Failure> {
        self.phases.show(view);
        match judge(view, self.revision) {
            Verdict::Done(notes) => {
                notes.iter().for_each(|n| note(n));
                note(&format!(
                    "deployment {}: {} device(s) confirmed on revision {}",
                    self.name, view.summary.confirmed, view.revision
                ));
                Ok(Next::Done)
            }
            Verdict::Waiting(waits) => {
                self.last = waits.join("; ");
                Ok(Next::Wait)
            }
            Verdict::Failed(why) => Err(Failure::Failed(why)),
            Verdict::Overtaken(by) => Err(Failure::Conflict(format!(
                "deployment {}: revision {by} was applied while revision {} was waited for",
                self.name, self.revision
            ))),
        }
    }

    /// Looks at every change until it is proven or the stream ends.
    async fn changes(&mut self, lines: &mut Lines) -> Result<Next, Failure> {
        while let Some(event) = lines.event().await? {
            if event.kind == "deleted" {
                return Err(Failure::NotFound(format!("deployment {} was deleted while it was waited for", self.name)));
            }
            let Ok(view) = serde_json::from_str::<DeploymentView>(&event.data) else {
                let what = "an event cannot be read: are bramble and the coordinator of one version?";
                return Err(Failure::Failed(what.to_owned()));
            };
            if let Next::Done = self.look(&view)? {
                return Ok(Next::Done);
            }
        }
        Ok(Next::Wait)
    }
}

async fn follow(s: &Session, applied: &Applied, end: Instant, phases: &mut Phases) -> Result<(), Failure> {
    let meta = &applied.deployment.manifest.metadata;
    let client = s.client.of_tenant(&meta.tenant);
    let revision = applied.deployment.revision;
    let mut waiting = Waiting { name: &meta.name, revision, phases, last: "no answer yet".to_owned() };
    let mut pause = PAUSE_FIRST;
    loop {
        let left = end.saturating_duration_since(clock::instant());
        if left.is_zero() {
            return Err(Failure::TimedOut(waiting.last));
        }
        let asked = async {
            match client.follow(&["deployments", meta.name.as_str()]).await? {
                Told::Once(view) => waiting.look(&view),
                Told::Changes(mut lines) => waiting.changes(&mut lines).await,
            }
        };
        match tokio::time::timeout(left, asked).await {
            Ok(Ok(Next::Done)) => return Ok(()),
            Ok(Ok(Next::Wait)) => {}
            // A coordinator may restart while we wait.
            Ok(Err(Failure::Client(err))) if err.may_pass() => waiting.last = err.to_string(),
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Err(Failure::TimedOut(waiting.last)),
        }
        tokio::time::sleep(pause.min(end.saturating_duration_since(clock::instant()))).await;
        pause = (pause * 3 / 2).min(PAUSE_MAX);
    }
}

fn judge(view: &DeploymentView, revision: Revision) -> Verdict {
    if view.revision > revision {
        return Verdict::Overtaken(view.revision);
    }
    if view.devices.is_empty() {
        return Verdict::Done(vec![format!("deployment {} selects no device yet", view.manifest.metadata.name)]);
    }
    let (mut notes, mut waits, mut failures, mut proven) = (vec![], vec![], String::new(), 0);
    for t in &view.devices {
        match (&t.blocked, t.connection, t.status) {
            (Some(why), ..) => notes.push(format!("{} is not waited for: {why}", t.name)),
            (None, Connection::Online, Some(Status::Confirmed)) => proven += 1,
            (None, Connection::Online, Some(Status::Failed | Status::RolledBack)) => failed(t, &mut failures),
            (None, Connection::Online, Some(Status::Staged | Status::Trial)) => waits.push(where_it_is(t)),
            (None, Connection::Online, None) => waits.push(format!("{}: {}", t.name, t.reason)),
            (None, Connection::Recovering, _) => waits.push(format!("{}: the coordinator is recovering", t.name)),
            (None, Connection::Offline | Connection::Never, _) => {
                notes.push(format!("{} is not waited for: it is not connected", t.name));
            }
        }
    }
    if !failures.is_empty() {
        return Verdict::Failed(format!("deployment {} failed:{failures}", view.manifest.metadata.name));
    }
    if waits.is_empty() && proven == 0 {
        waits.push("none of its devices can be reached".to_owned());
        waits.append(&mut notes);
    }
    if waits.is_empty() { Verdict::Done(notes) } else { Verdict::Waiting(waits) }
}

fn failed(t: &TargetView, text: &mut String) {
    let reason = match &t.app {
        Some(app) if !app.reason.is_empty() => &app.reason,
        Some(_) | None => &t.reason,
    };
    let _ = write!(text, "\n  {}: {}", t.name, clean(reason));
    for c in t.app.iter().flat_map(|a| &a.containers).filter(|c| !c.last_lines.is_empty()) {
        let code = c.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
        let _ = write!(text, "\n    container {}{code}, its last lines:", c.name);
        for line in &c.last_lines {
            let _ = write!(text, "\n      | {}", clean(line));
        }
    }
}

fn where_it_is(t: &TargetView) -> String {
    let phase = t.phase.map_or("waiting".to_owned(), |p| phase(p).1);
    if t.reason.is_empty() { format!("{} is {phase}", t.name) } else { format!("{} is {phase}: {}", t.name, t.reason) }
}

/// What was said of each device last, so that only changes are said.
#[derive(Default)]
struct Phases(BTreeMap<(Name, Name), Vec<String>>);

impl Phases {
    fn show(&mut self, view: &DeploymentView) {
        for t in &view.devices {
            // Nothing is sent to a blocked device: what it said last is old.
            let (Some(_), None) = (t.status, &t.blocked) else { continue };
            let now = said_of(t);
            let before = self.0.entry((view.manifest.metadata.name.clone(), t.name.clone())).or_default();
            for line in now.iter().filter(|line| !before.contains(line)) {
                note(&format!("{}  {}", t.name, clean(line)));
            }
            *before = now;
        }
    }
}

/// Each stage that was begun; of a device that tells none, status and phase.
fn said_of(t: &TargetView) -> Vec<String> {
    let stages = t.app.as_ref().map(|app| pipeline::of_stages(&app.stages)).unwrap_or_default();
    if !stages.is_empty() {
        return stages.iter().filter(|part| part.mark != Mark::Waiting).map(Part::text).collect();
    }
    let mut line = t.status.map(|of| status(of).1).unwrap_or_default();
    if let Some(p) = t.phase {
        let _ = write!(line, ", {}", phase(p).1);
    }
    if !t.reason.is_empty() {
        let _ = write!(line, ": {}", t.reason);
    }
    vec![line]
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v1::Phase;

    use super::*;

    fn target(name: &str, connection: Connection, status: Option<Status>, blocked: Option<&str>) -> TargetView {
        TargetView {
            device: "d-aaaaaaaaaaaaaaaaaaaa".parse().unwrap(),
            name: name.parse().unwrap(),
            connection,
            blocked: blocked.map(str::to_owned),
            status,
            phase: Some(Phase::Starting),
            reason: "why".into(),
            app: None,
        }
    }

    fn view(devices: Vec<TargetView>) -> DeploymentView {
        let manifest = serde_json::json!({
            "apiVersion": "bramble/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "selector": { "devices": ["a"] }, "containers": [{ "name": "web", "image": "localhost/web:1" }] },
        });
        DeploymentView {
            uid: "aaaaaaaaaaaaaaaaaaaa".parse().unwrap(),
            revision: Revision(3),
            manifest: serde_json::from_value(manifest).unwrap(),
            created: String::new(),
            updated: String::new(),
            summary: bramble_contracts::api::Summary::default(),
            devices,
            version: 1,
        }
    }

    #[test]
    fn what_is_waited_for_and_what_ends_it() {
        use Connection::{Never, Offline, Online, Recovering};
        use Status::{Confirmed, Failed, Trial};
        let judge = |devices| judge(&view(devices), Revision(3));
        assert_eq!(judge(vec![]), Verdict::Done(vec!["deployment web selects no device yet".into()]));
        assert_eq!(judge(vec![target("a", Online, Some(Confirmed), None)]), Verdict::Done(vec![]));
        assert_eq!(
            judge(vec![target("a", Online, Some(Confirmed), None), target("b", Offline, None, None)]),
            Verdict::Done(vec!["b is not waited for: it is not connected".into()])
        );
        assert_eq!(
            judge(vec![target("a", Online, Some(Confirmed), None), target("b", Online, None, Some("quarantined"))]),
            Verdict::Done(vec!["b is not waited for: quarantined".into()])
        );
        let waits = [
            (Online, Some(Trial), "a is starting: why"),
            (Online, None, "a: why"),
            (Recovering, None, "a: the coordinator is recovering"),
        ];
        for (connection, status, want) in waits {
            assert_eq!(judge(vec![target("a", connection, status, None)]), Verdict::Waiting(vec![want.into()]));
        }
        assert!(matches!(judge(vec![target("a", Never, None, None)]), Verdict::Waiting(w) if w.len() == 2));
        assert_eq!(
            judge(vec![target("a", Online, Some(Trial), None), target("b", Online, Some(Failed), None)]),
            Verdict::Failed("deployment web failed:\n  b: why".into())
        );
        assert_eq!(super::judge(&view(vec![]), Revision(2)), Verdict::Overtaken(Revision(3)));
    }
}
