//! `doctor`: what is between this machine and a working fleet, checked one by one.

use bramble_contracts::api::{Connection, DeviceView, Me, Readiness, ReadyView};
use serde::Serialize;
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

use super::Session;
use crate::{
    args::Global,
    client::{Client, Probe},
    clock,
    config::{self, Privacy},
    exit::{Exit, Failure},
    output::{Format, Items, Printed, Table, Tone, say},
};

/// More difference than this makes times in lists misleading and tokens expire early or late.
const CLOCK_SECS_MAX: i64 = 30;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    Good,
    Look,
    Bad,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    mark: Mark,
    found: String,
}

#[derive(Default)]
struct Findings {
    checks: Vec<Check>,
    exit: Option<Exit>,
}

impl Findings {
    fn add(&mut self, check: &'static str, mark: Mark, found: impl Into<String>) {
        self.checks.push(Check { check, mark, found: found.into() });
    }

    fn failed(&mut self, check: &'static str, failure: &Failure) {
        self.add(check, Mark::Bad, failure.to_string().replace('\n', " "));
        self.exit = self.exit.or(Some(failure.exit()));
    }
}

/// Checks everything that can be checked; ends with the code of the first thing that is wrong.
pub(super) async fn doctor(global: Global) -> Result<Exit, Failure> {
    let format = global.output;
    let mut found = Findings::default();
    match Session::open(global) {
        Ok(session) => {
            configuration(&session.client, &mut found);
            if coordinator(&session.client, &mut found).await == Reached::Yes {
                token_and_devices(&session.client, &mut found).await;
            }
        }
        Err(failure) => found.failed("configuration", &failure),
    }
    show(format, &found)?;
    Ok(found.exit.unwrap_or(Exit::Done))
}

fn configuration(client: &Client, found: &mut Findings) {
    let api = client.api();
    match config::path() {
        Ok(path) if config::privacy(&path) == Privacy::Open => {
            found.add("configuration", Mark::Look, format!("{api}; others can read {}: chmod 600 it", path.display()));
        }
        Ok(_) | Err(_) if client.is_exposed() => {
            found.add("configuration", Mark::Look, format!("{api}; not encrypted: your token can be read on the way"));
        }
        Ok(_) | Err(_) => found.add("configuration", Mark::Good, api),
    }
}

/// Did anything answer?
#[derive(PartialEq, Eq)]
enum Reached {
    Yes,
    No,
}

async fn coordinator(client: &Client, found: &mut Findings) -> Reached {
    let before = clock::now();
    let ready: Probe<ReadyView> = match client.probe("ready").await {
        Ok(ready) => ready,
        Err(err) => {
            found.failed("coordinator", &err.into());
            return Reached::No;
        }
    };
    let middle = before + (clock::now() - before) / 2;
    match &ready.body {
        None => {
            let what =
                format!("answers with status {} and not as a coordinator does: is the address right?", ready.status);
            found.add("coordinator", Mark::Bad, what);
            found.exit = found.exit.or(Some(Exit::Failed));
        }
        Some(view) => match view.state {
            Readiness::Ready => found.add("coordinator", Mark::Good, "serves"),
            Readiness::Recovering => {
                let waits = view.waits_for.join(", ");
                found.add(
                    "coordinator",
                    Mark::Look,
                    format!("recovering: what it shows may be old. It waits for {waits}"),
                );
            }
        },
    }
    match ready.date.as_deref().and_then(http_date) {
        Some(server) => clocks(server, middle, found),
        None => found.add("clock", Mark::Look, "the coordinator did not say its time"),
    }
    if let Some(view) = &ready.body {
        let ours = env!("CARGO_PKG_VERSION");
        let minor = |v: &str| v.rsplit_once('.').map(|(head, _)| head.to_owned());
        if minor(ours) == minor(&view.version) {
            found.add("version", Mark::Good, format!("bramble {ours}, coordinator {}", view.version));
        } else {
            let what = format!("bramble {ours}, coordinator {}: use the same minor version", view.version);
            found.add("version", Mark::Look, what);
        }
    }
    Reached::Yes
}

fn clocks(server: OffsetDateTime, ours: OffsetDateTime, found: &mut Findings) {
    // The header counts whole seconds.
    let difference = (ours - server).whole_seconds();
    if difference.abs() <= CLOCK_SECS_MAX {
        found.add("clock", Mark::Good, format!("{difference} s apart from the coordinator's"));
    } else {
        let side = if difference > 0 { "ahead of" } else { "behind" };
        let what = format!(
            "this machine is {} s {side} the coordinator: enable systemd-timesyncd or chrony",
            difference.abs()
        );
        found.add("clock", Mark::Look, what);
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
        Ok(me) => found.add("token", Mark::Good, format!("{}, {} right(s)", me.subject, me.rights.len())),
        Err(failure) => return found.failed("token", &failure),
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
            found.add("devices", if well { Mark::Good } else { Mark::Look }, what);
        }
        Err(failure) => found.failed("devices", &failure),
    }
}

fn show(format: Format, found: &Findings) -> Result<(), Failure> {
    if format.print(&Items { items: &found.checks })? == Printed::Yes {
        return Ok(());
    }
    let mut table = Table::new(&["CHECK", "", "FOUND"]);
    for check in &found.checks {
        let (tone, mark) = match check.mark {
            Mark::Good => (Tone::Good, "ok"),
            Mark::Look => (Tone::Warn, "look"),
            Mark::Bad => (Tone::Bad, "bad"),
        };
        table.row(vec![
            (Tone::Plain, check.check.to_owned()),
            (tone, mark.to_owned()),
            (Tone::Plain, check.found.clone()),
        ]);
    }
    Ok(say(&table.render())?)
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
            let mut found = Findings::default();
            clocks(server, server + time::Duration::seconds(secs), &mut found);
            (found.checks[0].mark, found.checks[0].found.clone())
        };
        assert_eq!(found(3).0, Mark::Good);
        let behind = "this machine is 90 s behind the coordinator: enable systemd-timesyncd or chrony";
        assert_eq!(found(-90), (Mark::Look, behind.to_owned()));
    }
}
