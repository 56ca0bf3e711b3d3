//! A Compose file as a deployment: its services are the containers of one pod, its named volumes the deployment's.
//!
//! Decides: what each field means here; what has no equal is refused by name and line, all in one go, never left out.
//! Pure: the text and what is beside it go in; a manifest, or findings, come out. Deliberately does not: judge the
//! manifest (the contracts do), nor read a file itself.

mod assemble;
mod command;
mod cursor;
mod dotenv;
mod environment;
mod health;
mod interpolate;
mod limits;
mod merge;
mod order;
mod ports;
mod project;
mod quantities;
mod service;
mod volumes;
mod words;

use std::collections::BTreeMap;

use bramble_contracts::{
    label::Selector,
    v1::{DependencyCondition, Manifest, Protocol},
};

use assemble::Parts;
pub(super) use cursor::Found;
use cursor::{At, Findings};
use project::Called;
use service::{Policy, Service};

use super::{
    node::{Content, Entry, Node},
    places::Place,
};

/// More services than any deployment may have containers.
const SERVICES_MAX: usize = 256;

/// What a Compose file is read with.
pub(super) struct Beside<'a> {
    /// What the folder is called that the file is in.
    pub folder: Option<String>,
    /// The variables of whoever types the command.
    pub env: BTreeMap<String, String>,
    /// Reads a file, by its path from that folder; none when there is none.
    pub read: &'a dyn Fn(&str) -> Result<Option<String>, String>,
    /// For which devices, as the command line says.
    pub selector: Option<Selector>,
}

/// The same, with the variables of `.env`.
struct Surroundings<'a> {
    read: &'a dyn Fn(&str) -> Result<Option<String>, String>,
    env: &'a BTreeMap<String, String>,
    dotenv: BTreeMap<String, String>,
}

impl Surroundings<'_> {
    /// The value of a variable: the environment wins over `.env`.
    fn variable(&self, name: &str) -> Option<String> {
        self.env.get(name).or_else(|| self.dotenv.get(name)).cloned()
    }
}

/// What came of a file.
pub(super) struct Translated {
    /// The deployment, where it could be made whole; it may still be one that is to be refused.
    pub manifest: Option<Manifest>,
    /// Where its parts stand in the file.
    pub places: BTreeMap<String, Place>,
    /// What refuses the file.
    pub wrong: Vec<Found>,
    /// What is accepted and perhaps not meant.
    pub doubts: Vec<Found>,
    /// The name is that of the folder, and the file does not say it.
    pub named_after_folder: bool,
    /// The file itself says whose it is.
    pub says_tenant: bool,
}

/// Does this document look like a Compose file?
pub(super) fn is_one(node: &Node) -> bool {
    node.get("services").is_some() && node.get("apiVersion").is_none()
}

/// Translates a document.
pub(super) fn translate(node: Node, beside: &Beside<'_>) -> Translated {
    let mut f = Findings::default();
    let mut translated = Translated {
        manifest: None,
        places: BTreeMap::new(),
        wrong: vec![],
        doubts: vec![],
        named_after_folder: false,
        says_tenant: false,
    };
    match merge::merged(node) {
        Ok(node) => {
            let around = Surroundings { read: beside.read, env: &beside.env, dotenv: dotenv(&node, beside, &mut f) };
            let node = interpolated(&At::root(&node), &around, &mut f);
            document(&At::root(&node), &around, beside, &mut translated, &mut f);
        }
        Err(line) => {
            let place = Place { line: Some(line), path: "<<".into() };
            f.wrong.push(Found { place, message: "stands for a map, or a list of maps".into() });
        }
    }
    f.wrong.sort_by_key(|found| found.place.line);
    (translated.wrong, translated.doubts) = (f.wrong, f.doubts);
    translated
}

fn dotenv(node: &Node, beside: &Beside<'_>, f: &mut Findings) -> BTreeMap<String, String> {
    let read = match (beside.read)(".env") {
        Ok(None) => return BTreeMap::new(),
        Ok(Some(text)) => dotenv::read(&text, dotenv::Format::Dotenv, &|name| beside.env.get(name).cloned())
            .map_err(|dotenv::Unreadable { line, message }| format!(".env:{line}: {message}")),
        Err(why) => Err(format!(".env {why}")),
    };
    match read {
        Ok(found) => found.into_iter().filter_map(|v| Some((v.name, v.value?))).collect(),
        Err(why) => {
            At::root(node).wrong(f, format!("the file beside this one cannot be used: {why}"));
            BTreeMap::new()
        }
    }
}

