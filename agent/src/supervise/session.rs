//! Programs in containers with what somebody types: bounded, and alive only while somebody listens.

use std::sync::Arc;

use bramble_contracts::v1::{Terminal, TerminalSize};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::host::{Host, Piece};
use super::streams::{Chunk, Known, PIECES_MAX, finish, forward};
use crate::core::app::AppKey;

/// Which program, where, connected to what.
#[derive(Clone, Debug)]
pub struct SessionWish {
    /// Which app.
    pub app: AppKey,
    /// In which container; may be absent when there is one.
    pub container: Option<String>,
    /// What is run.
    pub program: Program,
}

/// A program that reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its terminal; a pipe when absent.
    pub terminal: Option<Terminal>,
}

/// A program's ends, as a device gets them.
#[derive(Debug)]
pub struct Ends {
    /// What it reads; closed is the end of it.
    pub input: mpsc::Receiver<Bytes>,
    /// How large its terminal is.
    pub size: watch::Receiver<TerminalSize>,
    /// What it prints. Closed means that nobody listens any more.
    pub out: mpsc::Sender<Piece>,
}

/// A program that was started, as whoever asked for it holds it. Dropping `output` ends it.
#[derive(Debug)]
pub struct Attached {
    /// What it prints, and how it ended.
    pub output: mpsc::Receiver<Chunk>,
    /// What it reads; waits while it does not. Dropping this is the end of its input.
    pub input: mpsc::Sender<Bytes>,
    /// How large its terminal is.
    pub size: watch::Sender<TerminalSize>,
}

/// Starts it.
pub(super) fn attach<H: Host>(host: Arc<H>, Known { name, id, .. }: Known, program: Program) -> Attached {
    let (out, output) = mpsc::channel(PIECES_MAX);
    let (input, input_end) = mpsc::channel(1);
    let first = program.terminal.as_ref().map_or(TerminalSize { columns: 0, rows: 0 }, |terminal| terminal.size);
    let (size, size_end) = watch::channel(first);
    tokio::spawn(async move {
        let (pieces, forward) = forward(name, out.clone());
        let ends = Ends { input: input_end, size: size_end, out: pieces };
        let last = match tokio::join!(host.session(&id, &program, ends), forward).0 {
            Ok(code) => Chunk::End { exit_code: Some(code) },
            Err(err) => Chunk::Broken { why: err.to_string() },
        };
        finish(out, last).await;
    });
    Attached { output, input, size }
}
