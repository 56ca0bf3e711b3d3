//! The real program: keys and manifests where no network is, and publishing to a server that misbehaves on demand.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]
#![allow(dead_code, reason = "the server is shared with other tests, each uses its part")]

mod fake;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use fake::{Ended, Fake, bramble, ended, ok, problem};
use serde_json::{Value, json};

const TARGET: &str = "aarch64-unknown-linux-musl";

/// A folder without a coordinator.
struct Offline(tempfile::TempDir);

impl Offline {
    fn new() -> Self {
        let offline = Self(tempfile::tempdir().unwrap());
        let end = offline.run(&["keys", "init", "--out", "keys"]);
        assert_eq!(end.code, 0, "{}", end.err);
        fs::write(offline.path("agent"), b"a binary").unwrap();
        offline
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Ended {
        let mut command = bramble(self.0.path(), args);
        command.current_dir(self.0.path());
        ended(command, "")
    }

    /// The program must succeed; what it prints.
    fn ok(&self, args: &[&str]) -> String {
        let end = self.run(args);
        assert_eq!(end.code, 0, "{args:?}: {}{}", end.out, end.err);
        end.out
    }

    /// The program must end so; what it says.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let end = self.run(args);
        assert_eq!(end.code, code, "{args:?}: {}{}", end.out, end.err);
        end.err
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_made_once_for_their_owner_alone() {
    let offline = Offline::new();
    let mut names: Vec<String> = fs::read_dir(offline.path("keys"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
            entry.file_name().into_string().unwrap()
        })
        .collect();
    names.sort();
    let all =
        ["release-1.key", "release-2.key", "release-3.key", "release-keys", "root-1.key", "root-2.key", "root-3.key"];
    assert_eq!((names, mode(&offline.path("keys"))), (all.map(String::from).to_vec(), 0o700));
    let before = fs::read(offline.path("keys/root-1.key")).unwrap();
    assert!(offline.fails(5, &["keys", "init", "--out", "keys"]).contains("keys are made in a new folder"));
    assert!(offline.fails(5, &["keys", "new", "root", "--out", "keys/root-1.key"]).contains("not overwritten"));
    assert_eq!(fs::read(offline.path("keys/root-1.key")).unwrap(), before);
    let few = ["keys", "init", "--out", "few", "--root-keys", "1", "--root-threshold", "2"];
    assert!(offline.fails(2, &few).contains("2 of 1 root keys"));
    assert!(!offline.path("few").exists());
    assert_eq!(offline.run(&["keys", "init", "--out", "x", "--release-keys", "0"]).code, 2);
    let one = ["--root-keys", "1", "--root-threshold", "1", "--release-keys", "1", "--release-threshold", "1"];
    offline.ok(&[&["keys", "init", "--out", "one"][..], &one].concat());

    let secret = String::from_utf8(before).unwrap();
    let secret = secret.split("private = \"").nth(1).unwrap().split('"').next().unwrap();
    let shown = offline.ok(&["keys", "show", "keys/root-1.key"]);
    assert!(shown.contains("private root key") && !shown.contains(secret), "{shown}");
    let shown = offline.ok(&["keys", "show", "keys/release-keys"]);
    assert!(shown.contains("2 of 3 sign") && shown.contains("pin ") && shown.matches("valid").count() == 3, "{shown}");
}

#[test]
fn what_is_no_key_or_paper_is_said_by_name() {
    let offline = Offline::new();
    fs::write(offline.path("text"), "hello").unwrap();
    assert!(offline.fails(2, &["keys", "show", "text"]).contains("neither a signed file of release keys nor"));
    assert!(offline.fails(1, &["keys", "show", "nowhere"]).contains("cannot read nowhere"));
    let sign = |file: &str, key: &str| offline.run(&["keys", "sign", file, "--key", key]).err;
    assert!(sign("keys/release-keys", "text").contains("text is no private key"));
    assert!(sign("keys/release-keys", "keys/release-1.key").contains("is a release key, this is signed by root keys"));
    assert!(sign("keys/release-keys", "keys").contains("no private key"));
    fs::set_permissions(offline.path("keys/root-1.key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(sign("keys/release-keys", "keys/root-1.key").contains("others can read this private key"));
    let mut bytes = fs::read(offline.path("keys/release-keys")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(offline.path("altered"), bytes).unwrap();
    let shown = offline.run(&["keys", "show", "altered"]);
    assert!(shown.out.contains("INVALID") || shown.code != 0, "{}{}", shown.out, shown.err);
    assert_eq!(offline.run(&["keys", "rotate", "altered", "--out", "x", "--key", "keys/root-2.key"]).code, 2);
}

#[test]
fn keys_are_rotated_by_old_and_new_roots() {
    let offline = Offline::new();
    for (purpose, out) in [("root", "root-4.key"), ("release", "release-4.key")] {
        let public = offline.ok(&["keys", "new", purpose, "--out", out]);
        assert_eq!((public.trim().len(), mode(&offline.path(out))), (64, 0o600));
    }
    let id = |file: &str| {
        offline.ok(&["keys", "show", file]).split(' ').nth(3).unwrap().trim_end().lines().next().unwrap().to_owned()
    };
    let (gone, gone_root) = (id("keys/release-1.key"), id("keys/root-1.key"));
    let rotate =
        |more: &[&str]| offline.run(&[&["keys", "rotate", "keys/release-keys", "--out", "next"][..], more].concat());
    let refused = [
        (&["--key", "keys/root-2.key", "--remove", "0123456789abcdef"][..], 3, "lists no key 0123456789abcdef"),
        (&["--key", "keys/root-2.key", "--add-release", "root-4.key"], 2, "is a root key"),
        (&["--key", "keys/root-2.key", "--add-release", "keys/release-2.key"], 2, "is listed already"),
        (&["--key", "keys/root-2.key", "--release-threshold", "4"], 2, "ask for 4 release signatures"),
        (&["--key", "root-4.key"], 2, "is neither an old nor a new root"),
        (&["--key", "keys/release-1.key"], 2, "is a release key"),
    ];
    for (args, code, words) in refused {
        let end = rotate(args);
        assert!(end.code == code && end.err.contains(words), "{args:?}: {} {}", end.code, end.err);
        assert!(!offline.path("next").exists(), "{args:?}");
    }
    let swap =
        ["--remove", &gone, "--add-release", "release-4.key", "--remove", &gone_root, "--add-root", "root-4.key"];
    let end = rotate(&[&swap[..], &["--key", "keys/root-1.key", "--key", "root-4.key"]].concat());
    assert_eq!(end.code, 0, "{}", end.err);
    assert!(end.err.contains("1 more of the old") && end.err.contains("1 more of the new"), "{}", end.err);
    assert!(offline.fails(2, &["keys", "publish", "next"]).contains("1 valid signatures"));
    offline.ok(&["keys", "sign", "next", "--key", "keys/root-2.key"]);
    let shown = offline.ok(&["keys", "show", "next"]);
    assert!(
        shown.starts_with("release keys, version 2") && !shown.contains(&gone) && !shown.contains("pin"),
        "{shown}"
    );
    assert_eq!(shown.matches("  valid").count(), 2, "{shown}");
    assert!(
        offline
            .fails(5, &["keys", "rotate", "keys/release-keys", "--out", "next", "--key", "keys/root-2.key"])
            .contains("not overwritten")
    );
}

#[test]
fn a_manifest_is_made_and_signed_in_different_places() {
    let offline = Offline::new();
    let named = format!("{TARGET}=agent");
    let make =
        |more: &[&str]| offline.run(&[&["agent", "manifest", "--version", "1.2.3", "--out", "m"][..], more].concat());
    fs::write(offline.path("empty"), b"").unwrap();
    for (args, code, words) in [
        (&["--seq", "5", "agent"][..], 2, "does not say for which machines it is"),
        (&["--seq", "5", &named, &named], 2, "two binaries are for"),
        (&["--seq", "5", "empty"], 2, "empty is empty"),
        (&["--seq", "5", "gone"], 1, "cannot read gone"),
        (&["--seq", "5", "pi=agent"], 2, "target triple"),
        (&["--seq", "0", &named], 2, "sequence 0"),
        (&["--seq", "5", "--min-seq", "6", &named], 2, "least sequence of 6"),
        (&["--seq", "5", "--expires", "soon", &named], 2, "write 1y, 90d or 12h"),
        (&["--seq", "5", &named, "--key", "keys/root-1.key"], 2, "is a root key"),
    ] {
        let end = make(args);
        assert!(end.code == code && end.err.contains(words), "{args:?}: {} {}", end.code, end.err);
        assert!(!offline.path("m").exists(), "{args:?}");
    }
    let end = make(&["--seq", "5", &named]);
    assert!(end.code == 0 && end.err.contains("bramble keys sign m"), "{}", end.err);
    assert!(offline.ok(&["keys", "show", "m"]).contains("signed by nobody yet"));
    assert!(make(&["--seq", "6", &named]).err.contains("not overwritten"));
    offline.ok(&["keys", "sign", "m", "--key", "keys/release-1.key"]);
    let said = offline.ok(&["keys", "sign", "m", "--key", "keys/release-2.key"]);
    assert!(said.contains(&format!("release 1.2.3, sequence 5, for {TARGET}")), "{said}");
    let shown = offline.ok(&["keys", "show", "m", "--keys-file", "keys/release-keys"]);
    assert!(shown.contains("none below 1") && shown.matches("  valid").count() == 2, "{shown}");
    let json: Value = serde_json::from_str(&offline.ok(&["keys", "show", "m", "-o", "json"])).unwrap();
    assert_eq!((&json["product"], &json["releaseSeq"]), (&"bramble-agent".into(), &5.into()));
}

#[test]
fn a_program_that_runs_here_must_be_the_version_it_is_published_as() {
    let offline = Offline::new();
    // This very program runs here and is another product; it says itself for which machines it is.
    let this = env!("CARGO_BIN_EXE_bramble");
    let end = offline.run(&["agent", "manifest", "--version", "0.1.0", "--seq", "1", "--out", "m", this]);
    assert!(end.code == 2 && end.err.contains("is not bramble-agent 0.1.0: it says \"bramble "), "{}", end.err);
    let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
    let named = format!("{other}-unknown-linux-gnu={this}");
    let end = offline.run(&["agent", "manifest", "--version", "0.1.0", "--seq", "1", "--out", "m", &named]);
    assert!(end.code == 2 && end.err.contains("says itself that it is for"), "{}", end.err);
}

/// What a coordinator with these keys and releases answers; `blob` answers for binaries.
fn server(offline: &Offline, blob: impl Fn(&str, usize) -> fake::Answer + Send + Sync + 'static) -> Fake {
    let keys: Value = serde_json::from_str(&offline.ok(&["keys", "show", "keys/release-keys", "-o", "json"])).unwrap();
    let keys = json!({
        "version": 1, "pin": "00".repeat(32), "root": keys["root"], "release": keys["release"], "published": "",
        "publishedBy": "ann", "chain": [],
    });
    Fake::start(move |line, before| match line {
        "GET /api/v1/releases/keys" | "PUT /api/v1/releases/keys" => ok(&keys),
        "GET /api/v1/releases?limit=500" => ok(&json!({ "items": [], "nextCursor": null })),
        "POST /api/v1/releases" => ok(&json!({
            "version": "1.2.3", "releaseSeq": 1, "minSeq": 1, "state": "usable", "detail": "", "created": "",
            "expires": "", "published": "", "publishedBy": "ann", "signedBy": [], "artifacts": [],
            "manifest": "00".repeat(32), "signed": "",
        })),
        other => blob(other, before),
    })
}

fn publish(offline: &Offline, fake: &Fake, more: &[&str]) -> Ended {
    let named = format!("{TARGET}=agent");
    let args = ["agent", "publish", "--version", "1.2.3", "--keys-file", "keys/release-keys", &named];
    let mut command = fake.command(&[&args[..], more].concat());
    command.current_dir(offline.0.path());
    ended(command, "")
}

const TWO: [&str; 4] = ["--key", "keys/release-1.key", "--key", "keys/release-2.key"];

#[test]
fn binaries_come_before_the_manifest_and_are_sent_again_when_they_break_off() {
    let offline = Offline::new();
    let size = json!({ "sha256": "00".repeat(32), "size": 8 });
    let fake = server(&offline, move |line, before| match (line.split(' ').next().unwrap(), before) {
        ("HEAD", _) => problem(404, "not-found", "none", &json!([])),
        ("PUT", 0) => problem(503, "unavailable", "other binaries are coming in", &json!([])),
        _ => ok(&size),
    });
    let end = publish(&offline, &fake, &TWO);
    assert!(end.code == 0 && end.out.contains("release/1.2.3 published"), "{}{}", end.out, end.err);
    assert!(end.err.contains("sending it again"), "{}", end.err);
    let verbs: Vec<String> =
        fake.lines().iter().map(|l| l.split('?').next().unwrap().chars().take(28).collect()).collect();
    let [put, head] = ["PUT /api/v1/releases/blobs/", "HEAD /api/v1/releases/blobs/"];
    let tail: Vec<&str> = verbs.iter().rev().take(4).rev().map(String::as_str).collect();
    assert!(tail[0].starts_with(head) && tail[1].starts_with(put) && tail[2].starts_with(put), "{verbs:?}");
    assert_eq!(tail[3], "POST /api/v1/releases", "{verbs:?}");
}

#[test]
fn what_is_refused_is_not_tried_again_and_no_manifest_follows() {
    let offline = Offline::new();
    let fake = server(&offline, |line, _| match line.split(' ').next().unwrap() {
        "HEAD" => problem(404, "not-found", "none", &json!([])),
        _ => problem(422, "invalid", "what came has another digest: nothing was kept", &json!([])),
    });
    let end = publish(&offline, &fake, &TWO);
    assert!(end.code == 1 && end.err.contains("nothing was kept"), "{}", end.err);
    let lines = fake.lines();
    assert_eq!(lines.iter().filter(|l| l.starts_with("PUT /api/v1/releases/blobs/")).count(), 1, "{lines:?}");
    assert!(!lines.iter().any(|l| l.starts_with("POST")), "{lines:?}");

    // Without enough keys nothing is sent at all.
    let fake = server(&offline, |_, _| ok(&json!({})));
    let end = publish(&offline, &fake, &TWO[..2]);
    assert!(end.code == 2 && end.err.contains("has 1 valid signatures, needs 2"), "{}", end.err);
    assert!(!fake.lines().iter().any(|l| l.contains("blobs") || l.starts_with("POST")), "{:?}", fake.lines());
}
