//! Releases: published over HTTP, refused with a reason of their own and an event, given to devices that ask.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use bramble_contracts::{
    bytes::Sha256,
    envelope,
    release::{
        Artifact, CHUNK_MAX, KeyRing, ReleaseAnswer, ReleaseAsk, ReleaseKeys, ReleaseManifest, ReleaseTimestamp,
    },
    signed::public_key,
    subjects::Bucket,
};
use bramble_coordinator::{background::renew, mesh::Question, store::memory::Fault};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use futures::{StreamExt as _, stream};

use crate::sim::{Answer, Sim, SimDevice};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn ring(seeds: &[u8]) -> KeyRing {
    KeyRing { keys: seeds.iter().map(|s| public_key(&key(*s))).collect(), threshold: 2 }
}

/// Roots 1 2 3, release keys 4 5 6.
fn keys() -> ReleaseKeys {
    ReleaseKeys { version: 1, root: ring(&[1, 2, 3]), release: ring(&[4, 5, 6]) }
}

fn signed_keys() -> Vec<u8> {
    keys().sign(&[&key(1), &key(2)]).unwrap()
}

fn now_ms() -> u64 {
    u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

fn manifest(version: &str, seq: u64, binary: &[u8]) -> ReleaseManifest {
    let artifact = Artifact { target: TARGET.parse().unwrap(), size: binary.len() as u64, sha256: Sha256::of(binary) };
    ReleaseManifest {
        product: ReleaseManifest::PRODUCT.into(),
        version: version.parse().unwrap(),
        release_seq: seq,
        min_seq: 1,
        created_ms: 1,
        expires_ms: now_ms() + 3_600_000,
        artifacts: vec![artifact],
    }
}

fn sign(manifest: &ReleaseManifest, by: [u8; 2]) -> Vec<u8> {
    manifest.sign(&by.map(key).iter().collect::<Vec<_>>()).unwrap()
}

/// Bytes that are nowhere alike, so that a part in the wrong place shows.
fn binary(len: usize) -> Vec<u8> {
    (0..len.div_ceil(32)).flat_map(|n| Sha256::of(&n.to_le_bytes()).0).take(len).collect()
}

impl Sim {
    async fn send_bytes(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/releases{path}"))
            .header("authorization", format!("Bearer {}", self.admin))
            .header("content-type", "application/octet-stream");
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn upload(&self, binary: &[u8]) {
        let answer = self.send_bytes("PUT", &format!("/blobs/{}", Sha256::of(binary)), binary.to_vec()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }

    /// With the keys published, and two releases.
    async fn published() -> (Self, [Vec<u8>; 2], Vec<u8>) {
        let sim = Self::new();
        sim.ready().await;
        assert_eq!(sim.send_bytes("PUT", "/keys", signed_keys()).await.status, StatusCode::OK);
        let binary = binary(150_000);
        sim.upload(&binary).await;
        let both = [sign(&manifest("1.0.0", 5, &binary), [4, 5]), sign(&manifest("1.1.0", 6, &binary), [5, 6])];
        for signed in &both {
            let answer = sim.send_bytes("POST", "", signed.clone()).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        }
        (sim, both, binary)
    }

    async fn fetch(&self, sha256: &Sha256, range: &str) -> (StatusCode, String, Bytes) {
        use tower::ServiceExt as _;
        let request = Request::get(format!("/api/v1/releases/blobs/{sha256}"))
            .header("authorization", format!("Bearer {}", self.admin))
            .header(header::RANGE, range);
        let answer = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let place = answer.headers().get(header::CONTENT_RANGE).map_or("", |v| v.to_str().unwrap()).to_owned();
        let (status, body) = (answer.status(), answer.into_body());
        (status, place, axum::body::to_bytes(body, 1 << 20).await.unwrap())
    }

    async fn events(&self, action: &str) -> Vec<String> {
        let events = self.must("GET", "/api/v1/audit", None).await;
        let of = |e: &serde_json::Value| (e["action"] == action).then(|| format!("{} {}", e["outcome"], e["detail"]));
        events["items"].as_array().unwrap().iter().filter_map(of).collect()
    }

    async fn asked(&self, device: &SimDevice, ask: ReleaseAsk) -> ReleaseAnswer {
        let answerer = renew::answerer(&self.core);
        envelope::decode(&answerer(device.id.clone(), Question::Release(ask)).await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn keys_are_taken_once_and_then_only_their_successors() {
    let sim = Sim::new();
    sim.ready().await;
    assert_eq!(sim.ask("GET", "/api/v1/releases/keys", None).await.status, StatusCode::NOT_FOUND);
    let two = ReleaseKeys { version: 2, release: ring(&[4, 5, 7]), ..keys() };
    let next = two.sign(&[&key(1), &key(2)]).unwrap();
    let early = sim.send_bytes("PUT", "/keys", next.clone()).await;
    assert_eq!((early.status.as_u16(), &early.body["code"]), (409, &"conflict".into()), "{}", early.body);
    let first = sim.send_bytes("PUT", "/keys", signed_keys()).await;
    assert_eq!((first.status.as_u16(), &first.body["version"]), (200, &1.into()), "{}", first.body);
    assert_eq!(first.body["pin"], ReleaseKeys::pin(&signed_keys()).unwrap().to_string());
    assert_eq!(sim.send_bytes("PUT", "/keys", signed_keys()).await.body, first.body, "again changes nothing");
    let stranger = ReleaseKeys { version: 2, root: ring(&[7, 8, 9]), ..keys() }.sign(&[&key(7), &key(8)]).unwrap();
    let refused = sim.send_bytes("PUT", "/keys", stranger).await;
    assert_eq!(refused.status.as_u16(), 422, "{}", refused.body);
    assert!(refused.body["detail"].as_str().unwrap().contains("0 valid signatures by the old root keys"));
    let second = sim.send_bytes("PUT", "/keys", next).await;
    assert_eq!((second.status.as_u16(), &second.body["version"]), (200, &2.into()), "{}", second.body);
    assert_eq!(second.body["chain"].as_array().unwrap().len(), 2);
    assert_eq!(sim.must("GET", "/api/v1/releases/keys", None).await, second.body);
    let replayed = sim.send_bytes("PUT", "/keys", signed_keys()).await;
    assert_eq!(replayed.status.as_u16(), 409, "{}", replayed.body);
    let json = sim.ask("PUT", "/api/v1/releases/keys", Some(serde_json::json!({}))).await;
    assert_eq!(json.status.as_u16(), 415);
    let events = sim.events("release-keys.publish").await;
    let (refused, done) = ("\"refused\"", "\"done\"");
    let outcomes: Vec<&str> = events.iter().map(|e| e.split(' ').next().unwrap()).collect();
    assert_eq!(outcomes, [refused, done, "\"intent\"", refused, done, "\"intent\"", refused], "{events:?}");
}

#[tokio::test]
async fn every_manifest_that_is_refused_says_why_and_leaves_its_event() {
    let (sim, [old, newest], binary) = Sim::published().await;
    let before = sim.must("GET", "/api/v1/releases", None).await;
    assert_eq!(before["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        sim.send_bytes("POST", "", newest.clone()).await.status,
        StatusCode::OK,
        "the newest again is no change"
    );

    let mut forged = newest.clone();
    *forged.last_mut().unwrap() ^= 1;
    let soon = ReleaseManifest { expires_ms: now_ms() - 1, ..manifest("1.2.0", 7, &binary) };
    let other = ReleaseManifest { product: "somebody's".into(), ..manifest("1.2.0", 7, &binary) };
    let cases = [
        (forged, 422, "has 0 valid signatures, needs 2"),
        (sign(&manifest("1.2.0", 7, &binary), [4, 4]), 422, "has 1 valid signatures, needs 2"),
        (sign(&manifest("1.2.0", 7, &binary), [4, 1]), 422, "which version 1 of the release keys does not list"),
        (sign(&manifest("1.2.0", 7, &binary), [4, 9]), 422, "which version 1 of the release keys does not list"),
        (sign(&soon, [4, 5]), 422, "expired"),
        (sign(&other, [4, 5]), 422, "not of bramble-agent"),
        (old, 409, "was published before"),
        (sign(&manifest("1.1.0", 7, &binary), [4, 5]), 409, "is published already with other contents"),
        (sign(&manifest("1.2.0", 6, &binary), [4, 5]), 409, "sequences only grow"),
        (sign(&manifest("1.2.0", 7, b"not here"), [4, 5]), 422, "send it first"),
        (vec![1, 2, 3], 422, "not a signed release manifest"),
        (vec![0xBB; 18_000], 413, "18000 bytes"),
    ];
    for (bytes, status, words) in &cases {
        let answer = sim.send_bytes("POST", "", bytes.clone()).await;
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(answer.status.as_u16() == *status && detail.contains(words), "{words}: {}", answer.body);
    }
    let events = sim.events("release.publish").await;
    let refused: Vec<_> = events.iter().filter(|e| e.starts_with("\"refused\"")).collect();
    // What is too large is not even read.
    assert_eq!(refused.len(), cases.len() - 1, "{events:?}");
    for (_, _, words) in &cases[..cases.len() - 1] {
        assert!(refused.iter().any(|e| e.contains(words)), "{words}: {refused:?}");
    }
    assert_eq!(sim.must("GET", "/api/v1/releases", None).await, before, "none of it changed anything");
}

#[tokio::test]
async fn a_binary_is_kept_whole_or_not_at_all_and_read_from_anywhere() {
    let sim = Sim::new();
    sim.ready().await;
    let binary = binary(3 * CHUNK_MAX as usize + 1234);
    let sha256 = Sha256::of(&binary);
    let path = format!("/blobs/{sha256}");
    let wrong = sim.send_bytes("PUT", &path, b"something else".to_vec()).await;
    assert_eq!(wrong.status.as_u16(), 422, "{}", wrong.body);
    let cut = stream::iter([Ok(Bytes::from(binary[..70_000].to_vec())), Err(std::io::Error::other("gone"))]);
    let broken = sim.send_bytes("PUT", &path, Body::from_stream(cut)).await;
    assert_eq!(broken.status.as_u16(), 400, "{}", broken.body);
    let mebibyte = Bytes::from(vec![0; 1 << 20]);
    let endless = stream::repeat_with(move || Ok::<_, std::io::Error>(mebibyte.clone())).take(140);
    let large = sim.send_bytes("PUT", &path, Body::from_stream(endless)).await;
    assert_eq!(large.status.as_u16(), 413, "{}", large.body);
    assert_eq!(sim.fetch(&sha256, "bytes=0-").await.0, StatusCode::NOT_FOUND, "nothing was kept");
    sim.store.fail_next([Fault::Before]);
    assert_eq!(sim.send_bytes("PUT", &path, binary.clone()).await.status.as_u16(), 503, "the store failed");
    assert_eq!(sim.fetch(&sha256, "bytes=0-").await.0, StatusCode::NOT_FOUND, "half of it is none");
    let left = std::fs::read_dir(sim.keys_dir().parent().unwrap()).unwrap();
    let left: Vec<_> =
        left.map(|e| e.unwrap().file_name()).filter(|n| n.to_string_lossy().contains("upload")).collect();
    assert!(left.is_empty(), "{left:?}");

    for _ in 0..2 {
        sim.upload(&binary).await;
    }
    let size = binary.len();
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=65535-65536", 65_535, 65_537),
        ("bytes=70000-", 70_000, size),
        ("bytes=-5", size - 5, size),
    ] {
        let (status, place, body) = sim.fetch(&sha256, range).await;
        assert_eq!((status.as_u16(), place), (206, format!("bytes {start}-{}/{size}", end - 1)), "{range}");
        assert!(body == binary[start..end], "{range}");
    }
    let (status, place, body) = sim.fetch(&sha256, "bytes=7-3").await;
    assert!((status.as_u16(), place.as_str()) == (200, "") && body == binary);
    let (status, place, _) = sim.fetch(&sha256, &format!("bytes={size}-")).await;
    assert_eq!((status.as_u16(), place), (416, format!("bytes */{size}")));
    let outcomes = sim.events("release-binary.upload").await;
    assert_eq!(outcomes.iter().filter(|o| o.starts_with("\"done\"")).count(), 2, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|o| o.starts_with("\"refused\"")).count(), 3, "{outcomes:?}");
}

#[tokio::test]
async fn of_two_coordinators_that_publish_one_sequence_only_one_does() {
    let (sim, _, binary) = Sim::published().await;
    let other = sim.another();
    other.ready().await;
    let all = ["2.0.0", "2.1.0"].map(|version| sign(&manifest(version, 7, &binary), [4, 5]));
    let (one, two) =
        tokio::join!(sim.send_bytes("POST", "", all[0].clone()), other.send_bytes("POST", "", all[1].clone()));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{} {}", one.body, two.body);
    // A race that is lost to somebody else's later release is judged again.
    let entry = sim.store.all(Bucket::Releases)["catalogue"].clone();
    sim.store.fail_next([Fault::Race(entry)]);
    let third = sim.send_bytes("POST", "", sign(&manifest("2.2.0", 8, &binary), [4, 5])).await;
    assert_eq!(third.status, StatusCode::OK, "{}", third.body);
    let done = sim.events("release.publish").await.iter().filter(|e| e.starts_with("\"done\"")).count();
    assert_eq!(done, 4, "one for each release");
}

#[tokio::test]
async fn active_devices_are_told_what_is_published() {
    let (sim, [old, newest], binary) = Sim::published().await;
    let pi = sim.device("pi-1", serde_json::json!({})).await;
    sim.until("it is known", |lens| lens.fleet.device(&pi.id).record.is_some()).await;
    let (sha256, digest) = (Sha256::of(&binary), Sha256::of(&newest));

    let all = ReleaseAnswer::Keys(vec![signed_keys()]);
    assert_eq!(sim.asked(&pi, ReleaseAsk::Keys { after: 0 }).await, all);
    assert_eq!(sim.asked(&pi, ReleaseAsk::Keys { after: 1 }).await, ReleaseAnswer::Keys(vec![]));
    assert_eq!(sim.asked(&pi, ReleaseAsk::Keys { after: u64::MAX }).await, ReleaseAnswer::Keys(vec![]));
    let manifest = sim.asked(&pi, ReleaseAsk::Manifest { manifest: digest }).await;
    assert_eq!(manifest, ReleaseAnswer::Manifest(newest.clone()));
    let absent = sim.asked(&pi, ReleaseAsk::Manifest { manifest: sha256 }).await;
    assert!(matches!(absent, ReleaseAnswer::Absent(_)), "{absent:?}");

    let ReleaseAnswer::Timestamp(stamp) = sim.asked(&pi, ReleaseAsk::Timestamp { manifest: digest }).await else {
        panic!("no timestamp");
    };
    let trust = sim.core.keys.trust_document();
    let stamp = ReleaseTimestamp::open(&stamp, &digest, now_ms(), |role, id| trust.key(role, id)).unwrap();
    assert_eq!((stamp.release_seq, stamp.keys_version, stamp.expires_ms - stamp.issued_ms), (6, 1, 86_400_000));

    let mut got = vec![];
    loop {
        let ask = ReleaseAsk::Chunk { sha256, offset: got.len() as u64, len: 50_000 };
        match sim.asked(&pi, ask).await {
            ReleaseAnswer::Chunk(bytes) if bytes.is_empty() => break,
            ReleaseAnswer::Chunk(bytes) => got.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    assert!(got == binary, "parts that straddle those of the store");
    let far = sim.asked(&pi, ReleaseAsk::Chunk { sha256, offset: u64::MAX, len: u32::MAX }).await;
    assert!(matches!(far, ReleaseAnswer::Absent(_)), "{far:?}");
    let ReleaseAnswer::Chunk(most) = sim.asked(&pi, ReleaseAsk::Chunk { sha256, offset: 1, len: u32::MAX }).await
    else {
        panic!("no chunk");
    };
    assert_eq!(most.len(), CHUNK_MAX as usize, "never more than a chunk");
    let stray = b"uploaded, and of no release";
    sim.upload(stray).await;
    let stray = sim.asked(&pi, ReleaseAsk::Chunk { sha256: Sha256::of(stray), offset: 0, len: 5 }).await;
    assert!(matches!(stray, ReleaseAnswer::Absent(_)), "{stray:?}");
    sim.store.go_down();
    let away = sim.asked(&pi, ReleaseAsk::Chunk { sha256, offset: 0, len: 5 }).await;
    assert!(matches!(away, ReleaseAnswer::Later(_)), "{away:?}");
    sim.store.come_back();
    sim.ready().await;

    // The signer of both is rotated out: neither is vouched for any more.
    let two = ReleaseKeys { version: 2, release: ring(&[4, 7, 8]), ..keys() };
    let next = two.sign(&[&key(1), &key(2)]).unwrap();
    assert_eq!(sim.send_bytes("PUT", "/keys", next).await.status, StatusCode::OK);
    for signed in [&old, &newest] {
        let ask = ReleaseAsk::Timestamp { manifest: Sha256::of(signed) };
        let answer = sim.asked(&pi, ask).await;
        assert!(matches!(&answer, ReleaseAnswer::Absent(why) if why.contains("version 2")), "{answer:?}");
    }
    assert_eq!(sim.must("GET", "/api/v1/releases/1.1.0", None).await["state"], "keys-changed");

    let because = serde_json::json!({ "reason": "stolen" });
    sim.must("POST", "/api/v1/devices/pi-1/quarantine", Some(because)).await;
    let no = sim.asked(&pi, ReleaseAsk::Keys { after: 0 }).await;
    assert_eq!(no, ReleaseAnswer::Absent("the device is quarantined".into()));
}
