//! The API: who may, what is refused and how, tokens and enrolment, the audit trail.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use bramble_contracts::{
    bytes::Sha256,
    id::Uid,
    problem::Problem,
    subjects::Bucket,
    token::EnrollmentToken,
    trust::TrustDocument,
    v1::{RenewHttpRequest, TRUST_STEPS_MAX},
};
use bramble_coordinator::http::{
    openapi,
    routes::{Guard, ROUTES},
};
use futures::StreamExt as _;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::sim::{Sim, SimDevice, manifest};

#[tokio::test]
async fn every_described_route_denies_by_default() {
    let sim = Sim::new();
    sim.ready().await;
    let document = openapi::document();
    let mut walked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let route = ROUTES.iter().find(|r| r.path == path && r.method.eq_ignore_ascii_case(method)).unwrap();
            let uri = path.replace(['{', '}'], "");
            let ask = |token: Option<&str>| {
                let mut request = Request::builder()
                    .method(method.to_uppercase().as_str())
                    .uri(&uri)
                    .header("x-tenant-id", "default");
                if let Some(token) = token {
                    request = request.header("authorization", format!("Bearer {token}"));
                }
                request.body(Body::empty()).unwrap()
            };
            let without = sim.send(ask(None)).await;
            let wrong = sim.send(ask(Some("wrong"))).await;
            let powerless = sim.send(ask(Some("powerless"))).await;
            match route.guard {
                Guard::Open => assert_ne!(without.status, StatusCode::UNAUTHORIZED, "{method} {path}"),
                Guard::SignedIn => {
                    assert_eq!(
                        (without.status.as_u16(), wrong.status.as_u16(), powerless.status.as_u16()),
                        (401, 401, 200),
                        "{method} {path}"
                    );
                }
                Guard::Right(_) => {
                    assert_eq!(
                        (without.status.as_u16(), wrong.status.as_u16(), powerless.status.as_u16()),
                        (401, 401, 403),
                        "{method} {path}"
                    );
                    let problem: Problem = serde_json::from_value(powerless.body).unwrap();
                    assert_eq!(problem.status, 403);
                }
            }
            walked += 1;
        }
    }
    assert_eq!(walked, ROUTES.len());
}

