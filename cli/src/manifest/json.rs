//! JSON into nodes, by serde_json: raw values are parts of the text, so where they begin is where they stand.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Unreadable,
    node::{Content, Entry, Node},
    yaml::no_duplicate,
};

/// Deeper nesting is refused.
const DEPTH_MAX: usize = 64;

/// The document of a file.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Unreadable> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Ok(vec![]);
    }
    let raw: &RawValue = serde_json::from_str(text).map_err(|err| {
        let message = err.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Unreadable { line: err.line().max(1), message: format!("not JSON: {message}") }
    })?;
    Ok(vec![node(raw, text, DEPTH_MAX)?])
}

fn node<'t>(raw: &'t RawValue, text: &'t str, depth: usize) -> Result<Node, Unreadable> {
    let at = offset(raw, text);
    let line = line_of(text, at);
    if depth == 0 {
        return Err(Unreadable { line, message: format!("nested deeper than {DEPTH_MAX} levels") });
    }
    let unreadable = |err: serde_json::Error| Unreadable { line, message: format!("not JSON: {err}") };
    let content = match raw.get().as_bytes()[0] {
        b'{' => {
            let Pairs(pairs) = serde_json::from_str(raw.get()).map_err(unreadable)?;
            let entry = |(key, raw): (String, &'t RawValue)| {
                let line = key_line(text, offset(raw, text));
                Ok(Entry { key, line, node: node(raw, text, depth - 1)? })
            };
            let entries = pairs.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
            no_duplicate(&entries)?;
            Content::Map(entries)
        }
        b'[' => {
            let Items(items) = serde_json::from_str(raw.get()).map_err(unreadable)?;
            Content::List(items.into_iter().map(|raw| node(raw, text, depth - 1)).collect::<Result<_, _>>()?)
        }
        b'"' => Content::Text(serde_json::from_str(raw.get()).map_err(unreadable)?),
        b't' => Content::Bool(true),
        b'f' => Content::Bool(false),
        b'n' => Content::Null,
        0..=u8::MAX => Content::Number(serde_json::from_str(raw.get()).map_err(unreadable)?, raw.get().to_owned()),
    };
    Ok(Node { line, content })
}

/// Raw values borrow from the text: their address says where they are.
fn offset(raw: &RawValue, text: &str) -> usize {
    (raw.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len())
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count() + 1
}

/// The line of the name before the value at `offset`.
fn key_line(text: &str, offset: usize) -> usize {
    line_of(text, text[..offset].trim_end_matches([' ', '\t', '\r', '\n', ':']).len())
}

struct Pairs<'t>(Vec<(String, &'t RawValue)>);
struct Items<'t>(Vec<&'t RawValue>);

impl<'de: 't, 't> Deserialize<'de> for Pairs<'t> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = vec![];
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        d.deserialize_map(Each).map(Self)
    }
}

impl<'de: 't, 't> Deserialize<'de> for Items<'t> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Vec<&'de RawValue>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = vec![];
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(items)
            }
        }
        d.deserialize_seq(Each).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_names_and_their_lines() {
        let text = "{\n\t\"a\": [1, -2.5, true,\n null],\n \"b\"\n: {\"c\": \"\\ud83d\\ude00\"}\n}\n";
        let doc = read(text).unwrap().remove(0);
        assert_eq!(doc.to_json(), json!({"a": [1, -2.5, true, null], "b": {"c": "😀"}}));
        let lines = ["a", "a[3]", "b", "b.c"].map(|path| doc.locate(path));
        assert_eq!(lines, [2, 3, 4, 5]);
    }

    #[test]
    fn errors_name_the_line() {
        let err = read("{\n \"a\": 1,\n \"a\": 2\n}").unwrap_err();
        assert_eq!((err.line, err.message.as_str()), (3, "`a` is given twice, first on line 2"));
        let err = read("{\n \"a\": ,\n}").unwrap_err();
        assert_eq!((err.line, err.message.as_str()), (2, "not JSON: expected value"));
        assert_eq!(read(&"[".repeat(300)).unwrap_err().line, 1);
        let deep = "[".repeat(70) + &"]".repeat(70);
        assert_eq!(read(&deep).unwrap_err().message, "nested deeper than 64 levels");
    }
}
