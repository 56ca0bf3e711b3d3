//! Rollouts of a deployment's revisions.

use bramble_contracts::{api::RolloutState, subjects::Bucket, v1::Status};
use bramble_coordinator::domain::{record, rollout::Rollout};
use serde_json::{Value, json};

use super::agent::app_report;
use crate::sim::{Sim, SimDevice, manifest};

fn in_batches(version: u32, batches: &[&str]) -> Value {
    let mut made = manifest("web", json!({ "site": "paris" }), 8080, version);
    made["spec"]["rollout"] = json!({ "batches": batches, "healthyFor": "0s", "progressDeadline": "60s" });
    made
}

fn rollout(sim: &Sim) -> Option<Rollout> {
    sim.store.all(Bucket::Rollouts).get("default.web").map(|bytes| record::decode(bytes).unwrap())
}

fn is(sim: &Sim, state: RolloutState, batch: u32) -> bool {
    rollout(sim).is_some_and(|r| (r.state, r.batch) == (state, batch))
}

/// The device takes its document and runs what it says, well or not.
fn runs(sim: &Sim, device: &SimDevice, status: Status) {
    let document = sim.document(&device.id).unwrap();
    let apps = document.apps.iter().map(|app| app_report(app, status)).collect();
    device.report(sim, document.generation, apps);
}

#[tokio::test]
async fn a_revision_goes_batch_by_batch_and_the_others_keep_what_they_have() {
    let sim = Sim::new();
    sim.ready().await;
    let (a, b) =
        (sim.device("pi-1", json!({ "site": "paris" })).await, sim.device("pi-2", json!({ "site": "paris" })).await);
    sim.must("PUT", "/api/v1/deployments/web", Some(in_batches(1, &["1", "100%"]))).await;
    sim.until("the first has it", |_| sim.apps(&a.id) == ["web@1"]).await;
    assert_eq!(sim.apps(&b.id), Vec::<String>::new(), "the second has nothing yet");
    let shown = sim.must("GET", "/api/v1/deployments/web", None).await;
    let waits = "it does not have it yet: its turn in rollout web has not come, which is running in batch 1 of 2";
    assert_eq!(shown["devices"][1]["reason"], waits);
    runs(&sim, &a, Status::Confirmed);
    sim.until("the second has it", |_| sim.apps(&b.id) == ["web@1"]).await;
    runs(&sim, &b, Status::Confirmed);
    sim.until("it is done", |_| is(&sim, RolloutState::Done, 2)).await;

    sim.must("PUT", "/api/v1/deployments/web", Some(in_batches(2, &["1", "100%"]))).await;
    sim.until("the first has the second revision", |_| sim.apps(&a.id) == ["web@2"]).await;
    runs(&sim, &a, Status::Failed);
    sim.until("it is halted", |_| is(&sim, RolloutState::Halted, 1)).await;
    assert_eq!(sim.apps(&b.id), ["web@1"]);
    let why = sim.must("GET", "/api/v1/devices/pi-2/explain?deployment=web", None).await;
    let sentence = why["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("web on pi-2 is not in revision 2: it keeps revision 1: its turn in rollout web has not come, which is halted"), "{sentence}");

    // Better than the halted one: a third revision takes its place, from the first batch on.
    sim.must("PUT", "/api/v1/deployments/web", Some(in_batches(3, &["1", "100%"]))).await;
    sim.until("the first has the third", |_| sim.apps(&a.id) == ["web@3"]).await;
    assert_eq!(sim.apps(&b.id), ["web@1"], "devices may come from different revisions");
    runs(&sim, &a, Status::Confirmed);
    sim.until("the second has the third", |_| sim.apps(&b.id) == ["web@3"]).await;
    runs(&sim, &b, Status::Confirmed);
    sim.until("it is done", |_| is(&sim, RolloutState::Done, 2)).await;
    sim.converged().await;
}

#[tokio::test]
async fn a_rollout_survives_its_coordinator_and_what_is_restarted_begins_nothing_by_itself() {
    let mut sim = Sim::new();
    sim.ready().await;
    let (a, b) =
        (sim.device("pi-1", json!({ "site": "paris" })).await, sim.device("pi-2", json!({ "site": "paris" })).await);
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 1))).await;
    sim.until("both have it", |_| sim.apps(&a.id) == ["web@1"] && sim.apps(&b.id) == ["web@1"]).await;
    runs(&sim, &a, Status::Confirmed);
    runs(&sim, &b, Status::Confirmed);
    // Killed between the deployment and its rollout: nobody has been told anything.
    let bytes = sim.store.all(Bucket::Deployments)["default.web"].clone();
    let mut deployment: record::DeploymentRecord = record::decode(&bytes).unwrap();
    let next: bramble_contracts::v1::Manifest = serde_json::from_value(in_batches(2, &["1", "100%"])).unwrap();
    (deployment.deployment, deployment.revision) = (next.into(), deployment.revision.next());
    let start = sim.kill();
    start().store.force(Bucket::Deployments, "default.web", Some(record::encode(&deployment)));
    for step in 0..3 {
        sim = start();
        sim.ready().await;
        a.repeat(&sim);
        b.repeat(&sim);
        match step {
            0 => {
                sim.until("the first has it", |_| sim.apps(&a.id) == ["web@2"]).await;
                assert_eq!(sim.apps(&b.id), ["web@1"]);
            }
            1 => {
                runs(&sim, &b, Status::Confirmed);
                runs(&sim, &a, Status::Confirmed);
                sim.until("the second batch is on", |_| is(&sim, RolloutState::Running, 2)).await;
            }
            _ => {
                runs(&sim, &a, Status::Confirmed);
                sim.until("the second has it", |_| sim.apps(&b.id) == ["web@2"]).await;
                runs(&sim, &b, Status::Confirmed);
                sim.until("it is done", |_| is(&sim, RolloutState::Done, 2)).await;
            }
        }
        sim.kill()();
    }
}

