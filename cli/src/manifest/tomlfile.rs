//! TOML into nodes. One document a file; dates are read as texts.

use serde_json::Number;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    Unreadable,
    node::{Content, Entry, Node},
};

/// The document of a file; none when it says nothing.
pub(super) fn read(text: &str) -> Result<Vec<Node>, Unreadable> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::of(text);
    let table = DeTable::parse(text).map_err(|err| {
        let line = err.span().map_or(1, |span| lines.at(span.start));
        Unreadable { line, message: format!("not TOML: {}", err.message()) }
    })?;
    let content = map(table.get_ref(), &lines)?;
    let Content::Map(entries) = &content else { unreachable!("invariant: a table is a map") };
    Ok(if entries.is_empty() { vec![] } else { vec![Node { line: 1, content }] })
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i).collect())
    }
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

fn map(table: &DeTable<'_>, lines: &Lines) -> Result<Content, Unreadable> {
    let entry = |(key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
        let line = lines.at(key.span().start);
        Ok(Entry { key: key.get_ref().to_string(), line, node: node(value, lines)? })
    };
    let mut entries = table.iter().map(entry).collect::<Result<Vec<_>, Unreadable>>()?;
    entries.sort_by_key(|e| e.line);
    Ok(Content::Map(entries))
}

fn node(value: &Spanned<DeValue<'_>>, lines: &Lines) -> Result<Node, Unreadable> {
    let line = lines.at(value.span().start);
    let bad = |what: &str| Unreadable { line, message: format!("{what} is too large to be read") };
    let content = match value.get_ref() {
        DeValue::String(text) => Content::Text(text.to_string()),
        DeValue::Integer(n) => {
            let whole = i64::from_str_radix(n.as_str(), n.radix()).map_err(|_| bad("the number"))?;
            Content::Number(whole.into(), whole.to_string())
        }
        DeValue::Float(n) => {
            let number = n.as_str().parse().ok().and_then(Number::from_f64);
            Content::Number(number.ok_or_else(|| bad("the number"))?, n.as_str().to_owned())
        }
        DeValue::Boolean(b) => Content::Bool(*b),
        DeValue::Datetime(at) => Content::Text(at.to_string()),
        DeValue::Array(items) => Content::List(items.iter().map(|item| node(item, lines)).collect::<Result<_, _>>()?),
        DeValue::Table(table) => map(table, lines)?,
    };
    Ok(Node { line, content })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_names_and_their_lines() {
        let text = "a = 1\nb.c = [1.5, true,\n 'x']\n[d]\ne = 0x10\n[[f]]\ng = 1\n[[f]]\ng = 2\n";
        let doc = read(text).unwrap().remove(0);
        assert_eq!(
            doc.to_json(),
            json!({"a": 1, "b": {"c": [1.5, true, "x"]}, "d": {"e": 16}, "f": [{"g": 1}, {"g": 2}]})
        );
        let lines = ["a", "b.c", "b.c[2]", "d", "d.e", "f[0].g", "f[1]", "f[1].g"].map(|path| doc.locate(path));
        assert_eq!(lines, [1, 2, 3, 4, 5, 7, 8, 9]);
        assert_eq!(read("# nothing\n").unwrap(), vec![]);
    }

    #[test]
    fn errors_name_the_line() {
        let err = read("a = 1\na = 2\n").unwrap_err();
        assert_eq!((err.line, err.message.as_str()), (2, "not TOML: duplicate key"));
        assert_eq!(read("a = 1\nb = \n").unwrap_err().line, 2);
    }
}
