//! Binaries in a real broker: whole or not there, read from anywhere, over restarts, and given to a device by questions.

use bramble_contracts::{
    api::DeviceState,
    bytes::Sha256,
    envelope,
    id::Tenant,
    release::{Artifact, CHUNK_MAX, KeyRing, ReleaseAnswer, ReleaseAsk, ReleaseKeys, ReleaseManifest},
    signed::public_key,
    subjects::{self, Bucket, Up},
};
use bramble_coordinator::{
    background::{self, Core, Times, renew},
    domain::{
        record::{self, DeviceRecord},
        releases::{CATALOGUE, CatalogueRecord, KEYS, KeysRecord, Published},
    },
    store::{Expect, Store, blobs},
};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;
use std::{sync::Arc, time::Duration};

use crate::common::{Device, Fleet, Running, kill, until};

fn binary(len: usize) -> Vec<u8> {
    (0..len.div_ceil(32)).flat_map(|n| Sha256::of(&n.to_le_bytes()).0).take(len).collect()
}

async fn put(store: &dyn Store, binary: &[u8]) {
    let sha256 = Sha256::of(binary);
    for (n, part) in (0..).zip(binary.chunks(blobs::PART)) {
        store.put_blob_part(&sha256, n, Bytes::copy_from_slice(part)).await.unwrap();
    }
    store.seal_blob(&sha256, binary.len() as u64).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_is_read_from_anywhere_also_after_a_killed_broker() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let binary = binary(5 * blobs::PART + 77);
    let (sha256, size) = (Sha256::of(&binary), binary.len() as u64);
    assert_eq!(store.blob_size(&sha256).await.unwrap(), None);
    // A sender that dies in the middle leaves parts, and nothing that is whole.
    store.put_blob_part(&sha256, 0, Bytes::from_static(b"half a part")).await.unwrap();
    assert_eq!(store.blob_size(&sha256).await.unwrap(), None);
    assert_eq!(blobs::read(&store, &sha256, size, blobs::PART as u64, 5).await.unwrap(), None, "not there yet");
    put(&store, &binary).await;

    let read = async |offset: usize, len: usize| blobs::read(&store, &sha256, size, offset as u64, len).await.unwrap();
    let check = async || {
        for (offset, len) in [(0, 1), (blobs::PART - 3, 7), (100, 3 * blobs::PART), (5 * blobs::PART, 1000)] {
            let end = (offset + len).min(binary.len());
            assert!(read(offset, len).await.unwrap() == binary[offset..end], "{len} from {offset}");
        }
        assert_eq!(read(binary.len(), 10).await, Some(Bytes::new()), "at its end there is nothing more");
    };
    check().await;
    kill(&up.fleet);
    until("the broker is back with what it acknowledged", async || {
        store.blob_size(&sha256).await.is_ok_and(|there| there == Some(size))
    })
    .await;
    check().await;

    // The stream is what we say it is, and a part that is too large is refused by the broker itself.
    store.check().await.unwrap();
    let large = store.put_blob_part(&sha256, 9, Bytes::from(vec![0; blobs::PART + 2000])).await.unwrap_err();
    assert!(large.to_string().contains("message size exceeds"), "{large}");
    up.down().await;
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn ring(seeds: [u8; 2]) -> KeyRing {
    KeyRing { keys: seeds.map(|s| public_key(&key(s))).to_vec(), threshold: 2 }
}

/// A store with an active device and one release.
async fn publish(store: &dyn Store, device: &Device, binary: &[u8]) -> Vec<u8> {
    let device = DeviceRecord {
        id: device.id.clone(),
        tenant: Tenant::default(),
        name: "pi-1".parse().unwrap(),
        labels: Default::default(),
        state: DeviceState::Active,
        public_key: Some(device.key.public_key()),
        token: None,
        newest_document: 2,
        created_ms: 1,
        quarantine: None,
        hold: None,
    };
    let put_record = async |bucket, key: &str, bytes| store.put(bucket, key, bytes, Expect::Absent).await.unwrap();
    put_record(Bucket::Devices, device.id.as_str(), record::encode(&device)).await;
    let published = |signed| vec![Published { signed, at_ms: 1, by: "ann".into() }];
    let keys = ReleaseKeys { version: 1, root: ring([1, 2]), release: ring([4, 5]) };
    let chain = published(keys.sign(&[&key(1), &key(2)]).unwrap());
    put_record(Bucket::Releases, KEYS, record::encode(&KeysRecord { chain })).await;
    put(store, binary).await;
    let manifest = ReleaseManifest {
        product: ReleaseManifest::PRODUCT.into(),
        version: "1.0.0".parse().unwrap(),
        release_seq: 1,
        min_seq: 1,
        created_ms: 1,
        expires_ms: u64::MAX,
        artifacts: vec![Artifact {
            target: "aarch64-unknown-linux-musl".parse().unwrap(),
            size: binary.len() as u64,
            sha256: Sha256::of(binary),
        }],
    };
    let signed = manifest.sign(&[&key(4), &key(5)]).unwrap();
    put_record(Bucket::Releases, CATALOGUE, record::encode(&CatalogueRecord { releases: published(signed.clone()) }))
        .await;
    signed
}

async fn ask(device: &Device, ask: ReleaseAsk) -> ReleaseAnswer {
    let question = envelope::encode(&ask).unwrap();
    let answer = device.client.request(Up::Release.subject(&device.id), question.into()).await.unwrap();
    envelope::decode(&answer.payload).unwrap()
}

/// The coordinator's half that reads the store and answers.
async fn coordinate(up: &Running) -> Arc<Core> {
    let times = Times { heartbeat_timeout: Duration::from_secs(60), device_jwt: Duration::from_secs(3600) };
    let core = Core::new(Arc::new(up.store().await), Arc::clone(&up.keys), Arc::new(up.mesh.clone()), times);
    up.mesh.answer_devices(renew::answerer(&core)).await;
    tokio::spawn(background::run(Arc::clone(&core), up.mesh.device_links()));
    core
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_downloads_by_questions_and_reaches_nothing_else_of_it() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let device = up.device(1).await;
    let binary = binary(1_000_000);
    let signed = publish(&store, &device, &binary).await;
    let core = coordinate(&up).await;
    until("the index knows the whole", async || core.index.look(|lens| lens.fleet.known())).await;

    let digest = Sha256::of(&signed);
    assert_eq!(ask(&device, ReleaseAsk::Manifest { manifest: digest }).await, ReleaseAnswer::Manifest(signed));
    let keys = ask(&device, ReleaseAsk::Keys { after: 0 }).await;
    assert!(matches!(&keys, ReleaseAnswer::Keys(chain) if chain.len() == 1), "{keys:?}");
    let begun = tokio::time::Instant::now();
    let mut got: Vec<u8> = vec![];
    while got.len() < binary.len() {
        let question = ReleaseAsk::Chunk { sha256: Sha256::of(&binary), offset: got.len() as u64, len: CHUNK_MAX };
        match ask(&device, question).await {
            ReleaseAnswer::Chunk(bytes) => got.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    assert!(got == binary);
    println!("1 MB by questions, one after the other: {:?}", begun.elapsed());

    // Neither the stream nor its subjects are the device's to reach.
    for subject in [
        format!("$JS.API.DIRECT.GET.{}.{}", subjects::BLOBS_STREAM, "$O.releases.M.x"),
        format!("$JS.API.STREAM.MSG.GET.{}", subjects::BLOBS_STREAM),
        "$O.releases.M.x".to_owned(),
        Bucket::Releases.subject(CATALOGUE),
    ] {
        assert!(device.client.request(subject.clone(), Bytes::new()).await.is_err(), "{subject}");
    }
    let mut listens = device.client.subscribe("$O.>").await.unwrap();
    store.put_blob_part(&Sha256::of(b"x"), 0, Bytes::from_static(b"secret")).await.unwrap();
    device.client.flush().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), listens.next()).await.is_err(), "it hears nothing of it");
    up.down().await;
}
