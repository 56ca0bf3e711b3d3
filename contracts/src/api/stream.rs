//! Logs and exec: streamed answers.

use serde::{Deserialize, Serialize};

use crate::id::Name;
use crate::quantity::Millis;

/// `POST /api/v1/devices/{name}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecRequest {
    /// In which deployment.
    pub deployment: Name,
    /// In which container; may be absent when there is one.
    #[serde(default)]
    pub container: Option<Name>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Ends it after this; 60 s by default, 590 s at most; a session may last longer.
    #[serde(default = "minute")]
    pub timeout: Millis,
}

fn minute() -> Millis {
    Millis::secs(60)
}

/// One line of a streamed answer (`application/x-ndjson`): logs and exec. The last one is `end` or `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum StreamLine {
    /// One line of a log.
    Line {
        /// Of which device.
        device: Name,
        /// Of which container.
        container: Name,
        /// RFC 3339 with nanoseconds, by the device's clock.
        at: String,
        /// On standard error?
        stderr: bool,
        /// The text.
        text: String,
        /// The place in the container's log behind this line: `from=DEVICE/CONTAINER:PLACE` goes on there.
        #[serde(default)]
        next: String,
    },
    /// Where a container's log is read from, before its first line.
    At {
        /// Of which device.
        device: Name,
        /// Of which container.
        container: Name,
        /// The place.
        next: String,
    },
    /// Lines that were overwritten before they could be read.
    Missing {
        /// Of which device.
        device: Name,
        /// Of which container.
        container: Name,
        /// How many, where that is known.
        lines: Option<u64>,
        /// Where it goes on.
        next: String,
    },
    /// A device cannot be reached for now; its log goes on, without a gap, when it is back.
    Away {
        /// Which device.
        device: Name,
        /// Why.
        detail: String,
    },
    /// Bytes that a program printed, base64.
    Output {
        /// On standard error?
        stderr: bool,
        /// The bytes, base64.
        data: String,
    },
    /// So many lines were left out.
    Skipped {
        /// How many.
        lines: u32,
    },
    /// All was sent.
    End {
        /// Of the program.
        exit_code: Option<i32>,
    },
    /// It broke off.
    Error {
        /// Of which device.
        device: Name,
        /// What, where and what to do next.
        detail: String,
    },
}
