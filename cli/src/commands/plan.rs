//! `plan`: what applying would change, on which devices, in what order.

use bramble_contracts::api::{Change, PlanRequest, PlanView, PlannedDeployment};
use reqwest::Method;

use super::{Session, apply};
use crate::{
    args::Files,
    exit::{Exit, Failure},
    output::{Printed, Table, Tone, note, paint, say},
};

/// Asks the coordinator; ends with 1 when something would be refused.
pub(super) async fn plan(s: &Session, files: Files) -> Result<Exit, Failure> {
    let documents = apply::documents(s, files)?;
    let tenant = documents.first().map_or_else(|| s.client.tenant().clone(), |d| d.manifest.metadata.tenant.clone());
    if documents.iter().any(|d| d.manifest.metadata.tenant != tenant) {
        return Err(Failure::Usage("a plan is for one tenant: give the files of each tenant by themselves".into()));
    }
    let request = PlanRequest { manifests: documents.iter().map(|d| d.manifest.clone()).collect() };
    let client = s.client.of_tenant(&tenant);
    let view: PlanView = match client.write(Method::POST, &["plan"], &vec![], Some(&request)).await {
        Ok(view) => view,
        Err(failure) if !failure.fields().is_empty() => {
            for field in failure.fields() {
                note(&field.to_string());
            }
            return Err(Failure::Told(failure.exit()));
        }
        Err(failure) => return Err(failure),
    };
    let mut refused = false;
    for planned in &view.deployments {
        let document = documents.iter().find(|d| d.manifest.metadata.name == planned.name);
        if let Some(document) = document {
            apply::tell(document, "warning: ", &planned.warnings);
            apply::tell(document, "", &planned.errors);
        }
        refused |= !planned.errors.is_empty();
    }
    if s.format.print(&view)? == Printed::No {
        say(&view.deployments.iter().map(show).collect::<String>())?;
    }
    Ok(if refused { Exit::Failed } else { Exit::Done })
}

/// One deployment and its devices.
pub(super) fn show(planned: &PlannedDeployment) -> String {
    let (tone, word) = change(planned.change);
    let head = format!("deployment/{} {}", planned.name, paint(tone, word));
    if !planned.errors.is_empty() {
        return format!("{head}: {}\n", paint(Tone::Bad, "would be refused"));
    }
    if planned.devices.is_empty() {
        return format!("{head}: no device\n");
    }
    let mut table = Table::new(&["  DEVICE", "APP", "WAITS FOR"]);
    for device in &planned.devices {
        let (tone, word) = change(device.change);
        table.row(vec![
            (Tone::Plain, format!("  {}", device.name)),
            (tone, word.to_owned()),
            (Tone::Warn, device.waits.clone()),
        ]);
    }
    format!("{head}\n{}", table.render())
}

/// A change in one word.
pub(super) fn change(change: Change) -> (Tone, &'static str) {
    match change {
        Change::Created => (Tone::Good, "created"),
        Change::Replaced => (Tone::Warn, "replaced"),
        Change::Updated => (Tone::Good, "updated"),
        Change::Removed => (Tone::Bad, "removed"),
        Change::Unchanged => (Tone::Dim, "unchanged"),
    }
}
