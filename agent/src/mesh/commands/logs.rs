//! Windows of logs: each is one command, read from the disk and sent in small batches that take turns.
//!
//! Decides how many readers there are and how much is under way at once: a batch for each of [`SENDING`], whatever the
//! apps print and however slow the link is. A reader that has left costs what it had room for, and a wait at most.

use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::quantity::Millis;
use bramble_contracts::v1::{FrameBody, LogPart, LogRest, LogWindow};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Frames;
use crate::core::app::AppKey;
use crate::host::logs::{LogError, Logs, Window};
use crate::mesh::duty::{Duty, OnDuty};

/// Windows that are open at once.
const READERS: usize = 64;
/// Batches that are read and sent at once. More would delay heartbeats on a slow link.
const SENDING: usize = 2;
/// A window ends after so many frames: permissions bound the answers to one command.
const FRAMES_MAX: u32 = 5_000;
const WAIT_MAX: Millis = Millis::secs(120);
/// A batch is given up when the link does not take it.
const SEND_TIME_MAX: Duration = Duration::from_secs(60);

/// Serves readers.
pub(super) struct Readers {
    open: Arc<Semaphore>,
    sending: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new() -> Self {
        Self { open: Arc::new(Semaphore::new(READERS)), sending: Arc::new(Semaphore::new(SENDING)) }
    }

    pub(super) async fn start(&self, duty: Duty, on_duty: OnDuty, ask: LogWindow, mut frames: Frames) {
        let Ok(slot) = self.open.clone().try_acquire_owned() else {
            frames.refuse(format!("this device serves {READERS} readers of logs already; end one and try again")).await;
            return;
        };
        tracing::debug!(deployment = %ask.deployment, "logs are read");
        let reader = Reader { logs: duty.logs.clone(), on_duty, sending: self.sending.clone(), frames };
        tokio::spawn(async move {
            let (_slot, _duty) = (slot, duty);
            reader.serve(ask).await;
        });
    }
}

struct Reader {
    logs: Logs,
    on_duty: OnDuty,
    sending: Arc<Semaphore>,
    frames: Frames,
}

impl Reader {
    async fn serve(mut self, ask: LogWindow) {
        let key = AppKey { tenant: ask.tenant.clone(), name: ask.deployment.clone() };
        // Asked before the lines are read: what it printed last must not be missed.
        let known = self.logs.is_known(key.clone()).await;
        let rest = match self.read(&key, ask, known).await {
            Ok(Some(rest)) => rest,
            Ok(None) => return tracing::debug!(app = %key, "the link does not take logs; its reader will ask again"),
            Err(err) => return self.frames.refuse(why(&key, &err, known)).await,
        };
        self.frames.send(FrameBody::Log(LogPart::Rest(rest))).await;
        self.frames.send(FrameBody::End { exit_code: None }).await;
    }

    /// `None` when nothing can be sent.
    async fn read(&mut self, key: &AppKey, ask: LogWindow, known: bool) -> Result<Option<LogRest>, LogError> {
        let (mut ticks, deadline) = match ask.wait {
            Some(wait) => (Some(self.logs.follow(key.clone()).await?), Instant::now() + wait.min(WAIT_MAX).duration()),
            None => (None, Instant::now()),
        };
        let mut off_duty = std::pin::pin!(self.on_duty.clone().ended());
        let (mut window, first) = self.logs.open(ask).await?;
        self.frames.send(FrameBody::Log(first)).await;
        loop {
            if let Some(ticks) = &mut ticks {
                ticks.mark_unchanged();
            }
            let Some((read, is_more)) = self.batch(window).await? else { return Ok(None) };
            window = read;
            if window.is_full() || self.frames.seq >= FRAMES_MAX {
                return Ok(Some(LogRest::More));
            }
            match &mut ticks {
                _ if is_more => {}
                None => return Ok(Some(LogRest::Done)),
                Some(_) if !known => return Ok(Some(LogRest::Gone)),
                Some(ticks) => tokio::select! {
                    more = ticks.changed() => if more.is_err() { return Err(LogError::Stopped) },
                    () = tokio::time::sleep_until(deadline) => return Ok(Some(LogRest::More)),
                    // Its reader asks again, and another agent answers.
                    () = &mut off_duty => return Ok(Some(LogRest::More)),
                },
            }
        }
    }

    /// Reads and sends one batch, once it is this reader's turn. `None` when the link does not take it.
    async fn batch(&mut self, window: Window) -> Result<Option<(Window, bool)>, LogError> {
        let _turn = self.sending.acquire().await.map_err(|_| LogError::Stopped)?;
        let (window, parts) = self.logs.batch(window).await?;
        if parts.is_empty() {
            return Ok(Some((window, false)));
        }
        let sent = async {
            for part in parts {
                self.frames.send(FrameBody::Log(part)).await;
            }
            self.frames.client.flush().await.is_ok()
        };
        let sent = tokio::time::timeout(SEND_TIME_MAX, sent).await.unwrap_or(false);
        Ok(sent.then_some((window, true)))
    }
}

fn why(key: &AppKey, err: &LogError, known: bool) -> String {
    match err {
        LogError::NoLogs if known => format!(
            "{key} has printed nothing that was kept here: its containers are not made yet, or an earlier agent made them \
             (then `podman logs` on the device shows what they print, until a change of the deployment replaces them)"
        ),
        LogError::NoLogs => format!("{key} does not run on this device, and none of its logs are left"),
        LogError::NoSuchContainer { .. }
        | LogError::NoPrevious
        | LogError::Read { .. }
        | LogError::NoWatch(_)
        | LogError::Stopped => format!("{key}: {err}"),
    }
}
