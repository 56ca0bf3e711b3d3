//! What the coordinator needs of the mesh. Real: `mesh` over NATS. In tests: a simulated fleet.

use std::{collections::BTreeMap, time::Duration};

use bramble_contracts::{id::DeviceId, v1::ReplyFrame};
use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};

use crate::mesh::{self, CommandError};

/// The frames of a device's answer, in order and without a gap; ends after `End` or `Refused`, or with an error.
pub type Frames = BoxStream<'static, Result<ReplyFrame, MeshError>>;

/// An answer that is coming in.
pub struct Opened {
    /// Its frames.
    pub frames: Frames,
    /// Where they come in.
    pub inbox: String,
}

/// Why the mesh did not do it. The texts say "it" for the device; whoever shows them says which.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MeshError {
    /// Nobody listens, or nobody can be addressed, or its answer is not whole.
    #[error("{why}")]
    Unreachable {
        /// In words.
        why: String,
    },
    /// It did not answer in time.
    #[error("{why}")]
    Timeout {
        /// In words.
        why: String,
    },
    /// The broker is away or refuses.
    #[error("{why}")]
    Broker {
        /// In words.
        why: String,
    },
}

/// The way to devices and to the broker's accounts.
pub trait Mesh: Send + Sync + 'static {
    /// Sends a signed command and returns the frames of its answer, without waiting for the first; `silence` is the
    /// longest between two of them.
    fn command<'a>(
        &'a self,
        device: &'a DeviceId,
        verb: &'static str,
        signed: Vec<u8>,
        silence: Duration,
    ) -> BoxFuture<'a, Result<Opened, MeshError>>;

    /// Sends signed input to a command that is under way; with `reply`, as a request that is answered there.
    fn input<'a>(
        &'a self,
        device: &'a DeviceId,
        signed: Vec<u8>,
        reply: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), MeshError>>;

    /// Makes this list of keys the one that is cut off; durable and at the broker when it returns.
    fn set_quarantined<'a>(&'a self, keys: &'a BTreeMap<String, u64>) -> BoxFuture<'a, Result<(), MeshError>>;
}

impl From<CommandError> for MeshError {
    fn from(err: CommandError) -> Self {
        let why = err.to_string();
        match err {
            CommandError::NotConnected { .. }
            | CommandError::Gap { .. }
            | CommandError::Unreadable { .. }
            | CommandError::Endless { .. } => Self::Unreachable { why },
            CommandError::Silent { .. } => Self::Timeout { why },
            CommandError::NotSent { .. } => Self::Broker { why },
        }
    }
}

impl Mesh for mesh::Mesh {
    fn command<'a>(
        &'a self,
        device: &'a DeviceId,
        verb: &'static str,
        signed: Vec<u8>,
        silence: Duration,
    ) -> BoxFuture<'a, Result<Opened, MeshError>> {
        Box::pin(async move {
            let answer = self.send_command(device, verb, signed).await?;
            let inbox = answer.inbox().to_owned();
            let frames = stream::unfold(answer, move |mut answer| async move {
                match answer.next(silence).await {
                    Ok(Some(frame)) => Some((Ok(frame), answer)),
                    Ok(None) => None,
                    Err(err) => Some((Err(err.into()), answer)),
                }
            });
            Ok(Opened { frames: frames.boxed(), inbox })
        })
    }

    fn input<'a>(
        &'a self,
        device: &'a DeviceId,
        signed: Vec<u8>,
        reply: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), MeshError>> {
        Box::pin(async move { Ok(self.send_input(device, signed, reply).await?) })
    }

    fn set_quarantined<'a>(&'a self, keys: &'a BTreeMap<String, u64>) -> BoxFuture<'a, Result<(), MeshError>> {
        Box::pin(async move {
            let done = Self::set_quarantined(self, keys).await;
            done.map_err(|err| MeshError::Broker { why: err.to_string() })
        })
    }
}