#[tokio::test]
async fn what_cannot_be_read_is_a_problem_with_its_place() {
    let sim = Sim::new();
    sim.ready().await;
    let put = |body: &str, kind: &str| {
        Request::put("/api/v1/deployments/web")
            .header("authorization", format!("Bearer {}", sim.admin))
            .header("x-tenant-id", "default")
            .header("content-type", kind)
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let mut unknown = manifest("web", json!({ "a": "b" }), 80, 1);
    unknown["spec"]["containers"][0]["imagge"] = json!("x");
    let mut wrong = manifest("web", json!({ "a": "b" }), 80, 1);
    wrong["spec"]["containers"][0]["ports"][0]["host"] = json!("eighty");
    let mut later = manifest("web", json!({ "a": "b" }), 80, 1);
    later["spec"]["hostNetwork"] = json!(false);
    later["spec"]["containers"][0]["env"] =
        json!([{ "name": "A", "valueFrom": { "secret": { "path": "a", "key": "b" } } }]);
    let mut other = manifest("web", json!({ "a": "b" }), 80, 1);
    other["metadata"]["tenant"] = json!("elsewhere");
    let named = manifest("other", json!({ "a": "b" }), 80, 1);
    let huge = format!("\"{}\"", "x".repeat(2 << 20));
    let json = "application/json";
    for (request, status, code, path) in [
        (put("{", json), 400, "bad-request", None),
        (put(" []", json), 400, "bad-request", None),
        (put(r#"["bramble/v1","Deployment",{},{}]"#, json), 400, "bad-request", None),
        (put("null", json), 400, "bad-request", None),
        (put("{}", "text/plain"), 415, "unsupported-media-type", None),
        (put(&huge, json), 413, "too-large", None),
        (put(&unknown.to_string(), json), 422, "invalid", Some("spec.containers[0]")),
        (put(&wrong.to_string(), json), 422, "invalid", Some("spec.containers[0].ports[0].host")),
        (put(&later.to_string(), json), 422, "unsupported", Some("spec.containers[0].env[0].valueFrom")),
        (put(&other.to_string(), json), 422, "invalid", Some("metadata.tenant")),
        (put(&named.to_string(), json), 422, "invalid", Some("metadata.name")),
    ] {
        let answer = sim.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.body["code"].as_str()), (status, Some(code)), "{}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.headers["x-request-id"], answer.body["requestId"].as_str().unwrap());
        if let Some(path) = path {
            let found = answer.body["errors"][0]["path"].as_str().unwrap();
            assert!(found.starts_with(path), "{found}");
        }
    }
    let nowhere = sim.ask("GET", "/api/v1/nothing", None).await;
    assert_eq!((nowhere.status.as_u16(), nowhere.body["code"].as_str()), (404, Some("not-found")));
    let method = sim.ask("DELETE", "/api/v1/me", None).await;
    assert_eq!((method.status.as_u16(), method.body["code"].as_str()), (405, Some("method-not-allowed")));
    let tenantless = Request::get("/api/v1/devices").header("authorization", format!("Bearer {}", sim.admin));
    assert_eq!(sim.send(tenantless.body(Body::empty()).unwrap()).await.status, 400);
}

#[tokio::test]
async fn if_match_guards_writes_and_unchanged_applies_keep_their_revision() {
    let sim = Sim::new();
    sim.ready().await;
    let web = |version| manifest("web", json!({ "a": "b" }), 80, version);
    let first = sim.ask("PUT", "/api/v1/deployments/web", Some(web(1))).await;
    assert_eq!(
        (first.body["change"].as_str(), first.body["deployment"]["revision"].as_u64()),
        (Some("created"), Some(1))
    );
    let etag = first.headers["etag"].clone();
    let put = |version, etag: &str| {
        Request::put("/api/v1/deployments/web")
            .header("authorization", format!("Bearer {}", sim.admin))
            .header("x-tenant-id", "default")
            .header("content-type", "application/json")
            .header("if-match", etag)
            .body(Body::from(web(version).to_string()))
            .unwrap()
    };
    let second = sim.send(put(2, etag.to_str().unwrap())).await;
    assert_eq!((second.status.as_u16(), second.body["change"].as_str()), (200, Some("replaced")));
    assert_eq!(sim.send(put(3, etag.to_str().unwrap())).await.status, 412);
    let dry = sim.must("PUT", "/api/v1/deployments/web?dryRun=true", Some(web(9))).await;
    assert_eq!((dry["change"].as_str(), dry["deployment"]["revision"].as_u64()), (Some("replaced"), Some(3)));
    let now = sim.must("GET", "/api/v1/deployments/web", None).await;
    assert_eq!(now["revision"], 2, "a dry run does nothing");
}

#[tokio::test]
async fn a_token_is_bound_to_its_first_key_and_several_uses_wait_for_approval() {
    let sim = Sim::new();
    sim.ready().await;
    let token = sim.token(json!({ "labels": { "site": "paris" } })).await;
    let (key, thief) = (KeyPair::new_user(), KeyPair::new_user());
    let first = sim.enroll(&token, &key, "pi-1").await;
    assert_eq!((first.status.as_u16(), first.body["state"].as_str()), (200, Some("active")), "{}", first.body);
    assert!(first.body["jwt"].as_str().unwrap().split('.').count() == 3);
    let again = sim.enroll(&token, &key, "pi-1").await;
    assert_eq!(again.body["device"], first.body["device"]);
    let stolen = sim.enroll(&token, &thief, "pi-1").await;
    assert_eq!((stolen.status.as_u16(), stolen.body["code"].as_str()), (403, Some("forbidden")));

    let many = sim.token(json!({ "uses": 2 })).await;
    let waiting = sim.enroll(&many, &thief, "pi-1").await;
    assert_eq!(waiting.body["state"], "pending");
    assert!(waiting.body["jwt"].is_null());
    let name = waiting.body["name"].as_str().unwrap();
    assert!(name.starts_with("pi-1-"), "the name was taken: {name}");
    sim.must("POST", &format!("/api/v1/devices/{name}/approve"), None).await;
    let approved = sim.enroll(&many, &thief, "pi-1").await;
    assert_eq!((approved.body["state"].as_str(), approved.body["jwt"].is_string()), (Some("active"), true));

    let id = many.id.to_string();
    sim.must("DELETE", &format!("/api/v1/enrollment-tokens/{id}"), None).await;
    assert_eq!(sim.enroll(&many, &KeyPair::new_user(), "x").await.status, 403);
    let trail = sim.must("GET", "/api/v1/audit?limit=1000", None).await;
    let text = trail.to_string();
    for event in ["enrollment-token.create", "device.enroll", "device.approve", "enrollment-token.revoke"] {
        assert!(text.contains(event), "{event}");
    }
    assert!(!text.contains(token.secret_text().as_str()) && !text.contains(&sim.admin), "no secrets in the trail");
    let refused =
        trail["items"].as_array().unwrap().iter().any(|e| e["action"] == "device.enroll" && e["outcome"] == "refused");
    assert!(refused, "{text}");
}

#[tokio::test]
async fn an_expired_device_renews_by_a_signed_nonce_once() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({})).await;
    let post = |path: &str, body: Value| {
        Request::post(format!("/api/v1/enroll/{path}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap()
    };
    let nonce = sim.send(post("nonce", json!({}))).await.body["nonce"].as_str().unwrap().to_owned();
    let sign = |key: &KeyPair| {
        let text = RenewHttpRequest::proof_text(&device.id, &nonce);
        data_encoding::BASE64URL_NOPAD.encode(&key.sign(text.as_bytes()).unwrap())
    };
    let body = |key: &KeyPair| json!({ "device": device.id, "nonce": nonce, "proof": sign(key), "trustVersion": 1 });
    assert_eq!(sim.send(post("renew", body(&KeyPair::new_user()))).await.status, 403);
    let renewed = sim.send(post("renew", body(&device.key))).await;
    assert_eq!((renewed.status.as_u16(), renewed.body["jwt"].is_string()), (200, true), "{}", renewed.body);
    assert_eq!(renewed.body["trust"], json!([]), "it holds the newest");
    assert_eq!(sim.send(post("renew", body(&device.key))).await.status, 403, "a nonce is used once");
}

#[tokio::test]
async fn a_device_that_missed_rotations_is_handed_every_step() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({})).await;
    let first = TrustDocument::open_stored(sim.core.keys.trust()).unwrap();
    let start = sim.kill();
    let mut sim = start();
    for n in 0..5 {
        sim = sim.moved_to(&format!("https://c{n}.example"));
    }
    sim.ready().await;
    let two_back = renew_from(&sim, &device, sim.core.keys.trust_document().version - 2).await;
    assert_eq!(two_back.len(), 2);
    let mut have = first;
    while let steps = renew_from(&sim, &device, have.version).await
        && !steps.is_empty()
    {
        assert!(steps.len() <= TRUST_STEPS_MAX);
        for step in steps {
            have = have.open_next(&step).unwrap();
        }
    }
    assert_eq!(have, *sim.core.keys.trust_document());
    assert!(have.version > 1 + TRUST_STEPS_MAX as u64, "more than one answer holds: {}", have.version);
    assert!(renew_from(&sim, &device, u64::MAX).await.is_empty());
    let token = sim.token(json!({})).await;
    let other = sim.enroll(&token, &KeyPair::new_user(), "pi-2").await;
    let newest = data_encoding::BASE64.encode(sim.core.keys.trust());
    assert_eq!(other.body["trust"], json!([newest]), "at enrolment the newest alone");
}

