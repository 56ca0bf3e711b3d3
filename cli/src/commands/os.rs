//! `os`: upgrades of the operating system. Says what one would do, and rolls them out.
//!
//! Decides how a plan is shown. Devices that would refuse it make the plan end with 1, as `plan` of deployments does; one that
//! is away does not.

use std::time::Duration;

use bramble_contracts::{
    api::{OsPlanLine, OsPlanRequest, OsPlanState, OsPlannedDevice},
    v3::{OsPlan, PackageChange},
};
use reqwest::Method;

use super::{
    Session,
    releases::amount,
    rollout,
    views::{Cell, plain, word},
};
use crate::{
    args::Os,
    exit::{Exit, Failure},
    output::{Items, Printed, Table, Tone, clean, note, say},
};

/// The coordinator gives a sign of life more often than this.
const IDLE: Duration = Duration::from_secs(60);

/// Says it, or does it.
pub(super) async fn os(s: &Session, args: Os) -> Result<Exit, Failure> {
    match args {
        Os::Upgrade(upgrade) => {
            let (request, waits) = upgrade.request();
            rollout::begin(s, request, waits).await
        }
        Os::Plan(plan) => self::plan(s, &plan.request()).await,
    }
}

async fn plan(s: &Session, request: &OsPlanRequest) -> Result<Exit, Failure> {
    let path = ["os-upgrades", "plan"];
    let mut lines = s.client.lines(Method::POST, &path, &vec![], Some(request), IDLE).await?;
    let mut devices = vec![];
    loop {
        match lines.json::<OsPlanLine>().await? {
            Some(OsPlanLine::Device { planned }) => {
                note(&format!("{}  {}", planned.name, word(&planned.state)));
                devices.push(*planned);
            }
            Some(OsPlanLine::End { devices: _ }) => break,
            None => return Err(lines.broke_off().into()),
        }
    }
    devices.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if s.format.print(&Items { items: &devices })? == Printed::No {
        say(&show(&devices))?;
    }
    let bad = devices.iter().any(|d| matches!(d.state, OsPlanState::Refused | OsPlanState::Failed));
    Ok(if bad { Exit::Failed } else { Exit::Done })
}

/// A table of the devices, and what would change on each below it.
fn show(devices: &[OsPlannedDevice]) -> String {
    let mut table =
        Table::new(&["DEVICE", "PLAN", "PROTECTION", "PACKAGES", "DOWNLOAD", "NEEDED", "FREE", "POOL FREE", "REASON"]);
    for device in devices {
        table.row(row(device));
    }
    let below = devices.iter().filter_map(|device| Some((device, device.plan.as_ref()?)));
    let below = below.filter(|(_, plan)| !plan.changes.is_empty() || !plan.held.is_empty());
    table.render() + &below.map(|(device, plan)| changes(device, plan)).collect::<String>()
}

fn row(device: &OsPlannedDevice) -> Vec<Cell> {
    let tone = match device.state {
        OsPlanState::Upgrade | OsPlanState::Nothing => Tone::Good,
        OsPlanState::Away => Tone::Warn,
        OsPlanState::Refused | OsPlanState::Failed => Tone::Bad,
    };
    let of_plan = |shown: fn(&OsPlan) -> String| plain(device.plan.as_ref().map(shown).unwrap_or_default());
    let of_room = |shown: fn(&bramble_contracts::v3::OsRoom) -> u64| {
        let room = device.plan.as_ref().and_then(|plan| plan.room.as_ref());
        plain(room.map(|room| amount(shown(room))).unwrap_or_default())
    };
    vec![
        plain(device.name.as_str()),
        (tone, word(&device.state)),
        plain(device.protection.as_ref().map(word).unwrap_or_default()),
        of_plan(|plan| (plan.changes.len() + plan.changes_more as usize).to_string()),
        of_plan(|plan| amount(plan.download_bytes)),
        of_room(|room| room.fetch_need),
        of_room(|room| room.fetch_free),
        of_room(|room| room.pool_free),
        (Tone::Warn, device.reason.clone()),
    ]
}

fn changes(device: &OsPlannedDevice, plan: &OsPlan) -> String {
    let each = plan.changes.iter().map(|one| format!("  {}\n", clean(&change(one))));
    let more = (plan.changes_more > 0).then(|| format!("  and {} more\n", plan.changes_more));
    let held: Vec<&str> = plan.held.iter().map(|name| name.as_str()).collect();
    let held = (!held.is_empty()).then(|| format!("  held back: {}\n", held.join(", ")));
    let lines: String = each.chain(more).chain(held).collect();
    format!("\n{}\n{lines}", device.name)
}

/// A package that becomes another version.
pub(super) fn change(change: &PackageChange) -> String {
    let name = &change.name;
    match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("{name} {from} → {to}"),
        (None, Some(to)) => format!("{name} {to} (new)"),
        (Some(_) | None, None) => format!("{name} (removed)"),
    }
}
