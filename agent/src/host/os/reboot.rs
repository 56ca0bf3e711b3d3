//! Booting again, plainly or into the other slot once, in good order or by force.
//!
//! Decides how firmware is asked: before anything is stopped, so that one that does not take the wish costs nothing.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::core::os::{self, Manner};
use crate::host::cmd::{self, Bounds};

/// Where the firmware model of virtual Pis listens.
const VIRTUAL_FIRMWARE: &str = "/dev/virtio-ports/org.bramble.firmware";
const MAILBOX: &str = "/dev/vcio";
/// `SET_REBOOT_FLAGS`, four bytes in, none out, the flag.
const ASK: [&str; 4] = ["0x00038064", "4", "0", "1"];

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Into what.
    pub into: os::Way,
    /// In which manner.
    pub manner: Manner,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self { into: os::Way::Plain, manner: Manner::Orderly },
        Self { into: os::Way::Plain, manner: Manner::Forced },
        Self { into: os::Way::Trial, manner: Manner::Orderly },
        Self { into: os::Way::Trial, manner: Manner::Forced },
    ];

    /// In the name of its unit.
    pub const fn name(self) -> &'static str {
        match (self.into, self.manner) {
            (os::Way::Plain, Manner::Orderly) => "reboot",
            (os::Way::Plain, Manner::Forced) => "reboot-force",
            (os::Way::Trial, Manner::Orderly) => "reboot-trial",
            (os::Way::Trial, Manner::Forced) => "reboot-trial-force",
        }
    }
}

/// Boots again; returns when that is under way. With one set of boot files a trial is a plain boot that the guard counts.
///
/// # Errors
/// Firmware that does not take the wish, or systemd that does not.
pub async fn reboot(way: Way, has_slots: bool) -> anyhow::Result<()> {
    nix::unistd::sync();
    match way.into {
        os::Way::Trial if has_slots => ask_tryboot().await.map_err(anyhow::Error::msg)?,
        os::Way::Plain | os::Way::Trial => {}
    }
    let args: &[&str] = match way.manner {
        Manner::Orderly => &["--no-block", "reboot"],
        Manner::Forced => &["--force", "reboot"],
    };
    let done = cmd::run(Path::new("systemctl"), args, Bounds::default()).await?;
    anyhow::ensure!(done.status.success(), "systemctl does not reboot: {}", done.stderr.trim());
    Ok(())
}

async fn ask_tryboot() -> Result<(), String> {
    let port = Path::new(VIRTUAL_FIRMWARE);
    if port.exists() {
        let write = OpenOptions::new().write(true).open(port).and_then(|mut port| port.write_all(b"tryboot\n"));
        return write.map_err(|err| format!("{}: {err}", port.display()));
    }
    if !Path::new(MAILBOX).exists() {
        return Err(format!("this firmware takes no wishes: neither {MAILBOX} nor a port of a virtual Pi is there"));
    }
    let bounds = Bounds { time: Duration::from_secs(20), ..Bounds::default() };
    let done = cmd::run(Path::new("vcmailbox"), &ASK, bounds).await.map_err(|err| err.to_string())?;
    if done.status.success() { Ok(()) } else { Err(format!("vcmailbox: {}", done.stderr.trim())) }
}
