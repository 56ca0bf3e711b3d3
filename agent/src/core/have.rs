//! What is there: Podman's answer, sorted into ours, lost and strangers' by the record.

use std::collections::BTreeMap;

use bramble_contracts::Name;

use super::app::Role;
use super::heal::Wounds;
use super::mapping::{Address, Mapping, Publisher};
use super::record::{Instance, Record};

/// What state something is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeenState {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Ended.
    Exited,
    /// Frozen by somebody; left alone.
    Paused,
    /// Its removal was begun, and perhaps cut off: it never runs again.
    Removing,
    /// In between; look again.
    Unsettled,
}

/// A container or pod that carries our labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Podman's id.
    pub id: String,
    /// Name in Podman.
    pub podman_name: String,
    /// Which container of the deployment.
    pub name: Name,
    /// What for.
    pub role: Role,
    /// Spec hash.
    pub hash: String,
    /// Boot it was made in.
    pub boot: String,
    /// Revision it was made for.
    pub revision: u64,
    /// Nonce.
    pub nonce: String,
    /// Who leads host ports to it.
    pub publisher: Publisher,
    /// Where it is reached, while it runs; known only where the agent leads host ports to it.
    pub addresses: Vec<Address>,
    /// State.
    pub state: SeenState,
    /// Exit code, when exited.
    pub exit_code: i32,
    /// The kernel killed it for its memory.
    pub oom_killed: bool,
    /// By the device's wall clock, for people.
    pub started_at_ms: u64,
    /// Image id.
    pub image_id: String,
    /// Its last lines, when it exited with an error.
    pub last_lines: Vec<String>,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSeen {
    /// Id without `sha256:`.
    pub id: String,
    /// Digest of its manifest.
    pub digest: String,
}

/// One look at one app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whatever carries the app's labels.
    pub seen: Vec<Seen>,
    /// The images that were asked about; absent ones are missing.
    pub images: BTreeMap<String, ImageSeen>,
    /// The app's own nftables table; `None` when there is none.
    pub mapping: Option<Mapping>,
    /// What of it is broken.
    pub wounds: Wounds,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Have {
    /// Made by us: labels and recorded nonce agree.
    pub ours: Vec<Seen>,
    /// Labelled like ours, but not made by us: never touched.
    pub strangers: Vec<Seen>,
    /// Recorded, but not there: removed by somebody, or never made.
    pub lost: Vec<(String, Instance)>,
    /// Images in the store.
    pub images: BTreeMap<String, ImageSeen>,
    /// The app's own nftables table.
    pub mapping: Option<Mapping>,
    /// What of it is broken; for the planner: what of it is to be mended now.
    pub wounds: Wounds,
}

impl Have {
    /// Sorts one look by the record.
    pub fn sort(observed: Observed, record: &Record) -> Self {
        let Observed { mut seen, images, mapping, wounds } = observed;
        seen.sort_by(|a, b| (a.role, &a.name, &a.id).cmp(&(b.role, &b.name, &b.id)));
        let (ours, strangers): (Vec<Seen>, Vec<Seen>) = seen.into_iter().partition(|seen| {
            let known = record.instances.get(&seen.nonce);
            known.is_some_and(|i| {
                i.name == seen.name && i.role == seen.role && i.id.as_ref().is_none_or(|id| *id == seen.id)
            })
        });
        let there = |nonce: &String| ours.iter().any(|seen| seen.nonce == *nonce);
        let lost = record.instances.iter().filter(|(nonce, _)| !there(nonce));
        let lost = lost.map(|(nonce, i)| (nonce.clone(), i.clone())).collect();
        Self { ours, strangers, lost, images, mapping, wounds }
    }

    /// What is of this spec, and the rest: each looks like all there is.
    pub fn split(&self, hash: &str) -> (Self, Self) {
        let part = |keep: &dyn Fn(&str) -> bool| Self {
            ours: self.ours.iter().filter(|seen| keep(&seen.hash)).cloned().collect(),
            strangers: Vec::new(),
            lost: self.lost.iter().filter(|(_, instance)| keep(&instance.hash)).cloned().collect(),
            images: self.images.clone(),
            mapping: self.mapping.clone(),
            wounds: self.wounds.clone(),
        };
        (part(&|other| other == hash), part(&|other| other != hash))
    }

    /// Ours of that role and spec.
    pub fn of<'a>(&'a self, role: Role, hash: &'a str) -> impl Iterator<Item = &'a Seen> {
        self.ours.iter().filter(move |seen| seen.role == role && seen.hash == hash)
    }

    /// The container of that name and spec.
    pub fn find<'a>(&'a self, role: Role, hash: &'a str, name: &Name) -> Option<&'a Seen> {
        self.of(role, hash).find(|seen| seen.name == *name)
    }
}
