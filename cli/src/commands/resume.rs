//! `resume`: what happens to devices that are ahead of the store. The difference is always shown first.

use bramble_contracts::api::{Change, ResumeMode, ResumeRequest, ResumeView};
use reqwest::Method;

use super::{Session, ask, plan};
use crate::{
    args::Resume,
    exit::{Exit, Failure},
    output::{Printed, Table, Tone, say},
};

/// Shows the difference, and does something about it where that was asked for.
pub(super) async fn resume(s: &Session, args: Resume) -> Result<Exit, Failure> {
    let mode = match (args.adopt, args.overwrite) {
        (true, _) => ResumeMode::Adopt,
        (false, true) => ResumeMode::Overwrite,
        (false, false) => ResumeMode::Show,
    };
    let Resume { devices, reason, yes, adopt: _, overwrite: _ } = args;
    let ask = |mode| ResumeRequest { mode, devices: devices.clone(), reason: reason.clone() };
    let send = async |mode| -> Result<ResumeView, Failure> {
        s.client.write(Method::POST, &["resume"], &vec![], Some(&ask(mode))).await
    };
    let mut view = send(ResumeMode::Show).await?;
    let what = match mode {
        ResumeMode::Show => None,
        ResumeMode::Adopt => Some("Adopt: the deployments above come into the store as these devices have them."),
        ResumeMode::Overwrite => {
            Some("Overwrite: these devices get what the store says; apps it does not know are removed.")
        }
    };
    if let Some(what) = what
        && !view.devices.is_empty()
    {
        ask::confirm(&format!("{}{what}", difference(&view)), yes.into())?;
        view = send(mode).await?;
    }
    if s.format.print(&view)? == Printed::No {
        say(&show(&view))?;
    }
    Ok(Exit::Done)
}

fn show(view: &ResumeView) -> String {
    if view.devices.is_empty() {
        return "no device is on hold\n".to_owned();
    }
    let end =
        if view.done { "done\n" } else { "Nothing was done. `bramble resume --adopt` or `--overwrite` decides.\n" };
    difference(view) + end
}

fn difference(view: &ResumeView) -> String {
    let mut table = Table::new(&["DEVICE", "ITS GENERATION", "OVERWRITING WOULD", "WHY ON HOLD"]);
    for d in &view.devices {
        let changes = d.overwrite.iter().filter(|(_, change)| **change != Change::Unchanged);
        let changes: Vec<_> = changes.map(|(name, change)| format!("{} {name}", imperative(*change))).collect();
        table.row(vec![
            (Tone::Plain, d.name.to_string()),
            (Tone::Plain, d.device_generation.to_string()),
            (Tone::Warn, if changes.is_empty() { "change nothing".to_owned() } else { changes.join(", ") }),
            (Tone::Plain, d.reason.clone()),
        ]);
    }
    let mut text = table.render();
    if !view.deployments.is_empty() {
        let title = if view.done { "Deployments:" } else { "Adopting would bring in or change:" };
        text.push_str(&format!("{title}\n"));
        text.extend(view.deployments.iter().map(plan::show));
    }
    text
}

fn imperative(change: Change) -> &'static str {
    match change {
        Change::Created => "create",
        Change::Replaced => "replace",
        Change::Updated => "update",
        Change::Removed => "remove",
        Change::Unchanged => "keep",
    }
}
