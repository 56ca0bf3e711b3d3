//! A layout in the words of LVM and of the thin tools: the group and its volumes (how LVM writes them is
//! `bramble_contracts::lvm`), the pool's XML, tables of device-mapper. Bytes and text; writes nothing.
//!
//! The head is made here and not by `pvcreate`, which would look for old signatures on the whole volume and wipe what it
//! takes for one: that is the old root's data.

use std::fmt::Write as _;
use std::ops::Range;

use anyhow::ensure;
use bramble_contracts::lvm::{self, Group, Kind, Segment};

use super::layout::{CHUNK, EXTENT, HEAD, Layout, Volume};
use super::table::SECTOR;

/// The volume group.
pub(crate) const GROUP: &str = "vg0";
/// The old root's volume, as long as there is one.
pub(crate) const OLD: &str = "root_preconvert";

/// Makes identifiers: 32 letters and digits, in groups as LVM prints them.
pub(crate) type Ids<'a> = &'a mut dyn FnMut() -> String;

/// The head of a physical volume of `sectors`, with the whole group in it.
///
/// # Errors
/// The group's text leaves LVM no room to write the next one: the old root's free space is in too many pieces.
pub(crate) fn head(layout: &Layout, sectors: u64, ids: Ids<'_>) -> anyhow::Result<Vec<u8>> {
    let group = Group {
        name: GROUP,
        physical: ids(),
        id: ids(),
        by: "bramble-bootstrap convert",
        made_s: 1_700_000_000,
        size: sectors * SECTOR,
        area_end: HEAD,
        begin: HEAD,
        extent: EXTENT,
        extents: layout.extents,
        volumes: volumes(layout, ids),
    };
    let mut head = group.head();
    ensure!(head.len() as u64 <= HEAD / 2, "free space is in too many pieces: {} bytes of metadata", head.len());
    head.resize(usize::try_from(HEAD)?, 0);
    Ok(head)
}

fn volumes(layout: &Layout, ids: Ids<'_>) -> Vec<lvm::Volume> {
    let old = Segment { extents: layout.old_extents, kind: Kind::Thin(1) };
    let pool = Kind::Pool { block: CHUNK, transaction: 1, discards: "nopassdown", zero: false };
    let pool = Segment { extents: extents(&layout.pool().runs), kind: pool };
    let thin = [(OLD, false, old), ("pool", true, pool)];
    let thin = thin.into_iter().map(|(name, writable, segment)| (name, writable, true, vec![segment]));
    let linear = layout.volumes.iter().map(|Volume { name, runs }| {
        let segments = runs.iter().map(|run| Segment { extents: run.end - run.start, kind: Kind::Linear(run.start) });
        (*name, true, matches!(*name, "state" | "apps"), segments.collect())
    });
    let volume =
        |(name, writable, visible, segments)| lvm::Volume { name, id: ids(), writable, visible, flags: &[], segments };
    thin.chain(linear).map(volume).collect()
}

fn extents(runs: &[Range<u64>]) -> u64 {
    runs.iter().map(|run| run.end - run.start).sum()
}

impl Layout {
    /// The pool's data.
    pub(crate) fn pool(&self) -> &Volume {
        self.named("pool_tdata")
    }

    /// The pool's metadata.
    pub(crate) fn metadata(&self) -> &Volume {
        self.named("pool_tmeta")
    }

    fn named(&self, name: &str) -> &Volume {
        self.volumes.iter().find(|volume| volume.name == name).expect("invariant: every layout has it")
    }
}

