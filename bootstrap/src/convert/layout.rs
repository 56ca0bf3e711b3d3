//! Where everything lies: the volume group is laid over the old root's partition so that every block of the old file system
//! stays where it is, and everything new lies in its free space.
//!
//! Pure. The physical volume begins at the first hole that holds its head. The thin pool owns every extent that the linear volumes do
//! not; the old root is a thin volume whose pieces are mapped to the places where they are. Only pieces that lie outside the
//! physical volume's extents (in front of it, and less than an extent behind) are copied, into free pieces of the pool.

use std::fmt;
use std::ops::Range;

use super::dump::{BLOCK, Dump};

/// What a thin pool maps at a time, in bytes. Everything here is counted in such pieces from the partition's begin.
pub(crate) const CHUNK: u64 = 64 << 10;
/// What volumes are made of, in bytes.
pub(crate) const EXTENT: u64 = 4 << 20;
/// The physical volume's label and metadata, in bytes: small, because the first hole of this size is where it begins.
pub(crate) const HEAD: u64 = 256 << 10;
const PER_EXTENT: u64 = EXTENT / CHUNK;
const PER_HEAD: u64 = HEAD / CHUNK;
const BLOCKS: u64 = CHUNK / BLOCK;
const MIB: u64 = 1 << 20;
const STATE_LEAST: u64 = 256 * MIB;
const APPS_LEAST: u64 = 256 * MIB;
/// What the new root may write before the old one is given up, in bytes.
const TRIAL: u64 = 192 * MIB;

/// What is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The root's partition, in bytes.
    pub(crate) partition: u64,
    /// The least size that the root file system can be shrunk to, in bytes.
    pub(crate) root_least: u64,
    /// What is to be moved into `state`, in bytes.
    pub(crate) state_used: u64,
    /// What is to be moved into `apps`, in bytes.
    pub(crate) apps_used: u64,
}

/// A linear volume: a name and its extents, as runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Its name in the group.
    pub(crate) name: &'static str,
    /// Where it lies.
    pub(crate) runs: Vec<Range<u64>>,
}

/// A run of the old root's pieces and where the pool has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// First piece, counted in the old root.
    pub(crate) origin: u64,
    /// First piece, counted in the pool.
    pub(crate) data: u64,
    /// How many.
    pub(crate) len: u64,
}

/// A piece that must be copied: both places counted from the partition's begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    /// Where it is.
    pub(crate) from: u64,
    /// Where the copy goes; free in the old file system.
    pub(crate) to: u64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Where the physical volume begins, in pieces.
    pub(crate) begin: u64,
    /// Its extents.
    pub(crate) extents: u64,
    /// Linear volumes; the pool's data is the one called `pool_tdata`.
    pub(crate) volumes: Vec<Volume>,
    /// The old root's size, in extents.
    pub(crate) old_extents: u64,
    /// The new root's size, in extents.
    pub(crate) root_extents: u64,
    /// The old root's pieces in the pool.
    pub(crate) maps: Vec<Mapping>,
    /// What is copied before.
    pub(crate) moves: Vec<Move>,
}

/// Why it cannot be done, with numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TooFull {
    /// Half of the pool is less than the root needs.
    Root { needs: u64, half: u64 },
    /// Free pieces of the pool do not hold what is written before the old root is given up.
    Work { needs: u64, free: u64 },
    /// Free extents do not hold the linear volumes.
    Extents { needs: u64, free: u64 },
    /// Nowhere is a hole.
    NoPlace,
}

impl fmt::Display for TooFull {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes.div_ceil(MIB);
        match self {
            Self::Root { needs, half } => write!(
                out,
                "the card is too small for what is on it: root needs {} MiB, and half of the pool, which an upgrade with a way \
                 back takes, is {} MiB; remove at least {} MiB, or use a larger card",
                mib(needs),
                mib(half),
                mib(&(needs - half)) * 2
            ),
            Self::Work { needs, free } => write!(
                out,
                "the card is too full: {} MiB are written before the old root is given up, and {} MiB are free; remove at least \
                 {} MiB, or use a larger card",
                mib(needs),
                mib(free),
                mib(&(needs - free))
            ),
            Self::Extents { needs, free } => write!(
                out,
                "state, apps and the pool's metadata need {} MiB in free pieces of 4 MiB, and there are {} MiB; remove at least {} \
                 MiB, or use a larger card",
                mib(needs),
                mib(free),
                mib(&(needs - free))
            ),
            Self::NoPlace => out.write_str("nowhere on the root partition are 256 KiB free in one piece: remove files"),
        }
    }
}

