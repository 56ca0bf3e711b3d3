//! The coordinator's start with 10,000 devices in the store: from its first instruction to `/ready`, beside a bare read
//! of the same streams; and what it and the broker take for them. The store holds what a fleet of that size would have:
//! one device enrols and runs an app, and its record, name, document (signed anew) and report are copied for each.

use std::time::Duration;

use bramble_contracts::api::{DeviceView, Page};
use bramble_contracts::subjects::Bucket;
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::v3::Report;
use bramble_contracts::{DeviceId, Name, envelope};
use futures::StreamExt as _;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::Reps;
use super::poll::look;
use super::proc_stat::pss;
use super::table::{Goal, Row, Samples, Unit};
use crate::api::runtime;
use crate::clock::stays;
use crate::keys::{In, Stolen};
use crate::manifest::LABEL;
use crate::mesh::Mesh;
use crate::simulated::{SimDevice, start_all};
use crate::{Fleet, Watch, manifest, soon, wait_until};

const DEVICES: u32 = 10_000;
const ABREAST: usize = 256;
const LONG: Duration = Duration::from_secs(120);
/// What a coordinator reads for them.
const READ: [Bucket; 4] = [Bucket::Meta, Bucket::Devices, Bucket::Desired, Bucket::Reported];

/// One device's part of the store, to be copied.
struct Template {
    id: String,
    name: String,
    record: Value,
    reserved: String,
    document: DesiredDocument,
    report: Report,
}

impl Template {
    /// A device that enrolled and runs an app; its agent has ended.
    fn make(fleet: &Fleet, inside: &Mesh, stolen: &Stolen) -> Self {
        let (label, value) = LABEL;
        let token = fleet.token_with(&json!({ "autoApprove": true, "labels": { (label): value } })).token;
        let mut device = [SimDevice::new(fleet.case(), "template", &fleet.coordinator().url(), &token)];
        start_all(&mut device, 1, LONG);
        fleet.apply(&manifest::hello("web", 8080, 1));
        soon("the app to be confirmed", || {
            let summary = fleet.deployment_view("web")?.summary;
            if summary.confirmed == 1 { Ok(()) } else { Err(format!("{summary:?}")) }
        });
        let id = device[0].id().to_string();
        device[0].stop();
        let get = |bucket, key: &str| inside.get(bucket, key).unwrap_or_else(|why| panic!("{key}: {why}"));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("records are text");
        Self {
            name: "template".into(),
            record: serde_json::from_slice(&get(Bucket::Devices, &id)).expect("a record is JSON"),
            reserved: text(get(Bucket::Meta, "device-name.default.template")),
            document: stolen.open(&get(Bucket::Desired, &id)),
            report: envelope::decode(&get(Bucket::Reported, &id)).expect("a report"),
            id,
        }
    }

    /// What the store holds of copy number `n`.
    fn copy(&self, n: u32, stolen: &Stolen) -> Vec<(String, Vec<u8>)> {
        let mut entropy = [0; 13];
        entropy[..4].copy_from_slice(&n.to_be_bytes());
        let id = DeviceId::from_entropy(entropy);
        let name: Name = format!("cold-{n:05}").parse().expect("a name");
        let mut record = self.record.clone();
        record["id"] = json!(id);
        record["name"] = json!(name);
        record["publicKey"] = json!(KeyPair::new_user().public_key());
        let document = DesiredDocument { device: id.clone(), name: name.clone(), ..self.document.clone() };
        let report = Report { device: id.clone(), ..self.report.clone() };
        let reserved = self.reserved.replace(&self.id, id.as_str()).replace(&self.name, name.as_str());
        vec![
            (Bucket::Meta.subject(&format!("device-name.default.{name}")), reserved.into_bytes()),
            (Bucket::Devices.subject(id.as_str()), serde_json::to_vec(&record).expect("a record is JSON")),
            (Bucket::Desired.subject(id.as_str()), stolen.sign(&document)),
            (Bucket::Reported.subject(id.as_str()), envelope::encode(&report).expect("it fits")),
        ]
    }
}

/// Writes everything, many at a time, each acknowledged.
fn fill(inside: &Mesh, messages: Vec<(String, Vec<u8>)>) {
    let writes = futures::stream::iter(messages).map(|(subject, bytes)| async move {
        let ack = inside.client().request(subject.clone(), bytes.into()).await;
        let ack = ack.unwrap_or_else(|err| panic!("{subject}: {err}"));
        let text = String::from_utf8_lossy(&ack.payload).into_owned();
        assert!(text.contains("\"seq\""), "{subject}: {text}");
    });
    runtime().block_on(writes.buffer_unordered(ABREAST).collect::<Vec<()>>());
}

