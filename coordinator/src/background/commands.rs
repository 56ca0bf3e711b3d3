//! Commands to devices: addressed to one run of one agent, counted, and bound in time by the device's own clock.
//!
//! Decides: session, counter and expiry. Counters begin at the wall clock's milliseconds, so that they grow across
//! coordinators of one session. Deliberately does not: carry the bytes; `mesh` does.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bramble_contracts::{
    SessionId,
    id::DeviceId,
    v1::{Command, Verb},
};

use crate::domain::{Now, fleet::Beat, liveness::Heard};

/// Sessions remembered at most; the ones of devices not commanded for longest are forgotten (their counter then comes
/// from the clock again, which is above).
const MAX_SESSIONS: usize = 4096;

/// A command that cannot be addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no heartbeat of the device was heard since this coordinator started: wait until it is online")]
pub struct NotHeard;

/// The counters of sessions.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<DeviceId, (SessionId, u64)>>);

impl Counters {
    /// Addresses `verb` to the run of the agent that sent `beat`.
    pub fn address(
        &self,
        device: &DeviceId,
        beat: Option<&Beat>,
        verb: Verb,
        ttl: Duration,
        now: Now,
    ) -> Result<Command, NotHeard> {
        let beat = beat.ok_or(NotHeard)?;
        let Heard::At(heard) = beat.heard else { return Err(NotHeard) };
        let elapsed = now.mono_ms.saturating_sub(heard.mono_ms);
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Ok(Command {
            device: device.clone(),
            session: beat.heartbeat.session,
            counter: self.next(device, beat.heartbeat.session, now.wall_ms),
            expires_uptime_ms: beat.heartbeat.uptime_ms.saturating_add(elapsed).saturating_add(ttl_ms),
            verb,
        })
    }

    fn next(&self, device: &DeviceId, session: SessionId, wall_ms: u64) -> u64 {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from_clock = wall_ms << 16;
        let last = counters.get(device).filter(|(s, _)| *s == session).map_or(0, |(_, last)| *last);
        let counter = from_clock.max(last + 1);
        if counters.len() >= MAX_SESSIONS && !counters.contains_key(device) {
            counters.pop_first();
        }
        counters.insert(device.clone(), (session, counter));
        counter
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::{bytes::Fixed, v1::Heartbeat};

    use super::*;

    #[test]
    fn counters_grow_also_when_the_clock_goes_back_and_expiry_is_the_devices_time() {
        let heartbeat = Heartbeat {
            session: Fixed([1; 8]),
            instance: bramble_contracts::v1::Instance::A,
            seq: 1,
            uptime_ms: 1000,
            generation: bramble_contracts::Generation(1),
            version: "0.1.0".parse().unwrap(),
            newest_document: 1,
            health: bramble_contracts::v1::Health::Healthy,
        };
        let beat = Beat { heartbeat, heard: Heard::At(Now { wall_ms: 5, mono_ms: 100 }) };
        let (counters, id) = (Counters::default(), DeviceId::from_entropy([1; 13]));
        let at = |wall_ms, mono_ms| {
            let now = Now { wall_ms, mono_ms };
            counters.address(&id, Some(&beat), Verb::Desired, Duration::from_secs(1), now).unwrap()
        };
        let (a, b) = (at(1000, 300), at(900, 300));
        assert!(b.counter > a.counter);
        assert_eq!(a.expires_uptime_ms, 1000 + 200 + 1000);
        let once = Beat { heard: Heard::Once, ..beat.clone() };
        let now = Now { wall_ms: 0, mono_ms: 0 };
        assert_eq!(counters.address(&id, Some(&once), Verb::Desired, Duration::ZERO, now), Err(NotHeard));
    }
}
