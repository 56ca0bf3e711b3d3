//! How big the volumes of a device should be, and the steps from what they are.
//!
//! Decides the shares. Everything is read from the disk at every start, so a power cut at any step is repaired by the next
//! boot; nothing ever shrinks. Does nothing itself.
//!
//! The rule, for a group of `total` bytes: root gets a fifth, 8 GiB at most and never less than it has. The pool that root
//! lies in gets twice that, so that a whole rewrite of root beside its snapshot fits. The state volume stays as the image
//! made it. The apps get all the rest but 64 MiB, which stay free for a repair of the pool. On a small card root stays as
//! the image made it, and the apps get what there is.

use std::fmt;

const MIB: u64 = 1 << 20;
/// A bigger root would only be more to keep twice.
const ROOT_MAX: u64 = 8 << 30;
const ROOT_SHARE: u64 = 5;
/// `lvconvert --repair` makes new metadata beside the old.
const RESERVE: u64 = 64 * MIB;
/// Of the pool; what its metadata count.
const CHUNK: u64 = 64 << 10;
/// Of metadata, for a chunk that root and its snapshot both have: twice what the kernel needs.
const META_PER_CHUNK: u64 = 128;
/// What a file system may be smaller than its volume: ext4 gives up the rest of a group that is too small.
const FILES_SLACK: u64 = 16 * MIB;
/// A partition table knows no less.
const ALIGN: u64 = MIB;
/// Of a partition in an MBR: 32 bits of sectors.
const MBR_MAX: u64 = (u32::MAX as u64) * 512;

/// What is there, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// The disk, and where the partition begins on it; absent where the physical volume is no partition, or not the last.
    pub(crate) room: Option<Room>,
    /// The device of the physical volume.
    pub(crate) device: u64,
    /// Where extents begin on it.
    pub(crate) extents_at: u64,
    /// All extents.
    pub(crate) physical: u64,
    /// One extent.
    pub(crate) extent: u64,
    /// Extents that belong to nobody.
    pub(crate) free: u64,
    /// The thin pool's data.
    pub(crate) pool: u64,
    /// The thin pool's metadata.
    pub(crate) pool_meta: u64,
    /// The volume that is root, and the file system in it.
    pub(crate) root: u64,
    /// Of root.
    pub(crate) root_files: u64,
    /// The volume of the apps.
    pub(crate) apps: u64,
    /// Of the apps.
    pub(crate) apps_files: u64,
}

/// Where a partition could grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// The whole disk.
    pub(crate) disk: u64,
    /// Where the partition begins.
    pub(crate) start: u64,
}

/// One thing to do. Each may be done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The partition, to the end of the disk.
    Partition,
    /// The physical volume, to the end of its partition.
    Physical,
    /// The pool's metadata, to this size.
    PoolMeta(u64),
    /// The pool's data.
    Pool(u64),
    /// Root's volume.
    Root(u64),
    /// Root's file system, to its volume.
    RootFiles,
    /// The apps' volume.
    Apps(u64),
    /// The apps' file system.
    AppsFiles,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes / MIB;
        match self {
            Self::Partition => f.write_str("the last partition, to the end of the card"),
            Self::Physical => f.write_str("the physical volume, to the end of its partition"),
            Self::PoolMeta(to) => write!(f, "the pool's metadata, to {} MiB", mib(to)),
            Self::Pool(to) => write!(f, "the pool, to {} MiB", mib(to)),
            Self::Root(to) => write!(f, "root, to {} MiB", mib(to)),
            Self::RootFiles => f.write_str("root's file system, to its volume"),
            Self::Apps(to) => write!(f, "the apps' volume, to {} MiB", mib(to)),
            Self::AppsFiles => f.write_str("the apps' file system, to its volume"),
        }
    }
}

/// All that is left to do, in order. Each step assumes that those before it worked.
pub(crate) fn plan(have: &Sizes) -> Vec<Step> {
    let mut steps = vec![];
    let mut device = have.device;
    if let Some(Room { disk, start }) = have.room {
        let end = disk.min(start.saturating_add(MBR_MAX)) / ALIGN * ALIGN;
        if end.saturating_sub(start) >= device + have.extent.max(ALIGN) {
            device = end - start;
            steps.push(Step::Partition);
        }
    }
    let floor = |bytes: u64| bytes / have.extent * have.extent;
    let ceil = |bytes: u64| bytes.div_ceil(have.extent) * have.extent;
    let physical = floor(device.saturating_sub(have.extents_at));
    let mut free = have.free;
    if physical > have.physical {
        free += physical - have.physical;
        steps.push(Step::Physical);
    }
    let total = physical.max(have.physical);
    let budget = free.saturating_sub(RESERVE);

    let wished = floor((total / ROOT_SHARE).min(ROOT_MAX)).max(have.root);
    let meta = ceil(2 * wished / CHUNK * META_PER_CHUNK).max(have.pool_meta);
    // The spare that repairs use grows with the metadata.
    let meta_costs = 2 * (meta - have.pool_meta);
    let pool_can = have.pool + budget.saturating_sub(meta_costs);
    let root = wished.min(floor(pool_can / 2)).max(have.root);
    let pool = (2 * root).max(have.pool);
    let grows = root > have.root && pool - have.pool + meta_costs <= budget;
    if grows {
        if meta > have.pool_meta {
            steps.push(Step::PoolMeta(meta));
        }
        if pool > have.pool {
            steps.push(Step::Pool(pool));
        }
        steps.push(Step::Root(root));
    }
    let spent = if grows { pool - have.pool + meta_costs } else { 0 };
    if short(have.root_files, if grows { root } else { have.root }) {
        steps.push(Step::RootFiles);
    }
    let apps = have.apps + floor(budget - spent);
    if apps > have.apps {
        steps.push(Step::Apps(apps));
    }
    if short(have.apps_files, apps) {
        steps.push(Step::AppsFiles);
    }
    steps
}