#[tokio::test]
async fn an_abort_leaves_everybody_as_they_are_and_a_change_for_all_at_once_ends_it() {
    let sim = Sim::new();
    sim.ready().await;
    let (a, b) =
        (sim.device("pi-1", json!({ "site": "paris" })).await, sim.device("pi-2", json!({ "site": "paris" })).await);
    sim.must("PUT", "/api/v1/deployments/web", Some(in_batches(1, &["1", "100%"]))).await;
    sim.until("the first has it", |_| sim.apps(&a.id) == ["web@1"]).await;
    sim.must("POST", "/api/v1/rollouts/web/abort", None).await;
    runs(&sim, &a, Status::Confirmed);
    sim.converged().await;
    assert_eq!((sim.apps(&a.id), sim.apps(&b.id)), (vec!["web@1".to_owned()], vec![]));
    sim.must("POST", "/api/v1/rollouts/web/retry", None).await;
    sim.until("the second has it after all", |_| sim.apps(&b.id) == ["web@1"]).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 2))).await;
    sim.until("both have the second", |_| sim.apps(&a.id) == ["web@2"] && sim.apps(&b.id) == ["web@2"]).await;
    sim.until("there is no rollout any more", |_| rollout(&sim).is_none()).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(in_batches(3, &["1", "100%"]))).await;
    sim.until("there is one again", |_| rollout(&sim).is_some()).await;
    sim.must("DELETE", "/api/v1/deployments/web", None).await;
    sim.until("it goes with its deployment", |_| rollout(&sim).is_none() && sim.apps(&a.id).is_empty()).await;
    let window = json!({ "days": "Mon", "from": "02:00", "to": "03:00", "timeZone": "UTC" });
    let mut windowed = in_batches(4, &["100%"]);
    windowed["spec"]["rollout"]["window"] = window;
    let refused = sim.ask("PUT", "/api/v1/deployments/web", Some(windowed)).await;
    assert_eq!((refused.status.as_u16(), &refused.body["errors"][0]["path"]), (422, &json!("spec.rollout.window")));
}
