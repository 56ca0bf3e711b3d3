//! The real program against a small server: what it says and how it ends when things go wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

mod fake;
mod rollouts;

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use fake::{Fake, bramble, deployment, device, ended, endless, manifest, ok, problem, stream, target};
use serde_json::json;

#[test]
fn nobody_there_is_unreachable_and_says_what_to_do() {
    // Bound and closed again: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = tempfile::tempdir().unwrap();
    let mut command = bramble(home.path(), &["get", "devices"]);
    command.env("BRAMBLE_API", format!("http://127.0.0.1:{port}")).env("BRAMBLE_TOKEN", "s3cret");
    let end = ended(command, "");
    assert_eq!((end.code, end.out.as_str()), (6, ""));
    assert!(end.err.contains(&format!("cannot reach the coordinator at http://127.0.0.1:{port}")), "{}", end.err);
    assert!(end.err.contains("onnection refused") && end.err.contains("bramble doctor"), "{}", end.err);
    assert!(!end.err.contains("s3cret"));
}

#[test]
fn what_is_missing_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let end = ended(bramble(home.path(), &["whoami"]), "");
    assert_eq!(end.code, 2);
    assert!(end.err.contains("bramble login --api URL"), "{}", end.err);
    let end = ended(bramble(home.path(), &["--api", "http://127.0.0.1:1", "whoami"]), "");
    assert_eq!(end.code, 4);
    assert!(end.err.contains("no token"), "{}", end.err);
    assert_eq!(ended(bramble(home.path(), &["rollout", "pause", "x"]), "").code, 2);
}

#[test]
fn every_refusal_has_its_exit_code_and_words() {
    let cases = [
        (401, "unauthenticated", 4, "Run `bramble login`"),
        (403, "forbidden", 4, "(request r-1)"),
        (404, "not-found", 3, "as it says"),
        (409, "conflict", 5, "as it says"),
        (412, "precondition-failed", 5, "as it says"),
        (503, "recovering", 6, "as it says"),
        (504, "timeout", 7, "as it says"),
        (500, "internal", 1, "log"),
    ];
    for (status, code, exit, words) in cases {
        let fake = Fake::start(move |_, _| problem(status, code, "as it says", &json!([])));
        let end = fake.run(&["get", "device", "pi-1"]);
        assert_eq!((end.code, end.out.as_str()), (exit, ""), "{code}");
        assert!(end.err.starts_with("error: as it says") && end.err.contains(words), "{code}: {}", end.err);
    }
}

#[test]
fn somebody_else_on_the_port_is_noticed() {
    let fake = Fake::start(|_, _| stream("text/html", "<html>welcome</html>"));
    let end = fake.run(&["get", "devices"]);
    assert_eq!(end.code, 1);
    assert!(end.err.contains("cannot be read") && end.err.contains("of one version"), "{}", end.err);
    let fake = Fake::start(|_, _| axum::http::Response::builder().status(502).body("nope".into()).unwrap());
    let end = fake.run(&["get", "devices"]);
    assert_eq!(end.code, 6);
    assert!(end.err.contains("status 502 and not as a coordinator does"), "{}", end.err);
}

