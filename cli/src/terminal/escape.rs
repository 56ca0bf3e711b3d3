//! The ways out that a person types at the beginning of a line: `~.`, `~?`, `~~`. Pure.
//!
//! Decides: which bytes are for us and which for the program. Everything that is not such a way goes through as it is,
//! byte for byte. What a terminal answers by itself (where its cursor is: some shells ask that at every prompt) is typed by
//! nobody, so a line still begins after it.

const ESCAPE: u8 = 0x1b;

/// What was typed, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Typed {
    /// For the program.
    Bytes(Vec<u8>),
    /// `~.`: end it.
    End,
    /// `~?`: say which ways there are.
    Help,
}

/// Where in a line we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Nothing was typed in it yet.
    Begin,
    /// A `~` was, and nothing else; it is held back.
    Tilde,
    /// An escape was, with which a terminal's answer begins.
    Escape,
    /// An answer has begun.
    Answer,
    /// Further on.
    Inside,
}

/// Reads what is typed.
#[derive(Debug)]
pub(crate) struct Escapes(At);

impl Escapes {
    /// At the beginning of a line.
    pub(crate) fn new() -> Self {
        Self(At::Begin)
    }

    /// What these bytes are, after all that came before. Ends at `~.`.
    pub(crate) fn read(&mut self, typed: &[u8]) -> Vec<Typed> {
        let (mut all, mut plain) = (vec![], vec![]);
        let mut cut = |plain: &mut Vec<u8>, way: Typed| {
            if !plain.is_empty() {
                all.push(Typed::Bytes(std::mem::take(plain)));
            }
            all.push(way);
        };
        for &byte in typed {
            self.0 = match (self.0, byte) {
                (At::Begin, b'~') => At::Tilde,
                (At::Tilde, b'.') => {
                    cut(&mut plain, Typed::End);
                    return all;
                }
                (At::Tilde, b'?') => {
                    cut(&mut plain, Typed::Help);
                    At::Begin
                }
                (At::Tilde, b'~') => {
                    plain.push(b'~');
                    At::Inside
                }
                (At::Tilde, other) => {
                    plain.extend([b'~', other]);
                    after(other)
                }
                (At::Begin, ESCAPE) => {
                    plain.push(byte);
                    At::Escape
                }
                (At::Escape, b'[') | (At::Answer, b'0'..=b'9' | b';' | b'?') => {
                    plain.push(byte);
                    At::Answer
                }
                // Cursor, kind, state, focus.
                (At::Answer, b'R' | b'c' | b'n' | b'I' | b'O') => {
                    plain.push(byte);
                    At::Begin
                }
                (At::Begin | At::Escape | At::Answer | At::Inside, other) => {
                    plain.push(other);
                    after(other)
                }
            };
        }
        if !plain.is_empty() {
            all.push(Typed::Bytes(plain));
        }
        all
    }
}

fn after(byte: u8) -> At {
    if matches!(byte, b'\r' | b'\n') { At::Begin } else { At::Inside }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    fn read(parts: &[&str]) -> Vec<Typed> {
        let mut escapes = Escapes::new();
        parts.iter().flat_map(|part| escapes.read(part.as_bytes())).collect()
    }

    fn bytes(text: &str) -> Typed {
        Typed::Bytes(text.into())
    }

    #[test]
    fn ways_out_are_ways_at_the_beginning_of_a_line_only() {
        assert_eq!(read(&["~."]), [Typed::End]);
        assert_eq!(read(&["ls\r~."]), [bytes("ls\r"), Typed::End]);
        assert_eq!(read(&["ls\n", "~", "."]), [bytes("ls\n"), Typed::End]);
        assert_eq!(read(&["ls ~."]), [bytes("ls ~.")]);
        assert_eq!(read(&["ls ~/x\r"]), [bytes("ls ~/x\r")]);
        assert_eq!(read(&["~?~."]), [Typed::Help, Typed::End]);
        assert_eq!(read(&["~.and what comes after it"]), [Typed::End]);
    }

    #[test]
    fn a_tilde_can_be_typed() {
        assert_eq!(read(&["~~.\r"]), [bytes("~.\r")]);
        assert_eq!(read(&["~/bin\r"]), [bytes("~/bin\r")]);
        assert_eq!(read(&["~", "x"]), [bytes("~x")]);
        assert_eq!(read(&["~\r~."]), [bytes("~\r"), Typed::End]);
        assert_eq!(read(&["~~~.\r"]), [bytes("~~.\r")]);
    }

    #[test]
    fn what_a_terminal_answers_by_itself_is_typed_by_nobody() {
        assert_eq!(read(&["ls\r", "\x1b[12;5R", "~."]), [bytes("ls\r"), bytes("\x1b[12;5R"), Typed::End]);
        assert_eq!(read(&["\x1b[12", ";5R~."]), [bytes("\x1b[12"), bytes(";5R"), Typed::End]);
        assert_eq!(read(&["\x1b[?62;c~."]), [bytes("\x1b[?62;c"), Typed::End]);
        // The line before, by an arrow: a person is inside of a line then.
        assert_eq!(read(&["\x1b[A~."]), [bytes("\x1b[A~.")]);
        assert_eq!(read(&["x\x1b[1;2R~."]), [bytes("x\x1b[1;2R~.")]);
        assert_eq!(read(&["\x1b~."]), [bytes("\x1b~.")]);
    }

    #[test]
    fn characters_of_several_bytes_stay_whole_wherever_they_are_cut() {
        let text = "grüß 世界 🍓\r";
        for cut in 0..text.len() {
            let mut escapes = Escapes::new();
            let (a, b) = text.as_bytes().split_at(cut);
            let all: Vec<u8> = [escapes.read(a), escapes.read(b)]
                .concat()
                .into_iter()
                .flat_map(|typed| match typed {
                    Typed::Bytes(bytes) => bytes,
                    Typed::End | Typed::Help => panic!("nobody typed that"),
                })
                .collect();
            assert_eq!(all, text.as_bytes(), "cut at {cut}");
        }
    }

    proptest! {
        /// What has no tilde in it passes as it is, however it comes.
        #[test]
        fn nothing_else_is_changed(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..10)) {
            let parts: Vec<Vec<u8>> =
                parts.into_iter().map(|part| part.into_iter().filter(|byte| *byte != b'~').collect()).collect();
            let mut escapes = Escapes::new();
            let mut all = vec![];
            for typed in parts.iter().flat_map(|part| escapes.read(part)) {
                match typed {
                    Typed::Bytes(bytes) => all.extend(bytes),
                    Typed::End | Typed::Help => prop_assert_eq!(0, 1),
                }
            }
            prop_assert_eq!(all, parts.concat());
        }
    }
}
