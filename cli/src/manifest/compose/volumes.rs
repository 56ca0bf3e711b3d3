//! `volumes` of a service: named volumes. A folder of the host, or of nobody, is none.

use std::collections::BTreeMap;

use bramble_contracts::{Name, v1::VolumeMount};

use super::cursor::{At, Findings};
use crate::manifest::places::Place;

/// The volumes that the file declares, by what they are called in it.
pub(super) type Declared = BTreeMap<String, Name>;

const BIND: &str = "a folder of the device cannot be mounted: use a named volume; put files that the app needs into \
its image, or let a service that runs first write them";
const SOCKET: &str = "no container gets the container engine's socket";
const ANONYMOUS: &str = "a volume needs a name: write \"data:/path\" and declare `data` under the top-level `volumes`";
const TMPFS: &str = "is not supported: leave it out (what is not in a volume is gone with its container)";

/// The mounts of a service, each with its place.
pub(super) fn mounts(at: &At<'_>, declared: &Declared, f: &mut Findings) -> Vec<(VolumeMount, Place)> {
    let items = at.items(f);
    items
        .iter()
        .filter_map(|item| {
            let draft = if item.is_map() { long(item, f) } else { short(item, f) };
            let Draft { source, target, read_only } = draft?;
            let path = target.parse().map_err(|why| item.wrong(f, format!("{why}"))).ok()?;
            let Some(name) = declared.get(&source) else {
                item.wrong(
                    f,
                    format!("the volume {source} is not declared: add `{source}:` under the top-level `volumes`"),
                );
                return None;
            };
            Some((VolumeMount { name: name.clone(), path, read_only }, item.place()))
        })
        .collect()
}

/// The name of a volume: only people see it, so it may be written a little otherwise.
pub(super) fn name(key: &str) -> Option<Name> {
    let text: String = key.chars().map(|c| if c == '_' || c == '.' { '-' } else { c.to_ascii_lowercase() }).collect();
    text.parse().ok()
}

struct Draft {
    source: String,
    target: String,
    read_only: bool,
}

fn short(item: &At<'_>, f: &mut Findings) -> Option<Draft> {
    let text = item.text(f)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [_] => {
            item.wrong(f, ANONYMOUS);
            return None;
        }
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => {
            item.wrong(f, "is written as \"name:/path\" or \"name:/path:ro\"");
            return None;
        }
    };
    if let Some(why) = bound(source) {
        item.wrong(f, why);
        return None;
    }
    let mut read_only = false;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // Nothing is ever copied from the image.
            "nocopy" => {}
            other => item.wrong(f, format!("the option {other} is not supported: ro and rw are")),
        }
    }
    Some(Draft { source: source.to_owned(), target: target.to_owned(), read_only })
}

/// Why this source is no volume.
fn bound(source: &str) -> Option<&'static str> {
    if source.ends_with("docker.sock") || source.ends_with("podman.sock") {
        return Some(SOCKET);
    }
    source.starts_with(['.', '/', '~']).then_some(BIND)
}

fn long(item: &At<'_>, f: &mut Findings) -> Option<Draft> {
    let (mut kind, mut source, mut target, mut read_only) = (None, None, None, false);
    for (key, value) in item.fields(f) {
        match key {
            "type" => kind = value.text(f),
            "source" => source = value.text(f),
            "target" => target = value.text(f),
            "read_only" => read_only = value.yes(f).unwrap_or(false),
            "volume" => {
                for (key, value) in value.fields(f) {
                    match key {
                        "nocopy" => drop(value.yes(f)),
                        _ => value.wrong(f, "is not supported"),
                    }
                }
            }
            _ => value.wrong(f, "is not supported: type, source, target and read_only are"),
        }
    }
    let why = match (kind.as_deref(), &source, &target) {
        (None, _, _) => "`type` is missing: it is volume",
        (Some("volume"), Some(_), None) => "`target`, the path in the container, is missing",
        (Some("volume"), None, _) => ANONYMOUS,
        (Some("volume"), Some(source), Some(target)) => match bound(source) {
            None => return Some(Draft { source: source.clone(), target: target.clone(), read_only }),
            Some(why) => why,
        },
        (Some("bind"), source, _) => source.as_deref().and_then(bound).unwrap_or(BIND),
        (Some("tmpfs"), _, _) => TMPFS,
        (Some(_), _, _) => "`type` is volume; others are not supported",
    };
    item.wrong(f, why);
    None
}
