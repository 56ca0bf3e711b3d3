//! Asking a person: for a yes, and for a token that does not show.

use std::io::{self, BufRead, IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::{
    config::Secret,
    exit::Failure,
    output::{can_ask, note, say_aside},
};

/// Was it agreed to beforehand?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreed {
    /// By `--yes`.
    Already,
    /// Not yet: ask.
    Ask,
}

impl From<bool> for Agreed {
    fn from(yes: bool) -> Self {
        if yes { Self::Already } else { Self::Ask }
    }
}

/// Says what happens, also to those who agreed already, and goes on only after a yes.
pub(super) fn confirm(what_happens: &str, agreed: Agreed) -> Result<(), Failure> {
    note(what_happens);
    if agreed == Agreed::Already {
        return Ok(());
    }
    if !can_ask() {
        return Err(Failure::Usage("nothing was done: this needs a yes. Give --yes where nobody can be asked".into()));
    }
    say_aside("Type yes to go on: ");
    let mut answer = String::new();
    io::stdin().lock().take(1024).read_line(&mut answer)?;
    if answer.trim().eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    Err(Failure::Failed("nothing was done".into()))
}

/// A token from standard input, typed without being shown where that is a terminal.
pub(super) fn token() -> Result<Secret, Failure> {
    let stdin = io::stdin();
    let mut line = Zeroizing::new(String::new());
    if stdin.is_terminal() {
        say_aside("Token (it does not show): ");
        let _hidden = Hidden::begin()?;
        stdin.lock().take(64 * 1024).read_line(&mut line)?;
        note("");
    } else {
        stdin.lock().take(64 * 1024).read_line(&mut line)?;
    }
    if line.trim().is_empty() {
        let how = "no token was given: type it, or pipe it in: bramble login --api URL < FILE";
        return Err(Failure::Usage(how.into()));
    }
    Ok(Secret::new(&line))
}

/// While it lives, the terminal does not show what is typed.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
