//! What is said of the whole file: its name, `x-bramble`, volumes and networks.

use bramble_contracts::{
    Name, Tenant,
    label::{Labels, Selector},
    v1::{Dependency, Handover, Lifecycle, Rollout},
};
use serde::Deserialize;

use super::{
    Beside,
    cursor::{At, Findings, Found},
    service::Service,
    volumes::{self, Declared},
};
use crate::manifest::{in_words, places::Place};

/// `x-bramble` of the file: what a deployment has and Compose has no word for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Extension {
    pub name: Option<Name>,
    pub tenant: Option<Tenant>,
    pub labels: Labels,
    pub selector: Option<Selector>,
    pub handover: Handover,
    pub sigkill_fallback: Option<bool>,
    pub rollout: Rollout,
    pub depends_on: Vec<Dependency>,
}

/// Reads `x-bramble`.
pub(super) fn extension(root: &At<'_>, f: &mut Findings) -> Extension {
    let Some(at) = root.get("x-bramble") else { return Extension::default() };
    serde_path_to_error::deserialize(at.node().to_json()).unwrap_or_else(|err| {
        let path = err.path().to_string();
        let below = if path == "." { String::new() } else { format!(".{path}") };
        let line = if below.is_empty() { at.line() } else { at.node().locate(&path) };
        let place = Place { line: Some(line), path: format!("x-bramble{below}") };
        f.wrong.push(Found { place, message: in_words(err.inner().to_string()) });
        Extension::default()
    })
}

/// Where the deployment's name comes from.
pub(super) enum Called {
    /// The file says it.
    Said(Name),
    /// The folder is called so.
    After(Name),
}

/// `name`, else `x-bramble`, else what the folder is called.
pub(super) fn name(root: &At<'_>, extension: &Extension, beside: &Beside<'_>, f: &mut Findings) -> Option<Called> {
    if let Some(at) = root.get("name") {
        let text = at.text(f)?;
        let Some(name) = volumes::name(&text) else {
            at.wrong(f, format!("{text:?} is not a valid name: 1 to 63 of a-z, 0-9 and -"));
            return None;
        };
        if extension.name.as_ref().is_some_and(|other| *other != name) {
            at.wrong(f, "`x-bramble` gives another name: leave one of them out");
        }
        if name.as_str() != text {
            at.doubt(f, format!("the deployment is called {name}"));
        }
        return Some(Called::Said(name));
    }
    if let Some(name) = &extension.name {
        return Some(Called::Said(name.clone()));
    }
    let folder = beside.folder.as_deref().and_then(folder_name);
    if folder.is_none() {
        root.wrong(f, "has no name, and its folder gives none: write `name: …` at the top");
    }
    folder.map(Called::After)
}

/// As Compose makes a project's name of a folder's, and then ours.
fn folder_name(folder: &str) -> Option<Name> {
    let lower = folder.to_lowercase();
    let kept: String = lower.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    let kept: String = kept.replace('_', "-").trim_start_matches('-').chars().take(63).collect();
    kept.trim_end_matches('-').parse().ok()
}

/// The top-level `volumes`.
pub(super) fn volumes(root: &At<'_>, f: &mut Findings) -> Declared {
    let mut declared = Declared::new();
    for (key, at) in root.get("volumes").map(|at| at.entries(f)).unwrap_or_default() {
        for (field, value) in at.fields(f) {
            match field {
                "driver" => value.only(f, "local", "is not supported: a volume is a folder on the device"),
                "external" => {
                    if value.yes(f) == Some(true) {
                        value.wrong(
                            f,
                            "is not supported: a volume belongs to one deployment, and is made when it is not there",
                        );
                    }
                }
                _ => value.wrong(f, "is not supported: a volume has no options; it is a folder on the device"),
            }
        }
        let Some(name) = volumes::name(key) else {
            at.wrong(f, format!("{key:?} is not a valid name of a volume: 1 to 63 of a-z, 0-9 and -"));
            continue;
        };
        if let Some((other, _)) = declared.iter().find(|(_, known)| **known == name) {
            at.wrong(f, format!("would be called {name}, like the volume {other}: rename one"));
        }
        declared.insert(key.to_owned(), name);
    }
    declared
}

