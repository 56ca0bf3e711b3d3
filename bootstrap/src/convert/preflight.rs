//! What can be converted, what cannot and why: everything is looked at first, and all refusals are said at once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::build::fit;
use super::dump::{self, Dump};
use super::guard;
use super::layout::{self, EXTENT, Layout, Wish};
use super::lvmtext::GROUP;
use super::place::{Place, disk_of, read_mbr};
use super::table::{Entry, SECTOR};
use super::texts::{self, MOUNTS};
use super::tools::run;

/// Programs that the initramfs needs or that build it, and the packages that bring them.
const PROGRAMS: [(&str, &str); 12] = [
    ("lvm", "lvm2"),
    ("dmsetup", "dmsetup"),
    ("thin_restore", "thin-provisioning-tools"),
    ("thin_check", "thin-provisioning-tools"),
    ("e2fsck", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
    ("dumpe2fs", "e2fsprogs"),
    ("mke2fs", "e2fsprogs"),
    ("update-initramfs", "initramfs-tools"),
    ("lsinitramfs", "initramfs-tools-core"),
    ("findmnt", "util-linux"),
    ("partx", "util-linux"),
];
const MODULES: [&str; 3] = ["dm-mod", "dm-thin-pool", "vfat"];
/// What an initramfs with the tools may grow by, twice, in bytes.
const BOOT_FREE: u64 = 48 << 20;

/// The machine as it was found. What could not be found out has its reason instead.
pub(crate) struct Found {
    /// What holds root: `/dev/…`.
    pub(crate) root: Result<Root, String>,
    /// The boot partition.
    pub(crate) boot: Result<Boot, String>,
    /// Missing packages.
    pub(crate) packages: Vec<String>,
    /// Missing kernel modules.
    pub(crate) modules: Vec<String>,
    /// The boot guard's program is there.
    pub(crate) guard: bool,
    /// Volume groups.
    pub(crate) groups: Vec<String>,
    /// Power.
    pub(crate) power: Power,
    /// Bytes below each of the two folders that get volumes of their own.
    pub(crate) used: [u64; 2],
    /// Of the two folders, those that are mounts already.
    pub(crate) mounted: Vec<String>,
}

/// What is mounted as root.
pub(crate) enum Root {
    /// A volume already.
    Volume,
    /// A plain partition.
    Partition(Box<Partition>),
}

/// A root on a partition of an MBR.
pub(crate) struct Partition {
    /// Its number.
    pub(crate) number: usize,
    /// Its entry.
    pub(crate) entry: Entry,
    /// The disk's signature.
    pub(crate) disk: String,
    /// The disk.
    pub(crate) device: PathBuf,
    /// Its file system.
    pub(crate) dump: Dump,
    /// The least that it can be shrunk to, in bytes.
    pub(crate) least: u64,
}

/// The boot partition.
pub(crate) struct Boot {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Its number.
    pub(crate) number: usize,
    /// Its disk.
    pub(crate) device: PathBuf,
    /// Free bytes.
    pub(crate) free: u64,
    /// `config.txt`, if there is one.
    pub(crate) config: Option<String>,
    /// `cmdline.txt`, if there is one.
    pub(crate) cmdline: Option<String>,
}

/// Power, as far as the machine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// Seen to be too low.
    Low,
    /// A battery that is being emptied.
    Battery,
    /// Seen to be right.
    Good,
    /// The machine cannot tell.
    Unknown,
}

/// The judgement.
pub(crate) enum Verdict {
    /// Root is a volume.
    NothingToDo,
    /// All the reasons.
    Refused(Vec<String>),
    /// It can be done.
    Fit(Box<Fit>),
}

/// What will be done.
pub(crate) struct Fit {
    /// For the initramfs.
    pub(crate) place: Place,
    /// Where everything will lie, as far as can be told while root is mounted.
    pub(crate) layout: Layout,
    /// What to look at.
    pub(crate) warnings: Vec<String>,
}

/// Judges. Pure.
pub(crate) fn judge(found: &Found) -> Verdict {
    let mut refusals = vec![];
    let root = match &found.root {
        Ok(Root::Volume) => return Verdict::NothingToDo,
        Ok(Root::Partition(root)) => Some(root),
        Err(why) => {
            refusals.push(why.clone());
            None
        }
    };
    let boot = found.boot.as_ref().map_err(|why| refusals.push(why.clone())).ok();
    let device = root.map(|root| &root.device);
    refusals.extend(boot.map(|boot| firmware(boot, device.map(PathBuf::as_path))).unwrap_or_default());
    refusals.extend(machine(found));
    let layout = root.and_then(|root| {
        let [state_used, apps_used] = found.used;
        let partition = root.entry.sectors() * SECTOR;
        let wish = Wish { partition, root_least: root.least, state_used, apps_used };
        let laid = fit(&root.dump).map_err(|err| err.to_string());
        let laid = laid.and_then(|()| layout::plan(&root.dump, &wish).map_err(|why| why.to_string()));
        laid.map_err(|why| refusals.push(why)).ok()
    });
    match (root, boot, layout) {
        (Some(root), Some(boot), Some(layout)) if refusals.is_empty() => {
            let place = Place {
                disk: root.disk.clone(),
                root: root.number,
                boot: boot.number,
                boot_mount: boot.mount.clone(),
                entry: root.entry.hex(),
                used: found.used,
            };
            Verdict::Fit(Box::new(Fit { place, layout, warnings: warnings(found.power) }))
        }
        _ => Verdict::Refused(refusals),
    }
}

