//! Every effect of an install, an upgrade, a reboot and a removal goes wrong in every way it can: afterwards all is as wanted.
#![allow(clippy::unwrap_used, reason = "tests")]

mod simulated;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bramble_agent::core::app::{App, Role};
use bramble_agent::core::have::SeenState;
use bramble_agent::core::mapping::Publisher;
use bramble_agent::sim::{Mishap, SimContainer};
use bramble_contracts::Revision;
use bramble_contracts::v1::{DependencyCondition, DesiredApp, Handover, ImageRef};
use simulated::{Agent, app_of, check_starts, parse_app};

const MISHAPS: [Mishap; 4] = [Mishap::FailsBefore, Mishap::FailsAfter, Mishap::DiesBefore, Mishap::DiesAfter];

/// What follows the death of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Only the agent died.
    Restart,
    /// The device lost its power.
    Reboot,
}

/// What is wanted, in two versions.
struct Story {
    old: Vec<DesiredApp>,
    new: Vec<DesiredApp>,
}

fn story(old: &str, new: &str) -> Story {
    let apps = |text: &str| text.split(" + ").map(|app| parse_app(&app.split(' ').collect::<Vec<_>>())).collect();
    Story { old: apps(old), new: apps(new) }
}

fn stories() -> Vec<Story> {
    vec![
        story("web 1 main:web=web:1", "web 2 main:web=web:2"),
        story("web 1 init:a=a:1 init:b=b:1 main:web=web:1", "web 2 init:a=a:2 main:web=web:2 probe"),
        story("web 1 init:a=a:1 main:x=x:1 main:y=y:1", "web 2 main:x=x:2 main:y=y:1"),
        story("web 1 main:x=x:1 main:y=y:1", "web 2 main:x=x:2"),
        // Who depends is listed first. The last one's dependency alone is changed.
        story(
            "web 1 main:x=x:1 main:y=warm:1 probe:y after:x=y:healthy",
            "web 2 main:x=x:2 main:y=warm:2 probe:y after:x=y:healthy",
        ),
        story(
            "web 1 init:a=a:1 main:web=web:1 after=db:healthy + db 1 main:db=warm:1 probe",
            "web 2 init:a=a:2 main:web=web:2 after=db:healthy + db 2 main:db=warm:2 probe",
        ),
        story(
            "web 1 main:web=web:1 after=db:started + db 1 main:db=db:1",
            "web 1 main:web=web:1 after=db:started + db 2 main:db=db:2",
        ),
    ]
}

/// Stories in which the new one is to be healthy before the old one goes: plain containers, pods, with init containers
/// and without, with somebody who depends, and into and out of start first.
fn start_first_stories() -> Vec<Story> {
    vec![
        story(
            "web 1 main:web=web:1 probe port=8080 startFirst",
            "web 2 init:a=a:2 main:web=web:2 probe port=8080 startFirst",
        ),
        story(
            "web 1 init:a=a:1 main:x=x:1 main:y=y:1 port=8080 startFirst",
            "web 2 main:x=x:2 main:y=y:1 port=8081 probe startFirst",
        ),
        story("web 1 main:x=x:1 main:y=y:1 port=8080 startFirst", "web 2 main:x=x:2 port=8080 startFirst"),
        story(
            "web 1 main:web=web:1 port=8080 startFirst after=db:healthy + db 1 main:db=db:1 probe",
            "web 2 main:web=web:2 port=8080 startFirst after=db:healthy + db 2 main:db=db:2 probe",
        ),
        story("web 1 main:web=web:1 port=8080", "web 2 main:web=web:2 port=8080 startFirst"),
        story("web 1 main:web=web:1 port=8080 startFirst", "web 2 main:web=web:2 port=8080"),
    ]
}

/// A warm one's probe passes so long after its start.
const WARM_UP: Duration = Duration::from_secs(1);

fn takes(image: &str, condition: DependencyCondition) -> Duration {
    if image.starts_with("warm:") && condition == DependencyCondition::Healthy { WARM_UP } else { Duration::ZERO }
}

