//! The one place of this program that reads a clock: how long things took, and waiting for a condition with an end.

use std::time::{Duration, Instant};

/// A stopwatch.
#[derive(Debug, Clone, Copy)]
pub struct Watch(Instant);

impl Watch {
    /// Starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this module is xtask's clock")]
    pub fn start() -> Self {
        Watch(Instant::now())
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// A condition did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {} s for {what}, in vain{}", .waited.as_secs(), last.as_ref().map(|l| format!(": {l}")).unwrap_or_default())]
pub struct InVain {
    what: String,
    waited: Duration,
    last: Option<String>,
}

/// Asks again and again until the answer is there. `Err` of an attempt is its reason for "not yet"; the last one is
/// told when the time is over.
///
/// # Errors
/// When the condition did not come true within `limit`.
pub fn until<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, InVain> {
    let watch = Watch::start();
    let mut pause = Duration::from_millis(10);
    loop {
        let last = match attempt() {
            Ok(answer) => return Ok(answer),
            Err(why) => why,
        };
        if watch.elapsed() >= limit {
            return Err(InVain { what: what.into(), waited: limit, last: (!last.is_empty()).then_some(last) });
        }
        std::thread::sleep(pause.min(limit.saturating_sub(watch.elapsed())));
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_the_answer_and_tells_the_last_reason_in_vain() {
        let mut left = 3;
        let answer = until("a count", Duration::from_secs(5), || {
            left -= 1;
            if left == 0 { Ok("there") } else { Err("not yet".into()) }
        });
        assert_eq!(answer.unwrap(), "there");
        let vain = until::<()>("rain", Duration::from_millis(20), || Err("the sky is clear".into())).unwrap_err();
        assert_eq!(vain.to_string(), "waited 0 s for rain, in vain: the sky is clear");
    }
}
