//! What a device acts on and what it refuses.

use std::time::Duration;

use bramble_agent::mesh::Question;
use bramble_contracts::bytes::Fixed;
use bramble_contracts::signed::{Role, public_key};
use bramble_contracts::subjects;
use bramble_contracts::trust::TrustedKey;
use bramble_contracts::v1::{
    Command, ExecArgs, FrameBody, LogArgs, LogPart, LogRest, LogSpan, LogWindow, LogWish, RefusalKind, Verb,
};
use bramble_contracts::v3::{OsPackages, OsPlan};
use bramble_contracts::{Tenant, envelope};
use ed25519_dalek::SigningKey;

use crate::coordinator::{Coordinator, Tls};
use crate::device::Device;
use crate::eventually;

const SOON: Duration = Duration::from_secs(10);
/// How long an answer that must not come is waited for.
const NEVER: Duration = Duration::from_millis(700);

async fn refused(device: &Device, kind: RefusalKind) -> u64 {
    let report = device
        .reports(&format!("the refusal {kind:?}"), |report| report.refused.iter().any(|refusal| refusal.kind == kind))
        .await;
    report.refused.iter().rfind(|refusal| refusal.kind == kind).unwrap().number
}

#[tokio::test]
async fn bad_documents_are_refused_and_reported_once_each() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(5, Some("web")))).await;
    device.reaches(5).await;
    let stranger = SigningKey::from_bytes(&[99; 32]);
    device.put(device.sign_by(&device.document(6, None), &stranger)).await;
    let first = refused(&device, RefusalKind::Signature).await;
    device.put(envelope::encode(&device.document(6, None)).unwrap()).await;
    device.put(device.signed(&device.document(4, None))).await;
    let second = refused(&device, RefusalKind::OlderGeneration).await;
    device.put(device.signed(&device.document(5, None))).await;
    let third = refused(&device, RefusalKind::Forked).await;
    assert!(first < second && second < third);
    let mut other = device.document(9, None);
    other.device = bramble_contracts::DeviceId::from_entropy([7; 13]);
    device.put(device.signed(&other)).await;
    refused(&device, RefusalKind::OtherDevice).await;
    assert_eq!(device.generation(), 5);
    assert_eq!(device.host.things().len(), 1, "what runs is what ran");
    device.put(device.signed(&device.document(6, Some("web")))).await;
    device.reaches(6).await;
}

#[tokio::test]
async fn while_the_system_is_upgraded_changes_are_stored_and_wait() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::connected(&coordinator).await;
    let apps = |device: &Device| device.host.things().len();
    let put = |apps: &'static [&'static str], generation: u64, device: &Device| {
        device.signed(&device.document_of(generation, apps))
    };
    device.put(put(&["web"], 1, &device)).await;
    eventually("the app", || async { apps(&device) == 1 }).await;
    device.agent().board().update(|view| view.holds_apps = true);
    let copy = device.dir.path().join("state/desired-held");
    eventually("the copy", || async { copy.is_file() }).await;
    device.put(put(&["web", "db"], 2, &device)).await;
    device.reaches(2).await;
    // It starts again, on trial: what it was told last is known, and what ran before runs.
    device.stop().await;
    device.start_holding(true);
    assert_eq!(device.generation(), 2);
    device.is_connected().await;
    device.put(put(&["db"], 3, &device)).await;
    device.reaches(3).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(apps(&device), 1, "only web");
    device.agent().board().update(|view| view.holds_apps = false);
    let only_db = || async {
        let names: Vec<String> = device.host.things().into_iter().map(|thing| format!("{thing:?}")).collect();
        names.len() == 1 && names[0].contains("db")
    };
    eventually("the change", only_db).await;
    assert!(!copy.exists(), "it is of this upgrade only");
}

