//! Compose files on a real fleet: applied as they are, changed, refused by name and line; and what is told about init
//! containers, before they run (they are not fit to be run twice) and after (they failed).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_contracts::api::TargetView;
use bramble_contracts::v1::{ContainerReport, ContainerRole, Status};
use bramble_fleet_tests::{Device, Fleet, clock::wait_until};
use serde_json::json;

const SHOP: &str = r#"
x-bramble:
  selector: { matchLabels: { site: test } }
x-common: &common
  restart: unless-stopped
  mem_limit: 64m
  volumes:
    - shop_data:/data
  depends_on:
    seed: { condition: service_completed_successfully }
services:
  seed:
    image: localhost/bramble-hello:1
    command: touch /data/seeded
    volumes: [shop_data:/data]
  front:
    <<: *common
    image: localhost/bramble-hello:${VERSION:-1}
    ports: ["FRONT:80"]
    environment:
      GREETING: ${GREETING:?say hello}
      PRICE: $$5
    env_file: front.env
    healthcheck:
      test: ["CMD", "/hello", "env", "GREETING"]
      interval: 1s
    stop_grace_period: 5s
  back:
    <<: *common
    image: localhost/bramble-hello:1
    command: ["serve", "--port", "8000"]
    ports: ["BACK:8000"]
volumes:
  shop_data:
"#;

/// A folder `shop` with a Compose file of these ports, and its `.env`.
fn shop(fleet: &Fleet, front: u16, back: u16, dotenv: &str) -> String {
    let dir = fleet.case().subdir("shop");
    let text = SHOP.replace("FRONT", &front.to_string()).replace("BACK", &back.to_string());
    std::fs::write(dir.join("compose.yaml"), text).unwrap();
    std::fs::write(dir.join(".env"), dotenv).unwrap();
    std::fs::write(dir.join("front.env"), "FROM_FILE='as it is'\n").unwrap();
    dir.join("compose.yaml").display().to_string()
}

fn volumes(pi: &Device, name: &str) -> usize {
    let found = xtask::run::Cmd::new("find").arg(pi.apps_dir().join("volumes")).args(["-name", name]).output().unwrap();
    found.stdout.lines().count()
}

