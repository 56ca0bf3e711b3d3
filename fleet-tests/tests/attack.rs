//! A device that has gone bad, with its own valid credentials: every reading of others, every reply subject, every
//! header. Denied, or without effect.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use bramble_contracts::subjects::Bucket;
use bramble_fleet_tests::clock::pause;
use bramble_fleet_tests::keys::{In, Stolen};
use bramble_fleet_tests::mesh::Mesh;
use bramble_fleet_tests::{Fleet, manifest, soon};
use serde_json::Value;

/// Streams with their settings, and the values that are the victim's.
#[derive(Debug, PartialEq)]
struct Snapshot {
    streams: BTreeMap<String, Value>,
    consumers: BTreeMap<String, u64>,
    values: BTreeMap<String, Vec<u8>>,
}

fn snapshot(inside: &Mesh, victim: &str) -> Snapshot {
    let list: Value = serde_json::from_slice(&inside.request("$JS.API.STREAM.LIST", b"{}").unwrap()).unwrap();
    let (mut streams, mut consumers) = (BTreeMap::new(), BTreeMap::new());
    for stream in list["streams"].as_array().unwrap() {
        let name = stream["config"]["name"].as_str().unwrap().to_owned();
        consumers.insert(name.clone(), stream["state"]["consumer_count"].as_u64().unwrap());
        streams.insert(name, stream["config"].clone());
    }
    let buckets = [Bucket::Desired, Bucket::Devices];
    let values = buckets.map(|b| (b.name().to_owned(), inside.get(b, victim).unwrap()));
    Snapshot { streams, consumers, values: values.into() }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    pairs.iter().for_each(|(name, value)| map.insert(*name, *value));
    map
}

#[test]
fn a_device_gone_bad_reads_nothing_and_changes_nothing_of_others() {
    let fleet = Fleet::start("attack");
    let (bad, good) = (fleet.device("pi-bad"), fleet.device("pi-good"));
    let port = fleet.port();
    fleet.apply(&manifest::only_for(manifest::hello("web", port, 1), &["pi-good"]));
    let before = fleet.settled("web", &good);
    let own = bad.identity()["device"].as_str().unwrap().to_owned();
    let victim = good.identity()["device"].as_str().unwrap().to_owned();
    let stolen = Stolen::from(fleet.coordinator());
    let inside = stolen.connect(In::Fleet);
    bad.kill_agent();
    let inbox = format!("_INBOX_{own}");
    let broker = fleet.coordinator().broker();
    let attacker =
        || Mesh::connect(broker, bad.identity()["jwt"].as_str().unwrap(), &bad.seed(), Some(&inbox)).unwrap();
    let evil = attacker();
    assert!(evil.request(&format!("JSF.GET.{own}"), b"").is_ok(), "its own document it may read");
    let first = snapshot(&inside, &victim);

    reads_nothing(&evil, &victim);
    let eavesdropper = attacker();
    let everything =
        ["dev.>", "cmd.>", "up.>", "_INBOX.>", "_R_.>", "$KV.>", "$SYS.>", "$JS.>", "JSF.>", ">"].map(str::to_owned);
    let wanted: Vec<String> =
        everything.into_iter().chain([format!("dev.{victim}.>"), format!("cmd.{victim}.>")]).collect();
    let overheard = eavesdropper.record(&wanted.iter().map(String::as_str).collect::<Vec<_>>());

    replies(&evil, &own, &victim);
    rewrites(&evil, &own);

    // The victim works on meanwhile, and nobody hears it.
    fleet.bramble().ok(&["logs", "web", "--tail", "1"]);
    pause(Duration::from_secs(1));
    assert_eq!(overheard.heard().iter().map(|m| m.subject.clone()).collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(snapshot(&inside, &victim), first);
    fleet.online("pi-good");
    assert_eq!(fleet.settled("web", &good), before);
    let reports = inside.get(Bucket::Reported, &victim);
    assert!(reports.is_ok_and(|r| !r.windows(4).any(|w| w == b"evil")), "the victim's report was touched");
    // It may harm its own words only, and only until it speaks again.
    bad.start_agent();
    fleet.online_agent(&bad);
    fleet.apply(&manifest::only_for(manifest::hello("web", port, 2), &["pi-good"]));
    fleet.answers(port, "version 2");
}

/// Asks for everything that is not its own.
fn reads_nothing(evil: &Mesh, victim: &str) {
    let asked = [
        format!("JSF.GET.{victim}"),
        "JSF.GET.*".into(),
        "$JS.API.INFO".into(),
        "$JS.API.STREAM.LIST".into(),
        "$JS.API.STREAM.NAMES".into(),
        "$JS.API.STREAM.INFO.KV_desired".into(),
        "$JS.API.STREAM.MSG.GET.KV_desired".into(),
        "$JS.API.STREAM.CREATE.evil".into(),
        "$JS.API.STREAM.PURGE.KV_reported".into(),
        "$JS.API.STREAM.DELETE.KV_reported".into(),
        "$JS.API.CONSUMER.CREATE.KV_desired".into(),
        "$JS.API.CONSUMER.CREATE.KV_desired.evil.>".into(),
        "$JS.API.CONSUMER.DURABLE.CREATE.KV_desired.evil".into(),
        format!("$JS.API.DIRECT.GET.KV_desired.$KV.desired.{victim}"),
        "$JS.API.DIRECT.GET.KV_desired".into(),
        format!("$KV.reported.{victim}"),
        format!("$KV.liveness.{victim}.a"),
        format!("$KV.desired.{victim}"),
        "$KV.devices.x".into(),
        format!("up.{victim}.renew"),
        format!("cmd.{victim}.exec"),
        format!("dev.{victim}.desired"),
        "$SYS.REQ.SERVER.PING".into(),
        "$SYS.REQ.USER.INFO".into(),
        "$SYS.REQ.CLAIMS.UPDATE".into(),
        "_INBOX.x".into(),
        "_R_.x".into(),
    ];
    // One after the other costs two seconds each: the broker answers a denied publish with an error only.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let tasks: Vec<_> = asked.iter().map(|s| (s, scope.spawn(move || evil.request(s, b"{}")))).collect();
        tasks.into_iter().map(|(s, task)| (s, task.join().unwrap())).collect()
    });
    for (subject, answer) in answers {
        // Everybody may ask who they are themselves.
        let harmless = subject == "$SYS.REQ.USER.INFO";
        assert!(
            harmless || answer.is_err(),
            "{subject} answered {:?}",
            answer.map(|a| String::from_utf8_lossy(&a).into_owned())
        );
    }
}