/// Decides it.
pub(crate) fn plan(dump: &Dump, wish: &Wish) -> Result<Layout, TooFull> {
    let used = Used::of(dump, wish.partition);
    let begin = used.place().ok_or(TooFull::NoPlace)?;
    let extents = (wish.partition / CHUNK).saturating_sub(begin + PER_HEAD) / PER_EXTENT;
    let mut refusal = TooFull::NoPlace;
    for apps in apps_sizes(wish) {
        match with_apps(&used, dump, wish, begin, extents, apps) {
            Ok(layout) => return Ok(layout),
            Err(why) => refusal = why,
        }
    }
    Err(refusal)
}

/// A quarter of the card is for apps; less where that does not fit.
fn apps_sizes(wish: &Wish) -> [u64; 3] {
    let least = APPS_LEAST.max(room(wish.apps_used));
    let much = least.max(wish.partition / 4);
    [much, least.max(much / 2), least]
}

/// What a file system needs to hold so much.
fn room(used: u64) -> u64 {
    used + used / 5 + 64 * MIB
}

fn with_apps(used: &Used, dump: &Dump, wish: &Wish, begin: u64, extents: u64, apps: u64) -> Result<Layout, TooFull> {
    let state = STATE_LEAST.max(room(wish.state_used)).max((wish.partition / 16).min(2 << 30));
    let metadata = pool_metadata(wish.partition);
    let wanted = [("lvol0_pmspare", metadata), ("pool_tmeta", metadata), ("state", state), ("apps", apps)]
        .map(|(name, bytes)| (name, bytes.div_ceil(EXTENT)));
    let (volumes, taken) = place_linear(used, begin, extents, &wanted)?;
    let pool: Vec<u64> = (0..extents).filter(|extent| !taken[index(*extent)]).collect();
    let placing = map_old(used, begin, extents, &pool);
    let root_extents = pool.len() as u64 / 2;
    let layout = Layout {
        begin,
        extents,
        volumes: [volumes, vec![Volume { name: "pool_tdata", runs: runs(pool.iter().copied()) }]].concat(),
        old_extents: (dump.blocks * BLOCK).div_ceil(EXTENT),
        root_extents: root_extents.min((dump.blocks * BLOCK) / EXTENT),
        maps: placing.maps,
        moves: placing.moves,
    };
    enough(used, wish, &layout, placing.free)?;
    Ok(layout)
}

fn enough(used: &Used, wish: &Wish, layout: &Layout, free: Option<u64>) -> Result<(), TooFull> {
    let root = layout.root_extents * EXTENT;
    let needs = wish.root_least + wish.root_least / 20 + 64 * MIB;
    if root < needs {
        return Err(TooFull::Root { needs, half: root });
    }
    // What lies behind the new end moves, into pieces that are partly taken; metadata everywhere is written anew.
    let behind = used.count(root / CHUNK..used.0.len() as u64) * CHUNK;
    let needs = behind + behind / 4 + root / 40 + TRIAL;
    let free = free.unwrap_or_default() * CHUNK;
    if free < needs {
        return Err(TooFull::Work { needs, free });
    }
    Ok(())
}

/// 64 bytes for each piece, twice, as `thin_metadata_size` reckons with a snapshot of everything.
fn pool_metadata(partition: u64) -> u64 {
    (partition / CHUNK * 128).clamp(16 * MIB, 512 * MIB).next_multiple_of(EXTENT)
}

