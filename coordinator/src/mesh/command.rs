//! Commands to devices and the frames of their answers.
//!
//! Decides: that frames come in order and without a gap, and how long silence may last. Deliberately does not: sign
//! (`keys`) or judge what a device says; frames are shown to people as the device's own words.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, Subscriber};
use bramble_contracts::{
    DeviceId,
    envelope::{self, DecodeError},
    subjects,
    v1::{FrameBody, ReplyFrame},
};
use futures::StreamExt as _;
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{self, error::TrySendError},
};

/// How long a device may take to say anything at all.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// Frames of one answer, at most. A session's come only as they are read, and its time is bounded.
const FRAMES_MAX: u32 = 1_000_000;
const SESSION_FRAMES_MAX: u32 = u32::MAX;
const SESSION_VERB: &str = "session";
/// What may wait for whoever reads an answer: so many frames, and so many bytes. More ends the answer.
const WAITING_MAX: usize = 1024;
const WAITING_BYTES: u32 = 8 << 20;
const INPUT_VERB: &str = "input";

/// Why a command has no (whole) answer. The texts say "it": people know the device by another word than we do here.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Nobody listens: the device is not connected.
    #[error("it is not connected")]
    NotConnected {
        /// Which.
        device: DeviceId,
    },
    /// It is connected and silent.
    #[error("it has not answered for {} s", within.as_secs())]
    Silent {
        /// Which.
        device: DeviceId,
        /// For how long.
        within: Duration,
    },
    /// A frame is missing.
    #[error("it sent frame {got} where {want} was due: part of the answer is lost, ask again")]
    Gap {
        /// Which.
        device: DeviceId,
        /// The frame that was due.
        want: u32,
        /// The frame that came.
        got: u32,
    },
    /// Not a frame.
    #[error("it sent something that cannot be read")]
    Unreadable {
        /// Which.
        device: DeviceId,
        /// Why.
        #[source]
        err: DecodeError,
    },
    /// The command could not be sent.
    #[error("the command could not be sent to it")]
    NotSent {
        /// Which.
        device: DeviceId,
        /// Why.
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More frames than any answer has.
    #[error("it does not stop answering")]
    Endless {
        /// Which.
        device: DeviceId,
    },
}

/// An answer that is coming in. Dropping it stops listening.
#[derive(Debug)]
pub struct Answer {
    device: DeviceId,
    inbox: String,
    frames: mpsc::Receiver<(Message, OwnedSemaphorePermit)>,
    due: u32,
    most: u32,
    ended: bool,
}

fn not_sent(device: &DeviceId, err: impl std::error::Error + Send + Sync + 'static) -> CommandError {
    CommandError::NotSent { device: device.clone(), err: Box::new(err) }
}

pub(super) async fn send(
    client: &Client,
    device: &DeviceId,
    verb: &str,
    signed: Vec<u8>,
) -> Result<Answer, CommandError> {
    let inbox = client.new_inbox();
    let frames = client.subscribe(inbox.clone()).await.map_err(|err| not_sent(device, err))?;
    let sent = client.publish_with_reply(subjects::command(device, verb), inbox.clone(), signed.into()).await;
    sent.map_err(|err| not_sent(device, err))?;
    let (to, waiting) = mpsc::channel(WAITING_MAX);
    tokio::spawn(take_in(device.clone(), frames, to));
    let most = if verb == SESSION_VERB { SESSION_FRAMES_MAX } else { FRAMES_MAX };
    Ok(Answer { device: device.clone(), inbox, frames: waiting, due: 0, most, ended: false })
}

/// Takes frames out of the subscription as they come; ends when one does not fit or nobody reads any more.
async fn take_in(device: DeviceId, mut frames: Subscriber, to: mpsc::Sender<(Message, OwnedSemaphorePermit)>) {
    let room = Arc::new(Semaphore::new(WAITING_BYTES as usize));
    loop {
        let message = tokio::select! { message = frames.next() => message, () = to.closed() => None };
        let Some(message) = message else { return };
        let size = u32::try_from(message.length).unwrap_or(u32::MAX);
        match (to.try_reserve(), room.clone().try_acquire_many_owned(size)) {
            (Ok(slot), Ok(place)) => slot.send((message, place)),
            (Err(TrySendError::Closed(())), _) => return,
            (Err(TrySendError::Full(())), _) | (Ok(_), Err(_)) => {
                tracing::warn!(%device, "an answer is read too slowly: the rest of it is dropped");
                return;
            }
        }
    }
}

pub(super) async fn send_input(
    client: &Client,
    device: &DeviceId,
    signed: Vec<u8>,
    reply: Option<&str>,
) -> Result<(), CommandError> {
    let subject = subjects::command(device, INPUT_VERB);
    let sent = match reply {
        Some(inbox) => client.publish_with_reply(subject, inbox.to_owned(), signed.into()).await,
        None => client.publish(subject, signed.into()).await,
    };
    sent.map_err(|err| not_sent(device, err))
}

impl Answer {
    /// Where it comes in: later requests of the same session are answered here too.
    pub fn inbox(&self) -> &str {
        &self.inbox
    }

    /// The next frame, if it comes `within` this time; `None` after the last one. The first frame must come within
    /// ten seconds in any case.
    pub async fn next(&mut self, within: Duration) -> Result<Option<ReplyFrame>, CommandError> {
        if self.ended {
            return Ok(None);
        }
        let frame = self.receive(within).await;
        self.ended = match &frame {
            Err(_) => true,
            Ok(frame) => matches!(frame.body, FrameBody::End { .. } | FrameBody::Refused { .. }),
        };
        frame.map(Some)
    }

    async fn receive(&mut self, within: Duration) -> Result<ReplyFrame, CommandError> {
        let device = || self.device.clone();
        let within = if self.due == 0 { within.min(FIRST_WITHIN) } else { within };
        let silent = || CommandError::Silent { device: device(), within };
        let lost = || CommandError::Gap { device: device(), want: self.due, got: self.due.saturating_add(1) };
        let next = tokio::time::timeout(within, self.frames.recv()).await.map_err(|_| silent())?;
        let (message, _) = next.ok_or_else(lost)?;
        if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
            return Err(CommandError::NotConnected { device: device() });
        }
        let frame: ReplyFrame =
            envelope::decode(&message.payload).map_err(|err| CommandError::Unreadable { device: device(), err })?;
        if frame.seq != self.due {
            return Err(CommandError::Gap { device: device(), want: self.due, got: frame.seq });
        }
        if self.due >= self.most {
            return Err(CommandError::Endless { device: device() });
        }
        self.due += 1;
        Ok(frame)
    }
}
