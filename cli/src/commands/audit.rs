//! `audit`: who did what, when and why.

use bramble_contracts::api::AuditEvent;

use super::{Session, get};
use crate::{
    args::Audit,
    exit::{Exit, Failure},
};

/// Lists the trail.
pub(super) async fn audit(s: &Session, args: Audit) -> Result<Exit, Failure> {
    let query = args.since.iter().map(|since| ("since", since.to_string())).collect();
    get::list::<AuditEvent>(s, "audit", &query).await
}
