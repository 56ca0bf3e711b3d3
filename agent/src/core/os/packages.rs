//! What an upgrade would change: packages from one version to another, and what identifies the set of them.
//!
//! Decides how much of a long list is kept and shown. Asks no apt.

use std::fmt::Write as _;

use bramble_contracts::bytes::Sha256;
use serde::{Deserialize, Serialize};

/// What the ledger keeps.
const KEPT_MAX: usize = 200;
/// What a report shows.
const SHOWN_MAX: usize = 40;

/// One package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Absent where it is new.
    pub from: Option<String>,
    /// Absent where it goes.
    pub to: Option<String>,
    /// To be fetched; 0 where it lies there already.
    pub bytes: u64,
}

/// Changes, the first ones by name, and how many more there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delta {
    /// Sorted by name.
    pub changes: Vec<Change>,
    /// Left out.
    pub more: u32,
}

impl Delta {
    fn first(changes: &[Change], max: usize, more: u32) -> Self {
        let left_out = u32::try_from(changes.len().saturating_sub(max)).unwrap_or(u32::MAX);
        Self { changes: changes.iter().take(max).cloned().collect(), more: more.saturating_add(left_out) }
    }

    /// For a report.
    pub fn shown(&self) -> Self {
        Self::first(&self.changes, SHOWN_MAX, self.more)
    }

    /// Does nothing change?
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.more == 0
    }
}

/// What apt would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What changes.
    pub delta: Delta,
    /// To be fetched, in bytes.
    pub fetch_bytes: u64,
    /// Identifies what packages there will be: all names with the versions they get.
    pub set: Sha256,
    /// Would change, and are held.
    pub held: Vec<String>,
}

impl Plan {
    /// Of these changes.
    pub fn new(mut changes: Vec<Change>, held: Vec<String>) -> Self {
        changes.sort();
        let mut names = String::new();
        for Change { name, to, .. } in &changes {
            let _ = writeln!(names, "{name} {}", to.as_deref().unwrap_or("-"));
        }
        let fetch_bytes = changes.iter().fold(0, |sum: u64, change| sum.saturating_add(change.bytes));
        Self { delta: Delta::first(&changes, KEPT_MAX, 0), fetch_bytes, set: Sha256::of(names.as_bytes()), held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, to: &str) -> Change {
        Change { name: name.into(), from: Some("1".into()), to: Some(to.into()), bytes: 10 }
    }

    #[test]
    fn a_set_is_what_there_will_be_in_whichever_order_it_is_told() {
        let (a, b) = (change("a", "2"), change("b", "2"));
        let set = |changes: &[&Change]| Plan::new(changes.iter().copied().cloned().collect(), vec![]).set;
        assert_eq!(set(&[&a, &b]), set(&[&b, &a]));
        assert_eq!(set(&[&a]), set(&[&Change { from: None, bytes: 0, ..a.clone() }]));
        assert_ne!(set(&[&a]), set(&[&change("a", "3")]));
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let changes = (0..300).map(|n| change(&format!("p{n:03}"), "2")).collect();
        let plan = Plan::new(changes, vec![]);
        assert_eq!((plan.delta.changes.len(), plan.delta.more, plan.fetch_bytes), (200, 100, 3000));
        let shown = plan.delta.shown();
        assert_eq!((shown.changes.len(), shown.more), (40, 260));
    }
}
