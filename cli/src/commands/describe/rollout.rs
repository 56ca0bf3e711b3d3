//! One rollout, with every device of it.

use bramble_contracts::{
    api::{RolloutDevice, RolloutView},
    quantity::Millis,
};

use super::{
    super::{
        rollout::{counts, selector, state, turn},
        views::{connection, plain, status},
    },
    Page,
};
use crate::{
    clock,
    output::{Table, Tone, age},
};

/// As a page.
pub(super) fn page(r: &RolloutView) -> String {
    let now = clock::now();
    let mut page = Page::default();
    page.head(r.name.as_str());
    page.field("brings", plain(r.brings.as_str()));
    page.field("tenant", plain(r.tenant.as_str()));
    page.field("for", plain(selector(r)));
    let (tone, word) = state(r.state);
    page.field("state", (tone, format!("{word}, batch {} of {}", r.batch, r.batches)));
    page.field("reason", (Tone::Warn, r.reason.clone()));
    page.field("devices", plain(format!("{} ({})", r.summary.devices, counts(&r.summary))));
    page.field(
        "begun",
        plain(format!("{} ago by {}, changed {} ago", age(&r.created, now), r.by, age(&r.updated, now))),
    );
    let p = &r.policy;
    let batches: Vec<String> = p.batches.iter().map(ToString::to_string).collect();
    page.field("batches", plain(format!("{}{}", batches.join(", "), if p.approve { ", each approved" } else { "" })));
    let text = format!(
        "{} of a batch confirmed, healthy for {}, failed after {} without progress, {} unavailable at once",
        p.success_threshold, p.healthy_for, p.progress_deadline, p.max_unavailable
    );
    page.field("goes on", plain(text));
    page.field("begins in", plain(p.window.as_ref().map(ToString::to_string).unwrap_or_default()));
    page.field("under way", plain(Millis(r.elapsed_ms / 1000 * 1000).to_string()));
    page.head("Devices");
    let mut table = Table::new(&["DEVICE", "BATCH", "TURN", "STATUS", "PHASE", "RUNS", "CONNECTION", "TOLD", "WHY"]);
    for device in &r.devices {
        table.row(row(device));
    }
    if r.devices.is_empty() {
        page.line(2, Tone::Dim, "none");
    } else {
        page.table(2, &table);
    }
    page.0
}

fn row(d: &RolloutDevice) -> Vec<super::Cell> {
    let told = if d.attempt == 0 { String::new() } else { d.attempt.to_string() };
    vec![
        plain(d.name.as_str()),
        plain(d.batch.map(|batch| batch.to_string()).unwrap_or_default()),
        turn(d.turn),
        d.status.map_or_else(|| plain(""), status),
        plain(d.phase.as_str()),
        plain(d.runs.as_str()),
        connection(d.connection),
        plain(told),
        plain(d.reason.as_str()),
    ]
}
