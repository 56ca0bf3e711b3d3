//! A document as it stands in a file: values that know their line.
//!
//! Decides: where in the file a path such as `spec.containers[1].ports[0].host` is.
//! Deliberately does not: know a format, nor what a deployment is.

use serde_json::{Number, Value};

/// A value and the line it stands on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// From 1.
    pub line: usize,
    /// What is there.
    pub content: Content,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, and as it is written.
    Number(Number, String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Names and values, in the order of the file.
    Map(Vec<Entry>),
}

/// One name and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// The name.
    pub key: String,
    /// Where the name stands.
    pub line: usize,
    /// The value.
    pub node: Node,
}

impl Node {
    /// The entry with this name, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|e| e.key == key),
            Content::Null | Content::Bool(_) | Content::Number(..) | Content::Text(_) | Content::List(_) => None,
        }
    }

    /// The first name that is given twice in one map, with the lines of both.
    pub(crate) fn duplicate(entries: &[Entry]) -> Option<(&Entry, &Entry)> {
        let mut seen = std::collections::BTreeMap::new();
        entries.iter().find_map(|e| seen.insert(&e.key, e).map(|first| (first, e)))
    }

    /// The line of a path, or of the deepest part of it that is there.
    pub(crate) fn locate(&self, path: &str) -> usize {
        let (mut node, mut line, mut rest) = (self, self.line, path);
        while !rest.is_empty() {
            let Some((next, at, left)) = node.step(rest) else { break };
            (node, line, rest) = (next, at, left);
        }
        line
    }

    /// One step down a path: the node there, its line, and what is left of the path.
    fn step<'a, 'p>(&'a self, path: &'p str) -> Option<(&'a Self, usize, &'p str)> {
        match &self.content {
            Content::Map(entries) => {
                let path = path.strip_prefix('.').unwrap_or(path);
                // Names may hold dots (labels do): the longest that fits is meant.
                let fits = |e: &&Entry| {
                    path.strip_prefix(e.key.as_str()).is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']))
                };
                let entry = entries.iter().filter(fits).max_by_key(|e| e.key.len())?;
                Some((&entry.node, entry.line, &path[entry.key.len()..]))
            }
            Content::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some((item, item.line, rest))
            }
            Content::Null | Content::Bool(_) | Content::Number(..) | Content::Text(_) => None,
        }
    }

    /// The same without lines, to be decoded.
    pub(crate) fn to_json(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(b) => Value::Bool(*b),
            Content::Number(n, _) => Value::Number(n.clone()),
            Content::Text(t) => Value::String(t.clone()),
            Content::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Content::Map(entries) => Value::Object(entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;

    #[test]
    fn a_path_is_found_also_through_dotted_names_and_half_of_it() {
        let text = "metadata:\n  labels:\n    a: x\n    a.b/c: y\nspec:\n  containers:\n    - name: a\n    - name: b\n      ports: [\n        {host: 1}\n      ]\n";
        let doc = &yaml::read(text).unwrap()[0];
        let cases = [
            ("metadata.labels.a.b/c", 4),
            ("metadata.labels.a", 3),
            ("spec.containers[1].ports[0].host", 10),
            ("spec.containers[1].ports[7].host", 9),
            ("spec.containers[1].probe.http", 8),
            ("spec.containers", 6),
            ("spec.selector", 5),
            ("nowhere", 1),
            ("", 1),
        ];
        for (path, line) in cases {
            assert_eq!(doc.locate(path), line, "{path}");
        }
    }
}
