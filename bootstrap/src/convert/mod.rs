//! Turns a root on a plain partition into a thin volume of a volume group, once, so that upgrades of the operating system
//! have a way back.
//!
//! The running system only prepares. The initramfs makes the new root in the old one's free space, turns the partition
//! table, and starts again; the new root has to prove itself before the old one is given up. Why so:
//! docs/adr/0017-conversion-in-place.md.

mod boot;
mod build;
mod compare;
mod dress;
mod dump;
mod guard;
mod journal;
mod layout;
mod lvmtext;
mod machine;
mod place;
mod preflight;
mod prepare;
mod running;
mod table;
mod texts;
mod tools;

use std::path::PathBuf;

use prepare::Wanted;

/// What is wanted of the conversion. Without an option: looks whether this machine can be converted, and touches nothing.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Convert {
    /// Prepare it: root becomes a volume at the next start.
    #[arg(long, group = "wanted")]
    convert_root_to_lvm: bool,
    /// Say how far it is.
    #[arg(long, group = "wanted")]
    status: bool,
    /// Not begin, or go back to the old root while the new one is on trial. What was written meanwhile is lost.
    #[arg(long, group = "wanted")]
    back: bool,
    /// Called by bramble-convert.timer.
    #[arg(long, group = "wanted", hide = true)]
    confirm: bool,
    /// Called by the initramfs.
    #[arg(long, group = "wanted", hide = true)]
    in_initramfs: bool,
    /// Called by the initramfs for the new root.
    #[arg(long, group = "wanted", hide = true, value_name = "DIR")]
    inside: Option<PathBuf>,
}

/// Does it. `tell` hears what a person should know.
///
/// # Errors
/// What cannot be done, and why.
pub(crate) fn run(wish: &Convert, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    if let Some(root) = &wish.inside {
        return dress::run_inside(root, tell);
    }
    if wish.in_initramfs {
        boot::run_in_initramfs();
        return Ok(());
    }
    if wish.confirm {
        return running::confirm(tell);
    }
    if wish.back {
        return running::back(tell);
    }
    if wish.status {
        tell(running::status()?);
        return Ok(());
    }
    prepare::prepare(if wish.convert_root_to_lvm { Wanted::Convert } else { Wanted::Look }, tell)
}
