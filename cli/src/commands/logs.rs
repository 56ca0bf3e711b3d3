//! `logs`: what the containers of a deployment print, from every device of it.
//!
//! Decides what stands before a line, and that a followed log goes on, without a gap, when the way to the coordinator
//! breaks: each line says where it ends.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use bramble_contracts::{
    Name,
    api::{DeploymentView, StreamLine},
    problem::Code,
};
use reqwest::Method;

use super::Session;
use crate::{
    args::Logs,
    client::{ClientError, Lines, NOTHING, Query},
    exit::{Exit, Failure},
    output::{Format, Printed, clean, note},
};

/// Devices that are asked have time to answer; a followed log gives signs of life.
const IDLE_MAX: Duration = Duration::from_secs(60);
const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What stands before each line, where it is in doubt or was asked for.
#[derive(Clone, Copy)]
struct Prefix {
    device: bool,
    container: bool,
    time: bool,
}

/// Shows them.
pub(super) async fn logs(s: &Session, args: Logs) -> Result<Exit, Failure> {
    let prefix = prefix(s, &args).await?;
    let name = args.deployment.as_str();
    let mut query: Query<'_> = vec![];
    query.extend(args.device.map(|d| ("device", d)));
    query.extend(args.container.map(|c| ("container", c.to_string())));
    query.extend(args.tail.map(|n| ("tail", n)));
    query.extend(args.since.map(|t| ("since", t.to_string())));
    query.extend(args.until.map(|t| ("until", t.to_string())));
    query.extend(args.previous.then(|| ("previous", "true".to_owned())));
    query.extend(args.follow.then(|| ("follow", "true".to_owned())));
    let mut shown =
        Shown { format: s.format, prefix, places: BTreeMap::new(), failed: false, heard: false, follow: args.follow };
    let mut wait = WAIT_FIRST;
    loop {
        let mut query = query.clone();
        query.extend(shown.from().map(|from| ("from", from)));
        let broke = match s.client.lines(Method::GET, &["deployments", name, "logs"], &query, NOTHING, IDLE_MAX).await {
            Ok(mut lines) => match shown.show(&mut lines).await {
                Ok(exit) => return Ok(exit),
                Err(Failure::Client(err)) => err,
                Err(failure) => return Err(failure),
            },
            Err(err) => err,
        };
        if std::mem::take(&mut shown.heard) {
            wait = WAIT_FIRST;
        }
        if !args.follow || shown.places.is_empty() || !may_pass(&broke) {
            return Err(broke.into());
        }
        let why = broke.to_string();
        note(&format!("{} (going on in {:.1} s)", why.lines().next().unwrap_or_default(), wait.as_secs_f32()));
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// A coordinator that has just started has not heard of every device yet.
fn may_pass(err: &ClientError) -> bool {
    let device = matches!(err, ClientError::Refused(problem)
        if matches!(problem.code, Code::DeviceUnreachable | Code::Timeout));
    device || err.may_pass()
}

async fn prefix(s: &Session, args: &Logs) -> Result<Prefix, Failure> {
    let time = args.timestamps;
    let view: DeploymentView = match s.client.get(&["deployments", args.deployment.as_str()], &vec![]).await {
        Ok(view) => view,
        // A device keeps the logs of a deleted deployment for a while.
        Err(Failure::Client(ClientError::Refused(problem)))
            if problem.code == Code::NotFound && args.device.is_some() =>
        {
            return Ok(Prefix { device: false, container: args.container.is_none(), time });
        }
        Err(failure) => return Err(failure),
    };
    let spec = &view.manifest.spec;
    Ok(Prefix {
        device: args.device.is_none() && view.summary.devices > 1,
        container: args.container.is_none() && spec.containers.len() + spec.init_containers.len() > 1,
        time,
    })
}

/// What has been shown.
struct Shown {
    format: Format,
    prefix: Prefix,
    /// By device and container: where to go on.
    places: BTreeMap<(Name, Name), String>,
    failed: bool,
    /// Something came since the last request.
    heard: bool,
    follow: bool,
}

impl Shown {
    fn from(&self) -> Option<String> {
        let place = |((device, container), place): (&(Name, Name), &String)| format!("{device}/{container}:{place}");
        let all: Vec<String> = self.places.iter().map(place).collect();
        (!all.is_empty()).then(|| all.join(","))
    }

    /// Shows lines until the last one.
    async fn show(&mut self, lines: &mut Lines) -> Result<Exit, Failure> {
        let mut ended = false;
        while let Some(line) = lines.json::<StreamLine>().await? {
            self.heard = true;
            match &line {
                StreamLine::Line { device, container, at, text, next, stderr: _ } => {
                    if self.format.print_next(&line)? == Printed::No {
                        self.print(device, container, at, text)?;
                    }
                    self.at(device, container, next);
                }
                StreamLine::At { device, container, next } => self.at(device, container, next),
                StreamLine::Missing { device, container, lines, next } => {
                    if self.format.print_next(&line)? == Printed::No {
                        let lines = lines.map_or_else(|| "some lines".to_owned(), |n| format!("{n} lines"));
                        note(&format!("({device}/{container}: {lines} were overwritten before they could be read)"));
                    }
                    self.at(device, container, next);
                }
                StreamLine::Skipped { lines } => {
                    note(&format!("({lines} lines left out: they came faster than they could be sent)"));
                }
                StreamLine::Away { device, detail } => {
                    note(&format!("{device}: {} (its log goes on when it is back)", clean(detail)));
                }
                StreamLine::Error { device, detail } => {
                    self.failed = true;
                    note(&format!("{device}: {}", clean(detail)));
                }
                StreamLine::End { exit_code: _ } => ended = true,
                StreamLine::Output { stderr: _, data: _ } => return Err(strange()),
            }
        }
        match (self.failed, ended) {
            // What failed has been told already.
            (true, is_over) if is_over || !self.follow => Err(Failure::Told(Exit::Failed)),
            (false, true) => Ok(Exit::Done),
            (_, _) => Err(lines.broke_off().into()),
        }
    }

    fn at(&mut self, device: &Name, container: &Name, next: &str) {
        if !next.is_empty() {
            self.places.insert((device.clone(), container.clone()), next.to_owned());
        }
    }

    fn print(&self, device: &Name, container: &Name, at: &str, text: &str) -> io::Result<()> {
        let mut out = io::stdout();
        let time = if self.prefix.time { format!("{at} ") } else { String::new() };
        let who = match (self.prefix.device, self.prefix.container) {
            (true, true) => format!("{device}/{container}: "),
            (true, false) => format!("{device}: "),
            (false, true) => format!("{container}: "),
            (false, false) => String::new(),
        };
        // A file gets what the app printed; a terminal nothing that could steer it.
        let text = if out.is_terminal() { clean(text) } else { text.into() };
        writeln!(out, "{time}{who}{text}")
    }
}

fn strange() -> Failure {
    Failure::Failed("the coordinator sent a program's output among log lines: report this as a defect".into())
}
