//! Makes room: the oldest files go when a container's log, or all together, are more than they may be. Never one that is
//! written.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use bramble_contracts::Name;

use super::{Keeper, inode};
use crate::core::app::AppKey;
use crate::host::clock;
use crate::host::logs::files::{Named, Segment, app_dir, count_lines, folders, segments};

/// Small files of many lives are a burden, too.
const FILES_MAX: usize = 64;
/// The newest lives, whose last file may still be written.
const LIVE: usize = 2;

impl Keeper {
    /// Drops what is too much.
    pub(super) fn drop_oldest(&mut self, key: &AppKey, container: &Name) {
        let dir = app_dir(&self.places.root, key).join(container.as_str());
        if let Err(err) = self.try_drop_oldest(key, container, &dir).and_then(|()| self.drop_beyond_total()) {
            tracing::warn!(dir = %dir.display(), %err, "old logs cannot be dropped; it is tried again with the next file");
        }
    }

    fn try_drop_oldest(&mut self, key: &AppKey, container: &Name, dir: &Path) -> io::Result<()> {
        let mut all = sized(segments(dir)?);
        let mut bytes: u64 = all.iter().map(|(_, bytes)| bytes).sum();
        // Until the next look the file that is written gets full, and so do the next one, which is kept, and the one after.
        let room = self.budget.container.saturating_sub(3 * self.budget.segment());
        while (bytes > room || all.len() > FILES_MAX)
            && let Some(n) = droppable(&all)
        {
            let (segment, its) = all.remove(n);
            bytes = bytes.saturating_sub(its);
            self.drop_file(dir, &segment)?;
        }
        self.app(key).shelves.entry(container.clone()).or_default().bytes = bytes;
        Ok(())
    }

    /// Counted first, so that a reader who finds it gone can be told.
    fn drop_file(&self, dir: &Path, segment: &Segment) -> io::Result<()> {
        let is_read = self.ledger().get(dir).is_some_and(|dropped| !dropped.is_forgotten(clock::uptime()));
        let lines = is_read.then(|| count_lines(segment)).transpose()?.map(u64::from);
        if let Some(dropped) = self.ledger().get_mut(dir) {
            dropped.note(segment.key(), lines, segment.gap);
        }
        let active = dir.join(Named::Active { life: segment.life }.name());
        if inode(&active).is_some_and(|active| Some(active) == inode(&segment.path)) {
            fs::remove_file(&active)?;
        }
        fs::remove_file(&segment.path)
    }

    /// The oldest files of whichever container go, until all logs together fit.
    fn drop_beyond_total(&mut self) -> io::Result<()> {
        let shelves = self.apps.values().flat_map(|app| app.shelves.values());
        let total: u64 = shelves.map(|shelf| shelf.bytes).sum();
        if total > self.budget.total { self.drop_oldest_of_all() } else { Ok(()) }
    }

    fn drop_oldest_of_all(&mut self) -> io::Result<()> {
        let mut candidates = Vec::new();
        let mut total = 0;
        for (key, dir) in self.app_dirs() {
            for (container, dir) in folders::<Name>(&dir)? {
                let mut all = sized(segments(&dir)?);
                total += all.iter().map(|(_, bytes)| bytes).sum::<u64>();
                while let Some(n) = droppable(&all) {
                    let (segment, bytes) = all.remove(n);
                    let age = fs::metadata(&segment.path).and_then(|meta| meta.modified()).ok();
                    candidates.push((age, key.clone(), container.clone(), dir.clone(), segment, bytes));
                }
            }
        }
        candidates.sort_by_key(|(age, ..)| *age);
        for (_, key, container, dir, segment, bytes) in candidates {
            if total <= self.budget.total {
                break;
            }
            self.drop_file(&dir, &segment)?;
            total = total.saturating_sub(bytes);
            let shelf = self.app(&key).shelves.entry(container).or_default();
            shelf.bytes = shelf.bytes.saturating_sub(bytes);
        }
        Ok(())
    }
}

pub(super) fn sized(all: Vec<Segment>) -> Vec<(Segment, u64)> {
    let size = |segment: &Segment| fs::metadata(&segment.path).map_or(0, |meta| meta.len());
    all.into_iter()
        .map(|segment| {
            let bytes = size(&segment);
            (segment, bytes)
        })
        .collect()
}

/// The oldest file that nobody writes to.
fn droppable(all: &[(Segment, u64)]) -> Option<usize> {
    let lives: BTreeSet<u32> = all.iter().map(|(segment, _)| segment.life).collect();
    let live: Vec<u32> = lives.into_iter().rev().take(LIVE).collect();
    all.iter().enumerate().position(|(n, (segment, _))| {
        let last_of_life = all.get(n + 1).is_none_or(|(next, _)| next.life != segment.life);
        !(last_of_life && live.contains(&segment.life))
    })
}