/// The pool's metadata for `thin_restore`: one thin volume, the old root.
pub(crate) fn thin(layout: &Layout) -> String {
    let pieces = extents(&layout.pool().runs) * (EXTENT / CHUNK);
    let mapped: u64 = layout.maps.iter().map(|map| map.len).sum();
    let mut out = format!(
        "<superblock uuid=\"\" time=\"0\" transaction=\"1\" flags=\"0\" version=\"2\" data_block_size=\"{}\" \
         nr_data_blocks=\"{pieces}\">\n<device dev_id=\"1\" mapped_blocks=\"{mapped}\" transaction=\"0\" \
         creation_time=\"0\" snap_time=\"0\">\n",
        CHUNK / SECTOR
    );
    for map in &layout.maps {
        let _ = writeln!(
            out,
            "<range_mapping origin_begin=\"{}\" data_begin=\"{}\" length=\"{}\" time=\"0\"/>",
            map.origin, map.data, map.len
        );
    }
    out.push_str("</device>\n</superblock>\n");
    out
}

/// A device-mapper table of one linear volume on `disk`, which holds the physical volume from sector `begin` on.
pub(crate) fn linear_table(volume: &Volume, disk: &str, begin: u64) -> String {
    let mut at = 0;
    let mut out = String::new();
    for run in &volume.runs {
        let sectors = (run.end - run.start) * EXTENT / SECTOR;
        let place = begin + (HEAD + run.start * EXTENT) / SECTOR;
        let _ = writeln!(out, "{at} {sectors} linear {disk} {place}");
        at += sectors;
    }
    out
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;

    use super::*;
    use crate::convert::dump::{BLOCK, Dump};
    use crate::convert::layout::{Wish, plan};
    use crate::process::output;

    fn layout(partition: u64) -> Layout {
        let blocks = partition / BLOCK;
        let free = vec![40_000..90_000, 90_500..blocks];
        let dump = Dump { blocks, free, features: vec![], state: "clean".into() };
        plan(&dump, &Wish { partition, root_least: 300 << 20, state_used: 0, apps_used: 0 }).unwrap()
    }

    fn ids() -> impl FnMut() -> String {
        let mut number = 0;
        move || {
            number += 1;
            format!("bRamb1-0000-0000-0000-0000-0000-{number:06}")
        }
    }

    #[test]
    fn lvm_reads_it_where_it_is_there() {
        let root = nix::unistd::geteuid().is_root();
        if !root || !Path::new("/usr/sbin/lvm").exists() || !Path::new("/dev/loop-control").exists() {
            eprintln!("no lvm, no loop devices, or not root: LVM was not asked");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("pv.img");
        let partition = 3_u64 << 30;
        let layout = layout(partition);
        let size = partition - layout.begin * CHUNK;
        let file = File::create(&image).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(&head(&layout, size / SECTOR, &mut ids()).unwrap(), 0).unwrap();
        let image = image.to_str().unwrap();
        let held = output(Path::new("/sbin/losetup"), &["-f", "--show", image]).unwrap();
        let held = held.trim();
        let config = format!(
            "devices{{filter=[\"a|^{held}$|\",\"r|.*|\"] use_devicesfile=0}} global{{activation=0}} backup{{backup=0 archive=0}}"
        );
        let ask = |args: &[&str]| output(Path::new("/usr/sbin/lvm"), &[args, &["--config", config.as_str()]].concat());
        let checked = ask(&["vgck", GROUP]);
        let seen = ask(&["lvs", "-a", "--noheadings", "-o", "lv_name,lv_size,segtype", "--units", "m", GROUP]);
        // A torn text makes LVM say something in the midst of a report.
        file.write_all_at(&[0; 64], 4608).unwrap();
        let reports = ["lvs", "pvs", "vgs"].map(|report| ask(&[report, "--reportformat", "json"]));
        output(Path::new("/sbin/losetup"), &["-d", held]).unwrap();
        checked.unwrap();
        for report in reports {
            serde_json::from_str::<serde_json::Value>(&report.unwrap()).unwrap();
        }
        let seen = seen.unwrap();
        for name in [OLD, "pool", "[pool_tdata]", "[pool_tmeta]", "[lvol0_pmspare]", "state", "apps"] {
            assert!(seen.split_whitespace().any(|word| word == name), "{name} in {seen}");
        }
    }
}
