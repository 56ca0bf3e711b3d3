//! Releases of the agent over the real command line, API and broker: keys made offline, published, and every manifest
//! that is not the next genuine one refused with its own error and an event.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::api::{AuditEvent, Outcome, ReleaseKeysView, ReleaseState, ReleaseView};
use bramble_contracts::bytes::Sha256;
use bramble_contracts::problem::{Code, Problem};
use bramble_fleet_tests::programs::programs;
use bramble_fleet_tests::{Fleet, cli::Bramble};
use data_encoding::BASE64;

const TARGET: &str = "aarch64-unknown-linux-musl";

/// A folder with keys, and the command line.
struct Office {
    fleet: Fleet,
    bramble: Bramble,
    dir: PathBuf,
}

impl Office {
    /// Two fleets' keys lie in `keys` and `others`; nothing is published.
    fn open(name: &str) -> Self {
        let fleet = Fleet::start(name);
        let (bramble, dir) = (fleet.bramble(), fleet.case().dir().to_owned());
        let office = Self { fleet, bramble, dir };
        for keys in ["keys", "others"] {
            let said = office.bramble.run(&["keys", "init", "--out", &office.path(keys)]);
            assert!(said.code == 0 && said.err.contains("a medium of its own"), "{said:?}");
        }
        office
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A binary of `len` bytes that are nowhere alike, as `TARGET=PATH`.
    fn binary(&self, name: &str, len: usize) -> String {
        let bytes: Vec<u8> =
            (0..len.div_ceil(32)).flat_map(|n| Sha256::of(format!("{name} {n}").as_bytes()).0).collect();
        std::fs::write(self.dir.join(name), &bytes[..len]).unwrap();
        format!("{TARGET}={}", self.path(name))
    }

    fn publish(&self, version: &str, binary: &str) -> String {
        let [keys, one, two] = ["keys/release-keys", "keys/release-1.key", "keys/release-3.key"].map(|f| self.path(f));
        let args =
            ["agent", "publish", "--keys-file", &keys, "--key", &one, "--key", &two, "--version", version, binary];
        self.bramble.ok(&args)
    }

    /// A signed manifest that was not published.
    fn manifest(&self, version: &str, seq: u64, expires: &str, keys: [&str; 2], binary: &str) -> Vec<u8> {
        let out = self.path(&format!("manifest-{version}-{seq}-{expires}-{}", keys.concat().replace('/', "-")));
        let (seq, keys) = (seq.to_string(), keys.map(|key| self.path(key)));
        let mut args =
            vec!["agent", "manifest", "--version", version, "--seq", &seq, "--expires", expires, "--out", &out];
        args.push(binary);
        self.bramble.ok(&args);
        for key in &keys {
            self.bramble.ok(&["keys", "sign", &out, "--key", key]);
        }
        std::fs::read(out).unwrap()
    }

    fn refused(&self, manifest: Vec<u8>) -> (u16, Code, String) {
        let answer = self.fleet.api().ask_bytes("POST", "/api/v1/releases", manifest).unwrap();
        let problem: Problem = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
        (answer.status, problem.code, problem.detail)
    }

    fn releases(&self) -> Vec<ReleaseView> {
        serde_json::from_value(self.bramble.json(&["get", "releases"])["items"].take()).unwrap()
    }

    fn events(&self, action: &str) -> Vec<AuditEvent> {
        self.fleet.audit().into_iter().filter(|event| event.action == action).collect()
    }
}

#[test]
fn a_release_is_published_once_and_seen() {
    let office = Office::open("releases");
    let (fleet, bramble) = (&office.fleet, &office.bramble);
    assert!(bramble.ok(&["get", "releases"]).is_empty());
    assert!(bramble.fails(3, &["keys", "show"]).contains("bramble keys init"));
    let small = office.binary("small", 300_000);

    // What is wrong is said before anything is sent.
    let (one, root) = (office.path("keys/release-1.key"), office.path("keys/root-1.key"));
    let said = bramble.fails(3, &["agent", "publish", "--key", &one, "--version", "1.0.0", &small]);
    assert!(said.contains("give --keys-file"), "{said}");
    let keys = office.path("keys/release-keys");
    let with = ["agent", "publish", "--keys-file", &keys, "--version", "1.0.0", &small, "--key"];
    assert!(bramble.fails(2, &[&with[..], &[&root]].concat()).contains("is a root key"));
    let said = bramble.fails(2, &[&with[..], &[&one]].concat());
    assert!(said.contains("has 1 valid signatures, needs 2"), "{said}");
    assert!(office.events("release-binary.upload").is_empty(), "nothing was sent");

    let said = office.publish("1.0.0", &small);
    assert!(said.contains("release/1.0.0 published: sequence 1, 1 binaries (292 KiB)"), "{said}");
    assert!(office.publish("1.0.0", &small).contains("release/1.0.0 unchanged"));
    // This very agent: it says itself for which machines it is, and which version it has.
    let agent = programs().agent.display().to_string();
    let [keys, one, two] = ["keys/release-keys", "keys/release-1.key", "keys/release-2.key"].map(|f| office.path(f));
    let publish = ["agent", "publish", "--keys-file", &keys, "--key", &one, "--key", &two, &agent, "--version"];
    let said = bramble.fails(2, &[&publish[..], &["7.7.7"]].concat());
    assert!(said.contains("is not bramble-agent 7.7.7: it says \"bramble-agent"), "{said}");
    let version = env!("CARGO_PKG_VERSION");
    let said = bramble.ok(&[&publish[..], &[version]].concat());
    assert!(said.contains(&format!("release/{version} published: sequence 2")), "{said}");

    let releases = office.releases();
    assert_eq!(
        releases.iter().map(|r| (r.release_seq, r.state)).collect::<Vec<_>>(),
        [(1, ReleaseState::Usable), (2, ReleaseState::Usable)]
    );
    let target = releases[1].artifacts[0].target.as_str();
    assert!(target.starts_with(std::env::consts::ARCH) && target.ends_with("-unknown-linux-gnu"), "{target}");
    let described = bramble.ok(&["describe", "release", version]);
    let digest = releases[1].artifacts[0].sha256;
    assert!(described.contains(target) && described.contains(&digest.to_string()), "{described}");
    let other = format!("{TARGET}={}", office.path("keys/release-keys"));
    let said = bramble.fails(5, &["agent", "publish", "--key", &one, "--key", &two, "--version", "1.0.0", &other]);
    assert!(said.contains("is published already with other contents"), "{said}");

    // From anywhere within it, and only for who may.
    let path = format!("/api/v1/releases/blobs/{digest}");
    let whole = std::fs::read(&agent).unwrap();
    let (status, rest) = fleet.api().part(&path, "bytes=1000000-").unwrap();
    assert!(status == 206 && rest == whole[1_000_000..], "{status}, {} bytes", rest.len());
    assert_eq!(fleet.api().with_token("").part(&path, "bytes=0-1").unwrap().0, 401);
    assert_eq!(fleet.api().part(&path, &format!("bytes={}-", whole.len())).unwrap().0, 416);

    let done: Vec<String> =
        office.fleet.audit().iter().filter(|e| e.outcome == Outcome::Done).map(|e| e.object.clone()).collect();
    for object in ["release-keys/1", "release/1.0.0", &format!("release/{version}")] {
        assert_eq!(done.iter().filter(|o| *o == object).count(), 1, "{object}: {done:?}");
    }
    for (file, marker) in [(one, "private = \""), (root, "private = \"")] {
        let text = std::fs::read_to_string(file).unwrap();
        let secret = text.split(marker).nth(1).unwrap().split('"').next().unwrap();
        assert!(!fleet.coordinator().proc().log().contains(secret), "a private key is in the coordinator's log");
    }
}

#[test]
fn forged_replayed_expired_mixed_and_rolled_back_manifests_are_refused() {
    let office = Office::open("forged-releases");
    let binary = office.binary("agent", 100_000);
    office.publish("1.0.0", &binary);
    office.publish("1.1.0", &binary);
    let before = office.releases();
    let ours = ["keys/release-1.key", "keys/release-2.key"];
    let genuine = office.manifest("1.2.0", 3, "1y", ours, &binary);
    let flipped = |at: usize| {
        let mut bytes = genuine.clone();
        bytes[at] ^= 1;
        bytes
    };
    let unpublished = office.binary("elsewhere", 10);
    let cases = [
        ("forged contents", flipped(genuine.len() - 40), 422, "has 0 valid signatures, needs 2"),
        ("forged signature", flipped(2 + 20), 422, "has 1 valid signatures, needs 2"),
        (
            "signed by one",
            office.manifest("1.2.0", 3, "2y", [ours[0]; 2], &binary),
            422,
            "has 1 valid signatures, needs 2",
        ),
        (
            "signed by others",
            office.manifest("1.2.0", 3, "3y", ["others/release-1.key", "others/release-2.key"], &binary),
            422,
            "does not list",
        ),
        (
            "mixed keys",
            office.manifest("1.2.0", 3, "4y", [ours[0], "others/release-1.key"], &binary),
            422,
            "does not list",
        ),
        ("expired", office.manifest("1.2.0", 3, "1ms", ours, &binary), 422, "expired"),
        ("replayed", BASE64.decode(before[0].signed.as_bytes()).unwrap(), 409, "was published before"),
        (
            "version taken",
            office.manifest("1.1.0", 3, "1y", ours, &binary),
            409,
            "published already with other contents",
        ),
        ("rolled back", office.manifest("1.2.0", 2, "1y", ours, &binary), 409, "sequences only grow"),
        ("no binary", office.manifest("1.2.0", 3, "5y", ours, &unpublished), 422, "send it first"),
        ("no manifest", std::fs::read(office.path("keys/release-keys")).unwrap(), 422, "not a signed release manifest"),
    ];
    let mut told = std::collections::BTreeSet::new();
    for (what, manifest, status, words) in cases {
        let (got, code, detail) = office.refused(manifest);
        let want = if status == 409 { Code::Conflict } else { Code::Invalid };
        assert!(got == status && code == want && detail.contains(words), "{what}: {got} {code:?} {detail}");
        let events = office.events("release.publish");
        let newest = &events[0];
        assert_eq!((newest.outcome, &newest.detail), (Outcome::Refused, &detail), "{what}");
        told.insert(detail);
    }
    assert!(told.len() >= 9, "each has words of its own: {told:?}");
    assert_eq!(office.releases(), before, "none of it changed anything");
    // A manifest that is refused by the coordinator is refused here, too, before anything is sent.
    let file = office.path("forged");
    std::fs::write(&file, flipped(genuine.len() - 40)).unwrap();
    let said = office.bramble.fails(2, &["agent", "publish", "--manifest", &file, &binary]);
    assert!(said.contains("valid signatures") || said.contains("forged"), "{said}");
    // And the genuine one is taken, signed elsewhere.
    std::fs::write(&file, &genuine).unwrap();
    let said = office.bramble.ok(&["agent", "publish", "--manifest", &file, &binary]);
    assert!(said.contains("release/1.2.0 published: sequence 3"), "{said}");
}

#[test]
fn rotated_keys_are_taken_in_order_and_take_releases_back() {
    let office = Office::open("rotated-releases");
    let (bramble, binary) = (&office.bramble, office.binary("agent", 1000));
    office.publish("1.0.0", &binary);
    let [keys, new, next] = ["keys/release-keys", "release-4.key", "release-keys-2"].map(|f| office.path(f));
    bramble.ok(&["keys", "new", "release", "--out", &new]);
    let shown: ReleaseKeysView = serde_json::from_value(bramble.json(&["keys", "show"])).unwrap();
    let lost = bramble_contracts::bytes::key_id(&shown.release.keys[0]).to_string();
    let root = |n: u8| office.path(&format!("keys/root-{n}.key"));
    let rotate = ["keys", "rotate", &keys, "--out", &next, "--remove", &lost, "--add-release", &new, "--key", &root(1)];
    let said = bramble.run(&rotate);
    assert!(said.code == 0 && said.err.contains("1 more of the old root keys must sign it"), "{said:?}");
    assert!(bramble.fails(2, &["keys", "publish", &next]).contains("1 valid signatures"));
    bramble.ok(&["keys", "sign", &next, "--key", &root(2)]);
    bramble.ok(&["keys", "publish", &next]);
    let said = bramble.fails(5, &["keys", "publish", &keys]);
    assert!(said.contains("they were sent again"), "{said}");
    let others = office.path("others/release-keys");
    let said = bramble.fails(1, &["keys", "publish", &others]);
    assert!(said.contains("0 valid signatures by the old root keys"), "somebody else's: {said}");
    let after: ReleaseKeysView = serde_json::from_value(bramble.json(&["keys", "show"])).unwrap();
    assert_eq!((after.version, after.pin, after.chain.len()), (2, shown.pin, 2));
    // The lost key had signed it.
    let [release] = &office.releases()[..] else { panic!("one release") };
    assert_eq!(release.state, ReleaseState::KeysChanged, "{release:?}");
    let [two, four] = ["keys/release-2.key", "release-4.key"].map(|f| office.path(f));
    let said = bramble.ok(&["agent", "publish", "--key", &two, "--key", &four, "--version", "1.0.1", &binary]);
    assert!(said.contains("release/1.0.1 published: sequence 2"), "{said}");
    let lost = office.path("keys/release-1.key");
    let said = bramble.fails(2, &["agent", "publish", "--key", &two, "--key", &lost, "--version", "1.0.2", &binary]);
    assert!(said.contains("which version 2 of the release keys does not list"), "{said}");
}

/// Sends the head of an upload and half of its body, and leaves it there.
fn half_an_upload(office: &Office, file: &Path) -> TcpStream {
    let bytes = std::fs::read(file).unwrap();
    let base = office.fleet.api().base().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(base).unwrap();
    let head = format!(
        "PUT /api/v1/releases/blobs/{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        Sha256::of(&bytes),
        office.fleet.coordinator().admin_token(),
        bytes.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&bytes[..bytes.len() / 2]).unwrap();
    stream
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing_and_is_begun_again() {
    let office = Office::open("cut-releases");
    let coordinator = office.fleet.coordinator();
    let binary = office.binary("agent", 3_000_000);
    let file = office.dir.join("agent");
    let path = format!("/api/v1/releases/blobs/{}", Sha256::of(&std::fs::read(&file).unwrap()));

    let mut stream = half_an_upload(&office, &file);
    let begun = || office.events("release-binary.upload").into_iter().any(|e| e.outcome == Outcome::Intent);
    bramble_fleet_tests::clock::wait_until("the upload has begun", Duration::from_secs(20), || {
        if begun() { Ok(()) } else { Err("no intent".to_owned()) }
    });
    coordinator.proc().kill();
    let mut rest = vec![];
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "no answer: {}", String::from_utf8_lossy(&rest));
    coordinator.start();
    assert_eq!(office.fleet.api().part(&path, "bytes=0-").unwrap().0, 404, "half a binary is none");
    let spooled = || {
        std::fs::read_dir(coordinator.state())
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with("upload-"))
    };
    assert!(!spooled(), "nothing is left on the disk");

    assert!(office.publish("1.0.0", &binary).contains("published"));
    // What is published survives the coordinator and the broker.
    coordinator.proc().kill();
    coordinator.start();
    let (status, bytes) = office.fleet.api().part(&path, "bytes=2000000-").unwrap();
    assert!(status == 206 && bytes == std::fs::read(&file).unwrap()[2_000_000..]);
    assert_eq!(office.releases().len(), 1);
}
