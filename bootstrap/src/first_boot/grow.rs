//! Reads the sizes of a device's volumes, and makes them what they should be.
//!
//! Decides how sizes are read and which program does a step. What they should be is `sizes`'.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::sizes::{Room, Sizes, Step, plan};
use crate::process::{output, output_of};

const GROUP: &str = "vg0";
const LVM: &str = "/usr/sbin/lvm";
const SECTOR: u64 = 512;
/// A plan that is not fulfilled after this many turns never will be.
const TURNS_MAX: usize = 3;
/// As programs read it: bytes, in JSON.
const REPORT: &[&str] = &["--reportformat", "json", "--units", "b", "--nosuffix"];
const VOLUMES: &[&str] = &["lvs", "-a", "-o", "lv_name,lv_size,lv_metadata_size,vg_extent_size,vg_free", GROUP];
const PHYSICAL: &[&str] = &["pvs", "-o", "pv_name,pv_size,dev_size,pe_start", "-S", "vg_name=vg0"];

/// The device that holds the volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    /// Of the physical volume.
    device: PathBuf,
    /// The disk and the number of the partition, where it is one.
    partition: Option<(PathBuf, u32)>,
}

/// Grows everything. `tell` hears a line per step; says whether anything was done.
pub(crate) fn run(tell: &mut dyn FnMut(String)) -> anyhow::Result<bool> {
    let mut grew = false;
    for _ in 0..TURNS_MAX {
        let (holder, have) = observe().context("the sizes of the volumes cannot be read")?;
        let steps = plan(&have);
        if steps.is_empty() {
            return Ok(grew);
        }
        for step in steps {
            perform(step, &holder).with_context(|| format!("cannot grow {step}"))?;
            tell(format!("grew       {step}"));
            grew = true;
        }
    }
    let (_, have) = observe()?;
    let left: Vec<String> = plan(&have).iter().map(Step::to_string).collect();
    ensure!(left.is_empty(), "these do not become as big as they should: {}", left.join("; "));
    Ok(grew)
}

fn perform(step: Step, holder: &Holder) -> anyhow::Result<()> {
    let lvm = |args: &[&str]| output(Path::new(LVM), args).map(drop);
    let to = |bytes: u64| format!("{bytes}b");
    let volume = |name: &str| format!("{GROUP}/{name}");
    let files = |name: &str| output(Path::new("/usr/sbin/resize2fs"), &[&format!("/dev/{GROUP}/{name}")]).map(drop);
    match step {
        Step::Partition => grow_partition(holder),
        Step::Physical => lvm(&["pvresize", &holder.device.display().to_string()]),
        Step::PoolMeta(size) => lvm(&["lvextend", "--poolmetadatasize", &to(size), &volume("pool")]),
        Step::Pool(size) => lvm(&["lvextend", "-L", &to(size), &volume("pool")]),
        Step::Root(size) => lvm(&["lvextend", "-L", &to(size), &volume("root")]),
        Step::RootFiles => files("root"),
        Step::Apps(size) => lvm(&["lvextend", "-L", &to(size), &volume("apps")]),
        Step::AppsFiles => files("apps"),
    }
}

/// The table is one sector: it is the old one or the new one. The kernel is told of this partition only, as others are in use.
fn grow_partition(holder: &Holder) -> anyhow::Result<()> {
    let (disk, number) = holder.partition.as_ref().context("it is no partition")?;
    let (disk, number) = (disk.display().to_string(), number.to_string());
    let sfdisk = ["--no-reread", "--no-tell-kernel", "--quiet", "-N", &number, &disk];
    output_of(Path::new("/usr/sbin/sfdisk"), &sfdisk, ", +\n")?;
    output(Path::new("/usr/bin/partx"), &["--update", "--nr", &number, &disk]).map(drop)
}

fn observe() -> anyhow::Result<(Holder, Sizes)> {
    let report = |what: &[&str]| output(Path::new(LVM), &[&what[..1], REPORT, &what[1..]].concat());
    let physical = physical(&report(PHYSICAL)?)?;
    let volumes = report(VOLUMES)?;
    let (holder, room) = place(&physical.device, Path::new("/sys/class/block"))?;
    let files = |name: &str| file_system(&PathBuf::from(format!("/dev/{GROUP}/{name}")));
    let have = sizes(&volumes, &physical, room, files("root")?, files("apps")?)?;
    Ok((holder, have))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Physical {
    device: PathBuf,
    size: u64,
    device_size: u64,
    extents_at: u64,
}

/// A row of a report of LVM: everything is text.
type Row = serde_json::Map<String, serde_json::Value>;

fn rows(printed: &str, kind: &str) -> anyhow::Result<Vec<Row>> {
    let report: serde_json::Value = serde_json::from_str(printed).context("LVM said something else")?;
    let all = report["report"].as_array().into_iter().flatten().filter_map(|part| part[kind].as_array()).flatten();
    Ok(all.filter_map(|row| row.as_object().cloned()).collect())
}

fn text<'a>(row: &'a Row, name: &str) -> anyhow::Result<&'a str> {
    row.get(name).and_then(|value| value.as_str()).with_context(|| format!("LVM does not say {name}"))
}

