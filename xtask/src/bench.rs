//! Starts the benchmarks. What is measured, and against what, is the business of the fleet tests' `bench` program.

use std::time::Duration;

use crate::prepare::{self, Need};
use crate::run::Cmd;
use crate::{fleet, paths};

/// Makes the machine ready, builds in the release profile and measures.
///
/// # Errors
/// When the machine cannot be made ready or the program fails.
pub fn bench(args: &[String]) -> anyhow::Result<()> {
    if !fleet::is_root() {
        return Err(fleet::again_as_root());
    }
    prepare::packages(Need::Tests)?;
    prepare::cgroups()?;
    prepare::nats_server()?;
    let cargo = || {
        let cargo = Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.dir(paths::checkout()).within(Duration::from_secs(3600))
    };
    let programs = ["-p", "bramble-coordinator", "-p", "bramble-agent", "-p", "bramble-cli"];
    cargo().args(["build", "--release", "--quiet"]).args(programs).show()?;
    cargo()
        .args(["run", "--release", "--quiet", "-p", "bramble-fleet-tests", "--bin", "bench", "--"])
        .args(args)
        .show()?;
    Ok(())
}
