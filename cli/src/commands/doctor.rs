//! `doctor`: what is between this machine and a working fleet, suite by suite, in the words of the smoke contract.
//!
//! Decides what is asked from here and what an answer means for the exit code. What the coordinator stands on it asks
//! itself, and we show its answers.

use std::time::Duration;

use bramble_contracts::{
    api::{Connection, DeviceView, Me, Readiness, ReadyView},
    smoke::{Check, CheckResult, CheckState, Suite},
};
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

use super::Session;
use crate::{
    args::Global,
    client::{Client, Probe},
    clock,
    config::{self, Privacy},
    exit::{Exit, Failure},
    output::{
        Format, Items, Printed, Table, Tone,
        pipeline::{of_suite, pipeline},
        say,
    },
};

/// More difference than this makes times in lists misleading and tokens expire early or late.
const CLOCK_SECS_MAX: i64 = 30;

/// What was found: a suite for each part of the way, in the order of the way.
struct Findings {
    machine: Suite,
    coordinator: Suite,
    store: Suite,
    fleet: Suite,
    exit: Option<Exit>,
}

impl Findings {
    fn new() -> Self {
        let [machine, coordinator, store, fleet] = ["this machine", "coordinator", "store", "fleet"].map(Suite::new);
        Self { machine, coordinator, store, fleet, exit: None }
    }

    fn ends(&mut self, exit: Exit) {
        self.exit = self.exit.or(Some(exit));
    }
}

fn holds(suite: &mut Suite, what: &str, state: CheckState, detail: impl Into<String>) {
    suite.checks.push(CheckResult::new(Check::holds(what), state, detail));
}

fn in_a_line(failure: &Failure) -> String {
    failure.to_string().replace('\n', " ")
}

/// Checks everything that can be checked; ends with the code of the first thing that is wrong.
pub(super) async fn doctor(global: Global) -> Result<Exit, Failure> {
    let format = global.output;
    let mut found = Findings::new();
    match Session::open(global) {
        Ok(session) => {
            configuration(&session.client, &mut found.machine);
            if coordinator(&session.client, &mut found).await == Reached::Yes {
                token_and_devices(&session.client, &mut found).await;
            } else {
                for what in ["token", "devices"] {
                    holds(&mut found.fleet, what, CheckState::NotAsked, "");
                }
            }
        }
        Err(failure) => {
            holds(&mut found.machine, "configuration", CheckState::Failed, in_a_line(&failure));
            found.ends(failure.exit());
        }
    }
    let exit = found.exit.unwrap_or(Exit::Done);
    show(format, &[found.machine, found.coordinator, found.store, found.fleet])?;
    Ok(exit)
}

fn configuration(client: &Client, machine: &mut Suite) {
    let api = client.api();
    let (state, words) = match config::path() {
        Ok(path) if config::privacy(&path) == Privacy::Open => {
            (CheckState::Look, format!("leads to {api}, and others can read {}: chmod 600 it", path.display()))
        }
        Ok(_) | Err(_) if client.is_exposed() => {
            (CheckState::Look, format!("leads to {api}, not encrypted: your token can be read on the way"))
        }
        Ok(_) | Err(_) => (CheckState::Passed, format!("leads to {api}")),
    };
    holds(machine, "configuration", state, words);
}

/// Did anything answer?
#[derive(PartialEq, Eq)]
enum Reached {
    Yes,
    No,
}

async fn coordinator(client: &Client, found: &mut Findings) -> Reached {
    let check = Check::HttpHealthy { at: format!("{}/ready", client.api()) };
    let (before, begun) = (clock::now(), clock::instant());
    let asked: Result<Probe<ReadyView>, _> = client.probe("ready").await;
    let took = clock::instant().saturating_duration_since(begun);
    let ready = match asked {
        Ok(ready) => ready,
        Err(err) => {
            let failure = Failure::from(err);
            let words = format!("was not answered: {}", in_a_line(&failure));
            found.coordinator.checks.push(CheckResult::of(check, Err(words)).after(took));
            found.ends(failure.exit());
            return Reached::No;
        }
    };
    let (state, words) = match &ready.body {
        None => (CheckState::Failed, "and not as a coordinator does: is the address right?".to_owned()),
        Some(view) => match view.state {
            Readiness::Ready => (CheckState::Passed, "it serves".to_owned()),
            Readiness::Recovering => {
                let waits = view.waits_for.join(", ");
                (CheckState::Look, format!("it is recovering and what it shows may be old; it waits for {waits}"))
            }
        },
    };
    let words = format!("answered {}, {words}", ready.status);
    found.coordinator.checks.push(CheckResult::new(check, state, words).after(took));
    if state == CheckState::Failed {
        found.ends(Exit::Failed);
    }
    compare(&ready, before, took, found);
    if let Some(view) = ready.body {
        found.store.checks = view.checks;
        if found.store.judge().is_err() {
            found.ends(Exit::Unreachable);
        }
    }
    Reached::Yes
}

