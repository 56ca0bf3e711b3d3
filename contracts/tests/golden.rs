//! Frozen bytes. If one of these fails, do not edit the file: old devices and old stores hold such bytes.
//! Add a new version of the type instead. A new type's file is written once with `BRAMBLE_GOLDEN=write`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use std::{fmt::Debug, path::Path};

use bramble_contracts::{
    bytes::Sha256,
    envelope::{self, DecodeError, Message},
    release::{ReleaseKeys, ReleaseManifest, ReleaseTimestamp},
    signed::{self, Role, VerifyError},
    trust::TrustDocument,
    v1::{DesiredDocument, Manifest, SignedTime},
    v2, v3,
};
use serde::{Serialize, de::DeserializeOwned};

/// The frozen text, or with `BRAMBLE_GOLDEN=write` and no file yet, the text to freeze from now on.
fn frozen(file: &str, now: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    if !path.exists() && std::env::var("BRAMBLE_GOLDEN").is_ok_and(|v| v == "write") {
        std::fs::write(&path, format!("{now}\n")).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim_end().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    let text = data_encoding::HEXLOWER.encode(bytes);
    text.as_bytes().chunks(96).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>().join("\n")
}

fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.replace('\n', "").as_bytes()).unwrap()
}

fn wire<M: Message + PartialEq + Debug>(file: &str, value: &M) {
    let text = frozen(file, &hex(&envelope::encode(value).unwrap()));
    assert_eq!(text, hex(&envelope::encode(value).unwrap()), "{file}: today's bytes differ from the frozen ones");
    assert_eq!(&envelope::decode::<M>(&unhex(&text)).unwrap(), value, "{file}: the frozen bytes read differently");
}

fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(file: &str, value: &T) {
    let now = serde_json::to_string_pretty(value).unwrap();
    let text = frozen(file, &now);
    assert_eq!(text, now, "{file}");
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{file}");
}

#[test]
fn every_message_on_the_wire() {
    wire("v1/desired.hex", &samples::desired());
    wire("v1/heartbeat.hex", &samples::heartbeat());
    wire("v2/report.hex", &samples::report());
    wire("v2/report-waiting.hex", &samples::report_waiting());
    wire("v1/report.hex", &samples::report_v1());
    for command in samples::commands() {
        wire(&format!("v1/command-{}.hex", command.verb.name()), &command);
    }
    wire("v1/input.hex", &samples::input_v1());
    for input in samples::inputs() {
        wire(&format!("v2/input-{}.hex", input.counter), &input);
    }
    for frame in samples::frames() {
        wire(&format!("v1/frame-{}.hex", frame.seq), &frame);
    }
    wire("v1/trust.hex", &samples::trust());
    let (request, reply) = samples::renew();
    wire("v1/renew-request.hex", &request);
    wire("v1/renew-reply.hex", &reply);
    let (request, time) = samples::time();
    wire("v1/time-request.hex", &request);
    wire("v1/time.hex", &time);
}

#[test]
fn every_message_of_releases() {
    use samples::release;

    wire("v1/release-keys.hex", &release::keys());
    wire("v1/release-manifest.hex", &release::release());
    wire("v1/release-timestamp.hex", &release::timestamp());
    for (n, ask) in release::asks().iter().enumerate() {
        wire(&format!("v1/release-ask-{n}.hex"), ask);
    }
    for (n, answer) in release::answers().iter().enumerate() {
        wire(&format!("v1/release-answer-{n}.hex"), answer);
    }
    wire("v2/desired.hex", &release::wished());
    for (n, command) in release::upgrade_commands().iter().enumerate() {
        wire(&format!("v1/command-upgrade-{n}.hex"), command);
    }
    wire("v2/report-upgrade.hex", &release::report_upgrading());

    json("v1/release-keys.json", &release::keys());
    json("v1/release-manifest.json", &release::release());
    json("v2/desired.json", &release::wished());
    json("v2/report-upgrade.json", &release::report_upgrading());
}

#[test]
fn every_message_of_the_operating_system() {
    use samples::os;

    for (n, wished) in os::wished().iter().enumerate() {
        wire(&format!("v3/desired-{n}.hex"), wished);
        json(&format!("v3/desired-{n}.json"), wished);
    }
    wire("v3/report.hex", &os::report());
    json("v3/report.json", &os::report());
    let (asked, answered) = os::plan();
    wire("v3/command-os-plan.hex", &asked);
    wire("v3/frame-os-plan.hex", &answered);
}

