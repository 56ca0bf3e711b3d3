//! The control channel: runs commands in a guest whose image was built for tests. Decides how a command and its answer
//! are framed on a virtio-serial port; the other end is `overlay/test/usr/lib/bramble/bramble-control`.
//!
//! A line to the guest is `ID SECONDS BASE64`, a line back `ID CODE BASE64`. Every boot has its own connection, and an
//! answer with another id is one that nobody waits for any more.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use data_encoding::BASE64;
use xtask::clock::Watch;

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; 124 when it took too long.
    pub code: i32,
    /// Both its streams.
    pub out: String,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Control {
    stream: UnixStream,
    rest: Vec<u8>,
    next: u32,
}

impl Control {
    /// Connects; the guest need not be there yet.
    ///
    /// # Errors
    /// When the machine is off.
    pub(crate) fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot reach the control channel: the machine is off")?;
        Ok(Control { stream, rest: vec![], next: 1 })
    }

    /// Runs a command line of the guest's shell. `is_on` is asked while nothing comes.
    ///
    /// # Errors
    /// When no answer comes within `limit`, or the machine goes off meanwhile.
    pub(crate) fn run(&mut self, command: &str, limit: Duration, is_on: impl Fn() -> bool) -> anyhow::Result<Said> {
        let id = self.next;
        self.next += 1;
        let line = format!("{id} {} {}\n", limit.as_secs().max(1), BASE64.encode(command.as_bytes()));
        self.stream.write_all(line.as_bytes()).context("the machine went off before the command")?;
        self.stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        // The guest ends the command itself; a little more time lets it say so.
        let (limit, watch) = (limit + Duration::from_secs(10), Watch::start());
        let mut buffer = [0; 16 * 1024];
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                if let Some(said) = answer(&String::from_utf8_lossy(&line), id) {
                    return said;
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the machine went off during `{command}`"),
                Ok(n) => self.rest.extend_from_slice(&buffer[..n]),
                Err(err) if is_nothing_yet(&err) && !is_on() => bail!("the machine was reset during `{command}`"),
                Err(err) if is_nothing_yet(&err) => {}
                Err(err) => return Err(err).context("the control channel broke"),
            }
            if watch.elapsed() > limit {
                bail!("the guest did not answer `{command}` within {} s", limit.as_secs());
            }
        }
    }
}

fn is_nothing_yet(err: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(err.kind(), WouldBlock | TimedOut | Interrupted)
}

/// The answer in a line, if it is the one with this id.
fn answer(line: &str, id: u32) -> Option<anyhow::Result<Said>> {
    let mut words = line.split_whitespace();
    if words.next()?.parse() != Ok(id) {
        return None;
    }
    let read = || {
        let code = words.next().and_then(|code| code.parse().ok()).context("the guest's answer has no exit code")?;
        let out = BASE64.decode(words.next().unwrap_or_default().as_bytes()).context("the guest's answer is cut")?;
        Ok(Said { code, out: String::from_utf8_lossy(&out).into_owned() })
    };
    Some({ read }())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use xtask::run::Cmd;

    /// The guest's own program, with a socket for a port, by way of `socket`'s two ends.
    fn served(dir: &Path, reply: &'static [u8]) -> Control {
        let socket = dir.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let control = Control::connect(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(reply).unwrap();
            std::thread::sleep(Duration::from_secs(2));
        });
        control
    }

    #[test]
    fn an_answer_is_the_one_with_the_commands_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut control = served(dir.path(), b"0 0 b2xk\nnoise\n1 3 aGFsbG8K\n");
        let said = control.run("x", Duration::from_secs(5), || true).unwrap();
        assert_eq!(said, Said { code: 3, out: "hallo\n".into() });
        let err = control.run("y", Duration::from_secs(60), || false).unwrap_err().to_string();
        assert!(err.contains("reset during `y`"), "{err}");
    }

    #[test]
    fn the_guests_side_runs_commands_and_bounds_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bramble-control");
        std::fs::write(&file, include_str!("../overlay/test/usr/lib/bramble/bramble-control")).unwrap();
        let line = |id: u32, secs: u32, command: &str| format!("{id} {secs} {}\n", BASE64.encode(command.as_bytes()));
        let asked = [line(1, 9, "echo a b; echo c >&2; exit 3"), line(2, 1, "sleep 30"), line(3, 9, "cat; echo end")];
        std::fs::write(dir.path().join("in"), asked.concat()).unwrap();
        let shell = format!("sh {} - < {}", file.display(), dir.path().join("in").display());
        let out = Cmd::new("sh").args(["-c", &shell]).check().unwrap();
        let said: Vec<Said> = out.lines().zip(1..).map(|(l, id)| answer(l, id).unwrap().unwrap()).collect();
        let of = |code, out: &str| Said { code, out: out.into() };
        assert_eq!(said, [of(3, "a b\nc\n"), of(124, ""), of(0, "end\n")]);
    }
}
