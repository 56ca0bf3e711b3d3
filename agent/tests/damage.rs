//! State that is damaged, or cannot be read for a while: what runs, runs on, and nothing is removed by mistake.
#![allow(clippy::unwrap_used, reason = "tests")]

mod simulated;

use std::collections::BTreeMap;
use std::time::Duration;

use bramble_agent::core::have::SeenState;
use bramble_agent::sim::{Link, Spoilt};
use bramble_contracts::v1::DesiredApp;
use simulated::{Agent, parse_app};

fn app(text: &str) -> DesiredApp {
    parse_app(&text.split(' ').collect::<Vec<_>>())
}

async fn running(apps: &[&str]) -> Agent {
    let mut agent = Agent::new();
    apps.iter().for_each(|text| agent.want(app(text)));
    assert!(agent.settled().await);
    agent.host.take_effects();
    agent
}

/// Ids of what runs, by revision and name.
fn up(agent: &Agent) -> BTreeMap<String, String> {
    let things = agent.host.things().into_iter().filter(|thing| thing.seen.state == SeenState::Running);
    things.map(|thing| (thing.seen.podman_name, thing.seen.id)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_older_document_removes_and_downgrades_nothing() {
    let mut agent = running(&["web 2 main:web=web:2", "db 1 main:db=db:1"]).await;
    let before = up(&agent);
    agent.restart_with_older(vec![app("web 1 main:web=web:1"), app("old 1 main:old=old:1")]).await;
    tokio::time::sleep(Duration::from_secs(900)).await;
    let after = up(&agent);
    assert!(before.iter().all(|(name, id)| after.get(name) == Some(id)), "{before:?} {after:?}");
    assert_eq!(after.len(), 3, "what it lists is started too");
    // Also what is not in it lives on in a new boot.
    agent.host.end("db", 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(up(&agent).len(), 3, "and what is not in it is healed");
    // A document from the network says again what is to go.
    agent.unwant("db");
    assert!(agent.settled().await, "{:#?}", agent.reports());
    assert_eq!(up(&agent).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_read_for_a_while_are_waited_for() {
    for spoil in [None, Some(Spoilt::Unread)] {
        let mut agent = running(&["web 1 main:web=web:1", "db 1 main:db=db:1"]).await;
        let (before, stored) = (up(&agent), agent.host.stored());
        match spoil {
            None => agent.host.set_disk(Link::Down),
            Some(_) => agent.host.spoil("web", spoil),
        }
        agent.restart().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((up(&agent), agent.host.stored()), (before.clone(), stored.clone()));
        assert!(agent.alarms().iter().any(|alarm| alarm.contains("tried again")), "{:?}", agent.alarms());
        assert!(agent.reports().iter().any(|report| report.reason.contains("unknown")), "{:?}", agent.reports());
        agent.want(app("web 2 main:web=web:2"));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(up(&agent), before, "not planned before its record was read");
        agent.host.set_disk(Link::Up);
        agent.host.spoil("web", None);
        assert!(agent.settled().await, "{:#?}", agent.reports());
        assert!(agent.alarms().is_empty(), "{:?}", agent.alarms());
        let after = up(&agent);
        assert_eq!(after.len(), 2);
        assert!(after.iter().any(|(name, id)| name.contains("db") && before.get(name) == Some(id)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_record_makes_no_strangers() {
    for text in ["web 1 main:web=web:1", "web 1 init:a=a:1 main:x=x:1 main:y=y:1"] {
        let mut agent = running(&[text]).await;
        let before = up(&agent);
        agent.host.spoil("web", Some(Spoilt::Damaged));
        agent.restart().await;
        assert!(agent.settled().await, "{:#?}", agent.reports());
        assert_eq!(up(&agent), before, "what ran, runs on");
        assert!(agent.alarms().iter().any(|alarm| alarm.contains("was lost")), "{:?}", agent.alarms());
        // From here on all is as before: upgraded, and removed.
        agent.want(app("web 2 main:web=web:2"));
        assert!(agent.settled().await, "{:#?}", agent.reports());
        assert_eq!(agent.host.things().len(), 1);
        agent.host.spoil("web", Some(Spoilt::Damaged));
        agent.restart().await;
        agent.unwant("web");
        assert!(agent.settled().await, "{:#?}", agent.reports());
        assert!(agent.host.things().is_empty() && agent.host.stored().is_empty());
    }
}
