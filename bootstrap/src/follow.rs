//! Says on the console, and beside the seed, how the enrolment goes, until it is done.
//!
//! Decides what of the agent's status is news. The words are the agent's own.

use std::path::Path;
use std::time::Duration;

use crate::first_boot;
use crate::process::output;

const IDENTITY: &str = "var/lib/bramble/keys/identity";
const EVERY: Duration = Duration::from_secs(3);
const ASK: &[&str] =
    &["show", "--property=ActiveState,StatusText", "bramble-agent@a.service", "bramble-agent@b.service"];

/// Follows it to its end.
pub(crate) fn run(root: &Path) {
    let mut last = String::new();
    let mut say = |text: String| {
        if text != last {
            println!("bramble: {text}");
            first_boot::add_result(root, &text);
            last = text;
        }
    };
    while !root.join(IDENTITY).exists() {
        match output(Path::new("/usr/bin/systemctl"), ASK) {
            Ok(shown) => news(&shown).into_iter().for_each(&mut say),
            Err(err) => say(format!("the agent cannot be asked: {err:#}")),
        }
        std::thread::sleep(EVERY);
    }
    say("this device is enrolled".into());
}

/// What the agent that runs says of itself; the other instance says nothing.
fn news(shown: &str) -> Option<String> {
    let units = shown.split("\n\n");
    let value = |unit: &str, name: &str| {
        unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().trim().to_owned()
    };
    let failed = units.clone().find(|unit| value(unit, "ActiveState") == "failed");
    let said = units.map(|unit| value(unit, "StatusText")).find(|text| !text.is_empty());
    said.or_else(|| failed.map(|_| "the agent does not run: `journalctl -u \'bramble-agent@*\'` says why".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_that_runs_speaks() {
        let shown = "ActiveState=activating\nStatusText=the token is used up\n\nActiveState=inactive\nStatusText=\n";
        assert_eq!(news(shown).as_deref(), Some("the token is used up"));
        assert_eq!(news("ActiveState=activating\nStatusText=\n"), None);
        assert!(news("ActiveState=failed\n\nActiveState=inactive\n").is_some_and(|text| text.contains("journalctl")));
    }
}
