//! `agent upgrade`, `os upgrade`, `os plan`, `rollout` and what shows rollouts.

use serde_json::json;

use crate::fake::{Fake, ok, stream};

#[test]
fn a_rollout_of_the_agent_is_begun_followed_and_steered() {
    let view = |state: &str, reason: &str, turn: &str| {
        json!({
            "uid": "aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "name": "agent-1-2-3", "kind": "agent",
            "brings": "agent 1.2.3", "selector": null, "policy": {}, "state": state, "reason": reason, "batch": 1,
            "batches": 2, "summary": { "devices": 2, "waiting": 1, "working": 1, "confirmed": 0, "failed": 0,
            "unreachable": 0, "skipped": 0 }, "by": "ann", "created": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z", "elapsedMs": 61_500, "version": 1, "devices": [{
                "device": "d-aaaaaaaaaaaaaaaaaaaa", "name": "pi-1", "connection": "online", "batch": 1, "turn": turn,
                "status": "trial", "phase": "trial", "runs": "1.2.3", "reason": reason, "attempt": 1, "failures": 0,
            }],
        })
    };
    let fake = Fake::start(move |line, before| match line {
        "POST /api/v1/rollouts" => ok(&view("running", "", "working")),
        "POST /api/v1/rollouts/agent-1-2-3/pause" => ok(&view("paused", "paused by ann", "working")),
        "GET /api/v1/rollouts/agent-1-2-3?watch=1" => {
            let event = |view: &serde_json::Value| format!("event: put\ndata: {view}\n\n");
            let last = if before == 0 { view("done", "", "confirmed") } else { view("halted", "it burnt", "failed") };
            stream("text/event-stream", &format!("{}{}", event(&view("running", "", "working")), event(&last)))
        }
        "GET /api/v1/rollouts/agent-1-2-3" => ok(&view("running", "", "working")),
        "GET /api/v1/rollouts?limit=500" => {
            ok(&json!({ "items": [view("running", "", "working")], "nextCursor": null }))
        }
        other => panic!("{other}"),
    });
    let upgrade =
        ["agent", "upgrade", "--to", "1.2.3", "--batches", "1,100%", "--device", "pi-1", "--device", "pi-2", "--wait"];
    let end = fake.run(&upgrade);
    assert_eq!(
        (end.code, end.out.as_str()),
        (0, "rollout/agent-1-2-3 brings agent 1.2.3 to 2 devices, in 2 batches\n")
    );
    assert!(end.err.contains("pi-1  working, trial\n"), "{}", end.err);
    assert!(end.err.contains("pi-1  confirmed\n"), "{}", end.err);
    assert!(end.err.ends_with("rollout agent-1-2-3 is done: 1 working, 1 waiting\n"), "{}", end.err);
    let body = fake.asked.lock().unwrap()[0].body.clone();
    assert_eq!((&body["kind"], &body["version"]), (&json!("agent"), &json!("1.2.3")));
    assert_eq!(body["selector"]["devices"], json!(["pi-1", "pi-2"]));
    assert_eq!(body["policy"]["batches"], json!(["1", "100%"]));
    let halted = fake.run(&upgrade);
    assert_eq!(halted.code, 1);
    assert!(halted.err.contains("rollout agent-1-2-3 is halted: it burnt\n  pi-1: it burnt"), "{}", halted.err);
    let paused = fake.run(&["rollout", "pause", "agent-1-2-3", "--reason", "lunch"]);
    assert_eq!(paused.out, "rollout/agent-1-2-3 paused: paused, batch 1 of 2, paused by ann\n");
    assert_eq!(fake.asked.lock().unwrap().last().unwrap().body, json!({ "reason": "lunch" }));
    let listed = fake.run(&["get", "rollouts"]);
    assert!(listed.out.lines().nth(1).unwrap().starts_with("agent-1-2-3  agent 1.2.3  running  1/2"), "{}", listed.out);
    let page = fake.run(&["describe", "rollout", "agent-1-2-3"]);
    for part in
        ["under way    61s", "every device of tenant default", "pi-1    1      working  trial   trial  1.2.3  online"]
    {
        assert!(page.out.contains(part), "{part}: {}", page.out);
    }
    let labelled = fake.run(&["get", "rollouts", "-l", "a=b"]);
    assert_eq!(labelled.code, 2);
}