/// Everything in these streams, read by direct gets and thrown away; how many messages and bytes there were.
async fn bare_read(inside: &Mesh) -> (u64, u64) {
    let (mut count, mut bytes) = (0, 0);
    for bucket in READ {
        let mut seq = 1;
        loop {
            let inbox = inside.client().new_inbox();
            let mut answers = inside.client().subscribe(inbox.clone()).await.expect("the broker takes it");
            let ask = json!({ "seq": seq, "next_by_subj": bucket.subject(">"), "batch": 1000 }).to_string();
            let to = format!("$JS.API.DIRECT.GET.{}", bucket.stream());
            inside.client().publish_with_reply(to, inbox, ask.into()).await.expect("the broker takes it");
            let mut found = 0;
            while let Some(message) = answers.next().await.filter(|m| m.status.is_none()) {
                let at = message.headers.as_ref().and_then(|h| h.get("Nats-Sequence")?.as_str().parse::<u64>().ok());
                seq = at.expect("a direct get says the sequence") + 1;
                found += 1;
                bytes += message.payload.len() as u64;
            }
            count += found;
            if found == 0 {
                break;
            }
        }
    }
    (count, bytes)
}

/// From the start of the process to its first `/ready` with 200.
fn ready(fleet: &Fleet) -> Duration {
    let watch = Watch::start();
    fleet.coordinator().proc().start();
    while look(fleet.coordinator().address(), "/ready").is_none_or(|(status, _)| status != 200) {
        assert!(watch.elapsed() < LONG, "{}", fleet.coordinator().proc().last_words());
        std::thread::sleep(Duration::from_millis(2));
    }
    watch.elapsed()
}

fn last_document(inside: &Mesh) -> u64 {
    let info = inside.request("$JS.API.STREAM.INFO.KV_desired", b"").expect("the broker answers");
    let info: Value = serde_json::from_slice(&info).expect("the broker answers in JSON");
    info["state"]["last_seq"].as_u64().expect("a stream has a last sequence")
}

fn count_devices(fleet: &Fleet) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let page: Page<DeviceView> =
            fleet.api().get(&format!("/api/v1/devices?limit=1000{cursor}")).expect("the coordinator answers");
        count += page.items.len();
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return count,
        }
    }
}

pub(super) fn cold(reps: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-cold");
    let stolen = Stolen::from(fleet.coordinator());
    let inside = stolen.connect(In::Fleet);
    let template = Template::make(&fleet, &inside, &stolen);
    // The broker outlives a coordinator that is killed.
    fleet.coordinator().proc().kill();
    let watch = Watch::start();
    fill(&inside, (0..DEVICES).flat_map(|n| template.copy(n, &stolen)).collect());
    println!("{} messages were written in {} ms", DEVICES * 4, watch.elapsed().as_millis());
    let documents = last_document(&inside);

    let (mut alone, mut both, mut bare) = (vec![], vec![], vec![]);
    let mut memory = (vec![], vec![]);
    for _ in 0..reps.fewer(3) {
        fleet.coordinator().proc().kill();
        alone.push(ready(&fleet));
        assert_eq!(count_devices(&fleet), DEVICES as usize + 1, "ready means that it knows every device");
        memory.0.push(pss(fleet.coordinator().proc().pid().expect("the coordinator runs")));
        memory.1.push(pss(fleet.coordinator().broker_pid().expect("the broker runs")));
        let (found, watch) = (stolen.connect(In::Fleet), Watch::start());
        let (messages, bytes) = runtime().block_on(bare_read(&found));
        bare.push(watch.elapsed());
        println!("{messages} messages of {bytes} bytes in all");
        assert!(messages > u64::from(DEVICES) * 4);
        fleet.coordinator().stop();
        both.push(ready(&fleet));
    }
    let again = stolen.connect(In::Fleet);
    stays("no document is written to a fleet in order", Duration::from_secs(3), || {
        let now = last_document(&again);
        if now == documents { Ok(()) } else { Err(format!("{} documents were written", now - documents)) }
    });
    changes(&fleet, alone, both, bare, memory)
}

/// The rows; and how long a change takes to be written for everybody.
fn changes(
    fleet: &Fleet,
    alone: Vec<Duration>,
    both: Vec<Duration>,
    bare: Vec<Duration>,
    memory: (Vec<f64>, Vec<f64>),
) -> Vec<Row> {
    let inside = Stolen::from(fleet.coordinator()).connect(In::Fleet);
    let (before, watch) = (last_document(&inside), Watch::start());
    fleet.apply(&manifest::hello("web", 8080, 2));
    wait_until("the change to be written for every device", LONG, || {
        let written = last_document(&inside) - before;
        if written > u64::from(DEVICES) { Ok(()) } else { Err(format!("{written} so far")) }
    });
    let spread = watch.elapsed();
    let bare = Samples::times(bare);
    vec![
        Row::new("coordinator and broker cold, 10,000 devices → `/ready`", Samples::times(both))
            .beside("a bare read of the same streams", bare.clone())
            .goal(Goal::Every(2000.0)),
        Row::new("coordinator alone, the broker running → `/ready`", Samples::times(alone))
            .beside("a bare read of the same streams", bare)
            .goal(Goal::Every(2000.0)),
        Row::new("one change → 10,000 documents signed and stored", Samples::times([spread])),
        Row::new("memory of the coordinator with 10,000 devices (PSS)", Samples::new(Unit::MiB, memory.0)),
        Row::new("memory of the broker with 10,000 devices (PSS)", Samples::new(Unit::MiB, memory.1)),
    ]
}
