//! `agent upgrade`, `rollout` and what shows rollouts.

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
