//! Manifests in files: read, decoded, judged; every finding names file, line and field.
//!
//! One way for all formats: a reader per format makes nodes that know their lines, one decoder turns nodes into the
//! contracts' types, and the contracts judge. Deliberately does not: know what a field means.

mod json;
pub(crate) mod node;
mod tomlfile;
mod yaml;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};

use bramble_contracts::{
    Tenant,
    problem::FieldError,
    v1::{Deployment, Manifest},
};

use node::Node;

/// The coordinator takes no larger deployment; a file may hold several.
const FILE_BYTES_MAX: u64 = 1 << 20;

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

/// A deployment and where it came from.
#[derive(Debug)]
pub(crate) struct Document {
    file: String,
    node: Node,
    /// What it says.
    pub manifest: Manifest,
}

impl Document {
    /// Something is wrong at this path, as the coordinator or we say.
    pub(crate) fn finding(&self, error: &FieldError) -> Finding {
        finding(&self.file, &self.node, &error.path, error.message.clone())
    }

    /// Fills in the tenant that was asked for, unless the file itself says another.
    fn for_tenant(&mut self, tenant: &Tenant) -> Option<Finding> {
        let meta = &mut self.manifest.metadata;
        if meta.tenant == *tenant {
            return None;
        }
        if self.node.get("metadata").is_some_and(|m| m.node.get("tenant").is_some()) {
            let said = "--tenant (or BRAMBLE_TENANT, or your configuration)";
            let message = format!("is {}, but {said} says {tenant}", meta.tenant);
            return Some(finding(&self.file, &self.node, "metadata.tenant", message));
        }
        meta.tenant = tenant.clone();
        None
    }
}

fn finding(file: &str, node: &Node, path: &str, message: String) -> Finding {
    Finding { file: file.to_owned(), line: Some(node.locate(path)), path: path.to_owned(), message }
}

/// Every deployment of these files, in order; or everything that is wrong with them. `-` is standard input. Those
/// that do not say their tenant are for this one, where one is given.
pub(crate) fn load(files: &[String], tenant: Option<&Tenant>) -> Result<Vec<Document>, Vec<Finding>> {
    let (mut documents, mut findings) = (vec![], vec![]);
    for file in files {
        match read(file) {
            Ok(text) => {
                let name = if file == "-" { "standard input" } else { file };
                let (good, bad) = parse(name, &text);
                documents.extend(good);
                findings.extend(bad);
            }
            Err(message) => findings.push(Finding { file: file.clone(), line: None, path: String::new(), message }),
        }
    }
    if let Some(tenant) = tenant {
        findings.extend(documents.iter_mut().filter_map(|d: &mut Document| d.for_tenant(tenant)));
    }
    findings.extend(twice(&documents));
    if findings.is_empty() { Ok(documents) } else { Err(findings) }
}

fn read(file: &str) -> Result<String, String> {
    let mut bytes = vec![];
    let limit = FILE_BYTES_MAX + 1;
    if file == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|f| f.take(limit).read_to_end(&mut bytes))
    }
    .map_err(|err| match err.kind() {
        io::ErrorKind::IsADirectory => "is a directory: name the files in it".to_owned(),
        _ => format!("cannot be read: {err}"),
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes: split it"));
    }
    String::from_utf8(bytes).map_err(|err| format!("is not UTF-8 at byte {}", err.utf8_error().valid_up_to()))
}

/// The good documents of one file, and what is wrong with the others.
fn parse(file: &str, text: &str) -> (Vec<Document>, Vec<Finding>) {
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
        match decode(file, node) {
            Ok(document) => documents.push(document),
            Err(found) => findings.extend(found),
        }
    }
    (documents, findings)
}

fn decode(file: &str, node: Node) -> Result<Document, Vec<Finding>> {
    if node.get("services").is_some() && node.get("apiVersion").is_none() {
        let message = "this looks like a Compose file. Compose files come later: write it as a Deployment (apiVersion: bramble/v1)";
        return Err(vec![finding(file, &node, "services", message.to_owned())]);
    }
    let manifest: Manifest = serde_path_to_error::deserialize(node.to_json()).map_err(|err| {
        let path = match err.path().to_string() {
            path if path == "." => String::new(),
            path => path,
        };
        vec![finding(file, &node, &path, in_words(err.inner().to_string()))]
    })?;
    let deployment = Deployment::from(manifest.clone());
    let problems = deployment.problems().into_iter().chain(deployment.unsupported());
    let found: Vec<_> = problems.map(|p| finding(file, &node, &p.path, p.message)).collect();
    if found.is_empty() { Ok(Document { file: file.to_owned(), node, manifest }) } else { Err(found) }
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
        let first = seen.insert((meta.tenant.clone(), meta.name.clone()), (d.file.clone(), d.node.line))?;
        let message = format!("deployment {} is given already, at {}:{}", meta.name, first.0, first.1);
        Some(finding(&d.file, &d.node, "metadata.name", message))
    };
    documents.iter().filter_map(again).collect()
}

#[cfg(test)]
mod tests;