/// Services share one network: what says otherwise is refused.
pub(super) fn networks(root: &At<'_>, services: &[Service<'_>], f: &mut Findings) {
    let declared = root.get("networks").map(|at| at.entries(f)).unwrap_or_default();
    for (_, at) in &declared {
        for (field, value) in at.fields(f) {
            match field {
                "driver" => value.only(f, "bridge", "is not supported: services share one network of their own"),
                "external" => value.only(f, "false", "is not supported: services share one network of their own"),
                _ => value.wrong(f, "is not supported: services share one network of their own"),
            }
        }
    }
    let host = services.iter().filter(|s| s.host_network.is_some()).count();
    if host > 0 {
        for service in services {
            let with = "with the device's network";
            match &service.host_network {
                Some(at) if host < services.len() => {
                    at.wrong(f, format!("some services are {with} and some are not: all of a file share one"));
                }
                Some(at) if service.networks.is_some() => {
                    at.wrong(f, format!("{with} a service is in no other: leave `networks` out"));
                }
                Some(at) if !service.ports.is_empty() => {
                    at.wrong(f, format!("{with} a service's ports are the device's own: leave `ports` out"));
                }
                Some(_) | None => {}
            }
        }
        return;
    }
    let of = |s: &Service<'_>| match &s.networks {
        Some((names, _)) if !names.is_empty() => names.clone(),
        Some(_) | None => vec!["default".to_owned()],
    };
    let same = services.windows(2).all(|pair| of(&pair[0]) == of(&pair[1]));
    for (names, at) in services.iter().filter_map(|s| s.networks.as_ref()) {
        let unknown = names.iter().find(|n| *n != "default" && !declared.iter().any(|(key, _)| key == n));
        if let Some(name) = unknown {
            at.wrong(f, format!("the network {name} is not declared under the top-level `networks`"));
        }
        if !same || names.len() > 1 {
            let what = "services cannot be kept apart: all of a file share one network. Leave `networks` out, \
                        or make a file of what is to be apart";
            at.wrong(f, what);
        }
    }
}

/// How the deployment stops: it has one signal and one time for all its containers.
pub(super) fn lifecycle(mains: &[&Service<'_>], extension: &Extension, f: &mut Findings) -> Lifecycle {
    let mut lifecycle = Lifecycle { handover: extension.handover, ..Lifecycle::default() };
    if let Some(fallback) = extension.sigkill_fallback {
        lifecycle.sigkill_fallback = fallback;
    }
    // Compose waits 10 s where a service does not say.
    let longest = mains.iter().filter_map(|s| s.grace.as_ref().map(|(time, _)| *time)).max();
    lifecycle.grace_period = longest.unwrap_or(bramble_contracts::quantity::Millis::secs(10));
    for (time, at) in mains.iter().filter_map(|s| s.grace.as_ref()) {
        if *time < lifecycle.grace_period {
            at.doubt(
                f,
                format!("all containers of a deployment have as long as the slowest: {}", lifecycle.grace_period),
            );
        }
    }
    let signals = || mains.iter().filter_map(|s| s.stop_signal.as_ref());
    if let Some((signal, _)) = signals().next() {
        lifecycle.stop_signal = signal.clone();
    }
    for (signal, at) in signals() {
        let other = mains.iter().find(|s| {
            let theirs = s.stop_signal.as_ref().map_or("SIGTERM", |(theirs, _)| theirs.as_str());
            theirs != signal.as_str()
        });
        if let Some(other) = other {
            let key = other.key;
            at.wrong(f, format!("all containers of a deployment get one stop signal, and {key} gets another: give each {signal}, or make two files"));
        }
    }
    lifecycle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_names() {
        let name = |folder: &str| folder_name(folder).map(|n| n.to_string());
        assert_eq!(name("My_App.2").as_deref(), Some("my-app2"));
        assert_eq!(name("__web-").as_deref(), Some("web"));
        assert_eq!((name("…"), name("")), (None, None));
        assert_eq!(name(&"x".repeat(80)).map(|n| n.len()), Some(63));
    }
}
