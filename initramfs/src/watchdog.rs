//! The hardware watchdog, from here until systemd takes it over.
//!
//! Opening the device arms it with the driver's own time (180 s by `modprobe.d/bramble-watchdog.conf`, or by the kernel's
//! command line where the driver is built in); closing it without the letter `V` leaves it armed. So nothing of ours has to
//! run on, and systemd finds it free. Sets no time: that needs an ioctl, for which there is no safe call.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use bramble_contracts::boot::ArmedWatchdog;

/// The one that systemd takes over, too.
const NAME: &str = "watchdog0";
/// Drivers of the machines we know; udev has loaded what it found a device for.
const DRIVERS: [&str; 2] = ["bcm2835_wdt", "i6300esb"];

/// One that is open, and has to hear from us.
pub(crate) struct Watchdog(File);

impl Watchdog {
    /// Opens it, which arms it, or begins its time anew.
    pub(crate) fn open(dev: &Path) -> Result<Self, String> {
        let path = dev.join(NAME);
        let open = OpenOptions::new().write(true).open(&path);
        open.map(Self).map_err(|err| format!("{} cannot be opened: {err}", path.display()))
    }

    /// Begins its time anew.
    pub(crate) fn pet(&mut self) -> Result<(), String> {
        self.0.write_all(b"\0").map_err(|err| format!("/dev/{NAME} does not listen: {err}"))
    }
}

/// With less time than this, in seconds, a slow disk or a merge would become a loop of resets.
const LEAST_S: u32 = 60;

/// Arms it and lets go of it.
pub(crate) fn arm(dev: &Path, sys: &Path) -> Result<ArmedWatchdog, String> {
    if !dev.join(NAME).exists() {
        for driver in DRIVERS {
            // A machine has one of them at most.
            let _absent = crate::process::run("/sbin/modprobe", &["-qb", driver]);
        }
    }
    if let Some(time) = timeout_s(sys).filter(|time| *time < LEAST_S) {
        return Err(format!("/dev/{NAME} has {time} s, and the way to systemd may take longer: it is left to systemd"));
    }
    drop(Watchdog::open(dev)?);
    seen(sys)
}

fn says(sys: &Path, name: &str) -> Option<String> {
    let path = sys.join("class/watchdog").join(NAME).join(name);
    fs::read_to_string(path).map(|text| text.trim().to_owned()).ok()
}

fn timeout_s(sys: &Path) -> Option<u32> {
    says(sys, "timeout")?.parse().ok()
}

/// What the kernel says of it. One that stopped when it was let go is told as that.
fn seen(sys: &Path) -> Result<ArmedWatchdog, String> {
    if let Some(state) = says(sys, "state").filter(|state| state != "active") {
        return Err(format!("/dev/{NAME} is {state} once it is let go: this driver cannot be armed ahead of systemd"));
    }
    Ok(ArmedWatchdog {
        device: NAME.into(),
        identity: says(sys, "identity").unwrap_or_default(),
        timeout_s: timeout_s(sys),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_whether_it_is_armed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("class/watchdog/watchdog0");
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [("identity", "i6300ESB timer\n"), ("timeout", "180\n"), ("state", "active\n")] {
            fs::write(folder.join(name), text).unwrap();
        }
        let want =
            ArmedWatchdog { device: "watchdog0".into(), identity: "i6300ESB timer".into(), timeout_s: Some(180) };
        assert_eq!(seen(dir.path()), Ok(want));
        fs::write(folder.join("state"), "inactive\n").unwrap();
        assert!(seen(dir.path()).unwrap_err().contains("inactive"));
    }

    #[test]
    fn one_with_little_time_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (dev, folder) = (dir.path().join("dev"), dir.path().join("class/watchdog/watchdog0"));
        fs::create_dir_all(&dev).unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::write(dev.join(NAME), "").unwrap();
        fs::write(folder.join("timeout"), "15\n").unwrap();
        assert!(arm(&dev, dir.path()).unwrap_err().contains("has 15 s"));
        fs::write(folder.join("timeout"), "180\n").unwrap();
        assert_eq!(arm(&dev, dir.path()).unwrap().timeout_s, Some(180));
    }

    #[test]
    fn none_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Watchdog::open(dir.path()).is_err());
        fs::write(dir.path().join(NAME), "").unwrap();
        let mut open = Watchdog::open(dir.path()).unwrap();
        open.pet().unwrap();
        drop(open);
        assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), b"\0", "never the letter that disarms");
    }
}
