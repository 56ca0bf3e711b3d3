//! One run of QEMU, from power-on to the next reset: its command line, its process, its QMP socket.
//!
//! Decides how the machine looks and how an end is told apart: the guest asked for a reset (by itself or because its
//! watchdog ran out), it switched itself off, or QEMU was killed. Every run is one boot (`-no-reboot`): what is started
//! next is the firmware's matter.

mod args;
mod dtb;
mod qmp;

use std::fs;
use std::io::PipeReader;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

pub use args::{Forward, Machine, Wire};

use crate::board::Cable;
use crate::firmware::Boot;
use qmp::Qmp;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest was reset: by its own reboot, a panic, or a watchdog.
    Reset {
        /// Did a watchdog run out?
        watchdog: bool,
    },
    /// The guest switched itself off.
    Off,
    /// QEMU was killed, or ended by itself with an error.
    Gone(String),
}

/// Where the sockets of a machine lie.
#[derive(Debug, Clone)]
pub struct Sockets {
    dir: PathBuf,
}

impl Sockets {
    /// In a folder with a short path.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        Sockets { dir: dir.into() }
    }

    /// QEMU's own.
    #[must_use]
    pub fn qmp(&self) -> PathBuf {
        self.dir.join("qmp")
    }

    /// The control channel's.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// The one the guest writes its wishes to the firmware to.
    #[must_use]
    pub fn firmware(&self) -> PathBuf {
        self.dir.join("firmware")
    }

    fn remove(&self) {
        for socket in [self.qmp(), self.control(), self.firmware()] {
            // Not there is as good.
            drop(fs::remove_file(socket));
        }
    }
}

/// One running QEMU. Killed when dropped; also when the thread that started it ends.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    qmp: Qmp,
}

impl Qemu {
    /// Starts what the firmware decided. `files` is where the partition's files lie, `work` a folder of the machine's.
    /// Gives the guest's serial line too.
    ///
    /// # Errors
    /// When QEMU does not start.
    #[allow(clippy::disallowed_methods, reason = "this module starts the one process that a machine is")]
    pub fn start(machine: &Machine, boot: &Boot, files: &Path, work: &Path) -> anyhow::Result<(Self, PipeReader)> {
        fs::create_dir_all(&machine.sockets.dir)?;
        machine.sockets.remove();
        let dtb = dtb::make(machine, boot, work)?;
        let (serial, out) = std::io::pipe().context("cannot make a pipe")?;
        // The kernel kills it when our thread ends, however that happens.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-aarch64"]).args(args::of(machine, boot, files, &dtb));
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let mut child = command.spawn().context("cannot start QEMU")?;
        drop(command);
        match Qmp::connect(&machine.sockets.qmp(), Duration::from_secs(60), || {
            child.try_wait().ok().flatten().is_some()
        }) {
            Ok(qmp) => Ok((Qemu { child, qmp }, serial)),
            Err(err) => {
                drop(child.kill());
                drop(child.wait());
                let mut said = String::new();
                drop(std::io::Read::read_to_string(&mut { serial }, &mut said));
                Err(err.context(format!("QEMU did not start: {}", said.trim())))
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One command to QEMU itself.
    ///
    /// # Errors
    /// When it refuses or has ended.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        self.qmp.ask(command, arguments)
    }

    /// Pulls the network cable, or plugs it in.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn plug(&mut self, cable: Cable) -> anyhow::Result<()> {
        let arguments = json!({ "name": args::NETWORK, "up": cable == Cable::In });
        self.ask("set_link", &arguments).map(drop)
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<End> {
        let status = self.child.try_wait().ok().flatten()?;
        let events = self.qmp.events_to_the_end();
        let is = |name: &str| events.iter().any(|event| event["event"] == name);
        let why = events.iter().rev().find(|event| event["event"] == "SHUTDOWN").map(|event| &event["data"]["reason"]);
        Some(match why.and_then(Value::as_str) {
            Some("guest-reset" | "guest-panic" | "host-qmp-system-reset") => End::Reset { watchdog: is("WATCHDOG") },
            Some("guest-shutdown") => End::Off,
            Some(other) => End::Gone(other.into()),
            None => End::Gone(status.to_string()),
        })
    }

    /// Power off, as when the plug is pulled: nothing is written any more.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}
