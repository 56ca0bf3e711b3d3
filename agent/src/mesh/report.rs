//! The report: the whole of it on every change, until the broker says it has it.
//!
//! Decides when to send and what to shorten so that it fits. What an app is, is the supervisor's word.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client;
use bramble_contracts::envelope;
use bramble_contracts::subjects::Bucket;
use bramble_contracts::v1::DeviceFacts;
use bramble_contracts::v2::{AppReport, UpgradePhase};
use bramble_contracts::v3::{NEWEST_DOCUMENT, OsPhase, OsUpgradeReport, Report};
use tokio::sync::watch;

use super::board::View;
use super::connection::Link;
use super::context::{Context, Stop};
use super::judge::generation_of;
use super::{health, random};
use crate::supervise::Reports;
use crate::version;

/// Changes gather this long before they are sent.
const SETTLE: Duration = Duration::from_millis(200);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const TRIAL_MAX: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Below the broker's limit with room for headers.
pub(crate) const BYTES_MAX: usize = 62 * 1024;

/// The machine, as it is looked at now and then.
pub type Facts = watch::Receiver<DeviceFacts>;

pub(crate) struct Reporter {
    pub(crate) context: Arc<Context>,
    pub(crate) reports: Reports,
    pub(crate) supervisor_alarms: watch::Receiver<Arc<Vec<String>>>,
    pub(crate) link: watch::Receiver<Link>,
    pub(crate) facts: Facts,
    /// Counts the reports of this session, also when it acts a second time.
    pub(crate) seq: Arc<AtomicU64>,
}

impl Reporter {
    pub(crate) async fn run(mut self, mut stop: Stop) {
        let mut board = self.context.board.changes();
        let (mut failures, mut epoch) = (0, 0);
        let mut sent: Option<Report> = None;
        loop {
            let link = self.link.borrow_and_update().clone();
            let mut pause = pause(self.context.settings.report, &board.borrow());
            if let (Some(client), true) = (link.client, link.connected) {
                if epoch != link.epoch {
                    (epoch, failures, sent) = (link.epoch, 0, None);
                }
                let report = self.compose(&board.borrow_and_update().clone());
                if sent.as_ref() != Some(&report) {
                    let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
                    match self.send(&client, Report { seq, ..report.clone() }).await {
                        Ok(()) => {
                            (failures, sent) = (0, Some(report));
                            self.context.board.update(|view| view.reports_acked += 1);
                        }
                        Err(why) => {
                            failures += 1;
                            tracing::info!(%why, "the report did not arrive, it is sent again");
                            pause = random::backoff(RETRY_FIRST, RETRY_MAX, failures);
                        }
                    }
                }
            }
            let again = failures > 0;
            tokio::select! {
                () = stop.asked() => return,
                () = tokio::time::sleep(random::jittered(pause)) => if !again {
                    sent = None;
                },
                Ok(()) = self.facts.changed() => {}
                Ok(()) = self.reports.changed() => {}
                Ok(()) = self.supervisor_alarms.changed() => {}
                Ok(()) = board.changed() => {}
                Ok(()) = self.link.changed() => {}
            }
            tokio::select! {
                () = stop.asked() => return,
                () = tokio::time::sleep(SETTLE) => {}
            }
        }
    }

    fn compose(&mut self, view: &View) -> Report {
        let apps = self.reports.borrow_and_update().clone();
        let alarms = self.supervisor_alarms.borrow_and_update().clone();
        Report {
            device: self.context.device.clone(),
            session: self.context.session,
            instance: self.context.settings.instance,
            seq: 0,
            generation: generation_of(view.desired.as_deref()),
            newest_document: NEWEST_DOCUMENT,
            trust_version: self.context.trust.now().version,
            agent: version::number(),
            health: health::judge(view.desired.as_deref(), &apps, &view.clock),
            facts: self.facts.borrow_and_update().clone(),
            clock: view.clock.clone(),
            program: view.program.clone(),
            os: view.os.clone(),
            apps: apps.to_vec(),
            refused: view.refused.clone(),
            alarms: view.alarms.values().chain(alarms.iter()).cloned().collect(),
        }
    }

