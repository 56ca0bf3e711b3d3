//! When an upgrade begins: the wish that counts, what stands in its way, and a change of mind, which wins until the new
//! agent is started. No wish is no change.

use std::time::Duration;

use bramble_contracts::v1::Status;
use bramble_contracts::v2::AgentWish;

use super::effect::Effect;
use super::event::{Admission, Attempt, Failure, Fault};
use super::facts::{Clock, Facts, System};
use super::ledger::{Denied, Known, Ledger, Moment, Outcome, Phase, Upgrade};
use super::step::{Turn, Who};

/// What keeps an upgrade from beginning, in words; nobody is to blame for it.
pub(super) fn hindrance(ledger: &Ledger, wish: &AgentWish, facts: &Facts) -> Option<String> {
    if facts.links.is_none() || facts.target.is_none() {
        let why =
            "this agent does not run from state/bin, so it does not replace itself; install it with bramble-bootstrap";
        return Some(why.into());
    }
    if facts.system == System::Upgrading {
        return Some("the operating system is upgraded just now".into());
    }
    if !facts.mesh.stands_for(facts.up_ms, 0) {
        return Some("there is no connection to the mesh: it begins when there is one".into());
    }
    if let Clock::Unfit(why) = &facts.clock {
        return Some(format!("the clock cannot judge dates: {why}"));
    }
    if facts.free_bytes < facts.bounds.reserve_bytes {
        return Some(no_room(facts.bounds.reserve_bytes, facts));
    }
    let tally = ledger.tally.as_ref().filter(|tally| tally.of == Attempt::from(wish))?;
    tally.left_ms(facts)?;
    let pause = Duration::from_millis(tally.pause_ms(&facts.bounds)).as_secs_f32();
    Some(format!("it is tried again by itself after a pause of {pause} s"))
}

fn no_room(need: u64, facts: &Facts) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    format!("{} MiB are free where binaries lie, {} MiB are needed", facts.free_bytes >> 20, mib(need))
}

impl Turn<'_> {
    /// Takes in the newest wish: drops what is not wished any more, begins what can begin.
    pub(super) fn consider(&mut self) {
        let facts = self.facts;
        let ends = self.out.iter().any(|effect| matches!(effect, Effect::Exit(_)));
        let Some(wish) = facts.wish.as_ref().filter(|_| !ends && self.who() == Who::Confirmed) else { return };
        let of = Attempt::from(wish);
        match &self.ledger.upgrade {
            Some(upgrade) if upgrade.of == of || upgrade.is_cut_over() => return,
            Some(_) => {
                self.out.push(Effect::Abandon);
                self.ledger.upgrade = None;
            }
            None => {}
        }
        if wish.version == facts.own {
            return self.is_already(wish);
        }
        if self.ledger.denial(&of).is_some() {
            return;
        }
        if wish.release_seq < facts.floor {
            let why = format!("it has sequence {}, this device takes none below {}", wish.release_seq, facts.floor);
            return self.refuse_wish(wish.release_seq, &Failure::new(Fault::Release, why));
        }
        if hindrance(&self.ledger, wish, facts).is_none() {
            let now = Moment::now(facts);
            self.ledger.upgrade = Some(Upgrade {
                of,
                version: wish.version,
                release_seq: wish.release_seq,
                admitted: None,
                began: now.clone(),
                phase: Phase::Judging,
                since: now,
                unmanaged_ms: None,
            });
            self.out.push(Effect::Judge(wish.clone()));
        }
    }

    fn is_already(&mut self, wish: &AgentWish) {
        let of = Attempt::from(wish);
        if self.ledger.last.as_ref().is_none_or(|last| last.of != of || last.status != Status::Confirmed) {
            self.ledger.last = Some(Outcome::of_wish(wish, Status::Confirmed, String::new()));
        }
    }

    /// Refuses the newest wish before anything was done for it, where it names this release.
    pub(super) fn refuse_wish(&mut self, release_seq: u64, failure: &Failure) {
        let named = |wish: &&AgentWish| wish.release_seq == release_seq && wish.version != self.facts.own;
        let Some(wish) = self.facts.wish.as_ref().filter(named) else { return };
        let (of, version, status, why) = (Attempt::from(wish), wish.version, Status::Failed, failure.why.clone());
        if self.ledger.denial(&of).is_none() {
            self.ledger.deny(Denied { of, version, status, why: why.clone() });
            let last = Outcome::of_wish(wish, status, why);
            self.ledger.last = Some(Outcome { blamed: true, ..last });
        }
    }

    pub(super) fn judged(&mut self, of: &Attempt, result: &Result<Admission, Failure>) {
        let facts = self.facts;
        let Some(upgrade) = self.ledger.upgrade.as_mut() else { return };
        if upgrade.of != *of || upgrade.phase != Phase::Judging {
            return;
        }
        let admitted = match result {
            Ok(admitted) => *admitted,
            Err(failure) => return self.fail(failure),
        };
        if (admitted.version, admitted.release_seq) != (upgrade.version, upgrade.release_seq) {
            let (version, seq) = (upgrade.version, upgrade.release_seq);
            let is = format!("the manifest is of {} with sequence {}", admitted.version, admitted.release_seq);
            return self.fail(&Failure::new(Fault::Release, format!("{is}, wished was {version} with {seq}")));
        }
        upgrade.admitted = Some(admitted);
        let need = admitted.size.saturating_add(facts.bounds.reserve_bytes);
        if facts.free_bytes < need {
            self.out.push(Effect::Prune);
            return self.fail(&Failure::new(Fault::Nobody, no_room(need, facts)));
        }
        (upgrade.phase, upgrade.since) = (Phase::Staging, Moment::now(facts));
        self.ledger.learn(Known { version: admitted.version, release_seq: admitted.release_seq });
        self.out.push(Effect::Stage { of: *of, what: admitted });
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v1::Instance;

    use super::*;
    use crate::core::upgrade::testing::{facts, version, wish};

    #[test]
    fn the_system_goes_first() {
        let (ledger, facts) = (Ledger::new(version(5), Instance::A), facts(version(5)));
        assert_eq!(hindrance(&ledger, &wish(6, 1), &facts), None);
        let upgrading = Facts { system: System::Upgrading, ..facts };
        let why = hindrance(&ledger, &wish(6, 1), &upgrading);
        assert_eq!(why.as_deref(), Some("the operating system is upgraded just now"));
    }
}
