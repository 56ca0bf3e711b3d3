//! YAML 1.2 (core schema) into nodes. Anchors and aliases work and are bounded; tags other than `!!str` and merge keys do not.

use std::{borrow::Cow, collections::BTreeMap};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Number;

use super::{
    Unreadable,
    node::{Content, Entry, Node},
};

/// Deeper nesting is refused: a manifest needs eight levels.
const DEPTH_MAX: usize = 64;
/// More values than this are refused, aliases counted as often as they are used.
const NODES_MAX: usize = 100_000;

/// All documents of a file; empty ones are left out.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Unreadable> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut build = Builder::default();
    let mut line = 1;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|err| scan_error(&err, line))?;
        line = span.start.line();
        build.take(event, span)?;
    }
    Ok(build.documents)
}

fn scan_error(err: &ScanError, line: usize) -> Unreadable {
    // A parser that gives up at the very end has no place of its own.
    let at = err.marker().line().max(1);
    let at = if at == 1 { line.max(at) } else { at };
    Unreadable { line: at, message: format!("not YAML: {}", err.info()) }
}

/// A list or map that is not closed yet.
struct Open {
    line: usize,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, usize)> },
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Unreadable> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let content = scalar(text, style, tag.as_deref()).map_err(|message| Unreadable { line, message })?;
                self.close(Node { line, content }, anchor)
            }
            Event::SequenceStart(anchor, tag) => self.open(line, anchor, tag.as_deref(), OpenKind::List(vec![])),
            Event::MappingStart(anchor, tag) => {
                self.open(line, anchor, tag.as_deref(), OpenKind::Map { entries: vec![], key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { line, anchor, kind } = self.open.pop().expect("invariant: the parser closes what it opened");
                let content = match kind {
                    OpenKind::List(items) => Content::List(items),
                    OpenKind::Map { entries, .. } => {
                        no_duplicate(&entries)?;
                        Content::Map(entries)
                    }
                };
                self.close(Node { line, content }, anchor)
            }
            Event::Alias(anchor) => {
                let missing = || Unreadable { line, message: "an alias may not be inside what it stands for".into() };
                let node = self.anchors.get(&anchor).cloned().ok_or_else(missing)?;
                self.count(size(&node), line)?;
                self.close(node, 0)
            }
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, line: usize, anchor: usize, tag: Option<&Tag>, kind: OpenKind) -> Result<(), Unreadable> {
        if let Some(tag) = tag {
            return Err(Unreadable { line, message: format!("the tag {} is not supported", shown(tag)) });
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(Unreadable { line, message: format!("nested deeper than {DEPTH_MAX} levels") });
        }
        self.open.push(Open { line, anchor, kind });
        Ok(())
    }

    /// A value is whole: put it where it belongs.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Unreadable> {
        self.count(1, node.line)?;
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            if node.content != Content::Null {
                self.documents.push(node);
            }
            return Ok(());
        };
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { entries, key } => match key.take() {
                None => *key = Some((name(&node)?, node.line)),
                Some((key, line)) => entries.push(Entry { key, line, node }),
            },
        }
        Ok(())
    }

    fn count(&mut self, more: usize, line: usize) -> Result<(), Unreadable> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES_MAX {
            return Err(Unreadable { line, message: format!("more than {NODES_MAX} values, aliases counted") });
        }
        Ok(())
    }
}

