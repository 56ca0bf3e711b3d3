//! Running a command in a container: its output, both streams, its input or terminal, and its exit code.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use super::containers::{Output, short, unframed};
use super::frames::{Demux, Stream};
use super::http::{CHANGE, Call, LOOK, Podman, PodmanError, escape};
use super::types::{ExecDetail, Made};

/// Podman takes a sequence of keys for "leave the command running": by default Ctrl-P Ctrl-Q, so that a shell would not see
/// the one before the other. None is not to be had; this one nobody types. Podman tells it again when it is asked about
/// a command, so it is also how we know a command of ours, and by what is added to it, whether it is of this run.
const DETACH_KEYS: &str = "ctrl-@,ctrl-_,ctrl-@,ctrl-],ctrl-^,ctrl-_,ctrl-@,ctrl-]";
/// What is read of a terminal at once.
const READ_BYTES_MAX: usize = 16 * 1024;

/// What a command is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// Its two outputs.
    #[default]
    Outputs,
    /// Its two outputs, and its input.
    Pipes,
    /// A terminal, first of so many columns and rows.
    Terminal(u16, u16),
}

/// A command to run.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub work_dir: Option<String>,
    /// What it is connected to.
    pub attach: Attach,
}

/// What an attached command prints.
#[derive(Debug)]
pub struct ExecOutput {
    what: String,
    from: ReadHalf<TokioIo<Upgraded>>,
    /// None for a terminal, whose bytes come as they are.
    demux: Option<Demux>,
}

/// What an attached command reads.
#[derive(Debug)]
pub struct ExecInput(WriteHalf<TokioIo<Upgraded>>);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecEnd {
    /// Its exit code.
    pub exit_code: i32,
}

/// How long after the last byte Podman may take to know the exit code.
const SETTLE_TRIES_MAX: u32 = 100;
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

impl Podman {
    /// Prepares a command in a running container. Returns the session's id.
    pub async fn exec_create(&self, container: &str, spec: &ExecSpec) -> Result<String, PodmanError> {
        let env: Vec<String> = spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let (input, tty) = match spec.attach {
            Attach::Outputs => (false, false),
            Attach::Pipes => (true, false),
            Attach::Terminal(..) => (true, true),
        };
        let mut body = json!({ "Cmd": spec.command, "AttachStdout": true, "AttachStderr": true, "AttachStdin": input,
                               "Tty": tty, "Env": env, "DetachKeys": self.detach_keys() });
        if let Some(dir) = &spec.work_dir {
            body["WorkingDir"] = json!(dir);
        }
        let what = format!("prepare a command in container {}", short(container));
        let call = Call::post(what, format!("/containers/{}/exec", escape(container))).json(&body);
        Ok(self.ask_json::<Made>(call, CHANGE).await?.id)
    }

    fn detach_keys(&self) -> String {
        format!("{DETACH_KEYS},{}", self.mark())
    }

    /// Was this command prepared by a client like us that is not this one: by an earlier run of the agent?
    pub fn is_stray(&self, command: &ExecDetail) -> bool {
        command.running && command.detach_keys.starts_with(DETACH_KEYS) && command.detach_keys != self.detach_keys()
    }

    /// Starts a prepared command and hands over its output.
    pub async fn exec_start(&self, session: &str) -> Result<Output, PodmanError> {
        let what = format!("run command {}", short(session));
        let call = Call::post(what.clone(), format!("/exec/{}/start", escape(session)))
            .json(&json!({ "Detach": false, "Tty": false }));
        Ok(Output::new(what, self.open(call, CHANGE).await?.into_body()))
    }

    /// Starts a prepared command and hands over both its ends.
    pub async fn exec_attach(&self, session: &str, attach: Attach) -> Result<(ExecInput, ExecOutput), PodmanError> {
        let what = format!("run command {}", short(session));
        let (start, demux) = match attach {
            Attach::Outputs | Attach::Pipes => (json!({ "Detach": false, "Tty": false }), Some(Demux::default())),
            Attach::Terminal(columns, rows) => (json!({ "Detach": false, "Tty": true, "h": rows, "w": columns }), None),
        };
        let call = Call::post(what.clone(), format!("/exec/{}/start", escape(session))).json(&start);
        let (from, to) = tokio::io::split(self.upgrade(call, CHANGE).await?);
        Ok((ExecInput(to), ExecOutput { what, from, demux }))
    }

    /// Tells a command that its terminal has another size.
    pub async fn exec_resize(&self, session: &str, columns: u16, rows: u16) -> Result<(), PodmanError> {
        let what = format!("resize the terminal of command {}", short(session));
        let path = format!("/exec/{}/resize?h={rows}&w={columns}", escape(session));
        self.ask(Call::post(what, path), LOOK).await.map(|_| ())
    }

    /// What became of a command.
    pub async fn exec_inspect(&self, session: &str) -> Result<ExecDetail, PodmanError> {
        let what = format!("look at command {}", short(session));
        self.ask_json(Call::get(what, format!("/exec/{}/json", escape(session))), LOOK).await
    }

    /// The exit code of a command whose output has ended.
    pub async fn exec_end(&self, session: &str) -> Result<ExecEnd, PodmanError> {
        for _ in 0..SETTLE_TRIES_MAX {
            let detail = self.exec_inspect(session).await?;
            if !detail.running {
                return Ok(ExecEnd { exit_code: detail.exit_code });
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
        let after = SETTLE_PAUSE * SETTLE_TRIES_MAX;
        Err(PodmanError::TimedOut { what: format!("tell how command {} ended", short(session)), after })
    }
}

impl ExecInput {
    /// Writes all of it; waits while the command does not read. False when it cannot read any more.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// There is no more input.
    pub async fn end(&mut self) {
        if let Err(err) = self.0.shutdown().await {
            tracing::debug!(%err, "a command ended before its input");
        }
    }
}

impl ExecOutput {
    /// The next piece, `None` at the end. Nothing is read ahead of the caller beyond one buffer.
    pub async fn next(&mut self) -> Result<Option<(Stream, Bytes)>, PodmanError> {
        loop {
            if let Some(demux) = &mut self.demux
                && let Some(piece) = demux.next_piece().map_err(|err| unframed(&self.what, &err))?
            {
                return Ok(Some(piece));
            }
            let mut read = BytesMut::with_capacity(READ_BYTES_MAX);
            let count = match self.from.read_buf(&mut read).await {
                Ok(count) => count,
                // What it was sent was not read to the end. What it printed came before this.
                Err(err) if err.kind() == std::io::ErrorKind::ConnectionReset => 0,
                Err(err) => return Err(PodmanError::Cut { what: self.what.clone(), err }),
            };
            if count == 0 {
                return Ok(None);
            }
            match &mut self.demux {
                Some(demux) => demux.push(&read),
                None => return Ok(Some((Stream::Out, read.freeze()))),
            }
        }
    }
}
