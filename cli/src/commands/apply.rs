//! `apply` and `delete`: files are read and judged here as a whole before anything is sent.

use std::collections::BTreeSet;

use bramble_contracts::{
    Tenant,
    api::{Applied, Change, DeploymentView, PlannedDeployment},
    label::Selector,
    problem::FieldError,
};
use reqwest::Method;

use super::{Session, ask, wait};
use crate::{
    args::{Apply, Deletable, Delete, Files},
    client::NOTHING,
    exit::{Exit, Failure},
    manifest::{self, Document, Said},
    output::{Items, Printed, note, say},
};

/// Reads, judges and fills in the tenant; nothing is sent unless all is well.
pub(crate) fn documents(s: &Session, files: Files) -> Result<Vec<Document>, Failure> {
    let Files { files, labels, devices } = files;
    let selector = Selector { match_labels: labels.into_iter().collect(), devices };
    let selector = (selector != Selector::default()).then_some(selector);
    let documents = manifest::load(&files, &Said { tenant: s.tenant.clone(), selector }).map_err(Failure::Manifest)?;
    for told in documents.iter().flat_map(|d| &d.notes) {
        note(&format!("warning: {told}"));
    }
    Ok(documents)
}

/// Tells of warnings and errors that the coordinator found in a document, with their lines.
pub(super) fn tell(document: &Document, kind: &str, errors: &[FieldError]) {
    for error in errors {
        note(&format!("{kind}{}", document.finding(error)));
    }
}

/// Creates or changes deployments.
pub(super) async fn apply(s: &Session, args: Apply) -> Result<Exit, Failure> {
    let documents = documents(s, args.files)?;
    let mut done: Vec<Applied> = vec![];
    let mut failed = None;
    for document in &documents {
        match one(s, document, args.dry_run).await {
            Ok(applied) => {
                tell(document, "warning: ", &applied.warnings);
                if !is_for_programs(s) {
                    say(&line(&applied, args.dry_run))?;
                }
                done.push(applied);
            }
            // Those after it may be fine: all is told in one go.
            Err(failure) if !failure.fields().is_empty() => {
                tell(document, "", failure.fields());
                failed = failed.or(Some(Failure::Told(failure.exit())));
            }
            Err(failure) => {
                failed = failed.or(Some(failure));
                break;
            }
        }
    }
    s.format.print(&Items { items: &done })?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    if args.wait { wait::all(s, &done, args.timeout.duration()).await } else { Ok(Exit::Done) }
}

fn is_for_programs(s: &Session) -> bool {
    use crate::output::Format;
    match s.format {
        Format::Json | Format::Yaml => true,
        Format::Table | Format::Wide => false,
    }
}

async fn one(s: &Session, document: &Document, dry_run: bool) -> Result<Applied, Failure> {
    let meta = &document.manifest.metadata;
    let query = if dry_run { vec![("dryRun", "true".to_owned())] } else { vec![] };
    let client = s.client.of_tenant(&meta.tenant);
    client.write(Method::PUT, &["deployments", meta.name.as_str()], &query, Some(&document.manifest)).await
}

fn line(applied: &Applied, dry_run: bool) -> String {
    let d = &applied.deployment;
    let meta = &d.manifest.metadata;
    let tenant = if meta.tenant == Tenant::default() { String::new() } else { format!(" in {}", meta.tenant) };
    let what = match applied.change {
        Change::Created => "created",
        Change::Replaced => "changed, its containers are replaced",
        Change::Updated => "changed, its containers run on",
        Change::Removed => "removed",
        Change::Unchanged => "unchanged",
    };
    let dry = if dry_run { " (dry run: nothing was done)" } else { "" };
    let devices = match d.summary.devices {
        0 => "selects no device yet".to_owned(),
        1 => "for 1 device".to_owned(),
        n => format!("for {n} devices"),
    };
    format!("deployment/{}{tenant} {what}: revision {}, {devices}{dry}\n", meta.name, d.revision)
}

/// Deletes a deployment after a yes.
pub(super) async fn delete(
    s: &Session,
    Delete { resource: Deletable::Deployment, name, yes }: Delete,
) -> Result<Exit, Failure> {
    let path = ["deployments", name.as_str()];
    let view: DeploymentView = s.client.get(&path, &vec![]).await?;
    let containers: BTreeSet<_> = view.manifest.spec.containers.iter().map(|c| c.name.as_str()).collect();
    let what = format!(
        "Delete deployment {name} of tenant {}?\n\
         \x20 now      its containers ({}) are stopped and removed on {} device(s); those that are offline follow when they are back\n\
         \x20 volumes  stay on the devices\n\
         \x20 back     apply its manifest again",
        s.client.tenant(),
        containers.into_iter().collect::<Vec<_>>().join(", "),
        view.summary.devices,
    );
    ask::confirm(&what, yes.into())?;
    let planned: PlannedDeployment = s.client.write(Method::DELETE, &path, &vec![], NOTHING).await?;
    for warning in &planned.warnings {
        note(&format!("warning: {warning}"));
    }
    if s.format.print(&planned)? == Printed::No {
        say(&format!("deployment/{name} deleted\n"))?;
    }
    Ok(Exit::Done)
}
