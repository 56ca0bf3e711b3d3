//! A pipeline in one line: what passed and how long it took, where it is, what failed and why.
//!
//! `preparing ✓ 1.2s → stopping ✓ 0.4s → probing ✗ 9.0s HTTP GET :80/ answered 500 → running`, and in ASCII where the
//! terminal's character set is another than UTF-8.

use std::sync::OnceLock;

use bramble_contracts::{
    smoke::{CheckState, Suite},
    v2::{Stage, StageState},
};
use serde::Serialize;

use super::style::{Tone, clean, paint};

/// How one part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Not begun, or not asked.
    Waiting,
    /// Under way.
    Active,
    /// Done.
    Good,
    /// Works, and should be looked at.
    Look,
    /// Failed.
    Bad,
}

/// One part of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// What it is called.
    pub name: String,
    /// How it stands.
    pub mark: Mark,
    /// How long it took, in milliseconds.
    pub took_ms: Option<u64>,
    /// In words, where it failed or waits for something.
    pub detail: String,
}

/// The signs that this terminal shows.
struct Signs {
    good: &'static str,
    bad: &'static str,
    active: &'static str,
    arrow: &'static str,
}

const UNICODE: Signs = Signs { good: "✓", bad: "✗", active: "…", arrow: "→" };
const ASCII: Signs = Signs { good: "ok", bad: "FAILED", active: "...", arrow: "->" };

/// As the C library does: the first of these that is set decides.
fn is_utf8(of: impl Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| of(name).filter(|value| !value.is_empty()));
    set.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

fn signs() -> &'static Signs {
    static UTF8: OnceLock<bool> = OnceLock::new();
    if *UTF8.get_or_init(|| is_utf8(|name| std::env::var(name).ok())) { &UNICODE } else { &ASCII }
}

/// `50ms`, `1.2s`, `4m10s`.
fn time(ms: u64) -> String {
    match ms {
        ..100 => format!("{ms}ms"),
        100..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        60_000.. => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1000),
    }
}

impl Part {
    /// Name, sign, time and words.
    pub(crate) fn text(&self) -> String {
        self.with(signs())
    }

    fn with(&self, signs: &Signs) -> String {
        let (sign, detail) = match self.mark {
            Mark::Waiting => ("", ""),
            Mark::Good => (signs.good, ""),
            Mark::Look => ("!", self.detail.as_str()),
            Mark::Active => (signs.active, self.detail.as_str()),
            Mark::Bad => (signs.bad, self.detail.as_str()),
        };
        // Of what is under way it is only known how long it took when something about it changed last.
        let took = self.took_ms.filter(|_| self.mark != Mark::Active).map(time).unwrap_or_default();
        let words = [self.name.as_str(), sign, &took, detail];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn tone(&self) -> Tone {
        match self.mark {
            Mark::Waiting => Tone::Dim,
            Mark::Active | Mark::Look => Tone::Warn,
            Mark::Good => Tone::Good,
            Mark::Bad => Tone::Bad,
        }
    }
}

/// All parts, in colour where colours are shown.
pub(crate) fn pipeline(parts: &[Part]) -> String {
    let all: Vec<_> = parts.iter().map(|part| paint(part.tone(), &clean(&part.text())).into_owned()).collect();
    all.join(&format!(" {} ", signs().arrow))
}

/// An app's stages; what it does not go through is left out.
pub(crate) fn of_stages(stages: &[Stage]) -> Vec<Part> {
    let part = |stage: &Stage| {
        let mark = match stage.state {
            StageState::Skipped => return None,
            StageState::Waiting => Mark::Waiting,
            StageState::Active => Mark::Active,
            StageState::Passed => Mark::Good,
            StageState::Failed => Mark::Bad,
        };
        Some(Part { name: word(&stage.name), mark, took_ms: stage.took_ms, detail: stage.detail.clone() })
    };
    stages.iter().filter_map(part).collect()
}

/// A suite of checks as one part: the one that failed is named.
pub(crate) fn of_suite(suite: &Suite) -> Part {
    let first = |state| suite.checks.iter().find(|one| one.state == state).map(ToString::to_string);
    let (mark, detail) = match suite.state() {
        CheckState::NotAsked => (Mark::Waiting, None),
        CheckState::Passed => (Mark::Good, None),
        CheckState::Look => (Mark::Look, first(CheckState::Look)),
        CheckState::Failed => (Mark::Bad, first(CheckState::Failed)),
    };
    Part { name: suite.name.clone(), mark, took_ms: suite.took_ms(), detail: detail.unwrap_or_default() }
}

fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bramble_contracts::{
        smoke::{Check, CheckResult},
        v2::StageName,
    };

    use super::*;

    #[test]
    fn stages_read_in_both_character_sets() {
        let stage = |name, state, took_ms, detail: &str| Stage { name, state, took_ms, detail: detail.into() };
        let failed = "HTTP GET :80/ answered 500 Internal Server Error";
        let parts = of_stages(&[
            stage(StageName::Preparing, StageState::Passed, Some(1_234), ""),
            stage(StageName::Stopping, StageState::Skipped, None, ""),
            stage(StageName::Starting, StageState::Active, Some(0), "container web is slow"),
            stage(StageName::Probing, StageState::Failed, Some(75_000), failed),
            stage(StageName::Running, StageState::Waiting, None, ""),
        ]);
        let texts = |signs| parts.iter().map(|p| p.with(signs)).collect::<Vec<_>>();
        assert_eq!(
            texts(&UNICODE),
            [
                "preparing ✓ 1.2s",
                "starting … container web is slow",
                "probing ✗ 1m15s HTTP GET :80/ answered 500 Internal Server Error",
                "running"
            ]
        );
        assert_eq!(
            texts(&ASCII),
            [
                "preparing ok 1.2s",
                "starting ... container web is slow",
                "probing FAILED 1m15s HTTP GET :80/ answered 500 Internal Server Error",
                "running"
            ]
        );
        assert_eq!([0, 99, 100, 59_999, 60_000].map(time), ["0ms", "99ms", "0.1s", "59.9s", "1m0s"]);
    }

    #[test]
    fn the_locale_decides() {
        let env = |pairs: &'static [(&str, &str)]| {
            is_utf8(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert!(env(&[("LANG", "de_DE.UTF-8")]) && env(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
        assert!(!env(&[]) && !env(&[("LANG", "C")]) && !env(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")]));
    }

    #[test]
    fn a_suite_is_one_part_that_names_what_failed() {
        let mut suite = Suite::new("coordinator");
        suite.checks.push(CheckResult::of(Check::holds("index"), Ok("has caught up".into())));
        let tcp = Check::TcpReachable { at: "b:4222".into() };
        suite.checks.push(CheckResult::of(tcp, Err("refused the connection".into())));
        assert_eq!(of_suite(&suite).with(&ASCII), "coordinator FAILED TCP b:4222 refused the connection");
    }
}