    async fn send(&self, client: &Client, report: Report) -> Result<(), String> {
        let subject = Bucket::Reported.subject(self.context.device.as_str());
        let answer = client.request(subject, fit(report).into()).await.map_err(|err| err.to_string())?;
        acknowledged(&answer.payload)
    }
}

/// On trial it reports often: a last word of the agent before it, that came late, must not stand for long.
fn pause(usual: Duration, view: &View) -> Duration {
    let phase = view.program.upgrade.as_ref().map(|upgrade| upgrade.phase);
    let of_system = view.os.upgrade.as_ref().map(|upgrade| upgrade.phase);
    if phase == Some(UpgradePhase::Trial) || of_system == Some(OsPhase::Trial) { usual.min(TRIAL_MAX) } else { usual }
}

/// Did JetStream store it?
fn acknowledged(payload: &[u8]) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Ack {
        stream: Option<String>,
        error: Option<serde_json::Value>,
    }
    let ack: Ack = serde_json::from_slice(payload).map_err(|err| format!("the broker's answer is no ack: {err}"))?;
    match (ack.stream, ack.error) {
        (Some(_), None) => Ok(()),
        (_, error) => Err(format!("the broker did not store it: {}", error.unwrap_or_default())),
    }
}

/// The bytes of a report that fits: last lines go first, the oldest of them first; then words; then whole apps.
pub(crate) fn fit(mut report: Report) -> Vec<u8> {
    let mut stage = 0;
    loop {
        match envelope::encode(&report) {
            Ok(bytes) if bytes.len() <= BYTES_MAX => return bytes,
            Ok(bytes) => shorten(&mut report, &mut stage, bytes.len() - BYTES_MAX),
            Err(err) => shorten(&mut report, &mut stage, err.got - BYTES_MAX),
        }
    }
}

fn shorten(report: &mut Report, stage: &mut u32, excess: usize) {
    if drop_lines(&mut report.apps, excess) {
        return;
    }
    *stage += 1;
    let cut = |text: &mut String, max: usize| *text = text.chars().take(max).collect();
    let words = 240 >> (*stage).min(7);
    report.alarms.truncate(16 >> (*stage).min(4));
    report.alarms.iter_mut().for_each(|alarm| cut(alarm, words));
    report.refused.iter_mut().for_each(|refusal| cut(&mut refusal.detail, words));
    for app in &mut report.apps {
        cut(&mut app.reason, words);
        app.stages.iter_mut().for_each(|stage| cut(&mut stage.detail, words));
    }
    if let Some(upgrade) = &mut report.os.upgrade {
        cut(&mut upgrade.reason, words);
        let keep = OsUpgradeReport::CHANGES_MAX >> (2 * *stage).min(7);
        let gone = upgrade.changes.len().saturating_sub(keep);
        upgrade.changes.truncate(keep);
        upgrade.changes_more = upgrade.changes_more.saturating_add(u32::try_from(gone).unwrap_or(u32::MAX));
    }
    if *stage > 2 {
        report.apps.iter_mut().for_each(|app| app.stages.clear());
    }
    if *stage > 3 {
        let keep = report.apps.len() * 7 / 8;
        report.alarms = vec![format!("the report is too long: only {keep} apps are in it")];
        report.apps.truncate(keep);
        report.refused.truncate(4);
    }
    if *stage > 64 {
        report.facts = DeviceFacts::default();
    }
}

