//! A fleet in memory goes through rollouts: the table of what is allowed, each kind of trouble, and coordinators that
//! die at every write.

use bramble_contracts::{
    api::{RolloutState as S, RolloutTurn as T},
    bytes::Fixed,
    quantity::Millis,
};

mod any;

use super::{
    facts::{Facts, Reach, Seen, Word},
    *,
};

/// How a device takes what it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Well, after a second.
    Fine,
    /// It says that it failed; well at the second attempt.
    FailsOnce,
    /// It says that it failed, each time.
    Sick,
    /// It takes the document and is not heard again.
    Vanishes,
    /// It says that it works on it, for ever.
    Hangs,
    /// It is well, and not for long, again and again.
    Flaps,
    /// It is not connected before this second.
    Late(u64),
    /// It cannot take it.
    TooOld,
    /// It failed three times before.
    Notorious,
    /// The window closes before it is ready: it waits for the next one.
    NextWindow,
}

/// A fleet, and the time by nobody's clock.
#[derive(Debug, Clone)]
struct World {
    devices: BTreeMap<DeviceId, Kind>,
    /// When each heard of which attempt.
    told: BTreeMap<DeviceId, (u32, u64)>,
    second: u64,
    /// Seconds in which devices may begin; always, where there are none.
    open: Vec<std::ops::Range<u64>>,
}

/// In the order of `n`.
fn id(n: usize) -> DeviceId {
    assert!(n < 26, "one letter each");
    DeviceId::from_entropy([u8::try_from(n << 3).unwrap(); 13])
}

impl World {
    fn new(kinds: &[Kind]) -> Self {
        let devices = kinds.iter().enumerate().map(|(n, kind)| (id(n), *kind)).collect();
        Self { devices, told: BTreeMap::new(), second: 0, open: vec![] }
    }

    fn closed(&self) -> Option<String> {
        let closed = !self.open.is_empty() && !self.open.iter().any(|open| open.contains(&self.second));
        closed.then(|| "devices begin only within their window".into())
    }

    /// What the devices say, having heard what the record that is stored tells them.
    fn facts(&mut self, stored: &Rollout) -> Facts {
        let devices: Vec<(DeviceId, Kind)> = self.devices.iter().map(|(id, kind)| (id.clone(), *kind)).collect();
        let seen = devices.into_iter().enumerate().map(|(n, (id, kind))| {
            let attempt = stored.devices.get(&id).map_or(0, |m| m.attempt);
            let there = !matches!(kind, Kind::Late(at) if self.second < at);
            let heard = self.told.get(&id).copied().unwrap_or((0, 0));
            if there && attempt > heard.0 {
                self.told.insert(id.clone(), (attempt, self.second));
            }
            let (told, at) = self.told.get(&id).copied().unwrap_or((0, 0));
            (id, self.seen(n, kind, (told == attempt).then_some(attempt), self.second - at, there))
        });
        let devices = seen.collect::<Vec<_>>().into_iter().collect();
        Facts { devices, overtaken: None, closed: self.closed() }
    }

    fn seen(&self, n: usize, kind: Kind, told: Option<u32>, since: u64, there: bool) -> Seen {
        let attempt = told.unwrap_or(0);
        let vanished = kind == Kind::Vanishes && attempt > 0;
        let works = Word::Working { progress: since.min(3), text: "working".into() };
        let word = match kind {
            _ if attempt == 0 || since == 0 => Word::Silent,
            Kind::Fine | Kind::Late(_) | Kind::Notorious | Kind::TooOld => Word::Good,
            Kind::FailsOnce if attempt > 1 => Word::Good,
            Kind::FailsOnce | Kind::Sick => Word::Bad("it burnt".into()),
            Kind::Flaps if since % 4 < 2 => Word::Good,
            Kind::NextWindow if self.open.last().is_some_and(|open| self.second >= open.start) => Word::Good,
            Kind::Flaps | Kind::Hangs | Kind::NextWindow => works,
            Kind::Vanishes => Word::Silent,
        };
        let reach = if there && !vanished { Reach::Online } else { Reach::Away("it is not connected".into()) };
        let failures = if kind == Kind::Notorious { BOXED_AT } else { 0 };
        Seen {
            name: format!("pi-{n}").parse().unwrap(),
            reach,
            refused: (kind == Kind::TooOld).then(|| "upgrade it by hand once".into()),
            word,
            has_taken: attempt > 0,
            is_held: kind == Kind::NextWindow && self.closed().is_some(),
            in_trial: false,
            attempts: 0,
            failures,
            before: Before::default(),
        }
    }
}