#[test]
fn lists_are_paged_filtered_and_shown_in_each_format() {
    let fake = Fake::start(|line, _| {
        assert!(line.contains("label=site%3Dhome%2Cteam%3Da"), "{line}");
        if line.contains("cursor=pi-1") {
            ok(&json!({ "items": [device("pi-2", 2)], "nextCursor": null }))
        } else {
            ok(&json!({ "items": [device("pi-1", 1)], "nextCursor": "pi-1" }))
        }
    });
    let get = ["get", "devices", "-l", "site=home", "-l", "team=a", "--tenant", "acme"];
    let table = fake.run(&get);
    assert_eq!((table.code, table.err.as_str()), (0, ""));
    let words: Vec<Vec<&str>> = table.out.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "STATE", "CONNECTION", "HEALTH", "GENERATION", "SEEN", "LABELS"]);
    assert_eq!(words[2], ["pi-2", "active", "online", "healthy", "2", "never", "site=home"]);
    let json = fake.run(&[&get[..], &["-o", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["items"][1], device("pi-2", 2));
    let yaml = fake.run(&[&get[..], &["-o", "yaml"]].concat());
    assert!(yaml.out.starts_with("items:\n  - id: ") && yaml.out.contains("\n    name: pi-2\n"), "{}", yaml.out);
    let asked = fake.asked.lock().unwrap();
    assert!(asked.iter().all(|a| a.tenant == "acme" && a.token == "Bearer s3cret"));
}

#[test]
fn tenants_are_listed_and_found_by_name() {
    let fake = Fake::start(|line, _| {
        assert!(line.starts_with("GET /api/v1/tenants"), "{line}");
        let tenant = |name: &str, devices: u32| json!({ "name": name, "devices": devices, "deployments": 1 });
        ok(&json!({ "items": [tenant("acme", 3), tenant("default", 0)], "nextCursor": null }))
    });
    let table = fake.run(&["get", "tenants"]);
    let words: Vec<Vec<&str>> = table.out.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words, [vec!["NAME", "DEVICES", "DEPLOYMENTS"], vec!["acme", "3", "1"], vec!["default", "0", "1"]]);
    let one = fake.run(&["get", "tenant", "acme", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&one.out).unwrap()["devices"], 3);
    let none = fake.run(&["get", "tenant", "nobody"]);
    assert!(none.code != 0 && none.err.contains("there is no nobody among the tenants"), "{}", none.err);
    let watched = fake.run(&["get", "tenants", "-w"]);
    assert!(watched.code != 0 && watched.err.contains("cannot be watched"), "{}", watched.err);
}

