//! The conversion's part in the running system after it: does the new root prove itself, and what is cleared away then.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use super::boot::{SAID, write_table};
use super::journal::Journal;
use super::lvmtext::{GROUP, OLD};
use super::machine::{Effect, Event, Facts, Ledger, Phase, step};
use super::place::{self, PLACE, Place};
use super::prepare;
use super::table::{Entry, SECTOR};
use super::texts;
use super::tools::{appears, run};
use crate::files;

/// Uptime in seconds after which a new root that is not well is given up.
const GIVE_UP_SECS: u64 = 1800;
/// A gap in front that is smaller is not worth a partition, in bytes.
const FRONT_LEAST: u64 = 64 << 20;

/// Called by the timer until all is done.
///
/// # Errors
/// Not well yet, or something cannot be cleared away: the timer comes again.
pub(crate) fn confirm(tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    let Some((site, ledger)) = Site::open()? else { return prepare::stand_down() };
    let on_volumes = root_is_new()?;
    match (&ledger.phase, on_volumes) {
        (Phase::Trial { .. }, true) => match well() {
            Ok(()) => site.go(ledger, Event::Proven, tell),
            Err(err) if uptime()? > GIVE_UP_SECS => {
                site.go(ledger, Event::Unwanted(format!("not well after {GIVE_UP_SECS} s: {err:#}")), tell)
            }
            Err(err) => Err(err.context("the new root is not well yet")),
        },
        (Phase::Confirmed, true) => site.go(ledger, Event::Proven, tell),
        (Phase::Done, _) => site.leave(tell),
        (Phase::Returned { why }, _) => {
            tell(format!("the old system is back: {why}"));
            prepare::stand_down()
        }
        (Phase::GaveUp { why }, _) => {
            tell(format!("not converted: {why}"));
            prepare::stand_down()
        }
        (Phase::Prepared, _) => {
            tell("prepared: the conversion begins with the next start".into());
            Ok(())
        }
        (Phase::Working { .. } | Phase::Trial { .. } | Phase::Confirmed | Phase::Returning { .. }, _) => {
            bail!("the ledger says {:?}, and root is {}a volume", ledger.phase, if on_volumes { "" } else { "not " })
        }
    }
}

/// Wants the old system back, or the conversion not to begin.
///
/// # Errors
/// It is too late.
pub(crate) fn back(tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    let (site, ledger) = Site::open()?.context("no conversion was asked for")?;
    let may =
        matches!(ledger.phase, Phase::Prepared) || (matches!(ledger.phase, Phase::Trial { .. }) && root_is_new()?);
    ensure!(may, "there is no way back from here: {}", words(&ledger.phase));
    site.go(ledger, Event::Unwanted("asked to".into()), tell)
}

/// How far it is.
///
/// # Errors
/// The ledger cannot be read.
pub(crate) fn status() -> anyhow::Result<String> {
    Ok(Site::open()?.map_or_else(|| "no conversion is under way".into(), |(_, ledger)| words(&ledger.phase)))
}

fn words(phase: &Phase) -> String {
    match phase {
        Phase::Prepared => "prepared: begins with the next start".into(),
        Phase::Working { attempt } => format!("under way, attempt {attempt}"),
        Phase::Trial { boots } => format!("the new root is on trial, boot {boots}; the old one is kept"),
        Phase::Confirmed => "the new root is confirmed; the old one is being cleared away".into(),
        Phase::Done => "done".into(),
        Phase::Returning { why, .. } => format!("going back: {why}"),
        Phase::Returned { why } => format!("the old system is back: {why}"),
        Phase::GaveUp { why } => format!("not converted: {why}"),
    }
}

struct Site {
    place: Place,
    journal: Journal,
}

impl Site {
    fn open() -> anyhow::Result<Option<(Self, Ledger)>> {
        if !Path::new(PLACE).exists() {
            return Ok(None);
        }
        let place = Place::load()?;
        let journal = Journal::at(&place.boot_mount);
        let ledger = journal.load()?;
        Ok(ledger.map(|ledger| (Self { place, journal }, ledger)))
    }

    fn go(&self, ledger: Ledger, event: Event, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
        let disk = self.place.devices()?.disk;
        let (mut ledger, mut event) = (ledger, Some(event));
        while let Some(now) = event.take() {
            let table = self.place.table(&disk, &ledger)?;
            let facts = Facts { table, old_unchanged: true, volumes: root_is_new()? };
            let (next, effects) = step(ledger.clone(), now, facts);
            if next != ledger {
                self.journal.store(&next)?;
            }
            ledger = next;
            for effect in effects {
                event = self.perform(&effect, &ledger, &disk, tell)?.or(event);
            }
        }
        tell(words(&ledger.phase));
        if ledger.phase == Phase::Done { self.leave(tell) } else { Ok(()) }
    }

    fn perform(
        &self,
        effect: &Effect,
        ledger: &Ledger,
        disk: &Path,
        tell: &mut dyn FnMut(String),
    ) -> anyhow::Result<Option<Event>> {
        match effect {
            Effect::WriteTable(table) => write_table(&self.place, disk, *table, ledger)?,
            Effect::Reboot => {
                nix::unistd::sync();
                run(&["systemctl", "reboot"])?;
            }
            Effect::NameRoot => self.name_root()?,
            Effect::DropOld => self.drop_old(ledger, disk)?,
            Effect::Retire => {
                prepare::retire(&self.place, tell)?;
                return Ok(Some(Event::Cleaned));
            }
            Effect::Tell(line) => tell(line.clone()),
            Effect::Release => {}
            Effect::Build(_) | Effect::UseVolumes => bail!("{effect:?} is for the initramfs"),
        }
        Ok(None)
    }

