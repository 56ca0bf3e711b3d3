//! The one boundary between deciding and doing: a real device, or a simulated one.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::core::app::AppKey;
use crate::core::have::Observed;
use crate::core::record::Record;
use crate::core::step::{Outcome, Step, StepError};
use crate::supervise::session::{Ends, Program};

/// Something happened on the device: look again. Carries no state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// To this app.
    App(AppKey),
    /// To anything; events may have been missed.
    Everything,
    /// To nothing: this is what the device itself has to say to people, instead of what it said before.
    Notices(Vec<String>),
}

/// A device could not be looked at, or a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// A record that was found, or why it cannot be used.
#[derive(Debug)]
pub enum FoundRecord {
    /// Good. An alarm when it is the one before the newest.
    Good(Box<Record>, Option<String>),
    /// There was one for this app; neither it nor the one before it is whole.
    Damaged(AppKey, String),
    /// There is one for this app, intact, that this agent cannot use: of a newer format, or about another app.
    Unusable(AppKey, String),
    /// There is one for this app, and the disk did not give it; it may the next time.
    Unread(AppKey, String),
}

impl FoundRecord {
    /// Whose it is.
    pub fn key(&self) -> &AppKey {
        match self {
            Self::Good(record, _) => &record.key,
            Self::Damaged(key, _) | Self::Unusable(key, _) | Self::Unread(key, _) => key,
        }
    }
}

/// Which of a container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From where.
    pub stream: OutputStream,
    /// The bytes.
    pub bytes: Bytes,
}

/// A device.
pub trait Host: Send + Sync + 'static {
    /// Time since boot.
    fn now(&self) -> Duration;
    /// Changes with every boot.
    fn boot(&self) -> String;
    /// Random text that no other container carries.
    fn nonce(&self) -> String;
    /// What happens on the device from now on. Asked for once.
    fn events(&self) -> mpsc::Receiver<HostEvent>;
    /// Every record there is.
    fn records(&self) -> impl Future<Output = Result<Vec<FoundRecord>, HostError>> + Send;
    /// Makes a record durable.
    fn save(&self, record: &Record) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Removes the record of an app of which nothing is left.
    fn erase(&self, key: &AppKey) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Looks at one app and at the images it needs.
    fn observe(&self, key: &AppKey, images: &[String]) -> impl Future<Output = Result<Observed, HostError>> + Send;
    /// Does one thing. May be cut off at any moment: what it did is seen by the next look.
    fn perform(&self, step: &Step) -> impl Future<Output = Result<Outcome, StepError>> + Send;
    /// Runs a command in a container and gives its exit code.
    fn exec(
        &self,
        id: &str,
        argv: &[String],
        out: mpsc::Sender<Piece>,
    ) -> impl Future<Output = Result<i32, HostError>> + Send;
    /// Runs a command in a container with its input, and gives its exit code. Ends it when nobody listens any more.
    fn session(&self, id: &str, program: &Program, ends: Ends) -> impl Future<Output = Result<i32, HostError>> + Send;
}
