//! What is so at the moment: gathered just before a step is decided.
//!
//! Decides only what counts as a change worth a step.

use std::path::Path;

use bramble_contracts::release::Target;
use bramble_contracts::v1::{AgentVersion, Instance};
use bramble_contracts::v2::AgentWish;

use super::Site;
use crate::core::upgrade::{Facts, Lease, Ledger, Links, Starts};
use crate::host::clock::up_ms;
use crate::host::facts;
use crate::host::instances::{Link, starts};
use crate::mesh::board::View;
use crate::mesh::standing::Standing;
use crate::version;

/// What was seen last.
pub(super) struct Sight {
    boot: String,
    /// For which machines this program is; none where it does not replace itself.
    target: Option<Target>,
    standing: Standing,
    wish: Option<AgentWish>,
    /// What `confirmed` named at the start, or else this very program.
    confirmed: AgentVersion,
}

impl Sight {
    pub(super) fn new(site: &Site) -> Self {
        let links = links(site);
        let replaces_itself =
            links.is_some() && site.manager.is_some() && runs_from(&site.config.state_dir.join("bin"));
        Self {
            boot: facts::boot_id(),
            target: replaces_itself.then(version::target),
            standing: Standing::new(),
            wish: None,
            confirmed: links.map_or_else(version::number, |links| links.confirmed),
        }
    }

    /// Of a device whose ledger is lost, or that never had one.
    pub(super) fn new_ledger(&self, instance: Instance) -> Ledger {
        Ledger::new(self.confirmed, instance)
    }

    /// Takes in what the agent knows of itself; true when that can make a difference to an upgrade.
    pub(super) fn saw(&mut self, view: &View) -> bool {
        let wish = view.desired.as_ref().and_then(|document| document.agent.clone());
        // While it does not act it holds no document; what it knew last stays.
        let wish = if view.desired.is_some() { wish } else { self.wish.clone() };
        let is_new_wish = wish != self.wish;
        self.wish = wish;
        self.standing.saw(view) || is_new_wish
    }

    /// All of it, with what the disk said last.
    pub(super) fn facts(&self, site: &Site, disk: &Disk, ledger: &Ledger, held: bool) -> Facts {
        let Self { boot, target, standing, wish, .. } = self;
        Facts {
            up_ms: up_ms(),
            boot: boot.clone(),
            own: version::number(),
            instance: site.config.instance,
            lease: if held { Lease::Held } else { Lease::NotHeld },
            links: disk.links.filter(|_| target.is_some()),
            target: target.clone(),
            wish: wish.clone(),
            mesh: standing.mesh,
            clock: standing.clock(),
            free_bytes: disk.free_bytes,
            floor: disk.floor,
            guard: disk.starts.of(ledger),
            system: site.between.system(),
            bounds: site.config.bounds(),
        }
    }
}

/// What is on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    links: Option<Links>,
    free_bytes: u64,
    floor: u64,
    starts: Starts,
    pub(super) keys_version: u64,
}

impl Disk {
    /// Looks; waits for the disk.
    pub(super) fn look(site: &Site) -> Self {
        Self {
            links: links(site),
            free_bytes: facts::space(&site.config.state_dir).free,
            // One that cannot be read lets nothing in.
            floor: site.files.floor().unwrap_or(u64::MAX),
            starts: starts(&site.config.state_dir),
            keys_version: site.files.keys().ok().flatten().map_or(0, |keys| keys.version),
        }
    }
}

fn links(site: &Site) -> Option<Links> {
    let target = |link| site.binaries.target(link);
    Some(Links { current: target(Link::Current)?, confirmed: target(Link::Confirmed)? })
}

/// Only an agent that is one of the binaries can be replaced by another.
fn runs_from(dir: &Path) -> bool {
    let (exe, dir) = (std::env::current_exe(), std::fs::canonicalize(dir));
    matches!((exe, dir), (Ok(exe), Ok(dir)) if exe.parent() == Some(dir.as_path()))
}
