//! Who may enrol with which token, and what they become.
//!
//! A use is bound to the first public key that presents it: the same key asking again gets the same device, so a lost
//! reply strands nobody. Deliberately does not: verify the device's proof or make ids; those are inputs.

use bramble_contracts::{
    Labels,
    api::{DeviceState, TokenView},
    bytes::Sha256,
    id::{DeviceId, Name},
};
use subtle::ConstantTimeEq as _;

use super::{
    record::{DeviceRecord, TokenRecord, TokenUse},
    when::rfc3339,
};

/// Why a token is refused. Never says which half was wrong to somebody who does not know the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum TokenRefused {
    /// No such token, or another secret.
    #[error("the enrolment token is not known here: make one with `bramble enroll-token create`")]
    Unknown,
    /// Too old.
    #[error("the enrolment token has expired: make a new one with `bramble enroll-token create`")]
    Expired,
    /// Taken back.
    #[error("the enrolment token was revoked: make a new one with `bramble enroll-token create`")]
    Revoked,
    /// Used up by other keys.
    #[error(
        "the enrolment token was used already, by another device: make a new one with `bramble enroll-token create`"
    )]
    Spent,
}

/// What presenting a token comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// This key has used it before and is this device.
    Again(DeviceId),
    /// A use is free: bind it before the device is made.
    New,
}

/// Is the token good for this key now? A key that used it keeps its answer, also after the token's end.
pub fn present(
    token: &TokenRecord,
    secret_hash: &Sha256,
    public_key: &str,
    now_ms: u64,
) -> Result<Admission, TokenRefused> {
    if !bool::from(token.secret_hash.0.ct_eq(&secret_hash.0)) {
        return Err(TokenRefused::Unknown);
    }
    if let Some(used) = token.used.iter().find(|u| u.public_key == public_key) {
        return Ok(Admission::Again(used.device.clone()));
    }
    if token.revoked {
        return Err(TokenRefused::Revoked);
    }
    if now_ms >= token.expires_ms {
        return Err(TokenRefused::Expired);
    }
    let taken = u32::try_from(token.used.len()).unwrap_or(u32::MAX);
    if taken >= token.uses { Err(TokenRefused::Spent) } else { Ok(Admission::New) }
}

/// The token with one use bound to this key and device.
pub fn bind(mut token: TokenRecord, public_key: &str, device: &DeviceId) -> TokenRecord {
    token.used.push(TokenUse { public_key: public_key.to_owned(), device: device.clone() });
    token
}

/// The state a device begins in: a token with several uses proves less.
pub fn first_state(token: &TokenRecord) -> DeviceState {
    if token.uses == 1 || token.auto_approve { DeviceState::Active } else { DeviceState::Pending }
}

/// A newly enrolled device.
pub fn device(
    token: &TokenRecord,
    id: DeviceId,
    name: Name,
    public_key: String,
    newest_document: u8,
    now_ms: u64,
) -> DeviceRecord {
    DeviceRecord {
        id,
        tenant: token.tenant.clone(),
        name,
        labels: token.labels.clone(),
        state: first_state(token),
        public_key: Some(public_key),
        token: Some(token.id.clone()),
        newest_document,
        created_ms: now_ms,
        quarantine: None,
        hold: None,
    }
}

/// Names to try for a new device, in order: the one it wants, then that one made unlike any other by its id.
pub fn names(wanted: Option<&Name>, hostname: &str, id: &DeviceId) -> Vec<Name> {
    let tail = &id.as_str()[2..];
    let cleaned: String =
        hostname.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let base = wanted.map_or_else(|| cleaned.trim_matches('-').to_owned(), |n| n.as_str().to_owned());
    let base = if base.is_empty() { "device".to_owned() } else { base };
    let short: String = base.chars().take(40).collect();
    let short = short.trim_end_matches('-');
    [base.clone(), format!("{short}-{}", &tail[..6]), format!("{short}-{tail}")]
        .into_iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// A token as people see it.
pub fn token_view(token: &TokenRecord, version: u64) -> TokenView {
    let labels: Labels = token.labels.clone();
    TokenView {
        id: token.id.clone(),
        tenant: token.tenant.clone(),
        created: rfc3339(token.created_ms),
        expires: rfc3339(token.expires_ms),
        uses: token.uses,
        used: u32::try_from(token.used.len()).unwrap_or(u32::MAX),
        auto_approve: token.auto_approve,
        labels,
        revoked: token.revoked,
        version,
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::id::{Tenant, Uid};
    use proptest::prelude::*;

    use super::*;

    fn token(uses: u32) -> TokenRecord {
        TokenRecord {
            id: Uid::from_entropy([1; 13]),
            tenant: Tenant::default(),
            secret_hash: Sha256::of(b"s"),
            created_ms: 0,
            expires_ms: 100,
            uses,
            used: vec![],
            auto_approve: false,
            labels: Labels::new(),
            revoked: false,
        }
    }

    #[test]
    fn the_same_key_keeps_its_device_and_others_are_refused() {
        let good = Sha256::of(b"s");
        let id = DeviceId::from_entropy([3; 13]);
        let fresh = token(1);
        assert_eq!(present(&fresh, &Sha256::of(b"x"), "UA", 1), Err(TokenRefused::Unknown));
        assert_eq!(present(&fresh, &good, "UA", 1), Ok(Admission::New));
        assert_eq!(present(&fresh, &good, "UA", 100), Err(TokenRefused::Expired));
        let mut used = bind(fresh, "UA", &id);
        used.revoked = true;
        assert_eq!(present(&used, &good, "UA", 999), Ok(Admission::Again(id)));
        used.revoked = false;
        assert_eq!(present(&used, &good, "UB", 1), Err(TokenRefused::Spent));
        assert_eq!((first_state(&token(1)), first_state(&token(2))), (DeviceState::Active, DeviceState::Pending));
    }

    #[test]
    fn a_device_without_a_wish_is_called_after_its_host() {
        let id = DeviceId::from_entropy([0; 13]);
        let texts = |n: Vec<Name>| n.into_iter().map(String::from).collect::<Vec<_>>();
        assert_eq!(
            texts(names(None, "Pi_4.local", &id))[..2],
            ["pi-4-local".to_owned(), "pi-4-local-aaaaaa".to_owned()]
        );
        assert_eq!(texts(names(None, "___", &id))[0], "device");
    }

    proptest! {
        #[test]
        fn a_token_never_makes_more_devices_than_it_has_uses(uses in 0u32..5, keys in proptest::collection::vec(0u8..8, 0..30)) {
            let mut t = token(uses);
            for key in keys {
                let name = format!("U{key}");
                if present(&t, &Sha256::of(b"s"), &name, 5) == Ok(Admission::New) {
                    t = bind(t, &name, &DeviceId::from_entropy([key; 13]));
                }
            }
            prop_assert!(t.used.len() <= uses as usize);
        }
    }
}
