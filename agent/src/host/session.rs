//! A program in a container between its two ends: what is typed goes in, what it prints comes out, sizes follow.
//!
//! Decides nothing about who may, or for how long.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bramble_contracts::v1::TerminalSize;
use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, watch};

use super::leash::Leash;
use super::podman::{Attach, ExecInput, ExecOutput, ExecSpec, Podman, PodmanError, Stream};
use super::stdin;
use crate::supervise::{Ends, OutputStream, Piece, Program};

const REMARK: &[u8] = b"Error: read unixpacket @->";
const REMARK_END: &[u8] = b"/attach: read: connection reset by peer\n";

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
        never = feed(podman, command.session(), attach, to, input) => match never {},
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
        let bytes = without_remark(bytes);
        if bytes.is_empty() {
            continue;
        }
        let stream = match stream {
            Stream::Out => OutputStream::Out,
            Stream::Err => OutputStream::Err,
        };
        if out.send(Piece { stream, bytes }).await.is_err() {
            return Ok(Whole::No);
        }
    }
}

/// When a program ends before it has read its input, Podman prints that as an error of its own among the program's output.
/// It is none: `head` does so.
fn without_remark(mut bytes: Bytes) -> Bytes {
    if bytes.ends_with(REMARK_END)
        && let Some(at) = bytes.windows(REMARK.len()).rposition(|part| part == REMARK)
    {
        bytes.truncate(at);
    }
    bytes
}

/// Writes what is typed. A program that ends first is told of by its output.
async fn feed(
    podman: &Podman,
    session: &str,
    attach: Attach,
    mut to: ExecInput,
    mut input: mpsc::Receiver<Bytes>,
) -> Infallible {
    let mut pipe = match attach {
        Attach::Outputs | Attach::Terminal(..) => None,
        Attach::Pipes => stdin::open(podman, session).await.unwrap_or_else(|err| {
            tracing::debug!(%err, "the pipe of a command was not found");
            None
        }),
    };
    while let Some(bytes) = input.recv().await {
        let taken = match &mut pipe {
            Some(pipe) => pipe.write_all(&bytes).await.is_ok(),
            None => to.write(&bytes).await,
        };
        if !taken {
            // Whoever types must not wait for a program that has stopped to read.
            while input.recv().await.is_some() {}
        }
    }
    drop(pipe);
    to.end().await;
    std::future::pending().await
}

/// Passes on each new size.
async fn follow(podman: &Podman, session: &str, mut size: watch::Receiver<TerminalSize>) -> Infallible {
    while size.changed().await.is_ok() {
        let TerminalSize { columns, rows } = *size.borrow_and_update();
        if let Err(err) = podman.exec_resize(session, columns, rows).await {
            tracing::debug!(%err, "a terminal was not resized");
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podmans_own_remark_is_no_output() {
        let remark = "Error: read unixpacket @->/proc/self/fd/16/attach: read: connection reset by peer\n";
        let left = |text: &str| String::from_utf8(without_remark(text.to_owned().into()).to_vec()).unwrap();
        assert_eq!(left(remark), "");
        assert_eq!(left(&format!("last words\r\n{remark}")), "last words\r\n");
        for kept in ["Error: read unixpacket", "x: read: connection reset by peer\n", &format!("{remark}more")] {
            assert_eq!(left(kept), kept);
        }
    }
}
