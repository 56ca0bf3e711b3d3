//! Rollouts of an agent's release.

use bramble_contracts::{
    api::{RolloutState, RolloutTurn},
    subjects::Bucket,
    v1::{Status, Verb},
    v2::{UpgradePhase, UpgradeWord},
};
use bramble_coordinator::domain::{record, rollout::Rollout};
use serde_json::{Value, json};

use super::agent::{Agent, Takes, go_on_until, publish};
use crate::sim::{Sim, manifest};

fn rollout(sim: &Sim, name: &str) -> Rollout {
    record::decode(&sim.store.all(Bucket::Rollouts)[&format!("default.{name}")]).unwrap()
}

fn state(sim: &Sim, name: &str) -> RolloutState {
    rollout(sim, name).state
}

fn turn(sim: &Sim, name: &str, agent: &Agent) -> Option<RolloutTurn> {
    rollout(sim, name).devices.get(&agent.id).map(|m| m.turn)
}

fn wish(version: &str, batches: &[&str]) -> Value {
    json!({ "kind": "agent", "version": version, "policy": { "batches": batches, "healthyFor": "0s", "progressDeadline": "60s" } })
}

fn words(sim: &Sim, agent: &Agent) -> Vec<UpgradeWord> {
    let words = sim.mesh.words.lock().unwrap();
    let of_it = words.iter().filter(|command| command.device == agent.id);
    of_it.filter_map(|c| if let Verb::Upgrade(word) = &c.verb { Some(word.clone()) } else { None }).collect()
}

async fn actions(sim: &Sim) -> Vec<String> {
    let audit = sim.must("GET", "/api/v1/audit?limit=1000", None).await;
    let line = |e: &Value| format!("{} {}", e["action"].as_str().unwrap(), e["outcome"].as_str().unwrap());
    audit["items"].as_array().unwrap().iter().rev().map(line).collect()
}

#[tokio::test]
async fn a_release_goes_batch_by_batch_and_both_agents_hear_what_they_must() {
    let sim = Sim::new();
    sim.ready().await;
    publish(&sim, &["1.2.3"]).await;
    let a = Agent::new(&sim, "pi-1", Takes::Well).await;
    let b = Agent::new(&sim, "pi-2", Takes::Well).await;
    let old = Agent::new(&sim, "pi-3", Takes::NotAtAll).await;
    let begun = sim.must("POST", "/api/v1/rollouts", Some(wish("1.2.3", &["1", "100%"]))).await;
    assert_eq!((begun["name"].as_str(), begun["summary"]["devices"].as_u64()), (Some("agent-1-2-3"), Some(3)));
    let again = sim.must("POST", "/api/v1/rollouts", Some(wish("1.2.3", &["1", "100%"]))).await;
    assert_eq!(again["uid"], begun["uid"], "the same again is the same");

    go_on_until(&sim, &[&a, &b, &old], "the first is on trial", || {
        a.is().0 == Some((Status::Trial, UpgradePhase::Trial))
    })
    .await;
    assert_eq!((b.is().0, sim.document(&b.id).and_then(|d| d.agent)), (None, None), "the second has not begun");
    go_on_until(&sim, &[&a, &b, &old], "all is done", || state(&sim, "agent-1-2-3") == RolloutState::Done).await;
    go_on_until(&sim, &[&a, &b], "the old agents have gone", || {
        [&a, &b].iter().all(|agent| agent.is().0 == Some((Status::Confirmed, UpgradePhase::Done)))
    })
    .await;
    for agent in [&a, &b] {
        let said = words(&sim, agent);
        assert_eq!(said.first(), Some(&UpgradeWord::Confirm { release_seq: 1 }), "{said:?}");
        assert_eq!(said.last(), Some(&UpgradeWord::Retire), "{said:?}");
        assert_eq!(agent.is().1, "1.2.3");
    }
    let shown = sim.must("GET", "/api/v1/rollouts/agent-1-2-3", None).await;
    let brief = |d: &Value| {
        format!("{} {} {}", d["name"].as_str().unwrap(), d["turn"].as_str().unwrap(), d["runs"].as_str().unwrap())
    };
    let devices: Vec<String> = shown["devices"].as_array().unwrap().iter().map(brief).collect();
    assert_eq!(devices, ["pi-1 confirmed 1.2.3", "pi-3 refused 0.1.0", "pi-2 confirmed 1.2.3"]);
    assert!(shown["devices"][1]["reason"].as_str().unwrap().contains("upgrade it by hand once"), "{shown}");
    let actions = actions(&sim).await;
    for action in [
        "rollout.begin intent",
        "rollout.begin done",
        "rollout.batch done",
        "agent.confirm done",
        "agent.retire done",
        "rollout.done done",
    ] {
        assert!(actions.iter().any(|a| a == action), "{action}: {actions:?}");
    }
    sim.converged().await;
}

