//! Layouts of made-up and of real file systems: nothing the old one uses is ever written, and all of it is found again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::convert::dump;
use crate::process::output;

const GIB: u64 = 1 << 30;

fn a_dump(partition: u64, used: &[Range<u64>]) -> Dump {
    let blocks = partition / BLOCK;
    let mut free = vec![];
    let mut at = 0;
    for range in used {
        if at < range.start {
            free.push(at..range.start);
        }
        at = range.end;
    }
    if at < blocks {
        free.push(at..blocks);
    }
    Dump { blocks, free, features: vec![], state: "clean".into() }
}

fn wish(partition: u64, root_least: u64) -> Wish {
    Wish { partition, root_least, state_used: 0, apps_used: 0 }
}

/// Everything that must hold of any layout.
fn check(dump: &Dump, wish: &Wish, layout: &Layout) {
    let used = Used::of(dump, wish.partition);
    let first = layout.begin + PER_HEAD;
    assert_eq!(used.count(layout.begin..first), 0, "label and metadata lie in free space");
    assert!((first + layout.extents * PER_EXTENT) * CHUNK <= wish.partition, "the volume group ends in the partition");
    let mut extents = BTreeSet::new();
    for volume in &layout.volumes {
        for extent in volume.runs.iter().cloned().flatten() {
            assert!(extents.insert(extent) && extent < layout.extents, "{} overlaps at {extent}", volume.name);
            let places = first + extent * PER_EXTENT..first + (extent + 1) * PER_EXTENT;
            assert!(volume.name == "pool_tdata" || used.count(places) == 0, "{} lies on used blocks", volume.name);
        }
    }
    assert_eq!(extents.len() as u64, layout.extents, "nothing is left over");
    let pool: Vec<u64> = layout.pool().runs.iter().cloned().flatten().collect();
    assert!(pool.len() as u64 >= 2 * layout.root_extents, "a full rewrite of root fits beside its snapshot");
    let place = |data: u64| first + pool[index(data / PER_EXTENT)] * PER_EXTENT + data % PER_EXTENT;
    let moved: std::collections::BTreeMap<u64, u64> = layout.moves.iter().map(|step| (step.to, step.from)).collect();
    assert_eq!(moved.len(), layout.moves.len(), "two copies in one place");
    let (mut origins, mut datas) = (BTreeSet::new(), BTreeSet::new());
    for map in &layout.maps {
        for at in 0..map.len {
            let (origin, data) = (map.origin + at, map.data + at);
            assert!(origins.insert(origin) && datas.insert(data));
            let place = place(data);
            match moved.get(&place) {
                Some(from) => assert!(*from == origin && !used.is(place), "copies go to free pieces"),
                None => assert_eq!(place, origin, "a piece that is not copied stays where it is"),
            }
        }
    }
    let all: BTreeSet<u64> = (0..used.0.len() as u64).filter(|chunk| used.is(*chunk)).collect();
    assert_eq!(origins, all, "every used piece is mapped, and no other");
}

#[test]
fn a_fresh_card_of_16_gib() {
    let (dump, wish) = (a_dump(16 * GIB, &[0..600_000]), wish(16 * GIB, 2 * GIB));
    let layout = plan(&dump, &wish).unwrap();
    check(&dump, &wish, &layout);
    assert_eq!(layout.begin * CHUNK, (600_000 * BLOCK).next_multiple_of(CHUNK));
    let apps = layout.volumes.iter().find(|volume| volume.name == "apps").unwrap();
    let size: u64 = apps.runs.iter().map(|run| (run.end - run.start) * EXTENT).sum();
    assert!(size >= 3 * GIB, "apps have {size}");
    assert!(layout.root_extents * EXTENT > 4 * GIB);
}

#[test]
fn too_full_is_refused_with_numbers() {
    // Used at the front only: half of the pool is what counts.
    let refused = plan(&a_dump(4 * GIB, &[0..700_000]), &wish(4 * GIB, 2700 * MIB)).unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, TooFull::Root { .. }) && said.contains("root needs 2899 MiB"), "{said}");
    // Used everywhere: no free extents.
    let stripes: Vec<Range<u64>> = (0..1024).map(|at| at * 1024..at * 1024 + 300).collect();
    let refused = plan(&a_dump(4 * GIB, &stripes), &wish(4 * GIB, GIB)).unwrap_err();
    assert!(matches!(refused, TooFull::Extents { free: 0, .. }), "{refused}");
    // Much lies where it cannot stay.
    let (front, behind) = (0..100_000, 400_000..780_000);
    let refused = plan(&a_dump(4 * GIB, &[front, behind]), &wish(4 * GIB, GIB)).unwrap_err();
    assert!(matches!(refused, TooFull::Work { .. }), "{refused}");
    let all = plan(&a_dump(GIB, &[0..GIB / BLOCK]), &wish(GIB, GIB)).unwrap_err();
    assert_eq!(all, TooFull::NoPlace);
}