fn bytes(row: &Row, name: &str) -> anyhow::Result<u64> {
    let text = text(row, name)?;
    text.parse().with_context(|| format!("LVM says {name} is {text:?}"))
}

fn physical(printed: &str) -> anyhow::Result<Physical> {
    let rows = rows(printed, "pv")?;
    ensure!(rows.len() == 1, "the group {GROUP} lies on {} devices, and one is what this program grows", rows.len());
    let row = &rows[0];
    Ok(Physical {
        device: text(row, "pv_name")?.into(),
        size: bytes(row, "pv_size")?,
        device_size: bytes(row, "dev_size")?,
        extents_at: bytes(row, "pe_start")?,
    })
}

fn sizes(
    printed: &str,
    physical: &Physical,
    room: Option<Room>,
    root_files: u64,
    apps_files: u64,
) -> anyhow::Result<Sizes> {
    let rows = rows(printed, "lv")?;
    let named = |name: &str| {
        let found = rows.iter().find(|row| row.get("lv_name").and_then(|value| value.as_str()) == Some(name));
        found.with_context(|| format!("the group {GROUP} has no volume {name}"))
    };
    let (pool, root, apps) = (named("pool")?, named("root")?, named("apps")?);
    Ok(Sizes {
        room,
        device: physical.device_size,
        extents_at: physical.extents_at,
        physical: physical.size,
        extent: bytes(pool, "vg_extent_size")?,
        free: bytes(pool, "vg_free")?,
        pool: bytes(pool, "lv_size")?,
        pool_meta: bytes(pool, "lv_metadata_size")?,
        root: bytes(root, "lv_size")?,
        root_files,
        apps: bytes(apps, "lv_size")?,
        apps_files,
    })
}

/// Where a device lies, by the kernel's word: which disk, which partition, and whether it can grow.
fn place(device: &Path, class: &Path) -> anyhow::Result<(Holder, Option<Room>)> {
    let real = fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
    let name = real.file_name().context("LVM names no device")?;
    let folder =
        fs::canonicalize(class.join(name)).with_context(|| format!("the kernel knows no {}", real.display()))?;
    let number =
        |folder: &Path, file: &str| -> Option<u64> { fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok() };
    let alone = Holder { device: real.clone(), partition: None };
    let Some(partition) = number(&folder, "partition") else { return Ok((alone, None)) };
    let disk = folder.parent().context("a partition lies on a disk")?;
    let start = number(&folder, "start").context("the kernel does not say where the partition begins")?;
    let others = fs::read_dir(disk)?.filter_map(Result::ok).filter_map(|entry| number(&entry.path(), "start"));
    let is_last = others.max() == Some(start);
    let size = number(disk, "size").context("the kernel does not say how big the disk is")?;
    let disk_name = disk.file_name().context("a disk has a name")?;
    let at = real.parent().unwrap_or(Path::new("/dev")).join(disk_name);
    let holder = Holder { device: real, partition: Some((at, u32::try_from(partition)?)) };
    Ok((holder, is_last.then_some(Room { disk: size * SECTOR, start: start * SECTOR })))
}

/// The size of an ext4 file system, by its superblock.
fn file_system(device: &Path) -> anyhow::Result<u64> {
    let mut block = [0; 1024];
    let read = || -> std::io::Result<()> {
        let mut file = File::open(device)?;
        file.seek(SeekFrom::Start(1024))?;
        file.read_exact(&mut block)
    };
    let mut read = read;
    read().with_context(|| format!("cannot read {}", device.display()))?;
    ext4_bytes(&block).with_context(|| format!("{} has no ext4 file system", device.display()))
}

