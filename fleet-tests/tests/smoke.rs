//! The smoke contract across the fleet: a bad image fails visibly wherever one looks, with the check that failed named;
//! a good one shows its way as a pipeline; the coordinator, the doctor and the device check themselves alike.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use bramble_contracts::smoke::{Check, CheckState, Suite};
use bramble_contracts::v2::{Stage, StageName, StageState};
use bramble_fleet_tests::cli::Bramble;
use bramble_fleet_tests::{Fleet, manifest};
use serde_json::{Value, json};

/// A deployment of one container that is asked often and given up soon.
fn probed(name: &str, args: &[&str], probe: &Value) -> Value {
    let mut container = manifest::program("app", args);
    container["probe"] = json!({ "interval": "500ms", "timeout": "2s", "failures": 2 });
    for (kind, value) in probe.as_object().unwrap() {
        container["probe"][kind] = value.clone();
    }
    manifest::deployment(name, &[container])
}

/// Asks the command line for its signs in UTF-8, whatever this test runs in.
fn bramble(fleet: &Fleet) -> Bramble {
    fleet.bramble().with_env("LC_ALL", "C.UTF-8")
}

fn stage(fleet: &Fleet, deployment: &str, name: StageName) -> Stage {
    let app = fleet.target(deployment, "pi-1").unwrap().app.unwrap();
    app.stages.into_iter().find(|stage| stage.name == name).unwrap()
}

#[test]
fn a_bad_image_fails_with_the_failing_check_named() {
    let fleet = Fleet::start("smoke");
    let _pi = fleet.device("pi-1");
    let http = json!({ "http": { "port": 80, "path": "/" } });
    let mut missing = manifest::hello("missing", fleet.port(), 1);
    missing["spec"]["containers"][0]["image"] = json!("localhost/not-there:1");
    let exits = manifest::deployment("exits", &[manifest::program("app", &["exit", "3", "cannot find its database"])]);
    let bad = [
        (probed("sick", &["sick"], &http), StageName::Probing, "HTTP GET :80/ answered 500 Internal Server Error"),
        (
            probed("elsewhere", &["serve", "--port", "8080"], &json!({ "tcp": { "port": 80 } })),
            StageName::Probing,
            "TCP :80 refused the connection",
        ),
        (exits, StageName::Starting, "container app ended with exit code 3: cannot find its database"),
        (missing, StageName::Preparing, "image localhost/not-there:1 is not on this device"),
    ];
    let cli = bramble(&fleet);
    for (manifest, at, check) in &bad {
        let name = manifest["metadata"]["name"].as_str().unwrap();
        let file = fleet.case().dir().join(format!("{name}.json"));
        std::fs::write(&file, manifest.to_string()).unwrap();
        let said = cli.fails(1, &["apply", "-f", file.to_str().unwrap(), "--wait", "--timeout", "90s"]);
        let failed = stage(&fleet, name, *at);
        assert_eq!(failed.state, StageState::Failed, "{name}: {failed:?}");
        assert!(failed.detail.contains(check), "{name}: {failed:?}");
        let word = serde_json::to_value(at).unwrap();
        let line = format!("{} ✗", word.as_str().unwrap());
        assert!(said.contains(&line) && said.contains(check), "{name}: {said}");
        for shown in [
            cli.ok(&["describe", "deployment", name]),
            cli.ok(&["get", "deployments", name, "-o", "wide"]),
            cli.ok(&["describe", "device", "pi-1"]),
        ] {
            assert!(shown.contains(&line) && shown.contains(check), "{name}: {shown}");
        }
        let words = check.split(": ").next().unwrap();
        let explained = cli.ok(&["explain", "device", "pi-1", name]);
        let sentence = explained.lines().next().unwrap();
        assert!(sentence.starts_with(&format!("{name} on pi-1 ")) && sentence.contains(words), "{explained}");
        assert!(explained.contains(&format!("stage {}", word.as_str().unwrap())), "{explained}");
    }
    // Of several troubled apps one is explained, and the others are named.
    let explained = cli.ok(&["explain", "device", "pi-1"]);
    let named = bad.iter().filter(|(m, ..)| explained.contains(m["metadata"]["name"].as_str().unwrap())).count();
    assert_eq!(named, bad.len(), "{explained}");
}

#[test]
fn a_good_one_shows_its_way_and_everybody_checks_alike() {
    let fleet = Fleet::start("pipeline");
    let pi = fleet.device("pi-1");
    let app = |version: u32| {
        let mut container = manifest::server("app", 80, version);
        container["ports"] = json!([]);
        container["probe"] = json!({ "http": { "port": 80, "path": "/health" } });
        manifest::with_init(manifest::deployment("web", &[container]), &[manifest::program("seed", &["env", "PATH"])])
    };
    for version in [1, 2] {
        let file = fleet.case().dir().join("web.json");
        std::fs::write(&file, app(version).to_string()).unwrap();
        let said = bramble(&fleet).run(&["apply", "-f", file.to_str().unwrap(), "--wait", "--timeout", "90s"]);
        assert_eq!(said.code, 0, "{}", said.err);
        let mut wanted = vec!["preparing ✓", "init ✓", "starting ✓", "probing ✓", "running ✓"];
        if version == 2 {
            wanted.insert(1, "stopping ✓");
        }
        let mut rest = said.err.as_str();
        for part in wanted {
            let Some((_, after)) = rest.split_once(part) else { panic!("{part} is not in its place in {}", said.err) };
            rest = after;
        }
    }
    let stopping = stage(&fleet, "web", StageName::Stopping);
    assert!(stopping.state == StageState::Passed && stopping.took_ms.is_some(), "{stopping:?}");
    let ascii = fleet.bramble().with_env("LC_ALL", "C").ok(&["describe", "deployment", "web"]);
    assert!(ascii.contains(" -> starting ok ") && !ascii.contains('✓'), "{ascii}");

    // An agent that was not there says nothing about the way.
    fleet.settled("web", &pi);
    pi.kill_agent();
    pi.start_agent();
    fleet.online_agent(&pi);
    fleet.settled("web", &pi);

    let key = Check::NatsKvKeyExists { bucket: "meta".into(), key: "store".into() };
    let ready: Value = fleet.api().get("/ready").unwrap();
    let checks: Vec<bramble_contracts::smoke::CheckResult> = serde_json::from_value(ready["checks"].clone()).unwrap();
    assert!(checks.iter().any(|one| one.check == key && one.state == CheckState::Passed), "{checks:?}");
    let doctor: Vec<Suite> = serde_json::from_value(bramble(&fleet).json(&["doctor"])["items"].clone()).unwrap();
    let names: Vec<&str> = doctor.iter().map(|suite| suite.name.as_str()).collect();
    assert_eq!(names, ["this machine", "coordinator", "store", "fleet"]);
    assert!(doctor.iter().all(|suite| suite.judge().is_ok()), "{doctor:?}");
    assert!(doctor[2].checks.iter().any(|one| one.check == key), "{doctor:?}");

    let broker = fleet.coordinator().broker().to_string();
    let device = pi.check();
    let answer = device.checks.iter().find(|one| one.check == Check::TcpReachable { at: broker.clone() });
    assert_eq!(answer.map(|one| one.state), Some(CheckState::Passed), "{device:?}");
    // Without a network the device still says what is well, and soon.
    fleet.coordinator().stop();
    let alone = pi.check();
    let answer = alone.checks.iter().find(|one| one.check == Check::TcpReachable { at: broker.clone() }).unwrap();
    assert_eq!(answer.to_string(), format!("TCP {broker} refused the connection; apps run on without it"));
}