/// Drops at least `excess` bytes of last lines, taking the oldest of whoever has most. False when there were none.
fn drop_lines(apps: &mut [AppReport], excess: usize) -> bool {
    let mut all: Vec<&mut Vec<String>> =
        apps.iter_mut().flat_map(|app| &mut app.containers).map(|container| &mut container.last_lines).collect();
    let size = |lines: &[String]| lines.iter().map(|line| line.len() + 1).sum::<usize>();
    let mut longest: BinaryHeap<(usize, usize)> = all.iter().enumerate().map(|(n, lines)| (size(lines), n)).collect();
    let mut gone: Vec<usize> = vec![0; all.len()];
    let mut dropped = 0;
    while dropped < excess {
        let Some((bytes, n)) = longest.pop().filter(|(bytes, _)| *bytes > 0) else { break };
        let line = all[n][gone[n]].len() + 1;
        gone[n] += 1;
        dropped += line;
        longest.push((bytes - line, n));
    }
    for (lines, gone) in all.iter_mut().zip(gone) {
        lines.drain(..gone);
    }
    dropped > 0
}

#[cfg(test)]
mod tests {
    use bramble_contracts::bytes::Fixed;
    use bramble_contracts::v1::{ContainerReport, ContainerRole, ContainerState, Health, Instance, Phase, Status};
    use bramble_contracts::v2::{AgentReport, ClockReport, Stage, StageName, StageState};
    use bramble_contracts::{DeviceId, Generation, Revision, Tenant, Uid};
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    fn report(apps: usize, lines: usize, width: usize) -> Report {
        let app = |n: usize| AppReport {
            uid: Uid::from_entropy([u8::try_from(n % 256).unwrap(); 13]),
            tenant: Tenant::default(),
            deployment: format!("app-{n}").parse().unwrap(),
            revision: Revision(1),
            running_revision: None,
            running_hash: Some(Fixed([1; 32])),
            status: Status::Failed,
            phase: Phase::Failed,
            reason: "r".repeat(width),
            last_downtime_ms: None,
            containers: vec![ContainerReport {
                name: "c".parse().unwrap(),
                role: ContainerRole::Main,
                id: "f".repeat(64),
                state: ContainerState::Exited,
                exit_code: Some(1),
                oom_killed: false,
                restarts: 3,
                started_at_ms: 0,
                image_digest: "d".repeat(71),
                healthy: None,
                last_lines: (0..lines).map(|line| format!("{line} {}", "x".repeat(width))).collect(),
            }],
            stages: vec![Stage {
                name: StageName::Probing,
                state: StageState::Failed,
                took_ms: Some(u64::MAX),
                detail: "s".repeat(width),
            }],
        };
        Report {
            device: DeviceId::from_entropy([1; 13]),
            session: Fixed([2; 8]),
            instance: Instance::A,
            seq: 1,
            generation: Generation(1),
            newest_document: 1,
            trust_version: 1,
            agent: version::number(),
            health: Health::Degraded,
            facts: DeviceFacts::default(),
            clock: ClockReport::default(),
            program: AgentReport::default(),
            os: bramble_contracts::v3::OsReport::default(),
            apps: (0..apps).map(app).collect(),
            refused: vec![],
            alarms: vec!["a".repeat(width); 3],
        }
    }

    #[test]
    fn the_newest_lines_are_kept() {
        let bytes = fit(report(4, 100, 400));
        assert!(bytes.len() <= BYTES_MAX && bytes.len() > BYTES_MAX - 2048, "{}", bytes.len());
        let read: Report = envelope::decode(&bytes).unwrap();
        for app in &read.apps {
            let lines = &app.containers[0].last_lines;
            assert!(lines.last().unwrap().starts_with("99 ") && !lines[0].starts_with("0 "));
        }
    }

    #[test]
    fn an_ack_is_told_from_an_error() {
        assert!(acknowledged(br#"{"stream":"KV_reported","seq":7}"#).is_ok());
        assert!(acknowledged(br#"{"error":{"code":400,"description":"too large"}}"#).is_err());
        assert!(acknowledged(b"").is_err());
    }

    proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
        #[test]
        fn every_report_fits(apps in 0usize..300, lines in 0usize..40, width in 0usize..900) {
            let bytes = fit(report(apps, lines, width));
            prop_assert!(bytes.len() <= BYTES_MAX);
            prop_assert!(envelope::decode::<Report>(&bytes).is_ok());
        }
    }
}