fn machine(found: &Found) -> Vec<String> {
    let mut refusals = vec![];
    if !found.packages.is_empty() {
        let list = found.packages.join(" ");
        refusals.push(format!("programs are missing: apt-get install --no-install-recommends {list}"));
    }
    if !found.modules.is_empty() {
        refusals.push(format!("the running kernel has no modules {}", found.modules.join(" ")));
    }
    if !found.guard {
        refusals.push(
            "bramble-bootguard of this release lies neither beside this program nor in /usr/lib/bramble: copy it there"
                .into(),
        );
    }
    if found.groups.iter().any(|group| group == GROUP) {
        refusals.push(format!(
            "another disk has a volume group {GROUP} already: rename it (vgrename) or take the disk off"
        ));
    }
    for place in &found.mounted {
        refusals
            .push(format!("{place} is a mount of its own already: only a machine with all of it on root is converted"));
    }
    match found.power {
        Power::Low => refusals.push("the supply voltage was too low since the start: use a better power supply".into()),
        Power::Battery => refusals.push("the machine runs from a battery that is being emptied: connect it".into()),
        Power::Good | Power::Unknown => {}
    }
    refusals
}

fn firmware(boot: &Boot, disk: Option<&Path>) -> Vec<String> {
    let mut refusals = vec![];
    let at = boot.mount.display();
    if disk.is_some_and(|disk| disk != boot.device) {
        refusals.push(format!("the boot partition is on {}, root is on another disk", boot.device.display()));
    }
    if boot.free < BOOT_FREE {
        let (free, needs) = (boot.free >> 20, BOOT_FREE >> 20);
        refusals.push(format!("{at} has {free} MiB free, a larger initramfs needs {needs} MiB: remove old kernels"));
    }
    match &boot.config {
        None => {
            refusals.push(format!("{at} has no config.txt: only machines that start as a Raspberry Pi does are known"));
        }
        Some(config) => {
            let loads = texts::loads(config);
            if loads.prefix {
                refusals.push(format!("{at}/config.txt sets os_prefix, which is not known here"));
            }
            if loads.named.is_empty() && !loads.automatic {
                refusals.push(format!("{at}/config.txt loads no initramfs: add auto_initramfs=1"));
            }
        }
    }
    match boot.cmdline.as_deref().map(texts::cmdline) {
        Some(Some(_)) => {}
        Some(None) => refusals.push(format!("{at}/cmdline.txt names no root")),
        None => refusals.push(format!("{at} has no cmdline.txt")),
    }
    refusals
}

fn warnings(power: Power) -> Vec<String> {
    match power {
        Power::Unknown => vec!["this machine does not tell whether its power supply is good".into()],
        Power::Low | Power::Battery | Power::Good => vec![],
    }
}

/// A few lines for a person.
pub(crate) fn describe(fit: &Fit, read: u64) -> Vec<String> {
    let mib = |name: &str| {
        let volume = fit.layout.volumes.iter().find(|volume| volume.name == name);
        let extents = volume.map_or(0, |volume| volume.runs.iter().map(|run| run.end - run.start).sum::<u64>());
        (extents * EXTENT) >> 20
    };
    let root = (fit.layout.root_extents * EXTENT) >> 20;
    let mut lines = vec![
        format!("root       {root} MiB in a thin pool of {} MiB, so that an upgrade has a way back", mib("pool_tdata")),
        format!("state      {} MiB at {}", mib("state"), MOUNTS[0].1),
        format!("apps       {} MiB at {}", mib("apps"), MOUNTS[1].1),
        format!("time       about {} minutes without service, at the next start", 2 + read / (10 << 20) / 60),
    ];
    lines.extend(fit.warnings.iter().map(|warning| format!("warning    {warning}")));
    lines
}