/// The trust documents of a renewal by a device that holds this version.
async fn renew_from(sim: &Sim, device: &SimDevice, version: u64) -> Vec<Vec<u8>> {
    let post = |path: &str, body: Value| {
        let request = Request::post(format!("/api/v1/enroll/{path}")).header("content-type", "application/json");
        request.body(Body::from(body.to_string())).unwrap()
    };
    let nonce = sim.send(post("nonce", json!({}))).await.body["nonce"].as_str().unwrap().to_owned();
    let text = RenewHttpRequest::proof_text(&device.id, &nonce);
    let proof = data_encoding::BASE64URL_NOPAD.encode(&device.key.sign(text.as_bytes()).unwrap());
    let body = json!({ "device": device.id, "nonce": nonce, "proof": proof, "trustVersion": version });
    let answer = sim.send(post("renew", body)).await;
    assert!(answer.body["jwt"].is_string(), "{}", answer.body);
    let documents: Vec<String> = serde_json::from_value(answer.body["trust"].clone()).unwrap();
    documents.iter().map(|text| data_encoding::BASE64.decode(text.as_bytes()).unwrap()).collect()
}

#[tokio::test]
async fn guesses_at_tokens_cost_nothing_that_is_kept() {
    let sim = Sim::new();
    sim.ready().await;
    let token = sim.token(json!({})).await;
    let key = KeyPair::new_user();
    assert_eq!(sim.enroll(&token, &key, "pi-1").await.status, 200);
    let kept = || (sim.store.all(Bucket::Tokens), sim.store.all(Bucket::Devices));
    let events = async || {
        let trail = sim.must("GET", "/api/v1/audit?limit=1000", None).await;
        trail["items"].as_array().unwrap().len()
    };
    let (before, told) = (kept(), events().await);
    let unknown = EnrollmentToken::new(Uid::from_entropy([9; 13]), [1; 20], token.pin);
    let guessed = EnrollmentToken::new(token.id.clone(), [1; 20], token.pin);
    for n in 0..20 {
        let guess = if n % 2 == 0 { &unknown } else { &guessed };
        let answer = sim.enroll(guess, &KeyPair::new_user(), "x").await;
        assert_eq!((answer.status.as_u16(), answer.body["code"].as_str()), (403, Some("forbidden")));
    }
    assert_eq!((kept(), events().await), (before.clone(), told), "guesses leave nothing");
    for _ in 0..20 {
        assert_eq!(sim.enroll(&token, &KeyPair::new_user(), "x").await.status, 403);
    }
    assert_eq!((kept(), events().await), (before, told + 1), "a spent token is told once");
    let huge = json!({ "token": token.id, "secret": "x".repeat(20_000) }).to_string();
    let request = Request::post("/api/v1/enroll").header("content-type", "application/json");
    assert_eq!(sim.send(request.body(Body::from(huge)).unwrap()).await.status, 413);
}