/// The same values with their variables replaced; the file's extensions that are not ours are left out: whatever uses
/// them has them already, by an alias.
fn interpolated(at: &At<'_>, around: &Surroundings<'_>, f: &mut Findings) -> Node {
    let node = at.node();
    let content = match &node.content {
        Content::Text(text) => match interpolate::expand(text, &|name| around.variable(name)) {
            Ok(expanded) => {
                for name in expanded.unset {
                    at.doubt(f, format!("the variable {name} is not set: an empty text stands for it"));
                }
                Content::Text(expanded.text)
            }
            Err(why) => {
                at.wrong(f, why);
                Content::Text(text.clone())
            }
        },
        Content::List(_) => Content::List(at.items(f).iter().map(|item| interpolated(item, around, f)).collect()),
        Content::Map(_) => {
            let read = |key: &str| !at.is_root() || !key.starts_with("x-") || key == "x-bramble";
            let entries = at.entries(f).into_iter().filter(|(key, _)| read(key));
            let entry = |(key, value): (&str, At<'_>)| Entry {
                key: key.to_owned(),
                line: value.line(),
                node: interpolated(&value, around, f),
            };
            Content::Map(entries.map(entry).collect())
        }
        other @ (Content::Null | Content::Bool(_) | Content::Number(..)) => other.clone(),
    };
    Node { line: node.line, content }
}

fn document(root: &At<'_>, around: &Surroundings<'_>, beside: &Beside<'_>, out: &mut Translated, f: &mut Findings) {
    for (key, at) in root.fields(f) {
        match key {
            // `version` has had no meaning for years.
            "name" | "services" | "volumes" | "networks" | "version" => {}
            other => at.wrong(f, words::file(other)),
        }
    }
    let extension = project::extension(root, f);
    let called = project::name(root, &extension, beside, f);
    let declared = project::volumes(root, f);
    let services = root.get("services").map(|at| at.entries(f)).unwrap_or_default();
    if services.is_empty() || services.len() > SERVICES_MAX {
        let at = root.get("services").unwrap_or_else(|| root.clone());
        return at.wrong(f, format!("between 1 and {SERVICES_MAX} services are needed"));
    }
    let services: Vec<Service<'_>> =
        services.into_iter().map(|(key, at)| service::read(key, &at, around, &declared, f)).collect();
    project::networks(root, &services, f);
    dependencies(&services, f);
    let first = order::inits(&services);
    let is_main = |i: &usize| !first.contains(i);
    let mains: Vec<&Service<'_>> = (0..services.len()).filter(is_main).map(|i| &services[i]).collect();
    let inits: Vec<&Service<'_>> = first.iter().map(|i| &services[*i]).collect();
    shared_ports(&mains, f);
    kept_running(&mains, &services, f);
    out.says_tenant = extension.tenant.is_some();
    out.named_after_folder = matches!(called, Some(Called::After(_)));
    let name = called.map(|called| match called {
        Called::Said(name) | Called::After(name) => name,
    });
    let parts = Parts { root, name, extension, inits, mains };
    (out.manifest, out.places) = assemble::manifest(parts, beside, f);
}

/// Whatever is depended on is there and can do what is asked of it.
fn dependencies(services: &[Service<'_>], f: &mut Findings) {
    for depends in services.iter().flat_map(|s| &s.depends) {
        let Some(on) = services.iter().find(|s| s.key == depends.on) else {
            depends.at.wrong(f, format!("there is no service {}", depends.on));
            continue;
        };
        match (depends.condition, &on.restart) {
            (DependencyCondition::Healthy, _) if on.probe.is_none() => {
                let how = "give it a `healthcheck`; one that its image brings is not used";
                depends.at.wrong(f, format!("{} has nothing to be healthy by: {how}", on.key));
            }
            (DependencyCondition::Completed, Some((Policy::Always, _))) => {
                let how = "give it `restart: \"no\"` or on-failure";
                depends
                    .at
                    .wrong(f, format!("{} is started again whenever it ends, so it never completes: {how}", on.key));
            }
            (DependencyCondition::Started | DependencyCondition::Healthy | DependencyCondition::Completed, _) => {}
        }
    }
}

/// Services share a network: one port is one service's. What is under `ports` the contracts look at.
fn shared_ports(mains: &[&Service<'_>], f: &mut Findings) {
    let mut holders: BTreeMap<(u16, Protocol), Vec<&str>> = BTreeMap::new();
    for service in mains {
        let opened = service.ports.iter().map(|(port, _)| (port.container, port.protocol));
        let exposed = service.exposed.iter().map(|(port, protocol, _)| (*port, *protocol));
        for port in opened.chain(exposed) {
            holders.entry(port).or_default().push(service.key);
        }
    }
    for service in mains {
        for (port, protocol, at) in &service.exposed {
            if let Some(other) = holders[&(*port, *protocol)].iter().find(|key| **key != service.key) {
                let why = "services share one network, so each needs ports of its own";
                at.wrong(f, format!("port {port} is that of {other}, too: {why}"));
            }
        }
    }
}

/// Compose starts nothing again unless it is told to; few people mean that.
fn kept_running(mains: &[&Service<'_>], services: &[Service<'_>], f: &mut Findings) {
    for service in mains {
        let completes = |d: &service::Depends<'_>| d.on == service.key && d.condition == DependencyCondition::Completed;
        if service.at.get("restart").is_none() && !services.iter().flat_map(|s| &s.depends).any(completes) {
            service.at.doubt(
                f,
                "has no `restart`, so it stays down until the next boot once it has stopped: say unless-stopped, or no",
            );
        }
        if let Some((_, at)) = &service.timeout {
            at.wrong(f, "is for services that run first, to completion, and that all others wait for");
        }
    }
}

#[cfg(test)]
mod tests;
