//! Words to systemd, when it started us: ready, alive, stopping. Elsewhere these do nothing.
//!
//! Whether the agent is alive is the caller's judgement; this only passes it on in time.

use std::time::Duration;

use sd_notify::NotifyState;

/// The agent serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The agent ends in good order.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// A sentence for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// How often systemd wants to hear from us, if at all.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Pings systemd's watchdog while `alive` says so, twice per period. Returns at once when systemd does not ask for it.
pub async fn keep_watchdog(alive: impl Fn() -> bool + Send) {
    let Some(period) = watchdog_period() else { return };
    let mut ticks = tokio::time::interval(period / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if alive() {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the agent makes no progress: systemd's watchdog is not answered");
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(state) {
        tracing::debug!(%err, "systemd was not told");
    }
}
