//! What devices refuse goes to the audit trail, each once, by its number.
//!
//! Decides: what was told already; that is kept in bucket `meta`, so that restarts and second coordinators do not tell
//! it again. Deliberately does not: act on a refusal; a fork is judged in `domain::hold`.

use std::{collections::BTreeMap, time::Duration};

use bramble_contracts::{
    api::Outcome,
    id::{DeviceId, Tenant},
    subjects::Bucket,
    v1::Refusal,
};
use bytes::Bytes;

use super::{Core, Own};
use crate::store::{Expect, StoreError};

/// Reports are looked through at most this often.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs for ever.
pub async fn run(core: &Core) {
    let mut ticks = core.index.ticks();
    let mut told: BTreeMap<DeviceId, u64> = BTreeMap::new();
    while ticks.changed().await.is_ok() {
        if core.index.may_write() {
            tell_all(core, &mut told).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells what is new. `told`: the highest number per device that needs no look at the store.
pub async fn tell_all(core: &Core, told: &mut BTreeMap<DeviceId, u64>) {
    let fresh: Vec<(DeviceId, Tenant, Vec<Refusal>)> = core.index.look(|lens| {
        let reports = lens.fleet.reports.readable();
        let with_news = reports.filter_map(|(id, _, report)| {
            let after = told.get(id).copied().unwrap_or(0);
            let news: Vec<Refusal> = report.refused.iter().filter(|r| r.number > after).cloned().collect();
            let tenant = lens.fleet.device(id).record().map_or_else(Tenant::default, |r| r.tenant.clone());
            (!news.is_empty()).then(|| (id.clone(), tenant, news))
        });
        with_news.collect()
    });
    for (id, tenant, news) in fresh {
        match tell(core, &id, &tenant, &news).await {
            Ok(highest) => drop(told.insert(id, highest)),
            Err(err) => tracing::warn!(device = %id, error = %err, "cannot write its refusals to the audit trail yet"),
        }
    }
}

/// The number is written first: a crash in between loses an event rather than telling it twice.
async fn tell(core: &Core, id: &DeviceId, tenant: &Tenant, news: &[Refusal]) -> Result<u64, StoreError> {
    let key = format!("refused.{id}");
    let stored = core.store.get(Bucket::Meta, &key).await?;
    let number = |bytes: &Bytes| std::str::from_utf8(bytes).ok().and_then(|t| t.parse::<u64>().ok());
    let before = stored.as_ref().and_then(|entry| number(&entry.bytes)).unwrap_or(0);
    let highest = news.iter().map(|r| r.number).max().unwrap_or(before).max(before);
    if highest > before {
        let expect = stored.map_or(Expect::Absent, |entry| Expect::Seq(entry.seq));
        core.store.put(Bucket::Meta, &key, Bytes::from(highest.to_string()), expect).await?;
    }
    let (who, object) = (format!("device {id}"), format!("device/{id}"));
    for refusal in news.iter().filter(|r| r.number > before) {
        let detail = format!("{} ({:?}, {} times)", refusal.detail, refusal.kind, refusal.times);
        let own = Own {
            who: &who,
            action: "device.refused",
            object: &object,
            reason: "",
            outcome: Outcome::Refused,
            detail: &detail,
        };
        core.audit_own(tenant, own).await?;
    }
    Ok(highest)
}