pub(super) fn no_duplicate(entries: &[Entry]) -> Result<(), Unreadable> {
    match Node::duplicate(entries) {
        None => Ok(()),
        Some((first, again)) => {
            let message = format!("`{}` is given twice, first on line {}", again.key, first.line);
            Err(Unreadable { line: again.line, message })
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.content {
        Content::List(items) => items.iter().map(size).sum::<usize>(),
        Content::Map(entries) => entries.iter().map(|e| size(&e.node)).sum(),
        Content::Null | Content::Bool(_) | Content::Number(..) | Content::Text(_) => 0,
    }
}

fn name(node: &Node) -> Result<String, Unreadable> {
    match &node.content {
        Content::Text(text) => Ok(text.clone()),
        Content::Bool(b) => Ok(b.to_string()),
        Content::Number(n, _) => Ok(n.to_string()),
        Content::Null | Content::List(_) | Content::Map(_) => {
            Err(Unreadable { line: node.line, message: "a name is a text, not a list, a map or nothing".into() })
        }
    }
}

fn shown(tag: &Tag) -> String {
    match tag.handle.as_str() {
        "tag:yaml.org,2002:" => format!("!!{}", tag.suffix),
        handle => format!("{handle}{}", tag.suffix),
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Content, String> {
    match tag.map(shown).as_deref() {
        None if style == ScalarStyle::Plain => Ok(plain(text)),
        None | Some("!!str" | "!") => Ok(Content::Text(text.into_owned())),
        Some(other) => Err(format!("the tag {other} is not supported")),
    }
}

/// What a text without quotes is, by YAML's core schema.
fn plain(text: Cow<'_, str>) -> Content {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => Content::Null,
        "true" | "True" | "TRUE" => Content::Bool(true),
        "false" | "False" | "FALSE" => Content::Bool(false),
        other => match number(other) {
            Some(n) => Content::Number(n, text.into_owned()),
            None => Content::Text(text.into_owned()),
        },
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().filter(|_| !digits.starts_with('+')).map(Number::from);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !unsigned.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
        || !unsigned.bytes().any(|b| b.is_ascii_digit())
    {
        return None;
    }
    let whole = text.strip_prefix('+').unwrap_or(text);
    whole
        .parse::<u64>()
        .map(Number::from)
        .or_else(|_| whole.parse::<i64>().map(Number::from))
        .ok()
        .or_else(|| whole.parse::<f64>().ok().and_then(Number::from_f64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> serde_json::Value {
        read(text).unwrap()[0].to_json()
    }

    fn error(text: &str) -> (usize, String) {
        let err = read(text).unwrap_err();
        (err.line, err.message)
    }

    #[test]
    fn plain_texts_follow_the_core_schema() {
        assert_eq!(
            one("[1, -2, +3, 0x1F, 0o17, 1.5, 1e3, true, no, ~, 'x', \"1\", 1.2.3, 1-2, !!str 8, 02:00, .5]"),
            json!([1, -2, 3, 31, 15, 1.5, 1000.0, true, "no", null, "x", "1", "1.2.3", "1-2", "8", "02:00", 0.5])
        );
    }

    #[test]
    fn documents_aliases_and_block_texts() {
        let docs = read("---\na: &x [1, 2]\nb: *x\n---\n# nothing\n---\nc: |\n  one\n  two\n").unwrap();
        assert_eq!(docs.len(), 2);
        assert_eq!(docs[0].to_json(), json!({"a": [1, 2], "b": [1, 2]}));
        assert_eq!((docs[1].to_json(), docs[1].line), (json!({"c": "one\ntwo\n"}), 7));
        assert_eq!(read("").unwrap(), vec![]);
    }

    #[test]
    fn what_is_not_accepted_names_its_line() {
        assert_eq!(error("a: 1\nb:\n  c: 1\n  c: 2\n"), (4, "`c` is given twice, first on line 3".into()));
        assert_eq!(error("a: 1\nb: !secret x\n"), (2, "the tag !secret is not supported".into()));
        assert_eq!(error("a: 1\n[b]: 2\n").0, 2);
        assert_eq!(error("a: &x [*x]\n"), (1, "an alias may not be inside what it stands for".into()));
        let (line, message) = error("a: 1\nb: [1, 2\nc: 3\n");
        assert!(message.starts_with("not YAML: "), "{message}");
        assert!((2..=4).contains(&line), "{line}");
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
        for i in 1..12 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        assert!(error(&bomb).1.starts_with("more than 100000 values"));
        assert_eq!(error(&"[".repeat(100)).1, "nested deeper than 64 levels");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-a-c:\\[\\]{}&*!|>#'\"~ \\n\\t0-9.,?%@]{0,80}") {
            let _ = read(&text);
        }
    }
}
