//! Who this device is to the mesh: its key, made here and never leaving, and what enrolment gave it.
//!
//! Decides where these lie and that a key is durable before anybody hears of it. Does not talk to anybody.

use std::path::Path;
use std::time::Duration;

use bramble_contracts::{DeviceId, Name, Tenant};
use data_encoding::BASE64URL_NOPAD;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};

use super::random;
use crate::host::clock;
use crate::host::state::{StateError, StateFile};

/// Why the device cannot say who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// State could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key file holds something else.
    #[error("{path} holds no user key; if it cannot be restored, remove it and enrol this device again")]
    NotAKey {
        /// The file.
        path: String,
    },
}

/// The device's own key.
pub(crate) struct DeviceKey(KeyPair);

impl DeviceKey {
    /// Where it lies.
    pub(crate) fn file(state_dir: &Path) -> StateFile {
        StateFile::new(state_dir.join("keys/device"), 1)
    }

    /// The key in `state_dir`; made and durable when this returns.
    pub(crate) fn load_or_make(state_dir: &Path) -> Result<Self, IdentityError> {
        let file = Self::file(state_dir);
        let not_a_key = || IdentityError::NotAKey { path: file.path().display().to_string() };
        if let Some(seed) = file.load()?.value() {
            let seed = zeroize::Zeroizing::new(seed);
            let text = std::str::from_utf8(&seed).map_err(|_| not_a_key())?;
            let pair = KeyPair::from_seed(text.trim()).map_err(|_| not_a_key())?;
            return if pair.key_pair_type() == KeyPairType::User { Ok(Self(pair)) } else { Err(not_a_key()) };
        }
        let raw = zeroize::Zeroizing::new(random::bytes());
        let pair = KeyPair::new_from_raw(KeyPairType::User, *raw).map_err(|_| not_a_key())?;
        let seed = zeroize::Zeroizing::new(pair.seed().map_err(|_| not_a_key())?);
        file.store(seed.as_bytes())?;
        Ok(Self(pair))
    }

    /// `U…`
    pub(crate) fn public(&self) -> String {
        self.0.public_key()
    }

    /// A raw signature.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).expect("invariant: a key made from a seed can sign")
    }

    /// A signature as the HTTP API wants it.
    pub(crate) fn proof(&self, message: &str) -> String {
        BASE64URL_NOPAD.encode(&self.sign(message.as_bytes()))
    }
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceKey({})", self.public())
    }
}

/// When something was received, by a clock that nobody sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// In this boot.
    pub boot: String,
    /// At this uptime, in milliseconds.
    pub up_ms: u64,
}

impl Received {
    /// Now.
    pub(crate) fn now() -> Self {
        Self { boot: boot_id(), up_ms: millis(clock::uptime()) }
    }

    /// How long ago; unknown when it was before this boot.
    pub(crate) fn age(&self) -> Option<Duration> {
        let up = millis(clock::uptime());
        (self.boot == boot_id()).then(|| Duration::from_millis(up.saturating_sub(self.up_ms)))
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Changes with every boot; empty where the kernel does not say.
pub(crate) fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// What enrolment gave.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// For ever.
    pub device: DeviceId,
    /// Whose.
    pub tenant: Tenant,
    /// As it was called at enrolment.
    pub name: Name,
    /// The newest user JWT.
    pub jwt: String,
    /// When that came.
    pub received: Received,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} {}, jwt hidden)", self.device, self.name)
    }
}

/// Where the identity lies.
pub(crate) fn identity_file(state_dir: &Path) -> StateFile {
    StateFile::new(state_dir.join("keys/identity"), 1)
}

/// Where the signed trust document lies.
pub(crate) fn trust_file(state_dir: &Path) -> StateFile {
    StateFile::new(state_dir.join("keys/trust"), 1)
}

/// The times in a user JWT. The broker checks the signature; the device only plans its renewal by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Span {
    iat: u64,
    #[serde(default)]
    exp: u64,
}

impl Span {
    /// Reads the claims of `jwt`.
    pub fn of(jwt: &str) -> Option<Self> {
        let claims = jwt.split('.').nth(1)?;
        serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?).ok()
    }

    /// When it was made, in seconds since 1970.
    pub fn issued(&self) -> u64 {
        self.iat
    }

    /// How long it is valid in all; `None` for ever.
    pub fn length(&self) -> Option<Duration> {
        (self.exp > 0).then(|| Duration::from_secs(self.exp.saturating_sub(self.iat)))
    }
}

/// How long to wait before asking for a new JWT, by how long this one has been here. No wall clock takes part.
pub fn renewal_wait(span: Option<Span>, age: Option<Duration>) -> Option<Duration> {
    let Some(span) = span else { return Some(Duration::ZERO) };
    let half = span.length()? / 2;
    // Received before this boot: nobody knows how long the device was off.
    Some(age.map_or(Duration::ZERO, |age| half.saturating_sub(age)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = DeviceKey::load_or_make(dir.path()).unwrap();
        let again = DeviceKey::load_or_make(dir.path()).unwrap();
        assert_eq!(first.public(), again.public());
        assert!(first.public().starts_with('U'));
        let mode = std::fs::metadata(dir.path().join("keys/device")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let shown = format!("{first:?}");
        assert_eq!(shown, format!("DeviceKey({})", first.public()), "and nothing secret");
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        DeviceKey::load_or_make(dir.path()).unwrap();
        std::fs::write(dir.path().join("keys/device"), b"rubbish").unwrap();
        assert!(DeviceKey::load_or_make(dir.path()).is_err());
    }

    #[test]
    fn renewal_is_at_half_life_by_the_monotonic_clock() {
        let span = Some(Span { iat: 1000, exp: 1000 + 3600 });
        let hour = Duration::from_secs(3600);
        assert_eq!(renewal_wait(span, Some(Duration::ZERO)), Some(hour / 2));
        assert_eq!(renewal_wait(span, Some(Duration::from_secs(1000))), Some(Duration::from_secs(800)));
        assert_eq!(renewal_wait(span, Some(hour)), Some(Duration::ZERO));
        assert_eq!(renewal_wait(span, None), Some(Duration::ZERO));
        assert_eq!(renewal_wait(None, Some(Duration::ZERO)), Some(Duration::ZERO), "an unreadable one is replaced");
        assert_eq!(renewal_wait(Some(Span { iat: 5, exp: 0 }), None), None, "one without end needs none");
    }

    #[test]
    fn claims_are_read_and_rubbish_is_not() {
        let claims = BASE64URL_NOPAD.encode(br#"{"iat":10,"exp":70,"nats":{}}"#);
        let span = Span::of(&format!("x.{claims}.y")).unwrap();
        assert_eq!(span.length(), Some(Duration::from_secs(60)));
        assert_eq!(Span::of("x.y"), None);
        assert_eq!(Span::of(""), None);
    }
}