fn policy(batches: &[&str]) -> v1::Rollout {
    v1::Rollout {
        batches: batches.iter().map(|b| b.parse().unwrap()).collect(),
        healthy_for: Millis::secs(3),
        progress_deadline: Millis::secs(20),
        ..v1::Rollout::default()
    }
}

fn rollout(policy: v1::Rollout) -> Rollout {
    Rollout::new(Begin {
        uid: Uid::from_entropy([1; 13]),
        tenant: Tenant::default(),
        name: "agent-1-2-3".parse().unwrap(),
        subject: Subject::Agent(AgentSubject {
            version: "1.2.3".parse().unwrap(),
            release_seq: 7,
            manifest: Fixed([1; 32]),
            keys_pin: Fixed([2; 32]),
            targets: vec![],
            selector: None,
        }),
        policy,
        by: "ann".into(),
        wall_ms: 5,
        failed_before: BTreeMap::new(),
    })
}

/// How a coordinator dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    Before,
    After,
}

/// Looks once a second until nothing changes for long; dies at a write, and another one goes on.
struct Run {
    world: World,
    stored: Rollout,
    writes: usize,
    fuse: Option<(usize, Dies)>,
    died: usize,
    /// What this coordinator waited since it saw the record.
    waited_ms: u64,
    most: usize,
}

impl Run {
    fn new(kinds: &[Kind], policy: v1::Rollout) -> Self {
        let (world, stored) = (World::new(kinds), rollout(policy));
        Self { world, stored, writes: 0, fuse: None, died: 0, waited_ms: 0, most: 0 }
    }

    fn ask(&mut self, ask: Ask) -> Result<(), NotNow> {
        let facts = self.world.facts(&self.stored);
        self.stored = step(self.stored.clone(), Event::Ask(ask), &facts)?.0;
        Ok(())
    }

    fn second(&mut self) {
        self.world.second += 1;
        self.waited_ms += 1000;
        let facts = self.world.facts(&self.stored);
        let (next, _) = step(self.stored.clone(), Event::Look { elapsed_ms: self.waited_ms }, &facts).unwrap();
        assert_eq!(violations(&next), [], "{next:#?}");
        self.most = self.most.max(next.devices.values().filter(|m| m.is_in_flight()).count());
        if next == self.stored {
            return;
        }
        self.writes += 1;
        let dies = self.fuse.filter(|(at, _)| *at == self.writes).map(|(_, dies)| dies);
        if dies != Some(Dies::Before) {
            self.stored = record::decode(&next.encode()).unwrap();
            assert_eq!(self.stored, next, "what is stored reads back");
        }
        self.waited_ms = 0;
        self.died += usize::from(dies.is_some());
    }

    fn seconds(&mut self, n: u64) -> &mut Self {
        (0..n).for_each(|_| self.second());
        self
    }

    fn turns(&self) -> Vec<T> {
        self.stored.devices.values().map(|m| m.turn).collect()
    }

    fn brief(&self) -> (S, u32, Vec<T>) {
        (self.stored.state, self.stored.batch, self.turns())
    }
}

#[test]
fn good_devices_go_batch_by_batch_and_each_is_proven_first() {
    let mut run = Run::new(&[Kind::Fine; 10], policy(&["1", "20%", "100%"]));
    run.seconds(3);
    assert_eq!(run.brief(), (S::Running, 1, vec![T::Proving]));
    run.seconds(3);
    assert_eq!((run.stored.batch, run.turns()), (2, vec![T::Confirmed, T::Working, T::Working]));
    run.seconds(20);
    assert_eq!(run.brief(), (S::Done, 3, vec![T::Confirmed; 10]));
    assert!(run.stored.devices.values().all(|m| m.attempt == 1 && m.failures == 0));
}

