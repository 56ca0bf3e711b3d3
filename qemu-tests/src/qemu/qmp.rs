//! QEMU's own socket: questions with answers, and the events that tell why a machine stopped. Decides nothing about
//! either.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use xtask::clock::until;

/// The longest that QEMU may think about a question; a stopped or starved machine is slow.
const ANSWER: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Qmp {
    out: UnixStream,
    lines: Receiver<Value>,
    events: Vec<Value>,
}

impl Qmp {
    /// Connects as soon as the socket is there.
    pub(super) fn connect(path: &Path, limit: Duration, mut is_dead: impl FnMut() -> bool) -> anyhow::Result<Self> {
        let stream = until("QEMU's socket", limit, || match UnixStream::connect(path) {
            Ok(stream) => Ok(Some(stream)),
            Err(_) if is_dead() => Ok(None),
            Err(err) => Err(err.to_string()),
        })?;
        let stream = stream.context("it ended at once")?;
        let (tx, lines) = channel();
        let read = BufReader::new(stream.try_clone().context("cannot clone a socket")?);
        std::thread::spawn(move || {
            let values = read.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            // Nobody listens any more: the machine is gone.
            let _ = values.into_iter().try_for_each(|value: Value| tx.send(value));
        });
        let mut qmp = Qmp { out: stream, lines, events: vec![] };
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    pub(super) fn ask(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let question = json!({ "execute": command, "arguments": arguments });
        writeln!(self.out, "{question}").with_context(|| format!("cannot ask QEMU for {command}: it has ended"))?;
        loop {
            match self.lines.recv_timeout(ANSWER) {
                Ok(answer) if answer.get("return").is_some() => return Ok(answer["return"].clone()),
                Ok(answer) if answer.get("error").is_some() => bail!("QEMU refused {command}: {}", answer["error"]),
                Ok(event) => self.events.push(event),
                Err(RecvTimeoutError::Timeout) => bail!("QEMU did not answer {command}"),
                Err(RecvTimeoutError::Disconnected) => bail!("QEMU ended while it was asked for {command}"),
            }
        }
    }

    /// All events, after QEMU has ended.
    pub(super) fn events_to_the_end(&mut self) -> &[Value] {
        while let Ok(event) = self.lines.recv_timeout(Duration::from_secs(5)) {
            self.events.push(event);
        }
        &self.events
    }
}