/// Its clock and its version beside ours.
fn compare(ready: &Probe<ReadyView>, before: OffsetDateTime, took: Duration, found: &mut Findings) {
    let suite = &mut found.coordinator;
    match ready.date.as_deref().and_then(http_date) {
        Some(server) => clocks(server, before + took / 2, suite),
        None => holds(suite, "clock", CheckState::Look, "of the coordinator is unknown: it did not say its time"),
    }
    if let Some(view) = &ready.body {
        let ours = env!("CARGO_PKG_VERSION");
        let minor = |v: &str| v.rsplit_once('.').map(|(head, _)| head.to_owned());
        let words = format!("of bramble is {ours}, of the coordinator {}", view.version);
        if minor(ours) == minor(&view.version) {
            holds(suite, "version", CheckState::Passed, words);
        } else {
            holds(suite, "version", CheckState::Look, format!("{words}: use the same minor version"));
        }
    }
}

fn clocks(server: OffsetDateTime, ours: OffsetDateTime, suite: &mut Suite) {
    // The header counts whole seconds.
    let difference = (ours - server).whole_seconds();
    if difference.abs() <= CLOCK_SECS_MAX {
        holds(suite, "clock", CheckState::Passed, format!("is {difference} s apart from the coordinator's"));
    } else {
        let side = if difference > 0 { "ahead of" } else { "behind" };
        let words = format!("is {} s {side} the coordinator's: enable systemd-timesyncd or chrony", difference.abs());
        holds(suite, "clock", CheckState::Look, words);
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<OffsetDateTime> {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    PrimitiveDateTime::parse(text, format).ok().map(PrimitiveDateTime::assume_utc)
}

async fn token_and_devices(client: &Client, found: &mut Findings) {
    let nothing = vec![];
    match client.get::<Me>(&["me"], &nothing).await {
        Ok(me) => {
            let words = format!("is {}'s, with {} right(s)", me.subject, me.rights.len());
            holds(&mut found.fleet, "token", CheckState::Passed, words);
        }
        Err(failure) => {
            holds(&mut found.fleet, "token", CheckState::Failed, format!("was refused: {}", in_a_line(&failure)));
            holds(&mut found.fleet, "devices", CheckState::NotAsked, "");
            return found.ends(failure.exit());
        }
    }
    match client.list::<DeviceView>(&["devices"], &nothing, usize::MAX).await {
        Ok(devices) => {
            let count = |c| devices.iter().filter(|d| d.connection == c).count();
            let (online, all) = (count(Connection::Online), devices.len());
            let unknown = count(Connection::Recovering);
            let held = devices.iter().filter(|d| d.hold.is_some()).count();
            let mut what = format!("{online} of {all} online");
            if unknown > 0 {
                what.push_str(&format!(", {unknown} not known yet"));
            }
            if held > 0 {
                what.push_str(&format!(", {held} on hold (`bramble resume` shows why)"));
            }
            let clocks = devices.iter().filter(|d| d.clock.is_wrong()).count();
            if clocks > 0 {
                what.push_str(&format!(", {clocks} with a wrong clock (`bramble describe device` shows why)"));
            }
            let well = online == all && held == 0 && clocks == 0;
            holds(&mut found.fleet, "devices", if well { CheckState::Passed } else { CheckState::Look }, what);
        }
        Err(failure) => {
            holds(&mut found.fleet, "devices", CheckState::Failed, format!("cannot be read: {}", in_a_line(&failure)));
            found.ends(failure.exit());
        }
    }
}

fn show(format: Format, suites: &[Suite]) -> Result<(), Failure> {
    if format.print(&Items { items: suites })? == Printed::Yes {
        return Ok(());
    }
    let parts: Vec<_> = suites.iter().map(of_suite).collect();
    let mut table = Table::new(&["SUITE", "CHECK", "", "TOOK", "FOUND"]);
    for (suite, one) in suites.iter().flat_map(|suite| suite.checks.iter().map(move |one| (suite, one))) {
        let tone = match one.state {
            CheckState::Passed => Tone::Good,
            CheckState::Look => Tone::Warn,
            CheckState::Failed => Tone::Bad,
            CheckState::NotAsked => Tone::Dim,
        };
        table.row(vec![
            (Tone::Dim, suite.name.clone()),
            (Tone::Plain, one.check.to_string()),
            (tone, one.state.word().to_owned()),
            (Tone::Dim, one.took_ms.map(|ms| format!("{ms}ms")).unwrap_or_default()),
            (Tone::Plain, one.detail.clone()),
        ]);
    }
    Ok(say(&format!("{}\n\n{}", pipeline(&parts), table.render()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coordinators_clock_is_read_and_compared() {
        let server = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(server.unix_timestamp(), 784_111_777);
        assert_eq!(http_date("yesterday"), None);
        let found = |secs| {
            let mut suite = Suite::new("coordinator");
            clocks(server, server + time::Duration::seconds(secs), &mut suite);
            (suite.checks[0].state, suite.checks[0].to_string())
        };
        assert_eq!(found(3).0, CheckState::Passed);
        let behind = "clock is 90 s behind the coordinator's: enable systemd-timesyncd or chrony";
        assert_eq!(found(-90), (CheckState::Look, behind.to_owned()));
    }
}
