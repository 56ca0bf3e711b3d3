//! What the program ends with, and why: the closed list of exit codes and the one error type that maps to them.

use std::{io, process::ExitCode};

use bramble_contracts::problem::FieldError;

use crate::{client::ClientError, config::ConfigError, manifest::Finding};

/// How the program ends. Anything but `Done` has been explained on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Done,
    /// It was tried and did not work.
    Failed,
    /// It was not asked for properly.
    Usage,
    /// There is no such thing.
    NotFound,
    /// No or a wrong token, or a right is missing.
    NotAllowed,
    /// Somebody else changed it meanwhile.
    Conflict,
    /// The coordinator or a device did not answer.
    Unreachable,
    /// What was waited for did not happen in time.
    TimedOut,
    /// A program on a device ended with this.
    Program(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::NotAllowed => 4,
            Self::Conflict => 5,
            Self::Unreachable => 6,
            Self::TimedOut => 7,
            Self::Program(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Everything that can end a command early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The API.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Our configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Files that were given.
    #[error("{}", lines(.0))]
    Manifest(Vec<Finding>),
    /// The way it was asked for.
    #[error("{0}")]
    Usage(String),
    /// Nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// A device or app failed.
    #[error("{0}")]
    Failed(String),
    /// Not in time.
    #[error("{0}")]
    TimedOut(String),
    /// Changed by somebody else meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// Standard input or output.
    #[error("cannot read or write the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// It has been told already; only the code is left.
    #[error("")]
    Told(Exit),
}

impl Failure {
    /// The exit code that belongs to it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Client(err) => err.exit(),
            Self::Config(_) | Self::Usage(_) | Self::Manifest(_) => Exit::Usage,
            Self::Failed(_) => Exit::Failed,
            Self::NotFound(_) => Exit::NotFound,
            Self::TimedOut(_) => Exit::TimedOut,
            Self::Conflict(_) => Exit::Conflict,
            // The reader went away (`| head`): that is how pipes end.
            Self::Terminal(err) if err.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Terminal(_) => Exit::Failed,
            Self::Told(exit) => *exit,
        }
    }

    /// Should it be said at all?
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Told(_) => true,
            Self::Terminal(err) => err.kind() == io::ErrorKind::BrokenPipe,
            Self::Client(_)
            | Self::Config(_)
            | Self::Manifest(_)
            | Self::Usage(_)
            | Self::NotFound(_)
            | Self::Failed(_)
            | Self::TimedOut(_)
            | Self::Conflict(_) => false,
        }
    }

    /// Places in what was sent, where the coordinator named some.
    pub(crate) fn fields(&self) -> &[FieldError] {
        match self {
            Self::Client(err) => err.fields(),
            Self::Config(_)
            | Self::Manifest(_)
            | Self::Usage(_)
            | Self::NotFound(_)
            | Self::Failed(_)
            | Self::TimedOut(_)
            | Self::Conflict(_)
            | Self::Terminal(_)
            | Self::Told(_) => &[],
        }
    }
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_as_documented() {
        let all = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::NotAllowed,
            Exit::Conflict,
            Exit::Unreachable,
            Exit::TimedOut,
            Exit::Program(42),
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4, 5, 6, 7, 42]);
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_end() {
        let pipe = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((pipe.exit(), pipe.is_silent()), (Exit::Done, true));
        let full = Failure::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!((full.exit(), full.is_silent()), (Exit::Failed, false));
    }
}