#[tokio::test]
async fn a_release_that_fails_on_the_first_device_reaches_no_other_until_somebody_says_so() {
    let sim = Sim::new();
    sim.ready().await;
    publish(&sim, &["1.2.3"]).await;
    let a = Agent::new(&sim, "pi-1", Takes::FailsOnce).await;
    let b = Agent::new(&sim, "pi-2", Takes::Well).await;
    sim.must("POST", "/api/v1/rollouts", Some(wish("1.2.3", &["1", "100%"]))).await;
    go_on_until(&sim, &[&a, &b], "it is halted", || state(&sim, "agent-1-2-3") == RolloutState::Halted).await;
    assert_eq!(b.is().0, None);
    let why = sim.must("GET", "/api/v1/devices/pi-1/explain", None).await;
    assert_eq!(
        why["sentence"],
        "pi-1 has agent 0.1.0: its upgrade to agent 1.2.3 failed: self-test: it cannot read the state."
    );
    assert_eq!(why["next"], "bramble rollout retry agent-1-2-3");
    let refused = sim.ask("POST", "/api/v1/rollouts/agent-1-2-3/approve", None).await;
    assert_eq!((refused.status.as_u16(), &refused.body["code"]), (409, &json!("conflict")));
    sim.must("POST", "/api/v1/rollouts/agent-1-2-3/retry", Some(json!({ "reason": "mended" }))).await;
    go_on_until(&sim, &[&a, &b], "it is done", || state(&sim, "agent-1-2-3") == RolloutState::Done).await;
    assert_eq!(sim.document(&a.id).unwrap().agent.unwrap().attempt, 2, "it was told anew");
    sim.converged().await;
}

#[tokio::test]
async fn a_device_that_is_away_is_no_failure_and_gets_it_when_it_is_back() {
    let sim = Sim::new();
    sim.ready().await;
    publish(&sim, &["1.2.3"]).await;
    let a = Agent::new(&sim, "pi-1", Takes::Well).await;
    let b = Agent::new(&sim, "pi-2", Takes::Well).await;
    sim.until("it is heard", |lens| lens.connection(&b.id) == bramble_contracts::api::Connection::Online).await;
    b.goes(&sim);
    sim.until("it is offline", |lens| lens.connection(&b.id) == bramble_contracts::api::Connection::Offline).await;
    sim.must("POST", "/api/v1/rollouts", Some(wish("1.2.3", &["100%"]))).await;
    go_on_until(&sim, &[&a, &b], "it is done", || state(&sim, "agent-1-2-3") == RolloutState::Done).await;
    assert_eq!(turn(&sim, "agent-1-2-3", &b), Some(RolloutTurn::Unreachable));
    assert_eq!(sim.document(&b.id).and_then(|d| d.agent), None);
    b.comes_back(&sim);
    let confirmed = || turn(&sim, "agent-1-2-3", &b) == Some(RolloutTurn::Confirmed);
    go_on_until(&sim, &[&a, &b], "it has it, too", confirmed).await;
    sim.converged().await;
}

