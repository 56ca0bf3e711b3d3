//! Performs the steps of making the new root, in the initramfs, while nothing is mounted.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::compare;
use super::dump;
use super::layout::{self, CHUNK, EXTENT, Layout, Wish};
use super::lvmtext::{self, GROUP, OLD};
use super::machine::{Build, Made};
use super::place::{self, Devices, Place};
use super::table::{Entry, SECTOR};
use super::tools::{appears, check, ends, lvm_only, run};

/// Where the initramfs mounts things and keeps texts for the tools.
pub(crate) const WORK: &str = "/run/bramble-convert";
const PHYSICAL: &str = "bramble-pv";
const METADATA: &str = "bramble-tmeta";
const BEFORE: &str = "bramble-old";
const NEW_ROOT: &str = "/dev/vg0/root";
/// Features that the shrinking or the comparing cannot stand.
const NOT_THESE: [&str; 4] = ["bigalloc", "encrypt", "journal_dev", "inline_data"];

/// What is known while one attempt goes on.
pub(crate) struct Builder<'a> {
    place: &'a Place,
    devices: &'a Devices,
    layout: Option<Layout>,
}

impl<'a> Builder<'a> {
    /// Nothing done yet.
    pub(crate) const fn new(place: &'a Place, devices: &'a Devices) -> Self {
        Self { place, devices, layout: None }
    }

    /// Performs one step. The last one gives what was made.
    ///
    /// # Errors
    /// It cannot be done; nothing that the old file system holds was written.
    pub(crate) fn perform(&mut self, build: Build) -> anyhow::Result<Option<Made>> {
        match build {
            Build::Check => check(self.root()?, "-p")?,
            Build::Plan => self.layout = Some(self.plan()?),
            Build::Copy => self.copy()?,
            Build::Thin => self.thin()?,
            Build::Volumes => self.volumes()?,
            Build::Snapshot => {
                let old = format!("{GROUP}/{OLD}");
                lvm_only(&["lvcreate", "-q", "-y", "-kn", "-prw", "-s", "-n", "root", &old])?;
                appears(Path::new(NEW_ROOT), 30)?;
            }
            Build::Shrink => self.shrink()?,
            Build::Compare => self.compare()?,
            Build::Dress => self.dress()?,
            Build::Seal => return self.seal().map(Some),
        }
        Ok(None)
    }

    fn root(&self) -> anyhow::Result<&str> {
        self.devices.root.to_str().context("a device's name")
    }

    fn laid(&self) -> anyhow::Result<&Layout> {
        self.layout.as_ref().context("nothing is planned yet")
    }

    /// The old root's entry.
    fn entry(&self) -> anyhow::Result<Entry> {
        let entry = place::read_mbr(&self.devices.disk)?.entry(self.place.root);
        ensure!(entry.hex() == self.place.entry, "the partition table changed");
        Ok(entry)
    }

    fn plan(&self) -> anyhow::Result<Layout> {
        let root = self.root()?;
        let dump = dump::parse_unmounted(&run(&["dumpe2fs", root])?)?;
        fit(&dump)?;
        ensure!(dump.state == "clean", "the root file system is {:?}", dump.state);
        let root_least = dump::least(&run(&["resize2fs", "-P", root])?)?;
        let [state_used, apps_used] = self.place.used;
        let wish = Wish { partition: self.entry()?.sectors() * SECTOR, root_least, state_used, apps_used };
        layout::plan(&dump, &wish).map_err(|why| anyhow::anyhow!("{why}"))
    }

    fn copy(&self) -> anyhow::Result<()> {
        let disk = File::options().read(true).write(true).open(&self.devices.root).context("the root's partition")?;
        let mut piece = vec![0; usize::try_from(CHUNK).context("a piece")?];
        for step in &self.laid()?.moves {
            let held = disk.read_at(&mut piece, step.from * CHUNK)?;
            ensure!(held > 0, "piece {} lies behind the partition", step.from);
            disk.write_all_at(&piece[..held], step.to * CHUNK)?;
        }
        disk.sync_all().context("the card does not take what was copied")
    }

    fn thin(&self) -> anyhow::Result<()> {
        run(&["modprobe", "-a", "dm-mod", "dm-thin-pool"])?;
        let layout = self.laid()?;
        let begin = layout.begin * CHUNK / SECTOR;
        map(METADATA, &lvmtext::linear_table(layout.metadata(), self.root()?, begin))?;
        let (xml, device) = (format!("{WORK}/thin.xml"), format!("/dev/mapper/{METADATA}"));
        fs::write(&xml, lvmtext::thin(layout)).with_context(|| xml.clone())?;
        run(&["thin_restore", "-q", "-i", &xml, "-o", &device])?;
        run(&["thin_check", "-q", &device])?;
        fs::remove_file(&xml).with_context(|| xml.clone())?;
        run(&["dmsetup", "remove", "--retry", METADATA]).map(|_| ())
    }

