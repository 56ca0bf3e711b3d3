//! Manifests in files: read, decoded, judged; every finding names file, line and field.
//!
//! One way for all formats: a reader per format makes nodes that know their lines, one decoder turns nodes into the
//! contracts' types, and the contracts judge. Compose files are translated on the way. Deliberately does not: know what
//! a field means.

mod beside;
mod compose;
mod json;
pub(crate) mod node;
mod order;
mod places;
mod tomlfile;
mod yaml;

use std::{fmt, path::Path};

use bramble_contracts::{
    Tenant,
    label::Selector,
    problem::FieldError,
    v1::{Deployment, Manifest},
};

use compose::Beside;
use node::Node;
use places::{Origin, Place};

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// As it was given on the command line.
    pub file: String,
    /// From 1; absent when the file could not be read at all.
    pub line: Option<usize>,
    /// Which field; empty when it is not about one.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        write!(f, ": {path}{}", self.message)
    }
}

/// A file that is not of its format, at a line.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable {
    line: usize,
    message: String,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Yaml,
    Toml,
    Json,
}

impl Format {
    /// By the ending; without a known one by the first character.
    fn of(file: &str, text: &str) -> Self {
        match Path::new(file).extension().and_then(|e| e.to_str()) {
            Some("toml") => Self::Toml,
            Some("json") => Self::Json,
            Some("yaml" | "yml") => Self::Yaml,
            Some(_) | None if text.trim_start().starts_with('{') => Self::Json,
            Some(_) | None => Self::Yaml,
        }
    }
}

/// What the command line says beside the files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// Whose deployments they are that do not say it themselves.
    pub tenant: Option<Tenant>,
    /// For which devices Compose files are.
    pub selector: Option<Selector>,
}

/// A deployment and where it came from.
#[derive(Debug)]
pub(crate) struct Document {
    file: String,
    origin: Origin,
    /// Its tenant is written in the file.
    says_tenant: bool,
    /// What it says.
    pub manifest: Manifest,
    /// What was noticed while it was read and is no error.
    pub notes: Vec<Finding>,
}

impl Document {
    /// Something is wrong at this path, as the coordinator or we say.
    pub(crate) fn finding(&self, error: &FieldError) -> Finding {
        finding(&self.file, &self.origin, error)
    }

    fn at(&self, path: &str, message: String) -> Finding {
        self.finding(&FieldError { path: path.to_owned(), message })
    }

    /// Fills in the tenant that was asked for, unless the file itself says another.
    fn for_tenant(&mut self, tenant: &Tenant) -> Option<Finding> {
        let meta = &mut self.manifest.metadata;
        if meta.tenant == *tenant {
            return None;
        }
        if self.says_tenant {
            let said = "--tenant (or BRAMBLE_TENANT, or your configuration)";
            let message = format!("is {}, but {said} says {tenant}", meta.tenant);
            return Some(self.at("metadata.tenant", message));
        }
        meta.tenant = tenant.clone();
        None
    }
}

fn finding(file: &str, origin: &Origin, error: &FieldError) -> Finding {
    let place = origin.place(&error.path);
    told(file, place, origin.in_words(error.message.clone()))
}

fn told(file: &str, Place { line, path }: Place, message: String) -> Finding {
    Finding { file: file.to_owned(), line, path, message }
}

/// Every deployment of these files, dependencies first; or everything that is wrong with them. `-` is standard input.
pub(crate) fn load(files: &[String], said: &Said) -> Result<Vec<Document>, Vec<Finding>> {
    let (mut documents, mut findings) = (vec![], vec![]);
    for file in files {
        match beside::read(file) {
            Ok(text) => {
                let name = if file == "-" { "standard input" } else { file };
                let folder = beside::folder(file);
                let read = |path: &str| beside::read_beside(&folder, path);
                let beside = Beside {
                    folder: beside::folder_name(&folder),
                    env: beside::environment(),
                    read: &read,
                    selector: said.selector.clone(),
                };
                let (good, bad) = parse(name, &text, &beside);
                documents.extend(good);
                findings.extend(bad);
            }
            Err(message) => findings.push(Finding { file: file.clone(), line: None, path: String::new(), message }),
        }
    }
    findings.extend(documents.iter().flat_map(|d| judge(d).into_iter().chain(too_early(d))));
    if let Some(tenant) = &said.tenant {
        findings.extend(documents.iter_mut().filter_map(|d: &mut Document| d.for_tenant(tenant)));
    }
    findings.extend(twice(&documents));
    if findings.is_empty() { Ok(order::by_dependencies(documents)) } else { Err(findings) }
}

/// The good documents of one file, and what is wrong with the others.
fn parse(file: &str, text: &str, beside: &Beside<'_>) -> (Vec<Document>, Vec<Finding>) {
    let nodes = match Format::of(file, text) {
        Format::Yaml => yaml::read(text),
        Format::Toml => tomlfile::read(text),
        Format::Json => json::read(text),
    };
    let at = |line, message| Finding { file: file.to_owned(), line, path: String::new(), message };
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(Unreadable { line, message }) => return (vec![], vec![at(Some(line), message)]),
    };
    if nodes.is_empty() {
        return (vec![], vec![at(None, "holds no deployment".to_owned())]);
    }
    let (mut documents, mut findings) = (vec![], vec![]);
    for node in nodes {
        let read = if compose::is_one(&node) { translate(file, node, beside) } else { decode(file, node, beside) };
        match read {
            Ok(document) => documents.push(document),
            Err(found) => findings.extend(found),
        }
    }
    (documents, findings)
}

