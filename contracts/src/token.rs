//! Enrolment tokens: `bramble1.<id>.<secret>.<digest of CA and root keys>`.
//!
//! The device checks the digest against the server before it sends anything; the coordinator stores only the hash of
//! the secret.

use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use crate::{bytes::Sha256, id::Uid};

const PREFIX: &str = "bramble1";

/// A whole token. Its `Debug` hides the secret; `reveal` is the only way to the text.
#[derive(Clone)]
pub struct EnrollmentToken {
    /// Which token.
    pub id: Uid,
    secret: Zeroizing<[u8; 20]>,
    /// Digest of CA bundle and root keys, see [`crate::trust::TrustDocument::pin`].
    pub pin: Sha256,
}

/// A text that is not a token. Never repeats the text: it may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enrolment token: expected bramble1.<id>.<secret>.<digest>, as `bramble enroll-token create` prints it")]
pub struct NotAToken;

impl EnrollmentToken {
    /// A token from 20 random bytes of secret.
    pub fn new(id: Uid, secret: [u8; 20], pin: Sha256) -> Self {
        Self { id, secret: Zeroizing::new(secret), pin }
    }

    /// The secret's text, as it is sent to the coordinator over a checked connection.
    pub fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(&*self.secret).to_ascii_lowercase())
    }

    /// The hash that the coordinator keeps of a secret's text.
    pub fn secret_hash(secret_text: &str) -> Sha256 {
        Sha256::of(format!("bramble enrolment secret\0{secret_text}").as_bytes())
    }

    /// The text to hand to a device.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}.{}.{}.{}", self.id, *self.secret_text(), self.pin))
    }
}

impl FromStr for EnrollmentToken {
    type Err = NotAToken;
    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [PREFIX, id, secret, pin] = parts.as_slice() else { return Err(NotAToken) };
        let secret = BASE32_NOPAD.decode(secret.to_ascii_uppercase().as_bytes()).map_err(|_| NotAToken)?;
        Ok(Self {
            id: id.parse().map_err(|_| NotAToken)?,
            secret: Zeroizing::new(secret.try_into().map_err(|_| NotAToken)?),
            pin: pin.parse().map_err(|_| NotAToken)?,
        })
    }
}

impl fmt::Debug for EnrollmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrollmentToken({}, secret hidden)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_never_shows_its_secret() {
        let token = EnrollmentToken::new(Uid::from_entropy([7; 13]), [42; 20], Sha256::of(b"ca"));
        let again: EnrollmentToken = token.reveal().parse().unwrap();
        assert_eq!((*again.secret_text()).clone(), *token.secret_text());
        assert_eq!((again.id.clone(), again.pin), (token.id.clone(), token.pin));
        assert!(!format!("{token:?}").contains(token.secret_text().as_str()));
        for bad in ["", "bramble1", "bramble2.a.b.c", "bramble1.a.b.c", &format!("{}.x", *token.reveal())] {
            assert_eq!(bad.parse::<EnrollmentToken>().err(), Some(NotAToken), "{bad}");
        }
    }
}
