//! The machine behind the guard: the only code of it that reads, writes, mounts and reboots.
//!
//! Decides how long is waited for disks to show up. Everything else is asked for by `boot`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bramble_contracts::boot::{
    ArmedWatchdog, BootRecord, GROUP, ONE_SET, PutBack, SNAPSHOT, Slot, SlotBy, Tryboot, Why, autoboot, autoboot_text,
};
use nix::mount::MsFlags;
use nix::sys::reboot::{RebootMode, reboot};

use crate::boot::{Gathered, Host};
use crate::decide::{Facts, Volumes};
use crate::effects::Effect;
use crate::facts;
use crate::first::{self, First};
use crate::metadata;
use crate::process::{LVM, run};
use crate::watchdog::{self, Watchdog};

/// Trials after the first one.
const ATTEMPTS_MAX: u32 = 2;
const RETURNS_MAX: u32 = 3;
/// Cards and disks on USB show up late. Looks that take their time leave enough of the watchdog's for a repair.
const LOOK_FOR: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// Well within the time of every watchdog.
const PET_EVERY: Duration = Duration::from_secs(5);
const LVS: &[&str] = &["lvs", "--reportformat", "json", "-o", "lv_name,lv_tags", GROUP];
/// Where the firmware model of virtual Pis listens.
const VIRTUAL_FIRMWARE: &str = "virtio-ports/org.bramble.firmware";