#[test]
fn a_login_is_tried_and_kept_private() {
    let fake =
        Fake::start(|_, _| ok(&json!({ "subject": "admin", "rights": ["devices:read"], "coordinator": "0.1.0" })));
    let api = format!("http://{}", fake.address);
    let end = ended(bramble(fake.home(), &["login", "--api", &api]), "t0ken\n");
    assert_eq!((end.code, end.out.as_str()), (0, ""), "{}", end.err);
    assert!(end.err.contains("as admin") && !end.err.contains("t0ken"), "{}", end.err);
    let file = fake.home().join(".config/bramble/config.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let end = ended(bramble(fake.home(), &["whoami"]), "");
    assert_eq!(end.code, 0, "{}", end.err);
    assert!(end.out.starts_with("admin at http://") && end.out.contains("devices:read"), "{}", end.out);
    assert!(fake.asked.lock().unwrap().iter().all(|a| a.token == "Bearer t0ken"));
    // The kept token is for that coordinator only.
    let end = ended(bramble(fake.home(), &["--api", "http://127.0.0.1:1", "whoami"]), "");
    assert!(end.code == 4 && end.err.contains("no token"), "{end:?}");
}

#[test]
fn a_wrong_token_is_not_kept() {
    let fake = Fake::start(|_, _| problem(401, "unauthenticated", "unknown token", &json!([])));
    let api = format!("http://{}", fake.address);
    let end = ended(bramble(fake.home(), &["login", "--api", &api]), "t0ken\n");
    assert_eq!(end.code, 4);
    assert!(!fake.home().join(".config").exists());
    assert_eq!(ended(bramble(fake.home(), &["login", "--api", &api]), "").code, 2);
}

#[test]
fn what_the_coordinator_refuses_is_told_with_its_line() {
    let fake = Fake::start(|_, _| {
        let error =
            json!([{ "path": "spec.containers[0].ports[0].host", "message": "port 8080 is taken on pi-1 by hello" }]);
        problem(422, "invalid", "not acceptable", &error)
    });
    let file = manifest(&fake);
    let end = fake.run(&["apply", "-f", &file]);
    assert_eq!((end.code, end.out.as_str()), (1, ""));
    assert_eq!(end.err, format!("{file}:10: spec.containers[0].ports[0].host: port 8080 is taken on pi-1 by hello\n"));
}

#[test]
fn nothing_is_sent_while_a_file_is_wrong() {
    let fake = Fake::start(|_, _| panic!("nothing may be asked"));
    let good = manifest(&fake);
    let mut command = fake.command(&["apply", "-f", &good, "-"]);
    command.stdin(Stdio::piped());
    let end = ended(command, "kind: Deployment\nkind: Deployment\n");
    assert_eq!(end.code, 2);
    assert_eq!(end.err, "error: standard input:2: `kind` is given twice, first on line 1\n");
    let text = fake::MANIFEST.replace("name: web }", "name: web, tenant: acme }");
    let end = ended(fake.command(&["apply", "-f", "-", "--tenant", "other"]), &text);
    assert!(end.err.contains("standard input:3: metadata.tenant: is acme, but --tenant"), "{}", end.err);
    assert!(fake.lines().is_empty());
}

#[test]
fn the_tenant_goes_into_header_and_manifest() {
    let fake = Fake::start(|_, _| {
        ok(&json!({ "change": "created", "deployment": deployment(1, &json!([])), "warnings": [] }))
    });
    let file = manifest(&fake);
    let end = fake.run(&["apply", "-f", &file, "--tenant", "acme", "--dry-run"]);
    assert_eq!((end.code, end.err.as_str()), (0, ""));
    assert_eq!(end.out, "deployment/web created: revision 1, for 1 device (dry run: nothing was done)\n");
    let asked = fake.asked.lock().unwrap();
    assert_eq!(asked[0].line, "PUT /api/v1/deployments/web?dryRun=true");
    assert_eq!((asked[0].tenant.as_str(), &asked[0].body["metadata"]["tenant"]), ("acme", &json!("acme")));
}

/// A coordinator that applies revision 2 and then shows each of these in turn, the last one for ever.
fn applying(shown: Vec<serde_json::Value>) -> Fake {
    Fake::start(move |line, before| match line {
        "PUT /api/v1/deployments/web" => {
            ok(&json!({ "change": "replaced", "deployment": deployment(2, &json!([])), "warnings": [] }))
        }
        "GET /api/v1/deployments/web?watch=1" => ok(&shown[before.min(shown.len() - 1)]),
        other => panic!("{other}"),
    })
}

#[test]
fn waiting_tells_phases_and_ends_when_all_have_proven_it() {
    let fake = applying(vec![
        deployment(2, &target("trial", "preparing", "")),
        deployment(2, &target("trial", "preparing", "")),
        deployment(2, &target("trial", "starting", "")),
        deployment(2, &target("confirmed", "running", "")),
    ]);
    let file = manifest(&fake);
    let end = fake.run(&["apply", "-f", &file, "--wait"]);
    assert_eq!(end.code, 0, "{}", end.err);
    assert_eq!(end.out.lines().count(), 1);
    let told: Vec<_> = end.err.lines().take(3).collect();
    assert_eq!(told, ["pi-1  trial, preparing", "pi-1  trial, starting", "pi-1  confirmed, running"]);
}

#[test]
fn waiting_tells_each_stage_as_it_passes() {
    let view = |status: &str, stages: &serde_json::Value| {
        let mut devices = target(status, "starting", "");
        devices[0]["app"] = json!({
            "uid": "aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "deployment": "web", "revision": 2,
            "runningRevision": null, "runningHash": null, "status": status, "phase": "starting", "reason": "",
            "lastDowntimeMs": null, "containers": [], "stages": stages,
        });
        format!("event: put\ndata: {}\n\n", deployment(2, &devices))
    };
    let stage = |name: &str, state: &str, took: u64| json!({ "name": name, "state": state, "tookMs": took, "detail": if state == "active" { "3 of 4" } else { "" } });
    let first = json!([stage("preparing", "active", 0), stage("stopping", "skipped", 0)]);
    let second =
        json!([stage("preparing", "passed", 1200), stage("starting", "passed", 50), stage("running", "passed", 0)]);
    // The stream breaks after the first event: the rest is told by the next one.
    let texts = [view("trial", &first), view("trial", &first) + &view("confirmed", &second)];
    let fake = Fake::start(move |line, before| match line {
        "PUT /api/v1/deployments/web" => {
            ok(&json!({ "change": "replaced", "deployment": deployment(2, &json!([])), "warnings": [] }))
        }
        "GET /api/v1/deployments/web?watch=1" => stream("text/event-stream", &texts[before.min(1)]),
        other => panic!("{other}"),
    });
    let file = manifest(&fake);
    let end = fake.run(&["apply", "-f", &file, "--wait"]);
    assert_eq!(end.code, 0, "{}", end.err);
    let told: Vec<_> = end.err.lines().take(4).collect();
    let want =
        ["pi-1  preparing ... 3 of 4", "pi-1  preparing ok 1.2s", "pi-1  starting ok 50ms", "pi-1  running ok 0ms"];
    assert_eq!(told, want);
}

#[test]
fn waiting_ends_with_the_reason_of_a_failure_or_with_7() {
    let fake = applying(vec![deployment(2, &target("failed", "failed", "no such image"))]);
    let file = manifest(&fake);
    let end = fake.run(&["apply", "-f", &file, "--wait"]);
    assert_eq!(end.code, 1);
    assert!(end.err.contains("deployment web failed:\n  pi-1: no such image"), "{}", end.err);

    let fake = applying(vec![deployment(2, &target("trial", "starting", ""))]);
    let file = manifest(&fake);
    let end = fake.run(&["apply", "-f", &file, "--wait", "--timeout", "700ms"]);
    assert_eq!(end.code, 7);
    assert!(end.err.contains("is not everywhere after 700ms: pi-1 is starting"), "{}", end.err);

    let fake = applying(vec![deployment(3, &target("confirmed", "running", ""))]);
    let file = manifest(&fake);
    assert_eq!(fake.run(&["apply", "-f", &file, "--wait"]).code, 5);
}

#[test]
fn waiting_survives_a_restart_of_the_coordinator_and_bounds_its_silence() {
    let fake = Fake::start(|line, before| match (line.split(' ').next().unwrap(), before) {
        ("PUT", _) => ok(&json!({ "change": "replaced", "deployment": deployment(2, &json!([])), "warnings": [] })),
        (_, 0) => problem(503, "recovering", "catching up", &json!([])),
        (_, 1) => stream("application/json", "{\"uid\""),
        (_, _) => endless("application/json", ""),
    });
    let file = manifest(&fake);
    let end = fake.run(&["apply", "-f", &file, "--wait", "--timeout", "2s"]);
    // The half answer of the second time is a defect, not a pause.
    assert_eq!(end.code, 1, "{}", end.err);
    let fake = Fake::start(|line, before| match (line.split(' ').next().unwrap(), before) {
        ("PUT", _) => ok(&json!({ "change": "replaced", "deployment": deployment(2, &json!([])), "warnings": [] })),
        (_, 0) => problem(503, "recovering", "catching up", &json!([])),
        (_, _) => endless("application/json", "{"),
    });
    let file = manifest(&fake);
    let end = fake.run(&["apply", "-f", &file, "--wait", "--timeout", "1s"]);
    assert_eq!(end.code, 7, "{}", end.err);
    assert!(end.err.contains("catching up"), "{}", end.err);
}

const LINE: &str =
    r#"{"type":"line","device":"pi-1","container":"web","at":"2026-01-01T00:00:00Z","stderr":false,"text":"hello"}"#;

fn logs(tail: &'static str) -> Fake {
    Fake::start(move |line, _| match line {
        "GET /api/v1/deployments/web" => ok(&deployment(1, &json!([]))),
        _ => stream("application/x-ndjson", &format!("{LINE}\n\n{tail}")),
    })
}

#[test]
fn logs_that_break_off_are_not_taken_for_whole() {
    let whole = logs("{\"type\":\"end\",\"exitCode\":null}\n").run(&["logs", "web", "--tail", "5", "--since", "10m"]);
    assert_eq!((whole.code, whole.out.as_str(), whole.err.as_str()), (0, "hello\n", ""));
    let broken = logs("").run(&["logs", "web"]);
    assert_eq!((broken.code, broken.out.as_str()), (6, "hello\n"));
    assert!(broken.err.contains("broke off"), "{}", broken.err);
    let failed = logs("{\"type\":\"error\",\"device\":\"pi-2\",\"detail\":\"not connected\"}\n").run(&["logs", "web"]);
    assert_eq!((failed.code, failed.out.as_str(), failed.err.as_str()), (1, "hello\n", "pi-2: not connected\n"));
}

#[test]
fn a_program_on_a_device_speaks_and_ends_through_us() {
    let fake = Fake::start(|_, _| {
        let text = "{\"type\":\"output\",\"stderr\":false,\"data\":\"b3V0AA==\"}\n{\"type\":\"output\",\"stderr\":true,\"data\":\"ZXJy\"}\n{\"type\":\"end\",\"exitCode\":42}\n";
        stream("application/x-ndjson", text)
    });
    let end = fake.run(&["exec", "pi-1", "web", "--", "sh", "-c", "exit 42"]);
    assert_eq!((end.code, end.out.as_str(), end.err.as_str()), (42, "out\0", "err"));
    let asked = fake.asked.lock().unwrap()[0].clone();
    assert_eq!(asked.line, "POST /api/v1/devices/pi-1/exec");
    let want = json!({ "deployment": "web", "container": null, "argv": ["sh", "-c", "exit 42"], "timeout": "1m" });
    assert_eq!(asked.body, want);
    let end = fake.run(&["exec", "-it", "pi-1", "web", "--", "sh"]);
    assert_eq!(end.code, 2);
    assert!(end.err.contains("-t wants a terminal, and standard input is none"), "{}", end.err);
    assert_eq!(fake.run(&["exec", "pi-1", "web"]).code, 2);
}

#[test]
fn a_session_is_opened_as_everything_else_is_asked_for_and_only_with_a_coordinator() {
    let refusing = Fake::start(|_, _| problem(403, "forbidden", "ci lacks the right devices:exec", &json!([])));
    let end = refusing.run(&["exec", "-i", "pi/1", "web", "--", "cat"]);
    assert_eq!((end.code, end.err.as_str()), (4, "error: ci lacks the right devices:exec (request r-1)\n"));
    let asked = refusing.asked.lock().unwrap()[0].clone();
    assert_eq!(asked.line, "GET /api/v1/devices/pi%2F1/terminal");
    assert_eq!((asked.tenant.as_str(), asked.token.as_str()), ("default", "Bearer s3cret"));
    // Something in between that says yes to everything, and one that speaks of a WebSocket and does not know our key.
    let strange = Fake::start(|_, _| stream("text/html", "<h1>welcome</h1>"));
    let end = strange.run(&["exec", "-i", "pi-1", "web", "--", "cat"]);
    assert_eq!((end.code, end.err.contains("not as a coordinator does")), (1, true), "{}", end.err);
    let liar = Fake::start(|_, _| {
        let answer = axum::http::Response::builder().status(101).header("upgrade", "websocket");
        answer
            .header("connection", "upgrade")
            .header("sec-websocket-accept", "AAAA")
            .body(axum::body::Body::empty())
            .unwrap()
    });
    let end = liar.run(&["exec", "-i", "pi-1", "web", "--", "cat"]);
    assert_eq!((end.code, end.err.contains("not as a coordinator does")), (1, true), "{}", end.err);
}

#[test]
fn a_quarantine_needs_a_yes_and_a_reason() {
    let fake = Fake::start(|line, _| {
        let mut view = device("pi-1", 1);
        if line.starts_with("POST") {
            view["state"] = json!("quarantined");
        }
        ok(&view)
    });
    let end = fake.run(&["device", "quarantine", "pi-1", "--reason", "stolen"]);
    assert_eq!(end.code, 2);
    for words in ["is cut at once", "keeps running", "unquarantine pi-1", "Give --yes"] {
        assert!(end.err.contains(words), "{words}: {}", end.err);
    }
    assert_eq!(fake.run(&["device", "quarantine", "pi-1"]).code, 2);
    assert!(fake.lines().iter().all(|l| l.starts_with("GET")), "{:?}", fake.lines());
    let end = fake.run(&["device", "quarantine", "pi-1", "--reason", "stolen", "--yes"]);
    assert_eq!(
        (end.code, end.out.as_str()),
        (0, "device/pi-1 quarantined: its connection is cut (state quarantined)\n")
    );
    let last = fake.asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(
        (last.line.as_str(), last.body),
        ("POST /api/v1/devices/pi-1/quarantine", json!({ "reason": "stolen" }))
    );
}

#[test]
fn an_enrolment_token_is_the_only_data() {
    let fake = Fake::start(|_, _| {
        let view = json!({
            "id": "aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "created": "2026-01-01T00:00:00Z",
            "expires": "2026-01-08T00:00:00Z", "uses": 2, "used": 0, "autoApprove": false, "labels": {}, "revoked": false,
            "version": 1,
        });
        ok(&json!({ "token": "bramble1.a.b.c", "view": view }))
    });
    let end = fake.run(&["enroll-token", "create", "--uses", "2", "--ttl", "1h", "--label", "site=home"]);
    assert_eq!((end.code, end.out.as_str()), (0, "bramble1.a.b.c\n"));
    assert!(end.err.contains("bramble device approve"), "{}", end.err);
    let want = json!({ "ttl": "1h", "uses": 2, "autoApprove": false, "labels": { "site": "home" } });
    assert_eq!(fake.asked.lock().unwrap()[0].body, want);
}

#[test]
fn a_watch_goes_on_through_a_broken_stream_and_shows_only_changes() {
    let event = |d: serde_json::Value| format!("event: put\ndata: {d}\n\n");
    let fake = Fake::start(move |line, before| {
        assert_eq!(line, "GET /api/v1/devices?watch=1");
        match before {
            0 => stream("text/event-stream", &event(device("pi-1", 1))),
            1 => problem(503, "recovering", "catching up", &json!([])),
            _ => {
                let text = event(device("pi-1", 1)) + &event(device("pi-1", 2));
                endless("text/event-stream", text.leak())
            }
        }
    });
    let mut command = fake.command(&["get", "devices", "-w", "-o", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let shown: Vec<serde_json::Value> =
        out.lines().take(2).map(|l| serde_json::from_str(&l.unwrap()).unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(shown, [device("pi-1", 1), device("pi-1", 2)]);
}

#[test]
fn the_doctor_names_what_is_wrong() {
    let fake = Fake::start(|line, _| match line.split('?').next().unwrap() {
        "GET /ready" => ok(&json!({ "state": "recovering", "waitsFor": ["devices"], "version": "9.9.0" })),
        "GET /api/v1/me" => ok(&json!({ "subject": "admin", "rights": [], "coordinator": "9.9.0" })),
        "GET /api/v1/devices" => ok(&json!({ "items": [device("pi-1", 1)], "nextCursor": null })),
        other => panic!("{other}"),
    });
    let end = fake.run(&["doctor"]);
    assert_eq!(end.code, 0, "{end:?}");
    for words in ["recovering", "waits for devices", "use the same minor version", "1 of 1 online"] {
        assert!(end.out.contains(words), "{words}: {}", end.out);
    }
    let checks = json!([
        { "check": { "kind": "tcpReachable", "at": "b:4222" }, "state": "failed", "tookMs": 3,
          "detail": "refused the connection" },
        { "check": { "kind": "natsKvKeyExists", "bucket": "meta", "key": "store" }, "state": "notAsked", "tookMs": null,
          "detail": "" },
    ]);
    let fake = Fake::start(move |line, _| match line {
        "GET /ready" => ok(&json!({ "state": "recovering", "waitsFor": ["x"], "version": "0.1.0", "checks": checks })),
        _ => problem(401, "unauthenticated", "unknown token", &json!([])),
    });
    let end = fake.run(&["doctor"]);
    assert_eq!(end.code, 6, "the first thing that is wrong: {end:?}");
    let pipeline = end.out.lines().next().unwrap();
    assert!(
        pipeline.contains("-> store FAILED 3ms TCP b:4222 refused the connection -> fleet FAILED token"),
        "{pipeline}"
    );
    let row = |check: &str| end.out.lines().skip(1).find(|l| l.contains(check)).unwrap().to_owned();
    assert!(row("NATS key meta/store").contains("not asked") && row("token").contains("unknown token"), "{}", end.out);
    assert!(row("devices").contains("not asked"), "{}", end.out);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = fake.command(&["doctor", "-o", "json"]);
    command.env("BRAMBLE_API", format!("http://{nobody}"));
    let end = ended(command, "");
    assert_eq!(end.code, 6, "{end:?}");
    let said: serde_json::Value = serde_json::from_str(&end.out).unwrap();
    let check = &said["items"][1]["checks"][0];
    assert_eq!((&check["check"]["kind"], &check["state"]), (&json!("httpHealthy"), &json!("failed")));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let many: Vec<_> = (0..2_000).map(|_| device("pi-1", 1)).collect();
    let fake = Fake::start(move |_, _| ok(&json!({ "items": many, "nextCursor": null })));
    let mut child = fake.command(&["get", "devices"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let end = child.wait_with_output().unwrap();
    assert_eq!((end.status.code(), String::from_utf8(end.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn completion_is_for_each_shell() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let end = ended(bramble(home.path(), &["completion", shell]), "");
        assert!(end.code == 0 && end.out.contains("enroll-token"), "{shell}");
    }
}
