//! Where a part of a manifest stands in the file it was made from, and what it is called there.
//!
//! Decides: which place a path of the contracts (`spec.containers[1].ports[0].host`) means to the person who wrote the
//! file. Deliberately does not: judge anything.

use std::collections::BTreeMap;

use super::node::Node;

/// A place in a file, as people find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// From 1; absent where it is not in the file (it came with the command line, or from nowhere).
    pub line: Option<usize>,
    /// Which field, in the words of the file.
    pub path: String,
}

/// How a manifest's paths lead into its file.
#[derive(Debug)]
pub(super) enum Origin {
    /// The file is the manifest: paths are the same.
    Native(Node),
    /// It was translated: each part that has a place of its own, by its path in the manifest.
    Translated(BTreeMap<String, Place>),
}

impl Origin {
    /// The place of a path, or of the deepest part of it that has one.
    pub(super) fn place(&self, path: &str) -> Place {
        match self {
            Self::Native(node) => Place { line: Some(node.locate(path)), path: path.to_owned() },
            Self::Translated(places) => {
                let mut part = path;
                loop {
                    if let Some(place) = places.get(part) {
                        return place.clone();
                    }
                    match part.rfind(['.', '[']) {
                        Some(end) => part = &part[..end],
                        None => return Place { line: None, path: path.to_owned() },
                    }
                }
            }
        }
    }

    /// A message, with the paths of the manifest that it mentions in the words of the file.
    pub(super) fn in_words(&self, mut message: String) -> String {
        match self {
            Self::Native(_) => message,
            Self::Translated(places) => {
                // The longest first: they begin with one another.
                let mentioned = |p: &&String| message.contains(p.as_str()) && p.starts_with("spec.");
                let mut paths: Vec<&String> = places.keys().filter(mentioned).collect();
                paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
                for path in paths {
                    message = message.replace(path.as_str(), &places[path].path);
                }
                message
            }
        }
    }
}
