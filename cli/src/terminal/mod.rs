//! The operator's own terminal: raw while a program far away has it, and as it was afterwards; what is typed, and what is
//! shown.
//!
//! Decides: that the terminal is restored whenever the guard is dropped, also by a panic. Deliberately does not: look at
//! what is shown; a terminal shows what a program sends.

mod escape;
mod pipes;

use std::io::{self, IsTerminal as _};

use bramble_contracts::v1::{Terminal, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

pub(crate) use escape::{Escapes, Typed};
pub(crate) use pipes::{Printed, Printer, keyboard};

/// What is told of a terminal that does not say its size.
const USUAL: TerminalSize = TerminalSize { columns: 80, rows: 24 };
/// What every terminal can do.
const PLAIN: &str = "dumb";

/// While it lives, keys go through as they are typed.
pub(crate) struct Raw(Termios);

impl Raw {
    /// Makes the terminal on standard input raw.
    pub(crate) fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Is there a terminal to type on?
pub(crate) fn is_there() -> bool {
    io::stdin().is_terminal()
}

/// How large it is now.
pub(crate) fn size() -> TerminalSize {
    let asked = [tcgetwinsize(io::stdout()), tcgetwinsize(io::stdin())];
    let found = asked.into_iter().flatten().find(|size| size.ws_col > 0 && size.ws_row > 0);
    found.map_or(USUAL, |size| TerminalSize { columns: size.ws_col, rows: size.ws_row })
}

/// It, as a program is told of it.
pub(crate) fn described() -> Terminal {
    let name = std::env::var("TERM").unwrap_or_default();
    let terminal = Terminal { name, size: size() };
    if terminal.is_sound() { terminal } else { Terminal { name: PLAIN.to_owned(), ..terminal } }
}
