//! Files of variables, `.env` and those of `env_file`, as Compose reads them.
//!
//! Decides: what a line says. Deliberately does not: find the files, nor repeat in an error what stands there: it may be
//! a password.

use std::collections::BTreeMap;

use super::interpolate;

/// All values of a file together.
const BYTES_MAX: usize = 1 << 20;

/// One variable of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    /// Its name, as it is written.
    pub name: String,
    /// Its value; none where only the name stands there.
    pub value: Option<String>,
    /// From 1.
    pub line: usize,
}

/// A line that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// What Compose calls the format of such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Quotes, comments and variables mean something.
    Dotenv,
    /// Everything after `=` is the value.
    Raw,
}

/// The variables of a file, in its order. Variables in values are those of `lookup`, then those further up.
///
/// # Errors
/// With the first line that is wrong.
pub(super) fn read(
    text: &str,
    format: Format,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Variable>, Unreadable> {
    let mut found: Vec<Variable> = vec![];
    let (mut known, mut bytes) = (BTreeMap::<String, Option<String>>::new(), 0);
    let (mut rest, mut line) = (text.strip_prefix('\u{feff}').unwrap_or(text), 1);
    while !rest.is_empty() {
        let unreadable = |message: String| Unreadable { line, message };
        let (this, next) = rest.split_once('\n').unwrap_or((rest, ""));
        let mut after = next;
        let statement = this.trim();
        if !statement.is_empty() && !statement.starts_with('#') {
            let statement = statement.strip_prefix("export ").map_or(statement, str::trim_start);
            let (name, value) = statement.split_once('=').map_or((statement, None), |(n, v)| (n.trim_end(), Some(v)));
            if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "_.-".contains(c)) {
                return Err(unreadable("is not NAME=VALUE".into()));
            }
            let earlier = |name: &str| lookup(name).or_else(|| known.get(name).cloned().flatten());
            let value = match (value, format) {
                (None, _) => None,
                (Some(_), Format::Raw) => this.split_once('=').map(|(_, v)| v.trim_end_matches('\r').to_owned()),
                (Some(value), Format::Dotenv) => match value.trim_start().chars().next() {
                    Some(quote @ ('"' | '\'')) => {
                        let begin = rest.find(quote).expect("invariant: the quote was seen");
                        let (value, behind) = quoted(&rest[begin + 1..], quote).map_err(unreadable)?;
                        after = behind;
                        Some(if quote == '"' { expand(&value, &earlier).map_err(unreadable)? } else { value })
                    }
                    Some(_) | None => Some(expand(uncommented(value), &earlier).map_err(unreadable)?),
                },
            };
            bytes += value.as_ref().map_or(0, String::len);
            if bytes > BYTES_MAX {
                return Err(unreadable(format!("the values are more than {BYTES_MAX} bytes")));
            }
            known.insert(name.to_owned(), value.clone());
            found.push(Variable { name: name.to_owned(), value, line });
        }
        line += rest[..rest.len() - after.len()].matches('\n').count();
        rest = after;
    }
    Ok(found)
}

fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    interpolate::expand(text, lookup).map(|expanded| expanded.text)
}

/// A comment begins with `#` after a blank.
fn uncommented(value: &str) -> &str {
    let value = value.trim_start_matches([' ', '\t']);
    let begin = value.char_indices().find(|(at, c)| *c == '#' && (*at == 0 || value[..*at].ends_with([' ', '\t'])));
    value[..begin.map_or(value.len(), |(at, _)| at)].trim_end()
}

/// The text up to the closing quote, and what follows on the next line.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let (mut out, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match (chars.next().map(|(_, c)| c), quote) {
                (Some(c), _) if c == quote => out.push(c),
                (Some('n'), '"') => out.push('\n'),
                (Some('r'), '"') => out.push('\r'),
                (Some('t'), '"') => out.push('\t'),
                (Some('\\'), '"') => out.push('\\'),
                (Some('$'), '"') => out.push_str("$$"),
                (Some(c), _) => out.extend(['\\', c]),
                (None, _) => break,
            },
            c if c == quote => {
                let (line, after) = text[at + 1..].split_once('\n').unwrap_or((&text[at + 1..], ""));
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    return Ok((out, after));
                }
                return Err("something stands behind the closing quote".into());
            }
            c => out.push(c),
        }
    }
    Err(format!("the quote {quote} is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/me".to_owned())
    }

    fn values(text: &str) -> Vec<(String, Option<String>)> {
        read(text, Format::Dotenv, &lookup).unwrap().into_iter().map(|v| (v.name, v.value)).collect()
    }

    #[test]
    fn lines_quotes_comments_and_variables() {
        let cases = [
            ("A=b", "b"),
            ("A = b ", "b"),
            ("export A=b # comment", "b"),
            ("A=b# not one", "b# not one"),
            ("A=", ""),
            ("A=#nothing", ""),
            ("A='$HOME # it' # comment", "$HOME # it"),
            (r#"A="x\ty\"z\\ $HOME \$HOME""#, "x\ty\"z\\ /home/me $HOME"),
            (r"A=x\ty", r"x\ty"),
            (r"A='Let\'s go'", "Let's go"),
            ("A=${HOME}/x", "/home/me/x"),
            ("A=\"two\nlines\" # end", "two\nlines"),
            ("A=b\r", "b"),
        ];
        for (text, want) in cases {
            assert_eq!(values(text), [("A".to_owned(), Some(want.to_owned()))], "{text}");
        }
        let text = "# first\nA=1\n\nB='x\ny'\nC\nD=$A-$B\n";
        let lines: Vec<_> =
            read(text, Format::Dotenv, &lookup).unwrap().into_iter().map(|v| (v.line, v.value)).collect();
        let want = [(2, Some("1")), (4, Some("x\ny")), (6, None), (7, Some("1-x\ny"))];
        assert_eq!(lines, want.map(|(line, v)| (line, v.map(str::to_owned))));
        let raw = read("A='x' # $y\n", Format::Raw, &lookup).unwrap();
        assert_eq!(raw[0].value.as_deref(), Some("'x' # $y"));
    }

    #[test]
    fn what_cannot_be_read_names_its_line() {
        let doubling = format!("A=x\n{}", "A=$A$A\n".repeat(30));
        let long = format!("A={}\n", "x".repeat(60_000)).repeat(20);
        let cases = [
            ("A=1\nB: 2\n", 2, "is not NAME=VALUE"),
            ("=1", 1, "is not NAME=VALUE"),
            ("A='x", 1, "the quote ' is not closed"),
            ("A='x'y", 1, "something stands behind the closing quote"),
            (&doubling, 18, "becomes longer than 65536 bytes"),
            (&long, 18, "the values are more than 1048576 bytes"),
            ("\nA=${B", 2, "${B is not closed or not understood; for a dollar sign write $$"),
        ];
        for (text, line, message) in cases {
            let want = Unreadable { line, message: message.to_owned() };
            assert_eq!(read(text, Format::Dotenv, &lookup), Err(want), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[A-B='\"\\\\$#{} é\\n\\r]{0,60}") {
            let _ = read(&text, Format::Dotenv, &lookup);
            let _ = read(&text, Format::Raw, &lookup);
        }
    }
}