#[tokio::test]
async fn logs_that_cannot_be_read_say_why_and_name_the_way_out() {
    let sim = Sim::new();
    sim.ready().await;
    let detail = async |path: &str| {
        let answer = sim.ask("GET", path, None).await;
        (answer.status.as_u16(), answer.body["detail"].as_str().unwrap().to_owned())
    };
    let logs = "/api/v1/deployments/web/logs";
    let (status, why) = detail(logs).await;
    assert!(status == 404 && why.starts_with("there is no deployment web"), "{status} {why}");
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "a": "b" }), 80, 1))).await;
    let (status, why) = detail(logs).await;
    assert!(status == 409 && why.contains("web selects no device"), "{status} {why}");
    let first = sim.device("pi-0", json!({ "a": "b" })).await;
    let (status, why) = detail(logs).await;
    assert!(status == 503 && why.starts_with("device pi-0: ") && !why.contains(first.id.as_str()), "{status} {why}");
    for n in 1..17 {
        sim.device(&format!("pi-{n}"), json!({ "a": "b" })).await;
    }
    let (status, why) = detail(logs).await;
    assert!(status == 400 && why.contains("17 devices") && why.contains("--device"), "{status} {why}");
    let (status, why) = detail("/api/v1/deployments/web/logs?device=pi-3").await;
    assert!(status == 503 && why.starts_with("device pi-3: "), "{status} {why}");
}

