//! Is the coordinator ready? The smoke checks of what it stands on, asked when somebody asks us.
//!
//! Decides: that many who ask at once cost one round of questions a second, and what counts as ready. Bounded: every
//! question has a deadline well below those of load balancers. Deliberately does not: ask anything when nobody does.

use std::time::Duration;

use bramble_contracts::{
    api::{Readiness, ReadyView},
    smoke::{Check, CheckResult, CheckState, Suite},
};
use tokio::sync::Mutex;

use super::{App, system::VERSION};
use crate::clock;

/// Answers younger than this are given again.
const FRESH: Duration = Duration::from_secs(1);

/// The newest answers of the store, and when they came.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Option<(Duration, Vec<CheckResult>)>>);

impl Answers {
    async fn of(&self, app: &App) -> Vec<CheckResult> {
        // Whoever comes while it is being asked waits for that answer: it is bounded.
        let mut newest = self.0.lock().await;
        if let Some((at, answers)) = newest.as_ref()
            && clock::monotonic().saturating_sub(*at) < FRESH
        {
            return answers.clone();
        }
        let answers = app.core.store.checks().await;
        *newest = Some((clock::monotonic(), answers.clone()));
        answers
    }
}

/// What `/ready` and `/health` say.
pub(super) async fn view(app: &App) -> ReadyView {
    let mut suite = Suite { name: "coordinator".to_owned(), checks: app.ready.of(app).await };
    let (mut waits_for, foreign) = app.core.index.look(|lens| (lens.fleet.waits_for(), lens.fleet.foreign_format()));
    suite.checks.push(index(&waits_for));
    suite.checks.extend(foreign.clone().map(|why| CheckResult::of(Check::holds("store format"), Err(why))));
    waits_for.extend(foreign);
    if waits_for.is_empty() {
        let failed = suite.checks.iter().filter(|one| one.state == CheckState::Failed);
        waits_for.extend(failed.map(|one| format!("{} to pass", one.check)));
    }
    let state = if suite.judge().is_ok() && waits_for.is_empty() { Readiness::Ready } else { Readiness::Recovering };
    ReadyView { state, waits_for, checks: suite.checks, version: VERSION.to_owned() }
}

fn index(waits_for: &[String]) -> CheckResult {
    let caught_up = "has caught up with the store".to_owned();
    let answer = if waits_for.is_empty() { Ok(caught_up) } else { Err(format!("waits for {}", waits_for.join(", "))) };
    CheckResult::of(Check::holds("index"), answer)
}