/// Looks at everything. Changes nothing.
pub(crate) fn look() -> Found {
    let used = MOUNTS.map(|(_, place)| below(Path::new(place)));
    let mounted = MOUNTS.iter().filter(|(_, place)| run(&["findmnt", "-n", place]).is_ok());
    let missing = |module: &&&str| run(&["modprobe", "-n", "-q", module]).is_err();
    let groups = run(&["lvm", "vgs", "--noheadings", "-o", "vg_name"]).unwrap_or_default();
    Found {
        root: root().map_err(|err| format!("{err:#}")),
        boot: boot().map_err(|err| format!("{err:#}")),
        packages: packages(),
        modules: MODULES.iter().filter(missing).map(|module| (*module).to_owned()).collect(),
        guard: guard::found().is_some(),
        groups: groups.split_whitespace().map(str::to_owned).collect(),
        power: power(),
        used,
        mounted: mounted.map(|(_, place)| (*place).to_owned()).collect(),
    }
}

fn packages() -> Vec<String> {
    let there =
        |name: &str| ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|at| Path::new(at).join(name).exists());
    let mut missing: Vec<String> =
        PROGRAMS.iter().filter(|(name, _)| !there(name)).map(|(_, package)| (*package).to_owned()).collect();
    missing.dedup();
    missing
}