#[tokio::test]
async fn a_deleted_key_and_an_empty_value_change_nothing() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    eventually("the container", || async { device.host.things().len() == 1 }).await;
    device.put(vec![]).await;
    let purge = device.client.request("$JS.API.STREAM.PURGE.KV_desired", "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&purge.payload).contains("\"success\":true"));
    device.stop().await;
    device.start();
    device.is_connected().await;
    device.reports("a report of the new run", |report| report.session == device.agent().session()).await;
    assert_eq!((device.generation(), device.host.things().len()), (1, 1));
}

#[tokio::test]
async fn a_new_fleet_key_is_learnt_from_the_successor_of_the_trust_document() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, None))).await;
    device.reaches(1).await;
    let new = SigningKey::from_bytes(&[55; 32]);
    coordinator.succeed(|doc| {
        doc.keys.retain(|key| key.role != Role::Fleet);
        doc.keys.push(TrustedKey { role: Role::Fleet, key: public_key(&new) });
    });
    device.put(device.sign_by(&device.document(2, Some("web")), &new)).await;
    device.reaches(2).await;
    device.reports("the new trust version", |report| report.trust_version == 2).await;
    device.stop().await;
    device.start();
    device.is_connected().await;
    assert_eq!(device.generation(), 2, "what is stored is believed after a restart");
}

#[tokio::test]
async fn commands_are_answered_and_replays_are_not_carried_out() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::connected(&coordinator).await;
    let signed = device.signed(&device.document(1, Some("web")));
    device.put(signed.clone()).await;
    device.reaches(1).await;
    let command = device.command(1, Verb::Desired);
    let recorded = device.sign_command(&command);
    let frames = device.ask("desired", recorded.clone(), SOON).await;
    let Some((FrameBody::End { exit_code: None }, parts)) = frames.split_last() else { panic!("{frames:?}") };
    let part = |frame: &FrameBody| match frame {
        FrameBody::Document(part) => part.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(parts.iter().flat_map(part).collect::<Vec<u8>>(), signed);
    assert!(device.ask("desired", recorded.clone(), NEVER).await.is_empty(), "an echo is not answered twice");
    let unsigned = envelope::encode(&device.command(7, Verb::Desired)).unwrap();
    assert!(device.ask("desired", unsigned, NEVER).await.is_empty());
    refused(&device, RefusalKind::Signature).await;
    let old = Command { expires_uptime_ms: 0, ..device.command(8, Verb::Desired) };
    let said = device.ask("desired", device.sign_command(&old), SOON).await;
    assert!(matches!(&said[..], [FrameBody::Refused { why }] if why.contains("expired")), "{said:?}");
    let elsewhere = Command { session: Fixed([1; 8]), ..device.command(9, Verb::Desired) };
    let said = device.ask("desired", device.sign_command(&elsewhere), SOON).await;
    assert!(matches!(&said[..], [FrameBody::Refused { why }] if why.contains("restarted")), "{said:?}");
    device.stop().await;
    device.start();
    device.is_connected().await;
    let said = device.ask("desired", recorded, SOON).await;
    assert!(matches!(&said[..], [FrameBody::Refused { .. }]), "after a restart a recording does nothing: {said:?}");
    refused(&device, RefusalKind::StaleCommand).await;
}

#[tokio::test]
async fn what_an_upgrade_would_do_is_answered_in_one_frame() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::connected(&coordinator).await;
    let mut questions = device.questions.take().unwrap();
    let plan = OsPlan { download_bytes: 7, waits: "the clock is not fit".into(), ..OsPlan::default() };
    let answer = plan.clone();
    tokio::spawn(async move {
        let Question { packages, answer: to } = questions.recv().await.unwrap();
        assert_eq!(packages, OsPackages::All);
        to.send(Ok(answer)).unwrap();
        let Question { answer: to, .. } = questions.recv().await.unwrap();
        to.send(Err("an upgrade is under way on it".into())).unwrap();
        // The agent is about to end.
        drop(questions.recv().await.unwrap());
    });
    let ask = |counter| device.sign_command(&device.command(counter, Verb::OsPlan(OsPackages::All)));
    // A sign of life comes at once: apt takes longer than the first word may.
    let alive = FrameBody::Stdout(vec![]);
    let said = device.ask("os-plan", ask(1), SOON).await;
    assert_eq!(said, [alive.clone(), FrameBody::OsPlan(Box::new(plan)), FrameBody::End { exit_code: None }]);
    let said = device.ask("os-plan", ask(2), SOON).await;
    assert_eq!(said, [alive.clone(), FrameBody::Refused { why: "an upgrade is under way on it".into() }]);
    let said = device.ask("os-plan", ask(3), SOON).await;
    assert!(
        matches!(&said[..], [one, FrameBody::Refused { why }] if *one == alive && why.contains("about to end")),
        "{said:?}"
    );
}

