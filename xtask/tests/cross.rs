//! The programs for aarch64 as they are sent to devices: what they are made of, and that each of them runs (by emulation
//! where this machine is no aarch64 itself). What they do on a booted Pi is the virtual Pi's matter.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use xtask::cross::{AGENT_BYTES_MAX, Programs, emulated, programs};
use xtask::run::Cmd;

fn built() -> &'static Programs {
    static BUILT: OnceLock<Programs> = OnceLock::new();
    BUILT.get_or_init(|| programs().unwrap_or_else(|err| panic!("{err:#}")))
}

fn says(program: &Path, args: &[&str]) -> String {
    emulated(program).args(args).check().unwrap_or_else(|err| panic!("{err}"))
}

#[test]
fn each_is_one_stripped_file_for_aarch64_that_needs_no_other() {
    for program in built().all() {
        let parts = Cmd::new("readelf").args(["--wide", "--file-header", "--segments", "--sections"]).arg(program);
        let parts = parts.check().unwrap();
        assert!(parts.contains("AArch64"), "{}: {parts}", program.display());
        for dynamic in ["INTERP", "DYNAMIC", ".symtab", ".debug_"] {
            assert!(!parts.contains(dynamic), "{} has {dynamic}: {parts}", program.display());
        }
    }
}

#[test]
fn the_agent_is_small_enough_to_be_sent_to_every_device() {
    let bytes = fs::metadata(&built().agent).unwrap().len();
    assert!(bytes <= AGENT_BYTES_MAX, "{bytes} bytes; {AGENT_BYTES_MAX} at most");
}

#[test]
fn none_holds_a_path_of_this_machine() {
    let home = std::env::var("HOME").unwrap();
    let checkout = xtask::paths::checkout().display().to_string();
    for program in built().all() {
        let bytes = fs::read(program).unwrap();
        // Words lie side by side: `/root` may be followed by another one's `/usr`. What compilers use in a home is hidden.
        for path in [format!("{home}/."), format!("{checkout}/")] {
            let found = bytes.windows(path.len()).any(|window| window == path.as_bytes());
            assert!(!found, "{} holds {path}", program.display());
        }
    }
}

#[test]
fn each_says_its_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(says(&built().agent, &["--version"]).trim(), format!("bramble-agent {version}"));
    assert_eq!(says(&built().bootstrap, &["--version"]).trim(), format!("bramble-bootstrap {version}"));
    assert_eq!(says(&built().bootguard, &["version"]).trim(), version);
}

#[test]
fn the_guard_decides() {
    let facts = |booted, phase| {
        let volumes = json!({"state": "snapshot", "phase": phase, "new-slot": "b", "attempt": 1, "returns": 0});
        let bounds =
            json!({"booted": booted, "tryboot": "clear", "autoboot": "a", "attempts-max": 3, "returns-max": 3});
        let mut facts = bounds;
        facts["volumes"] = volumes;
        facts.to_string()
    };
    let decide = |facts: &str| -> Value {
        serde_json::from_str(&says(&built().bootguard, &["decide", "--facts", facts])).unwrap()
    };
    assert_eq!(decide(&facts("a", "failed")), json!({"action": "merge-and-boot", "why": "judged-failed"}));
    assert_eq!(decide(&facts("a", "trial")), json!({"action": "rearm-tryboot"}));
    assert_eq!(decide("{}"), json!({"action": "wait-and-reboot", "secs": 600}));
}

/// Threads, files, sockets and other programs: all of the runtime takes part.
#[test]
fn the_agent_looks_at_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let (state, apps) = (place("state"), place("apps"));
    for folder in [&state, &apps] {
        fs::create_dir(folder).unwrap();
    }
    let settings = format!("coordinator = \"http://127.0.0.1:1\"\nstate_dir = \"{state}\"\napps_dir = \"{apps}\"\n");
    fs::write(dir.path().join("agent.toml"), settings).unwrap();
    let config = place("agent.toml");
    let output = emulated(&built().agent).args(["check", "--output", "json", "--config", &config]).output().unwrap();
    let suite: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|err| panic!("{err}: {output:?}"));
    let state_of = |what: &str| {
        let checks = suite["checks"].as_array().unwrap();
        let of = checks.iter().find(|one| one["check"]["what"] == what);
        of.unwrap_or_else(|| panic!("nothing of {what} in {suite}"))["state"].clone()
    };
    assert_eq!(state_of("kernel"), "passed");
    assert_eq!(state_of("disk of state"), "passed");
    // It is nobody's device yet, and says so.
    assert_eq!((output.status.code(), state_of("identity")), (Some(1), "failed".into()));
}
