//! Is a command to be carried out? Signature, device, session, counter and expiry, in that order; pure.
//!
//! A recording replayed after a restart, a reconnect or a hand-over does nothing, and nothing is stored for it. Decides.
//! Does not carry out or answer.

use std::collections::VecDeque;

use bramble_contracts::bytes::{KeyId, PublicKey, Sha256};
use bramble_contracts::signed::{self, Role};
use bramble_contracts::v1::{Command, RefusalKind};
use bramble_contracts::{DeviceId, SessionId, subjects};

use super::judge::signature_kind;
use super::refusals::Bad;

/// The same command arrives twice while two connections overlap; that is no attack and no new command.
const OVERLAP_MS: u64 = 10_000;
const RECENT: usize = 32;

/// What to do with bytes that claim to be a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Carry it out.
    Admitted(Box<Command>),
    /// It is being carried out already: say nothing.
    Echo,
    /// Signed, and no: count it and say why.
    Stale(Bad),
    /// Not signed by us: count it and say nothing.
    Dropped(Bad),
}

/// Remembers what was accepted in this session.
pub(crate) struct Gate {
    device: DeviceId,
    session: SessionId,
    last: u64,
    recent: VecDeque<(u64, Sha256)>,
}

impl Gate {
    pub(crate) fn new(device: DeviceId, session: SessionId) -> Self {
        Self { device, session, last: 0, recent: VecDeque::new() }
    }

    /// Judges `bytes` that came on `subject` at `uptime_ms`.
    pub(crate) fn admit(
        &mut self,
        bytes: &[u8],
        subject: &str,
        uptime_ms: u64,
        lookup: impl FnOnce(Role, &KeyId) -> Option<PublicKey>,
    ) -> Admission {
        let bad = |kind, detail: String| Bad { kind, detail, generation: None };
        let command: Command = match signed::open(bytes, Role::Fleet, lookup) {
            Ok(command) => command,
            Err(err) => return Admission::Dropped(bad(signature_kind(&err), format!("command: {err}"))),
        };
        if command.device != self.device {
            let text = format!("command is for device {}", command.device);
            return Admission::Dropped(bad(RefusalKind::OtherDevice, text));
        }
        let stale = |detail: &str| Admission::Stale(bad(RefusalKind::StaleCommand, detail.to_owned()));
        if subject != subjects::command(&self.device, command.verb.name()) {
            return stale("command came on the subject of another verb");
        }
        if command.session != self.session {
            return stale("command is for another run of the agent; it has restarted, try again");
        }
        let digest = Sha256::of(bytes);
        self.recent.retain(|(at, _)| uptime_ms.saturating_sub(*at) < OVERLAP_MS);
        if self.recent.iter().any(|(_, known)| *known == digest) {
            return Admission::Echo;
        }
        if command.counter <= self.last {
            return stale("command was used before, or came after a later one; try again");
        }
        if command.expires_uptime_ms < uptime_ms {
            return stale("command has expired; try again");
        }
        self.last = command.counter;
        self.recent.push_back((uptime_ms, digest));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        Admission::Admitted(Box::new(command))
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::bytes::{Fixed, key_id};
    use bramble_contracts::signed::{public_key, sign};
    use bramble_contracts::v1::Verb;
    use ed25519_dalek::SigningKey;

    use super::*;

    fn device(n: u8) -> DeviceId {
        DeviceId::from_entropy([n; 13])
    }

    fn command(counter: u64) -> Command {
        Command { device: device(1), session: Fixed([5; 8]), counter, expires_uptime_ms: 100_000, verb: Verb::Desired }
    }

    fn fleet() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn try_at(gate: &mut Gate, command: &Command, by: &SigningKey, subject: &str, uptime: u64) -> Admission {
        let key = public_key(&fleet());
        let bytes = sign(command, Role::Fleet, by).unwrap();
        gate.admit(&bytes, subject, uptime, |_, id| (key_id(&key) == *id).then_some(key))
    }

    fn kind(admission: Admission) -> Option<(RefusalKind, bool)> {
        match admission {
            Admission::Admitted(_) | Admission::Echo => None,
            Admission::Stale(bad) => Some((bad.kind, true)),
            Admission::Dropped(bad) => Some((bad.kind, false)),
        }
    }

    #[test]
    fn each_flaw_is_seen() {
        let subject = subjects::command(&device(1), "desired");
        let mut gate = Gate::new(device(1), Fixed([5; 8]));
        let mut ask = |command: &Command, by: &SigningKey, subject: &str, uptime| {
            kind(try_at(&mut gate, command, by, subject, uptime))
        };
        assert_eq!(ask(&command(1), &fleet(), &subject, 10), None);
        assert_eq!(ask(&command(1), &fleet(), &subject, 11), None, "an echo within the overlap");
        let stale = Some((RefusalKind::StaleCommand, true));
        assert_eq!(ask(&command(1), &fleet(), &subject, 50_000), stale, "a replay");
        assert_eq!(ask(&command(2), &fleet(), &subject, 100_001), stale, "expired");
        assert_eq!(ask(&command(2), &fleet(), "cmd.x.exec", 10), stale, "another verb's subject");
        let other_run = Command { session: Fixed([6; 8]), ..command(9) };
        assert_eq!(ask(&other_run, &fleet(), &subject, 10), stale);
        let other_device = Command { device: device(2), ..command(9) };
        assert_eq!(ask(&other_device, &fleet(), &subject, 10), Some((RefusalKind::OtherDevice, false)));
        let stranger = SigningKey::from_bytes(&[8; 32]);
        assert_eq!(ask(&command(9), &stranger, &subject, 10), Some((RefusalKind::Signature, false)));
        assert_eq!(ask(&command(2), &fleet(), &subject, 60_000), None, "and the gate still works");
    }

    #[test]
    fn an_echo_is_not_carried_out_twice() {
        let subject = subjects::command(&device(1), "desired");
        let mut gate = Gate::new(device(1), Fixed([5; 8]));
        assert!(matches!(try_at(&mut gate, &command(1), &fleet(), &subject, 10), Admission::Admitted(_)));
        assert_eq!(try_at(&mut gate, &command(1), &fleet(), &subject, 11), Admission::Echo);
    }
}