    fn volumes(&self) -> anyhow::Result<()> {
        let layout = self.laid()?;
        let begin = layout.begin * CHUNK / SECTOR;
        let sectors = self.entry()?.sectors() - begin;
        let mut random = [0; 32 * 16];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).context("/dev/urandom")?;
        let mut random = random.chunks(32);
        let head = lvmtext::head(layout, sectors, &mut || identifier(random.next().unwrap_or_default()))?;
        let disk = File::options().write(true).open(&self.devices.root).context("the root's partition")?;
        disk.write_all_at(&head, begin * SECTOR).and_then(|()| disk.sync_all()).context("the volume group")?;
        map(PHYSICAL, &format!("0 {sectors} linear {} {begin}\n", self.root()?))?;
        appears(Path::new("/dev/mapper").join(PHYSICAL).as_path(), 30)?;
        lvm_only(&["vgchange", "-q", "-ay", GROUP]).map(|_| ())
    }

    fn shrink(&self) -> anyhow::Result<()> {
        let bytes = self.laid()?.root_extents * EXTENT;
        check(NEW_ROOT, "-y")?;
        run(&["resize2fs", "-f", NEW_ROOT, &(bytes / dump::BLOCK).to_string()])?;
        check(NEW_ROOT, "-n")?;
        // What lies behind the end would stay in the pool for ever. A pool that cannot discard keeps it, no harm done.
        let _ = run(&["blkdiscard", "-o", &bytes.to_string(), NEW_ROOT]);
        let extents = self.laid()?.root_extents.to_string();
        lvm_only(&["lvreduce", "-q", "-f", "-y", "-l", &extents, &format!("{GROUP}/root")]).map(|_| ())
    }

    fn compare(&self) -> anyhow::Result<()> {
        let sectors = self.entry()?.sectors();
        map(BEFORE, &format!("0 {sectors} linear {} 0\n", self.root()?))?;
        let (old, new) = (folder("old")?, folder("new")?);
        let device = format!("/dev/mapper/{BEFORE}");
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME;
        mount(Some(device.as_str()), &old, Some("ext4"), flags, Some("noload")).context("mounting the old root")?;
        mount(Some(NEW_ROOT), &new, Some("ext4"), flags, None::<&str>).context("mounting the new root")?;
        let counted = compare::trees(&old, &new);
        unmount(&new);
        unmount(&old);
        run(&["dmsetup", "remove", "--retry", BEFORE])?;
        let counted = counted.context("the new root is not the old one")?;
        say(&format!("compared {} files and folders, {} MiB", counted.entries, counted.bytes >> 20));
        Ok(())
    }

    fn dress(&self) -> anyhow::Result<()> {
        let new = folder("new")?;
        mount(Some(NEW_ROOT), &new, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)
            .context("mounting the new root")?;
        let this = std::env::current_exe().context("this program")?;
        let done = inside(&new, &this);
        for below in ["run", "proc", "dev"] {
            unmount(&new.join(below));
        }
        unmount(&new);
        done?;
        check(NEW_ROOT, "-n")
    }

    fn seal(&self) -> anyhow::Result<Made> {
        release();
        nix::unistd::sync();
        let disk = File::options().write(true).open(&self.devices.root).context("the root's partition")?;
        disk.sync_all().context("the card does not take what was written")?;
        let old = self.entry()?;
        let begin = self.laid()?.begin * CHUNK / SECTOR;
        let new = Entry::lvm(old.start() + begin, old.sectors() - begin)?;
        Ok(Made { old_entry: old.hex(), new_entry: new.hex(), print: place::print(&self.devices.root)? })
    }
}

/// Refuses file systems with features that do not go.
///
/// # Errors
/// Names the feature.
pub(crate) fn fit(dump: &dump::Dump) -> anyhow::Result<()> {
    let odd = NOT_THESE.iter().find(|odd| dump.features.iter().any(|held| held == *odd));
    ensure!(odd.is_none(), "the root file system uses {:?}, which is not converted", odd.unwrap_or(&""));
    Ok(())
}

/// Lets everything go, as far as it goes: nothing of it may be there when the old root is mounted.
pub(crate) fn release() {
    for below in ["new/run", "new/proc", "new/dev", "new", "old"] {
        unmount(&Path::new(WORK).join(below));
    }
    if Path::new("/dev/mapper").join(PHYSICAL).exists() {
        let _ = lvm_only(&["vgchange", "-q", "-an", GROUP]);
    }
    for name in [PHYSICAL, METADATA, BEFORE] {
        if Path::new("/dev/mapper").join(name).exists() {
            let _ = run(&["dmsetup", "remove", "--retry", name]);
        }
    }
}

/// A line for who looks at the console.
pub(crate) fn say(line: &str) {
    let _ = fs::write("/dev/kmsg", format!("<5>bramble-convert: {line}\n"));
    println!("bramble-convert: {line}");
}

fn inside(new: &Path, this: &Path) -> anyhow::Result<()> {
    for below in ["dev", "proc"] {
        let (from, to) = (Path::new("/").join(below), new.join(below));
        mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("{}", to.display()))?;
    }
    let run_folder = new.join("run");
    mount(Some("tmpfs"), &run_folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .context("a /run for the new root")?;
    let (this, new) = (this.to_str().context("this program")?, new.to_str().context("a folder")?);
    let said = ends(&[this, "convert", "--inside", new], &[0])?;
    said.lines().for_each(say);
    Ok(())
}

fn map(name: &str, table: &str) -> anyhow::Result<()> {
    let file = format!("{WORK}/{name}.table");
    fs::write(&file, table).with_context(|| file.clone())?;
    run(&["dmsetup", "create", name, &file])?;
    appears(&Path::new("/dev/mapper").join(name), 30)
}

fn folder(name: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(WORK).join(name);
    fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}

fn unmount(path: &Path) {
    let _ = umount2(path, MntFlags::empty());
}

/// Letters and digits, in groups as LVM writes them.
fn identifier(random: &[u8]) -> String {
    const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let letter = |byte: &u8| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]);
    let letters: String = random.iter().map(letter).collect();
    let mut at = 0;
    let group = |len: &usize| {
        let part = letters.get(at..at + len).unwrap_or_default().to_owned();
        at += len;
        part
    };
    [6, 4, 4, 4, 4, 4, 6].iter().map(group).collect::<Vec<_>>().join("-")
}
