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

/// For a field of any number of bytes, by `#[serde(with = "raw")]`: written and read as one piece. On the wire it is what a
/// `Vec<u8>` is without it, which serde writes and reads byte by byte.
pub(crate) mod raw {
    use std::fmt;

    use serde::de::{Deserializer, Error, SeqAccess, Visitor};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        d.deserialize_byte_buf(Bytes)
    }

    struct Bytes;

    impl<'de> Visitor<'de> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }

        /// As JSON has them.
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
            let mut bytes = vec![];
            while let Some(byte) = seq.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_bytes_are_on_the_wire_what_they_were_and_in_json_too() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Plain(Vec<u8>, u8);
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Raw(#[serde(with = "raw")] Vec<u8>, u8);
        for length in [0, 1, 127, 128, 300, 70_000] {
            let bytes: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0] ^ 0x80).collect();
            let (plain, raw) = (Plain(bytes.clone(), 7), Raw(bytes, 7));
            let wire = postcard::to_allocvec(&plain).unwrap();
            assert_eq!(postcard::to_allocvec(&raw).unwrap(), wire);
            assert_eq!(postcard::from_bytes::<Raw>(&wire).unwrap(), raw);
            assert!(postcard::from_bytes::<Raw>(&wire[..wire.len() / 2]).is_err());
            let json = serde_json::to_string(&plain).unwrap();
            assert_eq!(serde_json::to_string(&raw).unwrap(), json);
            assert_eq!(serde_json::from_str::<Raw>(&json).unwrap(), raw);
        }
    }
}
