//! `environment` and `env_file`: the variables of a container.
//!
//! Decides: which value wins (`environment`, then the last file), and what a name without a value means (the value it
//! has where the command is typed, else none at all). Deliberately does not: read files; it asks for them.

use std::collections::{BTreeMap, BTreeSet};

use bramble_contracts::v1::EnvVar;

use super::{
    Surroundings,
    cursor::{At, Findings},
    dotenv::{self, Format},
};
use crate::manifest::{node::Content, places::Place};

/// Variables in order, each with its place.
#[derive(Debug, Default)]
pub(super) struct Environment {
    variables: Vec<(String, Option<String>, Place)>,
    index: BTreeMap<String, usize>,
}

impl Environment {
    /// The last one wins and keeps the first one's place in the order.
    fn set(&mut self, name: String, value: Option<String>, place: Place) {
        match self.index.get(&name) {
            Some(known) => self.variables[*known] = (name, value, place),
            None => {
                self.index.insert(name.clone(), self.variables.len());
                self.variables.push((name, value, place));
            }
        }
    }

    /// As the contracts have them.
    pub(super) fn variables(self, f: &mut Findings) -> Vec<(EnvVar, Place)> {
        let mut variables = vec![];
        for (name, value, place) in self.variables {
            let Some(value) = value else { continue };
            match name.parse() {
                Ok(name) => variables.push((EnvVar { name, value: Some(value), value_from: None }, place)),
                Err(why) => {
                    let message = format!("{why}");
                    f.wrong.push(super::cursor::Found { place, message });
                }
            }
        }
        variables
    }
}

/// Adds the files of `env_file`.
pub(super) fn files(at: &At<'_>, around: &Surroundings<'_>, into: &mut Environment, f: &mut Findings) {
    let files = if at.is_list() { at.items(f) } else { vec![at.clone()] };
    for file in files {
        let (mut path, mut required, mut format) = (None, true, Format::Dotenv);
        if file.is_map() {
            for (key, value) in file.fields(f) {
                match key {
                    "path" => path = value.text(f),
                    "required" => required = value.yes(f).unwrap_or(true),
                    "format" => match value.text(f).as_deref() {
                        Some("raw") => format = Format::Raw,
                        Some(_) | None => value.wrong(f, "is raw, or left out"),
                    },
                    _ => value.wrong(f, "is not known here: path, required and format are"),
                }
            }
        } else {
            path = file.text(f);
        }
        let Some(path) = path else { continue };
        let text = match (around.read)(&path) {
            Ok(Some(text)) => text,
            Ok(None) if !required => continue,
            Ok(None) => {
                file.wrong(f, format!("there is no file {path} beside this one"));
                continue;
            }
            Err(why) => {
                file.wrong(f, format!("{path} {why}"));
                continue;
            }
        };
        match dotenv::read(&text, format, &|name| around.variable(name)) {
            Ok(found) => {
                for variable in found {
                    let place = file.place();
                    let value = variable.value.or_else(|| around.variable(&variable.name));
                    let place = Place { path: format!("{} ({path}:{})", place.path, variable.line), ..place };
                    into.set(variable.name, value, place);
                }
            }
            Err(dotenv::Unreadable { line, message }) => file.wrong(f, format!("{path}:{line}: {message}")),
        }
    }
}

/// Adds `environment`, a map or a list.
pub(super) fn inline(at: &At<'_>, around: &Surroundings<'_>, into: &mut Environment, f: &mut Findings) {
    let inherited = |name: &str, at: &At<'_>, f: &mut Findings| {
        let value = around.variable(name);
        if value.is_none() {
            at.doubt(f, format!("{name} has no value and is not set here: the container does not get it"));
        }
        value
    };
    if at.is_list() {
        let mut seen = BTreeSet::new();
        for item in at.items(f) {
            let Some(text) = item.text(f) else { continue };
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text.as_str(), inherited(&text, &item, f)),
            };
            if !seen.insert(name.to_owned()) {
                item.wrong(f, format!("{name} is set twice"));
            }
            into.set(name.to_owned(), value, item.place());
        }
        return;
    }
    for (name, value) in at.entries(f) {
        let text = match &value.node().content {
            Content::Null => inherited(name, &value, f),
            Content::Number(number, written) if number.to_string() != *written => {
                value.wrong(f, "is read as a number by some and as a text by others: put it in quotes");
                continue;
            }
            Content::Bool(_) | Content::Number(..) | Content::Text(_) | Content::List(_) | Content::Map(_) => {
                value.text(f)
            }
        };
        into.set(name.to_owned(), text, value.place());
    }
}
