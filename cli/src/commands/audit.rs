//! `audit`: who did what, when and why, oldest first.

use bramble_contracts::api::AuditEvent;
use time::format_description::well_known::Rfc3339;

use super::{Session, get};
use crate::{
    args::Audit,
    client::Query,
    clock,
    exit::{Exit, Failure},
};

/// So many events are shown where nothing else was asked for.
pub(crate) const NEWEST: usize = 100;

/// Lists the trail.
pub(crate) async fn audit(s: &Session, args: Audit) -> Result<Exit, Failure> {
    let Some(since) = args.since else {
        return newest(s, &vec![], args.limit.unwrap_or(NEWEST)).await;
    };
    let moment = clock::now().checked_sub(since.duration().try_into().unwrap_or(time::Duration::MAX));
    let moment = moment.and_then(|at| at.format(&Rfc3339).ok());
    let moment = moment.ok_or_else(|| Failure::Usage(format!("--since {since} is longer ago than there was time")))?;
    newest(s, &vec![("since", moment)], args.limit.unwrap_or(usize::MAX)).await
}

/// The newest so many of them, oldest first.
pub(crate) async fn newest(s: &Session, query: &Query<'_>, most: usize) -> Result<Exit, Failure> {
    let mut events: Vec<AuditEvent> = s.client.list(&["audit"], query, most).await?;
    events.sort_by_key(|e| e.seq);
    get::show(s, "audit", &events)
}
