//! A program with its input and, if wanted, a terminal: `GET /api/v1/devices/{name}/terminal`, a WebSocket.
//!
//! Text messages are JSON: [`SessionSays`] from the client, the first of which is `start`; [`SessionTells`] from the
//! coordinator, the last of which is `end`, `error` or `problem`. Binary messages are one byte of channel and then
//! bytes: [`CHANNEL_IN`] from the client, [`CHANNEL_OUT`] and [`CHANNEL_ERR`] from the coordinator. Each side counts the
//! binary messages it has passed on and says `taken`; the other sends only so many beyond that.

use serde::{Deserialize, Serialize};

use crate::{
    id::Name,
    problem::Problem,
    quantity::Millis,
    v1::{Terminal, TerminalSize},
};

/// First byte of a binary message: what the program reads.
pub const CHANNEL_IN: u8 = 0;
/// First byte of a binary message: what the program prints.
pub const CHANNEL_OUT: u8 = 1;
/// First byte of a binary message: what it prints on standard error.
pub const CHANNEL_ERR: u8 = 2;
/// Binary messages of output that may be under way: sent, and not yet `taken`.
pub const OUTPUT_WINDOW: u64 = 64;
/// Idle and total time of a session are at most this.
pub const SESSION_MAX: Millis = Millis::secs(24 * 3600);

/// Which program, where, for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionRequest {
    /// In which deployment.
    pub deployment: Name,
    /// In which container; may be absent when there is one.
    #[serde(default)]
    pub container: Option<Name>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its terminal; without one its two outputs stay apart.
    #[serde(default)]
    pub terminal: Option<Terminal>,
    /// Ends it after so long without a byte in either direction; 10 m by default, 24 h at most.
    #[serde(default = "ten_minutes")]
    pub idle: Millis,
    /// Ends it after this in any case; 8 h by default, 24 h at most.
    #[serde(default = "eight_hours")]
    pub timeout: Millis,
}

fn ten_minutes() -> Millis {
    Millis::secs(600)
}

fn eight_hours() -> Millis {
    Millis::secs(8 * 3600)
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum SessionSays {
    /// Begin. Said once, and first.
    Start(SessionRequest),
    /// The terminal has another size.
    Resize(TerminalSize),
    /// So many binary messages were passed on since the beginning.
    Taken {
        /// How many.
        messages: u64,
    },
    /// There is no more input.
    End,
}

/// What the coordinator tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum SessionTells {
    /// The program runs.
    Started,
    /// So many binary messages were taken by the program since the beginning.
    Taken {
        /// How many.
        messages: u64,
    },
    /// The program has ended.
    End {
        /// With this.
        exit_code: Option<i32>,
    },
    /// The session has ended, and the program with it.
    Error {
        /// On which device.
        device: Name,
        /// What, where and what to do next.
        detail: String,
    },
    /// It has not begun.
    Problem {
        /// Why.
        problem: Problem,
    },
}
