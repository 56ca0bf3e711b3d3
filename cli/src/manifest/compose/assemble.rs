//! The parts of a file, read and sorted, into one manifest, and where each part of that stands in the file.

use std::collections::BTreeMap;

use bramble_contracts::{
    quantity::Millis,
    v1::{
        Container, Dependency, Deployment, DeploymentSpec, EnvVar, InitContainer, Manifest, Metadata, Restart,
        VolumeMount,
    },
};

use super::{
    Beside,
    cursor::{At, Findings},
    project::{self, Extension},
    service::{Placed, Policy, Service},
};
use crate::manifest::places::Place;

/// Where each part of the manifest stands.
pub(super) type Places = BTreeMap<String, Place>;

/// What the manifest is made of.
pub(super) struct Parts<'a, 'n> {
    pub root: &'a At<'n>,
    pub name: Option<bramble_contracts::Name>,
    pub extension: Extension,
    pub inits: Vec<&'a Service<'n>>,
    pub mains: Vec<&'a Service<'n>>,
}

/// The manifest, if nothing of it is missing.
pub(super) fn manifest(parts: Parts<'_, '_>, beside: &Beside<'_>, f: &mut Findings) -> (Option<Manifest>, Places) {
    let Parts { root, name, extension, inits, mains } = parts;
    let mut places = Places::new();
    let lifecycle = project::lifecycle(&mains, &extension, f);
    let selector = selector(root, &extension, beside, &mut places, f);
    of_the_file(root, &mains, &mut places);
    let first: Vec<&str> = inits.iter().map(|s| s.key).collect();
    let init_containers = inits.iter().enumerate().map(|(i, s)| init(i, s, &mut places, f)).collect::<Vec<_>>();
    let containers = mains.iter().enumerate().map(|(i, s)| main(i, s, &first, &mut places, f)).collect::<Vec<_>>();
    let whole = || {
        let spec = DeploymentSpec {
            selector: selector?,
            init_containers: init_containers.into_iter().collect::<Option<_>>()?,
            containers: containers.into_iter().collect::<Option<_>>()?,
            lifecycle,
            rollout: extension.rollout,
            host_network: mains.iter().any(|s| s.host_network.is_some()),
            depends_on: extension.depends_on,
        };
        let metadata = Metadata { name: name?, tenant: extension.tenant.unwrap_or_default(), labels: extension.labels };
        Some(Manifest::from(Deployment { metadata, spec }))
    };
    (whole(), places)
}

fn selector(
    root: &At<'_>,
    extension: &Extension,
    beside: &Beside<'_>,
    places: &mut Places,
    f: &mut Findings,
) -> Option<bramble_contracts::label::Selector> {
    let said = root.get("x-bramble").and_then(|at| at.get("selector"));
    let place = said.as_ref().map_or(Place { line: None, path: "--device or -l".into() }, At::place);
    places.insert("spec.selector".into(), place);
    match (&beside.selector, said) {
        (Some(_), Some(at)) => {
            at.wrong(f, "--device or -l says for which devices, too: leave one of them out");
            None
        }
        (Some(selector), None) => Some(selector.clone()),
        (None, Some(_)) => extension.selector.clone(),
        (None, None) => {
            root.wrong(
                f,
                "for which devices? Add `x-bramble: { selector: { matchLabels: { site: home } } }` to the file, \
                 or say `-l site=home` or `--device pi-1`",
            );
            None
        }
    }
}

/// Places of what is not in a container.
fn of_the_file(root: &At<'_>, mains: &[&Service<'_>], places: &mut Places) {
    let mut keep = |path: &str, at: Option<At<'_>>| {
        if let Some(at) = at {
            places.insert(path.to_owned(), at.place());
        }
    };
    let extension = root.get("x-bramble");
    let ours = |key: &str| extension.as_ref().and_then(|at| at.get(key));
    keep("metadata.name", root.get("name").or_else(|| ours("name")).or_else(|| Some(root.clone())));
    keep("metadata.tenant", ours("tenant"));
    keep("metadata.labels", ours("labels"));
    keep("spec.rollout", ours("rollout"));
    keep("spec.dependsOn", ours("dependsOn"));
    keep("spec.lifecycle.handover", ours("handover"));
    keep("spec.containers", root.get("services"));
    keep("spec.initContainers", root.get("services"));
    keep("spec.hostNetwork", mains.iter().find_map(|s| s.host_network.clone()));
}

/// Image, words, variables and volumes: what init and main containers share.
struct Common {
    command: Vec<String>,
    args: Vec<String>,
    env: Vec<EnvVar>,
    volumes: Vec<VolumeMount>,
}

