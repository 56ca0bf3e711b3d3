//! One version after the other.

use bramble_contracts::v1::{FrameBody, Instance, Status};
use bramble_contracts::v2::{UpgradePhase, UpgradeWord};

use crate::eventually;
use crate::site::{Site, agent_of, version};

#[tokio::test(flavor = "multi_thread")]
async fn it_replaces_itself_twice_and_its_app_answers_all_the_time() {
    let mut site = Site::start("").await;
    let first = site.report().await.unwrap();
    assert_eq!((first.instance, first.agent), (Instance::A, version(0)));
    let mut old = first.session;
    let binary = site.path("state/bin").join(format!("bramble-agent-v{}", version(0)));
    assert!(binary.is_file(), "the first start lays it down");
    for patch in 1..=2 {
        let began = std::time::Duration::from_millis(bramble_agent::host::clock::up_ms());
        let wish =
            site.coordinator.state().releases.publish(version(patch), u64::from(patch), agent_of(version(patch)));
        site.want(Some(&wish)).await;
        let new = site.confirm(&wish, old).await;
        let done = site
            .upgrade("it to be confirmed", |report, upgrade| {
                report.session == new.session && upgrade.status == Status::Confirmed
            })
            .await;
        let took = std::time::Duration::from_millis(bramble_agent::host::clock::up_ms()) - began;
        let upgrade = done.program.upgrade.clone().unwrap();
        assert_eq!(upgrade.phase, UpgradePhase::Stopping, "the old one is beside it yet");
        assert_eq!(done.program.release_seq, u64::from(patch));
        println!("{} in {took:?}: {upgrade:?}", version(patch));
        assert_eq!(
            (site.link("current"), site.link("confirmed")),
            (version(patch).to_string(), version(patch).to_string())
        );
        assert_eq!(site.agents().len(), 2, "{:?}", site.agents());
        // Nobody else than the old run is retired by that.
        let retired = site.say(old, UpgradeWord::Retire).await;
        assert!(matches!(retired, FrameBody::End { .. }), "{retired:?}");
        eventually("the old agent to be gone", || async { site.agents().len() == 1 }).await;
        site.upgrade("the end of it", |_, upgrade| upgrade.phase == UpgradePhase::Done).await;
        old = new.session;
    }
    assert_eq!(site.report().await.unwrap().instance, Instance::A, "each the other instance");
    let answers = site.every_answer().await;
    println!("the app answered {answers} times out of {answers}");
    // A restart of everything starts the confirmed one.
    site.kill_supervisor().await;
    eventually("the agents to die with their supervisor", || async { site.agents().is_empty() }).await;
    site.supervise();
    site.reports("the confirmed version after a restart", |report| report.session != old && report.agent == version(2))
        .await;
}
