//! Podman's store: is there room for images, was it damaged, does it know how to reach registries?
//!
//! Decides from which numbers on something should be looked at; the thresholds are the agent's own.

use super::{Answer, failed, look, ok};
use crate::config::Config;
use crate::core::disk::{Bytes, Disk, DiskRules};
use crate::host::facts;
use crate::host::podman::moved_aside;

/// The store of this configuration.
pub(super) fn store(config: &Config) -> impl FnOnce() -> Answer + Send + 'static {
    let config = config.clone();
    move || {
        let places = config.places();
        let set = config.podman.paths().into_iter().filter_map(|(field, path)| Some((field, path?)));
        for (field, path) in set {
            if !path.exists() {
                return failed(format!("lacks {field}: {} is not there, so pulls may fail", path.display()));
            }
        }
        if let Some(aside) = moved_aside(&places.store) {
            return look(format!(
                "was damaged, and that part moved to {}; remove it when nobody wants to look at it",
                aside.display()
            ));
        }
        judge(facts::space(&config.apps_dir), &places.rules)
    }
}

fn judge(disk: Disk, rules: &DiskRules) -> Answer {
    let (free, low, reserve) = (Bytes(disk.free), Bytes(rules.low(disk)), Bytes(rules.reserve(disk)));
    if free < reserve {
        return failed(format!("takes no images: {free} are free, and {reserve} are to stay free; make room"));
    }
    if free < low {
        return look(format!("has {free} free; below {low} images that no app needs are removed"));
    }
    ok(format!("has {free} free; images come in as long as {reserve} stay free"))
}

#[cfg(test)]
mod tests {
    use bramble_contracts::smoke::CheckState;

    use super::*;

    #[test]
    fn room_is_judged_as_the_agent_judges_it() {
        let rules = DiskRules::default();
        let of = |free_mib: u64| judge(Disk { free: free_mib << 20, total: 8 << 30 }, &rules);
        assert_eq!(of(4096).0, CheckState::Passed);
        let (state, words) = of(900);
        assert_eq!(
            (state, words.as_str()),
            (CheckState::Look, "has 900 MiB free; below 1.0 GiB images that no app needs are removed")
        );
        let (state, words) = of(100);
        assert_eq!(state, CheckState::Failed);
        assert_eq!(words, "takes no images: 100 MiB are free, and 512 MiB are to stay free; make room");
    }
}
