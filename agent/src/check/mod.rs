//! `bramble-agent check`: what is well on this device and what is not, as a suite of smoke checks; needs no network.
//!
//! Decides what is asked, in which order it is shown, and that nothing is waited for long: all is asked side by side,
//! each within its own bound, so that a hung disk or Podman is one line that failed. Changes nothing.

mod certificate;
mod lvm;
mod machine;
mod podman;
mod self_test;
mod state;
mod store;
mod time;
mod upgrade;
mod who;

use std::time::Duration;

use bramble_contracts::smoke::{Check, CheckResult, CheckState, Suite, no_answer};
use futures::future::{BoxFuture, FutureExt as _, join_all};

use crate::config::Config;
use crate::host::clock;

/// For each question. They are asked side by side, so nothing takes longer, whatever hangs.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A connection that does not open within this is not waited for.
const DIAL: Duration = Duration::from_secs(3);

/// The answer to a question: how it is, and in words that go on where the check's name ends.
type Answer = (CheckState, String);

fn ok(words: impl Into<String>) -> Answer {
    (CheckState::Passed, words.into())
}

fn look(words: impl Into<String>) -> Answer {
    (CheckState::Look, words.into())
}

fn failed(words: impl Into<String>) -> Answer {
    (CheckState::Failed, words.into())
}

/// Several answers, as one part of the suite.
type Part<'a> = BoxFuture<'a, Vec<CheckResult>>;

/// One question, bounded.
fn ask<'a>(what: &'static str, answer: impl Future<Output = Answer> + Send + 'a) -> Part<'a> {
    bounded(Check::holds(what), answer).map(|one| vec![one]).boxed()
}

async fn bounded(check: Check, answer: impl Future<Output = Answer> + Send) -> CheckResult {
    let begun = clock::uptime();
    let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
    let (state, words) = answer.unwrap_or_else(|_| failed(no_answer(ANSWER_MAX)));
    CheckResult::new(check, state, words).after(clock::uptime().saturating_sub(begun))
}

/// Work on files, beside everything else: a disk that hangs keeps a thread, never us.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// A question to files.
fn ask_disk<'a>(what: &'static str, work: impl FnOnce() -> Answer + Send + 'static) -> Part<'a> {
    ask(what, on_disk(work).map(|answer| answer.unwrap_or_else(|| failed("could not be looked at"))))
}

/// Looks at everything.
pub async fn check(config: &Config) -> Suite {
    let parts: Vec<Part<'_>> = vec![
        ask_disk("clock", time::clock(config)),
        ask_disk("disk of apps", machine::disk(&config.apps_dir)),
        ask_disk("disk of state", machine::disk(&config.state_dir)),
        ask_disk("memory", machine::memory),
        ask_disk("kernel", machine::kernel),
        ask_disk("cgroups", machine::cgroups),
        ask("nftables", machine::nftables()),
        ask("podman", podman::podman(config)),
        ask_disk("image store", store::store(config)),
        ask("thin pool", lvm::thin_pool()),
        ask("watchdog", machine::watchdog()),
        ask("agent's unit", machine::unit()),
        ask("other starters", machine::rivals()),
        ask_disk("state files", state::files(config)),
        ask_disk("upgrades", upgrade::upgrades(config)),
        who::who(config).boxed(),
    ];
    let checks = join_all(parts).await.into_iter().flatten().collect();
    Suite { name: "device".to_owned(), checks }
}

pub use self_test::{Blame, blame, self_test};

/// The suite for people: one line each.
pub fn text(suite: &Suite) -> String {
    let name = |one: &CheckResult| one.check.to_string();
    let width = suite.checks.iter().map(|one| name(one).chars().count()).max().unwrap_or(0);
    let line = |one: &CheckResult| format!("{:<9}  {:<width$}  {}\n", one.state.word(), name(one), one.detail);
    suite.checks.iter().map(line).collect()
}

/// How long ago a status was written.
pub fn age_secs(up_ms: u64) -> u64 {
    let now = u64::try_from(clock::uptime().as_millis()).unwrap_or(u64::MAX);
    now.saturating_sub(up_ms) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_one_line_that_failed() {
        let hangs = bounded(Check::holds("podman"), std::future::pending::<Answer>()).await;
        assert_eq!(hangs.to_string(), "podman did not answer within 10000 ms");
        assert_eq!(hangs.state, CheckState::Failed);
        let suite = Suite { name: "device".into(), checks: vec![hangs] };
        assert_eq!(text(&suite), "failed     podman  did not answer within 10000 ms\n");
    }
}