#[test]
fn an_upgrade_of_the_system_is_followed_with_percent_and_ends_as_others_do() {
    let view = |state: &str, turn: &str, phase: &str, reason: &str| {
        json!({
            "uid": "aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "name": "os", "kind": "os", "brings": "os all packages",
            "selector": null, "policy": {}, "state": state, "reason": reason, "batch": 1, "batches": 1,
            "summary": { "devices": 1, "waiting": 0, "working": 0, "confirmed": 1, "failed": 0, "unreachable": 0,
            "skipped": 0 }, "by": "ann", "created": "", "updated": "", "elapsedMs": 1, "version": 1, "devices": [{
                "device": "d-aaaaaaaaaaaaaaaaaaaa", "name": "pi-1", "connection": "online", "batch": 1, "turn": turn,
                "status": "trial", "phase": phase, "runs": "6.12", "reason": reason, "attempt": 1, "failures": 0,
            }],
        })
    };
    let fake = Fake::start(move |line, before| match line {
        "POST /api/v1/rollouts" => ok(&view("running", "working", "", "")),
        "GET /api/v1/rollouts/os?watch=1" => {
            let working = ["preflight", "applying 3 %", "applying 4 %", "applying 61 %", "trial"];
            let mut all: Vec<_> = working.iter().map(|phase| view("running", "working", phase, "")).collect();
            all.push(match before {
                0 => view("done", "confirmed", "done", ""),
                _ => view("halted", "failed", "done", "no broker for 10 min after reboot"),
            });
            let events = all.iter().map(|view| format!("event: put\ndata: {view}\n\n")).collect::<String>();
            stream("text/event-stream", &events)
        }
        other => panic!("{other}"),
    });
    let upgrade = ["os", "upgrade", "--full", "--window", "22:00-04:00 Europe/Paris", "--wait"];
    let end = fake.run(&upgrade);
    assert_eq!(end.code, 0, "{}", end.err);
    let lines: Vec<&str> = end.err.lines().filter(|line| line.starts_with("pi-1")).collect();
    let phases = ["preflight", "applying 3 %", "applying 61 %", "trial"].map(|phase| format!("pi-1  working, {phase}"));
    assert_eq!(lines, [&phases[..], &["pi-1  confirmed".to_owned()]].concat());
    let body = fake.asked.lock().unwrap()[0].body.clone();
    let window = json!({ "days": "Mon-Sun", "from": "22:00", "to": "04:00", "timeZone": "Europe/Paris" });
    assert_eq!((&body["kind"], &body["packages"], &body["policy"]["window"]), (&json!("os"), &json!("all"), &window));
    let halted = fake.run(&upgrade);
    assert_eq!(halted.code, 1);
    assert!(halted.err.contains("pi-1: no broker for 10 min after reboot"), "{}", halted.err);
}

#[test]
fn a_plan_shows_each_device_and_ends_with_1_where_one_would_refuse() {
    let device = |name: &str, state: &str, reason: &str, plan: serde_json::Value| {
        json!({ "type": "device", "planned": {
            "device": "d-aaaaaaaaaaaaaaaaaaaa", "name": name, "state": state, "reason": reason,
            "protection": "tryboot", "plan": plan,
        }})
    };
    let plan = json!({
        "protection": "tryboot", "lacks": "", "changesMore": 2, "held": ["linux-image-rpi-v8"], "refused": "", "waits": "",
        "changes": [{ "name": "curl", "from": "1", "to": "2" }, { "name": "new", "from": null, "to": "1" }],
        "downloadBytes": 20 << 20, "room": {
            "fetchNeed": 84 << 20, "fetchFree": 1_u64 << 32, "poolNeed": 4_u64 << 30, "poolFree": 9_u64 << 30,
        },
    });
    let fake = Fake::start(move |line, before| match line {
        "POST /api/v1/os-upgrades/plan" => {
            let mut lines = vec![
                device("pi-2", "away", "it is not connected", json!(null)),
                device("pi-1", "upgrade", "", plan.clone()),
            ];
            if before == 1 {
                let why = "it is protected by bootcount, and tryboot is asked";
                lines.push(device("pi-3", "refused", why, json!(null)));
            }
            lines.push(json!({ "type": "end", "devices": lines.len() }));
            if before == 2 {
                lines.pop();
            }
            stream("application/x-ndjson", &lines.iter().map(|line| format!("{line}\n\n")).collect::<String>())
        }
        other => panic!("{other}"),
    });
    let words = ["os", "plan", "-l", "site=paris", "--packages", "curl"];
    let good = fake.run(&words);
    assert_eq!(good.code, 0, "{}", good.err);
    let lines: Vec<&str> = good.out.lines().collect();
    assert!(
        lines[1].starts_with("pi-1    upgrade  tryboot     4         20.0 MiB  84.0 MiB  4096.0 MiB"),
        "{}",
        good.out
    );
    assert!(lines[2].starts_with("pi-2    away ") && lines[2].ends_with("it is not connected"), "{}", good.out);
    let below = ["", "pi-1", "  curl 1 → 2", "  new 1 (new)", "  and 2 more", "  held back: linux-image-rpi-v8"];
    assert_eq!(lines[3..], below);
    let body = fake.asked.lock().unwrap()[0].body.clone();
    let asked = json!({
        "packages": { "these": [{ "name": "curl", "version": null }] }, "least": "tryboot",
        "selector": { "matchLabels": { "site": "paris" }, "devices": [] },
    });
    assert_eq!(body, asked);
    let refused = fake.run(&words);
    assert_eq!(refused.code, 1);
    assert!(refused.out.contains("pi-3    refused") && refused.out.contains("and tryboot is asked"), "{}", refused.out);
    let broken = fake.run(&words);
    assert_ne!(broken.code, 0, "an answer that is not whole is none");
    let json = fake.run(&["os", "plan", "--full", "-o", "json"]);
    let items: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&items["items"][0]["name"], &items["items"][1]["state"]), (&json!("pi-1"), &json!("away")));
}
