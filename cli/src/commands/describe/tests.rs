//! What people see when something went wrong.

use super::*;

fn report() -> serde_json::Value {
    serde_json::json!({
        "device": "d-aaaaaaaaaaaaaaaaaaaa", "session": "0000000000000000", "instance": "a", "seq": 1, "generation": 4,
        "newestDocument": 1, "trustVersion": 1, "agent": "0.1.0", "health": "degraded",
        "clock": { "verdict": "skewed", "skewMs": -94_608_000_400_i64, "sources": "the coordinator", "detail": "clock skew" },
        "facts": { "hostname": "pi", "model": "Raspberry Pi 4", "arch": "aarch64", "os": "Debian 13", "kernel": "6.12",
                   "bootId": "b", "podman": "5.4.2", "memoryBytes": 4_294_967_296_u64, "cpus": 4,
                   "diskFreeBytes": 1_073_741_824_u64, "diskTotalBytes": 2_147_483_648_u64 },
        "apps": [{
            "uid": "aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "deployment": "web", "revision": 3, "runningRevision": null,
            "runningHash": null, "status": "failed", "phase": "failed", "reason": "init container seed ended with exit code 7",
            "lastDowntimeMs": null, "stages": [],
            "containers": [{
                "name": "seed", "role": "init", "id": "0123456789abcdef", "state": "exited", "exitCode": 7, "oomKilled": false,
                "restarts": 0, "startedAtMs": 1_800_000_000_000_u64, "imageDigest": "sha256:fedcba9876543210", "healthy": null,
                "lastLines": ["no space", "\u{1b}[2Jleft"],
            }],
            "stages": [
                { "name": "preparing", "state": "passed", "tookMs": 1250, "detail": "" },
                { "name": "stopping", "state": "skipped", "tookMs": null, "detail": "" },
                { "name": "init", "state": "failed", "tookMs": 300, "detail": "init container seed\u{1b} failed" },
                { "name": "running", "state": "waiting", "tookMs": null, "detail": "" },
            ],
        }],
        "refused": [{ "number": 5, "kind": "signature", "detail": "no signature", "generation": null, "times": 2 }],
        "alarms": ["a container that is not ours has port 80"],
    })
}

fn view(connection: &str) -> DeviceView {
    serde_json::from_value(serde_json::json!({
        "id": "d-aaaaaaaaaaaaaaaaaaaa", "tenant": "default", "name": "pi-1", "labels": { "site": "home" }, "state": "active",
        "connection": connection, "lastSeen": null, "created": "2027-01-01T00:00:00Z", "health": "degraded",
        "clock": { "verdict": "skewed", "skewMs": -94_608_000_400_i64, "sources": "the coordinator", "detail": "clock skew" },
        "desiredGeneration": 4, "reportedGeneration": 4, "hold": null, "quarantine": null, "report": report(), "version": 1,
    }))
    .unwrap()
}

#[test]
fn a_device_that_failed_shows_why_where_and_its_last_words() {
    // In the signs of whatever terminal this test runs in.
    let text = device(&view("online")).replace('✓', "ok").replace('✗', "FAILED").replace(" → ", " -> ");
    for part in [
        "pi-1\n",
        "labels       site=home",
        "health       degraded (clock)",
        "clock        skewed -94608000s, -94608000.4s by the coordinator\n               clock skew\n",
        "machine      pi, Raspberry Pi 4, aarch64, 4 processors, 4.0 GiB memory",
        "disk         1.0 GiB of 2.0 GiB free",
        "- a container that is not ours has port 80",
        "signature  2",
        "failed, failed",
        "3 wanted, none runs",
        "init container seed ended with exit code 7",
        "    stages     preparing ok 1.2s -> init FAILED 0.3s init container seed\u{fffd} failed -> running\n",
        "seed       init  exited  7 ",
        "last lines of seed:\n      | no space\n      | \u{fffd}[2Jleft\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains("may be old"));
    assert!(device(&view("offline")).contains("It is not connected: what follows is its last report and may be old."));
}

#[test]
fn a_deployment_shows_each_device_and_its_app() {
    let app = report()["apps"][0].clone();
    let target = serde_json::json!({
        "device": "d-aaaaaaaaaaaaaaaaaaaa", "name": "pi-1", "connection": "online", "blocked": null, "status": "failed",
        "phase": "failed", "reason": "init container seed ended with exit code 7", "app": app,
    });
    let silent = serde_json::json!({
        "device": "d-bbbbbbbbbbbbbbbbbbbb", "name": "pi-2", "connection": "offline", "blocked": "quarantined: stolen",
        "status": null, "phase": null, "reason": "", "app": null,
    });
    let view: DeploymentView = serde_json::from_value(serde_json::json!({
        "uid": "aaaaaaaaaaaaaaaaaaaa", "revision": 3, "created": "2027-01-01T00:00:00Z", "updated": "2027-01-01T00:00:00Z",
        "manifest": {
            "apiVersion": "bramble/v1", "kind": "Deployment", "metadata": { "name": "web" },
            "spec": { "selector": { "matchLabels": { "site": "home" } },
                      "containers": [{ "name": "web", "image": "localhost/web:1", "ports": [{ "host": 8080, "container": 80 }] }] },
        },
        "summary": { "devices": 2, "confirmed": 0, "progressing": 0, "failed": 1, "unreachable": 0, "blocked": 1 },
        "devices": [target, silent], "version": 1,
    }))
    .unwrap();
    let text = deployment(&view);
    for part in [
        "selector     site=home",
        "devices      2 (1 failed, 1 blocked)",
        "container    web  localhost/web:1  0.0.0.0:8080→80/tcp",
        "  pi-1\n",
        "last lines of seed:",
        "  pi-2\n    connection offline\n    blocked    quarantined: stolen\n    status     not reported yet\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
