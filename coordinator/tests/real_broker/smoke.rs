//! The store's smoke checks on a broker that works, hangs, and is gone.

use std::time::Duration;

use bramble_contracts::smoke::{CheckState, Suite};
use bramble_coordinator::{
    mesh::Link,
    store::{JetStream, Store},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::common::{self, Fleet, until};

async fn suite(store: &JetStream) -> Suite {
    let begun = tokio::time::Instant::now();
    let suite = Suite { name: "store".into(), checks: store.checks().await };
    assert!(begun.elapsed() < Duration::from_secs(5), "bounded: {:?}", begun.elapsed());
    suite
}

/// Whether all threads of a process are stopped: SIGSTOP returns before they are, and one of them may still answer.
fn stopped(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap()).all(|stat| {
        // The state stands behind the name, which is in parentheses (proc(5)).
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_that_fails_is_named_and_none_is_waited_for_long() {
    let mut up = Fleet::new().up().await;
    let store = up.store().await;
    let said: Vec<String> = suite(&store).await.checks.iter().map(ToString::to_string).collect();
    let address = up.fleet.listen;
    assert_eq!(
        said,
        [
            format!("TCP {address} takes connections"),
            "streams are as they must be".into(),
            "NATS key meta/store is there".into()
        ]
    );

    let pid = Pid::from_raw(common::broker_pid(&up.fleet).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    until("every thread of the broker stands still", async || stopped(pid)).await;
    let hung = suite(&store).await;
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(hung.judge().unwrap_err().to_string(), "NATS key meta/store did not answer within 700 ms");
    until("it answers again", async || suite(&store).await.judge().is_ok()).await;

    up.broker.take().unwrap().shutdown().await;
    until("the connection is gone", async || matches!(*up.mesh.link().borrow(), Link::Down(_))).await;
    let gone = suite(&store).await;
    assert_eq!(gone.judge().unwrap_err().to_string(), format!("TCP {address} refused the connection"));
    assert_eq!(gone.checks[2].state, CheckState::NotAsked, "{gone:?}");
}
