//! A device in good order, for tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use bramble_contracts::boot::{BootRecord, Outcome, Slot, SlotBy, Tryboot};

use super::facts::{App, Bounds, Facts, OwnUpgrade, Room, Volumes};
use super::wish::{Protection, What, Wish};
use crate::core::upgrade::{Clock, Mesh};

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

pub(super) fn facts() -> Facts {
    Facts {
        up_ms: 600_000,
        boot: "boot-1".into(),
        wish: None,
        protection: Protection::Tryboot,
        volumes: Volumes::Plain,
        booted: Some(Slot::A),
        autoboot: Some(Slot::A),
        record: Some(record(Outcome::Plain)),
        put_back: None,
        stamp: None,
        units: BTreeMap::new(),
        sentence: None,
        room: Some(Room {
            pool_free: 9 << 30,
            root: 4 << 30,
            metadata_percent: 10,
            fetch_free: 2 << 30,
            state_free: 1 << 30,
        }),
        apps: BTreeMap::from([("web".to_owned(), App { revision: 1, sick: None })]),
        mesh: Mesh::Up { since_ms: 5_000 },
        clock: Clock::Fit,
        window: Ok(()),
        own_upgrade: OwnUpgrade::Idle,
        panic: None,
        bounds: Bounds::default(),
    }
}