    fn name_root(&self) -> anyhow::Result<()> {
        let path = self.place.boot_mount.join("cmdline.txt");
        let held = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let new = texts::cmdline(&held).with_context(|| format!("{} names no root", path.display()))?;
        if new != held {
            exchange(&path, new.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let debian = Path::new("/etc/default/raspi-firmware");
        if let Ok(held) = fs::read_to_string(debian) {
            files::file(debian, texts::raspi_firmware(&held).as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Each part may have been done before.
    fn drop_old(&self, ledger: &Ledger, disk: &Path) -> anyhow::Result<()> {
        let volumes = run(&["lvs", "--noheadings", "-o", "lv_name", GROUP])?;
        if volumes.split_whitespace().any(|name| name == OLD) {
            run(&["lvremove", "-q", "-y", &format!("{GROUP}/{OLD}")])?;
        }
        let pool = format!("{GROUP}/pool");
        run(&["lvchange", "-q", "--errorwhenfull", "y", &pool])?;
        run(&["lvchange", "-q", "--discards", "passdown", &pool])?;
        let made = ledger.made.as_ref().context("the ledger does not say where the old root was")?;
        let (old, new) = (Entry::from_hex(&made.old_entry)?, Entry::from_hex(&made.new_entry)?);
        let front = new.start() - old.start();
        if front * SECTOR >= FRONT_LEAST {
            self.take_front(disk, old.start(), front)?;
        }
        Ok(())
    }

    /// The space between the old root's begin and the new volume becomes a second physical volume, for apps.
    fn take_front(&self, disk: &Path, start: u64, sectors: u64) -> anyhow::Result<()> {
        let mbr = place::read_mbr(disk)?;
        let held = (1..=4).find(|number| mbr.entry(*number).kind() != 0 && mbr.entry(*number).start() == start);
        let Some(number) = held.or_else(|| (1..=4).find(|number| mbr.entry(*number).kind() == 0)) else {
            return Ok(());
        };
        if held.is_none() {
            place::write_entry(disk, number, Entry::lvm(start, sectors)?)?;
        }
        let link = self.place.link(number);
        if !link.exists() {
            run(&["partx", "-a", "--nr", &number.to_string(), &disk.display().to_string()])?;
            appears(&link, 30)?;
        }
        let device = fs::canonicalize(&link).with_context(|| link.display().to_string())?.display().to_string();
        let known = run(&["pvs", "--noheadings", "-o", "pv_name,vg_name"])?;
        let fields = known.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mine: Vec<Vec<&str>> = fields.filter(|fields| fields.first() == Some(&device.as_str())).collect();
        if mine.is_empty() {
            run(&["pvcreate", "-q", "-y", "-ff", &device])?;
        }
        if !mine.iter().any(|fields| fields.get(1) == Some(&GROUP)) {
            run(&["vgextend", "-q", GROUP, &device])?;
        }
        let free = run(&["vgs", "--noheadings", "-o", "vg_free_count", GROUP])?;
        if free.trim() != "0" {
            run(&["lvextend", "-q", "-r", "-l", "+100%FREE", &format!("{GROUP}/apps")])?;
        }
        Ok(())
    }

    /// The last of it goes: the ledger, and what called us.
    fn leave(&self, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
        self.journal.remove()?;
        files::remove(&self.place.boot_mount.join(SAID)).context("the last words")?;
        files::remove(Path::new(PLACE)).context(PLACE)?;
        tell("converted: root is a volume from now on".into());
        prepare::stand_down()
    }
}

/// Root, the volumes beside it and the services that should run.
fn well() -> anyhow::Result<()> {
    run(&["systemctl", "is-active", "-q", "multi-user.target"]).context("multi-user.target is not reached")?;
    for (name, place) in texts::MOUNTS {
        ensure!(lies_on(place, name)?, "{place} is not mounted from the volume {name}");
    }
    let agents = run(&["systemctl", "list-unit-files", "--no-legend", "--state=enabled", "bramble-agent@*.service"])
        .unwrap_or_default();
    for unit in agents.lines().filter_map(|line| line.split_whitespace().next()).filter(|unit| !unit.contains("@.")) {
        run(&["systemctl", "is-active", "-q", unit]).with_context(|| format!("{unit} does not run"))?;
    }
    let probe = Path::new("/var/tmp/bramble-convert.probe");
    File::create(probe).and_then(|file| file.sync_all()).context("root cannot be written")?;
    files::remove(probe).context("root cannot be written")
}

fn root_is_new() -> anyhow::Result<bool> {
    lies_on("/", "root")
}

/// Is the file system at `place` that of the volume? Told by the device's number: it has several names, and a mount
/// keeps the one that was typed.
fn lies_on(place: &str, volume: &str) -> anyhow::Result<bool> {
    let device = format!("/dev/{GROUP}/{volume}");
    if !Path::new(&device).exists() {
        return Ok(false);
    }
    let device = fs::metadata(&device).with_context(|| device.clone())?.rdev();
    Ok(fs::metadata(place).with_context(|| place.to_owned())?.dev() == device)
}

fn uptime() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/uptime").context("/proc/uptime")?;
    text.split('.').next().and_then(|secs| secs.parse().ok()).context("/proc/uptime")
}

/// A file of the boot partition is either the old one or the new one. A FAT keeps no modes.
fn exchange(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temp = path.with_extension("new");
    let mut file = File::create(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
