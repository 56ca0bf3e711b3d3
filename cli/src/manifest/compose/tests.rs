//! Real files and what becomes of them, beside each other in `cli/tests/compose`: `X.yaml`, and `X.out` with what is
//! told and the deployment. `BLESS=1` writes the latter: read what it wrote. `X.env` is the file's `.env`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::super::{Document, Finding, judge, parse};
use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compose")
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

/// A file as it would be read beside its neighbours, with these variables set and `-l site=home` where it does not say
/// that it is without.
fn read(stem: &str, text: &str) -> (Vec<Document>, Vec<Finding>) {
    let read = |path: &str| {
        let name = if path == ".env" { format!("{stem}.env") } else { path.to_owned() };
        Ok(fs::read_to_string(folder().join(name)).ok())
    };
    let selector = Selector {
        match_labels: BTreeMap::from([("site".parse().unwrap(), "home".parse().unwrap())]),
        devices: vec![],
    };
    let says = text.contains("selector:") || text.starts_with("# no selector");
    let env = BTreeMap::from([("TZ".to_owned(), "Europe/Paris".to_owned())]);
    let beside = Beside { folder: Some("My_Folder".into()), env, read: &read, selector: (!says).then_some(selector) };
    parse(&format!("{stem}.yaml"), text, &beside)
}

/// Without what is not said: nothing, an empty list, an empty map.
fn pruned(value: Value) -> Value {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    match value {
        Value::Array(items) => items.into_iter().map(pruned).collect(),
        Value::Object(fields) => fields.into_iter().map(|(k, v)| (k, pruned(v))).filter(|(_, v)| !empty(v)).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

#[test]
fn real_files_become_what_is_beside_them() {
    let mut different = vec![];
    for file in files() {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let (documents, findings) = read(stem, &fs::read_to_string(&file).unwrap());
        let mut out: String = findings.iter().map(|told| format!("{told}\n")).collect();
        for document in documents {
            // Whatever is not built yet is another matter.
            let judged = judge(&document);
            out.extend(document.notes.iter().map(|told| format!("warning: {told}\n")));
            out.extend(judged.iter().map(|told| format!("{told}\n")));
            let manifest = pruned(serde_json::to_value(&document.manifest).unwrap());
            out += &crate::output::yaml(&manifest).unwrap();
        }
        let beside = file.with_extension("out");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&beside, &out).unwrap();
        } else if fs::read_to_string(&beside).unwrap_or_default() != out {
            different.push(format!("{}:\n{out}", beside.display()));
        }
    }
    assert!(different.is_empty(), "other than expected (BLESS=1 writes it):\n{}", different.join("\n"));
}

/// Every finding about a Compose file stands where the file says something, in the file's own words.
#[test]
fn every_finding_has_a_line_and_a_name_of_the_file() {
    let text = fs::read_to_string(folder().join("everything-wrong.yaml")).unwrap();
    let (_, findings) = read("everything-wrong", &text);
    assert!(findings.len() > 50, "{}", findings.len());
    for told in &findings {
        let line = text.lines().nth(told.line.unwrap() - 1).unwrap();
        let last = told.path.rsplit(['.', ' ']).next().unwrap().split('[').next().unwrap();
        assert!(line.contains(last) || told.path.contains('['), "{told} is not about {line:?}");
        assert!(!told.message.contains("spec."), "{told}");
    }
}

