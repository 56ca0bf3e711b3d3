//! The conversion's part in the initramfs: runs at every boot while the converter is in it, before root is mounted.
//!
//! Nothing here ever stops a boot: what cannot be done is said, and the machine starts with what it has.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::build::{Builder, WORK, release, say};
use super::journal::Journal;
use super::machine::{Build, Effect, Event, Facts, Ledger, Phase, Table, step};
use super::place::{self, Devices, Place};
use super::table::Entry;
use super::texts::ROOT;
use super::tools::run;

/// Read by initramfs-tools after each script.
const PARAM: &str = "/conf/param.conf";
/// The last words, for who takes the card to another machine.
pub(crate) const SAID: &str = "bramble-convert.txt";

/// Does what this boot is to do, and leaves root to be mounted.
pub(crate) fn run_in_initramfs() {
    pet_a_running_watchdog();
    if let Err(err) = boot() {
        release();
        say(&format!("{err:#}; starting with what is there"));
    }
}

fn boot() -> anyhow::Result<()> {
    let place = Place::load()?;
    fs::create_dir_all(WORK).context(WORK)?;
    let devices = place.devices()?;
    let boot = Path::new(WORK).join("boot");
    fs::create_dir_all(&boot).context("a folder for the boot partition")?;
    mount(Some(&devices.boot), &boot, Some("vfat"), MsFlags::MS_NOATIME, None::<&str>)
        .context("mounting the boot partition")?;
    let machine = Machine { journal: Journal::at(&boot), folder: boot.clone(), place, devices };
    let end = machine.run();
    nix::unistd::sync();
    umount2(&boot, MntFlags::empty()).context("unmounting the boot partition")?;
    match end? {
        End::Boot => Ok(()),
        End::Restart => restart(),
    }
}

enum End {
    Boot,
    Restart,
}

struct Machine {
    journal: Journal,
    folder: PathBuf,
    place: Place,
    devices: Devices,
}

impl Machine {
    fn run(&self) -> anyhow::Result<End> {
        let ledger = match self.journal.load() {
            Ok(Some(ledger)) => ledger,
            Ok(None) => return Ok(End::Boot),
            Err(err) => return self.without_a_ledger(&err),
        };
        let (mut ledger, mut event) = (ledger, Some(Event::Booted));
        let mut end = End::Boot;
        while let Some(now) = event.take() {
            let facts = self.facts(&ledger)?;
            let (next, effects) = step(ledger.clone(), now, facts);
            if next != ledger {
                self.journal.store(&next)?;
            }
            ledger = next;
            let mut builder = Builder::new(&self.place, &self.devices);
            for effect in effects {
                match effect {
                    Effect::Build(build) => {
                        event = make(&mut builder, build);
                        if matches!(event, Some(Event::Failed(_))) {
                            break;
                        }
                    }
                    Effect::Reboot => end = End::Restart,
                    other => self.perform(&other, &ledger)?,
                }
            }
        }
        Ok(end)
    }

    /// A ledger that cannot be read is not "never asked for": what the table says counts.
    fn without_a_ledger(&self, err: &anyhow::Error) -> anyhow::Result<End> {
        say(&format!("{err:#}"));
        let entry = place::read_mbr(&self.devices.disk)?.entry(self.place.root).hex();
        if entry != self.place.entry && volumes() {
            use_volumes()?;
        }
        Ok(End::Boot)
    }

    fn facts(&self, ledger: &Ledger) -> anyhow::Result<Facts> {
        let table = self.place.table(&self.devices.disk, ledger)?;
        let old_unchanged = match (table, &ledger.made) {
            (Table::Old, Some(made)) => place::print(&self.devices.root)? == made.print,
            (Table::Old | Table::New | Table::Other, _) => true,
        };
        let started = !matches!(ledger.phase, Phase::Prepared | Phase::Working { .. });
        Ok(Facts { table, old_unchanged, volumes: started && table == Table::New && volumes() })
    }

    fn perform(&self, effect: &Effect, ledger: &Ledger) -> anyhow::Result<()> {
        match effect {
            Effect::Release => release(),
            Effect::WriteTable(table) => write_table(&self.place, &self.devices.disk, *table, ledger)?,
            Effect::UseVolumes => use_volumes()?,
            Effect::Tell(line) => {
                say(line);
                let _ = fs::write(self.folder.join(SAID), format!("{line}\n"));
            }
            Effect::NameRoot | Effect::DropOld | Effect::Retire => bail!("{effect:?} is for the running system"),
            Effect::Build(_) | Effect::Reboot => {}
        }
        Ok(())
    }
}

fn make(builder: &mut Builder<'_>, build: Build) -> Option<Event> {
    say(&format!("{build:?}"));
    match builder.perform(build) {
        Ok(None) => None,
        Ok(Some(made)) => Some(Event::Built(made)),
        Err(err) => Some(Event::Failed(format!("{err:#}"))),
    }
}

/// Turns the table to what the ledger keeps for it.
///
/// # Errors
/// Nothing was made yet, or the card does not take it.
pub(crate) fn write_table(place: &Place, disk: &Path, table: Table, ledger: &Ledger) -> anyhow::Result<()> {
    let made = ledger.made.as_ref().context("nothing was made yet")?;
    let entry = match table {
        Table::Old => &made.old_entry,
        Table::New => &made.new_entry,
        Table::Other => bail!("no such table"),
    };
    say(&format!("turning the partition table: {table:?}"));
    place::write_entry(disk, place.root, Entry::from_hex(entry)?)
}

/// Waits for the new root, and helps udev along.
fn volumes() -> bool {
    let root = Path::new(ROOT);
    let _ = run(&["udevadm", "settle", "--timeout=30"]);
    for second in 0..30 {
        if root.exists() {
            return true;
        }
        if second % 10 == 5 {
            let _ = run(&["lvm", "vgchange", "-q", "-aay", "--sysinit", "vg0"]);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    root.exists()
}

fn use_volumes() -> anyhow::Result<()> {
    let write =
        || OpenOptions::new().append(true).create(true).open(PARAM)?.write_all(format!("ROOT={ROOT}\n").as_bytes());
    write().with_context(|| format!("cannot write {PARAM}"))
}

fn restart() -> anyhow::Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sysrq-trigger", "b").context("cannot start again")?;
    std::thread::sleep(Duration::from_secs(60));
    bail!("the machine does not start again")
}

/// The firmware, or a guard before us, may have armed it, and this takes minutes. One that sleeps is left asleep.
fn pet_a_running_watchdog() {
    let state = fs::read_to_string("/sys/class/watchdog/watchdog0/state").unwrap_or_default();
    if state.trim() != "active" {
        return;
    }
    let Ok(dog) = File::options().write(true).open("/dev/watchdog0") else { return };
    std::thread::spawn(move || {
        while dog.write_at(&[0], 0).is_ok() {
            std::thread::sleep(Duration::from_secs(5));
        }
    });
}
