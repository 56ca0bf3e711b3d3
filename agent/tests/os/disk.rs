//! What lasts on the simulated device: its volumes, both slots, and what the agent and its units have left. Decides what is
//! there and what is only named.

use std::collections::BTreeMap;

use bramble_agent::core::os::{Ledger, Sentence, Ticket, UnitResult, Verb, Volumes};
use bramble_contracts::boot::{Slot, Snapshot, Why};

/// What root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub version: u32,
    pub half: bool,
    pub stamp: Option<Ticket>,
}

/// What a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    pub version: u32,
    pub half: bool,
}

/// The snapshot of root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// None until it is tagged.
    pub tags: Option<Snapshot>,
    /// None as long as only LVM's metadata has it: the pool makes it after that, and no boot makes up for it.
    pub saved: Option<Root>,
}

/// What lasts.
#[derive(Clone, Debug)]
pub struct Disk {
    pub ledger: Ledger,
    pub snapshot: Option<Held>,
    pub root: Root,
    pub files: [Files; 2],
    pub autoboot: Option<Slot>,
    pub results: BTreeMap<Verb, UnitResult>,
    pub sentence: Option<Sentence>,
    pub put_back: Option<Why>,
    pub unreadable: u32,
}

impl Disk {
    /// Both slots and root of one version, and nothing under way.
    pub fn new(root: Root, files: Files, autoboot: Option<Slot>) -> Self {
        Self {
            ledger: Ledger::default(),
            snapshot: None,
            root,
            files: [files; 2],
            autoboot,
            results: BTreeMap::new(),
            sentence: None,
            put_back: None,
            unreadable: 0,
        }
    }

    /// The tags of the snapshot; one without them is of no upgrade.
    pub fn tagged(&self) -> Option<Snapshot> {
        self.snapshot.as_ref()?.tags
    }

    /// The same as the agent and its units see it.
    pub fn volumes(&self) -> Volumes {
        self.tagged().map_or(Volumes::Plain, Volumes::Snapshot)
    }
}
