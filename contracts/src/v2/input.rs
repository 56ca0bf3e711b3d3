//! What a coordinator sends to a session under way: what was typed, and how much of the output was read.
//!
//! Signed like a command. Version 1 was never sent, so it is not read.

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Kind, Message},
    id::{DeviceId, SessionId},
    v1::TerminalSize,
};

/// One frame of input to a command that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandInput {
    /// For this device.
    pub device: DeviceId,
    /// For this run of its agent.
    pub session: SessionId,
    /// Of the command it belongs to.
    pub command: u64,
    /// From 1, without a gap: input with a hole in it is not what somebody typed.
    pub counter: u64,
    /// What it carries.
    pub input: Input,
}

/// What a frame of input carries. When the frame comes as a request, the answer goes on where its reply leads: a broker
/// bounds the answers to one request, and a session may outlive that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// What was typed, or came through the pipe.
    Bytes(#[serde(with = "crate::bytes::raw")] Vec<u8>),
    /// There is no more of it.
    End,
    /// The terminal has another size.
    Resize(TerminalSize),
    /// The coordinator lives. So many frames of output (of both streams, since the beginning) may be sent by now.
    GoOn {
        /// Never less than before.
        frames: u64,
    },
    /// Nobody listens any more: end the program. Of any command.
    HangUp,
}

impl Message for CommandInput {
    const KIND: Kind = Kind::CommandInput;
    const VERSION: u8 = 2;
    const MAX_BYTES: usize = 32 * 1024;
}
