//! The description of the API is true: a fuzzer that believes it finds no server error and no undocumented answer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::path::PathBuf;
use std::time::Duration;

use bramble_fleet_tests::clock::full;
use bramble_fleet_tests::{Fleet, manifest};
use xtask::paths;
use xtask::run::Cmd;

/// The fuzzer, from PyPI. Its version is part of what is tested: a newer one finds other things.
const FUZZER: &str = "schemathesis==4.32.5";

/// Where the fuzzer's packages lie, fetched on the first call into the cache; nothing of this machine's Python changes.
fn fuzzer() -> PathBuf {
    let dir = paths::cache().join(FUZZER.replace("==", "-"));
    if dir.join("schemathesis").is_dir() {
        return dir;
    }
    println!("Fetching {FUZZER} from PyPI into {}", dir.display());
    let work = dir.with_extension(format!("{}.part", std::process::id()));
    let pip = Cmd::new("python3").args(["-m", "pip", "install", "--quiet", "--no-warn-script-location", "--target"]);
    let pip = pip.arg(&work).arg(FUZZER).within(Duration::from_secs(600)).check();
    pip.unwrap_or_else(|err| panic!("cannot fetch {FUZZER}: {err}"));
    // Another test program may have been faster: then its copy counts.
    if std::fs::rename(&work, &dir).is_err() {
        std::fs::remove_dir_all(&work).unwrap();
    }
    dir
}

#[test]
fn a_fuzzer_that_believes_the_description_finds_nothing() {
    let packages = fuzzer();
    let fleet = Fleet::start("openapi");
    // Something to find: a device, a deployment, a token.
    let pi = fleet.device("pi-1");
    fleet.apply(&manifest::hello("web", fleet.port(), 1));
    fleet.settled("web", &pi);

    let config = fleet.case().dir().join("schemathesis.toml");
    let text = "headers = { Authorization = \"Bearer ${FUZZ_TOKEN}\", x-tenant-id = \"default\" }\n";
    std::fs::write(&config, text).unwrap();
    let seconds = if full() { 900 } else { 100 };
    let seed = fleet.case().dice().below(1 << 31).to_string();
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let cmd = Cmd::new("timeout")
        .args(["--signal", "INT", &(seconds * 2).to_string(), "python3", "-m", "schemathesis.cli", "--config-file"])
        .arg(&config)
        .args(["run", &format!("{}/api/v1/openapi.json", fleet.coordinator().url())])
        .args(["--checks", checks, "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-shrink"])
        .args(["--max-examples", if full() { "300" } else { "8" }, "--seed", &seed])
        // Not more workers: this Python cannot compile in two threads at once, and then tells of an error of its own.
        .args(["--request-timeout", "20", "--workers", "1", "--suppress-health-check", "all", "--warnings", "off"])
        .env("PYTHONPATH", &packages)
        .env("FUZZ_TOKEN", fleet.coordinator().admin_token())
        .env("NO_COLOR", "1")
        .dir(fleet.case().dir())
        .within(Duration::from_secs(seconds * 2 + 60));
    let output = cmd.output().unwrap_or_else(|err| panic!("{err}"));
    let log = fleet.case().logs().join("schemathesis.log");
    std::fs::write(&log, format!("{}\n{}", output.stdout, output.stderr)).unwrap();
    let tail: Vec<&str> = output.stdout.lines().collect();
    println!("{}", tail[tail.len().saturating_sub(30)..].join("\n"));
    assert!(output.status.success(), "the fuzzer found something:\n{}\n{}", output.stdout, output.stderr);

    // After all that the coordinator serves, and the log holds no panic and no secret.
    fleet.coordinator().ready();
    let log = fleet.coordinator().proc().log();
    assert!(!log.contains("panicked"), "{}", fleet.coordinator().proc().last_words());
    assert!(!log.contains(&fleet.coordinator().admin_token()), "the administrator's token is in the log");
}
