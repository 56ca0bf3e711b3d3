//! A wish and a boot, for tests.

use bramble_contracts::boot::{BootRecord, Outcome, Slot, SlotBy, Tryboot};

use super::wish::{Protection, What, Wish};

pub(super) fn wish(attempt: u32) -> Wish {
    Wish { id: "w1".into(), attempt, least: Protection::Tryboot, what: What::Full, ..Wish::unknown() }
}

pub(super) fn record(outcome: Outcome) -> BootRecord {
    BootRecord {
        format: BootRecord::FORMAT,
        slot: Slot::A,
        slot_by: SlotBy::Firmware,
        tryboot: Tryboot::Clear,
        autoboot: Some(Slot::A),
        outcome,
        watchdog: None,
        trouble: vec![],
    }
}
