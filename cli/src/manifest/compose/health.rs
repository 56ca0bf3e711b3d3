//! `healthcheck` into a probe that runs a command in the container.
//!
//! Decides: Compose's own defaults (30 s, 30 s, 3 times). The check that an image may bring is not used.

use bramble_contracts::{
    quantity::Millis,
    v1::{ExecProbe, Probe},
};

use super::{
    cursor::{At, Findings},
    quantities,
};

/// The probe; none where there is to be none, or where it is wrong.
pub(super) fn probe(at: &At<'_>, f: &mut Findings) -> Option<Probe> {
    let mut test = Test::Missing;
    let mut probe =
        Probe { http: None, tcp: None, exec: None, interval: Millis::secs(30), timeout: Millis::secs(30), failures: 3 };
    let mut disabled = false;
    for (key, value) in at.fields(f) {
        match key {
            "test" => test = read_test(&value, f),
            "disable" => disabled = value.yes(f).unwrap_or(false),
            "interval" => probe.interval = duration(&value, f).unwrap_or(probe.interval),
            "timeout" => probe.timeout = duration(&value, f).unwrap_or(probe.timeout),
            "retries" => match value.text(f).map(|text| text.parse::<u16>()) {
                Some(Ok(failures @ 1..)) => probe.failures = failures,
                Some(Ok(0) | Err(_)) => value.wrong(f, "is a number from 1 to 65535"),
                None => {}
            },
            "start_period" | "start_interval" => {
                if duration(&value, f).is_some_and(|time| time > Millis(0)) {
                    let how = "leave it out, and give `retries` and `interval` that cover the start: \
                               an app counts as failed only after that many failures in a row";
                    value.wrong(f, format!("is not supported: {how}"));
                }
            }
            _ => value.wrong(f, "is not supported: test, disable, interval, timeout and retries are"),
        }
    }
    match test {
        _ if disabled => None,
        Test::Command(command) => Some(Probe { exec: Some(ExecProbe { command }), ..probe }),
        Test::None | Test::Wrong => None,
        Test::Missing => {
            at.wrong(f, "`test` is missing: a check that an image brings is not used");
            None
        }
    }
}

enum Test {
    Missing,
    Wrong,
    None,
    Command(Vec<String>),
}

fn shell(text: String) -> Test {
    Test::Command(vec!["/bin/sh".into(), "-c".into(), text])
}

fn read_test(at: &At<'_>, f: &mut Findings) -> Test {
    if !at.is_list() {
        return at.text(f).map_or(Test::Wrong, shell);
    }
    let words: Vec<String> = at.items(f).iter().filter_map(|item| item.text(f)).collect();
    match words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("NONE", [])) => Test::None,
        Some(("CMD", rest @ [_, ..])) => Test::Command(rest.to_vec()),
        Some(("CMD-SHELL", [text])) => shell(text.clone()),
        Some(_) | None => {
            at.wrong(f, "is [CMD, program, …], [CMD-SHELL, \"text for a shell\"], [NONE], or a text for a shell");
            Test::Wrong
        }
    }
}

/// A duration as Compose writes it.
pub(super) fn duration(at: &At<'_>, f: &mut Findings) -> Option<Millis> {
    let text = at.text(f)?;
    let read = quantities::duration(&text);
    if read.is_none() {
        at.wrong(f, format!("{text:?} is not a duration such as 500ms, 30s or 1m30s, in whole milliseconds"));
    }
    read
}
