//! One bucket as the feed tells it: values with their places in history, and how to tell it again without a gap.
//!
//! Decides: what stays visible while a bucket is told anew. Does not know what the values mean.

use std::collections::BTreeMap;

/// A value of the store, or why it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot<T> {
    /// Place in its bucket's history, for the next write.
    pub seq: u64,
    /// The value.
    pub value: Result<T, String>,
}

impl<T> Slot<T> {
    /// The value, where it can be read.
    pub fn ok(&self) -> Option<&T> {
        self.value.as_ref().ok()
    }
}

/// One bucket. While it is being told again, what was known stays visible beside what is new.
#[derive(Debug, Clone)]
pub struct Table<K, T> {
    pub(super) live: BTreeMap<K, Slot<T>>,
    pub(super) fresh: Option<BTreeMap<K, Slot<T>>>,
    pub(super) known: bool,
    head: u64,
    changes: u64,
}

impl<K: Ord, T> Default for Table<K, T> {
    fn default() -> Self {
        Self { live: BTreeMap::new(), fresh: Some(BTreeMap::new()), known: false, head: 0, changes: 0 }
    }
}

impl<K: Ord, T> Table<K, T> {
    /// One value.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Slot<T>>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.live.get(key)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &Slot<T>)> {
        self.live.iter()
    }

    /// Those that can be read, in order.
    pub fn readable(&self) -> impl Iterator<Item = (&K, u64, &T)> {
        self.live.iter().filter_map(|(k, s)| s.ok().map(|v| (k, s.seq, v)))
    }

    /// The newest place in the bucket's history that was seen.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Grows with every change, also where places in history begin again.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The bucket is about to be told from the start.
    pub(super) fn reset(&mut self) {
        self.changes += 1;
        self.fresh = Some(BTreeMap::new());
        self.head = 0;
    }

    /// All that was there has been told: what is fresh becomes what is known.
    pub(super) fn caught_up(&mut self) {
        self.changes += 1;
        if let Some(fresh) = self.fresh.take() {
            self.live = fresh;
        }
        self.known = true;
    }

    /// A key has this value, or none.
    pub(super) fn set(&mut self, key: K, seq: u64, value: Option<Result<T, String>>) {
        self.changes += 1;
        self.head = self.head.max(seq);
        let map = self.fresh.as_mut().unwrap_or(&mut self.live);
        match value {
            Some(value) => drop(map.insert(key, Slot { seq, value })),
            None => drop(map.remove(&key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_table_says_that_it_changed_also_when_its_history_begins_again() {
        let mut table: Table<u8, u8> = Table::default();
        let mut seen = BTreeSet::from([table.changes()]);
        for _ in 0..2 {
            table.reset();
            assert!(seen.insert(table.changes()));
            table.set(1, 1, Some(Ok(1)));
            assert!(seen.insert(table.changes()));
            table.caught_up();
            assert!(seen.insert(table.changes()));
        }
    }
}