/// Below these the machine is found.
pub struct Machine {
    proc: PathBuf,
    sys: PathBuf,
    dev: PathBuf,
    run: PathBuf,
    /// The partition of the boot files, where there is one set of them.
    one_set: Option<PathBuf>,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let one_set = fs::read_to_string(ONE_SET).ok().map(|line| PathBuf::from(line.trim()));
        Self { proc: "/proc".into(), sys: "/sys".into(), dev: "/dev".into(), run: "/run".into(), one_set }
    }

    /// The kernel's command line.
    pub fn cmdline(&self) -> String {
        fs::read_to_string(self.proc.join("cmdline")).unwrap_or_default()
    }

    fn first(&self) -> First {
        First::new(self.one_set.clone(), &self.dev, &self.run.join("bramble"))
    }

    /// On the console and in the kernel's log, where the journal finds it.
    pub fn say(&self, text: &str) -> Result<(), String> {
        let path = self.dev.join("kmsg");
        // 3 is an error: a quiet console shows it, too.
        let line = format!("<3>bramble: {text}\n");
        let write = OpenOptions::new().write(true).open(&path).and_then(|mut log| log.write_all(line.as_bytes()));
        write.map_err(|err| format!("{}: {err}", path.display()))
    }

    /// A kernel that stumbles is started anew, also where the command line does not say so: it would stay where it is.
    pub fn lets_no_panic_stay(&self) -> Result<(), String> {
        for (name, value) in [("panic", "10"), ("panic_on_oops", "1")] {
            let path = self.proc.join("sys/kernel").join(name);
            fs::write(&path, value).map_err(|err| format!("{}: {err}", path.display()))?;
        }
        Ok(())
    }

    /// Which slot was booted, and what the firmware says of it.
    fn booted(&self) -> (Slot, SlotBy, Tryboot) {
        let cell = |name: &str| fs::read(self.proc.join("device-tree/chosen/bootloader").join(name)).ok();
        facts::seen(self.one_set.is_some(), cell, &self.cmdline())
    }

    fn volumes(&self, times: Option<u32>, trouble: &mut Vec<String>) -> Volumes {
        let _settled = run("/usr/bin/udevadm", &["settle", "--timeout=30"]);
        #[allow(clippy::disallowed_methods, reason = "how long is waited for disks is decided here")]
        let begun = Instant::now();
        loop {
            match run(LVM, LVS).and_then(|printed| facts::volumes(&printed)) {
                Ok(volumes) => return volumes,
                Err(why) if begun.elapsed() >= LOOK_FOR => {
                    trouble.push(why);
                    return Volumes::Unreadable { times };
                }
                Err(_) => std::thread::sleep(BETWEEN_LOOKS),
            }
        }
    }

    fn recount(&self, tag: &str, from: u32, to: u32) -> Result<(), String> {
        let (old, new) = (format!("{tag}={from}"), format!("{tag}={to}"));
        let snapshot = format!("{GROUP}/{SNAPSHOT}");
        run(LVM, &["lvchange", "--deltag", &old, "--addtag", &new, &snapshot]).map(drop)
    }

    /// LVM does not look whether the pool has what it puts root back to: what cannot be activated would be lost, and root
    /// with it.
    fn merge(&self) -> Result<(), String> {
        let snapshot = format!("{GROUP}/{SNAPSHOT}");
        run(LVM, &["lvchange", "-ay", "--ignoreactivationskip", &snapshot])?;
        let _inactive = run(LVM, &["lvchange", "-an", &snapshot]);
        run(LVM, &["lvconvert", "-y", "--merge", &snapshot])?;
        run(LVM, &["vgchange", "-aay", "--sysinit", GROUP])?;
        let _settled = run("/usr/bin/udevadm", &["settle", "--timeout=30"]);
        // It is gone only when it is.
        match facts::volumes(&run(LVM, LVS)?)? {
            Volumes::Plain => Ok(()),
            Volumes::Begun | Volumes::Snapshot { .. } | Volumes::Unreadable { .. } => {
                Err("the snapshot is still there".into())
            }
        }
    }

    /// LVM first has the pool make it, where the power went in between.
    fn drop_untagged(&self) -> Result<(), String> {
        run(LVM, &["lvremove", "-y", &format!("{GROUP}/{SNAPSHOT}")]).map(drop)
    }

    /// The volume is the agent's; it is mounted for this moment only.
    fn note(&self, why: Why) -> Result<(), String> {
        let at = self.run.join("bramble/state");
        let device = self.dev.join(GROUP).join("state");
        let _mounted = first::mount_at(&device, &at, "ext4", MsFlags::MS_NOEXEC)?;
        let note = PutBack { format: PutBack::FORMAT, why };
        let text = serde_json::to_string(&note).map_err(|err| err.to_string())?;
        first::replace(&at, PutBack::FILE, &text)
    }

    fn ask_tryboot(&self) -> Result<(), String> {
        let port = self.dev.join(VIRTUAL_FIRMWARE);
        if port.exists() {
            let write = OpenOptions::new().write(true).open(&port).and_then(|mut port| port.write_all(b"tryboot\n"));
            return write.map_err(|err| format!("{}: {err}", port.display()));
        }
        if self.dev.join("vcio").exists() {
            // SET_REBOOT_FLAGS, four bytes in, none out, the flag.
            return run("/usr/bin/vcmailbox", &["0x00038064", "4", "0", "1"]).map(drop);
        }
        Err("this firmware takes no wishes: neither a mailbox (/dev/vcio) nor a port of a virtual Pi is there".into())
    }

    fn repair(&self) -> Result<(), String> {
        let _seen = run(LVM, &["vgck", "--updatemetadata", GROUP]);
        run(LVM, &["vgchange", "-an", GROUP])?;
        run(LVM, &["lvconvert", "-y", "--repair", &format!("{GROUP}/pool")]).map(drop)
    }

    /// Waits under the watchdog.
    pub fn wait(&self, secs: u32) {
        let mut watchdog = Watchdog::open(&self.dev).ok();
        let mut left = Duration::from_secs(secs.into());
        while !left.is_zero() {
            let now = left.min(PET_EVERY);
            std::thread::sleep(now);
            left -= now;
            // One that cannot be petted resets, which is what comes next anyway.
            let _heard = watchdog.as_mut().map(Watchdog::pet);
        }
    }

    /// Boots again.
    pub fn reboot(&self) -> Result<(), String> {
        nix::unistd::sync();
        reboot(RebootMode::RB_AUTOBOOT).map(|never| match never {}).map_err(|err| format!("no reboot: {err}"))
    }

    /// The end of a boot that cannot go on: the reason everywhere, a pause that grows, a reboot.
    pub fn panic(&self, why: &str) -> Result<(), String> {
        let told = self.say(&format!("this boot cannot go on: {why}"));
        eprintln!("bramble: this boot cannot go on: {why}");
        // A trial that ends here falls back to the old slot at once.
        let first = self.first();
        let before = first.read(&[first::PANICS]).ok().and_then(|texts| texts.into_iter().next()).map(number);
        let times = before.map(|before| before.saturating_add(1));
        if let Some(times) = times {
            let _kept = first.write(first::PANICS, &times.to_string());
            let _kept = first.write(first::REASON, &format!("{why}\n"));
        }
        self.wait(panic_pause_secs(times));
        self.reboot().or(told)
    }

    /// Root is mounted: what is left for systemd.
    pub fn hand_over(&self) -> Result<(), String> {
        let path = self.run.join("bramble/boot.json");
        let text = fs::read_to_string(&path).map_err(|err| format!("{}: {err}", path.display()))?;
        let record: BootRecord = serde_json::from_str(&text).map_err(|err| format!("{}: {err}", path.display()))?;
        crate::handover::leave_mount(&self.run, record.slot, record.slot_by)?;
        if record.watchdog.is_some() {
            drop(Watchdog::open(&self.dev)?);
        }
        // Only here: what ends in a panic ends before.
        self.forget(first::PANICS).or_else(|why| self.say(&why))
    }

    /// Written to only where there is something to forget.
    fn forget(&self, name: &str) -> Result<(), String> {
        let first = self.first();
        let is_there = first.read(&[name]).is_ok_and(|texts| texts.iter().any(Option::is_some));
        if is_there { first.remove(&[name]) } else { Ok(()) }
    }
}

