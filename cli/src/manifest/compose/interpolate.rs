//! Variables in texts, as Compose has them: `$A`, `${A}`, `${A:-default}`, `${A?message}`, `${A:+instead}`, `$$`.
//!
//! Decides: what a text means, given the variables. Values are not looked into again: what a variable holds is itself.

/// Nesting beyond this is refused.
const DEPTH_MAX: usize = 16;
/// A longer result is refused.
const BYTES_MAX: usize = 64 << 10;

/// What was found while a text was read.
pub(super) struct Expanded {
    /// The text.
    pub text: String,
    /// Variables that are not set and have no default: an empty text stands for them.
    pub unset: Vec<String>,
}

/// The text with its variables replaced.
///
/// # Errors
/// In words: a variable that must be set is not, or it cannot be read.
pub(super) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, String> {
    let mut state = State { lookup, unset: vec![] };
    let text = state.expand(text, DEPTH_MAX)?;
    Ok(Expanded { text, unset: state.unset })
}

struct State<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    unset: Vec<String>,
}

impl State<'_> {
    fn expand(&mut self, text: &str, depth: usize) -> Result<String, String> {
        if depth == 0 {
            return Err(format!("variables are nested deeper than {DEPTH_MAX} levels"));
        }
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let name = name_of(after);
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(inside) = after.strip_prefix('{') {
                let end = closing(inside).ok_or_else(|| unreadable(name_of(inside)))?;
                out.push_str(&self.braced(&inside[..end], depth)?);
                rest = &inside[end + 1..];
            } else if name.is_empty() {
                out.push('$');
                rest = after;
            } else {
                out.push_str(&self.plain(name));
                rest = &after[name.len()..];
            }
            if out.len() > BYTES_MAX {
                return Err(format!("becomes longer than {BYTES_MAX} bytes"));
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn plain(&mut self, name: &str) -> String {
        (self.lookup)(name).unwrap_or_else(|| {
            self.unset.push(name.to_owned());
            String::new()
        })
    }

    /// What is between the braces.
    fn braced(&mut self, inside: &str, depth: usize) -> Result<String, String> {
        let name = name_of(inside);
        if name.is_empty() {
            return Err(unreadable(name));
        }
        let rest = &inside[name.len()..];
        if rest.is_empty() {
            return Ok(self.plain(name));
        }
        let (colon, rest) = rest.strip_prefix(':').map_or((false, rest), |rest| (true, rest));
        // With a colon an empty value counts as none.
        let value = (self.lookup)(name).filter(|value| !colon || !value.is_empty());
        let mut operator = rest.chars();
        match (operator.next(), value) {
            (Some('-' | '?'), Some(value)) => Ok(value),
            (Some('-'), None) | (Some('+'), Some(_)) => self.expand(operator.as_str(), depth - 1),
            (Some('+'), None) => Ok(String::new()),
            (Some('?'), None) => {
                let why = self.expand(operator.as_str(), depth - 1)?;
                let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                Err(format!("the variable {name} must be set{why}"))
            }
            (Some(_) | None, _) => Err(unreadable(name)),
        }
    }
}

/// Names only the variable: what else stands there may be a password.
fn unreadable(name: &str) -> String {
    format!("${{{name} is not closed or not understood; for a dollar sign write $$")
}

/// The variable's name that a text begins with; empty when with none.
fn name_of(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) { "" } else { &text[..end] }
}

/// Where the brace is closed that was opened before this text.
fn closing(text: &str) -> Option<usize> {
    let (mut open, mut after_dollar) = (1usize, false);
    for (at, c) in text.bytes().enumerate() {
        match c {
            b'{' if after_dollar => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
        after_dollar = c == b'$' && !after_dollar;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        [("SET", "value"), ("EMPTY", ""), ("DOLLAR", "$SET")]
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| (*v).to_owned())
    }

    #[test]
    fn as_compose_says() {
        let cases = [
            ("plain", "plain"),
            ("$SET-${SET}.", "value-value."),
            ("${EMPTY:-d} ${EMPTY-d}|${NONE-d}", "d |d"),
            ("${SET:+yes}${EMPTY:+no}${EMPTY+yes}${NONE+no}", "yesyes"),
            ("${SET:?must} ${EMPTY?must}", "value "),
            ("${NONE:-${SET}} ${NONE:-${NO-${SET:-x}}}", "value value"),
            ("$$SET $${SET} $$$SET", "$SET ${SET} $value"),
            ("$5 a$ $-", "$5 a$ $-"),
            ("${NONE:-a:b/c-d}", "a:b/c-d"),
            ("$DOLLAR ${NONE:-$$x}", "$SET $x"),
            ("${NONE:-}", ""),
        ];
        for (text, want) in cases {
            let got = expand(text, &lookup).unwrap();
            assert_eq!((got.text.as_str(), got.unset.len()), (want, 0), "{text}");
        }
        let got = expand("[$NONE${NO}]", &lookup).unwrap();
        assert_eq!((got.text.as_str(), got.unset), ("[]", vec!["NONE".to_owned(), "NO".to_owned()]));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let error = |text: &str| expand(text, &lookup).err().unwrap();
        assert_eq!(error("${NONE:?set it to $SET}"), "the variable NONE must be set: set it to value");
        assert_eq!(error("${EMPTY:?}"), "the variable EMPTY must be set");
        for text in ["${", "${}", "${SET", "${SET/a/b}", "${1}", "${SET:x}", "${NONE:-${SET}"] {
            assert!(error(text).ends_with("is not closed or not understood; for a dollar sign write $$"), "{text}");
        }
        assert!(error(&"${A:-".repeat(40).to_string()).contains("is not closed"));
        assert!(error(&format!("{}{}", "${A:-".repeat(40), "}".repeat(40))).contains("nested deeper"));
        let long = |_: &str| Some("x".repeat(1000));
        assert!(expand(&"$A".repeat(2000), &long).err().unwrap().contains("longer than"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[$A-C{}:?+é \\-]{0,60}") {
            let _ = expand(&text, &lookup);
        }
    }
}
