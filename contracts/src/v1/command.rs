//! Commands to a device and the frames it answers with.
//!
//! A command is signed over device, session, counter, expiry and arguments: a recording replayed after a restart, a
//! reconnect or a hand-over does nothing, and the device stores nothing for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Kind, Message},
    id::{DeviceId, Name, SessionId, Tenant},
    quantity::Millis,
    v1::log::{LogPart, LogWindow},
    v2::UpgradeWord,
    v3::{OsPackages, OsPlan},
};

/// One command to one run of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// For this device.
    pub device: DeviceId,
    /// For this run of its agent, as its heartbeat says.
    pub session: SessionId,
    /// Above the last one accepted in this session.
    pub counter: u64,
    /// Refused once the device's monotonic clock (`uptime_ms` of its heartbeat) is past this.
    pub expires_uptime_ms: u64,
    /// What to do.
    pub verb: Verb,
}

/// What a device can be told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Send the signed desired document it holds.
    Desired,
    /// Send what a container printed. Superseded by `Log`; no agent carries it out any more.
    Logs(LogArgs),
    /// Run a program in a container.
    Exec(ExecArgs),
    /// Run a program in a container with what somebody types; see [`crate::v2::CommandInput`].
    Session(SessionArgs),
    /// Send a window of what containers printed.
    Log(LogWindow),
    /// Of the agent's own upgrade.
    Upgrade(UpgradeWord),
    /// Say what an upgrade of these packages would do.
    OsPlan(OsPackages),
}

impl Verb {
    /// The last token of the command's subject.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Desired => "desired",
            Self::Logs(_) => "logs",
            Self::Exec(_) => "exec",
            Self::Session(_) => "session",
            Self::Log(_) => "log",
            Self::Upgrade(_) => "upgrade",
            Self::OsPlan(_) => "os-plan",
        }
    }
}

/// Which lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogArgs {
    /// Of the deployment.
    pub tenant: Tenant,
    /// Of which deployment.
    pub deployment: Name,
    /// Of one container; all when absent.
    pub container: Option<Name>,
    /// The last so many lines.
    pub tail: u32,
    /// Only what is younger than this.
    pub since: Option<Millis>,
    /// Go on with what comes.
    pub follow: bool,
}

/// Which program, where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecArgs {
    /// Of the deployment.
    pub tenant: Tenant,
    /// In which deployment.
    pub deployment: Name,
    /// In which container; may be absent when there is one.
    pub container: Option<Name>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Never said: who wants a terminal sends [`SessionArgs`].
    pub tty: Option<(u16, u16)>,
    /// Ends it after this.
    pub timeout: Millis,
}

/// Which program, where, with which input and for how long. It ends, too, when the coordinator is silent for
/// [`SESSION_SILENCE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionArgs {
    /// Of the deployment.
    pub tenant: Tenant,
    /// In which deployment.
    pub deployment: Name,
    /// In which container; may be absent when there is one.
    pub container: Option<Name>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its terminal. Without one it has a pipe, and its two outputs stay apart.
    pub terminal: Option<Terminal>,
    /// Ends it after so long without a byte in either direction.
    pub idle: Millis,
    /// Ends it after this in any case.
    pub timeout: Millis,
}

/// A program's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Terminal {
    /// What it can do, as `TERM` says it: `xterm-256color`.
    pub name: String,
    /// How large it is.
    pub size: TerminalSize,
}

impl Terminal {
    /// Can it be told to a program? It may come from anywhere, and its name goes into an environment.
    pub fn is_sound(&self) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
        (1..=64).contains(&self.name.len()) && self.name.bytes().all(plain)
    }
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TerminalSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A session ends when nothing of the coordinator was heard for so long.
pub const SESSION_SILENCE: Duration = Duration::from_secs(60);
/// Frames of input that may be under way to a device: sent, and not yet [`FrameBody::Taken`].
pub const INPUT_WINDOW: u64 = 8;
/// Bytes of one frame of input, at most.
pub const INPUT_BYTES_MAX: usize = 16 * 1024;

/// Input of a terminal. Superseded by [`crate::v2::CommandInput`] before anybody sent one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandInput {
    /// For this device.
    pub device: DeviceId,
    /// For this run of its agent.
    pub session: SessionId,
    /// Of the command it belongs to.
    pub command: u64,
    /// Above the last one of this command.
    pub counter: u64,
    /// What was typed; [`END_OF_INPUT`] alone closes the input.
    #[serde(with = "crate::bytes::raw")]
    pub bytes: Vec<u8>,
    /// New size of the terminal.
    pub resize: Option<(u16, u16)>,
}

/// Closes a command's input.
pub const END_OF_INPUT: &[u8] = &[];

/// One frame of a device's answer. Numbered, so that a lost frame is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyFrame {
    /// From 0.
    pub seq: u32,
    /// What it carries.
    pub body: FrameBody,
}

/// What a frame carries. The last frame of an answer is `End` or `Refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameBody {
    /// Printed on standard output.
    Stdout(#[serde(with = "crate::bytes::raw")] Vec<u8>),
    /// Printed on standard error.
    Stderr(#[serde(with = "crate::bytes::raw")] Vec<u8>),
    /// One line of a log.
    Line {
        /// Of which container.
        container: Name,
        /// Milliseconds since 1970 by the device's clock.
        at_ms: u64,
        /// On standard error?
        stderr: bool,
        /// The text, without its line end.
        text: String,
    },
    /// So many lines were left out, because the reader was too slow.
    Skipped(u32),
    /// A part of a document.
    Document(#[serde(with = "crate::bytes::raw")] Vec<u8>),
    /// All was sent; for a program, its exit code.
    End {
        /// Of the program.
        exit_code: Option<i32>,
    },
    /// The command was not carried out.
    Refused {
        /// What, where and what to do next.
        why: String,
    },
    /// A session has begun (the first frame, 0), lives, or has taken the input up to this frame of it.
    Taken(u64),
    /// A part of a window of logs.
    Log(LogPart),
    /// What an upgrade would do.
    OsPlan(Box<OsPlan>),
}

impl Message for Command {
    const KIND: Kind = Kind::Command;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 64 * 1024;
}

impl Message for CommandInput {
    const KIND: Kind = Kind::CommandInput;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 64 * 1024;
}

impl Message for ReplyFrame {
    const KIND: Kind = Kind::ReplyFrame;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 64 * 1024;
}