fn common(base: &str, s: &Service<'_>, places: &mut Places, f: &mut Findings) -> Common {
    let mut keep = |path: &str, place: Place| places.insert(format!("{base}{path}"), place);
    keep("", s.at.place());
    for (field, at) in [
        ("image", &s.image.as_ref().map(|p| &p.1)),
        ("command", &s.entrypoint.as_ref().map(|p| &p.1)),
        ("args", &s.command.as_ref().map(|p| &p.1)),
    ] {
        if let Some(at) = at {
            keep(&format!(".{field}"), at.place());
        }
    }
    for (i, (_, place)) in s.env.iter().enumerate() {
        keep(&format!(".env[{i}]"), place.clone());
    }
    for (i, (_, place)) in s.volumes.iter().enumerate() {
        keep(&format!(".volumes[{i}]"), place.clone());
    }
    for (i, (_, place)) in s.ports.iter().enumerate() {
        keep(&format!(".ports[{i}]"), place.clone());
    }
    for (path, at) in [(".timeout", &s.timeout.as_ref().map(|p| &p.1)), (".probe", &s.probe.as_ref().map(|p| &p.1))] {
        if let Some(at) = at {
            keep(path, at.place());
        }
    }
    let (command, args) = words(&s.entrypoint, &s.command, f);
    Common {
        command,
        args,
        env: s.env.iter().map(|(var, _)| var.clone()).collect(),
        volumes: s.volumes.iter().map(|(mount, _)| mount.clone()).collect(),
    }
}

/// An entry point that is given, even an empty one, takes the image's own and its arguments away.
fn words(
    entrypoint: &Placed<'_, Vec<String>>,
    command: &Placed<'_, Vec<String>>,
    f: &mut Findings,
) -> (Vec<String>, Vec<String>) {
    if let Some((words, at)) = command
        && words.is_empty()
    {
        at.wrong(f, "an empty command cannot be said here: leave it out, or write what is to run");
    }
    let args = command.as_ref().map(|(words, _)| words.clone()).unwrap_or_default();
    match entrypoint {
        None => (vec![], args),
        Some((words, at)) if words.is_empty() && args.is_empty() => {
            at.wrong(f, "without the image's entry point a `command` is needed");
            (vec![], args)
        }
        Some((words, _)) if words.is_empty() => (args, vec![]),
        Some((words, _)) => (words.clone(), args),
    }
}

fn init(i: usize, s: &Service<'_>, places: &mut Places, f: &mut Findings) -> Option<InitContainer> {
    let Common { command, args, env, volumes } = common(&format!("spec.initContainers[{i}]"), s, places, f);
    Some(InitContainer {
        name: s.name.clone()?,
        image: s.image.as_ref()?.0.clone(),
        command,
        args,
        env,
        volumes,
        resources: s.resources.clone(),
        timeout: s.timeout.as_ref().map_or(Millis::secs(300), |(time, _)| *time),
        image_pull_policy: s.pull,
        pull_secret: None,
    })
}

fn main(i: usize, s: &Service<'_>, first: &[&str], places: &mut Places, f: &mut Findings) -> Option<Container> {
    let base = format!("spec.containers[{i}]");
    let Common { command, args, env, volumes } = common(&base, s, places, f);
    // What ran before all is not waited for again.
    let waits: Vec<_> = s.depends.iter().filter(|d| !first.contains(&d.on.as_str())).collect();
    places.extend(waits.iter().enumerate().map(|(j, d)| (format!("{base}.dependsOn[{j}]"), d.at.place())));
    places.extend(s.at.get("depends_on").map(|at| (format!("{base}.dependsOn"), at.place())));
    let depends_on = waits.iter().map(|d| Some(Dependency { name: d.on.parse().ok()?, condition: d.condition }));
    Some(Container {
        name: s.name.clone()?,
        image: s.image.as_ref()?.0.clone(),
        command,
        args,
        env,
        ports: s.ports.iter().map(|(port, _)| port.clone()).collect(),
        volumes,
        resources: s.resources.clone(),
        probe: s.probe.as_ref().map(|(probe, _)| probe.clone()),
        restart: match s.restart {
            None | Some((Policy::No, _)) => Restart::Never,
            Some((Policy::Always, _)) => Restart::Always,
            Some((Policy::OnFailure, _)) => Restart::OnFailure,
        },
        image_pull_policy: s.pull,
        pull_secret: None,
        depends_on: depends_on.collect::<Option<_>>()?,
    })
}