/// A device with an app that gets worse with the new agent, which is on trial.
async fn on_trial() -> (Sim, Agent) {
    let sim = Sim::new();
    sim.ready().await;
    publish(&sim, &["1.2.3"]).await;
    let a = Agent::new(&sim, "pi-1", Takes::BreaksApp).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 1))).await;
    sim.until("it has the app", |_| sim.apps(&a.id) == ["web@1"]).await;
    a.go_on(&sim);
    a.runs(&sim, "web");
    sim.must("POST", "/api/v1/rollouts", Some(wish("1.2.3", &["100%"]))).await;
    let on_trial = || a.is().0 == Some((Status::Trial, UpgradePhase::Trial));
    go_on_until(&sim, &[&a], "it is on trial", on_trial).await;
    (sim, a)
}

#[tokio::test]
async fn an_app_that_is_worse_than_before_confirms_nobody_and_an_abort_takes_the_trial_back() {
    let (sim, a) = on_trial().await;
    let lacks = "not confirmed yet: its health is degraded, and was not before";
    sim.until("it says what is missing", |lens| {
        let (rollout, _) = lens.rollout_of_agent(&a.id).unwrap();
        let view = lens.rollout(rollout, 1, bramble_coordinator::domain::view::Detail::Whole);
        view.devices[0].reason == lacks
    })
    .await;
    let paused = sim.must("POST", "/api/v1/rollouts/agent-1-2-3/pause", None).await;
    assert_eq!((&paused["state"], &paused["reason"]), (&json!("paused"), &json!("paused by admin")));
    sim.must("POST", "/api/v1/rollouts/agent-1-2-3/abort", Some(json!({ "reason": "web is down" }))).await;
    let back = || a.is().0 == Some((Status::RolledBack, UpgradePhase::Done));
    go_on_until(&sim, &[&a], "the trial is taken back", back).await;
    let said = words(&sim, &a);
    let why = "its rollout was aborted".to_owned();
    assert!(said.iter().all(|word| *word == UpgradeWord::Abort { release_seq: 1, why: why.clone() }), "{said:?}");
    assert_eq!(sim.document(&a.id).unwrap().agent, None, "it is wished no more");
    assert_eq!(rollout(&sim, "agent-1-2-3").why, "aborted by admin: web is down");
    sim.converged().await;
}

#[tokio::test]
async fn a_coordinator_that_dies_in_any_phase_goes_on_where_it_was() {
    let mut sim = Sim::new();
    sim.ready().await;
    publish(&sim, &["1.2.3"]).await;
    let a = Agent::new(&sim, "pi-1", Takes::Well).await;
    let b = Agent::new(&sim, "pi-2", Takes::FailsOnce).await;
    let begin = json!({ "kind": "agent", "version": "1.2.3", "selector": { "matchLabels": { "site": "paris" } },
        "policy": { "batches": ["1", "100%"], "successThreshold": "10%", "healthyFor": "0s", "progressDeadline": "60s", "maxUnavailable": "1" } });
    sim.must("POST", "/api/v1/rollouts", Some(begin)).await;
    let mut phases = std::collections::BTreeSet::new();
    let mut restarts = 0;
    loop {
        let before = (a.is(), b.is());
        let changed = || (a.is(), b.is()) != before || state(&sim, "agent-1-2-3") != RolloutState::Running;
        go_on_until(&sim, &[&a, &b], "something happens", changed).await;
        if state(&sim, "agent-1-2-3") == RolloutState::Halted {
            sim.must("POST", "/api/v1/rollouts/agent-1-2-3/retry", None).await;
        }
        phases.insert(format!("{:?} {:?}", a.is().0, b.is().0));
        if state(&sim, "agent-1-2-3") == RolloutState::Done {
            break;
        }
        sim = sim.kill()();
        sim.ready().await;
        // The new one has heard nobody yet.
        for agent in [&a, &b] {
            agent.comes_back(&sim);
        }
        restarts += 1;
        assert!(restarts < 60, "it comes to an end: {phases:?}");
    }
    assert!(restarts > 8, "{restarts} restarts, {phases:?}");
    assert_eq!((a.is().1.as_str(), b.is().1.as_str()), ("1.2.3", "1.2.3"));
    sim.converged().await;
}

