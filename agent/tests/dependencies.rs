//! Any graph of apps and containers without a circle starts completely, every condition honoured, at first and in every
//! boot; and an app kept by an older document is there for those that depend on it. On a simulated device.
#![allow(clippy::unwrap_used, reason = "tests")]

mod simulated;

use std::time::Duration;

use bramble_agent::core::have::SeenState;
use bramble_agent::sim::Behaviour;
use bramble_contracts::v1::{DependencyCondition, DesiredApp, Phase};
use proptest::prelude::*;
use simulated::{Agent, check_starts, parse_app};

fn app(text: &str) -> DesiredApp {
    parse_app(&text.split(' ').collect::<Vec<_>>())
}

/// What a main container does; the number is how many seconds it takes to be healthy, or to complete.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Server(u8),
    Bare,
    Job(u8),
}

const SETTLED: Duration = Duration::from_secs(2);

/// On which earlier ones something depends, and how.
type Edges = Vec<(prop::sample::Index, u8)>;
/// A main container, and on which of its app it depends.
type Main = (Kind, Edges);

/// Apps: their mains, whether they have an init container, and on which apps they depend.
#[derive(Clone, Debug)]
struct Graph {
    apps: Vec<(Vec<Main>, bool, Edges)>,
    order: Vec<prop::sample::Index>,
}

fn graphs() -> impl Strategy<Value = Graph> {
    let kind = prop_oneof![(0u8..4).prop_map(Kind::Server), Just(Kind::Bare), (0u8..4).prop_map(Kind::Job)];
    let edges = || prop::collection::vec((any::<prop::sample::Index>(), 0u8..3), 0..3);
    let mains = prop::collection::vec((kind, edges()), 1..4);
    let apps = prop::collection::vec((mains, any::<bool>(), edges()), 1..6);
    (apps, prop::collection::vec(any::<prop::sample::Index>(), 6)).prop_map(|(apps, order)| Graph { apps, order })
}

/// What may be asked of a container, out of what was drawn.
fn condition(of: Kind, drawn: u8) -> &'static str {
    match (of, drawn) {
        (_, 0) | (Kind::Bare, _) => "started",
        (Kind::Server(_), _) => "healthy",
        (Kind::Job(_), _) => "completed",
    }
}

impl Graph {
    /// The image says what a container of it does.
    fn image(kind: Kind) -> String {
        match kind {
            Kind::Server(secs) => format!("server:{secs}"),
            Kind::Bare => "bare:1".into(),
            Kind::Job(secs) => format!("job:{secs}"),
        }
    }

    fn takes(image: &str, condition: DependencyCondition) -> Duration {
        let (kind, secs) = image.split_once(':').unwrap();
        let secs = Duration::from_secs(secs.parse().unwrap());
        match (condition, kind) {
            (DependencyCondition::Started, _) => Duration::ZERO,
            (DependencyCondition::Healthy, "server") | (DependencyCondition::Completed, _) => secs,
            // Without a probe it is healthy when it stays up, or when it has completed.
            (DependencyCondition::Healthy, "job") => secs.min(SETTLED),
            (DependencyCondition::Healthy, _) => SETTLED,
        }
    }

    fn words(&self, i: usize) -> String {
        let (mains, init, edges) = &self.apps[i];
        let mut text = format!("d{i} 1");
        if *init {
            text.push_str(&format!(" init:i{i}=init:1"));
        }
        for (j, (kind, _)) in mains.iter().enumerate() {
            text.push_str(&format!(" main:c{i}-{j}={}", Self::image(*kind)));
            match kind {
                Kind::Server(_) => text.push_str(&format!(" probe:c{i}-{j}")),
                Kind::Job(_) => text.push_str(&format!(" restart:c{i}-{j}=never")),
                Kind::Bare => {}
            }
        }
        for (j, (_, edges)) in mains.iter().enumerate().skip(1) {
            for (index, drawn) in edges {
                let to = index.index(j);
                text.push_str(&format!(" after:c{i}-{j}=c{i}-{to}:{}", condition(mains[to].0, *drawn)));
            }
        }
        for (index, drawn) in edges.iter().filter(|_| i > 0) {
            let to = index.index(i);
            let jobs = self.apps[to].0.iter().all(|(kind, _)| matches!(kind, Kind::Job(_)));
            let condition = match (drawn, jobs) {
                (0, _) => "started",
                (_, true) => "completed",
                (_, false) => "healthy",
            };
            text.push_str(&format!(" after=d{to}:{condition}"));
        }
        text
    }