/// What the broker does not check: where the answer to an allowed request goes.
fn replies(evil: &Mesh, own: &str, victim: &str) {
    let targets = [
        format!("$KV.reported.{victim}"),
        format!("$KV.liveness.{victim}.a"),
        format!("$KV.desired.{victim}"),
        format!("$KV.desired.{own}"),
        format!("$KV.devices.{own}"),
        "$KV.meta.format".into(),
        "$JS.API.STREAM.PURGE.KV_desired".into(),
        "$JS.API.STREAM.DELETE.KV_reported".into(),
        "$JS.API.STREAM.CREATE.evil".into(),
        format!("cmd.{victim}.exec"),
        format!("dev.{victim}.desired"),
        format!("JSF.GET.{victim}"),
        format!("up.{victim}.renew"),
        "audit._".into(),
        "$SYS.REQ.SERVER.PING".into(),
        "$SYS.REQ.CLAIMS.UPDATE".into(),
        format!("_INBOX_{victim}.x"),
    ];
    let allowed = [
        format!("JSF.GET.{own}"),
        format!("$KV.reported.{own}"),
        format!("$KV.liveness.{own}.a"),
        format!("up.{own}.renew"),
        format!("up.{own}.x"),
    ];
    for target in &targets {
        for subject in &allowed {
            evil.publish(subject, Some(target), None, b"evil");
        }
    }
}

/// Headers that would erase, expire or steer, and payloads that are too large.
fn rewrites(evil: &Mesh, own: &str) {
    let subject = format!("$KV.reported.{own}");
    for pairs in [
        &[("Nats-Rollup", "all")][..],
        &[("Nats-Rollup", "sub")],
        &[("Nats-TTL", "1s")],
        &[("Nats-Expected-Stream", "KV_desired")],
        &[("Nats-Expected-Last-Sequence", "0")],
        &[("KV-Operation", "PURGE"), ("Nats-Rollup", "sub")],
        &[("Nats-Batch-Id", "evil"), ("Nats-Batch-Sequence", "1"), ("Nats-Batch-Commit", "1")],
        &[("Nats-Msg-Id", "evil")],
        &[("Nats-Incr", "1")],
        &[("Nats-Schedule", "@every 1s"), ("Nats-Schedule-Target", "$KV.desired.x")],
    ] {
        evil.publish(&subject, None, Some(headers(pairs)), b"evil");
        evil.publish(&format!("$KV.liveness.{own}.a"), None, Some(headers(pairs)), b"evil");
    }
    evil.publish(&subject, None, None, &vec![0; 65 * 1024]);
    soon("the broker to answer still, or to have shown the door", || {
        let alive = evil.request(&format!("JSF.GET.{own}"), b"");
        let told = evil.events();
        if alive.is_ok() || !told.is_empty() { Ok(()) } else { Err(format!("{alive:?}")) }
    });
}
