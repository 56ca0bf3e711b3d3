//! Signatures around envelopes: verified before anything inside is parsed.
//!
//! Layout: `[0xB8][role][key id, 8][signature, 64][envelope…]`. The signature (Ed25519, RFC 8032, `verify_strict`)
//! covers a domain string, role, key id and the envelope, so bytes signed for one purpose never pass for another.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    bytes::{KeyId, PublicKey, key_id},
    envelope::{self, DecodeError, EncodeError, Message},
};

/// First byte of a signed envelope.
pub const MAGIC: u8 = 0xB8;
const HEAD: usize = 1 + 1 + 8 + 64;
const DOMAIN: &[u8] = b"bramble signed envelope v1\0";

/// What a key may sign. Numbers are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Role {
    /// Certifies all other keys, through the trust document. May be offline.
    Root = 1,
    /// Signs desired documents and commands. Online, at the coordinator.
    Fleet = 2,
    /// Signs agent releases. Offline.
    Release = 3,
    /// Signs the time.
    Time = 4,
}

/// Why a signed message is refused. Nothing of its contents has been parsed, except for `Contents`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Too short, or another first byte: it carries no signature.
    #[error("message is not signed")]
    Unsigned,
    /// Larger than any message of that kind.
    #[error("signed message of {got} bytes is larger than the limit of {max}")]
    TooLarge {
        /// Its size.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// It claims another role than the one needed.
    #[error("message is signed in role {got}, needed is {need:?}")]
    OtherRole {
        /// The role's number in the message.
        got: u8,
        /// The role needed.
        need: Role,
    },
    /// No trusted key of that role has this id: rotated, revoked, or never ours.
    #[error("message is signed by key {key}, which the trust document does not list as a {role:?} key")]
    UnknownKey {
        /// The key's id.
        key: KeyId,
        /// The role needed.
        role: Role,
    },
    /// The key is known and the signature does not fit.
    #[error("signature by key {key} does not match: the message was altered")]
    Mismatch {
        /// The key's id.
        key: KeyId,
    },
    /// The signature is right and the contents cannot be read.
    #[error("signed contents cannot be read: {0}")]
    Contents(#[from] DecodeError),
}

fn signed_bytes(role: u8, key: &KeyId, envelope: &[u8]) -> Vec<u8> {
    [DOMAIN, &[role], &key.0, envelope].concat()
}

/// Signs `message` in `role`.
pub fn sign<M: Message>(message: &M, role: Role, key: &SigningKey) -> Result<Vec<u8>, EncodeError> {
    let envelope = envelope::encode(message)?;
    let id = key_id(&public_key(key));
    let signature = key.sign(&signed_bytes(role as u8, &id, &envelope));
    let mut out = vec![MAGIC, role as u8];
    out.extend_from_slice(&id.0);
    out.extend_from_slice(&signature.to_bytes());
    out.extend_from_slice(&envelope);
    Ok(out)
}

/// The public half of `key`, as our documents carry it.
pub fn public_key(key: &SigningKey) -> PublicKey {
    crate::bytes::Fixed(key.verifying_key().to_bytes())
}

/// Verifies `bytes` against the keys that `lookup` knows for `role`, then decodes. In that order.
pub fn open<M: Message>(
    bytes: &[u8],
    role: Role,
    lookup: impl FnOnce(Role, &KeyId) -> Option<PublicKey>,
) -> Result<M, VerifyError> {
    if bytes.len() > HEAD + M::MAX_BYTES {
        return Err(VerifyError::TooLarge { got: bytes.len(), max: HEAD + M::MAX_BYTES });
    }
    if bytes.len() < HEAD || bytes[0] != MAGIC {
        return Err(VerifyError::Unsigned);
    }
    if bytes[1] != role as u8 {
        return Err(VerifyError::OtherRole { got: bytes[1], need: role });
    }
    let (head, envelope) = bytes.split_at(HEAD);
    let id = crate::bytes::Fixed(head[2..10].try_into().expect("invariant: eight bytes"));
    let public = lookup(role, &id).ok_or(VerifyError::UnknownKey { key: id, role })?;
    let signature = Signature::from_bytes(head[10..].try_into().expect("invariant: 64 bytes"));
    verify(&public, &signed_bytes(role as u8, &id, envelope), &signature)
        .then_some(())
        .ok_or(VerifyError::Mismatch { key: id })?;
    Ok(envelope::decode(envelope)?)
}

/// Strict Ed25519 verification: a malformed key or a small-order point is simply "no".
pub(crate) fn verify(public: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    VerifyingKey::from_bytes(&public.0).is_ok_and(|key| key.verify_strict(message, signature).is_ok())
}
