//! A layout in the words of LVM and of the thin tools: the physical volume's head with the group's metadata, the
//! pool's XML, tables of device-mapper. Bytes and text; writes nothing.
//!
//! The head is made here and not by `pvcreate`, which would look for old signatures on the whole volume and wipe what it
//! takes for one: that is the old root's data.

use std::fmt::Write as _;
use std::ops::Range;

use anyhow::ensure;

use super::layout::{CHUNK, EXTENT, HEAD, Layout, Volume};
use super::table::SECTOR;

/// The volume group.
pub(crate) const GROUP: &str = "vg0";
/// The old root's volume, as long as there is one.
pub(crate) const OLD: &str = "root_preconvert";

const SECTOR_BYTES: usize = SECTOR as usize;
const AREA: usize = 4096;
const AREA_MAGIC: &[u8; 16] = b"\x20LVM2\x20x[5A%r0N*>";

/// Makes identifiers: 32 letters and digits, in groups as LVM prints them.
pub(crate) type Ids<'a> = &'a mut dyn FnMut() -> String;

/// The head of a physical volume of `sectors`, with the whole group in it.
///
/// # Errors
/// The group's text leaves LVM no room to write the next one: the old root's free space is in too many pieces.
pub(crate) fn head(layout: &Layout, sectors: u64, ids: Ids<'_>) -> anyhow::Result<Vec<u8>> {
    let physical = ids();
    let mut text = group(layout, sectors, &physical, ids).into_bytes();
    text.push(0);
    let most = HEAD / 2 - 4 * SECTOR;
    ensure!(text.len() as u64 <= most, "free space is in too many pieces: {} bytes of metadata", text.len());
    let mut out = vec![0; HEAD as usize];
    out[SECTOR_BYTES..2 * SECTOR_BYTES].copy_from_slice(&label(&physical, sectors * SECTOR));
    out[AREA..AREA + SECTOR_BYTES].copy_from_slice(&area(&text));
    out[AREA + SECTOR_BYTES..AREA + SECTOR_BYTES + text.len()].copy_from_slice(&text);
    Ok(out)
}

/// The second sector: what this is, how large, and where data and metadata lie.
fn label(physical: &str, bytes: u64) -> [u8; SECTOR_BYTES] {
    let mut body = vec![];
    body.extend_from_slice(&32_u32.to_le_bytes());
    body.extend_from_slice(b"LVM2 001");
    body.extend(physical.bytes().filter(|byte| *byte != b'-'));
    let area = [AREA as u64, HEAD - AREA as u64];
    for number in [bytes, HEAD, 0, 0, 0, area[0], area[1], 0, 0] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    // An extension: version 2, "in use"; no area for a boot loader.
    body.extend_from_slice(&2_u32.to_le_bytes());
    body.extend_from_slice(&1_u32.to_le_bytes());
    body.resize(SECTOR_BYTES - 20, 0);
    let mut out = [0; SECTOR_BYTES];
    out[..8].copy_from_slice(b"LABELONE");
    out[8..16].copy_from_slice(&1_u64.to_le_bytes());
    out[16..20].copy_from_slice(&sum(&body).to_le_bytes());
    out[20..].copy_from_slice(&body);
    out
}

/// The metadata area's first sector: where its text lies.
fn area(text: &[u8]) -> [u8; SECTOR_BYTES] {
    let mut body = vec![];
    body.extend_from_slice(AREA_MAGIC);
    body.extend_from_slice(&1_u32.to_le_bytes());
    for number in [AREA as u64, HEAD - AREA as u64, SECTOR, text.len() as u64] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body.extend_from_slice(&sum(text).to_le_bytes());
    body.resize(SECTOR_BYTES - 4, 0);
    let mut out = [0; SECTOR_BYTES];
    out[..4].copy_from_slice(&sum(&body).to_le_bytes());
    out[4..].copy_from_slice(&body);
    out
}

/// LVM's own CRC-32: another beginning, and no end.
fn sum(bytes: &[u8]) -> u32 {
    let shift = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    bytes.iter().fold(0xf597_a6cf, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| shift(sum)))
}

