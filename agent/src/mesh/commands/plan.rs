//! What an upgrade of the operating system would do: asked elsewhere, answered in one frame.
//!
//! Decides how often a sign of life is sent while apt works: at once, and then now and again.

use std::time::Duration;

use bramble_contracts::v1::FrameBody;
use bramble_contracts::v3::{OsPackages, OsPlan};
use tokio::sync::{mpsc, oneshot};

use super::Frames;

/// Below the silence that the coordinator takes.
const ALIVE: Duration = Duration::from_secs(10);

/// Somebody asks what an upgrade would do. Nothing is lost when nobody waits for the answer any more.
#[derive(Debug)]
pub struct Question {
    /// Of these packages.
    pub packages: OsPackages,
    /// The answer, or why there is none.
    pub answer: oneshot::Sender<Result<OsPlan, String>>,
}

pub(super) fn start(questions: mpsc::Sender<Question>, packages: OsPackages, mut frames: Frames) {
    tracing::info!("the coordinator asks what an upgrade would do");
    tokio::spawn(async move {
        let (answer, mut answered) = oneshot::channel();
        if questions.try_send(Question { packages, answer }).is_err() {
            return frames.refuse("the agent is asked for too many plans at once: try again in a moment".into()).await;
        }
        // The coordinator waits less for the first word than for the others, and apt takes longer than either.
        frames.send(FrameBody::Stdout(Vec::new())).await;
        loop {
            match tokio::time::timeout(ALIVE, &mut answered).await {
                Err(_) => frames.send(FrameBody::Stdout(Vec::new())).await,
                Ok(Ok(Ok(plan))) => {
                    frames.send(FrameBody::OsPlan(Box::new(plan))).await;
                    return frames.send(FrameBody::End { exit_code: None }).await;
                }
                Ok(Ok(Err(why))) => return frames.refuse(why).await,
                Ok(Err(_)) => return frames.refuse("the agent is about to end; try again in a moment".into()).await,
            }
        }
    });
}
