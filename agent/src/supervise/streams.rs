//! One-shot commands: bounded, and alive only while somebody listens.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::host::{Host, Piece};
use super::session::{Attached, SessionWish, attach};
use crate::core::app::{AppKey, Role};

/// Pieces wait here; then the container's output waits.
pub(super) const PIECES_MAX: usize = 64;

/// Which command, where.
#[derive(Clone, Debug)]
pub struct ExecWish {
    /// Which app.
    pub app: AppKey,
    /// In which container; may be absent when there is one.
    pub container: Option<String>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Ends it after this.
    pub timeout: Duration,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Output of a container.
    Output {
        /// Which.
        container: String,
        /// What.
        piece: Piece,
    },
    /// All was sent; for a command, its exit code.
    End {
        /// Of the command.
        exit_code: Option<i32>,
    },
    /// It broke off.
    Broken {
        /// Why.
        why: String,
    },
}

/// A stream that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The agent ends.
    #[error("the agent is stopping; try again in a moment")]
    Stopped,
    /// Not here.
    #[error("{0} does not run on this device")]
    NoSuchApp(AppKey),
    /// Not of this app.
    #[error("{app} has no container {name} here; it has {known}")]
    NoSuchContainer {
        /// Which app.
        app: AppKey,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Several, and none was named.
    #[error("{app} has several containers, name one of {known}")]
    NameOne {
        /// Which app.
        app: AppKey,
        /// What there is.
        known: String,
    },
}

/// A container that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) role: Role,
}

type Reply = oneshot::Sender<Result<mpsc::Receiver<Chunk>, StreamError>>;

/// A question to the supervisor.
#[derive(Debug)]
pub(super) enum Ask {
    Exec(ExecWish, Reply),
    Session(SessionWish, oneshot::Sender<Result<Attached, StreamError>>),
    Alive(oneshot::Sender<()>),
}

/// Answers it, beside everything else.
pub(super) fn answer<H: Host>(host: Arc<H>, ask: Ask, containers: impl Fn(&AppKey) -> Option<Vec<Known>>) {
    match ask {
        Ask::Alive(reply) => {
            if reply.send(()).is_err() {
                tracing::debug!("whoever asked whether we live has left");
            }
        }
        Ask::Exec(wish, reply) => {
            let chosen = choose(&wish.app, wish.container.as_deref(), containers(&wish.app));
            tell(reply, chosen.and_then(|chosen| only(&wish.app, &chosen)).map(|one| exec(host, one, wish)));
        }
        Ask::Session(wish, reply) => {
            let chosen = choose(&wish.app, wish.container.as_deref(), containers(&wish.app));
            let one = chosen.and_then(|chosen| only(&wish.app, &chosen));
            tell(reply, one.map(|one| attach(host, one, wish.program)));
        }
    }
}

fn tell<T>(reply: oneshot::Sender<Result<T, StreamError>>, answer: Result<T, StreamError>) {
    if reply.send(answer).is_err() {
        tracing::debug!("whoever asked for a stream has left");
    }
}

fn choose(app: &AppKey, name: Option<&str>, containers: Option<Vec<Known>>) -> Result<Vec<Known>, StreamError> {
    let all = containers.filter(|all| !all.is_empty()).ok_or_else(|| StreamError::NoSuchApp(app.clone()))?;
    let Some(name) = name else { return Ok(all) };
    let known = names(&all);
    let one: Vec<Known> = all.into_iter().filter(|container| container.name == name).collect();
    if one.is_empty() {
        return Err(StreamError::NoSuchContainer { app: app.clone(), name: name.to_owned(), known });
    }
    Ok(one)
}

fn names(all: &[Known]) -> String {
    all.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The one that is meant: the named one, or the only main container.
fn only(app: &AppKey, chosen: &[Known]) -> Result<Known, StreamError> {
    let mains: Vec<&Known> = chosen.iter().filter(|container| container.role == Role::Main).collect();
    match (chosen, mains.as_slice()) {
        ([one], _) => Ok(one.clone()),
        (_, [one]) => Ok((*one).clone()),
        (all, _) => Err(StreamError::NameOne { app: app.clone(), known: names(all) }),
    }
}

fn exec<H: Host>(host: Arc<H>, Known { name, id, .. }: Known, wish: ExecWish) -> mpsc::Receiver<Chunk> {
    let (out, receiver) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        let (pieces, forward) = forward(name, out.clone());
        let work = async { tokio::join!(host.exec(&id, &wish.argv, pieces), forward).0 };
        let last = match tokio::time::timeout(wish.timeout, work).await {
            Ok(Ok(code)) => Chunk::End { exit_code: Some(code) },
            Ok(Err(err)) => Chunk::Broken { why: err.to_string() },
            Err(_) => Chunk::Broken { why: format!("it did not end within {} s", wish.timeout.as_secs()) },
        };
        finish(out, last).await;
    });
    receiver
}

pub(super) async fn finish(out: mpsc::Sender<Chunk>, last: Chunk) {
    if out.send(last).await.is_err() {
        tracing::debug!("whoever asked for a stream has left");
    }
}

/// Names the pieces of one container on their way.
pub(super) fn forward(container: String, out: mpsc::Sender<Chunk>) -> (mpsc::Sender<Piece>, impl Future<Output = ()>) {
    let (pieces, mut receiver) = mpsc::channel::<Piece>(1);
    let work = async move {
        loop {
            // A silent command must notice too that nobody listens.
            let piece = tokio::select! {
                piece = receiver.recv() => piece,
                () = out.closed() => return,
            };
            let Some(piece) = piece else { return };
            if out.send(Chunk::Output { container: container.clone(), piece }).await.is_err() {
                return;
            }
        }
    };
    (pieces, work)
}
