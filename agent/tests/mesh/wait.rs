//! How the mesh's tests and those of the agent's upgrade wait: for a condition, with an end of their own.

use std::time::Duration;

use crate::PATIENCE;

pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let all = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "waited in vain for {what}");
}

pub(crate) fn unix_now() -> u64 {
    bramble_agent::host::clock::wall_ms() / 1000
}
