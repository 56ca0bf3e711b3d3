//! Commands to devices: addressed to one run of one agent, counted, and bound in time by the device's own clock.
//!
//! Decides: session, counter and expiry. Counters begin at the wall clock's milliseconds, so that they grow across
//! coordinators of one session. A number at or above every counter in use is kept in bucket `meta`: when a device says
//! that it has seen a later one (a clock was set back, or another coordinator's is ahead), counters go on from there.
//! Deliberately does not: carry the bytes; `mesh` does.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bramble_contracts::{
    SessionId,
    id::DeviceId,
    subjects::Bucket,
    v1::{Command, FrameBody, ReplyFrame, Verb},
};
use bytes::Bytes;

use super::Core;
use crate::{
    domain::{Now, fleet::Beat, liveness::Heard},
    store::{Expect, StoreError},
};

/// Sessions remembered at most; the ones of devices not commanded for longest are forgotten (their counter then comes
/// from the clock again, which is above).
const MAX_SESSIONS: usize = 4096;
/// A millisecond of the clock in counters.
const MILLI: u32 = 16;
/// The number in `meta` is this far ahead of the counter it is written for, so that it is not written for each.
const AHEAD: u64 = 10_000 << MILLI;
const MARK: &str = "commands";
const RACES: u32 = 8;
/// What an agent says to a counter that is not above the last one.
const NOT_ABOVE: &str = "came after a later one";

/// A command that cannot be addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no agent of the device is heard now: wait until it is online")]
pub struct NotHeard;

/// The counters of sessions.
#[derive(Debug, Default)]
pub struct Counters(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    sessions: BTreeMap<(DeviceId, SessionId), u64>,
    /// Counters begin above this, too.
    floor: u64,
    /// `meta` holds at least this.
    marked: u64,
}

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
        let mut kept = self.kept();
        let key = (device.clone(), session);
        let last = kept.sessions.get(&key).copied().unwrap_or(0);
        let counter = (wall_ms << MILLI).max(last.saturating_add(1)).max(kept.floor.saturating_add(1));
        if kept.sessions.len() >= MAX_SESSIONS && !kept.sessions.contains_key(&key) {
            kept.sessions.pop_first();
        }
        kept.sessions.insert(key, counter);
        counter
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(bytes: &Bytes) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Makes the number in `meta` at least `counter`, before it is used. Nothing is written while recovering.
pub(crate) async fn mark(core: &Core, counter: u64) -> Result<(), StoreError> {
    if core.counters.kept().marked >= counter || !core.index.may_write() {
        return Ok(());
    }
    let mut lost = None;
    for _ in 0..RACES {
        let stored = core.store.get(Bucket::Meta, MARK).await?;
        let mut marked = stored.as_ref().map_or(0, |entry| number(&entry.bytes));
        if marked < counter {
            marked = counter.saturating_add(AHEAD);
            let expect = stored.map_or(Expect::Absent, |entry| Expect::Seq(entry.seq));
            match core.store.put(Bucket::Meta, MARK, Bytes::from(marked.to_string()), expect).await {
                Ok(_) => {}
                Err(err @ StoreError::Conflict { .. }) => {
                    lost = Some(err);
                    continue;
                }
                Err(err @ StoreError::Unavailable { .. }) => return Err(err),
            }
        }
        core.counters.kept().marked = marked;
        return Ok(());
    }
    lost.map_or(Ok(()), Err)
}

/// Goes on above every counter that any coordinator has used. False when `counter` was above them all already.
pub(crate) async fn pass_all(core: &Core, counter: u64) -> bool {
    let stored = match core.store.get(Bucket::Meta, MARK).await {
        Ok(stored) => stored.map_or(0, |entry| number(&entry.bytes)),
        Err(err) => {
            tracing::warn!(error = %err, "cannot read how far the counters of commands have come");
            return false;
        }
    };
    let mut kept = core.counters.kept();
    kept.floor = kept.floor.max(stored);
    kept.floor >= counter
}

/// Does the device say that it has seen a later command?
pub(crate) fn is_behind(frame: &ReplyFrame) -> bool {
    matches!(&frame.body, FrameBody::Refused { why } if why.contains(NOT_ABOVE))
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