/// A text that is no number is of a count that went wrong: it counts as one.
fn number(text: Option<String>) -> u32 {
    text.map_or(0, |text| text.trim().parse().unwrap_or(1))
}

/// Two quick ones, then longer and longer; a count that cannot be kept counts as high.
fn panic_pause_secs(times: Option<u32>) -> u32 {
    match times {
        Some(0..=2) => 10,
        Some(times) => crate::decide::pause_secs(times - 3),
        None => crate::decide::pause_secs(u32::MAX),
    }
}

impl Host for Machine {
    fn arm(&mut self) -> Result<ArmedWatchdog, String> {
        watchdog::arm(&self.dev, &self.sys)
    }

    fn gather(&mut self) -> Gathered {
        let (booted, slot_by, tryboot) = self.booted();
        let has_slots = self.one_set.is_none();
        let mut trouble = vec![];
        if has_slots && slot_by == SlotBy::Nobody {
            trouble.push("neither the firmware nor the command line says which slot was booted".into());
        }
        let _settled = run("/usr/bin/udevadm", &["settle", "--timeout=30"]);
        let (autoboot, times) = match self.first().read(&[first::AUTOBOOT, first::UNREADABLE]) {
            Ok(texts) => {
                let mut texts = texts.into_iter();
                let autoboot: Option<Slot> = texts.next().flatten().as_deref().and_then(autoboot);
                if has_slots && autoboot.is_none() {
                    trouble.push("autoboot.txt names no slot".into());
                }
                (autoboot, Some(number(texts.next().flatten()).saturating_add(1)))
            }
            Err(why) => {
                trouble.push(why);
                (None, None)
            }
        };
        let volumes = self.volumes(times, &mut trouble);
        let facts = Facts { volumes, booted, tryboot, autoboot, attempts_max: ATTEMPTS_MAX, returns_max: RETURNS_MAX };
        Gathered { facts, slot_by, times, trouble }
    }

