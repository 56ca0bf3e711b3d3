//! Podman: is the program there, does its service answer, does it store images as it should?
//!
//! Decides what is good enough. Asks no container anything.

use std::time::Duration;

use super::{Answer, failed, look, ok};
use crate::config::Config;
use crate::host::cmd::{self, Bounds};
use crate::host::podman::Podman;

/// Older ones lack what the agent uses of libpod's API.
const VERSION_MIN: (u32, u32) = (4, 3);
const PROGRAM: Bounds = Bounds { time: Duration::from_secs(8), output_bytes: 4096 };
const SERVICE: Duration = Duration::from_secs(5);

pub(super) async fn podman(config: &Config) -> Answer {
    let version = match Box::pin(cmd::run(&config.podman.program, &["--version"], PROGRAM)).await {
        Ok(finished) if finished.status.success() => finished.stdout.trim().to_owned(),
        Ok(finished) => return failed(format!("does not start: {}", finished.stderr.trim())),
        Err(err) => return failed(format!("cannot be used: {err}; apt-get install podman")),
    };
    let version = version.rsplit(' ').next().unwrap_or_default().to_owned();
    if parse(&version).is_some_and(|found| found < VERSION_MIN) {
        let (major, minor) = VERSION_MIN;
        return failed(format!("is {version}, at least {major}.{minor} is needed: use Debian 12 or newer"));
    }
    let socket = config.socket();
    if !socket.exists() {
        return look(format!("is {version}, and nobody listens on {}: does the agent run?", socket.display()));
    }
    match tokio::time::timeout(SERVICE, Podman::new(&socket).info()).await {
        Ok(Ok(info)) => judge(&version, &info.store.graph_driver_name, &info.store.graph_root),
        Ok(Err(err)) => failed(format!("is {version}, and its service does not answer: {err}")),
        Err(_) => failed(format!("is {version}, and its service gave no answer within {} s", SERVICE.as_secs())),
    }
}

fn judge(version: &str, driver: &str, root: &str) -> Answer {
    let text = format!("is {version}, answers, and stores images at {root} with {driver}");
    match driver {
        "vfs" => look(format!("{text}: every layer is a whole copy; use overlay")),
        _ => ok(text),
    }
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use bramble_contracts::smoke::CheckState::{Look, Passed};

    use super::*;

    #[test]
    fn versions_are_numbers_and_vfs_is_wasteful() {
        assert!(parse("4.3.1").unwrap() >= VERSION_MIN && parse("10.0-dev").unwrap() > VERSION_MIN);
        assert!(parse("4.2.9").unwrap() < VERSION_MIN && parse("podman").is_none());
        assert_eq!((judge("5.4.2", "overlay", "/r").0, judge("5.4.2", "vfs", "/r").0), (Passed, Look));
    }
}
