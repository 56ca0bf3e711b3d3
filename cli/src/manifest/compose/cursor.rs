//! A value of a Compose file with the path and the line people find it by, and what is found about it.
//!
//! Decides: how a value is read as a text, a yes or no, a list or a map. Deliberately does not: know a field.

use super::super::{
    node::{Content, Entry, Node},
    places::Place,
};

/// Something that is to be told about a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
}

/// All that is found in a file.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What refuses it.
    pub wrong: Vec<Found>,
    /// What is accepted and perhaps not meant.
    pub doubts: Vec<Found>,
}

impl Findings {
    /// Keeps a finding, once: what stands in an anchor is met as often as it is used.
    fn keep(list: &mut Vec<Found>, found: Found) {
        let same = |f: &Found| f.place.line == found.place.line && f.message == found.message;
        if !list.iter().any(same) {
            list.push(found);
        }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<'n> {
    path: String,
    line: usize,
    node: &'n Node,
}

impl<'n> At<'n> {
    /// The whole document.
    pub(super) fn root(node: &'n Node) -> Self {
        Self { path: String::new(), line: node.line, node }
    }

    /// Where it stands.
    pub(super) fn place(&self) -> Place {
        Place { line: Some(self.line), path: self.path.clone() }
    }

    /// Is it the document itself?
    pub(super) fn is_root(&self) -> bool {
        self.path.is_empty()
    }

    /// The line of its name, from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The value itself.
    pub(super) fn node(&self) -> &'n Node {
        self.node
    }

    /// It is wrong.
    pub(super) fn wrong(&self, f: &mut Findings, message: impl Into<String>) {
        Findings::keep(&mut f.wrong, Found { place: self.place(), message: message.into() });
    }

    /// It is perhaps not meant so.
    pub(super) fn doubt(&self, f: &mut Findings, message: impl Into<String>) {
        Findings::keep(&mut f.doubts, Found { place: self.place(), message: message.into() });
    }

    /// A name without a value?
    pub(super) fn is_null(&self) -> bool {
        self.node.content == Content::Null
    }

    /// Is it a list?
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.content, Content::List(_))
    }

    /// Is it a map?
    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.content, Content::Map(_))
    }

    fn below(&self, entry: &'n Entry) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { path: format!("{}{dot}{}", self.path, entry.key), line: entry.line, node: &entry.node }
    }

    /// The field of this name, if this is a map that has it.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        self.node.get(key).map(|entry| self.below(entry))
    }

    /// The fields of a map; nothing is an empty one. Extensions (`x-…`) are left out, as Compose has it.
    pub(super) fn fields(&self, f: &mut Findings) -> Vec<(&'n str, Self)> {
        let mut entries = self.entries(f);
        entries.retain(|(key, _)| !key.starts_with("x-"));
        entries
    }

    /// The names and values of a map whose names are the user's own.
    pub(super) fn entries(&self, f: &mut Findings) -> Vec<(&'n str, Self)> {
        match &self.node.content {
            Content::Map(entries) => entries.iter().map(|e| (e.key.as_str(), self.below(e))).collect(),
            Content::Null => vec![],
            Content::Bool(_) | Content::Number(..) | Content::Text(_) | Content::List(_) => {
                self.wrong(f, "is a map of names and values");
                vec![]
            }
        }
    }

    /// The items of a list; nothing is an empty one.
    pub(super) fn items(&self, f: &mut Findings) -> Vec<Self> {
        match &self.node.content {
            Content::List(items) => {
                let item =
                    |(i, node): (usize, &'n Node)| Self { path: format!("{}[{i}]", self.path), line: node.line, node };
                items.iter().enumerate().map(item).collect()
            }
            Content::Null => vec![],
            Content::Bool(_) | Content::Number(..) | Content::Text(_) | Content::Map(_) => {
                self.wrong(f, "is a list");
                vec![]
            }
        }
    }

    /// A text; numbers and yes or no as they are written.
    pub(super) fn text(&self, f: &mut Findings) -> Option<String> {
        match &self.node.content {
            Content::Text(text) | Content::Number(_, text) => Some(text.clone()),
            Content::Bool(b) => Some(b.to_string()),
            Content::Null | Content::List(_) | Content::Map(_) => {
                self.wrong(f, "is a text");
                None
            }
        }
    }

    /// `true` or `false`, also as a text: a variable may stand for it.
    pub(super) fn yes(&self, f: &mut Findings) -> Option<bool> {
        let told = self.text(f)?.parse().ok();
        if told.is_none() {
            self.wrong(f, "is true or false");
        }
        told
    }

    /// It may say this and nothing else.
    pub(super) fn only(&self, f: &mut Findings, want: &str, why: &str) {
        if self.text(f).is_some_and(|text| text != want) {
            self.wrong(f, why);
        }
    }
}