#[tokio::test]
async fn a_newer_rollout_takes_the_devices_of_an_older_one_for_good() {
    let sim = Sim::new();
    sim.ready().await;
    publish(&sim, &["1.2.3", "1.3.0"]).await;
    let a = Agent::new(&sim, "pi-1", Takes::Well).await;
    let b = Agent::new(&sim, "pi-2", Takes::Well).await;
    let slow = json!({ "kind": "agent", "version": "1.2.3", "policy": { "batches": ["1", "100%"], "approve": true, "healthyFor": "0s", "progressDeadline": "60s" } });
    sim.must("POST", "/api/v1/rollouts", Some(slow)).await;
    go_on_until(&sim, &[&a, &b], "it waits", || state(&sim, "agent-1-2-3") == RolloutState::Approval).await;
    let one = json!({ "kind": "agent", "version": "1.3.0", "name": "first", "selector": { "devices": ["pi-1"] }, "policy": { "healthyFor": "0s" } });
    sim.must("POST", "/api/v1/rollouts", Some(one)).await;
    go_on_until(&sim, &[&a, &b], "one of them is newer", || state(&sim, "first") == RolloutState::Done).await;
    assert_eq!((a.is().1.as_str(), state(&sim, "agent-1-2-3")), ("1.3.0", RolloutState::Approval));
    sim.must("POST", "/api/v1/rollouts", Some(wish("1.3.0", &["100%"]))).await;
    let over =
        || state(&sim, "agent-1-2-3") == RolloutState::Superseded && state(&sim, "agent-1-3-0") == RolloutState::Done;
    go_on_until(&sim, &[&a, &b], "the older one is over", over).await;
    assert_eq!((a.is().1.as_str(), b.is().1.as_str()), ("1.3.0", "1.3.0"));
    sim.converged().await;
}

#[tokio::test]
async fn what_cannot_begin_is_refused_with_its_place() {
    let sim = Sim::new();
    sim.ready().await;
    publish(&sim, &["1.2.3"]).await;
    let _a = Agent::new(&sim, "pi-1", Takes::Well).await;
    let with = |patch: Value| {
        let mut body = json!({ "kind": "agent", "version": "1.2.3" });
        body.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        body
    };
    for (patch, place) in [
        (json!({ "version": "9.9.9" }), "version"),
        (json!({ "kind": "deployment" }), "kind"),
        (json!({ "selector": {} }), "selector"),
        (json!({ "selector": { "devices": ["pi-9"] } }), "selector.devices[0]"),
        (json!({ "selector": { "matchLabels": { "site": "rome" } } }), "selector"),
        (json!({ "policy": { "batches": ["1"] } }), "policy.batches"),
        (json!({ "policy": { "batches": ["0", "100%"] } }), "policy.batches[0]"),
        (json!({ "policy": { "maxUnavailable": "0" } }), "policy.maxUnavailable"),
        (
            json!({ "policy": { "window": { "days": "Mon", "from": "02:00", "to": "05:00", "timeZone": "UTC" } } }),
            "policy.window",
        ),
    ] {
        let answer = sim.ask("POST", "/api/v1/rollouts", Some(with(patch.clone()))).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["errors"][0]["path"]),
            (422, &json!(place)),
            "{patch} {}",
            answer.body
        );
    }
    assert!(sim.store.all(Bucket::Rollouts).is_empty());
    assert_eq!(sim.ask("POST", "/api/v1/rollouts/web/pause", None).await.status.as_u16(), 404);
}

#[tokio::test]
async fn commands_go_to_the_agent_that_acts_while_two_of_them_beat() {
    let (sim, a) = on_trial().await;
    let (acts, other) = a.sessions();
    sim.until("both are heard", |lens| lens.fleet.device(&a.id).beats.iter().all(Option::is_some)).await;
    sim.until("the one that acts is meant", |lens| {
        lens.fleet.device(&a.id).acting_beat().is_some_and(|beat| beat.heartbeat.session == acts)
    })
    .await;
    assert!(other.is_some_and(|other| other != acts));
}
