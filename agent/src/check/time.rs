//! The clock: what can be seen alone, which is whether it is before the floor, and else what the running agent found.
//!
//! Decides nothing about time; `core::clock` does.

use bramble_contracts::v2::ClockVerdict;

use super::{Answer, failed, look, ok};
use crate::config::Config;
use crate::core::clock::{self as core, Floor, StoredFloor, Told};
use crate::host::clock as host;
use crate::host::lease;
use crate::mesh::guard;
use crate::status::Status;

pub(super) fn clock(config: &Config) -> impl FnOnce() -> Answer + Send + 'static {
    let config = config.clone();
    move || judge(&config)
}

fn judge(config: &Config) -> Answer {
    let stored = match guard::floor_file(&config.state_dir).load_json::<StoredFloor>() {
        Ok(loaded) => loaded.value().map_or(0, |floor| floor.trusted_ms),
        Err(err) => return failed(format!("has no floor: {err}")),
    };
    let floor = Floor { built_ms: host::built_ms(), trusted_ms: stored };
    let alone = core::judge(floor, &Told::default(), host::now()).report;
    let told = Status::of_device(config).filter(|_| lease::is_held(&config.state_dir) && !alone.is_wrong());
    let report = told.map_or(alone, |status| status.clock);
    let now = format!("says {} (floor {})", core::date_of(host::wall_ms()), core::date_of(floor.ms()));
    match report.verdict {
        ClockVerdict::Fit => ok(format!("{now}, {}", core::words(&report))),
        ClockVerdict::Unknown => ok(format!("{now}, not before the floor; {}", report.detail)),
        ClockVerdict::Skewed | ClockVerdict::Disputed => look(format!("{now}: {}", report.detail)),
    }
}