#[test]
fn a_path_of_the_manifest_is_told_in_the_words_of_the_file() {
    let text = fs::read_to_string(folder().join("telegraf.yaml")).unwrap();
    let (documents, findings) = read("telegraf", &text);
    assert_eq!(findings, vec![]);
    let told = |path: &str, message: &str| documents[0].at(path, message.to_owned()).to_string();
    let cases = [
        ("spec.containers[1].ports[0].host", "x", "telegraf.yaml:16: services.influxdb.ports[0]: x"),
        ("spec.containers[1].probe.exec", "x", "telegraf.yaml:20: services.influxdb.healthcheck: x"),
        ("spec.initContainers[0].args", "x", "telegraf.yaml:25: services.permissions.command: x"),
        ("spec.containers[0].env[0].value", "x", "telegraf.yaml:11: services.telegraf.environment.INFLUX_TOKEN: x"),
        ("spec.containers[0].resources", "x", "telegraf.yaml:4: services.telegraf: x"),
        ("spec.selector", "selects no device", "telegraf.yaml: --device or -l: selects no device"),
        (
            "spec.containers[0].dependsOn[0]",
            "as at spec.containers[1].ports[1].container",
            "telegraf.yaml:8: services.telegraf.depends_on.influxdb: as at services.influxdb.ports[1].container",
        ),
    ];
    for (path, message, want) in cases {
        assert_eq!(told(path, message), want, "{path}");
    }
}

#[test]
fn what_the_command_line_says() {
    let none = |_: &str| Ok(None);
    let beside = |folder: &str, selector: Option<Selector>| Beside {
        folder: Some(folder.into()),
        env: BTreeMap::new(),
        read: &none,
        selector,
    };
    let devices = Selector { match_labels: BTreeMap::new(), devices: vec!["pi-1".parse().unwrap()] };
    let plain = "services: { web: { image: nginx, restart: always } }\n";
    let (documents, _) = parse("compose.yaml", plain, &beside("Shop_1", Some(devices.clone())));
    assert_eq!(documents[0].manifest.metadata.name.as_str(), "shop-1");
    assert_eq!(documents[0].manifest.spec.selector, devices);
    let told = |text: &str, beside: &Beside<'_>| parse("compose.yaml", text, beside).1[0].to_string();
    let missing = told(plain, &beside("shop", None));
    assert!(
        missing.contains("x-bramble: {") && missing.contains("-l site=home") && missing.contains("--device pi-1"),
        "{missing}"
    );
    let both = told(
        &format!("x-bramble: {{ selector: {{ devices: [a] }} }}\n{plain}"),
        &beside("shop", Some(devices.clone())),
    );
    assert_eq!(
        both,
        "compose.yaml:1: x-bramble.selector: --device or -l says for which devices, too: leave one of them out"
    );
    let nameless = told(plain, &beside("…", Some(devices.clone())));
    assert!(nameless.ends_with("write `name: …` at the top"), "{nameless}");
    let native = "apiVersion: bramble/v1\nkind: Deployment\nmetadata: { name: w }\nspec: { selector: { devices: [a] }, containers: [{ name: a, image: a }] }\n";
    assert!(told(native, &beside("shop", Some(devices))).contains("--device and -l are for Compose files"));
}

#[test]
fn files_beside_that_cannot_be_read_are_named() {
    let read = |path: &str| match path {
        ".env" => Ok(Some("A=1\nB='".to_owned())),
        _ => Err("cannot be read: no".to_owned()),
    };
    let beside = Beside { folder: None, env: BTreeMap::new(), read: &read, selector: None };
    let (_, findings) = parse("c.yaml", "name: a\nservices: { web: { image: a, env_file: x.env } }\n", &beside);
    let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(told[0], "c.yaml:1: the file beside this one cannot be used: .env:2: the quote ' is not closed");
    assert!(told.contains(&"c.yaml:2: services.web.env_file: x.env cannot be read: no".to_owned()), "{told:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(2000))]
    /// Real files, broken at random: parts cut out, moved about, replaced.
    #[test]
    fn no_file_makes_it_panic(
        which in 0usize..100,
        edits in proptest::collection::vec((0.0f64..1.0, 0usize..12, "[-a-z0-9:\\[\\]{}$&*<|'\" \\n]{0,8}"), 0..6),
    ) {
        let files = files();
        let mut text: Vec<char> = fs::read_to_string(&files[which % files.len()]).unwrap().chars().collect();
        for (at, cut, put) in edits {
            let at = (text.len() as f64 * at) as usize;
            let end = (at + cut).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        let _ = read("nothing-beside", &text);
    }
}
