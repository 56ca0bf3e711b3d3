//! `exec`: one program in a container, its output as it comes, its exit code as ours.

use std::{
    io::{self, Write},
    time::Duration,
};

use bramble_contracts::api::{ExecRequest, StreamLine};
use data_encoding::BASE64;
use reqwest::Method;

use super::Session;
use crate::{
    args::Exec,
    exit::{Exit, Failure},
    output::{clean, note},
};

/// Beyond the program's own time: to reach the device and to end the program.
const GRACE: Duration = Duration::from_secs(30);

/// Runs it.
pub(super) async fn exec(s: &Session, args: Exec) -> Result<Exit, Failure> {
    if args.interactive || args.tty {
        let why =
            "-i and -t come later: this version runs programs without input and without a terminal. Leave them out";
        return Err(Failure::Usage(why.into()));
    }
    let Exec { device, deployment, container, timeout, argv, interactive: _, tty: _ } = args;
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
fn ended(code: i32) -> Exit {
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
