//! What happened, again: the agents append a line to `state/upgrade.log` for each step, and the same `step` runs over them.
//!
//! Lines of both agents stand in one file, in the order of time. Each start brings the ledger that was read then, so that
//! a ring whose beginning is gone still has a place to begin at. Decides nothing; it shows what `step` decides.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::facts::{Facts, Lease};
use super::ledger::{Ledger, Phase};
use super::step::step;

/// One step, as JSON on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What was read before the step; with every [`Event::Started`], and at the beginning of a new file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ledger>,
    /// What was so.
    pub facts: Facts,
    /// What happened.
    pub event: Event,
}

/// Why a log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line in the middle is no line of ours.
    #[error("line {line} is not a step: {err}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The parser's word.
        err: serde_json::Error,
    },
    /// There is no place to begin at.
    #[error("no line brings a ledger: the log holds no start of an agent")]
    NoStart,
}

/// The story of a log, for people: every event, what followed, and where the upgrade was then.
pub fn replay(log: &str) -> Result<String, ReplayError> {
    let (mut out, mut known) = (String::new(), None);
    for (n, text) in log.lines().enumerate() {
        let line: Line = match serde_json::from_str(text) {
            Ok(line) => line,
            Err(_) if n + 1 == log.lines().count() && !log.ends_with('\n') => {
                out.push_str("(the last line was cut off)\n");
                break;
            }
            Err(err) => return Err(ReplayError::Line { line: n + 1, err }),
        };
        let Some(ledger) = pick(known.take(), &line, &mut out) else { continue };
        let (next, effects) = step(ledger.clone(), &line.event, &line.facts);
        tell(&mut out, &line);
        for effect in effects {
            let _ = writeln!(out, "  {effect}");
        }
        if place(&next) != place(&ledger) {
            let _ = writeln!(out, "  = {}", place(&next));
        }
        known = Some(next);
    }
    known.map(|_| out).ok_or(ReplayError::NoStart)
}

/// The ledger a line begins with: what was read then, where it says so, else what followed from the lines before.
fn pick(known: Option<Ledger>, line: &Line, out: &mut String) -> Option<Ledger> {
    match (known, &line.ledger) {
        (Some(known), Some(read)) if known != *read => {
            let _ = writeln!(out, "(lines are missing here: the ledger was {})", place(read));
            Some(read.clone())
        }
        (Some(known), _) => Some(known),
        (None, read) => read.clone(),
    }
}

fn tell(out: &mut String, line: &Line) {
    let Facts { up_ms, own, instance, lease, .. } = &line.facts;
    let acts = match lease {
        Lease::Held => "holds the lease",
        Lease::NotHeld => "waits",
    };
    let secs = up_ms / 1000;
    let (tenths, name) = (up_ms % 1000 / 100, instance.name());
    let _ = writeln!(out, "{secs}.{tenths}s {name} {own} {acts}: {}", line.event);
}

/// Where an upgrade is, in a few words.
fn place(ledger: &Ledger) -> String {
    let Some(upgrade) = &ledger.upgrade else {
        let last = ledger.last.as_ref().map(|last| {
            let status = format!("{:?}", last.status).to_lowercase();
            let why = if last.why.is_empty() { String::new() } else { format!(" ({})", last.why) };
            let blamed = if last.blamed { ", refused from now on" } else { "" };
            format!("; {} was {status}{why}{blamed}", last.version)
        });
        return format!("{} is confirmed{}", ledger.confirmed.version, last.unwrap_or_default());
    };
    let version = upgrade.version;
    match &upgrade.phase {
        Phase::Judging => format!("{version} is judged"),
        Phase::Staging => format!("{version} is staged"),
        Phase::Verifying => format!("{version} tests itself"),
        Phase::Starting => format!("{version} starts"),
        Phase::Halting => format!("{version} is ready, the old one halts"),
        Phase::Released => format!("{version} is to take over"),
        Phase::Trial { instance, boots, proof } => {
            format!("{version} acts on trial as {}, boot {boots}, {proof:?}", instance.name())
        }
        Phase::Returning(failure) => format!("{version} is turned back: {}", failure.why),
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v1::Instance;

    use super::*;
    use crate::core::upgrade::testing::{facts, version, wish};

    fn line(ledger: Option<Ledger>, facts: &Facts, event: Event) -> String {
        serde_json::to_string(&Line { ledger, facts: facts.clone(), event }).unwrap()
    }

    #[test]
    fn a_log_whose_beginning_is_gone_begins_at_the_first_start() {
        let (start, facts) = (Ledger::new(version(5), Instance::A), facts(version(5)));
        let wished = Facts { wish: Some(wish(6, 1)), ..facts.clone() };
        let lines = [
            line(None, &facts, Event::Tick),
            line(Some(start), &facts, Event::Started),
            line(None, &wished, Event::Wished),
        ];
        let told = replay(&lines.join("\n")).unwrap();
        assert!(told.starts_with("600.0s a 0.5.0 holds the lease: started\n  act\n"), "{told}");
        assert!(told.ends_with("wished\n  judge 0.6.0 attempt 1\n  = 0.6.0 is judged\n"), "{told}");
    }

    #[test]
    fn lines_that_are_missing_are_said_to_be() {
        let (start, facts) = (Ledger::new(version(5), Instance::A), facts(version(5)));
        let mut later = start.clone();
        later.confirmed.version = version(6);
        let lines = [
            line(Some(start), &facts, Event::Started),
            line(Some(later), &Facts { own: version(6), ..facts }, Event::Started),
        ];
        let told = replay(&lines.join("\n")).unwrap();
        assert!(told.contains("(lines are missing here: the ledger was 0.6.0 is confirmed)"), "{told}");
    }

    #[test]
    fn what_is_no_log_is_named() {
        assert!(matches!(replay(""), Err(ReplayError::NoStart)));
        let only = line(None, &facts(version(5)), Event::Tick);
        assert!(matches!(replay(&only), Err(ReplayError::NoStart)));
        assert!(matches!(replay(&format!("{{\n{only}\n")), Err(ReplayError::Line { line: 1, .. })));
    }
}