#[tokio::test]
async fn mutations_leave_an_intent_and_an_outcome_and_refused_ones_too() {
    let sim = Sim::new();
    sim.ready().await;
    sim.device("pi-1", json!({})).await;
    sim.must("PATCH", "/api/v1/devices/pi-1/labels", Some(json!({ "set": { "a": "b" } }))).await;
    let mut bad = manifest("web", json!({ "a": "b" }), 80, 1);
    bad["spec"]["containers"] = json!([]);
    assert_eq!(sim.ask("PUT", "/api/v1/deployments/web", Some(bad)).await.status, 422);
    let powerless = Request::delete("/api/v1/deployments/web")
        .header("authorization", "Bearer powerless")
        .header("x-tenant-id", "default");
    assert_eq!(sim.send(powerless.body(Body::empty()).unwrap()).await.status, 403);
    let trail = sim.must("GET", "/api/v1/audit?limit=1000", None).await;
    let events: Vec<String> = trail["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            format!(
                "{} {} {}",
                e["who"].as_str().unwrap(),
                e["action"].as_str().unwrap(),
                e["outcome"].as_str().unwrap()
            )
        })
        .collect();
    for want in [
        "admin device.label intent",
        "admin device.label done",
        "admin deployment.apply intent",
        "admin deployment.apply refused",
        "nobody http.delete refused",
    ] {
        assert!(events.iter().any(|e| e == want), "{want} in {events:?}");
    }
    let page = sim.must("GET", "/api/v1/audit?limit=2", None).await;
    let cursor = page["nextCursor"].as_str().unwrap();
    let next = sim.must("GET", &format!("/api/v1/audit?limit=2&cursor={cursor}"), None).await;
    assert!(next["items"][0]["seq"].as_u64() < page["items"][1]["seq"].as_u64());
}

#[tokio::test]
async fn a_watched_list_tells_changes() {
    let sim = Sim::new();
    sim.ready().await;
    let request = Request::get("/api/v1/devices?watch=1")
        .header("authorization", format!("Bearer {}", sim.admin))
        .header("x-tenant-id", "default")
        .body(Body::empty())
        .unwrap();
    let response = sim.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    sim.device("pi-1", json!({})).await;
    let first = tokio::time::timeout(std::time::Duration::from_secs(10), body.next()).await.unwrap().unwrap().unwrap();
    let text = String::from_utf8(first.to_vec()).unwrap();
    assert!(text.contains("event: put") && text.contains("\"name\":\"pi-1\""), "{text}");
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let sim = Sim::new();
    sim.ready().await;
    for i in 0..5 {
        sim.device(&format!("pi-{i}"), json!({ "odd": if i % 2 == 1 { "yes" } else { "no" } })).await;
    }
    let names = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = sim.must("GET", "/api/v1/devices?limit=3", None).await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = sim.must("GET", &format!("/api/v1/devices?limit=3&cursor={cursor}"), None).await;
    assert_eq!(
        (names(&first).len(), names(&second), second["nextCursor"].is_null()),
        (3, vec!["pi-3".into(), "pi-4".into()], true)
    );
    assert_eq!(names(&sim.must("GET", "/api/v1/devices?label=odd=yes", None).await), ["pi-1", "pi-3"]);
    assert_eq!(names(&sim.must("GET", "/api/v1/devices?field=name=pi-2,state=active", None).await), ["pi-2"]);
    assert_eq!(sim.ask("GET", "/api/v1/devices?field=colour=red", None).await.status, 400);
}

#[tokio::test]
async fn exec_streams_lines_and_only_where_the_app_is() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "a": "b" })).await;
    let exec = |deployment: &str| json!({ "deployment": deployment, "argv": ["true", "secret-argument"] });
    assert_eq!(sim.ask("POST", "/api/v1/devices/pi-1/exec", Some(exec("web"))).await.status, 404);
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "a": "b" }), 80, 1))).await;
    sim.until("it is there", |_| sim.apps(&device.id) == ["web@1"]).await;
    device.take(&sim);
    sim.converged().await;
    let answer = sim.ask("POST", "/api/v1/devices/pi-1/exec", Some(exec("web"))).await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let text = answer.body.as_str().unwrap();
    assert!(text.contains(r#""data":"aGk=""#) && text.ends_with("{\"type\":\"end\",\"exitCode\":3}\n"), "{text}");
    let logs = sim.ask("GET", "/api/v1/deployments/web/logs", None).await;
    assert_eq!((logs.status.as_u16(), logs.body["code"].as_str()), (503, Some("device-unreachable")));
    let trail = sim.must("GET", "/api/v1/audit?limit=1000", None).await.to_string();
    assert!(trail.contains("device.exec") && !trail.contains("secret-argument"));
}

/// The token of no rights that the tests use.
pub(crate) fn powerless() -> Value {
    json!([{ "name": "nobody", "sha256": Sha256::of(b"powerless"), "rights": [] }])
}
