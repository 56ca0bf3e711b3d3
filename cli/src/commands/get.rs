//! `get`: lists of things, or one of them, once or as they change.

use bramble_contracts::{
    api::{AuditEvent, DeploymentView, DeviceView, ReleaseView, RolloutView, TenantView, TokenView},
    label::{LabelKey, LabelValue},
};

use super::{Session, audit, views::Listed, watch};
use crate::{
    args::{Get, Resource},
    client::Query,
    clock,
    exit::{Exit, Failure},
    output::{Format, Items, Printed, Table, note, say},
};

/// Shows what was asked for.
pub(super) async fn get(s: &Session, args: Get) -> Result<Exit, Failure> {
    match args.resource {
        Resource::Devices => of::<DeviceView>(s, "devices", args).await,
        Resource::Deployments => of::<DeploymentView>(s, "deployments", args).await,
        Resource::Rollouts => of::<RolloutView>(s, "rollouts", args).await,
        Resource::Audit if args.name.is_none() && !args.watch && args.labels.is_empty() => {
            audit::newest(s, &vec![], audit::NEWEST).await
        }
        Resource::Audit => of::<AuditEvent>(s, "audit", args).await,
        Resource::EnrollmentTokens => of::<TokenView>(s, "enrollment-tokens", args).await,
        Resource::Releases => of::<ReleaseView>(s, "releases", args).await,
        Resource::Tenants => of::<TenantView>(s, "tenants", args).await,
    }
}

async fn of<T: Listed>(s: &Session, resource: &str, args: Get) -> Result<Exit, Failure> {
    let is_told = match args.resource {
        Resource::Devices | Resource::Deployments | Resource::Rollouts => true,
        Resource::Audit | Resource::EnrollmentTokens | Resource::Releases | Resource::Tenants => false,
    };
    if !is_told && (args.watch || !args.labels.is_empty()) {
        return Err(Failure::Usage(format!("{resource} cannot be watched or picked by labels: leave -w and -l out")));
    }
    if args.resource == Resource::Rollouts && !args.labels.is_empty() {
        return Err(Failure::Usage("rollouts have no labels: leave -l out".into()));
    }
    let query: Query<'_> = vec![];
    if let Some(name) = &args.name {
        if !args.labels.is_empty() {
            return Err(Failure::Usage("give a name or labels, not both".into()));
        }
        if args.watch {
            return watch::watch::<T>(s, resource, &query, Some(name)).await;
        }
        // Events and tenants have no address of their own: they are found in their list.
        let item: T = match args.resource {
            Resource::Devices
            | Resource::Deployments
            | Resource::Rollouts
            | Resource::EnrollmentTokens
            | Resource::Releases => s.client.get(&[resource, name], &query).await?,
            Resource::Audit | Resource::Tenants => {
                let items: Vec<T> = s.client.list(&[resource], &query, usize::MAX).await?;
                let none = || {
                    Failure::NotFound(format!(
                        "there is no {name} among the {resource} of tenant {}",
                        s.client.tenant()
                    ))
                };
                items.into_iter().find(|i| i.key() == *name).ok_or_else(none)?
            }
        };
        if s.format.print(&item)? == Printed::No {
            say(&table(s.format, std::slice::from_ref(&item)).render())?;
            if s.format == Format::Wide {
                say(&item.below())?;
            }
        }
        return Ok(Exit::Done);
    }
    let query = filter(&args.labels);
    if args.watch {
        return watch::watch::<T>(s, resource, &query, None).await;
    }
    list::<T>(s, resource, &query).await
}

/// A whole list.
pub(crate) async fn list<T: Listed>(s: &Session, resource: &str, query: &Query<'_>) -> Result<Exit, Failure> {
    show(s, resource, &s.client.list::<T>(&[resource], query, usize::MAX).await?)
}

/// Things, or that there are none.
pub(crate) fn show<T: Listed>(s: &Session, resource: &str, items: &[T]) -> Result<Exit, Failure> {
    if s.format.print(&Items { items })? == Printed::No {
        if items.is_empty() {
            note(&format!("no {} in tenant {}", resource.replace('-', " "), s.client.tenant()));
        } else {
            say(&table(s.format, items).render())?;
        }
    }
    Ok(Exit::Done)
}

fn filter(labels: &[(LabelKey, LabelValue)]) -> Query<'static> {
    let all: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    if all.is_empty() { vec![] } else { vec![("label", all.join(","))] }
}

/// Things as a table.
pub(super) fn table<T: Listed>(format: Format, items: &[T]) -> Table {
    let wide = format == Format::Wide;
    let head: Vec<_> = T::HEAD.iter().chain(T::WIDE.iter().filter(|_| wide)).copied().collect();
    let mut table = Table::new(&head);
    let now = clock::now();
    for item in items {
        let mut cells = item.cells(now);
        if wide {
            cells.extend(item.wide());
        }
        table.row(cells);
    }
    table
}
