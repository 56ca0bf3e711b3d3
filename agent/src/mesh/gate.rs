//! Is a command to be carried out, is input for one to be taken? Signature, device, session, counter and expiry, in that
//! order; pure.
//!
//! A recording replayed after a restart, a reconnect or a hand-over does nothing, and nothing is stored for it. Decides.
//! Does not carry out or answer.

use std::collections::VecDeque;

use bramble_contracts::bytes::{KeyId, PublicKey, Sha256};
use bramble_contracts::signed::{self, Role};
use bramble_contracts::v1::{Command, RefusalKind, Verb};
use bramble_contracts::v2::CommandInput;
use bramble_contracts::{DeviceId, SessionId, subjects};

use super::judge::signature_kind;
use super::refusals::Bad;

/// The same command arrives twice while two connections overlap; that is no attack and no new command.
const OVERLAP_MS: u64 = 10_000;
const RECENT: usize = 32;
/// Commands that take input and are remembered; more than can run at once.
const OPEN_MAX: usize = 64;

/// What to do with bytes that claim to be a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Carry it out.
    Admitted(Box<Command>),
    /// It is being carried out already: say nothing.
    Echo,
    /// For another run of this device's agent: one that has ended, or the other one of two.
    OtherRun(Bad),
    /// Signed, and no: count it and say why.
    Stale(Bad),
    /// Not signed by us: count it and say nothing.
    Dropped(Bad),
}

/// What to do with bytes that claim to be input for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InputAdmission {
    /// Hand it to its command, if that still runs.
    Admitted(Box<CommandInput>),
    /// It was handed over already: say nothing.
    Echo,
    /// There is a hole before it: count it, and end this command. What somebody typed is worth something only whole.
    Torn(u64, Bad),
    /// Count it and do nothing.
    Dropped(Bad),
}

/// Remembers what was accepted in this session.
pub(crate) struct Gate {
    device: DeviceId,
    session: SessionId,
    last: u64,
    recent: Recent,
    /// Commands that take input, the newest last, and the last frame of each. Ended ones stay for a while: input that
    /// was under way when they ended is nobody's attack.
    open: VecDeque<Open>,
}

struct Open {
    command: u64,
    last: u64,
    recent: Recent,
}

/// What was accepted a moment ago.
#[derive(Default)]
struct Recent(VecDeque<(u64, Sha256)>);

impl Recent {
    fn has(&mut self, bytes: &[u8], uptime_ms: u64) -> bool {
        let digest = Sha256::of(bytes);
        self.0.retain(|(at, _)| uptime_ms.saturating_sub(*at) < OVERLAP_MS);
        self.0.iter().any(|(_, known)| *known == digest)
    }

    fn keep(&mut self, bytes: &[u8], uptime_ms: u64) {
        self.0.push_back((uptime_ms, Sha256::of(bytes)));
        if self.0.len() > RECENT {
            self.0.pop_front();
        }
    }
}

impl Gate {
    pub(crate) fn new(device: DeviceId, session: SessionId) -> Self {
        Self { device, session, last: 0, recent: Recent::default(), open: VecDeque::new() }
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
            let text = "command is for another run of the agent; it has restarted, try again";
            return Admission::OtherRun(bad(RefusalKind::StaleCommand, text.to_owned()));
        }
        if self.recent.has(bytes, uptime_ms) {
            return Admission::Echo;
        }
        if command.counter <= self.last {
            return stale("command was used before, or came after a later one; try again");
        }
        if command.expires_uptime_ms < uptime_ms {
            return stale("command has expired; try again");
        }
        self.last = command.counter;
        self.recent.keep(bytes, uptime_ms);
        if takes_input(&command.verb) {
            self.open.push_back(Open { command: command.counter, last: 0, recent: Recent::default() });
        }
        Admission::Admitted(Box::new(command))
    }

    /// Forgets the oldest commands that `runs` does not know, while there are many.
    pub(crate) fn forget_ended(&mut self, runs: impl Fn(u64) -> bool) {
        while self.open.len() > OPEN_MAX {
            let Some(ended) = self.open.iter().position(|open| !runs(open.command)) else { return };
            self.open.remove(ended);
        }
    }

    /// Judges `bytes` that came on the subject of input at `uptime_ms`. No time is in them: they count only for a command
    /// that was admitted, and each but once.
    pub(crate) fn admit_input(
        &mut self,
        bytes: &[u8],
        uptime_ms: u64,
        lookup: impl FnOnce(Role, &KeyId) -> Option<PublicKey>,
    ) -> InputAdmission {
        let bad = |kind, detail: String| Bad { kind, detail, generation: None };
        let input: CommandInput = match signed::open(bytes, Role::Fleet, lookup) {
            Ok(input) => input,
            Err(err) => return InputAdmission::Dropped(bad(signature_kind(&err), format!("input: {err}"))),
        };
        if input.device != self.device {
            let text = format!("input is for device {}", input.device);
            return InputAdmission::Dropped(bad(RefusalKind::OtherDevice, text));
        }
        let stale = |detail: &str| bad(RefusalKind::StaleCommand, detail.to_owned());
        if input.session != self.session {
            return InputAdmission::Dropped(stale("input is for another run of the agent"));
        }
        let Some(open) = self.open.iter_mut().find(|open| open.command == input.command) else {
            return InputAdmission::Dropped(stale("input is for a command that does not run"));
        };
        if open.recent.has(bytes, uptime_ms) {
            return InputAdmission::Echo;
        }
        if input.counter <= open.last {
            return InputAdmission::Dropped(stale("input was used before, or came after a later one"));
        }
        if input.counter != open.last + 1 {
            let torn = stale("a part of the input is missing before this one");
            return InputAdmission::Torn(input.command, torn);
        }
        open.last = input.counter;
        open.recent.keep(bytes, uptime_ms);
        InputAdmission::Admitted(Box::new(input))
    }
}

