//! What one run remembers of an app: of the spec in charge, and of a wanted one that is brought up beside it.

use crate::core::memory::Memory;

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// The spec's in charge.
    InCharge,
    /// A wanted spec's, that is brought up beside it.
    Beside,
}

/// Both.
#[derive(Debug, Default)]
pub(super) struct Memories {
    pub(super) in_charge: Memory,
    pub(super) beside: Memory,
}

impl Memories {
    /// The one that a step of this lane is told to.
    pub(super) fn of(&mut self, lane: Lane) -> &mut Memory {
        match lane {
            Lane::InCharge => &mut self.in_charge,
            Lane::Beside => &mut self.beside,
        }
    }

    /// What runs in the background is told to both: each knows what is its own.
    pub(super) fn each(&mut self) -> [&mut Memory; 2] {
        [&mut self.in_charge, &mut self.beside]
    }

    /// The one beside took charge.
    pub(super) fn turn(&mut self) {
        self.in_charge.promote(std::mem::take(&mut self.beside));
    }
}
