//! Bad bytes are error values: truncated, oversized, from the future, bit-flipped or random, for every message.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use bramble_contracts::{
    bytes::Sha256,
    envelope::{self, DecodeError, Message},
    release::{ReleaseAnswer, ReleaseAsk, ReleaseKeys, ReleaseManifest, ReleaseTimestamp},
    signed::{self, Role, VerifyError},
    token::EnrollmentToken,
    trust::TrustDocument,
    v1::{Command, DesiredDocument, Heartbeat, RenewReply, RenewRequest, ReplyFrame, SignedTime, TimeRequest},
    v2::{self, CommandInput, Report},
    v3,
};
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

/// Every way to read bytes, as one call: none may panic.
fn read_all(bytes: &[u8]) {
    let _ = envelope::decode::<DesiredDocument>(bytes);
    let _ = envelope::decode::<Report>(bytes);
    let _ = envelope::decode::<Heartbeat>(bytes);
    let _ = envelope::decode::<Command>(bytes);
    let _ = envelope::decode::<CommandInput>(bytes);
    let _ = envelope::decode::<ReplyFrame>(bytes);
    let _ = envelope::decode::<TrustDocument>(bytes);
    let _ = envelope::decode::<RenewRequest>(bytes);
    let _ = envelope::decode::<RenewReply>(bytes);
    let _ = envelope::decode::<TimeRequest>(bytes);
    let trust = samples::trust();
    let _ = signed::open::<DesiredDocument>(bytes, Role::Fleet, |role, id| trust.key(role, id));
    let _ = signed::open::<SignedTime>(bytes, Role::Time, |role, id| trust.key(role, id));
    let _ = TrustDocument::open_stored(bytes);
    let _ = TrustDocument::open_pinned(bytes, &trust.pin());
    let _ = trust.open_next(bytes);
    let _ = envelope::decode::<v2::DesiredDocument>(bytes);
    let _ = envelope::decode::<v3::DesiredDocument>(bytes);
    let _ = envelope::decode::<v3::Report>(bytes);
    let _ = envelope::decode::<ReleaseAsk>(bytes);
    let _ = envelope::decode::<ReleaseAnswer>(bytes);
    let keys = samples::release::keys();
    let _ = ReleaseKeys::open_unsigned(bytes);
    let _ = ReleaseKeys::open_stored(bytes);
    let _ = ReleaseKeys::open_pinned(bytes, &Sha256::of(b""));
    let _ = keys.open_next(bytes);
    let _ = ReleaseManifest::open_unsigned(bytes);
    let _ = ReleaseManifest::open(bytes, &keys);
    let _ = ReleaseTimestamp::open(bytes, &Sha256::of(b""), 0, |role, id| trust.key(role, id));
}

fn whole_messages() -> Vec<Vec<u8>> {
    let mut all = vec![
        envelope::encode(&samples::desired()).unwrap(),
        envelope::encode(&samples::report()).unwrap(),
        envelope::encode(&samples::heartbeat()).unwrap(),
        envelope::encode(&samples::input_v1()).unwrap(),
        envelope::encode(&samples::renew().0).unwrap(),
        envelope::encode(&samples::renew().1).unwrap(),
        envelope::encode(&samples::time().0).unwrap(),
        signed::sign(&samples::time().1, Role::Time, &samples::key(4)).unwrap(),
        signed::sign(&samples::desired(), Role::Fleet, &samples::key(2)).unwrap(),
        samples::trust().sign(&[&samples::key(1)]).unwrap(),
    ];
    all.extend([
        samples::release::keys_signed(),
        samples::release::release_signed(),
        envelope::encode(&samples::release::wished()).unwrap(),
        envelope::encode(&samples::release::report_upgrading()).unwrap(),
        signed::sign(&samples::release::timestamp(), Role::Time, &samples::key(4)).unwrap(),
    ]);
    all.extend(samples::release::asks().iter().map(|a| envelope::encode(a).unwrap()));
    all.extend(samples::release::answers().iter().map(|a| envelope::encode(a).unwrap()));
    all.extend(samples::release::upgrade_commands().iter().map(|c| envelope::encode(c).unwrap()));
    all.extend(samples::commands().iter().map(|c| envelope::encode(c).unwrap()));
    all.extend(samples::inputs().iter().map(|i| envelope::encode(i).unwrap()));
    all.extend(samples::frames().iter().map(|f| envelope::encode(f).unwrap()));
    all
}

#[test]
fn every_truncation_is_an_error_value() {
    for message in whole_messages() {
        for cut in 0..message.len() {
            read_all(&message[..cut]);
        }
    }
    let whole = envelope::encode(&samples::desired()).unwrap();
    for cut in 0..whole.len() {
        assert!(envelope::decode::<DesiredDocument>(&whole[..cut]).is_err(), "a document cut at {cut} was read");
    }
}

#[test]
fn every_flipped_bit_of_a_signed_document_is_refused() {
    let trust = samples::trust();
    let whole = signed::sign(&samples::desired(), Role::Fleet, &samples::key(2)).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let got = signed::open::<DesiredDocument>(&bytes, Role::Fleet, |role, id| trust.key(role, id));
        assert!(got.is_err(), "bit {bit} was flipped and the document accepted");
    }
}

