//! What one run remembers of an app: of the spec in charge, and of a wanted one that is brought up beside it.

use std::time::Duration;

use crate::core::app::App;
use crate::core::have::Have;
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
    /// Takes in one look, at the spec in charge and at one that is not in charge yet.
    pub(super) fn saw(&mut self, have: &Have, in_charge: Option<&App>, trial: Option<&App>, now: Duration) {
        if let Some(app) = in_charge {
            self.in_charge.saw(have, app, now);
        }
        if let Some(app) = trial {
            self.beside.saw(have, app, now);
        }
    }

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