    /// In any order.
    fn desired(&self) -> Vec<DesiredApp> {
        let mut left: Vec<usize> = (0..self.apps.len()).collect();
        let picks = self.order.iter().take(left.len());
        picks.map(|pick| left.remove(pick.index(left.len()))).map(|i| app(&self.words(i))).collect()
    }
}

async fn starts_in_order(graph: &Graph) {
    let mut agent = Agent::new();
    for secs in 0..4 {
        agent.host.set_warm_up(&format!("server:{secs}"), Duration::from_secs(secs));
        let ends = Behaviour::Ends { code: 0, after: Duration::from_secs(secs) };
        agent.host.set_behaviour(&format!("job:{secs}"), ends);
    }
    let apps = graph.desired();
    for app in &apps {
        agent.want(app.clone());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for boot in ["at first", "in the next boot"] {
        assert!(agent.settled().await, "{boot}: all of it starts, not {:#?}", agent.reports());
        check_starts(&agent, &apps, Graph::takes, boot);
        agent.reboot().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_graph_without_a_circle_starts_in_order(graph in graphs()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(starts_in_order(&graph));
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_that_only_its_record_keeps_is_there_for_those_that_depend_on_it() {
    let mut agent = Agent::new();
    agent.host.set_warm_up("db:1", Duration::from_secs(3));
    let (db, web) = (app("db 1 main:db=db:1 probe"), app("web 1 init:i=i:1 main:web=web:1 after=db:healthy"));
    agent.want_all(vec![web.clone(), db.clone()]);
    assert!(agent.settled().await);
    // The newest document was damaged; the one before it does not know db, and the power was cut too.
    agent.host.reboot();
    agent.restart_with_older(vec![web.clone()]).await;
    assert!(agent.settled().await, "{:#?}", agent.reports());
    let takes = |image: &str, _| Duration::from_secs(if image == "db:1" { 3 } else { 0 });
    check_starts(&agent, &[web, db], takes, "after a boot with an older document");
}

#[tokio::test(start_paused = true)]
async fn removal_waits_for_nobody() {
    let mut agent = Agent::new();
    agent.want_all(vec![app("db 1 main:db=db:1 probe"), app("web 1 main:web=web:1 after=db:healthy")]);
    assert!(agent.settled().await);
    agent.host.sicken("db:1");
    agent.unwant("web");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(agent.host.things().iter().all(|thing| thing.app.name.as_str() == "db"), "{:#?}", agent.host.things());
    // And one that only ever waited leaves as well.
    agent.want(app("late 1 main:late=late:1 after=nobody:started"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(agent.reports().iter().any(|r| r.deployment.as_str() == "late" && r.phase == Phase::Waiting));
    agent.unwant_all();
    assert!(agent.settled().await, "{:#?}", agent.reports());
}

#[tokio::test(start_paused = true)]
async fn who_depends_hears_at_once_and_asks_nobody_in_between() {
    let mut agent = Agent::new();
    agent.host.set_behaviour("job:1", Behaviour::Ends { code: 0, after: Duration::from_secs(100_000) });
    agent.want_all(vec![app("web 1 main:web=web:1 after=job:completed"), app("job 1 main:job=job:1 restart=never")]);
    tokio::time::sleep(Duration::from_secs(99_990)).await;
    let looks = agent.host.looks("web");
    // Nothing but the look of every five minutes.
    assert!(looks < 400, "{looks} looks in a day");
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    let up = agent.host.things().into_iter().find(|t| t.seen.name.as_str() == "web").unwrap();
    assert_eq!(up.seen.state, SeenState::Running);
    assert!(up.seen.started_at_ms < 100_000_100, "{}", up.seen.started_at_ms);
}