#[test]
fn another_key_or_role_is_refused_before_parsing() {
    let trust = samples::trust();
    let lookup = |role, id: &_| trust.key(role, id);
    let by_stranger = signed::sign(&samples::desired(), Role::Fleet, &samples::key(77)).unwrap();
    let got = signed::open::<DesiredDocument>(&by_stranger, Role::Fleet, lookup);
    assert!(matches!(got, Err(VerifyError::UnknownKey { role: Role::Fleet, .. })), "{got:?}");
    let by_time_key = signed::sign(&samples::desired(), Role::Fleet, &samples::key(4)).unwrap();
    let got = signed::open::<DesiredDocument>(&by_time_key, Role::Fleet, lookup);
    assert!(matches!(got, Err(VerifyError::UnknownKey { .. })), "a time key signs no documents: {got:?}");
    let as_time = signed::sign(&samples::desired(), Role::Time, &samples::key(4)).unwrap();
    let got = signed::open::<DesiredDocument>(&as_time, Role::Fleet, lookup);
    assert!(matches!(got, Err(VerifyError::OtherRole { got: 4, need: Role::Fleet })), "{got:?}");
    let command = signed::sign(&samples::commands()[0], Role::Fleet, &samples::key(2)).unwrap();
    let got = signed::open::<DesiredDocument>(&command, Role::Fleet, lookup);
    assert!(matches!(got, Err(VerifyError::Contents(DecodeError::OtherKind { .. }))), "{got:?}");
    let unsigned = envelope::encode(&samples::desired()).unwrap();
    assert!(matches!(signed::open::<DesiredDocument>(&unsigned, Role::Fleet, lookup), Err(VerifyError::Unsigned)));
}

#[test]
fn the_future_and_the_oversized_are_named() {
    let mut bytes = envelope::encode(&samples::heartbeat()).unwrap();
    bytes[2] = 2;
    let got = envelope::decode::<Heartbeat>(&bytes);
    assert!(matches!(got, Err(DecodeError::Future { got: 2, newest: 1, .. })), "{got:?}");
    let big = vec![0; Heartbeat::MAX_BYTES + 1];
    assert!(matches!(envelope::decode::<Heartbeat>(&big), Err(DecodeError::TooLarge { .. })));
    let mut long = envelope::encode(&samples::heartbeat()).unwrap();
    long.push(0);
    assert!(matches!(envelope::decode::<Heartbeat>(&long), Err(DecodeError::Damaged { .. })));
    let mut report = samples::report();
    report.alarms = vec!["x".repeat(70_000)];
    assert!(envelope::encode(&report).is_err(), "a report above its limit is not written");
}

#[test]
fn a_claimed_length_does_not_reserve_memory() {
    // Kind and version of a desired document, then a device id that claims to be 2^63 bytes long.
    let bytes = [envelope::MAGIC, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(matches!(envelope::decode::<DesiredDocument>(&bytes), Err(DecodeError::Damaged { .. })));
}

#[test]
fn only_what_a_container_is_changes_its_hash() {
    let base = samples::deployment();
    let hash = base.spec_hash();
    let same = |change: fn(&mut bramble_contracts::v1::Deployment)| {
        let mut d = base.clone();
        change(&mut d);
        assert_ne!(d, base, "the change must change something");
        d.spec_hash() == hash
    };
    assert!(same(|d| d.metadata.labels.clear()));
    assert!(same(|d| d.spec.selector.match_labels.clear()));
    assert!(same(|d| d.spec.lifecycle.grace_period.0 += 1));
    assert!(same(|d| d.spec.containers[0].probe = None));
    assert!(same(|d| d.spec.containers[1].restart = bramble_contracts::v1::Restart::Never));
    assert!(same(|d| d.spec.init_containers[0].timeout.0 += 1));
    assert!(!same(|d| d.spec.containers[0].image = "x:2".parse().unwrap()));
    assert!(!same(|d| d.spec.containers[0].env[0].value = Some("other".into())));
    assert!(!same(|d| d.spec.containers[0].ports.clear()));
    assert!(!same(|d| d.spec.init_containers.clear()));
    assert!(!same(|d| d.spec.host_network = true));
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), any::<u8>());
    (prop::sample::select(whole_messages()), prop::collection::vec(edit, 1..8), any::<prop::sample::Index>()).prop_map(
        |(mut bytes, edits, cut)| {
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let keep = cut.index(bytes.len() + 1).max(bytes.len() / 2);
            bytes.truncate(keep);
            bytes
        },
    )
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        read_all(&bytes);
    }

    #[test]
    fn mutated_messages_never_panic(bytes in mutated()) {
        read_all(&bytes);
    }

    #[test]
    fn what_decodes_encodes_to_something_that_decodes_the_same(bytes in mutated()) {
        if let Ok(report) = envelope::decode::<Report>(&bytes) {
            let again = envelope::encode(&report).unwrap();
            prop_assert_eq!(envelope::decode::<Report>(&again).unwrap(), report);
        }
    }

    #[test]
    fn texts_that_parse_print_the_same(text in "[a-z0-9.%-]{0,12}") {
        if let Ok(d) = text.parse::<bramble_contracts::quantity::Millis>() {
            prop_assert_eq!(d.to_string().parse(), Ok(d));
        }
        if let Ok(name) = text.parse::<bramble_contracts::Name>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!(!text.contains(['.', '*', '>', ' ']), "a name is one subject token");
        }
    }

    #[test]
    fn tokens_never_panic(text in "(bramble1)?[.a-z0-9]{0,160}") {
        let _ = text.parse::<EnrollmentToken>();
    }
}