/// Exactly the wanted containers run, and nothing else of ours is left anywhere.
fn check(agent: &Agent, want: &[DesiredApp], context: &str) {
    let things = agent.host.things();
    let recorded: BTreeSet<String> =
        agent.host.stored().iter().flat_map(|record| record.instances.keys().cloned()).collect();
    let there: BTreeSet<String> = things.iter().map(|thing| thing.seen.nonce.clone()).collect();
    assert_eq!(recorded, there, "{context}: the record and the device agree");
    if want.is_empty() {
        assert!(things.is_empty() && agent.host.stored().is_empty(), "{context}: nothing is left, not {things:#?}");
        assert_eq!(agent.host.mappings(), [], "{context}: no port leads anywhere");
    }
    let apps: Vec<App> = want.iter().map(app_of).collect();
    let wanted = |thing: &&SimContainer| apps.iter().any(|app| thing.seen.hash == app.hash().to_string());
    assert!(things.iter().all(|thing| wanted(&thing)), "{context}: nothing old is left");
    let mains = things.iter().filter(|t| t.seen.role == Role::Main && t.seen.state == SeenState::Running);
    let mut running: Vec<String> = mains.map(|thing| thing.seen.name.to_string()).collect();
    let mut wanted: Vec<String> = apps.iter().flat_map(App::mains).map(|c| c.name.to_string()).collect();
    running.sort();
    wanted.sort();
    assert_eq!(running, wanted, "{context}: every main runs, once");
    check_ports(agent, &apps, context);
}

/// Host ports that the agent leads lead to who runs, and nowhere else.
fn check_ports(agent: &Agent, apps: &[App], context: &str) {
    let (things, mappings) = (agent.host.things(), agent.host.mappings());
    let led: Vec<&SimContainer> = apps
        .iter()
        .filter(|app| app.mains().iter().any(|c| !c.ports.is_empty()))
        .flat_map(|app| {
            let role = if app.needs_pod() { Role::Pod } else { Role::Main };
            things.iter().filter(move |thing| thing.app == *app.key() && thing.seen.role == role)
        })
        .filter(|thing| thing.seen.publisher == Publisher::Agent)
        .collect();
    assert_eq!(mappings.len(), led.len(), "{context}: ports lead to who runs, and to nobody else");
    let is_led = |thing: &&&SimContainer| mappings.iter().any(|mapping| mapping.leads_to(&thing.seen.addresses));
    assert!(led.iter().all(|thing| is_led(&thing)), "{context}: ports lead to the one that runs");
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
    let names: Vec<_> = story.old.iter().map(|app| app.deployment.metadata.name.as_str()).collect();
    let context = format!("{change:?} of {names:?} with {mishap:?} at effect {effect}, then {after:?}");
    let mut agent = Agent::new();
    for image in ["warm:1", "warm:2"] {
        agent.host.set_warm_up(image, WARM_UP);
    }
    if change != Change::Install {
        agent.want_all(story.old.clone());
        assert!(agent.settled().await, "{context}: the old one runs first");
    }
    let before = agent.host.things();
    agent.host.take_effects();
    agent.host.arm(effect, mishap);
    guard(&agent, story, change);
    begin(&mut agent, story, change, (effect, mishap)).await;
    let dies = matches!(mishap, Mishap::DiesBefore | Mishap::DiesAfter);
    if dies {
        tokio::select! {
            () = agent.host.agent_died() => {}
            settled = agent.settled() => {
                assert!(settled, "{context}: without a mishap it settles");
                return false;
            }
        }
        match after {
            After::Restart => agent.restart().await,
            After::Reboot => {
                assert_eq!(agent.host.unserved(), Vec::<String>::new(), "{context}: until the power went");
                agent.host.guard(None);
                agent.reboot().await;
            }
        }
    }
    let settled = agent.settled().await;
    assert!(settled, "{context}: it settles, not {:#?}", agent.reports());
    let happened = !agent.host.is_armed() || dies;
    let effects = agent.host.take_effects();
    assert_eq!(agent.host.unserved(), Vec::<String>::new(), "{context}: {effects:#?}");
    agent.host.guard(None);
    let target = agent.wanted().to_vec();
    if matches!(change, Change::Undo { .. }) {
        // What a save that failed after all has left on the disk is found by the next agent.
        agent.restart().await;
        tidied(&agent).await;
    } else if change != Change::Reboot && after == After::Restart {
        target.iter().for_each(|app| check_order(&effects, app, &context));
    }
    check(&agent, &target, &context);
    let rebooted = change == Change::Reboot || (dies && after == After::Reboot);
    if rebooted || change == Change::Install {
        check_starts(&agent, &target, takes, &context);
    } else if change == Change::Upgrade {
        check_untouched(&agent, &before, &target, &context);
        // A change that fails for a moment lets those that depend on it go first; in every other case it is first.
        if dies && !same(&story.old[0], &story.new[0]) {
            check_starts(&agent, &target, takes, &context);
        }
    }
    happened
}

