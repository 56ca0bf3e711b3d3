//! Is a desired document to be acted on? Signature, device and generation, in that order; pure.
//!
//! Decides. Does not store, ask or act.

use std::cell::Cell;

use bramble_contracts::bytes::{KeyId, PublicKey};
use bramble_contracts::signed::{self, Role, VerifyError};
use bramble_contracts::v1::RefusalKind;
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{DeviceId, Generation};

use super::refusals::Bad;
use crate::core::accept::{Accepted, Stale, accept};

/// What to do with bytes that claim to be our desired document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Newer: store, then act. Verified by this key.
    Newer(Box<DesiredDocument>, PublicKey),
    /// What we hold already, signed by this key.
    Same(PublicKey),
    /// Signed by a key we do not know: perhaps the trust document has a successor.
    UnknownKey(Bad),
    /// No.
    Refused(Bad),
}

pub(crate) fn judge(
    bytes: &[u8],
    device: &DeviceId,
    have: Option<&DesiredDocument>,
    floor: Generation,
    lookup: impl FnOnce(Role, &KeyId) -> Option<PublicKey>,
) -> Judged {
    let used = Cell::new(None);
    let opened = signed::open::<DesiredDocument>(bytes, Role::Fleet, |role, id| {
        let key = lookup(role, id);
        used.set(key);
        key
    });
    let refuse = |kind, detail: String, generation| Bad { kind, detail, generation };
    let document = match opened {
        Ok(document) => document,
        Err(err) => {
            let bad = refuse(signature_kind(&err), format!("desired document: {err}"), None);
            return if matches!(err, VerifyError::UnknownKey { .. }) {
                Judged::UnknownKey(bad)
            } else {
                Judged::Refused(bad)
            };
        }
    };
    let key = used.get().expect("invariant: what verified was verified by a key");
    if document.device != *device {
        let text = format!("desired document is for device {}", document.device);
        return Judged::Refused(refuse(RefusalKind::OtherDevice, text, Some(document.generation)));
    }
    match accept(have, floor, &document) {
        Ok(Accepted::Newer) => Judged::Newer(Box::new(document), key),
        Ok(Accepted::Same) => Judged::Same(key),
        Err(stale) => Judged::Refused(refuse(stale_kind(&stale), stale.to_string(), Some(document.generation))),
    }
}

/// The kind under which a message with that flaw is reported.
pub(crate) fn signature_kind(err: &VerifyError) -> RefusalKind {
    match err {
        VerifyError::Unsigned
        | VerifyError::OtherRole { .. }
        | VerifyError::UnknownKey { .. }
        | VerifyError::Mismatch { .. } => RefusalKind::Signature,
        VerifyError::TooLarge { .. } | VerifyError::Contents(_) => RefusalKind::Unreadable,
    }
}

fn stale_kind(stale: &Stale) -> RefusalKind {
    match stale {
        Stale::Older { .. } => RefusalKind::OlderGeneration,
        Stale::Forked(_) => RefusalKind::Forked,
        Stale::OtherDevice(_) => RefusalKind::OtherDevice,
    }
}

/// Where a push stands in the stream of its subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// `Nats-Sequence`
    pub(crate) sequence: Option<u64>,
    /// `Nats-Last-Sequence`: of the message on this subject before it.
    pub(crate) last: Option<u64>,
}

/// Was something missed between the sequence seen last and this push?
pub(crate) fn missed(seen: Option<u64>, push: Place) -> bool {
    match (seen, push.last, push.sequence) {
        (Some(seen), Some(last), Some(sequence)) => last != seen && sequence != seen,
        (None, ..) => true,
        (Some(_), None, _) | (Some(_), Some(_), None) => false,
    }
}

/// The generation a document gives to the view; 0 before the first.
pub(crate) fn generation_of(document: Option<&DesiredDocument>) -> Generation {
    document.map_or(Generation(0), |document| document.generation)
}

#[cfg(test)]
mod tests {
    use bramble_contracts::Tenant;
    use bramble_contracts::bytes::key_id;
    use bramble_contracts::signed::{public_key, sign};
    use ed25519_dalek::SigningKey;
    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::*;

    fn device(n: u8) -> DeviceId {
        DeviceId::from_entropy([n; 13])
    }

    fn document(n: u8, generation: u64, name: &str) -> DesiredDocument {
        DesiredDocument {
            device: device(n),
            generation: Generation(generation),
            tenant: Tenant::default(),
            name: name.parse().unwrap(),
            labels: Default::default(),
            apps: vec![],
            agent: None,
            os: None,
        }
    }

    fn fleet() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn verdict(bytes: &[u8], have: Option<&DesiredDocument>) -> Judged {
        let key = public_key(&fleet());
        judge(bytes, &device(1), have, Generation(0), |role, id| {
            (role == Role::Fleet && key_id(&key) == *id).then_some(key)
        })
    }

    fn kind(judged: Judged) -> Option<RefusalKind> {
        match judged {
            Judged::Refused(bad) | Judged::UnknownKey(bad) => Some(bad.kind),
            Judged::Newer(..) | Judged::Same(_) => None,
        }
    }

    #[test]
    fn only_our_signed_newer_document_is_taken() {
        let have = document(1, 5, "pi");
        let signed = |d: &DesiredDocument| sign(d, Role::Fleet, &fleet()).unwrap();
        assert!(matches!(verdict(&signed(&document(1, 6, "pi")), Some(&have)), Judged::Newer(..)));
        assert!(matches!(verdict(&signed(&have), Some(&have)), Judged::Same(_)));
        assert_eq!(kind(verdict(&signed(&document(1, 5, "x")), Some(&have))), Some(RefusalKind::Forked));
        assert_eq!(kind(verdict(&signed(&document(1, 4, "pi")), Some(&have))), Some(RefusalKind::OlderGeneration));
        assert_eq!(kind(verdict(&signed(&document(2, 9, "pi")), None)), Some(RefusalKind::OtherDevice));
        let stranger = sign(&document(1, 9, "pi"), Role::Fleet, &SigningKey::from_bytes(&[8; 32])).unwrap();
        assert!(matches!(verdict(&stranger, Some(&have)), Judged::UnknownKey(_)));
        let other_role = sign(&document(1, 9, "pi"), Role::Release, &fleet()).unwrap();
        assert_eq!(kind(verdict(&other_role, Some(&have))), Some(RefusalKind::Signature));
        let unsigned = bramble_contracts::envelope::encode(&document(1, 9, "pi")).unwrap();
        assert_eq!(kind(verdict(&unsigned, Some(&have))), Some(RefusalKind::Signature));
    }

    #[test]
    fn gaps_are_seen_by_the_sequence_before() {
        let push = |last, sequence| Place { sequence: Some(sequence), last: Some(last) };
        assert!(!missed(Some(4), push(4, 9)));
        assert!(missed(Some(4), push(7, 9)));
        assert!(!missed(Some(9), push(7, 9)), "the very message we hold");
        assert!(missed(None, push(4, 9)));
        assert!(!missed(Some(4), Place::default()), "a push without headers says nothing");
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_never_taken(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = sign(&document(1, 6, "pi"), Role::Fleet, &fleet()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(kind(verdict(&bytes, None)).is_some());
        }
    }
}