#[test]
fn state_and_apps_hold_what_moves_in() {
    let wish = Wish { apps_used: 3 * GIB, state_used: GIB, ..wish(16 * GIB, GIB) };
    let dump = a_dump(16 * GIB, &[0..400_000]);
    let layout = plan(&dump, &wish).unwrap();
    check(&dump, &wish, &layout);
    let size = |name| -> u64 {
        let volume = layout.volumes.iter().find(|volume| volume.name == name).unwrap();
        volume.runs.iter().map(|run| (run.end - run.start) * EXTENT).sum()
    };
    assert!(size("apps") > 3 * GIB + 500 * MIB && size("state") > GIB + 200 * MIB);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_is_used_is_neither_written_nor_lost(
        pieces in proptest::collection::vec((0_u64..786_432, 1_u64..6_000), 1..60),
        odd in 0_u64..900,
    ) {
        let partition = 3 * GIB + odd * 512;
        let mut used: Vec<Range<u64>> = std::iter::once(0..9_000).collect();
        let mut sorted = pieces;
        sorted.sort_unstable();
        for (start, len) in sorted {
            let end = (start + len).min(partition / BLOCK);
            match used.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                Some(_) | None if start < end => used.push(start..end),
                Some(_) | None => {}
            }
        }
        let (dump, wish) = (a_dump(partition, &used), wish(partition, 300 * MIB));
        if let Ok(layout) = plan(&dump, &wish) {
            check(&dump, &wish, &layout);
        }
    }
}

/// Builds what the thin pool would show out of the image, as device-mapper would.
fn through_the_pool(image: &Path, layout: &Layout, out: &Path) {
    let (from, to) = (File::open(image).unwrap(), File::create(out).unwrap());
    to.set_len(layout.old_extents * EXTENT).unwrap();
    let pool: Vec<u64> = layout.pool().runs.iter().cloned().flatten().collect();
    let mut piece = vec![0; CHUNK as usize];
    for map in &layout.maps {
        for at in 0..map.len {
            let data = map.data + at;
            let place = layout.begin + PER_HEAD + pool[index(data / PER_EXTENT)] * PER_EXTENT + data % PER_EXTENT;
            let read = from.read_at(&mut piece, place * CHUNK).unwrap();
            to.write_all_at(&piece[..read], (map.origin + at) * CHUNK).unwrap();
        }
    }
}

/// A real file system on a partition of odd size, full enough that files lie in front, and with pieces behind the last extent.
#[test]
fn a_real_file_system_is_whole_through_the_pool() {
    let tools = ["/sbin/mke2fs", "/sbin/dumpe2fs", "/sbin/e2fsck", "/sbin/resize2fs", "/usr/sbin/thin_restore"];
    if let Some(missing) = tools.iter().find(|tool| !Path::new(tool).exists()) {
        eprintln!("{missing} is not on this machine: only made-up file systems were laid out");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, tree) = (dir.path().join("root.img"), dir.path().join("tree"));
    for folder in 0..24 {
        let path = tree.join(format!("folder-{folder}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..20_usize {
            fs::write(path.join(format!("{file}")), vec![(folder + file) as u8; 900 * file * file]).unwrap();
        }
    }
    let partition = 1100 * MIB + 3 * 4096;
    File::create(&image).unwrap().set_len(partition).unwrap();
    let at = image.to_str().unwrap();
    output(Path::new("/sbin/mke2fs"), &["-q", "-t", "ext4", "-d", tree.to_str().unwrap(), at]).unwrap();
    let read = || dump::parse_unmounted(&output(Path::new("/sbin/dumpe2fs"), &[at]).unwrap()).unwrap();
    let least = dump::least(&output(Path::new("/sbin/resize2fs"), &["-P", at]).unwrap()).unwrap();
    let (dump, wish) = (read(), wish(partition, least));
    let layout = plan(&dump, &wish).unwrap();
    check(&dump, &wish, &layout);
    assert!(!layout.moves.is_empty(), "something lies in front");

    // All that a conversion writes before it commits: copies, and rubbish wherever else it may write.
    let disk = fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let used = Used::of(&dump, partition);
    let rubbish = vec![0xa5; CHUNK as usize];
    for chunk in (layout.begin..partition / CHUNK).filter(|chunk| !used.is(*chunk)) {
        disk.write_all_at(&rubbish, chunk * CHUNK).unwrap();
    }
    let mut piece = vec![0; CHUNK as usize];
    for step in &layout.moves {
        let read = disk.read_at(&mut piece, step.from * CHUNK).unwrap();
        disk.write_all_at(&piece[..read], step.to * CHUNK).unwrap();
    }
    output(Path::new("/sbin/e2fsck"), &["-fn", at]).expect("the old file system is whole");

    let seen = dir.path().join("seen.img");
    through_the_pool(&image, &layout, &seen);
    let seen = seen.to_str().unwrap();
    output(Path::new("/sbin/e2fsck"), &["-fn", seen]).expect("and so is the new one");
    let blocks = (layout.root_extents * EXTENT / BLOCK).to_string();
    output(Path::new("/sbin/resize2fs"), &["-f", seen, &blocks]).unwrap();
    output(Path::new("/sbin/e2fsck"), &["-fn", seen]).unwrap();
    let dumped = dir.path().join("dumped");
    fs::create_dir(&dumped).unwrap();
    let command = format!("rdump / {}", dumped.display());
    output(Path::new("/sbin/debugfs"), &["-R", &command, seen]).unwrap();
    output(Path::new("/usr/bin/diff"), &["-r", "-x", "lost+found", tree.to_str().unwrap(), dumped.to_str().unwrap()])
        .expect("every file is the same");

    let (xml, meta) = (dir.path().join("thin.xml"), dir.path().join("meta"));
    fs::write(&xml, crate::convert::lvmtext::thin(&layout)).unwrap();
    File::create(&meta).unwrap().set_len(16 * MIB).unwrap();
    let (xml, meta) = (xml.to_str().unwrap(), meta.to_str().unwrap());
    output(Path::new("/usr/sbin/thin_restore"), &["-q", "-i", xml, "-o", meta]).unwrap();
    output(Path::new("/usr/sbin/thin_check"), &["-q", meta]).expect("the thin pool's metadata is whole");
}
