//! What is said to a command that is under way: signed, counted without a gap, for one run of one agent.
//!
//! Decides: the counter. Deliberately does not: know what is said, or when.

use bramble_contracts::{
    SessionId,
    id::DeviceId,
    v1::Command,
    v2::{CommandInput, Input},
};

use super::{Core, port::MeshError};

/// The way to one command. There is one of it: only so do its counters have no gap.
#[derive(Debug)]
pub struct Line {
    device: DeviceId,
    run: SessionId,
    command: u64,
    inbox: String,
    counter: u64,
}

/// Does a frame ask for something?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// No.
    Nothing,
    /// To be answered, and for the whole answer to go on as an answer to this one: a broker bounds, in number and in
    /// time, the answers to one request.
    Answer,
}

impl Line {
    pub(super) fn new(command: &Command, inbox: String) -> Self {
        let Command { device, session, counter, .. } = command;
        Self { device: device.clone(), run: *session, command: *counter, inbox, counter: 0 }
    }

    /// The command's counter.
    pub fn command(&self) -> u64 {
        self.command
    }

    /// Says it; returns the number it has.
    pub async fn say(&mut self, core: &Core, input: Input, ask: Ask) -> Result<u64, MeshError> {
        self.counter += 1;
        let (device, session) = (self.device.clone(), self.run);
        let input = CommandInput { device, session, command: self.command, counter: self.counter, input };
        let signed = core.keys.sign_input(&input).map_err(|err| MeshError::Unreachable { why: err.to_string() })?;
        let reply = match ask {
            Ask::Nothing => None,
            Ask::Answer => Some(self.inbox.as_str()),
        };
        core.mesh.input(&self.device, signed, reply).await?;
        Ok(self.counter)
    }
}
