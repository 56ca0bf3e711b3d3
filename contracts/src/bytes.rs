//! Fixed-size byte values: hashes, keys and ids of keys. Hex where people read, raw bytes on the wire.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::Digest as _;

/// A text that is not the hex form of a fixed-size value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {want} hex digits, found {found:?}")]
pub struct NotHex {
    /// Digits wanted.
    pub want: usize,
    /// What was there, shortened.
    pub found: String,
}

/// Exactly `N` bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fixed<const N: usize>(pub [u8; N]);

/// A SHA-256 digest.
pub type Sha256 = Fixed<32>;
/// An Ed25519 public key (RFC 8032).
pub type PublicKey = Fixed<32>;
/// The first eight bytes of the SHA-256 of a public key.
pub type KeyId = Fixed<8>;

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

/// The id that envelopes use to name `key`.
pub fn key_id(key: &PublicKey) -> KeyId {
    let digest = Sha256::of(&key.0);
    let mut id = [0; 8];
    id.copy_from_slice(&digest.0[..8]);
    Fixed(id)
}

impl<const N: usize> fmt::Display for Fixed<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl<const N: usize> fmt::Debug for Fixed<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Fixed<N> {
    type Err = NotHex;
    fn from_str(text: &str) -> Result<Self, NotHex> {
        let bad = || NotHex { want: N * 2, found: text.chars().take(80).collect() };
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| bad())?;
        <[u8; N]>::try_from(bytes.as_slice()).map(Self).map_err(|_| bad())
    }
}

impl<const N: usize> Serialize for Fixed<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_bytes(&self.0) }
    }
}

impl<'de, const N: usize> Deserialize<'de> for Fixed<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            return String::deserialize(d)?.parse().map_err(D::Error::custom);
        }
        let bytes = <&[u8]>::deserialize(d)?;
        <[u8; N]>::try_from(bytes).map(Self).map_err(|_| D::Error::invalid_length(bytes.len(), &"a fixed-size value"))
    }
}
