//! `exec`: one program in a container, its output as it comes, its exit code as ours. With input it is a `session`.

use std::{
    io::{self, Write},
    time::Duration,
};

use bramble_contracts::{
    api::{ExecRequest, SessionRequest, StreamLine},
    quantity::Millis,
};
use data_encoding::BASE64;
use reqwest::Method;

use super::{
    Session,
    session::{Input, session},
};
use crate::{
    args::Exec,
    exit::{Exit, Failure},
    output::{clean, note},
    terminal,
};

/// The time of a program without input.
const ONE_SHOT: Millis = Millis::secs(60);
/// Of a session.
const IDLE: Millis = Millis::secs(600);
const WHOLE: Millis = Millis::secs(8 * 3600);
/// Beyond the program's own time: to reach the device and to end the program.
const GRACE: Duration = Duration::from_secs(30);

/// Runs it.
pub(super) async fn exec(s: &Session, args: Exec) -> Result<Exit, Failure> {
    let Exec { device, deployment, container, idle, timeout, argv, interactive, tty } = args;
    let input = match (interactive, tty) {
        (_, true) if terminal::is_there() => Some(Input::Terminal),
        (_, true) => {
            let why =
                "-t wants a terminal, and standard input is none: leave -t out (-i alone passes standard input on)";
            return Err(Failure::Usage(why.into()));
        }
        (true, false) => Some(Input::Pipe),
        (false, false) => None,
    };
    if let Some(input) = input {
        let terminal = (input == Input::Terminal).then(terminal::described);
        let (idle, timeout) = (idle.unwrap_or(IDLE), timeout.unwrap_or(WHOLE));
        let request = SessionRequest { deployment, container, argv, terminal, idle, timeout };
        return Box::pin(session(s, &device, request, input)).await;
    }
    if idle.is_some() {
        return Err(Failure::Usage("--idle goes with -i or -t: a program without input has its --timeout".into()));
    }
    let timeout = timeout.unwrap_or(ONE_SHOT);
    let request = ExecRequest { deployment, container, argv, timeout };
    let idle = timeout.duration().saturating_add(GRACE);
    let path = ["devices", device.as_str(), "exec"];
    let mut lines = s.client.lines(Method::POST, &path, &vec![], Some(&request), idle).await?;
    let (mut out, mut err) = (io::stdout(), io::stderr());
    while let Some(line) = lines.json::<StreamLine>().await? {
        match line {
            StreamLine::Output { stderr, data } => {
                let bytes = BASE64.decode(data.as_bytes()).map_err(|why| {
                    Failure::Failed(format!(
                        "the coordinator sent output that is not base64 ({why}): report this as a defect"
                    ))
                })?;
                if stderr { put(&mut err, &bytes)? } else { put(&mut out, &bytes)? }
            }
            StreamLine::Line { text, stderr, .. } => {
                let text = format!("{text}\n");
                if stderr { put(&mut err, text.as_bytes())? } else { put(&mut out, text.as_bytes())? }
            }
            StreamLine::Skipped { lines } => {
                note(&format!("({lines} lines left out: they came faster than they could be sent)"));
            }
            StreamLine::At { .. } | StreamLine::Missing { .. } | StreamLine::Away { .. } => {}
            StreamLine::Error { device, detail } => {
                return Err(Failure::Failed(format!("{device}: {}", clean(&detail))));
            }
            StreamLine::End { exit_code: Some(code) } => return Ok(ended(code)),
            StreamLine::End { exit_code: None } => {
                return Err(Failure::Failed("the program ended and the device could not say how".into()));
            }
        }
    }
    Err(lines.broke_off().into())
}

fn put(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// A program's exit code as ours; what does not fit in a byte is at least not a success.
pub(super) fn ended(code: i32) -> Exit {
    match u8::try_from(code) {
        Ok(0) => Exit::Done,
        Ok(code) => Exit::Program(code),
        Err(_) => Exit::Program(u8::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_passed_on() {
        assert_eq!([0, 1, 137, 256, -1].map(|c| ended(c).code()), [0, 1, 137, 255, 255]);
    }
}