    fn perform(&mut self, effect: &Effect) -> Result<(), String> {
        match effect {
            Effect::Say(text) => self.say(text),
            Effect::CountUnreadable(times) => self.first().write(first::UNREADABLE, &times.to_string()),
            Effect::Recount(count, from, to) => self.recount(count.tag(), *from, *to),
            Effect::Note(why) => self.note(*why),
            Effect::Merge => self.merge(),
            Effect::WriteAutoboot(slot) => self.first().write(first::AUTOBOOT, &autoboot_text(*slot)),
            Effect::AskTryboot => self.ask_tryboot(),
            Effect::Drop => self.drop_untagged(),
            Effect::Repair => self.repair(),
            Effect::Recall => metadata::recall(&self.run.join("bramble")),
            Effect::Wait(secs) => {
                self.wait(*secs);
                Ok(())
            }
            Effect::Reboot => self.reboot(),
        }
    }

    fn leave(&mut self, record: &BootRecord) -> Result<(), String> {
        let text = serde_json::to_string_pretty(record).map_err(|err| err.to_string())?;
        let folder = self.run.join("bramble");
        fs::create_dir_all(&folder).map_err(|err| format!("{}: {err}", folder.display()))?;
        first::replace(&folder, "boot.json", &text)?;
        self.forget(first::UNREADABLE)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn pauses_grow_and_a_lost_count_counts_as_high() {
        let pauses: Vec<u32> = (1..8).map(|times| panic_pause_secs(Some(times))).collect();
        assert_eq!(pauses, [10, 10, 60, 120, 240, 480, 600]);
        assert_eq!(panic_pause_secs(None), 600);
        assert_eq!((number(None), number(Some("7\n".into())), number(Some("\0\0".into()))), (0, 7, 1));
    }

    fn machine(base: &Path, one_set: Option<PathBuf>) -> Machine {
        let at = |name: &str| base.join(name);
        Machine { proc: at("proc"), sys: at("sys"), dev: at("dev"), run: at("run"), one_set }
    }

    #[test]
    fn with_one_set_of_boot_files_there_are_no_slots_whatever_the_firmware_can() {
        let dir = tempfile::tempdir().unwrap();
        let bootloader = dir.path().join("proc/device-tree/chosen/bootloader");
        fs::create_dir_all(&bootloader).unwrap();
        fs::write(bootloader.join("partition"), 2u32.to_be_bytes()).unwrap();
        fs::write(bootloader.join("tryboot"), 0u32.to_be_bytes()).unwrap();
        assert_eq!(machine(dir.path(), None).booted(), (Slot::A, SlotBy::Firmware, Tryboot::Clear));
        let one = machine(dir.path(), Some("/dev/disk/by-partuuid/1-01".into()));
        assert_eq!(one.booted(), (Slot::A, SlotBy::Nobody, Tryboot::Unsupported));
        assert!(one.first().read(&["x"]).unwrap_err().contains("/dev/disk/by-partuuid/1-01 cannot be mounted"));
    }

    #[test]
    fn a_panic_is_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path(), None);
        assert!(machine.lets_no_panic_stay().unwrap_err().contains("sys/kernel/panic"));
        fs::create_dir_all(dir.path().join("proc/sys/kernel")).unwrap();
        machine.lets_no_panic_stay().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("proc/sys/kernel/panic")).unwrap(), "10");
    }

    #[test]
    fn a_firmware_that_takes_wishes_hears_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let machine = machine(dir.path(), None);
        assert!(machine.ask_tryboot().unwrap_err().contains("takes no wishes"));
        let port = at("dev").join(VIRTUAL_FIRMWARE);
        fs::create_dir_all(port.parent().unwrap()).unwrap();
        fs::write(&port, "").unwrap();
        machine.ask_tryboot().unwrap();
        assert_eq!(fs::read_to_string(&port).unwrap(), "tryboot\n");
    }
}
