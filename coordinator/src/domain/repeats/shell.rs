//! Enough of a shell script to see which commands it runs, and whether it matters that one of them fails.
//!
//! Decides: where a command begins and ends, and what guards it. Deliberately does not: expand, nor judge a command.
//! What it does not understand it passes over: its findings are warnings.

/// One command of a script.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// Its words, without quotes; text that is fed to it (`<<EOF`) is one of them.
    pub words: Vec<String>,
    /// Files that it appends to.
    pub appends: Vec<String>,
    /// Whether it runs at all depends on a check before it.
    pub guarded: bool,
    /// Its failure ends the script, or is the script's.
    pub matters: bool,
}

/// What ends a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    And,
    Or,
    Other,
}

/// The commands of a script, in order. `strict`: the shell was told to end at the first failure (`-e`).
pub(super) fn commands(script: &str, strict: bool) -> Vec<Command> {
    let mut reader = Reader { rest: script, done: vec![], this: Command::default(), fed: vec![] };
    while reader.step() {}
    reader.end(End::Other);
    judged(reader.done, strict)
}

struct Reader<'s> {
    rest: &'s str,
    done: Vec<(Command, End)>,
    this: Command,
    /// Ends of texts that follow on the next lines.
    fed: Vec<String>,
}

impl Reader<'_> {
    /// Reads one operator or word; false at the end.
    fn step(&mut self) -> bool {
        const OPERATORS: [(&str, End); 8] = [
            ("&&", End::And),
            ("||", End::Or),
            (";", End::Other),
            ("|", End::Other),
            ("&", End::Other),
            ("(", End::Other),
            (")", End::Other),
            ("\n", End::Other),
        ];
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
        if self.rest.is_empty() {
            return false;
        }
        if self.rest.starts_with('#') {
            self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
            return true;
        }
        if let Some((text, end)) = OPERATORS.iter().find(|(text, _)| self.rest.starts_with(text)) {
            self.rest = &self.rest[text.len()..];
            if *text == "\n" {
                self.feed();
            }
            self.end(*end);
            return true;
        }
        let unnumbered = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        if unnumbered.starts_with(['<', '>']) {
            self.rest = unnumbered;
            self.redirection();
        } else {
            let word = self.word();
            self.this.words.push(word);
        }
        true
    }

    fn redirection(&mut self) {
        let operator = ["<<<", "<<-", "<<", ">>", ">&", "<&", ">|", ">", "<"];
        let operator = operator.into_iter().find(|text| self.rest.starts_with(text)).unwrap_or("<");
        self.rest = self.rest[operator.len()..].trim_start_matches([' ', '\t']);
        let word = self.word();
        match operator {
            ">>" => self.this.appends.push(word),
            "<<" | "<<-" => self.fed.push(word),
            "<<<" => self.this.words.push(word),
            _ => {}
        }
    }

    /// Takes the lines that belong to `<<` of the line before.
    fn feed(&mut self) {
        for end in std::mem::take(&mut self.fed) {
            let mut text = String::new();
            while !self.rest.is_empty() {
                let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
                self.rest = rest;
                if line.trim() == end {
                    break;
                }
                text.extend([line, "\n"]);
            }
            self.this.words.push(text);
        }
    }

    /// A word, its quotes taken away.
    fn word(&mut self) -> String {
        let mut word = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => word.extend(chars.next().map(|(_, c)| c).filter(|c| *c != '\n')),
                '\'' | '"' => {
                    while let Some((_, inside)) = chars.next() {
                        match inside {
                            end if end == c => break,
                            '\\' if c == '"' => word.extend(chars.next().map(|(_, c)| c)),
                            other => word.push(other),
                        }
                    }
                }
                ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' if at > 0 => {
                    self.rest = &self.rest[at..];
                    return word;
                }
                other => word.push(other),
            }
        }
        self.rest = "";
        word
    }

    fn end(&mut self, end: End) {
        let this = std::mem::take(&mut self.this);
        if this != Command::default() {
            self.done.push((this, end));
        } else if let Some((_, before)) = self.done.last_mut() {
            // `cmd` and a line break are still `cmd`; a line break after `&&` goes on.
            if *before == End::Other {
                *before = end;
            }
        }
    }
}