#[test]
fn only_so_many_are_unavailable_at_once() {
    let limit = |amount: &str| v1::Rollout { max_unavailable: amount.parse().unwrap(), ..policy(&["100%"]) };
    let mut run = Run::new(&[Kind::Fine; 10], limit("20%"));
    run.seconds(60);
    assert_eq!((run.stored.state, run.most), (S::Done, 2));
    let mut run = Run::new(&[Kind::Sick, Kind::Fine, Kind::Fine], limit("1"));
    run.stored.policy.success_threshold = Amount::Percent(10);
    run.seconds(60);
    assert_eq!(run.stored.state, S::Halted, "one that failed uses the only place");
    assert!(run.stored.why.contains("what may be unavailable"), "{}", run.stored.why);
    run.ask(Ask::Promote).unwrap();
    run.seconds(60);
    assert_eq!(run.brief(), (S::Done, 1, vec![T::Failed, T::Confirmed, T::Confirmed]));
}

#[test]
fn a_batch_that_fails_halts_it_and_an_operator_decides() {
    let start = || {
        let mut run = Run::new(&[Kind::FailsOnce, Kind::Fine, Kind::Fine], policy(&["1", "100%"]));
        run.seconds(60);
        assert_eq!(run.brief(), (S::Halted, 1, vec![T::Failed]), "nobody else was touched");
        assert!(run.stored.why.starts_with("batch 1 failed on 1 of 1 devices (pi-0)"), "{}", run.stored.why);
        run
    };
    let mut retried = start();
    retried.ask(Ask::Retry).unwrap();
    retried.seconds(60);
    assert_eq!(retried.brief(), (S::Done, 2, vec![T::Confirmed; 3]));
    assert_eq!(retried.stored.devices[&id(0)].attempt, 2);
    let mut promoted = start();
    promoted.ask(Ask::Promote).unwrap();
    promoted.seconds(60);
    assert_eq!(promoted.brief(), (S::Done, 2, vec![T::Failed, T::Confirmed, T::Confirmed]));
    assert_eq!(promoted.stored.failures(BTreeMap::new()), BTreeMap::from([(id(0), 1)]));
    let mut aborted = start();
    aborted.ask(Ask::Abort).unwrap();
    aborted.seconds(60);
    assert_eq!(aborted.brief(), (S::Aborted, 1, vec![T::Failed]));
}

#[test]
fn silence_and_standing_still_are_failure_after_the_deadline_and_not_before() {
    for (kind, words) in [
        (Kind::Vanishes, "nothing was heard of it for 20s"),
        (Kind::Hangs, "it did not get on for 20s: working"),
        (Kind::Flaps, "it did not get on for 20s"),
    ] {
        let mut run = Run::new(&[kind], policy(&["100%"]));
        run.seconds(15);
        assert_ne!(run.turns(), [T::Failed], "{kind:?}");
        run.seconds(30);
        assert_eq!(run.brief(), (S::Halted, 1, vec![T::Failed]), "{kind:?}");
        assert!(run.stored.devices[&id(0)].reason.starts_with(words), "{:?}", run.stored.devices);
    }
}

#[test]
fn who_is_not_connected_is_no_failure_and_gets_it_when_it_is_back() {
    let mut run = Run::new(&[Kind::Late(100), Kind::Fine, Kind::Fine], policy(&["1", "100%"]));
    run.seconds(50);
    assert_eq!(
        run.brief(),
        (S::Done, 2, vec![T::Unreachable, T::Confirmed, T::Confirmed]),
        "connected ones come first"
    );
    run.seconds(60);
    assert_eq!(run.turns(), [T::Confirmed; 3]);
    let mut alone = Run::new(&[Kind::Late(30)], policy(&["1", "100%"]));
    alone.seconds(20);
    assert_eq!(alone.brief(), (S::Running, 1, vec![T::Unreachable]), "nothing is proven by nobody");
    assert!(alone.stored.why.contains("none of the devices of batch 1 can be reached"));
    alone.seconds(30);
    assert_eq!(alone.brief(), (S::Done, 2, vec![T::Confirmed]));
}

#[test]
fn a_batch_that_nobody_can_be_reached_of_gives_its_places_to_those_who_come_back() {
    let mut run = Run::new(&[Kind::Fine, Kind::Late(1000), Kind::Late(50)], policy(&["1", "1", "100%"]));
    run.seconds(40);
    assert_eq!(run.brief(), (S::Running, 2, vec![T::Confirmed, T::Unreachable]));
    run.seconds(60);
    assert_eq!(run.brief(), (S::Done, 3, vec![T::Confirmed, T::Unreachable, T::Confirmed]));
}

