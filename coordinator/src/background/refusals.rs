//! What devices refuse goes to the audit trail, each once, by its number.
//!
//! Decides: what was told already; that is kept in bucket `meta`, so that restarts and second coordinators do not tell
//! it again; and how much one device may say, because whatever it floods the trail with evicts what others did.
//! Deliberately does not: act on a refusal; a fork is judged in `domain::hold`.

use std::{collections::BTreeMap, time::Duration};

use bramble_contracts::{
    api::Outcome,
    id::{DeviceId, Tenant},
    subjects::Bucket,
    v1::Refusal,
};
use bytes::Bytes;

use super::{Core, Own, now};
use crate::store::{Expect, StoreError};

/// Reports are looked through at most this often.
const PAUSE: Duration = Duration::from_millis(500);
/// Of one report at most; the others are counted.
const REPORT_MAX: usize = 16;
/// Of one device in an hour at most; the others are counted.
const HOUR_MAX: u32 = 60;
const HOUR_MS: u64 = 3_600_000;
const DETAIL_MAX: usize = 512;

/// What one device may still say in this hour.
#[derive(Debug, Default)]
struct Budget {
    since_ms: u64,
    used: u32,
    hidden: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Say {
    It,
    ThatNoMoreIsSaid,
    Nothing,
}

impl Budget {
    /// Begins a new hour when the old one is over; returns how many were not told in the old one.
    fn renew(&mut self, mono_ms: u64) -> u64 {
        if mono_ms.saturating_sub(self.since_ms) < HOUR_MS {
            return 0;
        }
        std::mem::replace(self, Self { since_ms: mono_ms, ..Self::default() }).hidden
    }

    fn is_spent(&self) -> bool {
        self.used > HOUR_MAX
    }

    fn hide(&mut self, refusals: usize) {
        self.hidden = self.hidden.saturating_add(refusals as u64);
    }

