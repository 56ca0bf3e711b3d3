//! The agent's own upgrades: can it replace itself here, and how did the last one go?
//!
//! Decides what should be looked at. Nothing of it keeps an app from running.

use super::{Answer, failed, look, ok};
use crate::config::Config;
use crate::host::instances::{Binaries, Link};
use crate::host::release::Files;
use crate::status::{Status, upgrade_words};

/// Of this device.
pub(super) fn upgrades(config: &Config) -> impl FnOnce() -> Answer + Send + 'static {
    let config = config.clone();
    move || judge(&config)
}

fn judge(config: &Config) -> Answer {
    let (binaries, files) = (Binaries::of(&config.state_dir), Files::of(&config.state_dir));
    let (current, confirmed) = (binaries.target(Link::Current), binaries.target(Link::Confirmed));
    let Some(confirmed) = confirmed else {
        return look(
            "are not possible: this agent was not installed by `bramble-bootstrap`, nor started by `supervise`",
        );
    };
    if let Err(err) = files.keys() {
        return failed(format!("are refused: {err}"));
    }
    if let Err(err) = files.floor() {
        return failed(format!("are refused: {err}"));
    }
    match current {
        None => return look(format!("have left no link to a program; version {confirmed} is started in its place")),
        Some(current) if current != confirmed => {
            return look(format!("are under way: version {current} is on trial, {confirmed} is what it goes back to"));
        }
        Some(_) => {}
    }
    let last = Status::of_device(config).and_then(|status| status.program.upgrade);
    match last.filter(|last| last.blamed) {
        Some(last) => look(format!("have failed last: {}", upgrade_words(&last))),
        None => ok(format!("are possible; version {confirmed} is confirmed")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bramble_contracts::smoke::CheckState::{Failed, Look, Passed};

    use super::*;

    #[test]
    fn it_says_what_is_confirmed_and_what_is_on_trial() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        let text = format!(
            "coordinator = \"http://127.0.0.1:1\"\nstate_dir = {0:?}\n[podman]\nrun_dir = {0:?}\n",
            dir.path().display().to_string()
        );
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap();
        assert_eq!(judge(&config).0, Look);
        let binaries = Binaries::of(&config.state_dir);
        let (one, two) = ("1.0.0".parse().unwrap(), "1.0.1".parse().unwrap());
        for version in [one, two] {
            binaries.install(Path::new("/bin/true"), version).unwrap();
        }
        binaries.turn(Link::Confirmed, one).unwrap();
        assert!(judge(&config).1.contains("no link"));
        binaries.turn(Link::Current, one).unwrap();
        assert_eq!(judge(&config), (Passed, "are possible; version 1.0.0 is confirmed".into()));
        binaries.turn(Link::Current, two).unwrap();
        assert!(judge(&config).1.contains("1.0.1 is on trial"));
        std::fs::write(dir.path().join("release-floor"), "rubbish").unwrap();
        assert_eq!(judge(&config).0, Failed);
    }
}