fn ext4_bytes(block: &[u8; 1024]) -> Option<u64> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?)) };
    let magic = u16::from_le_bytes(block.get(0x38..0x3a)?.try_into().ok()?);
    // 64-bit file systems have an upper half.
    let upper = if word(0x60)? & 0x80 != 0 { word(0x150)? } else { 0 };
    let blocks = (u64::from(upper) << 32) | u64::from(word(0x4)?);
    let log = word(0x18)?;
    (magic == 0xEF53 && log <= 6).then(|| blocks.saturating_mul(1024 << log))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(partitions: &[(&str, u64, u64)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let vda = dir.path().join("devices/vda");
        for (number, (name, start, size)) in partitions.iter().enumerate() {
            let folder = vda.join(name);
            fs::create_dir_all(&folder).unwrap();
            for (file, value) in [("partition", number as u64 + 1), ("start", *start), ("size", *size)] {
                fs::write(folder.join(file), format!("{value}\n")).unwrap();
            }
            std::os::unix::fs::symlink(&folder, dir.path().join(name)).unwrap();
        }
        fs::write(vda.join("size"), "62333952\n").unwrap();
        std::os::unix::fs::symlink(&vda, dir.path().join("vda")).unwrap();
        dir
    }

    #[test]
    fn only_the_last_partition_has_room() {
        let dir = disk(&[("vda1", 2048, 131_072), ("vda2", 133_120, 524_288)]);
        let (holder, room) = place(Path::new("/dev/vda2"), dir.path()).unwrap();
        assert_eq!(holder.partition, Some(("/dev/vda".into(), 2)));
        assert_eq!(room, Some(Room { disk: 62_333_952 * 512, start: 133_120 * 512 }));
        assert_eq!(place(Path::new("/dev/vda1"), dir.path()).unwrap().1, None);
        assert_eq!(place(Path::new("/dev/vda"), dir.path()).unwrap().0.partition, None);
        assert!(place(Path::new("/dev/vdb"), dir.path()).is_err());
    }

    /// As printed by LVM 2.03.31, of Debian 13, on a virtual Pi that has grown to a disk of 8 GiB.
    #[test]
    fn captured_reports() {
        let holder = physical(include_str!("captured/pvs.json")).unwrap();
        assert_eq!((holder.device.as_path(), holder.extents_at), (Path::new("/dev/vda4"), 4 * MIB));
        let have = |room, files: u64, apps: u64| {
            sizes(include_str!("captured/lvs.json"), &holder, room, files * MIB, apps * MIB).unwrap()
        };
        let room = Room { disk: 8 << 30, start: 580 * MIB };
        let grown = have(Some(room), 1520, 4120);
        assert_eq!((grown.extent, grown.free, grown.pool_meta), (4 * MIB, 64 * MIB, 64 * MIB));
        assert_eq!((grown.root, grown.pool, grown.apps), (1520 * MIB, 3040 * MIB, 4120 * MIB));
        assert_eq!(plan(&grown), []);
        assert_eq!(plan(&have(None, 1024, 512)), [Step::RootFiles, Step::AppsFiles]);
        let bigger = Room { disk: 16 << 30, ..room };
        assert_eq!(plan(&have(Some(bigger), 1520, 4120)).first(), Some(&Step::Partition));
    }

    #[test]
    fn reports_that_do_not_fit_are_errors() {
        assert!(physical("").is_err());
        assert!(physical(r#"{"report":[{"pv":[]}]}"#).unwrap_err().to_string().contains("0 devices"));
        let nothing = Physical { device: "/dev/vda4".into(), size: 0, device_size: 0, extents_at: 0 };
        let none = sizes(r#"{"report":[{"lv":[]}]}"#, &nothing, None, 0, 0).unwrap_err();
        assert!(none.to_string().contains("no volume pool"), "{none}");
    }

    #[test]
    fn a_superblock_says_how_big_its_file_system_is() {
        let mut block = [0; 1024];
        assert_eq!(ext4_bytes(&block), None);
        block[0x38..0x3a].copy_from_slice(&0xEF53_u16.to_le_bytes());
        block[0x4..0x8].copy_from_slice(&1000_u32.to_le_bytes());
        block[0x18..0x1c].copy_from_slice(&2_u32.to_le_bytes());
        assert_eq!(ext4_bytes(&block), Some(4_096_000));
        block[0x150..0x154].copy_from_slice(&1_u32.to_le_bytes());
        assert_eq!(ext4_bytes(&block), Some(4_096_000), "the upper half means nothing without its flag");
        block[0x60..0x64].copy_from_slice(&0x80_u32.to_le_bytes());
        assert_eq!(ext4_bytes(&block), Some(4096 * ((1 << 32) + 1000)));
    }
}
