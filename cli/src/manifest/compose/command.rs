//! `command` and `entrypoint`: a list of words, or one text that is split into words, by quotes and without a shell.

use super::cursor::{At, Findings};

/// The words, or none where the image's own stay.
pub(super) fn words(at: &At<'_>, f: &mut Findings) -> Option<Vec<String>> {
    if at.is_null() {
        return None;
    }
    if at.is_list() {
        return Some(at.items(f).iter().filter_map(|item| item.text(f)).collect());
    }
    let text = at.text(f)?;
    split(&text).map_err(|why| at.wrong(f, why)).ok()
}

/// What only a shell understands; Compose starts none.
const SHELL: &str = ";&|<>()`";

/// The words of a text. Quotes and backslashes keep blanks together.
fn split(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word): (Vec<String>, Option<String>) = (vec![], None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            Some(next @ ('"' | '\\' | '$' | '`')) => word.push(next),
                            Some('\n') => {}
                            Some(next) => word.extend(['\\', next]),
                            None => return Err(format!("the quote {c} is not closed")),
                        },
                        Some(inside) => word.push(inside),
                        None => return Err(format!("the quote {c} is not closed")),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("ends with a backslash".into()),
            },
            c if c.is_whitespace() => words.extend(word.take()),
            c if SHELL.contains(c) => {
                let how = "put it in quotes, or write [\"/bin/sh\", \"-c\", \"…\"]";
                return Err(format!("no shell reads this, so {c} is not what it seems: {how}"));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_shell_would_and_nothing_that_only_a_shell_could() {
        let cases: [(&str, &[&str]); 7] = [
            ("  serve --port 80\n --x ", &["serve", "--port", "80", "--x"]),
            (r#"sh -c "echo \"a b\" && exit""#, &["sh", "-c", "echo \"a b\" && exit"]),
            ("a'b c'd '' \"\"", &["ab cd", "", ""]),
            (r"a\ b \\ \'", &["a b", "\\", "'"]),
            (r#""\n\$x" '\n'"#, &["\\n$x", "\\n"]),
            ("a \\\n b #c", &["a", "b", "#c"]),
            ("", &[]),
        ];
        for (text, want) in cases {
            assert_eq!(split(text).unwrap(), want, "{text}");
        }
        assert!(split("a && b").unwrap_err().contains("so & is not"));
        assert_eq!(split("a 'b").unwrap_err(), "the quote ' is not closed");
        assert_eq!(split("a \"b\\").unwrap_err(), "the quote \" is not closed");
        assert_eq!(split("a\\").unwrap_err(), "ends with a backslash");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a '\"\\\\$;é\\n]{0,60}") {
            let _ = split(&text);
        }
    }
}
