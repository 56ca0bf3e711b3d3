//! The rules of the house that no compiler checks. Each test names the file and the rule it breaks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a file before its tests.
const LINES_MAX: usize = 500;

/// What pure code does not know: files, sockets, clocks, processes.
const IMPURE: &[&str] = &[
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "std::process",
    "std::env",
    "tokio::",
    "async_nats",
    "reqwest",
    "hyper::",
    "nix::",
    "SystemTime",
    "Instant::now",
];

/// Which packages of ours each may use. What is not listed may use none.
const MAY_USE: &[(&str, &[&str])] = &[
    ("bramble-agent", &["bramble-contracts"]),
    ("bramble-coordinator", &["bramble-contracts"]),
    ("bramble-cli", &["bramble-contracts"]),
    ("bramble-bootstrap", &["bramble-contracts"]),
    ("bramble-images", &["bramble-contracts"]),
    ("bramble-initramfs", &["bramble-contracts"]),
    ("xtask", &["bramble-images"]),
    ("bramble-qemu-tests", &["bramble-contracts", "bramble-fleet-tests", "bramble-images", "xtask"]),
    ("bramble-contracts-fuzz", &["bramble-contracts"]),
    (
        "bramble-fleet-tests",
        &["bramble-agent", "bramble-cli", "bramble-contracts", "bramble-coordinator", "bramble-hello", "xtask"],
    ),
];

/// Libraries that do I/O: the contracts are only types.
const NOT_IN_CONTRACTS: &[&str] = &["tokio", "async-nats", "reqwest", "hyper", "nix", "axum", "rustls", "sysinfo"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().into()
}

/// All files of the tree with this ending, as paths from its root.
fn files(ending: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || ["target", ".git", ".bramble", "corpus", "artifacts"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                walk(&path, ending, found);
            } else if name.ends_with(ending) {
                found.push(path.strip_prefix(root()).unwrap().into());
            }
        }
    }
    let mut found = vec![];
    walk(&root(), ending, &mut found);
    found.sort();
    found
}

fn text(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// The part that runs in production.
fn before_tests(text: &str) -> &str {
    let end = ["#[cfg(test)]\nmod ", "#[cfg(test)]\npub mod "].iter().filter_map(|mark| text.find(mark)).min();
    &text[..end.unwrap_or(text.len())]
}

/// Lines without comments, where words are only mentioned.
fn code(text: &str) -> String {
    text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

fn none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let too_long = files(".rs").into_iter().filter_map(|file| {
        let lines = before_tests(&text(&file)).lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines before its tests; {LINES_MAX} at most", file.display()))
    });
    none(&too_long.collect::<Vec<_>>());
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = files(".rs").into_iter().filter(|file| !text(file).starts_with("//! "));
    none(&silent.map(|f| format!("{}: does not begin with `//!`", f.display())).collect::<Vec<_>>());
}

#[test]
fn pure_code_does_no_io() {
    let mut broken = vec![];
    for file in files(".rs") {
        let pure = file.components().any(|c| ["core", "domain"].contains(&c.as_os_str().to_string_lossy().as_ref()));
        let contracts = file.starts_with("contracts/src");
        if !pure && !contracts {
            continue;
        }
        let text = text(&file);
        let code = code(before_tests(&text));
        let words = IMPURE.iter().filter(|word| code.contains(**word));
        broken.extend(words.map(|word| format!("{}: {word} belongs at the edge", file.display())));
    }
    none(&broken);
}

#[test]
fn dependencies_point_one_way() {
    let mut broken = vec![];
    for (name, uses) in packages() {
        let allowed = MAY_USE.iter().find(|(package, _)| *package == name).map_or(&[][..], |(_, allowed)| allowed);
        let ours = uses.iter().filter(|used| used.starts_with("bramble-") || *used == "xtask");
        broken.extend(ours.filter(|o| !allowed.contains(&o.as_str())).map(|o| format!("{name} may not use {o}")));
    }
    none(&broken);
}

#[test]
fn contracts_are_only_types() {
    let packages = packages();
    let uses = &packages["bramble-contracts"];
    let broken: Vec<String> =
        NOT_IN_CONTRACTS.iter().filter(|n| uses.contains(**n)).map(|n| format!("contracts uses {n}")).collect();
    none(&broken);
}

/// The packages of the workspace, each with what it uses outside its tests.
fn packages() -> BTreeMap<String, BTreeSet<String>> {
    let manifests = files("Cargo.toml").into_iter().filter_map(|file| text(&file).parse::<toml::Table>().ok());
    manifests
        .filter_map(|manifest| {
            let name = manifest.get("package")?.get("name")?.as_str()?.to_string();
            let tables = ["dependencies", "build-dependencies"].into_iter().filter_map(|t| manifest.get(t)?.as_table());
            Some((name, tables.flat_map(|t| t.keys().cloned()).collect()))
        })
        .collect()
}

#[test]
fn every_dependency_has_a_reason() {
    let reasons = text(Path::new("docs/dependencies.md"));
    let manifest: toml::Table = text(Path::new("Cargo.toml")).parse().unwrap();
    let used: BTreeSet<String> = packages().into_values().flatten().collect();
    let shared = manifest["workspace"]["dependencies"].as_table().unwrap().keys();
    let missing = shared.filter(|n| used.contains(*n) && !n.starts_with("bramble-") && *n != "xtask");
    let missing = missing.filter(|name| !reasons.contains(&format!("`{name}`")));
    none(&missing.map(|name| format!("docs/dependencies.md gives no reason for {name}")).collect::<Vec<_>>());
}

#[test]
fn nothing_is_switched_off_or_left_for_later() {
    // Put together here, so that this file does not find itself.
    let words = [["#[ign", "ore"], ["tod", "o!("], ["unimplem", "ented!("], ["db", "g!("]].map(|w| w.concat());
    let mut broken = vec![];
    for file in files(".rs") {
        let code = code(&text(&file));
        broken.extend(words.iter().filter(|w| code.contains(*w)).map(|w| format!("{}: {w}", file.display())));
    }
    none(&broken);
}

#[test]
fn no_file_names_one_machine() {
    let mut places = vec![["/wo", "rk/"].concat()];
    places.extend(root().parent().map(|dir| format!("{}/", dir.display())).filter(|dir| dir.len() > 2));
    places.extend(std::env::var("HOME").ok().map(|home| format!("{home}/")).filter(|home| home.len() > 2));
    let mut broken = vec![];
    for ending in [".rs", ".toml", ".md", ".yaml", ".sh", ".service", "Containerfile"] {
        for file in files(ending) {
            let text = text(&file);
            let found = places.iter().filter(|place| text.contains(place.as_str()));
            broken.extend(found.map(|place| format!("{}: {place}", file.display())));
        }
    }
    none(&broken);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = vec![];
    for file in files(".md") {
        let text = text(&file);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !root().join(file.parent().unwrap()).join(path).exists() {
                broken.push(format!("{}: there is no {target}", file.display()));
            }
        }
    }
    none(&broken);
}
