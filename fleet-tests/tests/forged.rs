//! Documents and commands that nobody of the fleet sent, or that were sent before: refused, reported, audited, and
//! without effect. And everything that ever passed, played again after a restart.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bramble_contracts::bytes::Fixed;
use bramble_contracts::quantity::Millis;
use bramble_contracts::signed::{self, Role};
use bramble_contracts::subjects::{self, Bucket};
use bramble_contracts::v1::{Command, ExecArgs, Heartbeat, RefusalKind, Verb};
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{DeviceId, Generation, envelope};
use bramble_fleet_tests::clock::{stays, unix_secs};
use bramble_fleet_tests::keys::{In, Stolen, strangers_key};
use bramble_fleet_tests::mesh::Mesh;
use bramble_fleet_tests::{Device, Fleet, manifest, soon};
use serde_json::{Value, json};

/// An app with a volume, in which a program run by a command would leave a trace.
fn traceable(port: u16) -> Value {
    let mut manifest = manifest::hello("web", port, 1);
    manifest["spec"]["containers"][0]["volumes"] = json!([{ "name": "data", "path": "/data" }]);
    manifest
}

/// The file with this name anywhere below the device's apps.
fn traces(pi: &Device, name: &str) -> Vec<PathBuf> {
    let found = xtask::run::Cmd::new("find").arg(pi.apps_dir()).args(["-name", name, "-type", "f"]).output().unwrap();
    found.stdout.lines().map(PathBuf::from).collect()
}

fn exec(device: &DeviceId, beat: &Heartbeat, counter: u64, file: &str) -> Command {
    let args = ExecArgs {
        tenant: Default::default(),
        deployment: "web".parse().unwrap(),
        container: None,
        argv: vec!["/hello".into(), "touch".into(), format!("/data/{file}")],
        tty: None,
        timeout: Millis::secs(10),
    };
    Command {
        device: device.clone(),
        session: beat.session,
        counter,
        expires_uptime_ms: beat.uptime_ms + 60_000,
        verb: Verb::Exec(args),
    }
}

/// Counters begin at the wall clock in milliseconds, with room below; the coordinator's own come later and are higher.
fn counter(n: u64) -> u64 {
    ((unix_secs() * 1000) << 16) + n
}

fn heartbeat(inside: &Mesh, id: &DeviceId) -> Heartbeat {
    let beats = inside.record(&[&Bucket::Liveness.subject(&format!("{id}.*"))]);
    soon("a heartbeat", || {
        let heard = beats.heard().pop().ok_or("none yet")?;
        envelope::decode(&heard.payload).map_err(|err| err.to_string())
    })
}

fn refused_kinds(fleet: &Fleet) -> BTreeSet<String> {
    let report = fleet.device_view("pi-1").ok().and_then(|view| view.report);
    report.map_or_else(BTreeSet::new, |r| r.refused.iter().map(|r| format!("{:?}", r.kind)).collect())
}

fn push_documents(stolen: &Stolen, inside: &Mesh, held: &DesiredDocument) {
    let newer = DesiredDocument { generation: Generation(held.generation.0 + 5), apps: vec![], ..held.clone() };
    let older = DesiredDocument { generation: Generation(held.generation.0 - 1), apps: vec![], ..held.clone() };
    let forked = DesiredDocument { apps: vec![], ..held.clone() };
    let others = DesiredDocument { device: DeviceId::from_entropy([9; 13]), ..newer.clone() };
    let mut bent = stolen.sign(&newer);
    *bent.last_mut().unwrap() ^= 1;
    let push = subjects::device_push_desired(&held.device);
    for (what, bytes) in [
        ("unsigned", envelope::encode(&newer).unwrap()),
        ("a stranger's", signed::sign(&newer, Role::Fleet, &strangers_key()).unwrap()),
        ("another role's", signed::sign(&newer, Role::Release, stolen.fleet_key()).unwrap()),
        ("altered", bent),
        ("another device's", stolen.sign(&others)),
        ("older", stolen.sign(&older)),
        ("forked", stolen.sign(&forked)),
        ("garbage", vec![0xB8; 200]),
    ] {
        println!("pushing a document: {what}");
        inside.publish(&push, None, None, &bytes);
    }
}

