//! Bad manifests and what people are told about them, word for word.

use std::collections::BTreeMap;

use super::*;

const GOOD: &str = "\
apiVersion: bramble/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { site: paris } }
  containers:
    - name: web
      image: docker.io/library/nginx:1.27
      ports:
        - { host: 8080, container: 80 }
        - host: 8081
          container: 81
";

/// With nothing beside it and nothing on the command line.
fn parse(file: &str, text: &str) -> (Vec<Document>, Vec<Finding>) {
    let read = |_: &str| Ok(None);
    super::parse(file, text, &Beside { folder: None, env: BTreeMap::new(), read: &read, selector: None })
}

fn load(files: &[String], tenant: Option<&Tenant>) -> Result<Vec<Document>, Vec<Finding>> {
    super::load(files, &Said { tenant: tenant.cloned(), selector: None })
}

fn told(file: &str, text: &str) -> Vec<String> {
    let (documents, findings) = parse(file, text);
    let judged = documents.iter().flat_map(|d| judge(d).into_iter().chain(too_early(d)));
    findings.into_iter().chain(judged).map(|told| told.to_string()).collect()
}

#[test]
fn a_good_one_is_read() {
    let (documents, findings) = parse("web.yaml", GOOD);
    assert_eq!(findings, vec![]);
    assert_eq!(documents[0].manifest.spec.containers[0].ports[1].host, 8081);
}

#[test]
fn the_same_deployment_in_three_formats_is_the_same() {
    let toml = r#"
        apiVersion = "bramble/v1"
        kind = "Deployment"
        metadata.name = "web"
        [spec]
        selector.matchLabels.site = "paris"
        [[spec.containers]]
        name = "web"
        image = "docker.io/library/nginx:1.27"
        ports = [{ host = 8080, container = 80 }, { host = 8081, container = 81 }]
    "#;
    let json = serde_json::to_string_pretty(&yaml::read(GOOD).unwrap()[0].to_json()).unwrap();
    let want = parse("web.yaml", GOOD).0.remove(0).manifest;
    assert_eq!(parse("web.toml", toml).0.remove(0).manifest, want);
    assert_eq!(parse("web.json", &json).0.remove(0).manifest, want);
    assert_eq!(parse("standard input", &json).0.remove(0).manifest, want);
}

/// `GOOD` with one text replaced by another, and what is told about it.
#[test]
fn what_is_wrong_is_told_with_file_line_and_field() {
    let cases = [
        (
            "image: docker.io/library/nginx:1.27",
            "imagee: nginx",
            "web.yaml:8: spec.containers[0].imagee: unknown field `imagee`, expected one of `name`, `image`, `command`, `args`, `env`, `ports`, `volumes`, `resources`, `probe`, `restart`, `imagePullPolicy`, `pullSecret`, `dependsOn`",
        ),
        (
            "host: 8081",
            "host: http",
            "web.yaml:11: spec.containers[0].ports[1].host: invalid type: string \"http\", expected a number from 0 to 65535",
        ),
        (
            "host: 8081",
            "host: 80810",
            "web.yaml:11: spec.containers[0].ports[1].host: invalid value: integer `80810`, expected a number from 0 to 65535",
        ),
        (
            "host: 8081",
            "host: 8080",
            "web.yaml:11: spec.containers[0].ports[1].host: host port 8080 is used already, at spec.containers[0].ports[0]",
        ),
        (
            "site: paris",
            "site: 7",
            "web.yaml:5: spec.selector.matchLabels.site: invalid type: integer `7`, expected a string: put it in quotes",
        ),
        ("kind: Deployment", "kind: Deploymnt", "web.yaml:2: kind: unknown variant `Deploymnt`, expected `Deployment`"),
        (
            "name: web }",
            "name: Web }",
            "web.yaml:3: metadata.name: \"Web\" is not a valid name: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
        ),
        ("  selector: { matchLabels: { site: paris } }\n", "", "web.yaml:4: spec: missing field `selector`"),
        (
            "{ matchLabels: { site: paris } }",
            "{}",
            "web.yaml:5: spec.selector: selects nothing: give matchLabels or devices",
        ),
        (
            "- name: web\n",
            "- name: web\n      env: [{ name: A, valueFrom: { secret: { path: a, key: b } } }]\n",
            "web.yaml:8: spec.containers[0].env[0].valueFrom: a value from a secret does not exist in this version yet; leave it out",
        ),
        (
            "kind: Deployment",
            "kind: Deployment\nkind: Deployment",
            "web.yaml:3: `kind` is given twice, first on line 2",
        ),
    ];
    for (from, to, want) in cases {
        assert!(GOOD.contains(from), "{from}");
        assert_eq!(told("web.yaml", &GOOD.replacen(from, to, 1)), [want], "{to}");
    }
}

