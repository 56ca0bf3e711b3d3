//! Where the simulated kernel leads host ports, and whether somebody healthy is behind them.

use std::time::Duration;

use super::{Link, SimContainer, SimHost};
use crate::core::app::{AppKey, Role};
use crate::core::have::SeenState;
use crate::core::mapping::Mapping;
use crate::core::step::{Outcome, StepError};
use crate::supervise::HostEvent;

impl SimHost {
    /// The kernel's tables can be changed or not.
    pub fn set_nft(&self, link: Link) {
        self.state().nft = link;
    }

    /// Somebody removes every table there is.
    pub fn flush_tables(&self) {
        self.state().mappings.clear();
        self.tell(HostEvent::Everything);
    }

    /// So long are connections to a container open after another one has taken its place.
    pub fn set_drain(&self, time: Duration) {
        self.state().drain_time = time;
    }

    /// Where the host ports of apps lead.
    pub fn mappings(&self) -> Vec<Mapping> {
        self.state().mappings.values().cloned().collect()
    }

    /// From now on it is noted when no healthy container is behind this app's host ports, at any effect.
    pub fn guard(&self, key: Option<AppKey>) {
        let mut state = self.state();
        state.guarded = key;
        state.unserved.clear();
    }

    /// What was noted.
    pub fn unserved(&self) -> Vec<String> {
        self.state().unserved.clone()
    }

    /// Notes when nobody serves the guarded app.
    pub(super) fn look_at_ports(&self, when: &str) {
        let mut state = self.state();
        let Some(key) = &state.guarded else { return };
        let healthy = |thing: &SimContainer| {
            let members = || state.things.values().filter(|c| c.pod.as_ref() == Some(&thing.seen.id));
            let parts: Vec<&SimContainer> =
                if thing.seen.role == Role::Pod { members().collect() } else { vec![thing] };
            parts.iter().all(|c| c.seen.state == SeenState::Running && !state.sick.contains(&c.image))
        };
        let served = state.mappings.get(key).is_some_and(|mapping| {
            let behind = |thing: &&SimContainer| mapping.leads_to(&thing.seen.addresses);
            state.things.values().find(behind).is_some_and(healthy)
        });
        if !served {
            state.unserved.push(when.to_owned());
        }
    }

    /// Leads ports, or closes them.
    pub(super) fn map(&self, key: &AppKey, mapping: Option<&Mapping>) -> Result<Outcome, StepError> {
        let mut state = self.state();
        if state.nft == Link::Down {
            return Err(StepError::Refused("cannot start nft; is it installed and on PATH?".into()));
        }
        match mapping {
            Some(mapping) => state.mappings.insert(key.clone(), mapping.clone()),
            None => state.mappings.remove(key),
        };
        Ok(Outcome::Done)
    }
}