#[test]
fn a_compose_file_runs_as_it_is_and_its_change_is_an_upgrade() {
    let fleet = Fleet::start("compose");
    let pi = fleet.device("pi-1");
    let (front, back) = (fleet.port(), fleet.port());
    let bramble = fleet.bramble();

    let file = shop(&fleet, front, back, "");
    let said = bramble.fails(2, &["apply", "-f", &file]);
    assert!(
        said.contains("compose.yaml:21: services.front.environment.GREETING") && said.contains("say hello"),
        "{said}"
    );

    let file = shop(&fleet, front, back, "GREETING=hello from .env\n");
    let planned = bramble.run(&["plan", "-f", &file]);
    assert_eq!((planned.code, planned.out.contains("deployment/shop created")), (0, true), "{planned:?}");
    assert!(planned.err.contains("is called shop after its folder"), "{planned:?}");
    let dry = bramble.json(&["apply", "-f", &file, "--dry-run"]);
    let spec = &dry["items"][0]["deployment"]["manifest"]["spec"];
    assert_eq!(spec["initContainers"][0]["name"], "seed", "{spec}");
    assert_eq!(spec["containers"][1]["args"], json!(["serve", "--port", "8000"]), "{spec}");
    assert!(fleet.deployment_view("shop").is_err(), "a dry run stores nothing");

    bramble.ok(&["apply", "-f", &file, "--wait"]);
    let first = fleet.settled("shop", &pi);
    fleet.answers(front, "version 1");
    fleet.answers(back, "version 1");
    assert_eq!(volumes(&pi, "seeded"), 1, "the service that runs first has run");
    let env = |name: &str| {
        bramble.ok(&["exec", "pi-1", "shop", "--container", "front", "--", "/hello", "env", name]).trim().to_owned()
    };
    assert_eq!(
        [env("GREETING"), env("PRICE"), env("FROM_FILE")],
        ["hello from .env".to_owned(), "$5".to_owned(), "as it is".to_owned()]
    );
    let inspected = pi.inspect(first.id("front")).unwrap();
    assert_eq!(inspected["HostConfig"]["Memory"], 64 << 20);
    let report = fleet.target("shop", "pi-1").unwrap().app.unwrap();
    let is_front = |c: &&ContainerReport| c.name.as_str() == "front";
    assert_eq!(report.containers.iter().find(is_front).unwrap().healthy, Some(true), "{report:?}");

    // Applied again it is the same; another version is an upgrade, and the volume stays.
    assert!(bramble.ok(&["apply", "-f", &file]).contains("unchanged"));
    assert_eq!(fleet.settled("shop", &pi), first);
    let file = shop(&fleet, front, back, "GREETING=hello\nVERSION=2\n");
    bramble.ok(&["apply", "-f", &file, "--wait"]);
    fleet.answers(front, "version 2");
    assert_eq!(volumes(&pi, "seeded"), 1);

    // What cannot be is named, all of it, and touches nothing that runs.
    let before = fleet.settled("shop", &pi);
    let bad = fleet.case().dir().join("bad.yaml");
    let text = "name: shop\nservices:\n  web:\n    image: nginx\n    privileged: true\n    ports: [80]\n    volumes: [./x:/x]\n";
    std::fs::write(&bad, text).unwrap();
    let said = bramble.fails(2, &["apply", "-f", &bad.display().to_string(), "--device", "pi-1"]);
    for words in [
        "bad.yaml:5: services.web.privileged",
        "bad.yaml:6: services.web.ports[0]",
        "bad.yaml:7: services.web.volumes[0]",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // What only the coordinator can know is told with the file's own line and words, too.
    let text = format!(
        "name: other\nservices:\n  web:\n    image: localhost/bramble-hello:1\n    restart: always\n    ports:\n      - {front}:80\n"
    );
    std::fs::write(&bad, text).unwrap();
    let said = bramble.fails(1, &["apply", "-f", &bad.display().to_string(), "-l", "site=test"]);
    assert!(said.contains("bad.yaml:7: services.web.ports[0]") && said.contains("shop"), "{said}");
    assert_eq!(fleet.settled("shop", &pi), before);
}

const CARELESS: &str = r#"
name: careless
services:
  web:
    image: localhost/bramble-hello:1
    restart: always
    depends_on:
      keys: { condition: service_completed_successfully }
  keys:
    image: localhost/bramble-hello:1
    entrypoint: ["/bin/sh", "-ec"]
    command:
      - |
        mkdir /data/keys
        openssl genrsa -out /data/keys/k 2048
        echo secret-4711 >> /data/list
        [ -d /data/x ] || git clone https://example.com/x /data/x
"#;

#[test]
fn init_containers_that_cannot_run_twice_are_named_before_and_failed_ones_after() {
    let fleet = Fleet::start("compose-init");
    let _pi = fleet.device("pi-1");
    let bramble = fleet.bramble();
    let write = |name: &str, text: &str| {
        let file = fleet.case().dir().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };

    // Before: by file and line, and no reason to fail.
    let file = write("careless.yaml", CARELESS);
    for question in
        [&["plan", "-f", &file, "--device", "pi-1"][..], &["apply", "--dry-run", "-f", &file, "--device", "pi-1"]]
    {
        let said = bramble.run(question);
        assert_eq!(said.code, 0, "{said:?}");
        for name in ["mkdir", "openssl", ">>"] {
            let want = format!("careless.yaml:11: services.keys.entrypoint: `{name}`");
            assert!(said.err.lines().any(|l| l.starts_with("warning: ") && l.contains(&want)), "{want}: {said:?}");
        }
        assert!(!said.err.contains("git clone") && !said.err.contains("4711"), "{said:?}");
    }
    let planned = bramble.json(&["plan", "-f", &file, "--device", "pi-1"]);
    assert_eq!(planned["deployments"][0]["warnings"].as_array().unwrap().len(), 3, "{planned}");

    // After: one that ends badly, and one that speaks and then hangs.
    let failing = |name: &str, command: &str| {
        let text = CARELESS.replace("careless", name);
        let (head, _) = text.split_once("    entrypoint").unwrap();
        write(&format!("{name}.yaml"), &format!("{head}    command: {command}\n    x-bramble: {{ timeout: 3s }}\n"))
    };
    for (name, command) in [("ends", "exit 7 \"the disk is not formatted\""), ("hangs", "serve")] {
        bramble.ok(&["apply", "-f", &failing(name, command), "--device", "pi-1"]);
    }
    told(&fleet, "ends", Some(7), &["keys", "7", "the disk is not formatted"]);
    told(&fleet, "hangs", None, &["keys", "did not end within 3 s and was killed", "listening on"]);
}

/// The report, `describe` and `explain` all say this of the init container `keys`.
fn told(fleet: &Fleet, deployment: &str, code: Option<i32>, words: &[&str]) {
    let last = words.last().unwrap();
    let report = |t: &TargetView| {
        let app = t.app.as_ref()?;
        let keys = app.containers.iter().find(|c| c.role == ContainerRole::Init)?;
        let fits = t.status == Some(Status::Failed)
            && keys.last_lines.iter().any(|line| line.contains(last))
            && code.is_none_or(|code| keys.exit_code == Some(code));
        fits.then_some(())
    };
    wait_until(&format!("the report to say {words:?}"), Duration::from_secs(60), || {
        let target = fleet.target(deployment, "pi-1")?;
        report(&target).ok_or_else(|| format!("{target:?}"))
    });
    for question in [&["describe", "deployment", deployment][..], &["explain", "device", "pi-1", deployment]] {
        wait_until(&format!("`bramble {}` to say {words:?}", question.join(" ")), Duration::from_secs(30), || {
            let said = fleet.bramble().run(question);
            let missing: Vec<_> = words.iter().filter(|word| !said.out.contains(**word)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} is not in\n{}{}", said.out, said.err)) }
        });
    }
}