fn decode(file: &str, node: Node, beside: &Beside<'_>) -> Result<Document, Vec<Finding>> {
    let manifest = serde_path_to_error::deserialize(node.to_json());
    let says_tenant = node.get("metadata").is_some_and(|m| m.node.get("tenant").is_some());
    let origin = Origin::Native(node);
    let at = |path: &str, message| vec![finding(file, &origin, &FieldError { path: path.to_owned(), message })];
    let manifest = manifest.map_err(|err| {
        let path = err.path().to_string();
        at(if path == "." { "" } else { &path }, in_words(err.inner().to_string()))
    })?;
    if beside.selector.is_some() {
        return Err(at(
            "spec.selector",
            "is in the file; --device and -l are for Compose files, which have none".into(),
        ));
    }
    Ok(Document { file: file.to_owned(), origin, says_tenant, manifest, notes: vec![] })
}

/// A Compose file as a deployment.
fn translate(file: &str, node: Node, beside: &Beside<'_>) -> Result<Document, Vec<Finding>> {
    let line = node.line;
    let translated = compose::translate(node, beside);
    let tell = |found: Vec<compose::Found>| found.into_iter().map(|f| told(file, f.place, f.message)).collect();
    let mut notes: Vec<Finding> = tell(translated.doubts);
    let mut findings: Vec<Finding> = tell(translated.wrong);
    let origin = Origin::Translated(translated.places);
    let Some(manifest) = translated.manifest else { return Err(findings) };
    if translated.named_after_folder {
        let message =
            format!("is called {} after its folder: `name: …` at the top says it for good", manifest.metadata.name);
        notes.push(told(file, Place { line: Some(line), path: String::new() }, message));
    }
    if !findings.is_empty() {
        let problems = Deployment::from(manifest).problems();
        let more: Vec<_> = problems.iter().map(|p| finding(file, &origin, p)).collect();
        let told = |one: &Finding| findings.iter().any(|f| (f.line, &f.path) == (one.line, &one.path));
        let more: Vec<_> = more.into_iter().filter(|one| !told(one)).collect();
        findings.extend(more);
        findings.sort_by_key(|told| told.line);
        return Err(findings);
    }
    Ok(Document { file: file.to_owned(), origin, says_tenant: translated.says_tenant, manifest, notes })
}

/// What the contracts have against a document.
fn judge(document: &Document) -> Vec<Finding> {
    Deployment::from(document.manifest.clone()).problems().iter().map(|p| document.finding(p)).collect()
}

/// What does not exist in this version yet.
fn too_early(document: &Document) -> Vec<Finding> {
    Deployment::from(document.manifest.clone()).unsupported().iter().map(|p| document.finding(p)).collect()
}

/// The decoder speaks Rust; people do not. And YAML guesses types; people then wonder.
fn in_words(message: String) -> String {
    const WORDS: [(&str, &str); 5] = [
        ("expected u16", "expected a number from 0 to 65535"),
        ("expected u32", "expected a number from 0 to 4294967295"),
        ("expected u64", "expected a whole number"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected a map of fields"),
    ];
    let guessed =
        ["integer", "floating point", "boolean"].iter().any(|t| message.contains(&format!("invalid type: {t}")));
    if guessed && message.ends_with("expected a string") {
        return message + ": put it in quotes";
    }
    if let Some((before, _)) = message.split_once("expected struct ") {
        return format!("{before}expected a map of fields");
    }
    match WORDS.iter().find(|(rust, _)| message.ends_with(rust)) {
        Some((rust, words)) => message.replace(rust, words),
        None => message,
    }
}

/// JSON that we wrote ourselves, in its own order.
pub(crate) fn from_json(text: &str) -> Option<Node> {
    json::read(text).ok()?.pop()
}

/// What a YAML text says, to check what we write.
#[cfg(test)]
pub(crate) fn read_yaml(text: &str) -> Option<Vec<serde_json::Value>> {
    yaml::read(text).ok().map(|nodes| nodes.iter().map(Node::to_json).collect())
}

/// The same deployment twice in one call: only one could win.
fn twice(documents: &[Document]) -> Vec<Finding> {
    let mut seen = std::collections::BTreeMap::new();
    let again = |d: &Document| {
        let meta = &d.manifest.metadata;
        let place = d.origin.place("");
        let first = seen.insert((meta.tenant.clone(), meta.name.clone()), (d.file.clone(), place.line.unwrap_or(1)))?;
        let message = format!("deployment {} is given already, at {}:{}", meta.name, first.0, first.1);
        Some(d.at("metadata.name", message))
    };
    documents.iter().filter_map(again).collect()
}

#[cfg(test)]
mod tests;
