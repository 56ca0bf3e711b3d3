//! `cargo xtask power-cuts`: starts the campaign. Decides where its rows and its page are, and how the tree is called; which
//! cuts there are, and what a device must be after one, is the business of the virtual Pi's tests.

use std::time::Duration;

use crate::prepare;
use crate::run::Cmd;
use crate::{fleet, paths, pi};

/// A campaign may go on through a night.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Cuts in all, those that have rows among them.
    pub count: u64,
    /// Which campaign.
    pub seed: u64,
    /// Begin none after so many minutes.
    pub minutes: Option<u64>,
}

/// Makes the machine ready, builds, and cuts.
///
/// # Errors
/// When the machine cannot be made ready, or a device was not as it must be.
pub fn power_cuts(asked: &Asked) -> anyhow::Result<()> {
    if !fleet::is_root() {
        return Err(fleet::again_as_root());
    }
    prepare::ready(true)?;
    pi::build()?;
    let docs = paths::checkout().join("docs");
    let mut cmd = Cmd::new(paths::built("bramble-power-cuts"))
        .args(["--count", &asked.count.to_string(), "--seed", &asked.seed.to_string(), "--commit", &tree()?])
        .arg("--rows")
        .arg(docs.join("power-cuts.tsv"))
        .arg("--page")
        .arg(docs.join("power-cuts.md"));
    if let Some(minutes) = asked.minutes {
        cmd = cmd.args(["--minutes", &minutes.to_string()]);
    }
    Ok(cmd.within(LIMIT).show()?)
}

/// The newest commit that changed more than documents, where the rows are; marked when the tree differs from it.
fn tree() -> anyhow::Result<String> {
    let git = |args: &[&str]| Cmd::new("git").args(args).args(["--", ".", ":!docs"]).dir(paths::checkout()).check();
    let commit = git(&["log", "-1", "--format=%h"])?.trim().to_owned();
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty();
    Ok(if clean { commit } else { format!("{commit}-dirty") })
}
