//! Where everything lies on the card. Decides offsets and sizes out of the recipe's minimums and the size of what is to be
//! held; writes nothing.

use serde::{Deserialize, Serialize};

use crate::recipe::Sizes;

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes of a sector, as partition tables and LVM count.
pub const SECTOR: u64 = 512;
/// Everything begins at a multiple of this many bytes: cards erase in pieces of so many.
pub const ALIGN: u64 = 4 * MIB;
/// Bytes of an LVM extent.
pub const EXTENT: u64 = 4 * MIB;
/// Bytes of a block of the thin pool.
pub const CHUNK: u64 = 64 << 10;

/// A part of the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub size: u64,
}

impl Span {
    /// The first byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// What the file systems are to hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Root's files.
    pub root: u64,
    /// The state's.
    pub state: u64,
    /// The apps'.
    pub apps: u64,
}

/// The whole card; spans are from its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The card's size, bytes.
    pub disk: u64,
    /// Partition 1: autoboot.txt and the seed.
    pub config: Span,
    /// Partitions 2 and 3: the boot slots a and b.
    pub boot: [Span; 2],
    /// Partition 4: LVM.
    pub pv: Span,
    /// Where LVM's extents begin.
    pub extents: Span,
    /// LVM's spare for repairs of the pool's metadata.
    pub spare: Span,
    /// The pool's metadata.
    pub pool_metadata: Span,
    /// The pool's data.
    pub pool: Span,
    /// The state, a linear volume.
    pub state: Span,
    /// The apps, a linear volume.
    pub apps: Span,
    /// Root's size as it sees it; its blocks lie in the pool.
    pub root: u64,
}

impl Layout {
    /// Computes it.
    #[must_use]
    pub fn new(sizes: &Sizes, content: Content) -> Self {
        let config = Span { start: ALIGN, size: sizes.config * MIB };
        let boot_a = after(config, sizes.boot * MIB);
        let boot_b = after(boot_a, sizes.boot * MIB);
        let root = file_system(sizes.root, content.root, sizes.root_free);
        let state = file_system(sizes.state, content.state, sizes.state_free);
        let apps = file_system(sizes.apps, content.apps, 0);

        let pv_start = after(boot_b, 0).start;
        let spare = Span { start: pv_start + ALIGN, size: up(sizes.pool_metadata * MIB, EXTENT) };
        let pool_metadata = after(spare, spare.size);
        let state = after(pool_metadata, state);
        let apps = after(state, apps);
        // A snapshot stays whole even if all of root is written anew while it exists.
        let pool = after(apps, 2 * root);
        let extents = Span { start: spare.start, size: pool.end() - spare.start };
        let pv = Span { start: pv_start, size: pool.end() - pv_start };
        let disk = pv.end();
        Layout { disk, config, boot: [boot_a, boot_b], pv, extents, spare, pool_metadata, pool, state, apps, root }
    }

    /// What a writer of cards must write even where it is all zeros, because somebody reads it: everything but the data
    /// parts of FATs and the pool. Sorted.
    #[must_use]
    pub fn always_written(&self) -> Vec<Span> {
        // The table and the area before partition 1, FATs with their tables and root folders, LVM's label and its
        // circular metadata, the pool's metadata, the linear volumes with their journals and inode tables.
        const FAT_HEAD: u64 = 4 * MIB;
        let head = |span: Span| Span { start: span.start, size: FAT_HEAD.min(span.size) };
        vec![
            Span { start: 0, size: MIB },
            head(self.config),
            head(self.boot[0]),
            head(self.boot[1]),
            Span { start: self.pv.start, size: self.extents.start - self.pv.start },
            self.pool_metadata,
            self.state,
            self.apps,
        ]
    }
}

fn after(span: Span, size: u64) -> Span {
    Span { start: up(span.end(), ALIGN), size }
}

/// The size of a file system: its content, a sixteenth for its own tables, its journal, and what is to be free.
fn file_system(least_mib: u64, content: u64, free_mib: u64) -> u64 {
    let needs = content + content / 16 + (free_mib + JOURNAL_MIB) * MIB;
    up(needs.max(least_mib * MIB), EXTENT)
}

/// A journal's size, MiB: file systems are small in the image and large on the card, and the journal does not grow.
pub const JOURNAL_MIB: u64 = 32;

fn up(bytes: u64, to: u64) -> u64 {
    bytes.div_ceil(to) * to
}

/// What tests lay out.
#[cfg(test)]
pub(crate) fn sizes() -> Sizes {
    Sizes {
        config: 64,
        boot: 256,
        root: 1024,
        root_free: 256,
        pool_metadata: 64,
        state: 256,
        state_free: 128,
        apps: 512,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans(layout: &Layout) -> Vec<Span> {
        let [a, b] = layout.boot;
        vec![layout.config, a, b, layout.spare, layout.pool_metadata, layout.state, layout.apps, layout.pool]
    }

    #[test]
    fn small_content_leaves_the_minimums() {
        let layout = Layout::new(&sizes(), Content { root: 100 * MIB, state: MIB, apps: 0 });
        assert_eq!(layout.config, Span { start: 4 * MIB, size: 64 * MIB });
        assert_eq!(layout.boot[1].start, (4 + 64 + 256) * MIB);
        assert_eq!((layout.root, layout.pool.size), (1024 * MIB, 2048 * MIB));
        assert_eq!(layout.disk, (4 + 64 + 512 + 4 + 128 + 256 + 512 + 2048) * MIB);
    }

    proptest! {
        #[test]
        fn parts_lie_apart_in_order_and_hold_what_they_must(root in 0..8192u64, state in 0..2048u64, apps in 0..2048u64) {
            let content = Content { root: root * MIB, state: state * MIB, apps: apps * MIB };
            let layout = Layout::new(&sizes(), content);
            for (one, next) in spans(&layout).iter().zip(spans(&layout).iter().skip(1)) {
                prop_assert!(one.end() <= next.start && one.start % ALIGN == 0 && one.size % ALIGN == 0);
            }
            prop_assert_eq!(layout.pv.end(), layout.disk);
            prop_assert_eq!(layout.extents.end(), layout.disk);
            prop_assert!(layout.pool.size >= 2 * layout.root);
            prop_assert!(layout.root >= content.root + sizes().root_free * MIB);
            prop_assert!(layout.state.size >= content.state + sizes().state_free * MIB);
            prop_assert!(layout.apps.size >= content.apps);
            let written = layout.always_written();
            prop_assert!(written.is_sorted_by(|a, b| a.end() <= b.start));
        }
    }
}