#[test]
fn lines_are_right_in_the_second_document_in_toml_and_in_json() {
    let second = format!("{GOOD}---\n{}", GOOD.replace("restart", "").replace("host: 8081", "host: x"));
    assert_eq!(
        told("web.yaml", &second),
        [
            "web.yaml:24: spec.containers[0].ports[1].host: invalid type: string \"x\", expected a number from 0 to 65535"
        ]
    );
    let toml = "apiVersion = \"bramble/v1\"\nkind = \"Deployment\"\nmetadata.name = \"web\"\n[spec]\nselector.devices = [\"pi-1\"]\n[[spec.containers]]\nname = \"a\"\nimage = \"b\"\nprobe = 3\n";
    assert_eq!(
        told("web.toml", toml),
        ["web.toml:9: spec.containers[0].probe: invalid type: integer `3`, expected a map of fields"]
    );
    let json = "{\n\"apiVersion\": \"bramble/v1\",\n\"kind\": \"Deployment\",\n\"metadata\": {\"name\": \"web\"},\n\"spec\": {\n\"selector\": {},\n\"containers\": []}}";
    assert_eq!(
        told("web.json", json),
        [
            "web.json:6: spec.selector: selects nothing: give matchLabels or devices",
            "web.json:7: spec.containers: at least one container is needed",
        ]
    );
}

#[test]
fn files_that_hold_something_else() {
    assert_eq!(told("a.yaml", "# nothing\n"), ["a.yaml: holds no deployment"]);
    assert_eq!(
        told("a.yaml", "just words\n"),
        ["a.yaml:1: invalid type: string \"just words\", expected a map of fields"]
    );
    let missing = load(&["no/such/file.yaml".into()], None).unwrap_err();
    assert_eq!(missing[0].to_string(), "no/such/file.yaml: cannot be read: No such file or directory (os error 2)");
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap().to_owned();
    assert_eq!(
        load(std::slice::from_ref(&dir), None).unwrap_err()[0].to_string(),
        format!("{dir}: is a directory: name the files in it")
    );
}

#[test]
fn the_same_name_twice_and_a_file_that_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yaml");
    std::fs::write(&file, format!("{GOOD}---\n{GOOD}")).unwrap();
    let name = file.to_str().unwrap().to_owned();
    let found = load(std::slice::from_ref(&name), None).unwrap_err();
    assert_eq!(found[0].to_string(), format!("{name}:16: metadata.name: deployment web is given already, at {name}:1"));
    let acme = "acme".parse().unwrap();
    std::fs::write(&file, format!("{GOOD}---\n{}", GOOD.replace("name: web }", "name: web, tenant: acme }"))).unwrap();
    assert_eq!(load(std::slice::from_ref(&name), None).unwrap().len(), 2, "of two tenants");
    let found = load(std::slice::from_ref(&name), Some(&acme)).unwrap_err();
    assert!(found[0].to_string().contains(":16: metadata.name: deployment web is given already"), "{found:?}");
    let found = load(std::slice::from_ref(&name), Some(&"other".parse().unwrap())).unwrap_err();
    assert!(found[0].to_string().contains(":16: metadata.tenant: is acme, but --tenant"), "{found:?}");
    std::fs::write(&file, "#".repeat(2 << 20)).unwrap();
    let found = load(std::slice::from_ref(&name), None).unwrap_err();
    assert_eq!(found[0].to_string(), format!("{name}: is larger than 1048576 bytes: split it"));
}

#[test]
fn dependencies_are_sent_first_and_a_circle_as_it_was_given() {
    let sent = |given: &[(&str, &[&str])]| {
        let one = |(name, after): &(&str, &[&str])| {
            let after: Vec<String> = after.iter().map(|n| format!("{{ name: {n} }}")).collect();
            format!("{}  dependsOn: [{}]\n", GOOD.replace("name: web }", &format!("name: {name} }}")), after.join(", "))
        };
        let text = given.iter().map(one).collect::<Vec<_>>().join("---\n");
        let (documents, findings) = parse("all.yaml", &text);
        assert_eq!(findings, vec![]);
        let sorted = order::by_dependencies(documents);
        sorted.iter().map(|d| d.manifest.metadata.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(sent(&[("b", &[]), ("a", &[])]), ["b", "a"]);
    assert_eq!(
        sent(&[("web", &["db", "other"]), ("free", &[]), ("db", &["disk"]), ("disk", &[])]),
        ["free", "disk", "db", "web"]
    );
    assert_eq!(sent(&[("b", &["a"]), ("a", &["b"]), ("c", &[])]), ["c", "b", "a"]);
}

#[test]
fn dependencies_that_can_never_be_met_are_named_with_their_line() {
    let text = GOOD.replace(
        "      ports:\n",
        "      dependsOn:\n        - name: db\n        - name: web\n          condition: healthy\n      ports:\n",
    );
    assert_eq!(
        told("web.yaml", &text),
        [
            "web.yaml:10: spec.containers[0].dependsOn[0].name: the deployment has no container db; it has no other one",
            "web.yaml:11: spec.containers[0].dependsOn[1].name: a container cannot wait for itself: leave it out",
        ]
    );
}
