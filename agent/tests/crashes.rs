//! Every effect of an install, an upgrade, a reboot and a removal goes wrong in every way it can: afterwards all is as wanted.
#![allow(clippy::unwrap_used, reason = "tests")]

mod simulated;

use std::collections::BTreeSet;

use bramble_agent::core::app::Role;
use bramble_agent::core::have::SeenState;
use bramble_agent::sim::Mishap;
use bramble_contracts::v1::DesiredApp;
use simulated::{Agent, app_of, parse_app};

const MISHAPS: [Mishap; 4] = [Mishap::FailsBefore, Mishap::FailsAfter, Mishap::DiesBefore, Mishap::DiesAfter];

/// What follows the death of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Only the agent died.
    Restart,
    /// The device lost its power.
    Reboot,
}

/// One app in two versions.
struct Story {
    old: DesiredApp,
    new: DesiredApp,
}

fn stories() -> Vec<Story> {
    let app = |text: &str| parse_app(&text.split(' ').collect::<Vec<_>>());
    vec![
        Story { old: app("web 1 main:web=web:1"), new: app("web 2 main:web=web:2") },
        Story {
            old: app("web 1 init:a=a:1 init:b=b:1 main:web=web:1"),
            new: app("web 2 init:a=a:2 main:web=web:2 probe"),
        },
        Story { old: app("web 1 init:a=a:1 main:x=x:1 main:y=y:1"), new: app("web 2 main:x=x:2 main:y=y:1") },
        Story { old: app("web 1 main:x=x:1 main:y=y:1"), new: app("web 2 main:x=x:2") },
    ]
}

/// Exactly the wanted containers run, and nothing else of ours is left anywhere.
fn check(agent: &Agent, want: Option<&DesiredApp>, context: &str) {
    let things = agent.host.things();
    let recorded: BTreeSet<String> =
        agent.host.stored().iter().flat_map(|record| record.instances.keys().cloned()).collect();
    let there: BTreeSet<String> = things.iter().map(|thing| thing.seen.nonce.clone()).collect();
    assert_eq!(recorded, there, "{context}: the record and the device agree");
    let Some(want) = want else {
        assert!(things.is_empty() && agent.host.stored().is_empty(), "{context}: nothing is left, not {things:#?}");
        return;
    };
    let app = app_of(want);
    assert!(things.iter().all(|thing| thing.seen.hash == app.hash().to_string()), "{context}: nothing old is left");
    let mains = things.iter().filter(|t| t.seen.role == Role::Main && t.seen.state == SeenState::Running);
    let names: Vec<String> = mains.map(|thing| thing.seen.name.to_string()).collect();
    let mut wanted: Vec<String> = app.mains().iter().map(|c| c.name.to_string()).collect();
    wanted.sort();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(sorted, wanted, "{context}: every main runs, once");
}

/// Two specs never run side by side, and no main starts before the init containers of its spec are done.
fn check_order(effects: &[String], app: &DesiredApp, context: &str) {
    let app = app_of(app);
    let starts = effects.iter().position(|e| app.mains().iter().any(|c| *e == format!("start {}", c.name)));
    for init in app.inits() {
        let ran = effects.iter().position(|e| *e == format!("run-init {}", init.name));
        if let (Some(start), Some(ran)) = (starts, ran) {
            assert!(ran < start, "{context}: {} after a main: {effects:#?}", init.name);
        }
    }
}

/// Runs `change` with one mishap. False when the mishap did not come to pass: then all effects have had their turn.
async fn suffer(story: &Story, change: Change, effect: u32, mishap: Mishap, after: After) -> bool {
    let context = format!(
        "{change:?} of {} with {mishap:?} at effect {effect}, then {after:?}",
        story.old.deployment.metadata.name
    );
    let mut agent = Agent::new();
    if change != Change::Install {
        agent.want(story.old.clone());
        assert!(agent.settled().await, "{context}: the old one runs first");
    }
    agent.host.take_effects();
    agent.host.arm(effect, mishap);
    let target = match change {
        Change::Install => Some(&story.old),
        Change::Upgrade => Some(&story.new),
        Change::Remove => None,
        Change::Reboot => Some(&story.old),
    };
    match (change, target) {
        (Change::Reboot, _) => {
            agent.reboot().await;
            agent.host.arm(effect, mishap);
        }
        (Change::Install | Change::Upgrade | Change::Remove, Some(app)) => agent.want(app.clone()),
        (Change::Install | Change::Upgrade | Change::Remove, None) => agent.unwant("web"),
    }
    if matches!(mishap, Mishap::DiesBefore | Mishap::DiesAfter) {
        tokio::select! {
            () = agent.host.agent_died() => {}
            settled = agent.settled() => {
                assert!(settled, "{context}: without a mishap it settles");
                return false;
            }
        }
        match after {
            After::Restart => agent.restart().await,
            After::Reboot => agent.reboot().await,
        }
    }
    let settled = agent.settled().await;
    assert!(settled, "{context}: it settles, not {:#?}", agent.reports());
    let happened = !agent.host.is_armed() || matches!(mishap, Mishap::DiesBefore | Mishap::DiesAfter);
    let effects = agent.host.take_effects();
    if let (Some(app), true, After::Restart) = (target, change != Change::Reboot, after) {
        check_order(&effects, app, &context);
    }
    check(&agent, target, &context);
    happened
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Install,
    Upgrade,
    Remove,
    Reboot,
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_it_ends_as_wanted() {
    let mut cases = 0;
    for story in stories() {
        for change in [Change::Install, Change::Upgrade, Change::Remove, Change::Reboot] {
            for mishap in MISHAPS {
                for after in [After::Restart, After::Reboot] {
                    let fails = matches!(mishap, Mishap::FailsBefore | Mishap::FailsAfter);
                    if fails && after == After::Reboot {
                        continue;
                    }
                    let mut effect = 0;
                    while suffer(&story, change, effect, mishap, after).await {
                        effect += 1;
                        cases += 1;
                        assert!(effect < 200, "a change has an end");
                    }
                    assert!(effect >= 3, "{change:?} has effects");
                }
            }
        }
    }
    println!("{cases} crash cases");
    assert!(cases > 500, "{cases} cases");
}
