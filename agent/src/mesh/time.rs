//! The coordinator's signed time: asked with a fresh nonce, believed when it is signed for this device and this question.
//!
//! Decides whether an answer counts. What the time says about the clock is `core::clock`'s word.

use async_nats::Client;
use bramble_contracts::bytes::{Fixed, KeyId, PublicKey};
use bramble_contracts::signed::{self, Role, VerifyError};
use bramble_contracts::subjects::Up;
use bramble_contracts::v1::{RefusalKind, SignedTime, TimeNonce, TimeRequest};
use bramble_contracts::{DeviceId, envelope};

use super::context::Context;
use super::judge::signature_kind;
use super::refusals::Bad;
use super::{random, renew};
use crate::core::clock::{SIGNED_ROUND_TRIP_MAX_MS, Sample};
use crate::host::clock;

/// Why an answer is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NotTime {
    #[error("the signed time: {0}")]
    Signature(#[from] VerifyError),
    #[error("the signed time is for device {0}")]
    OtherDevice(DeviceId),
    #[error("the signed time answers another question: a recording?")]
    Recorded,
    #[error("the signed time was {0} ms under way, so it says too little")]
    Slow(u64),
}

impl NotTime {
    /// What people hear of: forgery, not slowness.
    fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Signature(err) => Some(signature_kind(err)),
            Self::OtherDevice(_) => Some(RefusalKind::OtherDevice),
            Self::Recorded => Some(RefusalKind::StaleCommand),
            Self::Slow(_) => None,
        }
    }
}

/// One question and its answer, with the uptimes at which they went and came.
struct Exchange<'a> {
    device: &'a DeviceId,
    nonce: TimeNonce,
    sent_up_ms: u64,
    got_up_ms: u64,
    answer: &'a [u8],
}

impl Exchange<'_> {
    fn judge(&self, lookup: impl FnOnce(Role, &KeyId) -> Option<PublicKey>) -> Result<Sample, NotTime> {
        let time: SignedTime = signed::open(self.answer, Role::Time, lookup)?;
        if time.device != *self.device {
            return Err(NotTime::OtherDevice(time.device));
        }
        if time.nonce != self.nonce {
            return Err(NotTime::Recorded);
        }
        let round_trip_ms = self.got_up_ms.saturating_sub(self.sent_up_ms);
        if round_trip_ms > SIGNED_ROUND_TRIP_MAX_MS {
            return Err(NotTime::Slow(round_trip_ms));
        }
        Ok(Sample { unix_ms: time.unix_ms, up_ms: self.sent_up_ms + round_trip_ms / 2, round_trip_ms })
    }
}

/// Asks on `up.<id>.time`. The error is in words.
pub(crate) async fn ask(context: &Context, client: &Client) -> Result<Sample, String> {
    let nonce = Fixed(random::bytes());
    let bytes = envelope::encode(&TimeRequest { nonce }).map_err(|err| err.to_string())?;
    let sent_up_ms = clock::up_ms();
    let answer =
        client.request(Up::Time.subject(&context.device), bytes.into()).await.map_err(|err| err.to_string())?;
    let got_up_ms = clock::up_ms();
    let exchange = Exchange { device: &context.device, nonce, sent_up_ms, got_up_ms, answer: &answer.payload };
    let judge = || exchange.judge(|role, id| context.trust.key(role, id));
    let mut judged = judge();
    if let Err(NotTime::Signature(VerifyError::UnknownKey { .. })) = judged {
        // A time key that came after the trust document we hold.
        renew::trust_over_mesh(context, client).await?;
        judged = judge();
    }
    judged.map_err(|why| {
        if let Some(kind) = why.refusal() {
            context.refusals.add(&Bad { kind, detail: why.to_string(), generation: None });
        }
        why.to_string()
    })
}

#[cfg(test)]
mod tests {
    use bramble_contracts::bytes::key_id;
    use bramble_contracts::signed::{public_key, sign};
    use ed25519_dalek::SigningKey;

    use super::*;

    const NONCE: TimeNonce = Fixed([3; 16]);

    fn device(n: u8) -> DeviceId {
        DeviceId::from_entropy([n; 13])
    }

    fn time_key() -> SigningKey {
        SigningKey::from_bytes(&[4; 32])
    }

    fn said(device: DeviceId, nonce: TimeNonce, role: Role, key: &SigningKey) -> Vec<u8> {
        sign(&SignedTime { device, nonce, unix_ms: 1_790_000_000_000 }, role, key).unwrap()
    }

    fn judge(answer: &[u8], took_ms: u64) -> Result<Sample, NotTime> {
        let (device, key) = (device(1), public_key(&time_key()));
        let exchange = Exchange { device: &device, nonce: NONCE, sent_up_ms: 500, got_up_ms: 500 + took_ms, answer };
        exchange.judge(|role, id| (role == Role::Time && key_id(&key) == *id).then_some(key))
    }

    #[test]
    fn only_a_fresh_answer_to_this_question_by_the_time_key_counts() {
        let good = said(device(1), NONCE, Role::Time, &time_key());
        let want = Sample { unix_ms: 1_790_000_000_000, up_ms: 600, round_trip_ms: 200 };
        assert_eq!(judge(&good, 200), Ok(want), "half of the way there and back");
        assert_eq!(judge(&good, 10_001), Err(NotTime::Slow(10_001)));
        let recorded = said(device(1), Fixed([9; 16]), Role::Time, &time_key());
        assert_eq!(judge(&recorded, 200), Err(NotTime::Recorded));
        let other = said(device(2), NONCE, Role::Time, &time_key());
        assert_eq!(judge(&other, 200), Err(NotTime::OtherDevice(device(2))));
        let stranger = said(device(1), NONCE, Role::Time, &SigningKey::from_bytes(&[5; 32]));
        assert!(matches!(judge(&stranger, 200), Err(NotTime::Signature(VerifyError::UnknownKey { .. }))));
        let by_fleet = said(device(1), NONCE, Role::Fleet, &time_key());
        assert!(matches!(judge(&by_fleet, 200), Err(NotTime::Signature(VerifyError::OtherRole { .. }))));
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(judge(&flipped, 200).is_err(), "bit {bit}");
        }
    }
}
