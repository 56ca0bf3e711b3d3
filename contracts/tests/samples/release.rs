//! Full values of what releases are made of.

use bramble_contracts::{
    Generation,
    bytes::Sha256,
    release::{Artifact, KeyRing, ReleaseAnswer, ReleaseAsk, ReleaseKeys, ReleaseManifest, ReleaseTimestamp},
    signed::public_key,
    v1::{AgentVersion, Command, Status, Verb},
    v2::{self, AgentReport, AgentWish, UpgradePhase, UpgradeReport, UpgradeWord},
};

use super::{commands, desired, key, report};

pub const VERSION: AgentVersion = AgentVersion { major: 1, minor: 20, patch: 300 };

pub fn ring(seeds: &[u8], threshold: u8) -> KeyRing {
    KeyRing { keys: seeds.iter().map(|seed| public_key(&key(*seed))).collect(), threshold }
}

/// Roots 11 12 13, release keys 21 22 23; two of each sign.
pub fn keys() -> ReleaseKeys {
    ReleaseKeys { version: 1, root: ring(&[11, 12, 13], 2), release: ring(&[21, 22, 23], 2) }
}

pub fn keys_signed() -> Vec<u8> {
    keys().sign(&[&key(11), &key(13)]).unwrap()
}

pub fn release() -> ReleaseManifest {
    let artifact =
        |target: &str, size| Artifact { target: target.parse().unwrap(), size, sha256: Sha256::of(target.as_bytes()) };
    ReleaseManifest {
        product: ReleaseManifest::PRODUCT.into(),
        version: VERSION,
        release_seq: 7,
        min_seq: 3,
        created_ms: 1_790_000_000_000,
        expires_ms: 1_821_536_000_000,
        artifacts: vec![
            artifact("aarch64-unknown-linux-musl", 128 << 20),
            artifact("x86_64-unknown-linux-gnu", 9_000_000),
        ],
    }
}

pub fn release_signed() -> Vec<u8> {
    release().sign(&[&key(21), &key(22)]).unwrap()
}

pub fn timestamp() -> ReleaseTimestamp {
    ReleaseTimestamp {
        release_seq: 7,
        manifest: Sha256::of(&release_signed()),
        keys_version: 2,
        issued_ms: 1_790_000_000_000,
        expires_ms: 1_790_086_400_000,
    }
}

pub fn asks() -> Vec<ReleaseAsk> {
    let (manifest, sha256) = (Sha256::of(b"manifest"), Sha256::of(b"binary"));
    vec![
        ReleaseAsk::Keys { after: 1 },
        ReleaseAsk::Manifest { manifest },
        ReleaseAsk::Timestamp { manifest },
        ReleaseAsk::Chunk { sha256, offset: u64::MAX, len: 65_536 },
    ]
}

pub fn answers() -> Vec<ReleaseAnswer> {
    vec![
        ReleaseAnswer::Keys(vec![vec![0xBA, 0], vec![0xBA, 1]]),
        ReleaseAnswer::Manifest(vec![0xBB, 0]),
        ReleaseAnswer::Timestamp(vec![0xB8, 4]),
        ReleaseAnswer::Chunk(vec![0x7f, b'E', b'L', b'F']),
        ReleaseAnswer::Absent("withdrawn".into()),
        ReleaseAnswer::Later("recovering".into()),
    ]
}

/// A document that wishes a release.
pub fn wished() -> v2::DesiredDocument {
    let mut document = v2::DesiredDocument::from(desired());
    document.generation = Generation(8);
    document.agent = Some(AgentWish {
        version: VERSION,
        release_seq: 7,
        manifest: Sha256::of(&release_signed()),
        keys_pin: ReleaseKeys::pin(&keys_signed()).unwrap(),
        attempt: 2,
    });
    document
}

pub fn upgrade_commands() -> Vec<Command> {
    let words = [
        UpgradeWord::Confirm { release_seq: 7 },
        UpgradeWord::Retire,
        UpgradeWord::Abort { release_seq: 7, why: "it is rolled back".into() },
    ];
    let first = commands().remove(0);
    words.into_iter().map(|word| Command { verb: Verb::Upgrade(word), ..first.clone() }).collect()
}

/// In the middle of an upgrade.
pub fn report_upgrading() -> v2::Report {
    let mut report = report();
    report.newest_document = 2;
    report.program = AgentReport {
        target: Some("aarch64-unknown-linux-musl".parse().unwrap()),
        release_seq: 6,
        floor: 3,
        keys_version: 2,
        upgrade: Some(UpgradeReport {
            version: VERSION,
            manifest: Sha256::of(&release_signed()),
            attempt: 2,
            status: Status::RolledBack,
            phase: UpgradePhase::CutoverReady,
            reason: "the new agent ended with exit code 3".into(),
            blamed: true,
            bytes_got: 65_536,
            bytes_all: 128 << 20,
            took_ms: Some(61_000),
            unmanaged_ms: Some(420),
        }),
    };
    report
}