/// The change. A mishap of a reboot is counted from the boot on.
async fn begin(agent: &mut Agent, story: &Story, change: Change, (effect, mishap): (u32, Mishap)) {
    match change {
        Change::Install => agent.want_all(story.old.clone()),
        Change::Upgrade => agent.want_all(story.new.clone()),
        Change::Remove => agent.unwant_all(),
        Change::Reboot => {
            agent.reboot().await;
            agent.host.arm(effect, mishap);
        }
        Change::Undo { after_ms } => {
            agent.want_all(story.new.clone());
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            let back = |app: &DesiredApp| DesiredApp { revision: Revision(3), ..app.clone() };
            agent.want_all(story.old.iter().map(back).collect());
        }
    }
}

/// Whatever goes wrong: while a new one takes the old one's place start first, a healthy container is behind the ports.
/// Probes of the new one fail for a while: it must not take over before they pass.
fn guard(agent: &Agent, story: &Story, change: Change) {
    let start_first = |apps: &[DesiredApp]| apps[0].deployment.spec.lifecycle.handover == Handover::StartFirst;
    let replaces = matches!(change, Change::Upgrade | Change::Undo { .. });
    if !replaces || !start_first(&story.old) || !start_first(&story.new) {
        return;
    }
    let (old, new) = (app_of(&story.old[0]), app_of(&story.new[0]));
    agent.host.guard(Some(old.key().clone()));
    let serves = |image: &ImageRef| old.mains().iter().any(|main| main.image == *image);
    for main in new.mains().iter().filter(|main| main.probe.is_some() && !serves(&main.image)) {
        let (host, image) = (Arc::clone(&agent.host), main.image.to_string());
        host.sicken(&image);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            host.heal(&image);
        });
    }
}

/// Waits (virtual time) until what is recorded is what is there; that it is all as wanted is checked afterwards.
async fn tidied(agent: &Agent) {
    for _ in 0..600 {
        let recorded: usize = agent.host.stored().iter().map(|record| record.instances.len()).sum();
        if recorded == agent.host.things().len() && agent.settled().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn same(one: &DesiredApp, other: &DesiredApp) -> bool {
    app_of(one).hash() == app_of(other).hash()
}

/// What was not changed ran on, whatever became of what it depends on.
fn check_untouched(agent: &Agent, before: &[SimContainer], target: &[DesiredApp], context: &str) {
    let hashes: Vec<String> = target.iter().map(|app| app_of(app).hash().to_string()).collect();
    let after = agent.host.things();
    for thing in before.iter().filter(|thing| hashes.contains(&thing.seen.hash)) {
        assert!(after.contains(thing), "{context}: {} was touched", thing.seen.podman_name);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Install,
    Upgrade,
    Remove,
    Reboot,
    /// An upgrade that is taken back before it is through.
    Undo {
        after_ms: u64,
    },
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_it_ends_as_wanted() {
    let cases = enumerate(stories(), &[]).await;
    println!("{cases} crash cases");
    assert!(cases > 500, "{cases} cases");
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_with_start_first_somebody_serves_and_it_ends_as_wanted() {
    // Taken back while it starts, and when it is about to take over, or has just done so.
    let undone = [Change::Undo { after_ms: 500 }, Change::Undo { after_ms: 3050 }];
    let cases = enumerate(start_first_stories(), &undone).await;
    println!("{cases} crash cases with start first");
    assert!(cases > 500, "{cases} cases");
}

async fn enumerate(stories: Vec<Story>, more: &[Change]) -> u32 {
    let mut cases = 0;
    for story in stories {
        for change in [Change::Install, Change::Upgrade, Change::Remove, Change::Reboot].iter().chain(more) {
            for mishap in MISHAPS {
                for after in [After::Restart, After::Reboot] {
                    let fails = matches!(mishap, Mishap::FailsBefore | Mishap::FailsAfter);
                    if fails && after == After::Reboot {
                        continue;
                    }
                    let mut effect = 0;
                    while suffer(&story, *change, effect, mishap, after).await {
                        effect += 1;
                        cases += 1;
                        assert!(effect < 200, "a change has an end");
                    }
                    assert!(effect >= 3 || matches!(change, Change::Undo { .. }), "{change:?} has effects");
                }
            }
        }
    }
    cases
}