/// Takes free extents from the end of the disk.
fn place_linear(
    used: &Used,
    begin: u64,
    extents: u64,
    wanted: &[(&'static str, u64)],
) -> Result<(Vec<Volume>, Vec<bool>), TooFull> {
    let first = begin + PER_HEAD;
    let is_free = |extent: &u64| used.count(first + extent * PER_EXTENT..first + (extent + 1) * PER_EXTENT) == 0;
    let mut free: Vec<u64> = (0..extents).filter(is_free).collect();
    let needs: u64 = wanted.iter().map(|(_, count)| count).sum();
    if (free.len() as u64) < needs {
        return Err(TooFull::Extents { needs: needs * EXTENT, free: free.len() as u64 * EXTENT });
    }
    let mut taken = vec![false; index(extents)];
    let volumes = wanted.iter().map(|(name, count)| {
        let mine = free.split_off(free.len() - index(*count));
        mine.iter().for_each(|extent| taken[index(*extent)] = true);
        Volume { name, runs: runs(mine.into_iter()) }
    });
    Ok((volumes.collect(), taken))
}

struct Placing {
    maps: Vec<Mapping>,
    moves: Vec<Move>,
    /// Free pieces of the pool; none when not even what must be copied fits.
    free: Option<u64>,
}

fn map_old(used: &Used, begin: u64, extents: u64, pool: &[u64]) -> Placing {
    let first = begin + PER_HEAD;
    let mut rank = vec![None; index(extents)];
    pool.iter().enumerate().for_each(|(at, extent)| rank[index(*extent)] = Some(at as u64));
    let inside = |chunk: u64| {
        let offset = chunk.checked_sub(first)?;
        let at = rank.get(index(offset / PER_EXTENT)).copied().flatten()?;
        Some(at * PER_EXTENT + offset % PER_EXTENT)
    };
    let place = |data: u64| first + pool[index(data / PER_EXTENT)] * PER_EXTENT + data % PER_EXTENT;
    let mut free = (0..pool.len() as u64 * PER_EXTENT).filter(|data| !used.is(place(*data)));
    let mut placing = Placing { maps: vec![], moves: vec![], free: None };
    for chunk in (0..used.0.len() as u64).filter(|chunk| used.is(*chunk)) {
        let data = match inside(chunk) {
            Some(data) => data,
            None => {
                let Some(data) = free.next() else { return placing };
                placing.moves.push(Move { from: chunk, to: place(data) });
                data
            }
        };
        match placing.maps.last_mut() {
            Some(last) if last.origin + last.len == chunk && last.data + last.len == data => last.len += 1,
            Some(_) | None => placing.maps.push(Mapping { origin: chunk, data, len: 1 }),
        }
    }
    placing.free = Some(free.count() as u64);
    placing
}

fn runs(extents: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = vec![];
    for extent in extents {
        match runs.last_mut() {
            Some(last) if last.end == extent => last.end += 1,
            Some(_) | None => runs.push(extent..extent + 1),
        }
    }
    runs
}

/// A card's pieces are counted in far less than 2^32.
fn index(number: u64) -> usize {
    usize::try_from(number).expect("invariant: pieces and extents of a disk of at most 2 TiB")
}

/// Which pieces of the partition the old file system uses, wholly or in part.
struct Used(Vec<bool>);

impl Used {
    fn of(dump: &Dump, partition: u64) -> Self {
        let chunks = partition.div_ceil(CHUNK);
        let mut used = vec![false; index(chunks)];
        let mut at = 0;
        let end = dump.blocks..dump.blocks;
        for free in dump.free.iter().chain(std::iter::once(&end)) {
            if at < free.start {
                let last = (free.start - 1) / BLOCKS;
                used.iter_mut().take(index(last + 1)).skip(index(at / BLOCKS)).for_each(|piece| *piece = true);
            }
            at = free.end;
        }
        Self(used)
    }

    fn is(&self, chunk: u64) -> bool {
        self.0[index(chunk)]
    }

    fn count(&self, range: Range<u64>) -> u64 {
        let range = index(range.start).min(self.0.len())..index(range.end).min(self.0.len());
        self.0[range].iter().filter(|piece| **piece).count() as u64
    }

    /// The first hole for the head, in pieces. Not the first of the partition: the old superblock is there.
    fn place(&self) -> Option<u64> {
        let last = (self.0.len() as u64).checked_sub(PER_HEAD)?;
        (0..=last).find(|begin| self.count(*begin..begin + PER_HEAD) == 0)
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
#[allow(clippy::single_range_in_vec_init, reason = "these are lists of one range")]
mod tests;