/// Can something be said to it while it runs? Also "nobody listens any more".
fn takes_input(verb: &Verb) -> bool {
    match verb {
        Verb::Exec(_) | Verb::Session(_) => true,
        // A window of logs ends by itself, soon, and so does apt's plan.
        Verb::Desired | Verb::Logs(_) | Verb::Log(_) | Verb::Upgrade(_) | Verb::OsPlan(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::bytes::{Fixed, key_id};
    use bramble_contracts::signed::{public_key, sign};
    use bramble_contracts::v1::ExecArgs;
    use bramble_contracts::v2::Input;
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
            Admission::Stale(bad) | Admission::OtherRun(bad) => Some((bad.kind, true)),
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

    /// A gate that has let in command 7, which takes input.
    fn open_gate() -> Gate {
        let mut gate = Gate::new(device(1), Fixed([5; 8]));
        let (tenant, deployment) = ("default".parse().unwrap(), "web".parse().unwrap());
        let argv = vec!["sh".into()];
        let verb = Verb::Exec(ExecArgs {
            tenant,
            deployment,
            container: None,
            argv,
            tty: None,
            timeout: "1s".parse().unwrap(),
        });
        let subject = subjects::command(&device(1), "exec");
        let admitted = try_at(&mut gate, &Command { verb, ..command(7) }, &fleet(), &subject, 10);
        assert!(matches!(admitted, Admission::Admitted(_)));
        gate
    }

    fn input(counter: u64) -> CommandInput {
        CommandInput { device: device(1), session: Fixed([5; 8]), command: 7, counter, input: Input::End }
    }

    fn try_input(gate: &mut Gate, input: &CommandInput, by: &SigningKey, uptime: u64) -> InputAdmission {
        let key = public_key(&fleet());
        let bytes = sign(input, Role::Fleet, by).unwrap();
        gate.admit_input(&bytes, uptime, |_, id| (key_id(&key) == *id).then_some(key))
    }

    fn dropped(admission: InputAdmission) -> Option<(RefusalKind, String)> {
        match admission {
            InputAdmission::Dropped(bad) => Some((bad.kind, bad.detail)),
            InputAdmission::Admitted(_) | InputAdmission::Echo | InputAdmission::Torn(..) => None,
        }
    }

    #[test]
    fn input_is_taken_once_in_order_and_only_for_a_command_that_was_let_in() {
        let mut gate = open_gate();
        let mut ask = |input: &CommandInput, by: &SigningKey, uptime| try_input(&mut gate, input, by, uptime);
        assert!(matches!(ask(&input(1), &fleet(), 10), InputAdmission::Admitted(_)));
        assert_eq!(ask(&input(1), &fleet(), 11), InputAdmission::Echo, "over the other connection");
        assert!(matches!(ask(&input(2), &fleet(), 12), InputAdmission::Admitted(_)));
        assert_eq!(ask(&input(1), &fleet(), 13), InputAdmission::Echo, "and late");
        let (stale, other) = (RefusalKind::StaleCommand, RefusalKind::OtherDevice);
        let why = |admission| dropped(admission).unwrap();
        assert_eq!(why(ask(&input(1), &fleet(), 60_000)).0, stale, "a replay");
        let changed = CommandInput { input: Input::HangUp, ..input(2) };
        assert_eq!(why(ask(&changed, &fleet(), 60_000)).0, stale, "another one with a number that was used");
        let of_other = CommandInput { command: 8, ..input(3) };
        assert!(why(ask(&of_other, &fleet(), 60_000)).1.contains("does not run"));
        let of_other_run = CommandInput { session: Fixed([6; 8]), ..input(3) };
        assert!(why(ask(&of_other_run, &fleet(), 60_000)).1.contains("another run"));
        let of_other_device = CommandInput { device: device(2), ..input(3) };
        assert_eq!(why(ask(&of_other_device, &fleet(), 60_000)).0, other);
        let stranger = SigningKey::from_bytes(&[8; 32]);
        assert_eq!(why(ask(&input(3), &stranger, 60_000)).0, RefusalKind::Signature);
        assert!(matches!(ask(&input(3), &fleet(), 60_000), InputAdmission::Admitted(_)), "and the gate still works");
    }

    #[test]
    fn a_hole_in_the_input_is_seen_and_a_command_is_no_input() {
        let mut gate = open_gate();
        assert!(matches!(try_input(&mut gate, &input(2), &fleet(), 10), InputAdmission::Torn(7, _)));
        let key = public_key(&fleet());
        let bytes = sign(&command(9), Role::Fleet, &fleet()).unwrap();
        let taken = gate.admit_input(&bytes, 10, |_, id| (key_id(&key) == *id).then_some(key));
        assert!(dropped(taken).is_some());
    }

    #[test]
    fn of_ended_commands_few_are_remembered_and_of_running_ones_all() {
        let mut gate = open_gate();
        let opened = |n: u64| Open { command: 100 + n, last: 0, recent: Recent::default() };
        gate.open.extend((0..1000).map(opened));
        gate.forget_ended(|command| command == 7);
        assert_eq!(gate.open.len(), OPEN_MAX);
        assert!(matches!(try_input(&mut gate, &input(1), &fleet(), 10), InputAdmission::Admitted(_)));
        let ended = CommandInput { command: 100, ..input(1) };
        assert!(dropped(try_input(&mut gate, &ended, &fleet(), 10)).is_some());
    }
}
