//! The coordinator, as far as one device's agents are concerned.

use bramble_agent::core::upgrade::{Phase, Proof};
use bramble_contracts::v1::Status;
use bramble_contracts::v2::UpgradeWord;

use super::world::{Due, SECOND, World};

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Confirms what is proven, retires who is not needed.
    Good,
    /// Confirms, and does not live to retire anybody.
    NeverRetires,
    /// Says nothing.
    Silent,
    /// Gives the release up while it comes in.
    AbortsEarly,
    /// Gives the release up once it acts.
    AbortsLate,
    /// Says everything to everybody all the time, and what is right too.
    Confused,
}

/// Every one.
pub const ALL: [Mood; 6] =
    [Mood::Good, Mood::NeverRetires, Mood::Silent, Mood::AbortsEarly, Mood::AbortsLate, Mood::Confused];

impl World {
    pub fn look_soon(&mut self) {
        if !self.look_due {
            self.look_due = true;
            self.after(SECOND, Due::Look);
        }
    }

    /// Looks at heartbeats and at the report, and says what is to be said.
    pub fn look(&mut self) {
        self.look_due = false;
        if !self.mesh_up || self.mood == Mood::Silent {
            return;
        }
        let connected: Vec<u32> = self.procs.values().filter(|p| p.connected.is_some()).map(|p| p.pid).collect();
        if self.mood == Mood::Confused {
            self.confuse(&connected);
        }
        let Some(holder) = self.lease.and_then(|pid| self.proc(pid)).filter(|p| connected.contains(&p.pid)) else {
            return;
        };
        let (pid, instance) = (holder.pid, holder.instance);
        let ledger = &self.disk.ledger;
        let Some(upgrade) = &ledger.upgrade else {
            let over = self.mood != Mood::NeverRetires
                && ledger.last.as_ref().is_some_and(|last| last.status == Status::Confirmed);
            for other in connected.into_iter().filter(|other| over && *other != pid) {
                self.word(other, UpgradeWord::Retire);
            }
            return;
        };
        let release_seq = upgrade.release_seq;
        let proven =
            matches!(&upgrade.phase, Phase::Trial { instance: at, proof: Proof::Reconciled, .. } if *at == instance);
        let acts = matches!(upgrade.phase, Phase::Trial { .. });
        match self.mood {
            Mood::AbortsEarly if !upgrade.is_cut_over() => self.abort(pid, release_seq),
            Mood::AbortsLate if acts => self.abort(pid, release_seq),
            Mood::Good | Mood::NeverRetires | Mood::AbortsEarly | Mood::Confused if proven => {
                self.word(pid, UpgradeWord::Confirm { release_seq });
            }
            Mood::Good | Mood::NeverRetires | Mood::Silent | Mood::AbortsEarly | Mood::AbortsLate | Mood::Confused => {}
        }
    }

    fn abort(&mut self, pid: u32, release_seq: u64) {
        self.word(pid, UpgradeWord::Abort { release_seq, why: "the rollout was stopped".into() });
    }

    fn confuse(&mut self, connected: &[u32]) {
        let newest = self.wish.as_ref().map_or(0, |wish| wish.release_seq);
        for pid in connected {
            self.word(*pid, UpgradeWord::Retire);
            self.word(*pid, UpgradeWord::Confirm { release_seq: newest + 1 });
            self.word(*pid, UpgradeWord::Confirm { release_seq: newest });
            self.word(*pid, UpgradeWord::Abort { release_seq: newest + 1, why: "of another one".into() });
        }
    }
}