#[test]
fn who_cannot_take_it_or_failed_too_often_is_named_and_left_out() {
    let mut run = Run::new(&[Kind::TooOld, Kind::Notorious, Kind::Fine], policy(&["100%"]));
    run.seconds(30);
    assert_eq!(run.brief(), (S::Done, 1, vec![T::Refused, T::Boxed, T::Confirmed]));
    assert_eq!(run.stored.devices[&id(0)].reason, "upgrade it by hand once");
    assert!(run.stored.devices[&id(1)].reason.contains("retry"));
    run.ask(Ask::Retry).unwrap();
    run.seconds(30);
    assert_eq!(run.brief(), (S::Done, 1, vec![T::Refused, T::Confirmed, T::Confirmed]), "let out by retry");
    assert_eq!(run.stored.failures(BTreeMap::new()), BTreeMap::new());
}

#[test]
fn failures_are_counted_across_rollouts_until_one_succeeds_and_only_where_it_works_elsewhere() {
    let thrice = |kinds: &[Kind]| {
        let mut run = Run::new(kinds, policy(&["100%"]));
        run.seconds(10);
        for _ in 0..2 {
            run.ask(Ask::Retry).unwrap();
            run.seconds(10);
        }
        run.stored.failures(BTreeMap::from([(id(0), 1), (id(1), 1)]))
    };
    assert_eq!(thrice(&[Kind::Sick, Kind::Fine]), BTreeMap::from([(id(0), BOXED_AT)]));
    let nobody = thrice(&[Kind::Sick, Kind::Sick]);
    assert_eq!(nobody, BTreeMap::from([(id(0), 1), (id(1), 1)]), "what nobody can do is nobody's fault");
}

#[test]
fn nobody_begins_outside_of_the_window_and_who_has_begun_goes_on() {
    let mut run = Run::new(&[Kind::Fine, Kind::Fine], policy(&["1", "100%"]));
    run.world.open = vec![20..21, 100..120];
    run.seconds(15);
    assert_eq!(run.brief(), (S::Running, 1, vec![T::Waiting]));
    assert_eq!((run.stored.why.as_str(), run.stored.clock_ms), ("devices begin only within their window", 0));
    run.seconds(15);
    assert_eq!(run.brief(), (S::Running, 2, vec![T::Confirmed, T::Waiting]), "it came to its end after it closed");
    assert_eq!(run.stored.why, "devices begin only within their window");
    run.seconds(60);
    assert_eq!(run.brief(), (S::Running, 2, vec![T::Confirmed, T::Waiting]));
    run.seconds(30);
    assert_eq!(run.brief(), (S::Done, 2, vec![T::Confirmed, T::Confirmed]));
    assert_eq!(run.stored.why, "");
}

#[test]
fn no_time_counts_against_a_device_that_waits_for_the_next_window() {
    let mut run = Run::new(&[Kind::NextWindow, Kind::Hangs], policy(&["100%"]));
    run.world.open = vec![10..12, 100..120];
    run.seconds(95);
    assert_eq!(run.brief(), (S::Halted, 1, vec![T::Working, T::Failed]), "one that hangs has failed all the same");
    run.seconds(30);
    assert_eq!(run.brief().2, [T::Confirmed, T::Failed]);
}

#[test]
fn a_pause_lets_nobody_begin_and_those_under_way_come_to_their_end() {
    let mut run = Run::new(&[Kind::Fine, Kind::Fine], policy(&["1", "100%"]));
    run.seconds(2).ask(Ask::Pause).unwrap();
    run.seconds(30);
    assert_eq!(run.brief(), (S::Paused, 1, vec![T::Confirmed]));
    run.ask(Ask::Resume).unwrap();
    run.seconds(20);
    assert_eq!(run.brief(), (S::Done, 2, vec![T::Confirmed; 2]));
}

#[test]
fn each_batch_after_the_first_waits_for_approval_where_that_is_asked() {
    let mut run = Run::new(&[Kind::Fine; 3], v1::Rollout { approve: true, ..policy(&["1", "1", "100%"]) });
    for batch in 1..3 {
        run.seconds(30);
        assert_eq!((run.stored.state, run.stored.batch), (S::Approval, batch));
        run.ask(Ask::Approve).unwrap();
    }
    run.seconds(30);
    assert_eq!(run.brief(), (S::Done, 3, vec![T::Confirmed; 3]));
}

