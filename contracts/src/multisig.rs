//! Documents that several keys sign: `[magic][n][n × (key id, 8; signature, 64)][envelope…]`.
//!
//! Decides how signatures lie and who has validly signed. How many are enough is the document's own matter.

use ed25519_dalek::{Signature, Signer as _, SigningKey};

use crate::{
    bytes::{Fixed, KeyId, PublicKey, key_id},
    envelope::{self, EncodeError, Message},
    signed::{public_key, verify},
};

const SIGNATURE: usize = 8 + 64;
const SIGNATURES_MAX: usize = 16;

/// How documents of one kind are told from all others. Both are for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// First byte.
    pub(crate) magic: u8,
    /// Stands before the envelope in what is signed.
    pub(crate) domain: &'static [u8],
}

/// What a signature is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// By a known key, and right.
    Valid,
    /// By a known key, and wrong: something was altered.
    Invalid,
    /// By a key that is not known.
    Unknown,
}

/// Bytes taken apart, with nothing inside the envelope parsed.
pub(crate) struct Parts<'a> {
    signatures: Vec<(KeyId, Signature)>,
    message: Vec<u8>,
    /// What is signed.
    pub(crate) envelope: &'a [u8],
}

impl Layout {
    /// Signs with each of `keys`.
    pub(crate) fn sign<M: Message>(self, message: &M, keys: &[&SigningKey]) -> Result<Vec<u8>, EncodeError> {
        let envelope = envelope::encode(message)?;
        let signatures: Vec<_> = keys.iter().map(|key| self.signature(key, &envelope)).collect();
        Ok(self.join(&signatures, &envelope))
    }

    /// Adds one more signature; a second one by the same key replaces the first.
    pub(crate) fn add(self, bytes: &[u8], key: &SigningKey) -> Option<Vec<u8>> {
        let parts = self.split(bytes)?;
        let (id, signature) = self.signature(key, parts.envelope);
        let mut signatures = parts.signatures;
        signatures.retain(|(by, _)| *by != id);
        signatures.push((id, signature));
        (signatures.len() <= SIGNATURES_MAX).then(|| self.join(&signatures, parts.envelope))
    }

    /// Takes `bytes` apart; `None` when they have another layout.
    pub(crate) fn split(self, bytes: &[u8]) -> Option<Parts<'_>> {
        let [magic, count, rest @ ..] = bytes else { return None };
        let heads = usize::from(*count) * SIGNATURE;
        if *magic != self.magic || usize::from(*count) > SIGNATURES_MAX || rest.len() < heads {
            return None;
        }
        let (heads, envelope) = rest.split_at(heads);
        let read = |head: &[u8]| {
            let id = Fixed(head[..8].try_into().expect("invariant: eight bytes"));
            (id, Signature::from_bytes(head[8..].try_into().expect("invariant: 64 bytes")))
        };
        let signatures = heads.chunks_exact(SIGNATURE).map(read).collect();
        Some(Parts { signatures, message: [self.domain, envelope].concat(), envelope })
    }

    fn signature(self, key: &SigningKey, envelope: &[u8]) -> (KeyId, Signature) {
        (key_id(&public_key(key)), key.sign(&[self.domain, envelope].concat()))
    }

    fn join(self, signatures: &[(KeyId, Signature)], envelope: &[u8]) -> Vec<u8> {
        let count = u8::try_from(signatures.len()).expect("invariant: a handful of keys");
        let mut out = vec![self.magic, count];
        for (id, signature) in signatures {
            out.extend_from_slice(&id.0);
            out.extend_from_slice(&signature.to_bytes());
        }
        out.extend_from_slice(envelope);
        out
    }
}

impl Parts<'_> {
    /// Whose keys are named as signers, valid or not.
    pub(crate) fn named(&self) -> impl Iterator<Item = &KeyId> {
        self.signatures.iter().map(|(id, _)| id)
    }

    /// Who is named as a signer, and whether it is one of `keys` that has validly signed.
    pub(crate) fn judged(&self, keys: &[PublicKey]) -> Vec<(KeyId, Signed)> {
        let judge = |(id, signature): &(KeyId, Signature)| {
            let signed = match keys.iter().find(|key| key_id(key) == *id) {
                None => Signed::Unknown,
                Some(key) if verify(key, &self.message, signature) => Signed::Valid,
                Some(_) => Signed::Invalid,
            };
            (*id, signed)
        };
        self.signatures.iter().map(judge).collect()
    }

    /// How many different ones of `keys` have validly signed.
    pub(crate) fn signers<'k>(&self, keys: impl Iterator<Item = &'k PublicKey>) -> usize {
        let valid = |key: &&PublicKey| {
            let id = key_id(key);
            self.signatures.iter().any(|(by, signature)| *by == id && verify(key, &self.message, signature))
        };
        let mut signers: Vec<&PublicKey> = keys.filter(valid).collect();
        signers.sort_unstable();
        signers.dedup();
        signers.len()
    }
}
