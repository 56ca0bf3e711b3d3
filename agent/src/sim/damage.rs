//! Damaged storage and a full disk, simulated: what Podman would answer, and what mends it.

use std::collections::{BTreeMap, BTreeSet};

use super::{SimHost, State};
use crate::core::disk::{self, Admit, Disk, DiskRules};
use crate::core::have::SeenState;
use crate::core::heal::{Damage, Wounds};
use crate::core::step::{Outcome, PullNeed, StepError};

/// What is damaged.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Ids of containers whose storage cannot be mounted.
    containers: BTreeSet<String>,
    /// Names of containers that are damaged as soon as they are made.
    cursed: BTreeSet<String>,
    /// Images that cannot be read.
    images: BTreeSet<String>,
    /// Images whose files are gone, which Podman does not notice.
    hollow: BTreeSet<String>,
    /// Room, and what images need of it; without it there is enough.
    disk: Option<Disk>,
    needs: BTreeMap<String, u64>,
}

impl SimHost {
    /// The storage of that container of that name is damaged.
    pub fn damage_container(&self, name: &str) {
        let mut state = self.state();
        let ids: Vec<String> =
            state.things.values().filter(|c| c.seen.name.as_str() == name).map(|c| c.seen.id.clone()).collect();
        state.store.containers.extend(ids);
    }

    /// Containers of that name are damaged, and all that come after them, as on a disk that is broken.
    pub fn curse_container(&self, name: &str) {
        self.state().store.cursed.insert(name.to_owned());
    }

    /// The image can neither be read nor used.
    pub fn damage_image(&self, image: &str) {
        self.state().store.images.insert(image.to_owned());
    }

    /// The image's files are gone.
    pub fn hollow_image(&self, image: &str) {
        self.state().store.hollow.insert(image.to_owned());
    }

    /// Nothing that is there is damaged.
    pub fn is_whole(&self) -> bool {
        let state = self.state();
        let lame = state.things.keys().any(|id| state.store.containers.contains(id));
        !lame && state.store.images.is_empty() && state.store.hollow.is_empty()
    }

    /// The disk has so much room, and the image needs so much.
    pub fn set_room(&self, disk: Disk, image: &str, need: u64) {
        let mut state = self.state();
        state.store.disk = Some(disk);
        state.store.needs.insert(image.to_owned(), need);
    }
}

impl State {
    /// What a look shows of it.
    pub(super) fn wounds(&self, images: &[String]) -> Wounds {
        let broken = self.store.images.iter().filter(|image| images.contains(image));
        let exited = |id: &&String| self.things.get(*id).is_some_and(|c| c.seen.state == SeenState::Exited);
        let lame = self.store.containers.iter().filter(exited);
        Wounds {
            containers: lame.map(|id| (id.clone(), "layer not known".to_owned())).collect(),
            images: broken.map(|image| (image.clone(), "layer not known".to_owned())).collect(),
        }
    }

    pub(super) fn is_readable(&self, image: &str) -> bool {
        !self.store.images.contains(image)
    }

    pub(super) fn is_hollow(&self, image: &str) -> bool {
        self.store.hollow.contains(image)
    }

    pub(super) fn usable_image(&self, image: &str) -> Result<(), StepError> {
        if self.is_readable(image) { Ok(()) } else { Err(damaged(Damage::Image)) }
    }

    pub(super) fn usable_container(&self, id: &str) -> Result<(), StepError> {
        let cursed = self.things.get(id).is_some_and(|c| self.store.cursed.contains(c.seen.name.as_str()));
        if cursed || self.store.containers.contains(id) { Err(damaged(Damage::Container)) } else { Ok(()) }
    }

    pub(super) fn examine(&self, image: &str) -> Result<Outcome, StepError> {
        if self.is_hollow(image) { Err(damaged(Damage::Image)) } else { Ok(Outcome::Done) }
    }

    pub(super) fn admit(&self, image: &str) -> Result<(), StepError> {
        let Some(disk) = self.store.disk else { return Ok(()) };
        let need = self.store.needs.get(image).copied().unwrap_or_default();
        match disk::admit(image, need, disk, &DiskRules::default(), 0) {
            Ok(Admit::Fits | Admit::AfterCollecting(_)) => Ok(()),
            Err(err) => Err(StepError::Refused(err.to_string())),
        }
    }

    /// A pull that repairs removes the image first, with what is made of it; any other fetches nothing that is there.
    pub(super) fn pulled(&mut self, image: &str, need: PullNeed) {
        if need == PullNeed::Repair {
            if self.store.hollow.remove(image) {
                self.things.retain(|_, c| c.image != image);
            }
            self.store.images.remove(image);
        }
        self.images.insert(image.to_owned());
    }
}

fn damaged(damage: Damage) -> StepError {
    StepError::Damaged { damage, why: "layer not known".into() }
}
