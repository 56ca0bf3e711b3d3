//! One look at what lasts: the volume group, autoboot.txt and root's own word, in this order.
//!
//! Only a privileged unit can do it; the agent reads what it leaves. What cannot be read is told as that.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bramble_contracts::boot::{GROUP, ONE_SET, Slot, WORDS_APART, autoboot};
use serde::{Deserialize, Serialize};

use super::files::{self, Files};
use super::lvm::{self, Pool};
use super::machine::Machine;
use super::mounts::Mounted;
use crate::core::os::{Ground, Ticket, Volumes};
use crate::host::cmd::{self, Bounds};
use crate::host::facts;

/// LVM's commands take moments; a slow card takes longer.
const TOOL: Bounds = Bounds { time: Duration::from_secs(300), output_bytes: 256 * 1024 };
const LVM: &str = "/usr/sbin/lvm";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// In which boot.
    pub boot: String,
    /// The volume group.
    pub volumes: Volumes,
    /// The pool that root lies in; absent where it cannot be read.
    pub pool: Option<Pool>,
    /// The slot that autoboot.txt names.
    pub autoboot: Option<Slot>,
    /// Which run made this root.
    pub stamp: Option<Ticket>,
}

impl Seen {
    /// As what a unit's condition is judged by.
    pub(super) fn ground(self, machine: &Machine) -> Ground {
        let Self { volumes, autoboot, stamp, .. } = self;
        Ground { volumes, booted: machine.booted(), autoboot, stamp, protection: machine.tier() }
    }
}

/// Runs one of LVM's commands.
pub(super) async fn lvm(args: &[&str]) -> Result<String, String> {
    let done = cmd::run_env(Path::new(LVM), args, &[WORDS_APART], TOOL).await.map_err(|err| err.to_string())?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let word = done.stderr.trim().lines().last().unwrap_or("it says nothing");
    Err(format!("lvm {}: {word}", args.first().unwrap_or(&"")))
}

/// Looks.
pub(super) async fn seen(files: &Files) -> Seen {
    let printed = lvm(&[&["lvs"], lvm::ARGS, &[GROUP]].concat()).await;
    let (volumes, pool) = match printed {
        Ok(printed) => (lvm::volumes(&printed), lvm::pool(&printed)),
        Err(why) => (Volumes::Unreadable(why), None),
    };
    // With one set of boot files nothing names a slot.
    let autoboot = if Path::new(ONE_SET).exists() { None } else { named(files) };
    Seen { boot: facts::boot_id(), volumes, pool, autoboot, stamp: files.stamp() }
}

/// The slot that autoboot.txt names.
fn named(files: &Files) -> Option<Slot> {
    let text = Mounted::first(&files.run("os-first"))
        .and_then(|first| fs::read_to_string(first.at().join("autoboot.txt")).map_err(|err| err.to_string()));
    if let Err(why) = &text {
        tracing::warn!(why, "autoboot.txt cannot be read");
    }
    autoboot(&text.ok()?)
}

/// Looks, and leaves what it saw for the agent.
///
/// # Errors
/// It cannot be left.
pub async fn look(files: &Files) -> anyhow::Result<()> {
    let seen = seen(files).await;
    Ok(files::put(&files.seen_path(), &serde_json::to_vec(&seen)?)?)
}