    fn spend(&mut self) -> Say {
        self.used = self.used.saturating_add(1);
        match self.used.cmp(&(HOUR_MAX + 1)) {
            std::cmp::Ordering::Less => Say::It,
            std::cmp::Ordering::Equal => Say::ThatNoMoreIsSaid,
            std::cmp::Ordering::Greater => Say::Nothing,
        }
    }
}

/// What was told of each device since this coordinator started.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<DeviceId, One>);

#[derive(Debug, Default)]
struct One {
    /// The highest number that needs no look at the store.
    highest: u64,
    budget: Budget,
}

/// What a report says that was not told yet.
struct News {
    device: DeviceId,
    tenant: Tenant,
    first: Vec<Refusal>,
    /// The numbers of the others.
    others: Vec<u64>,
}

impl News {
    fn highest(&self) -> u64 {
        self.first.iter().map(|r| r.number).chain(self.others.iter().copied()).max().unwrap_or(0)
    }
}

/// Runs for ever.
pub async fn run(core: &Core) {
    let mut ticks = core.index.ticks();
    let mut told = Told::default();
    while ticks.changed().await.is_ok() {
        if core.index.may_write() {
            tell_all(core, &mut told).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells what is new; devices that have said least in this hour come first.
pub async fn tell_all(core: &Core, told: &mut Told) {
    let mut fresh: Vec<News> = core.index.look(|lens| {
        let reports = lens.fleet.reports.readable();
        let with_news = reports.filter_map(|(id, _, report)| {
            let after = told.0.get(id).map_or(0, |one| one.highest);
            let mut news = report.refused.iter().filter(|r| r.number > after);
            let first: Vec<Refusal> = news.by_ref().take(REPORT_MAX).cloned().collect();
            let others = news.map(|r| r.number).collect();
            let tenant = lens.fleet.device(id).record().map_or_else(Tenant::default, |r| r.tenant.clone());
            (!first.is_empty()).then(|| News { device: id.clone(), tenant, first, others })
        });
        with_news.collect()
    });
    fresh.sort_by_key(|news| told.0.get(&news.device).map_or(0, |one| one.budget.used));
    for news in fresh {
        let one = told.0.entry(news.device.clone()).or_default();
        match tell(core, &news, &mut one.budget).await {
            Ok(()) => one.highest = one.highest.max(news.highest()),
            Err(err) => {
                tracing::warn!(device = %news.device, error = %err, "cannot write its refusals to the audit trail yet");
            }
        }
    }
}

/// The number is written first: a crash in between loses an event rather than telling it twice. Of a device that has
/// said too much nothing at all is written before its hour is over.
async fn tell(core: &Core, news: &News, budget: &mut Budget) -> Result<(), StoreError> {
    let hidden = budget.renew(now().mono_ms);
    if budget.is_spent() {
        budget.hide(news.first.len() + news.others.len());
        return Ok(());
    }
    let key = format!("refused.{}", news.device);
    let stored = core.store.get(Bucket::Meta, &key).await?;
    let number = |bytes: &Bytes| std::str::from_utf8(bytes).ok().and_then(|t| t.parse::<u64>().ok());
    let before = stored.as_ref().and_then(|entry| number(&entry.bytes)).unwrap_or(0);
    let highest = news.highest();
    if highest > before {
        let expect = stored.map_or(Expect::Absent, |entry| Expect::Seq(entry.seq));
        core.store.put(Bucket::Meta, &key, Bytes::from(highest.to_string()), expect).await?;
    }
    let (who, object) = (format!("device {}", news.device), format!("device/{}", news.device));
    for detail in details(news, before, hidden, budget) {
        let own = Own {
            who: &who,
            action: "device.refused",
            object: &object,
            reason: "",
            outcome: Outcome::Refused,
            detail: &detail,
        };
        core.audit_own(&news.tenant, own).await?;
    }
    Ok(())
}

/// What is said of the refusals numbered above `before`.
fn details(news: &News, before: u64, hidden: u64, budget: &mut Budget) -> Vec<String> {
    let mut said = vec![];
    if hidden > 0 {
        said.push(format!("{hidden} refusals of the hours before were counted and not listed"));
    }
    let listed = news.first.iter().filter(|r| r.number > before).map(|refusal| {
        let words: String = refusal.detail.chars().take(DETAIL_MAX).collect();
        (1, format!("{words} ({:?}, {} times)", refusal.kind, refusal.times))
    });
    let others = news.others.iter().filter(|n| **n > before).count();
    let more = (others > 0).then(|| (others, format!("{others} more refusals in the same report are not listed")));
    for (refusals, detail) in listed.chain(more) {
        match budget.spend() {
            Say::It => said.push(detail),
            Say::ThatNoMoreIsSaid => {
                budget.hide(refusals);
                said.push(format!(
                    "this device has reported more than {HOUR_MAX} refusals within an hour: until it is over, others are counted and not listed"
                ));
            }
            Say::Nothing => budget.hide(refusals),
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v1::RefusalKind;

    use super::*;

    fn news(numbers: std::ops::Range<u64>) -> News {
        let refusal = |number| Refusal {
            number,
            kind: RefusalKind::StaleCommand,
            detail: "x".repeat(60_000),
            generation: None,
            times: 1,
        };
        News {
            device: DeviceId::from_entropy([1; 13]),
            tenant: Tenant::default(),
            first: numbers.clone().take(REPORT_MAX).map(refusal).collect(),
            others: numbers.skip(REPORT_MAX).collect(),
        }
    }

    #[test]
    fn one_device_says_a_bounded_number_of_bounded_things_in_an_hour() {
        let mut budget = Budget::default();
        let first = details(&news(1..3001), 0, 0, &mut budget);
        assert_eq!(first.len(), REPORT_MAX + 1);
        assert!(
            first[0].len() < DETAIL_MAX + 50 && first[REPORT_MAX].starts_with("2984 more"),
            "{}",
            first[REPORT_MAX]
        );
        assert!(details(&news(1..3001), 3000, 0, &mut budget).is_empty(), "told already");
        let said: Vec<String> = (0..20).flat_map(|_| details(&news(1..11), 0, 0, &mut budget)).collect();
        assert_eq!(first.len() + said.len(), HOUR_MAX as usize + 1);
        assert!(said.last().unwrap().contains("within an hour") && budget.is_spent());
        assert_eq!(budget.renew(HOUR_MS - 1), 0);
        let hidden = budget.renew(HOUR_MS);
        assert_eq!(hidden, 200 - (said.len() as u64 - 1));
        assert!(!budget.is_spent());
        assert!(details(&news(1..2), 0, hidden, &mut budget)[0].starts_with(&hidden.to_string()));
    }
}
