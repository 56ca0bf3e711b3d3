//! Values as YAML that reads back as the same: block style, texts quoted wherever that could be in doubt.

use serde_json::Value;

use crate::manifest::node::{Content, Node};

/// One document.
pub(crate) fn to_yaml(node: &Node) -> String {
    let mut out = String::new();
    write(&mut out, node, 0, At::Top);
    out
}

/// Where a value stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the beginning of a line.
    Top,
    /// After `name:`.
    Name,
    /// After `- `.
    Item,
}

fn write(out: &mut String, node: &Node, depth: usize, at: At) {
    let one = match &node.content {
        Content::Map(entries) if !entries.is_empty() => {
            for (i, entry) in entries.iter().enumerate() {
                begin(out, depth, i, at);
                out.push_str(&text(&entry.key));
                out.push(':');
                write(out, &entry.node, depth + 1, At::Name);
            }
            return;
        }
        Content::List(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                begin(out, depth, i, at);
                out.push('-');
                write(out, item, depth + 1, At::Item);
            }
            return;
        }
        Content::Map(_) => "{}".to_owned(),
        Content::List(_) => "[]".to_owned(),
        Content::Null => "null".to_owned(),
        Content::Bool(b) => b.to_string(),
        Content::Number(n, _) => n.to_string(),
        Content::Text(t) => text(t),
    };
    if at != At::Top {
        out.push(' ');
    }
    out.push_str(&one);
    out.push('\n');
}

/// Goes to where an entry begins: on the same line after `- `, else on a line of its own.
fn begin(out: &mut String, depth: usize, index: usize, at: At) {
    match (at, index) {
        (At::Item, 0) => out.push(' '),
        (At::Name, 0) => {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        }
        (At::Top | At::Name | At::Item, _) => out.push_str(&"  ".repeat(depth)),
    }
}

/// As it is where nothing else could be read from it, else in double quotes.
fn text(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " -_./@+".contains(c))
        && !text.ends_with(' ');
    let word = text.to_ascii_lowercase();
    let special = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&word.as_str());
    if plain && !special { text.to_owned() } else { Value::String(text.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::from_json;

    #[test]
    fn it_looks_as_people_write_it() {
        let text = r#"{"z": 1, "a": [{"b": 1, "c": []}, "x: y", [1]], "d": {}, "e": {"f": null, "g": "no"}}"#;
        assert_eq!(
            to_yaml(&from_json(text).unwrap()),
            "z: 1\na:\n  - b: 1\n    c: []\n  - \"x: y\"\n  - - 1\nd: {}\ne:\n  f: null\n  g: \"no\"\n"
        );
    }

    fn values() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-zA-Z0-9:#'\"~! \\n\\t\\-\\[\\]{}&*é.,?%@|>]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z :#\\-0-9]{0,6}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn it_reads_back_as_the_same(value in values()) {
            let text = to_yaml(&from_json(&value.to_string()).unwrap());
            let read = crate::manifest::read_yaml(&text).unwrap();
            let read = read.first().cloned().unwrap_or(Value::Null);
            proptest::prop_assert_eq!(read, value, "{}", text);
        }
    }
}
