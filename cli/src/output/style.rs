//! Colours, and texts that come from elsewhere made harmless.

use std::{
    borrow::Cow,
    io::{self, IsTerminal},
    sync::OnceLock,
};

/// What a word means for people in a hurry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// On its way, or worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Not known, or not important.
    Dim,
    /// A heading.
    Strong,
    /// A word like others.
    Plain,
}

fn wanted(terminal: bool) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    terminal && !unwanted && !dumb
}

fn colours() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| wanted(io::stdout().is_terminal()))
}

/// The same for a word on standard error.
pub(crate) fn paint_error(text: &str) -> Cow<'_, str> {
    if wanted(io::stderr().is_terminal()) { painted(Tone::Bad, text) } else { Cow::Borrowed(text) }
}

/// The text in the colour of its meaning, where colours are shown.
pub(crate) fn paint(tone: Tone, text: &str) -> Cow<'_, str> {
    if colours() { painted(tone, text) } else { Cow::Borrowed(text) }
}

fn painted(tone: Tone, text: &str) -> Cow<'_, str> {
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Dim => "2",
        Tone::Strong => "1",
        Tone::Plain => return Cow::Borrowed(text),
    };
    Cow::Owned(format!("\x1b[{code}m{text}\x1b[0m"))
}

/// A text of a device or an app, without the characters that could steer a terminal. Tabs stay.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    // C0 and C1 controls, and the marks that turn the direction of writing.
    let bad = |c: char| (c.is_control() && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.contains(bad) { Cow::Owned(text.replace(bad, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_devices_cannot_steer_a_terminal() {
        assert_eq!(clean("a\tb é 日本"), "a\tb é 日本");
        assert_eq!(clean("\x1b]0;owned\x07\r\u{9b}2J\u{202e}x"), "\u{fffd}]0;owned\u{fffd}\u{fffd}\u{fffd}2J\u{fffd}x");
    }

    #[test]
    fn painted_texts_end_plain() {
        assert_eq!(painted(Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(painted(Tone::Plain, "x"), "x");
    }
}
