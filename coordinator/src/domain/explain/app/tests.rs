//! Every phase, status and kind of container has words, and what matters most comes first.

use bramble_contracts::id::Uid;

use super::*;
use crate::domain::{compose::compose, rollout::gate::Gate, testing};

const PHASES: [Phase; 9] = [
    Phase::Preparing,
    Phase::Stopping,
    Phase::Starting,
    Phase::Probing,
    Phase::Running,
    Phase::Completed,
    Phase::CrashLoop,
    Phase::Failed,
    Phase::Removing,
];
const STATUSES: [Status; 5] = [Status::Staged, Status::Trial, Status::Confirmed, Status::RolledBack, Status::Failed];

fn wanted(names: &[(&str, u8)]) -> Vec<DesiredApp> {
    let device = testing::device(1, &[("a", "0")]);
    let records: Vec<_> =
        names.iter().map(|(name, age)| testing::record(name, ("a", "0"), 80 + u16::from(*age), *age)).collect();
    compose(&device, records.iter(), &Gate::default()).apps
}

fn report(want: &DesiredApp, status: Status, phase: Phase) -> AppReport {
    AppReport {
        uid: want.uid.clone(),
        tenant: want.deployment.metadata.tenant.clone(),
        deployment: want.deployment.metadata.name.clone(),
        revision: want.revision,
        running_revision: None,
        running_hash: None,
        status,
        phase,
        reason: String::new(),
        last_downtime_ms: None,
        containers: vec![],
        stages: vec![],
    }
}

fn container(role: ContainerRole, state: ContainerState, exit_code: Option<i32>) -> ContainerReport {
    ContainerReport {
        name: "main".parse().unwrap(),
        role,
        id: String::new(),
        state,
        exit_code,
        oom_killed: exit_code == Some(137),
        restarts: 2,
        started_at_ms: 0,
        image_digest: String::new(),
        healthy: exit_code.is_none().then_some(false),
        last_lines: vec![],
    }
}

fn containers() -> Vec<Vec<ContainerReport>> {
    let states = [
        ContainerState::Missing,
        ContainerState::Created,
        ContainerState::Running,
        ContainerState::Exited,
        ContainerState::Unknown,
    ];
    let roles = [ContainerRole::Init, ContainerRole::Main];
    let mut all = vec![vec![]];
    for state in states {
        for role in roles {
            all.extend([None, Some(0), Some(7), Some(137)].map(|code| vec![container(role, state, code)]));
        }
    }
    all
}

#[test]
fn every_state_has_a_sentence_evidence_and_a_next_step() {
    let device: Name = "pi-1".parse().unwrap();
    let want = wanted(&[("web", 1)]);
    let reason = "container main ended with exit code 7: no database.";
    let mut said = 0;
    for (phase, status) in PHASES.into_iter().flat_map(|p| STATUSES.map(|s| (p, s))) {
        for (containers, reason) in containers().into_iter().flat_map(|c| [(c.clone(), ""), (c, reason)]) {
            let app = AppReport { containers, reason: reason.into(), ..report(&want[0], status, phase) };
            let answer = explain(&device, &want, std::slice::from_ref(&app), None);
            let Some(answer) = answer else {
                assert_eq!(status, Status::Confirmed, "{app:?}");
                continue;
            };
            let all = [answer.sentence.as_str(), &answer.evidence.join("\n"), &answer.next].join("\n");
            assert!(answer.sentence.starts_with("web on pi-1 ") && answer.sentence.ends_with('.'), "{all}");
            assert!(
                !answer.sentence.ends_with("..") && answer.sentence.contains(reason.trim_end_matches('.')),
                "{all}"
            );
            assert!(!answer.evidence.is_empty() && !answer.next.is_empty(), "{all}");
            for debug in ["Some(", "None", "{", "::", "CrashLoop", "RolledBack", "ContainerState"] {
                assert!(!all.contains(debug), "{debug} in {all}");
            }
            let about_one = matches!(phase, Phase::Starting | Phase::Probing | Phase::CrashLoop);
            let unseen = app.containers.iter().any(|c| c.state == ContainerState::Unknown);
            if about_one && !app.containers.is_empty() && !unseen {
                assert!(answer.sentence.contains("container main"), "{all}");
            }
            said += 1;
        }
    }
    assert_eq!(said, PHASES.len() * 4 * 41 * 2, "every combination that is not confirmed");
}

#[test]
fn what_is_down_comes_first_and_the_others_are_named() {
    let device: Name = "pi-1".parse().unwrap();
    let want = wanted(&[("alpha", 1), ("beta", 2), ("gamma", 3), ("delta", 4), ("eta", 5)]);
    let named = |name: &str| want.iter().find(|w| w.deployment.metadata.name.as_str() == name).unwrap();
    let mut still_up = report(named("alpha"), Status::Failed, Phase::Preparing);
    still_up.running_revision = Some(Revision(1));
    let mut gone = report(named("gamma"), Status::Trial, Phase::Removing);
    gone.deployment = "zeta".parse().unwrap();
    let mut outdated = report(named("delta"), Status::Confirmed, Phase::Running);
    outdated.uid = Uid::from_entropy([99; 13]);
    let reports = [
        still_up,
        gone,
        report(named("beta"), Status::Trial, Phase::Probing),
        report(named("gamma"), Status::Failed, Phase::CrashLoop),
        outdated,
    ];
    let answer = explain(&device, &want, &reports, None).unwrap();
    assert!(answer.sentence.starts_with("gamma on pi-1 keeps stopping"), "{answer:?}");
    let also: Vec<&String> = answer.evidence.iter().filter(|e| e.starts_with("also: ")).collect();
    assert_eq!(
        also,
        [
            "also: alpha cannot be prepared",
            "also: beta runs, and its probe has not passed yet",
            "also: delta has not been begun with",
            "also: eta has not been begun with",
            "also: zeta is being removed"
        ]
    );
    let only: Name = "eta".parse().unwrap();
    let silent = explain(&device, &want, &reports, Some(&only)).unwrap();
    assert_eq!(silent.sentence, "pi-1 has the newest document and has not reported on revision 1 of eta yet.");
    assert!(!silent.evidence.iter().any(|e| e.starts_with("also")), "only that one was asked about: {silent:?}");
}

#[test]
fn stages_and_downtime_are_evidence() {
    let want = wanted(&[("web", 1)]);
    let detail = "HTTP GET :80/ answered 500 Internal Server Error".to_owned();
    let stages = vec![
        Stage { name: StageName::Starting, state: StageState::Passed, took_ms: Some(3), detail: String::new() },
        Stage { name: StageName::Probing, state: StageState::Failed, took_ms: Some(9_050), detail },
    ];
    let app = AppReport { stages, last_downtime_ms: Some(412), ..report(&want[0], Status::Failed, Phase::Probing) };
    assert_eq!(
        evidence(&app),
        [
            "phase probing, revision 1: nothing of it runs",
            "stage probing failed, tried for 9.0 s: HTTP GET :80/ answered 500 Internal Server Error",
            "it was down for 412 ms at the last replacement"
        ]
    );
}

#[test]
fn phases_and_stages_are_called_as_the_api_calls_them() {
    for phase in PHASES {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase_word(phase));
    }
    let stages = [
        StageName::Preparing,
        StageName::Stopping,
        StageName::Init,
        StageName::Starting,
        StageName::Probing,
        StageName::Running,
    ];
    for stage in stages {
        assert_eq!(serde_json::to_value(stage).unwrap(), stage_word(stage));
    }
}