#[test]
fn a_document_is_written_in_the_oldest_version_that_says_all() {
    use samples::release;

    let (fleet, trust) = (samples::key(2), samples::trust());
    let open = |bytes: &[u8]| signed::open(bytes, Role::Fleet, |role, id| trust.key(role, id));
    let plain = v3::DesiredDocument::from(samples::desired());
    let old = plain.sign(&fleet).unwrap();
    assert_eq!(hex(&old), frozen("v1/desired-signed.hex", ""), "an agent of version 1 reads it");
    assert_eq!(open(&old), Ok(plain));
    let wished = v3::DesiredDocument::from(release::wished());
    let new = wished.sign(&fleet).unwrap();
    assert_eq!(hex(&new), frozen("v2/desired-signed.hex", &hex(&new)));
    assert_eq!(open(&new), Ok(wished));
    let [os, _] = samples::os::wished();
    let newest = os.sign(&fleet).unwrap();
    assert_eq!(hex(&newest), frozen("v3/desired-signed.hex", &hex(&newest)));
    assert_eq!(open(&newest), Ok(os));
    let v1 = signed::open::<DesiredDocument>(&new, Role::Fleet, |role, id| trust.key(role, id));
    assert!(matches!(v1, Err(VerifyError::Contents(DecodeError::Future { got: 2, newest: 1, .. }))), "{v1:?}");
}

#[test]
fn signatures_of_releases() {
    use samples::release;

    let bytes = release::keys_signed();
    assert_eq!(hex(&bytes), frozen("v1/release-keys-signed.hex", &hex(&bytes)));
    let pin = ReleaseKeys::pin(&bytes).unwrap();
    assert_eq!(pin.to_string(), frozen("v1/release-keys-pin.txt", &pin.to_string()), "devices hold it for ever");
    assert_eq!(ReleaseKeys::open_pinned(&bytes, &pin), Ok(release::keys()));
    let bytes = release::release_signed();
    assert_eq!(hex(&bytes), frozen("v1/release-manifest-signed.hex", &hex(&bytes)));
    assert_eq!(ReleaseManifest::open(&bytes, &release::keys()), Ok(release::release()));
    let bytes = signed::sign(&release::timestamp(), Role::Time, &samples::key(4)).unwrap();
    assert_eq!(hex(&bytes), frozen("v1/release-timestamp-signed.hex", &hex(&bytes)));
    let trust = samples::trust();
    let (manifest, now_ms) = (Sha256::of(&release::release_signed()), release::timestamp().issued_ms);
    let opened = ReleaseTimestamp::open(&bytes, &manifest, now_ms, |role, id| trust.key(role, id));
    assert_eq!(opened, Ok(release::timestamp()));
}

#[test]
fn every_document_that_people_read() {
    let manifest: Manifest = samples::manifest();
    json("v1/manifest-full.json", &manifest);
    json("v2/report.json", &samples::report());
    json("v1/report.json", &samples::report_v1());
    json("v1/desired.json", &samples::desired());
    json("v1/trust.json", &samples::trust());
    json("v1/heartbeat.json", &samples::heartbeat());
}

#[test]
fn what_an_older_agent_says_is_read_as_the_newest() {
    let old = unhex(&frozen("v1/report.hex", ""));
    let read: v2::Report = envelope::decode(&old).unwrap();
    assert_eq!(read, samples::report_v1().into());
    assert_eq!((read.clock.verdict, read.apps[0].stages.len()), (v2::ClockVerdict::Unknown, 0));
}

#[test]
fn signatures() {
    let fleet = samples::key(2);
    let bytes = signed::sign(&samples::desired(), Role::Fleet, &fleet).unwrap();
    let text = frozen("v1/desired-signed.hex", &hex(&bytes));
    assert_eq!(text, hex(&bytes), "Ed25519 is deterministic: the same bytes for ever");
    let trust = samples::trust();
    let got = signed::open::<DesiredDocument>(&unhex(&text), Role::Fleet, |role, id| trust.key(role, id));
    assert_eq!(got.unwrap(), samples::desired());

    let (_, time) = samples::time();
    let bytes = signed::sign(&time, Role::Time, &samples::key(4)).unwrap();
    let text = frozen("v1/time-signed.hex", &hex(&bytes));
    let got = signed::open::<SignedTime>(&unhex(&text), Role::Time, |role, id| trust.key(role, id));
    assert_eq!(got.unwrap(), time);

    let root = samples::key(1);
    let bytes = trust.sign(&[&root]).unwrap();
    let text = frozen("v1/trust-signed.hex", &hex(&bytes));
    assert_eq!(TrustDocument::open_stored(&unhex(&text)).unwrap(), trust);
}

#[test]
fn spec_hash_is_frozen() {
    let hash = samples::deployment().spec_hash().to_string();
    assert_eq!(frozen("v1/spec-hash.txt", &hash), hash, "a new hash would replace every container of every fleet");
}

#[test]
fn a_heartbeat_at_its_largest_stays_within_40_bytes() {
    let size = envelope::encode(&samples::heartbeat()).unwrap().len();
    assert!(size <= 40, "{size} bytes");
}

#[test]
fn what_the_boot_guard_leaves() {
    json("v1/boot.json", &samples::boot());
}
