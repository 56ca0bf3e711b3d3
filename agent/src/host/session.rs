//! A program in a container between its two ends: what is typed goes in, what it prints comes out, sizes follow.
//!
//! Decides nothing about who may, or for how long.

use std::collections::BTreeMap;

use bramble_contracts::v1::TerminalSize;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::leash::Leash;
use super::podman::{Attach, ExecInput, ExecOutput, ExecSpec, Podman, PodmanError, Stream};
use crate::supervise::{Ends, OutputStream, Piece, Program};

/// Runs it to its end, and gives its exit code; `None` when nobody listened any more, and it was ended.
pub(super) async fn run(
    podman: &Podman,
    container: &str,
    program: &Program,
    ends: Ends,
) -> Result<Option<i32>, PodmanError> {
    let Ends { input, size, out } = ends;
    let (attach, env) = match &program.terminal {
        None => (Attach::Pipes, BTreeMap::new()),
        Some(terminal) => {
            let env = BTreeMap::from([("TERM".to_owned(), terminal.name.clone())]);
            (Attach::Terminal(terminal.size.columns, terminal.size.rows), env)
        }
    };
    let spec = ExecSpec { command: program.argv.clone(), env, attach, ..ExecSpec::default() };
    let command = Leash::prepare_session(podman, container, &spec).await?;
    let (to, from) = podman.exec_attach(command.session(), attach).await?;
    let whole = tokio::select! {
        whole = send_on(from, &out) => whole?,
        never = feed(to, input) => match never {},
        never = follow(podman, command.session(), size) => match never {},
    };
    match whole {
        Whole::Yes => command.end().await.map(Some),
        Whole::No => Ok(None),
    }
}

/// Was all of the output sent on?
enum Whole {
    Yes,
    No,
}

/// Ends when the output ends or nobody listens any more.
async fn send_on(mut from: ExecOutput, out: &mpsc::Sender<Piece>) -> Result<Whole, PodmanError> {
    loop {
        let next = tokio::select! {
            next = from.next() => next?,
            () = out.closed() => return Ok(Whole::No),
        };
        let Some((stream, bytes)) = next else { return Ok(Whole::Yes) };
        let stream = match stream {
            Stream::Out => OutputStream::Out,
            Stream::Err => OutputStream::Err,
        };
        if out.send(Piece { stream, bytes }).await.is_err() {
            return Ok(Whole::No);
        }
    }
}

/// Writes what is typed. A program that ends first is told of by its output.
async fn feed(mut to: ExecInput, mut input: mpsc::Receiver<Bytes>) -> std::convert::Infallible {
    while let Some(bytes) = input.recv().await {
        if !to.write(&bytes).await {
            // Whoever types must not wait for a program that has stopped to read.
            while input.recv().await.is_some() {}
        }
    }
    to.end().await;
    std::future::pending().await
}

/// Passes on each new size.
async fn follow(podman: &Podman, session: &str, mut size: watch::Receiver<TerminalSize>) -> std::convert::Infallible {
    while size.changed().await.is_ok() {
        let TerminalSize { columns, rows } = *size.borrow_and_update();
        if let Err(err) = podman.exec_resize(session, columns, rows).await {
            tracing::debug!(%err, "a terminal was not resized");
        }
    }
    std::future::pending().await
}
