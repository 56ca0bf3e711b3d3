//! Damaged storage is mended whatever goes wrong meanwhile: the agent or the power fails before and after every effect, and
//! every effect fails in every way it can.
#![allow(clippy::unwrap_used, reason = "tests")]

mod simulated;

use std::collections::BTreeMap;
use std::time::Duration;

use bramble_agent::core::have::SeenState;
use bramble_agent::sim::Mishap;
use bramble_contracts::v1::DesiredApp;
use simulated::{Agent, parse_app};

const MISHAPS: [Mishap; 4] = [Mishap::FailsBefore, Mishap::FailsAfter, Mishap::DiesBefore, Mishap::DiesAfter];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Container,
    Image,
    Files,
}

fn app(text: &str) -> DesiredApp {
    parse_app(&text.split(' ').collect::<Vec<_>>())
}

/// Ids of what runs, by name in Podman.
fn up(agent: &Agent) -> BTreeMap<String, String> {
    let things = agent.host.things().into_iter().filter(|thing| thing.seen.state == SeenState::Running);
    things.map(|thing| (thing.seen.podman_name, thing.seen.id)).collect()
}

fn id_of(agent: &Agent, part: &str) -> Option<String> {
    up(agent).into_iter().find(|(name, _)| name.contains(part)).map(|(_, id)| id)
}

/// One app is damaged and crashes, and one mishap comes to pass. False when it did not: then all effects have had their turn.
async fn suffer(text: &str, damage: Damage, effect: u32, mishap: Mishap, reboot: bool) -> bool {
    let context = format!("{damage:?} of {text} with {mishap:?} at effect {effect}, reboot: {reboot}");
    let mut agent = Agent::new();
    agent.want(app(text));
    agent.want(app("db 1 main:db=db:1"));
    assert!(agent.settled().await, "{context}: it runs first");
    let (before, neighbour) = (up(&agent).len(), id_of(&agent, ".db."));
    agent.host.arm(effect, mishap);
    match damage {
        Damage::Container => agent.host.damage_container("x"),
        Damage::Image => {
            agent.host.damage_image("x:1");
            agent.host.damage_container("x");
        }
        Damage::Files => agent.host.hollow_image("x:1"),
    }
    agent.host.end("x", 1);
    // The loop has to see it before anything settles.
    tokio::time::sleep(Duration::from_millis(100)).await;
    if matches!(mishap, Mishap::DiesBefore | Mishap::DiesAfter) {
        let healed = async {
            while !is_well(&agent, before) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = agent.host.agent_died() => {}
            () = healed => return false,
        }
        if reboot {
            agent.reboot().await;
        } else {
            agent.restart().await;
        }
    }
    let healed = async {
        while !is_well(&agent, before) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(2 * 3600), healed).await;
    assert!(in_time.is_ok(), "{context}: mended at last, not {:#?} {:?}", agent.reports(), agent.host.take_effects());
    if !reboot {
        assert_eq!(id_of(&agent, ".db."), neighbour, "{context}: the neighbour never noticed");
    }
    let recorded: usize = agent.host.stored().iter().map(|record| record.instances.len()).sum();
    assert_eq!(recorded, agent.host.things().len(), "{context}: nothing is left over");
    !agent.host.is_armed() || matches!(mishap, Mishap::DiesBefore | Mishap::DiesAfter)
}

/// Everything is whole, runs, and is confirmed.
fn is_well(agent: &Agent, running: usize) -> bool {
    agent.host.is_whole()
        && up(agent).len() == running
        && agent.reports().len() == 2
        && agent.reports().iter().all(|r| r.status == bramble_contracts::v1::Status::Confirmed && r.reason.is_empty())
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_damage_is_mended() {
    let mut cases = 0;
    for text in ["web 1 main:x=x:1", "web 1 init:a=a:1 main:x=x:1 main:y=y:1", "web 1 main:x=x:1 startFirst"] {
        for damage in [Damage::Container, Damage::Image, Damage::Files] {
            for mishap in MISHAPS {
                for reboot in [false, true] {
                    if reboot && matches!(mishap, Mishap::FailsBefore | Mishap::FailsAfter) {
                        continue;
                    }
                    let mut effect = 0;
                    while suffer(text, damage, effect, mishap, reboot).await {
                        effect += 1;
                        cases += 1;
                        assert!(effect < 200, "healing has an end");
                    }
                    assert!(effect >= 3, "{damage:?} of {text} with {mishap:?} has effects, not only {effect}");
                }
            }
        }
    }
    println!("{cases} crash cases");
    assert!(cases > 200, "{cases} cases");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_mended_is_tried_ever_less_and_then_left_to_people() {
    let mut agent = Agent::new();
    agent.want(app("web 1 main:x=x:1"));
    assert!(agent.settled().await);
    agent.host.take_effects();
    agent.host.curse_container("x");
    agent.host.end("x", 1);
    tokio::time::sleep(Duration::from_secs(20 * 3600)).await;
    let effects = agent.host.take_effects();
    let count = |what: &str| effects.iter().filter(|effect| effect.starts_with(what)).count();
    assert!((2..=6).contains(&count("create ")), "bounded: {effects:?}");
    assert!(count("repair ") <= 5, "{effects:?}");
    let alarms = agent.alarms();
    assert!(alarms.iter().any(|alarm| alarm.contains("without success")), "{alarms:?}");
}