#[tokio::test]
async fn logs_and_programs_answer_in_frames_that_end() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    device.reports("the running app", |report| report.apps.iter().any(|app| app.reason.is_empty())).await;
    // What conmon would have written.
    let dir = device.dir.path().join("apps/logs/default.web/main");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("000001.log"), "1970-01-01T00:00:01+00:00 stdout F hello\n").unwrap();
    let log = |deployment: &str, wait| {
        Verb::Log(LogWindow {
            tenant: Tenant::default(),
            deployment: deployment.parse().unwrap(),
            container: None,
            span: LogSpan::Wish(LogWish::default()),
            wait,
            bytes: 10_000,
        })
    };
    let said = device.ask("log", device.sign_command(&device.command(1, log("web", None))), SOON).await;
    let [FrameBody::Log(LogPart::Span { .. }), FrameBody::Log(LogPart::Lines { lines, .. }), rest, end] = &said[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!((lines[0].text.as_str(), lines[0].at.0), ("hello", 1_000_000_000));
    assert_eq!((rest, end), (&FrameBody::Log(LogPart::Rest(LogRest::Done)), &FrameBody::End { exit_code: None }));
    // One that waits says where it begins at once, and ends when its time is over.
    let wait = Some("100ms".parse().unwrap());
    let said = device.ask("log", device.sign_command(&device.command(2, log("web", wait))), SOON).await;
    assert!(said.contains(&FrameBody::Log(LogPart::Rest(LogRest::Gone))), "no such app was desired: {said:?}");
    let said = device.ask("log", device.sign_command(&device.command(3, log("other", None))), SOON).await;
    assert!(matches!(&said[..], [FrameBody::Refused { why }] if why.contains("other")), "{said:?}");
    let old = Verb::Logs(LogArgs {
        tenant: Tenant::default(),
        deployment: "web".parse().unwrap(),
        container: None,
        tail: 10,
        since: None,
        follow: false,
    });
    let said = device.ask("logs", device.sign_command(&device.command(4, old)), SOON).await;
    assert!(matches!(&said[..], [FrameBody::Refused { why }] if why.contains("update")), "{said:?}");
    let exec = Verb::Exec(ExecArgs {
        tenant: Tenant::default(),
        deployment: "web".parse().unwrap(),
        container: None,
        argv: vec!["true".into()],
        tty: None,
        timeout: bramble_contracts::quantity::Millis::secs(5),
    });
    let said = device.ask("exec", device.sign_command(&device.command(5, exec.clone())), SOON).await;
    assert!(matches!(said.last(), Some(FrameBody::End { exit_code: Some(0) })), "{said:?}");
    // The right command on the subject of another verb: rights are given per verb.
    let said = device.ask("log", device.sign_command(&device.command(6, exec)), SOON).await;
    assert!(matches!(&said[..], [FrameBody::Refused { .. }]), "{said:?}");
}

#[tokio::test]
async fn what_appears_on_its_subjects_by_another_hand_is_dropped() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(3, Some("web")))).await;
    device.reaches(3).await;
    let push = subjects::device_push_desired(&device.id());
    for junk in [vec![], vec![0; 10], vec![0xB8; 400_000], device.signed(&device.document(1, None))] {
        device.client.publish(push.clone(), junk.into()).await.unwrap();
    }
    refused(&device, RefusalKind::OlderGeneration).await;
    refused(&device, RefusalKind::Signature).await;
    assert_eq!(device.generation(), 3);
}
