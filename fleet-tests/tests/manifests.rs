//! What people get wrong in manifests, and apps that fail: said by name, line and field where it is written, and by
//! phase, container, exit code and last lines where it runs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_contracts::api::TargetView;
use bramble_contracts::v1::{Phase, Status};
use bramble_fleet_tests::clock::wait_until;
use bramble_fleet_tests::{Fleet, manifest};
use serde_json::json;

fn write(fleet: &Fleet, name: &str, text: &str) -> String {
    let file = fleet.case().dir().join(name);
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

const GOOD: &str = "apiVersion: bramble/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { site: test } }
  containers:
    - name: web
      image: localhost/bramble-hello:1
      ports: [{ host: PORT, container: 80 }]
";

#[test]
fn a_wrong_manifest_is_refused_by_name_line_and_field() {
    let fleet = Fleet::start("manifests");
    let pi = fleet.device("pi-1");
    let port = fleet.port();
    let good = GOOD.replace("PORT", &port.to_string());
    let bramble = fleet.bramble();

    let unknown = write(&fleet, "unknown.yaml", &format!("{good}      imagePullPolice: Always\n"));
    let said = bramble.fails(2, &["apply", "-f", &unknown]);
    assert!(said.contains("unknown.yaml:10") && said.contains("imagePullPolice"), "{said}");

    let wrong = write(&fleet, "wrong.yaml", &good.replace(&format!("host: {port}"), "host: many"));
    let said = bramble.fails(2, &["apply", "-f", &wrong]);
    assert!(said.contains("wrong.yaml:9") && said.contains("host"), "{said}");

    let wrong = write(
        &fleet,
        "wrong.json",
        r#"{ "apiVersion": "bramble/v1", "kind": "Deployment", "metadata": { "name": 3 } }"#,
    );
    let said = bramble.fails(2, &["apply", "-f", &wrong]);
    assert!(said.contains("wrong.json:1") && said.contains("name"), "{said}");

    let file = write(&fleet, "good.yaml", &good);
    bramble.ok(&["plan", "-f", &file]);
    bramble.ok(&["apply", "-f", &file, "--wait"]);
    fleet.answers(port, "version 1");
    let before = fleet.settled("web", &pi);

    // Another deployment wants the same port of the same device.
    let clash = write(&fleet, "clash.yaml", &good.replace("name: web", "name: other"));
    let said = bramble.run(&["apply", "-f", &clash]);
    assert!([1, 2, 5].contains(&said.code), "{said:?}");
    let said = format!("{}{}", said.out, said.err);
    assert!(said.contains(&port.to_string()) && said.contains("web") && said.contains("pi-1"), "{said}");
    assert!(fleet.deployment_view("other").is_err(), "it was not accepted");
    let answer = fleet.api().ask("PUT", "/api/v1/deployments/web", Some(&json!({ "spec": 1 }))).unwrap();
    assert!((400..500).contains(&answer.status) && answer.code().is_some(), "{answer:?}");

    // What is not built yet is refused by name, never accepted and ignored.
    let window = "window: { days: Mon-Fri, from: \"02:00\", to: \"05:00\", timeZone: Europe/Paris }";
    let later = format!("{good}  rollout: {{ {window} }}\n");
    let later = write(&fleet, "later.yaml", &later);
    let said = bramble.run(&["apply", "-f", &later]);
    assert!(said.code != 0 && said.err.contains("window"), "{said:?}");
    // What cannot go together is refused where it stands.
    let shared =
        format!("{good}      volumes: [{{ name: data, path: /data }}]\n  lifecycle: {{ handover: startFirst }}\n");
    let shared = write(&fleet, "shared.yaml", &shared);
    let said = bramble.fails(2, &["apply", "-f", &shared]);
    assert!(said.contains("shared.yaml:10") && said.contains("volumes") && said.contains("startFirst"), "{said}");
    assert_eq!(fleet.settled("web", &pi), before, "none of it touched what runs");
}

/// The target once it says what went wrong.
fn failed(fleet: &Fleet, deployment: &str, enough: impl Fn(&TargetView) -> bool) -> TargetView {
    wait_until(&format!("{deployment} to be seen to fail"), Duration::from_secs(90), || {
        let target = fleet.target(deployment, "pi-1")?;
        if enough(&target) { Ok(target) } else { Err(format!("{target:?}")) }
    })
}

/// Both ways in which people ask about a deployment on the device say all of this.
fn told(fleet: &Fleet, deployment: &str, words: &[&str]) {
    let bramble = fleet.bramble();
    for question in [&["describe", "deployment", deployment][..], &["explain", "device", "pi-1", deployment]] {
        wait_until(&format!("`bramble {}` to say {words:?}", question.join(" ")), Duration::from_secs(30), || {
            let said = bramble.run(question);
            let missing: Vec<_> = words.iter().filter(|word| !said.out.contains(**word)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} is not in\n{}{}", said.out, said.err)) }
        });
    }
}

#[test]
fn an_app_that_fails_says_so_with_phase_container_code_and_last_lines() {
    let fleet = Fleet::start("failures");
    let pi = fleet.device("pi-1");
    let port = fleet.port();
    fleet.apply(&manifest::hello("web", port, 1));
    let before = fleet.settled("web", &pi);

    // All at once: one app's failure is nobody else's.
    let missing = json!({ "name": "app", "image": "localhost/no-such-image:1" });
    fleet.apply(&manifest::deployment("missing", &[missing]));
    let main = manifest::program("app", &["serve"]);
    let bad = manifest::program("setup", &["exit", "7", "the disk is not formatted"]);
    fleet.apply(&manifest::with_init(manifest::deployment("bad-init", std::slice::from_ref(&main)), &[bad]));
    let mut hangs = manifest::program("setup", &["sleep", "3600"]);
    hangs["timeout"] = json!("3s");
    fleet.apply(&manifest::with_init(manifest::deployment("hangs", &[main]), &[hangs]));
    let ends = manifest::program("app", &["exit", "3", "cannot find its database"]);
    fleet.apply(&manifest::deployment("ends", &[ends]));

    let is_failed = |t: &TargetView| t.status == Some(Status::Failed);
    failed(&fleet, "missing", is_failed);
    told(&fleet, "missing", &["no-such-image", "app"]);

    let target = failed(&fleet, "bad-init", |t| {
        is_failed(t) && t.app.as_ref().is_some_and(|a| a.containers.iter().any(|c| !c.last_lines.is_empty()))
    });
    let setup = target.app.unwrap().containers.into_iter().find(|c| c.name.as_str() == "setup").unwrap();
    assert_eq!(setup.exit_code, Some(7), "{setup:?}");
    assert!(setup.last_lines.iter().any(|l| l.contains("the disk is not formatted")), "{setup:?}");
    told(&fleet, "bad-init", &["setup", "7", "the disk is not formatted"]);

    failed(&fleet, "hangs", is_failed);
    told(&fleet, "hangs", &["setup", "3 s"]);

    let target = failed(&fleet, "ends", |t| {
        let looping = t.phase == Some(Phase::CrashLoop) || is_failed(t);
        looping && t.app.as_ref().is_some_and(|a| a.containers.iter().any(|c| !c.last_lines.is_empty()))
    });
    let app = target.app.unwrap().containers.into_iter().find(|c| c.name.as_str() == "app").unwrap();
    assert_eq!(app.exit_code, Some(3), "{app:?}");
    told(&fleet, "ends", &["app", "3", "cannot find its database"]);

    assert_eq!(fleet.settled("web", &pi), before, "the app that is well is left alone");
    fleet.answers(port, "version 1");
    let listed = fleet.bramble().ok(&["get", "deployments"]);
    assert!(listed.contains("bad-init"), "{listed}");
    // Mended, it comes up: a failure is no dead end.
    let mended = manifest::program("setup", &["exit", "0"]);
    let main = manifest::program("app", &["serve"]);
    fleet.apply(&manifest::with_init(manifest::deployment("bad-init", &[main]), &[mended]));
    fleet.settled("bad-init", &pi);
    // What failed is taken away like anything else.
    for gone in ["missing", "hangs", "ends"] {
        fleet.delete(gone);
    }
    wait_until("only what is wanted to be left", Duration::from_secs(60), || {
        let names = pi.podman().args(["ps", "--all", "--format", "{{.Names}}"]).check().map_err(|e| e.to_string())?;
        let left = ["missing", "hangs", "ends"].iter().any(|n| names.contains(n));
        if left { Err(names) } else { Ok(()) }
    });
}