/// Words that open a block: is what is in it behind a check?
const OPENS: [(&str, bool); 5] = [("if", true), ("case", true), ("while", true), ("until", true), ("for", false)];
const CLOSES: [&str; 3] = ["fi", "esac", "done"];
const SKIPS: [&str; 6] = ["then", "else", "elif", "do", "{", "}"];

/// Whether each is guarded, and whether its failure matters.
fn judged(commands: Vec<(Command, End)>, mut strict: bool) -> Vec<Command> {
    let last = commands.len().saturating_sub(1);
    let (mut open, mut after, mut checked) = (vec![], End::Other, false);
    let mut out = vec![];
    for (i, (mut command, end)) in commands.into_iter().enumerate() {
        while let Some(word) = command.words.first() {
            if let Some((_, check)) = OPENS.iter().find(|(opens, _)| opens == word) {
                open.push(*check);
            } else if CLOSES.contains(&word.as_str()) {
                open.pop();
            } else if !SKIPS.contains(&word.as_str()) {
                break;
            }
            command.words.remove(0);
        }
        if after == End::Other {
            checked = false;
        }
        let first = command.words.first().map_or("", String::as_str);
        strict |= first == "set" && command.words.iter().skip(1).any(|w| w.starts_with('-') && w.contains('e'));
        command.guarded = open.contains(&true) || after == End::Or || checked;
        command.matters = match end {
            End::And => true,
            End::Or => false,
            End::Other => strict || i == last,
        };
        checked |= after == End::Or || ["[", "[[", "test", "!"].contains(&first);
        after = end;
        out.push(command);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command with `?` when guarded and `!` when its failure matters.
    fn read(script: &str) -> Vec<String> {
        let show = |c: &Command| {
            let marks = [(c.guarded, "?"), (c.matters, "!")].map(|(is, mark)| if is { mark } else { "" }).concat();
            let appends: String = c.appends.iter().map(|file| format!(" >>{file}")).collect();
            format!("{marks}{}{appends}", c.words.join("_"))
        };
        commands(script, false).iter().map(show).collect()
    }

    #[test]
    fn commands_guards_and_failures() {
        let cases: [(&str, &[&str]); 12] = [
            ("mkdir a && touch 'b c'", &["!mkdir_a", "!touch_b c"]),
            ("mkdir a; touch b", &["mkdir_a", "!touch_b"]),
            ("set -eu\nmkdir a\ntouch b\n", &["!set_-eu", "!mkdir_a", "!touch_b"]),
            ("mkdir a || true", &["mkdir_a", "?!true"]),
            ("[ -d a ] || mkdir a", &["[_-d_a_]", "?!mkdir_a"]),
            ("[ ! -d a ] && cd x && mkdir a", &["![_!_-d_a_]", "?!cd_x", "?!mkdir_a"]),
            ("if ! test -f a; then mkdir a; fi; ls", &["?!_test_-f_a", "?mkdir_a", "", "!ls"]),
            ("echo \"a # b\" >> /etc/x # end\nls", &["echo_a # b >>/etc/x", "!ls"]),
            ("psql <<EOF\ncreate x;\nEOF\nls 2>/dev/null", &["psql_create x;\n", "!ls"]),
            ("a | b & (c)", &["a", "b", "!c"]),
            ("cd x &&\n  mkdir y\\\n  z", &["!cd_x", "!mkdir_y_z"]),
            ("", &[]),
        ];
        for (script, want) in cases {
            assert_eq!(read(script), want, "{script}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_script_makes_it_panic(script in "[a-c<>|&;()'\"\\\\#{}é \\n]{0,60}") {
            let _ = commands(&script, true);
        }
    }
}