fn send_commands(stolen: &Stolen, inside: &Mesh, id: &DeviceId, beat: &Heartbeat) {
    let command = |n, file: &str| exec(id, beat, counter(n), file);
    let other_session = Command { session: Fixed([1; 8]), ..command(2, "session") };
    let expired = Command { expires_uptime_ms: 1, ..command(3, "expired") };
    let other_device = Command { device: DeviceId::from_entropy([9; 13]), ..command(4, "device") };
    let subject = subjects::command(id, "exec");
    for (what, bytes) in [
        ("unsigned", envelope::encode(&command(0, "unsigned")).unwrap()),
        ("a stranger's", signed::sign(&command(1, "stranger"), Role::Fleet, &strangers_key()).unwrap()),
        ("another session's", stolen.sign_command(&other_session)),
        ("expired", stolen.sign_command(&expired)),
        ("another device's", stolen.sign_command(&other_device)),
    ] {
        println!("sending a command: {what}");
        inside.publish(&subject, Some("_INBOX.nobody.1"), None, &bytes);
    }
}

#[test]
fn what_nobody_of_the_fleet_signed_or_what_is_old_is_refused_reported_and_audited() {
    let fleet = Fleet::start("forged");
    let pi = fleet.device("pi-1");
    let port = fleet.port();
    fleet.apply(&manifest::hello("first", fleet.port(), 1));
    fleet.settled("first", &pi);
    fleet.delete("first");
    fleet.apply(&traceable(port));
    let before = fleet.settled("web", &pi);
    let id = fleet.device_view("pi-1").unwrap().id;
    let stolen = Stolen::from(fleet.coordinator());
    let inside = stolen.connect(In::Fleet);
    let held: DesiredDocument = stolen.open(&inside.get(Bucket::Desired, id.as_str()).expect("a document"));

    // Commands first: a fork makes the coordinator ask the device for its document, with a counter above ours.
    let beat = heartbeat(&inside, &id);
    send_commands(&stolen, &inside, &id, &beat);
    let subject = subjects::command(&id, "exec");
    // One that is right works, once; played again it does nothing. (So the ones above had a fair chance.)
    let right = stolen.sign_command(&exec(&id, &beat, counter(10), "right"));
    inside.publish(&subject, Some("_INBOX.nobody.2"), None, &right);
    soon("the right command to work", || traces(&pi, "right").pop().ok_or_else(|| pi.agent().last_words()));
    std::fs::remove_file(traces(&pi, "right").pop().unwrap()).unwrap();
    inside.publish(&subject, Some("_INBOX.nobody.3"), None, &right);

    push_documents(&stolen, &inside, &held);
    let want: BTreeSet<String> = [
        RefusalKind::Signature,
        RefusalKind::OtherDevice,
        RefusalKind::OlderGeneration,
        RefusalKind::Forked,
        RefusalKind::StaleCommand,
    ]
    .map(|kind| format!("{kind:?}"))
    .into();
    soon("every kind of refusal to be in the report", || {
        let kinds = refused_kinds(&fleet);
        if kinds.is_superset(&want) { Ok(()) } else { Err(format!("{kinds:?}")) }
    });
    soon("every kind of refusal to be in the audit trail", || {
        let told: Vec<String> =
            fleet.audit().into_iter().filter(|e| e.action == "device.refused").map(|e| e.detail).collect();
        let missing: Vec<_> = want.iter().filter(|kind| !told.iter().any(|d| d.contains(kind.as_str()))).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} not in {told:?}")) }
    });
    stays("nothing of it has an effect", Duration::from_secs(3), || {
        let found: Vec<_> = ["session", "expired", "device", "unsigned", "stranger", "right"]
            .iter()
            .flat_map(|f| traces(&pi, f))
            .collect();
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // The fork, signed by the true key, looks like a store that was set back: a moment on hold, and over.
    soon("the device not to be on hold", || {
        let view = fleet.device_view("pi-1")?;
        let same = view.hold.is_none() && view.desired_generation == view.reported_generation;
        if same { Ok(()) } else { Err(format!("{view:?}")) }
    });
    let now = stolen.open(&inside.get(Bucket::Desired, id.as_str()).unwrap());
    assert!(now.same_meaning(&held) && now.generation >= held.generation, "{now:?}");
    assert_eq!(fleet.settled("web", &pi), before);
    fleet.answers(port, "version 1");
}

#[test]
fn everything_that_ever_passed_has_no_effect_when_played_again() {
    let fleet = Fleet::start("replay");
    let port = fleet.port();
    let stolen = Stolen::from(fleet.coordinator());
    let (inside, among_devices) = (stolen.connect(In::Fleet), stolen.connect(In::Dev));
    let taken_inside = inside.record(&["dev.>", "cmd.>", "up.>", "$KV.>"]);
    let taken_outside = among_devices.record(&[">"]);
    let pi = fleet.device("pi-1");
    fleet.apply(&manifest::hello("gone", fleet.port(), 1));
    fleet.settled("gone", &pi);
    fleet.apply(&traceable(port));
    fleet.settled("web", &pi);
    let bramble = fleet.bramble();
    bramble.ok(&["exec", "pi-1", "web", "--", "/hello", "touch", "/data/trace"]);
    std::fs::remove_file(traces(&pi, "trace").pop().expect("the program ran")).unwrap();
    bramble.ok(&["logs", "web", "--tail", "5"]);
    fleet.delete("gone");
    soon("the app to go", || if pi.all_containers().len() == 1 { Ok(()) } else { Err("still there".into()) });
    let before = fleet.settled("web", &pi);
    let generation = fleet.device_view("pi-1").unwrap().reported_generation;

    let replay = |when: &str| {
        let mut count = 0;
        for m in taken_inside.heard().iter().filter(|m| m.subject.starts_with("dev.") || m.subject.starts_with("cmd."))
        {
            inside.publish(&m.subject, m.reply.as_deref(), m.headers.clone(), &m.payload);
            count += 1;
        }
        for m in taken_outside.heard().iter().filter(|m| !m.subject.starts_with("_R_")) {
            among_devices.publish(&m.subject, m.reply.as_deref(), m.headers.clone(), &m.payload);
            count += 1;
        }
        println!("played {count} messages again {when}");
        assert!(count > 10, "something was recorded");
        stays("nothing comes of it", Duration::from_secs(4), || {
            let found = traces(&pi, "trace");
            if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
        });
        soon("the device to be as it was", || {
            let view = fleet.device_view("pi-1")?;
            let same = view.reported_generation == generation && view.hold.is_none();
            if same { Ok(()) } else { Err(format!("{view:?}")) }
        });
        assert_eq!(fleet.settled("web", &pi), before);
        assert_eq!(pi.all_containers().len(), 1, "nothing was brought back");
    };
    replay("at once");
    pi.kill_agent();
    pi.start_agent();
    fleet.online_agent(&pi);
    replay("after a restart of the agent");
    fleet.coordinator().kill_both();
    fleet.coordinator().start();
    let (inside, among_devices) = (stolen.connect(In::Fleet), stolen.connect(In::Dev));
    for m in taken_inside.heard().iter().filter(|m| !m.subject.starts_with("$KV.desired")) {
        if m.subject.starts_with("dev.") || m.subject.starts_with("cmd.") || m.subject.starts_with("up.") {
            inside.publish(&m.subject, m.reply.as_deref(), m.headers.clone(), &m.payload);
        }
    }
    for m in taken_outside.heard().iter().filter(|m| !m.subject.starts_with("_R_")) {
        among_devices.publish(&m.subject, m.reply.as_deref(), m.headers.clone(), &m.payload);
    }
    fleet.online("pi-1");
    assert_eq!(fleet.settled("web", &pi), before);
    assert!(traces(&pi, "trace").is_empty());
}
