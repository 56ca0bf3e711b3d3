//! The ledger as it lies on the state volume. Frozen: an older agent reads what a newer one wrote, and the other way round.

use bramble_agent::core::os::{Ledger, LedgerFile, Phase};

/// If this fails, do not edit the file: add a format.
#[test]
fn the_first_format_is_read_and_written_for_ever() {
    let text = include_str!("ledger-1.json");
    let file: LedgerFile = serde_json::from_str(text).unwrap();
    let mut again = serde_json::to_string_pretty(&file).unwrap();
    again.push('\n');
    assert_eq!(again, text);
    let ledger = Ledger::from(file);
    assert!(matches!(ledger.upgrade.map(|upgrade| upgrade.phase), Some(Phase::Trial(trial)) if trial.boots == 1));
    assert_eq!((ledger.denied.len(), ledger.last.is_some()), (1, true));
}

#[test]
fn what_a_newer_agent_adds_is_passed_over() {
    let text = include_str!("ledger-1.json").replacen('{', "{\"added\": [1],", 1);
    assert!(serde_json::from_str::<LedgerFile>(&text).is_ok());
    let other = include_str!("ledger-1.json").replace("\"format\": \"1\"", "\"format\": \"9\"");
    assert!(serde_json::from_str::<LedgerFile>(&other).is_err(), "another format is an alarm, never a new ledger");
}