fn mounted_from(place: &str) -> anyhow::Result<(PathBuf, String)> {
    let said =
        run(&["findmnt", "-n", "-o", "SOURCE,FSTYPE", place]).with_context(|| format!("{place} is not mounted"))?;
    let mut words = said.split_whitespace();
    let (device, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let device = fs::canonicalize(device).with_context(|| format!("{place} is mounted from {device}"))?;
    Ok((device, kind.to_owned()))
}

fn root() -> anyhow::Result<Root> {
    let (device, kind) = mounted_from("/")?;
    let name = device.file_name().context("root's device")?;
    if let Ok(id) = fs::read_to_string(Path::new("/sys/class/block").join(name).join("dm/uuid")) {
        anyhow::ensure!(!id.starts_with("CRYPT-"), "root is encrypted, which is not converted");
        anyhow::ensure!(id.starts_with("LVM-"), "root is a mapped device ({}), which is not converted", id.trim());
        return Ok(Root::Volume);
    }
    anyhow::ensure!(kind == "ext4", "root is {kind}; only ext4 is converted");
    let disk = disk_of(&device)?;
    let mbr = read_mbr(&disk)?;
    let number: usize = fs::read_to_string(Path::new("/sys/class/block").join(name).join("partition"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|number| (1..=4).contains(number))
        .context("root is a logical partition, which is not converted")?;
    nix::unistd::sync();
    let at = device.to_str().context("root's device")?;
    let dump = dump::parse(&run(&["dumpe2fs", at])?)?;
    let least = dump::least(&run(&["resize2fs", "-P", at])?)?;
    let signature = mbr.bytes()[440..444].iter().rev().map(|byte| format!("{byte:02x}")).collect();
    let entry = mbr.entry(number);
    Ok(Root::Partition(Box::new(Partition { number, entry, disk: signature, device: disk, dump, least })))
}

fn boot() -> anyhow::Result<Boot> {
    // Where all of /boot is the FAT, packages write to it, and nothing could be held.
    let place = "/boot/firmware";
    let (device, kind) = mounted_from(place).context(
        "boot files have to be at /boot/firmware, as Debian 12 and Raspberry Pi OS of 2023 and later have them",
    )?;
    anyhow::ensure!(kind == "vfat", "{place} is {kind}, and not a FAT");
    let name = device.file_name().context("boot's device")?;
    let number = fs::read_to_string(Path::new("/sys/class/block").join(name).join("partition"));
    let stat = nix::sys::statvfs::statvfs(place).with_context(|| place.to_owned())?;
    #[allow(clippy::useless_conversion, reason = "these are narrower on 32-bit machines")]
    let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    Ok(Boot {
        mount: place.into(),
        number: number.ok().and_then(|text| text.trim().parse().ok()).context("boot is no partition")?,
        device: disk_of(&device)?,
        free,
        config: fs::read_to_string(Path::new(place).join("config.txt")).ok(),
        cmdline: fs::read_to_string(Path::new(place).join("cmdline.txt")).ok(),
    })
}

fn below(folder: &Path) -> u64 {
    let said = run(&["du", "-sxB1", &folder.display().to_string()]).unwrap_or_default();
    said.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).unwrap_or_default()
}

fn power() -> Power {
    let files = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let supplies: Vec<PathBuf> = files("/sys/class/power_supply").collect();
    if supplies.iter().any(|at| read(at.join("type")) == "Battery" && read(at.join("status")) == "Discharging") {
        return Power::Battery;
    }
    let pi = files("/sys/class/hwmon").find(|at| read(at.join("name")) == "rpi_volt");
    match pi.map(|at| read(at.join("in0_lcrit_alarm"))).as_deref() {
        Some("0") => Power::Good,
        Some("1") => Power::Low,
        Some(_) | None => Power::Unknown,
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "these are lists of one range")]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn a_pi() -> Found {
        let partition = 15 * GIB;
        let dump = Dump {
            blocks: partition / 4096,
            free: vec![500_000..partition / 4096],
            features: vec![],
            state: "clean".into(),
        };
        let mut entry = Entry::lvm(1_056_768, partition / SECTOR).unwrap();
        entry.0[4] = 0x83;
        let device = PathBuf::from("/dev/mmcblk0");
        Found {
            root: Ok(Root::Partition(Box::new(Partition {
                number: 2,
                entry,
                disk: "12345678".into(),
                device: device.clone(),
                dump,
                least: 2 * GIB,
            }))),
            boot: Ok(Boot {
                mount: "/boot/firmware".into(),
                number: 1,
                device,
                free: 300 << 20,
                config: Some("auto_initramfs=1\n".into()),
                cmdline: Some("root=PARTUUID=12345678-02 rootwait\n".into()),
            }),
            packages: vec![],
            modules: vec![],
            guard: true,
            groups: vec![],
            power: Power::Good,
            used: [0, 0],
            mounted: vec![],
        }
    }

    fn refusals(change: impl FnOnce(&mut Found)) -> Vec<String> {
        let mut found = a_pi();
        change(&mut found);
        match judge(&found) {
            Verdict::Refused(why) => why,
            Verdict::Fit(_) | Verdict::NothingToDo => vec![],
        }
    }

    fn boot(found: &mut Found) -> &mut Boot {
        match &mut found.boot {
            Ok(boot) => boot,
            Err(why) => panic!("{why}"),
        }
    }

    fn part(found: &mut Found) -> &mut Partition {
        match &mut found.root {
            Ok(Root::Partition(root)) => root,
            Ok(Root::Volume) | Err(_) => panic!("a partition"),
        }
    }

    #[test]
    fn a_plain_pi_is_fit() {
        let Verdict::Fit(fit) = judge(&a_pi()) else { panic!("refused: {:?}", refusals(|_| {})) };
        assert_eq!((fit.place.root, fit.place.boot, fit.place.disk.as_str()), (2, 1, "12345678"));
        let lines = describe(&fit, 2 * GIB).join("\n");
        assert!(lines.contains("root       4268 MiB") && lines.contains("about 5 minutes"), "{lines}");
    }

    #[test]
    fn a_volume_is_nothing_to_do() {
        let mut found = a_pi();
        found.root = Ok(Root::Volume);
        found.packages = vec!["lvm2".into()];
        assert!(matches!(judge(&found), Verdict::NothingToDo));
    }

    #[test]
    fn each_refusal_says_why() {
        type Change = fn(&mut Found);
        let cases: [(Change, &str); 16] = [
            (|found| found.root = Err("root is btrfs; only ext4 is converted".into()), "btrfs"),
            (|found| part(found).dump.features = vec!["bigalloc".into()], "bigalloc"),
            (|found| part(found).least = 7 * GIB, "card is too small for what is on it: root needs 7591 MiB"),
            (|found| part(found).dump.free = vec![], "256 KiB free"),
            (|found| boot(found).config = None, "no config.txt"),
            (|found| boot(found).config = Some("kernel=x".into()), "auto_initramfs=1"),
            (|found| boot(found).config = Some("auto_initramfs=1\nos_prefix=a/".into()), "os_prefix"),
            (|found| boot(found).cmdline = Some("quiet".into()), "names no root"),
            (|found| boot(found).free = 3 << 20, "3 MiB free"),
            (|found| boot(found).device = "/dev/sda".into(), "another disk"),
            (|found| found.packages = vec!["lvm2".into()], "apt-get install --no-install-recommends lvm2"),
            (|found| found.modules = vec!["dm-thin-pool".into()], "no modules dm-thin-pool"),
            (|found| found.guard = false, "bramble-bootguard of this release lies neither"),
            (|found| found.groups = vec!["vg0".into()], "vgrename"),
            (|found| found.power = Power::Low, "voltage"),
            (|found| found.mounted = vec!["/var/lib/bramble".into()], "a mount of its own"),
        ];
        for (change, said) in cases {
            let why = refusals(change);
            assert!(why.len() == 1 && why[0].contains(said), "{said}: {why:?}");
        }
        // All of them at once.
        let all = refusals(|found| cases.iter().skip(1).for_each(|(change, _)| change(found)));
        assert!(all.len() >= 8, "{all:?}");
    }

    #[test]
    fn power_that_is_not_known_is_said() {
        let mut found = a_pi();
        found.power = Power::Unknown;
        let Verdict::Fit(fit) = judge(&found) else { panic!("refused") };
        assert_eq!(fit.warnings.len(), 1);
    }
}
