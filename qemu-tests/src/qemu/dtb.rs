//! The device tree the guest gets: QEMU's own for this board, with what a Raspberry Pi's firmware adds of the boot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use xtask::run::Cmd;

use super::args::{self, Machine};
use crate::firmware::Boot;

/// Made for every boot: it holds seeds of random numbers that are used once.
pub(super) fn make(machine: &Machine, boot: &Boot, work: &Path) -> anyhow::Result<PathBuf> {
    let dtb = work.join("board.dtb");
    let dump = format!("{},dumpdtb={}", args::TYPE, dtb.display());
    let board = Cmd::new("qemu-system-aarch64").args(["-M", &dump]).args(args::board(machine));
    board.args(["-display", "none"]).within(Duration::from_secs(60)).check()?;
    let node = "/chosen/bootloader";
    Cmd::new("fdtput").args(["-c", "-p"]).arg(&dtb).arg(node).check()?;
    for (name, value) in [("partition", boot.partition), ("tryboot", u32::from(boot.tryboot))] {
        Cmd::new("fdtput").args(["-t", "u"]).arg(&dtb).args([node, name, &value.to_string()]).check()?;
    }
    Ok(dtb)
}