fn short(files: u64, volume: u64) -> bool {
    volume.saturating_sub(files) > FILES_SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const EXTENT: u64 = 4 * MIB;
    const START: u64 = 577 * MIB;

    /// As the image is: a root of 1.25 GiB in a pool of 2.5, state and apps of a quarter GiB each.
    fn image(disk: u64) -> Sizes {
        let (root, pool, meta, state, apps) = (1280 * MIB, 2560 * MIB, 32 * MIB, 256 * MIB, 256 * MIB);
        let physical = pool + 2 * meta + state + apps + 16 * MIB;
        Sizes {
            room: Some(Room { disk, start: START }),
            device: physical + MIB,
            extents_at: MIB,
            physical,
            extent: EXTENT,
            free: 16 * MIB,
            pool,
            pool_meta: meta,
            root,
            root_files: root,
            apps,
            apps_files: apps,
        }
    }

    /// What the machine would be after a step; the state volume is what nothing names.
    fn after(mut have: Sizes, step: Step) -> Sizes {
        match step {
            Step::Partition => {
                let Room { disk, start } = have.room.unwrap();
                have.device = disk / MIB * MIB - start;
            }
            Step::Physical => {
                let physical = (have.device - have.extents_at) / EXTENT * EXTENT;
                have.free += physical - have.physical;
                have.physical = physical;
            }
            Step::PoolMeta(to) => {
                have.free -= 2 * (to - have.pool_meta);
                have.pool_meta = to;
            }
            Step::Pool(to) => {
                have.free -= to - have.pool;
                have.pool = to;
            }
            Step::Root(to) => have.root = to,
            Step::RootFiles => have.root_files = have.root,
            Step::Apps(to) => {
                have.free -= to - have.apps;
                have.apps = to;
            }
            Step::AppsFiles => have.apps_files = have.apps,
        }
        have
    }

    fn grown(have: Sizes) -> Sizes {
        plan(&have).into_iter().fold(have, after)
    }

    #[test]
    fn shares_on_usual_cards() {
        // The card as it is sold, then root, pool and apps in MiB.
        for (card, root, pool, apps) in [
            (4, 1280, 2560, 292),
            (8, 1408, 2816, 3848),
            (16, 2936, 5872, 8424),
            (32, 5984, 11968, 17584),
            (64, 8192, 16384, 43688),
            (256, 8192, 16384, 226_792),
        ] {
            let sizes = grown(image(card * 1_000_000_000));
            assert_eq!((sizes.root / MIB, sizes.pool / MIB, sizes.apps / MIB), (root, pool, apps), "{card} GB");
            assert!(sizes.free >= RESERVE && sizes.free < RESERVE + EXTENT, "{card}: {} MiB free", sizes.free / MIB);
            assert_eq!((sizes.root_files, sizes.apps_files), (sizes.root, sizes.apps));
        }
    }

    #[test]
    fn a_card_that_the_image_fills_is_left_alone() {
        let have = image(START + image(0).device);
        assert_eq!(plan(&have), []);
    }

    /// A power cut after any step, or a step that did half of it: the next boot ends where the first would have.
    #[test]
    fn every_power_cut_is_repaired_by_the_next_boot() {
        for disk in [4_000_000_000, 7_900_000_000, 31_914_983_424, 255_000_000_000] {
            let whole = grown(image(disk));
            assert_eq!(plan(&whole), [], "nothing is left to do");
            let steps = plan(&image(disk));
            for cut in 0..steps.len() {
                let there = steps[..cut].iter().fold(image(disk), |have, step| after(have, *step));
                assert_eq!(grown(there), whole, "cut before {}", steps[cut]);
            }
        }
    }

    #[test]
    fn the_order_is_from_outside_to_inside() {
        let steps = plan(&image(31_914_983_424));
        let kinds: Vec<String> = steps.iter().map(Step::to_string).collect();
        assert_eq!(steps.len(), 7, "{kinds:?}");
        assert_eq!(steps[..2], [Step::Partition, Step::Physical]);
        assert!(matches!(steps[2..], [Step::Pool(_), Step::Root(_), Step::RootFiles, Step::Apps(_), Step::AppsFiles]));
    }

    #[test]
    fn a_disk_without_a_partition_table_and_a_small_metadata_volume() {
        let have = Sizes { room: None, pool_meta: 4 * MIB, device: 20 * GIB, ..image(0) };
        let steps = plan(&have);
        assert_eq!(steps[0], Step::Physical);
        assert!(matches!(steps[1], Step::PoolMeta(to) if to > 4 * MIB), "{steps:?}");
        assert_eq!(plan(&grown(have)), []);
    }

    #[test]
    fn a_disk_of_more_than_an_mbr_can_say_is_used_as_far_as_it_can() {
        let have = image(4 << 40);
        let Some(Step::Partition) = plan(&have).first().copied() else { panic!("it grows") };
        let said: Vec<Step> = plan(&have);
        assert!(said.iter().any(|step| matches!(step, Step::Apps(to) if *to < 2 << 40)));
    }
}