#[test]
fn an_aborted_one_begins_again_with_those_that_do_not_have_it() {
    let mut run = Run::new(&[Kind::Fine, Kind::Hangs], policy(&["1", "100%"]));
    run.seconds(10).ask(Ask::Abort).unwrap();
    assert_eq!(run.brief(), (S::Aborted, 2, vec![T::Confirmed, T::Waiting]));
    run.seconds(30);
    assert_eq!(run.stored.state, S::Aborted);
    run.ask(Ask::Retry).unwrap();
    run.seconds(3);
    assert_eq!(run.brief(), (S::Running, 2, vec![T::Confirmed, T::Working]));
    assert_eq!(run.stored.devices[&id(1)].attempt, 2, "it is told anew");
}

#[test]
fn devices_join_and_leave_meanwhile() {
    let mut run = Run::new(&[Kind::Fine, Kind::Hangs], policy(&["100%"]));
    run.seconds(8);
    run.world.devices.remove(&id(1));
    run.world.devices.insert(id(2), Kind::Fine);
    run.seconds(30);
    assert_eq!(run.brief(), (S::Done, 1, vec![T::Confirmed; 2]));
    assert!(!run.stored.devices.contains_key(&id(1)), "it is not meant any more");
}

#[test]
fn nobodys_clock_makes_anybody_late() {
    let mut run = Run::new(&[Kind::Hangs], policy(&["100%"]));
    run.seconds(5);
    // A coordinator that was away for a day has waited for nothing.
    run.world.second += 86_400;
    run.waited_ms = 0;
    run.seconds(5);
    assert_eq!(run.turns(), [T::Working]);
}

#[test]
fn every_word_is_allowed_or_refused_with_what_to_do_instead() {
    let states = [S::Running, S::Paused, S::Approval, S::Halted, S::Done, S::Aborted, S::Superseded];
    for state in states {
        for ask in Ask::ALL {
            match admit(state, ask) {
                Ok(next) => assert!(is_live(next) || next == S::Aborted),
                Err(err) => assert!(err.to_string().contains(": ") && err.state == state, "{err}"),
            }
        }
    }
    let err = admit(S::Done, Ask::Pause).unwrap_err().to_string();
    assert_eq!(
        err,
        "a rollout that is done cannot be paused: nothing is left to be done; retry lets devices that failed try again"
    );
}

#[test]
fn a_coordinator_that_dies_at_any_write_changes_nothing_about_the_end() {
    let kinds = [
        Kind::Fine,
        Kind::FailsOnce,
        Kind::Late(40),
        Kind::Vanishes,
        Kind::Fine,
        Kind::TooOld,
        Kind::Notorious,
        Kind::Flaps,
    ];
    let policy = v1::Rollout {
        success_threshold: Amount::Percent(20),
        max_unavailable: Amount::Count(4),
        ..policy(&["1", "50%", "100%"])
    };
    let whole = |fuse| {
        let mut run = Run { fuse, ..Run::new(&kinds, policy.clone()) };
        run.seconds(300);
        run
    };
    let expected = whole(None);
    assert_eq!(expected.stored.state, S::Done, "{:#?}", expected.stored);
    let mut cases = 0;
    for at in 1..=expected.writes {
        for dies in [Dies::Before, Dies::After] {
            let run = whole(Some((at, dies)));
            assert_eq!(run.died, 1, "the crash must have happened");
            assert_eq!(run.brief(), expected.brief(), "write {at}, {dies:?}");
            cases += 1;
        }
    }
    println!("{cases} crashes of a coordinator in a rollout");
    assert!(cases > 40);
}

#[test]
fn a_record_that_would_not_fit_the_store_loses_its_words() {
    let mut big = rollout(policy(&["100%"]));
    for n in 0..DEVICES_MAX {
        let mut entropy = [0; 13];
        entropy[..8].copy_from_slice(&n.to_le_bytes());
        let mut member = Member::new(1, T::Failed);
        (member.attempt, member.since_ms, member.failures) = (3, 1_000_000_000, 2);
        member.reason = "x".repeat(REASON_MAX);
        big.devices.insert(DeviceId::from_entropy(entropy), member);
    }
    let bytes = big.encode();
    assert!(bytes.len() < RECORD_MAX, "{}", bytes.len());
    assert_eq!(record::decode::<Rollout>(&bytes).unwrap().devices.len(), DEVICES_MAX);
}
