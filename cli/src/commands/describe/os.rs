//! A device's operating system: what protects it, and how its last upgrade went or goes.

use bramble_contracts::v3::{OsReport, OsUpgradeReport};

use super::Page;
use crate::{
    commands::{
        os::change,
        views::{plain, status, word},
    },
    output::Tone,
};

/// Packages that are shown one by one.
const CHANGES_SHOWN: usize = 8;

pub(super) fn fields(page: &mut Page, os: &OsReport) {
    let slot = os.slot.map(|slot| format!(", booted slot {slot}")).unwrap_or_default();
    page.field("protection", plain(format!("{}{slot}", word(&os.protection))));
    page.field("", (Tone::Dim, os.lacks.clone()));
    if let Some(snapshot) = &os.snapshot {
        let text = format!("kept, {}; the pool is {} % full", word(&snapshot.phase), snapshot.pool_percent);
        page.field("snapshot", (Tone::Warn, text));
    }
    let Some(upgrade) = &os.upgrade else { return };
    let (tone, text) = status(upgrade.status);
    let at = format!("{text}, {} {} % (attempt {})", word(&upgrade.phase), upgrade.percent, upgrade.attempt);
    page.field("os upgrade", (tone, at));
    page.field("", (Tone::Bad, upgrade.reason.clone()));
    page.field("", plain(changes(upgrade)));
    let took = [(upgrade.took_ms, "took"), (upgrade.down_ms, "down for")];
    let took: Vec<String> = took.iter().filter_map(|(ms, what)| ms.map(|ms| format!("{what} {ms} ms"))).collect();
    page.field("", (Tone::Dim, took.join(", ")));
}

fn changes(upgrade: &OsUpgradeReport) -> String {
    let named = upgrade.changes.iter().take(CHANGES_SHOWN).map(change).collect::<Vec<_>>().join(", ");
    let more = upgrade.changes.len().saturating_sub(CHANGES_SHOWN) + upgrade.changes_more as usize;
    match more {
        0 => named,
        n => format!("{named} and {n} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_says_why_and_of_what() {
        let os: OsReport = serde_json::from_value(serde_json::json!({
            "protection": "tryboot", "lacks": "", "slot": "a", "snapshot": null, "upgrade": {
                "id": "aaaaaaaaaaaaaaaaaaaa", "attempt": 2, "status": "rolled-back", "phase": "done", "percent": 100,
                "reason": "no broker for 10 min after reboot", "blamed": false, "changesMore": 3, "downloadBytes": 1,
                "changes": [{ "name": "curl", "from": "1", "to": "2" }, { "name": "new", "from": null, "to": "1" }],
                "tookMs": 900000, "downMs": null,
            },
        }))
        .unwrap();
        let mut page = Page::default();
        fields(&mut page, &os);
        let text = page.text();
        for part in
            ["tryboot, booted slot a", "no broker for 10 min", "curl 1 → 2, new 1 (new) and 3 more", "900000 ms"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