/// As LVM writes it, line by line: its quick look at a group goes by lines, and begins again behind the one that ends it.
fn group(layout: &Layout, sectors: u64, physical: &str, ids: Ids<'_>) -> String {
    let mut out = format!(
        "{GROUP} {{\nid = \"{}\"\nseqno = 1\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nflags = []\n\
         extent_size = {}\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n\nphysical_volumes {{\n\npv0 {{\n\
         id = \"{physical}\"\ndevice = \"/dev/none\"\n\nstatus = [\"ALLOCATABLE\"]\nflags = []\ndev_size = {sectors}\n\
         pe_start = {}\npe_count = {}\n}}\n}}\n\nlogical_volumes {{\n",
        ids(),
        EXTENT / SECTOR,
        HEAD / SECTOR,
        layout.extents
    );
    let old = format!(
        "segment1 {{\nstart_extent = 0\nextent_count = {}\n\ntype = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 0\n\
         device_id = 1\n}}\n",
        layout.old_extents
    );
    let pool = format!(
        "segment1 {{\nstart_extent = 0\nextent_count = {}\n\ntype = \"thin-pool\"\nmetadata = \"pool_tmeta\"\n\
         pool = \"pool_tdata\"\ntransaction_id = 1\nchunk_size = {}\ndiscards = \"nopassdown\"\nzero_new_blocks = 0\n}}\n",
        extents(&layout.pool().runs),
        CHUNK / SECTOR
    );
    volume(&mut out, OLD, "[\"READ\", \"VISIBLE\"]", &[old], ids);
    volume(&mut out, "pool", "[\"READ\", \"WRITE\", \"VISIBLE\"]", &[pool], ids);
    for Volume { name, runs } in &layout.volumes {
        let visible = matches!(*name, "state" | "apps");
        let status = if visible { "[\"READ\", \"WRITE\", \"VISIBLE\"]" } else { "[\"READ\", \"WRITE\"]" };
        volume(&mut out, name, status, &linear(runs), ids);
    }
    out.push_str(
        "}\n\n}\n# Made by bramble-bootstrap convert\n\ncontents = \"Text Format Volume Group\"\nversion = 1\n\n\
         description = \"bramble-bootstrap convert\"\n\ncreation_host = \"bramble\"\ncreation_time = 1700000000\n\n",
    );
    out
}

fn volume(out: &mut String, name: &str, status: &str, segments: &[String], ids: Ids<'_>) {
    let id = ids();
    let count = segments.len();
    let text = segments.join("\n");
    let _ = write!(
        out,
        "\n{name} {{\nid = \"{id}\"\nstatus = {status}\nflags = []\ncreation_time = 1700000000\n\
         creation_host = \"bramble\"\nsegment_count = {count}\n\n{text}}}\n"
    );
}

fn linear(runs: &[Range<u64>]) -> Vec<String> {
    let mut start = 0;
    let segment = |(at, run): (usize, &Range<u64>)| {
        let len = run.end - run.start;
        let text = format!(
            "segment{} {{\nstart_extent = {start}\nextent_count = {len}\n\ntype = \"striped\"\nstripe_count = 1\n\n\
             stripes = [\n\"pv0\", {}\n]\n}}\n",
            at + 1,
            run.start
        );
        start += len;
        text
    };
    runs.iter().enumerate().map(segment).collect()
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
    fn the_head_is_as_lvm_writes_it() {
        let bytes = head(&layout(3 << 30), 6_000_000, &mut ids()).unwrap();
        assert_eq!(bytes.len() as u64, HEAD);
        assert_eq!(&bytes[512..520], b"LABELONE");
        assert!(bytes[..512].iter().all(|byte| *byte == 0));
        assert_eq!(&bytes[4100..4116], AREA_MAGIC);
        // LVM 2.03.31 looks for the line that ends the group, and reads on behind it.
        let text = String::from_utf8_lossy(&bytes[4608..]);
        assert!(text.contains("\n}\n\n}\n# ") && !text.contains("} }"), "{text}");
        assert_eq!(sum(b""), 0xf597_a6cf);
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
        output(Path::new("/sbin/losetup"), &["-d", held]).unwrap();
        checked.unwrap();
        let seen = seen.unwrap();
        for name in [OLD, "pool", "[pool_tdata]", "[pool_tmeta]", "[lvol0_pmspare]", "state", "apps"] {
            assert!(seen.split_whitespace().any(|word| word == name), "{name} in {seen}");
        }
    }
}
