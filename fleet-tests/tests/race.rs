//! Two coordinators on one broker: racing in a rolling deploy, and one that was down while the other one changed things.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use bramble_contracts::Generation;
use bramble_contracts::api::{Connection, DeploymentView, DeviceView, Page};
use bramble_contracts::subjects::Bucket;
use bramble_contracts::v1::RefusalKind;
use bramble_fleet_tests::api::Api;
use bramble_fleet_tests::clock::{pause, stays};
use bramble_fleet_tests::keys::{In, Stolen};
use bramble_fleet_tests::{Coordinator, Fleet, manifest, soon};
use serde_json::json;

/// Where the store itself tells what it has taken; `$KV.desired.*` would also show writes that lost a race.
const STORED: &str = "dev.*.desired";

fn names(api: &Api) -> Result<Vec<String>, String> {
    let page: Page<DeploymentView> = api.get("/api/v1/deployments?limit=200")?;
    Ok(page.items.into_iter().map(|d| format!("{} r{}", d.manifest.metadata.name, d.revision)).collect())
}

#[test]
fn two_coordinators_race_through_a_rolling_deploy_and_agree() {
    let fleet = Fleet::start("race");
    let pi = fleet.device("pi-1");
    let port = fleet.port();
    fleet.apply(&manifest::hello("web", port, 1));
    let before = fleet.settled("web", &pi);
    let a = fleet.coordinator();
    let b = fleet.second("second");
    b.start();
    let stolen = Stolen::from(a);
    let inside = stolen.connect(In::Fleet);
    let written = inside.record(&[STORED]);

    // Both write, to the same deployments, while each is replaced in turn.
    let over = AtomicBool::new(false);
    let (api_a, api_b) = (a.api(), b.api());
    std::thread::scope(|scope| {
        for (who, api) in [("a", &api_a), ("b", &api_b)] {
            let over = &over;
            scope.spawn(move || {
                let mut n = 0;
                while !over.load(Ordering::SeqCst) {
                    n += 1;
                    let mut web = manifest::hello("web", port, 1);
                    web["metadata"]["labels"] = json!({ "by": who, "n": n.to_string() });
                    drop(api.ask("PUT", "/api/v1/deployments/web", Some(&web)));
                    let own = format!("of-{who}-{}", n % 5);
                    let mut other = manifest::hello(&own, 80, 1);
                    other["spec"]["selector"] = json!({ "matchLabels": { "no": "device" } });
                    drop(api.ask("PUT", &format!("/api/v1/deployments/{own}"), Some(&other)));
                    pause(Duration::from_millis(40));
                }
            });
        }
        pause(Duration::from_secs(2));
        b.proc().term(Duration::from_secs(30));
        b.start();
        pause(Duration::from_secs(1));
        // The broker outlives the coordinator that supervises it, and is taken over again.
        a.proc().kill();
        pause(Duration::from_secs(2));
        a.start();
        pause(Duration::from_secs(1));
        b.proc().kill();
        b.start();
        pause(Duration::from_secs(1));
        over.store(true, Ordering::SeqCst);
    });
    let agreed = soon("both to say the same", || {
        let (of_a, of_b) = (names(&api_a)?, names(&api_b)?);
        if of_a == of_b { Ok(of_a) } else { Err(format!("{of_a:?} and {of_b:?}")) }
    });
    println!("they agree on {agreed:?}");
    assert!(agreed.len() >= 11, "{agreed:?}");
    assert_eq!(fleet.settled("web", &pi), before, "labels replace no container");

    let mut last = Generation(0);
    let documents: Vec<_> =
        written.heard().iter().filter(|m| m.payload.len() > 100).map(|m| stolen.open(&m.payload)).collect();
    println!("{} documents were written", documents.len());
    for document in documents {
        assert!(document.generation > last, "generation {} after {last}", document.generation);
        assert!(document.apps.iter().any(|app| app.deployment.metadata.name.as_str() == "web"), "{document:?}");
        last = document.generation;
    }
    let report = fleet.device_view("pi-1").unwrap().report.unwrap();
    let bad: Vec<_> = report.refused.iter().filter(|r| r.kind != RefusalKind::StaleCommand).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(fleet.device_view("pi-1").unwrap().hold, None);
    stays("nobody writes when nothing changes", Duration::from_secs(3), || {
        let newest = written.heard().len();
        pause(Duration::from_millis(300));
        if written.heard().len() == newest { Ok(()) } else { Err("a document was written".into()) }
    });
}

#[test]
fn what_was_deleted_while_a_coordinator_was_down_stays_deleted() {
    let fleet = Fleet::start("deleted");
    let pi = fleet.device("pi-1");
    for name in ["kept", "gone", "lost"] {
        fleet.apply(&manifest::hello(name, fleet.port(), 1));
    }
    let kept = fleet.settled("kept", &pi);
    fleet.settled("gone", &pi);
    fleet.settled("lost", &pi);
    let (a, b) = (fleet.coordinator(), fleet.second("second"));
    let stolen = Stolen::from(a);
    b.start();
    // One of two is down while the other one deletes.
    a.proc().kill();
    let answer = b.api().ask("DELETE", "/api/v1/deployments/gone", None).unwrap();
    assert!(answer.status < 300, "{answer:?}");
    b.proc().kill();
    // And nobody is there when the store itself loses one: deleted by a coordinator that died right then.
    let inside = stolen.connect(In::Fleet);
    let mut marker = HeaderMap::new();
    marker.insert("KV-Operation", "DEL");
    inside.publish(&Bucket::Deployments.subject("default.lost"), None, Some(marker), b"");
    a.start();
    let left = soon("the device to run what is left", || {
        let all = pi.all_containers();
        if all.len() == 1 { Ok(all) } else { Err(format!("{all:?}")) }
    });
    assert_eq!(left, [kept.id("web")]);
    assert_eq!(fleet.settled("kept", &pi), kept);
    b.start();
    stays("it stays so", Duration::from_secs(5), || {
        let known = (names(&a.api())?, names(&b.api())?);
        if known.0.len() == 1 && known.0 == known.1 { Ok(()) } else { Err(format!("{known:?}")) }
    });
    assert_eq!(pi.all_containers(), left);
}

#[test]
fn a_second_coordinator_serves_while_the_first_is_gone() {
    let fleet = Fleet::start("stand-in");
    let pi = fleet.device("pi-1");
    let b: Coordinator = fleet.second("second");
    b.start();
    fleet.coordinator().proc().kill();
    let port = fleet.port();
    let _: serde_json::Value = b.api().must("PUT", "/api/v1/deployments/web", &manifest::hello("web", port, 1));
    fleet.answers(port, "version 1");
    soon("the device to be online for the second", || {
        let view: DeviceView = b.api().get("/api/v1/devices/pi-1")?;
        if view.connection == Connection::Online { Ok(()) } else { Err(format!("{:?}", view.connection)) }
    });
    let said = Fleet::bramble_of(&b, fleet.case()).ok(&["logs", "web", "--tail", "3"]);
    assert!(said.contains("listening"), "{said}");
    drop(pi);
}
