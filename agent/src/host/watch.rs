//! Forwards Podman's events as "look again", and opens the stream anew whenever it ends.

use std::time::Duration;

use tokio::sync::mpsc;

use super::podman::{EventLine, Podman};
use crate::core::app::AppKey;
use crate::core::backoff::Backoff;
use crate::supervise::HostEvent;

const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// Runs until nobody listens. `label` is the one that names the app.
pub(super) async fn forward(podman: Podman, out: mpsc::Sender<HostEvent>, label: &str) {
    let mut failures = 0;
    loop {
        match podman.events().await {
            Ok(mut events) => {
                failures = 0;
                // Whatever happened while nobody listened is found by looking.
                if out.send(HostEvent::Everything).await.is_err() {
                    return;
                }
                loop {
                    let next = tokio::select! {
                        next = events.next() => next,
                        () = out.closed() => return,
                    };
                    match next {
                        Ok(Some(line)) => {
                            let Some(event) = read(&line, label) else { continue };
                            if out.send(event).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => break,
                        Err(err) => {
                            tracing::debug!(%err, "podman's event stream broke");
                            break;
                        }
                    }
                }
            }
            Err(err) => tracing::debug!(%err, "podman's events cannot be heard"),
        }
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(PAUSES.delay(failures)) => {}
            () = out.closed() => return,
        }
    }
}

/// Only what changes an app's state matters; probes make `exec` events without end.
fn read(line: &EventLine, label: &str) -> Option<HostEvent> {
    if line.action.starts_with("exec") || line.action.starts_with("health") {
        return None;
    }
    AppKey::parse(line.actor.attributes.get(label)?).map(HostEvent::App)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_of_apps_that_change_something_count() {
        let text =
            r#"{"Type":"container","Action":"died","Actor":{"ID":"1","Attributes":{"bramble.app":"default.web"}}}"#;
        let died: EventLine = serde_json::from_str(text).unwrap();
        assert_eq!(read(&died, "bramble.app"), AppKey::parse("default.web").map(HostEvent::App));
        let exec: EventLine = serde_json::from_str(&text.replace("died", "exec_died")).unwrap();
        assert_eq!(read(&exec, "bramble.app"), None);
        for line in include_str!("captured/events.ndjson").lines() {
            assert_eq!(read(&serde_json::from_str(line).unwrap(), "bramble.app"), None, "a stranger's event");
        }
    }
}
