//! `logs`: what the containers of a deployment print, from every device of it.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use bramble_contracts::api::{DeploymentView, StreamLine};
use reqwest::Method;

use super::Session;
use crate::{
    args::Logs,
    client::{Lines, NOTHING},
    exit::{Exit, Failure},
    output::{Format, clean, note},
};

/// Devices that are asked have time to answer; a followed log may be silent for long.
const IDLE_MAX: Duration = Duration::from_secs(60);
const FOLLOW_IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What stands before each line, where it is in doubt.
#[derive(Clone, Copy)]
struct Prefix {
    device: bool,
    container: bool,
}

/// Shows them.
pub(super) async fn logs(s: &Session, args: Logs) -> Result<Exit, Failure> {
    let name = args.deployment.as_str();
    let view: DeploymentView = s.client.get(&["deployments", name], &vec![]).await?;
    let spec = &view.manifest.spec;
    let prefix = Prefix {
        device: args.device.is_none() && view.summary.devices > 1,
        container: args.container.is_none() && spec.containers.len() + spec.init_containers.len() > 1,
    };
    let mut query = vec![];
    query.extend(args.device.map(|d| ("device", d)));
    query.extend(args.container.map(|c| ("container", c.to_string())));
    query.extend(args.tail.map(|n| ("tail", n.to_string())));
    query.extend(args.since.map(|t| ("since", t.to_string())));
    query.extend(args.follow.then(|| ("follow", "true".to_owned())));
    let idle = if args.follow { FOLLOW_IDLE_MAX } else { IDLE_MAX };
    let mut lines = s.client.lines(Method::GET, &["deployments", name, "logs"], &query, NOTHING, idle).await?;
    show(s.format, &mut lines, prefix).await
}

async fn show(format: Format, lines: &mut Lines, prefix: Prefix) -> Result<Exit, Failure> {
    let (mut ended, mut failed) = (false, false);
    let mut out = io::stdout();
    let terminal = out.is_terminal();
    while let Some(line) = lines.json::<StreamLine>().await? {
        match &line {
            StreamLine::Line { device, container, text, at: _, stderr: _ } => {
                if format.print_next(&line)? == crate::output::Printed::Yes {
                    continue;
                }
                let before = match (prefix.device, prefix.container) {
                    (true, true) => format!("{device}/{container}: "),
                    (true, false) => format!("{device}: "),
                    (false, true) => format!("{container}: "),
                    (false, false) => String::new(),
                };
                // A file gets what the app printed; a terminal nothing that could steer it.
                let text = if terminal { clean(text) } else { text.into() };
                writeln!(out, "{before}{text}")?;
            }
            StreamLine::Skipped { lines } => {
                note(&format!("({lines} lines left out: they came faster than they could be sent)"));
            }
            StreamLine::Error { device, detail } => {
                failed = true;
                note(&format!("{device}: {}", clean(detail)));
            }
            StreamLine::End { exit_code: _ } => ended = true,
            StreamLine::Output { stderr: _, data: _ } => return Err(strange()),
        }
    }
    match (failed, ended) {
        (true, _) => Err(Failure::Told(Exit::Failed)),
        (false, true) => Ok(Exit::Done),
        (false, false) => Err(lines.broke_off().into()),
    }
}

fn strange() -> Failure {
    Failure::Failed("the coordinator sent a program's output among log lines: report this as a defect".into())
}
