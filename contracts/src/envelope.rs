//! The versioned envelope around every postcard message: `[0xB7][kind][version][postcard…]`.
//!
//! postcard is not self-describing, so kind and version come first, and a reader that does not know them says so
//! instead of guessing. Bad bytes are error values, never panics.

use serde::{Serialize, de::DeserializeOwned};

/// First byte of an envelope.
pub const MAGIC: u8 = 0xB7;

/// What an envelope holds. Numbers are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`crate::v3::DesiredDocument`]
    Desired = 1,
    /// [`crate::v3::Report`]
    Report = 2,
    /// [`crate::v1::Heartbeat`]
    Heartbeat = 3,
    /// [`crate::v1::Command`]
    Command = 4,
    /// [`crate::v1::ReplyFrame`]
    ReplyFrame = 5,
    /// [`crate::trust::TrustDocument`]
    Trust = 6,
    /// [`crate::v1::RenewRequest`]
    RenewRequest = 7,
    /// [`crate::v1::RenewReply`]
    RenewReply = 8,
    /// [`crate::v2::CommandInput`]
    CommandInput = 9,
    /// [`crate::v1::TimeRequest`]
    TimeRequest = 20,
    /// [`crate::v1::SignedTime`]
    SignedTime = 21,
    /// [`crate::release::ReleaseKeys`]
    ReleaseKeys = 22,
    /// [`crate::release::ReleaseManifest`]
    ReleaseManifest = 23,
    /// [`crate::release::ReleaseTimestamp`]
    ReleaseTimestamp = 24,
    /// [`crate::release::ReleaseAsk`]
    ReleaseAsk = 25,
    /// [`crate::release::ReleaseAnswer`]
    ReleaseAnswer = 26,
}

/// A type with an envelope of its own.
pub trait Message: Serialize + DeserializeOwned {
    /// Its number.
    const KIND: Kind;
    /// The newest version this build writes and reads.
    const VERSION: u8;
    /// The largest whole envelope that is read or written, in bytes.
    const MAX_BYTES: usize;

    /// Reads what an older version of this type wrote, converted; `None` for a version that never was.
    fn older(_version: u8, _body: &[u8]) -> Option<Result<Self, DecodeError>> {
        None
    }
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing was parsed: the size alone is wrong.
    #[error("message of {got} bytes is larger than the limit of {max}")]
    TooLarge {
        /// Its size.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// Too short for a header, or another first byte.
    #[error("not a Bramble message")]
    NotAnEnvelope,
    /// A whole envelope, but of something else.
    #[error("message is of kind {got}, expected {want:?}")]
    OtherKind {
        /// The number that was there.
        got: u8,
        /// The kind wanted.
        want: Kind,
    },
    /// Written by a newer program.
    #[error("{kind:?} has version {got}, this program reads up to {newest}: upgrade it")]
    Future {
        /// The kind.
        kind: Kind,
        /// Its version.
        got: u8,
        /// The newest that is read here.
        newest: u8,
    },
    /// The contents do not decode.
    #[error("{kind:?} is damaged: {why}")]
    Damaged {
        /// The kind.
        kind: Kind,
        /// postcard's reason.
        why: String,
    },
}

/// Why a value cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?} of {got} bytes is larger than the limit of {max}")]
pub struct EncodeError {
    /// The kind.
    pub kind: Kind,
    /// Its size in bytes.
    pub got: usize,
    /// The limit.
    pub max: usize,
}

/// Writes `message` in its envelope.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, EncodeError> {
    let head = vec![MAGIC, M::KIND as u8, M::VERSION];
    let bytes = postcard::to_extend(message, head).expect("invariant: our types always fit postcard");
    if bytes.len() > M::MAX_BYTES {
        return Err(EncodeError { kind: M::KIND, got: bytes.len(), max: M::MAX_BYTES });
    }
    Ok(bytes)
}

/// Reads a message; every byte must be used.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    if bytes.len() > M::MAX_BYTES {
        return Err(DecodeError::TooLarge { got: bytes.len(), max: M::MAX_BYTES });
    }
    let [MAGIC, kind, version, body @ ..] = bytes else { return Err(DecodeError::NotAnEnvelope) };
    if *kind != M::KIND as u8 {
        return Err(DecodeError::OtherKind { got: *kind, want: M::KIND });
    }
    if *version > M::VERSION {
        return Err(DecodeError::Future { kind: M::KIND, got: *version, newest: M::VERSION });
    }
    if *version == M::VERSION {
        return contents(body);
    }
    let never = || Err(DecodeError::Damaged { kind: M::KIND, why: format!("version {version} was never written") });
    M::older(*version, body).unwrap_or_else(never)
}

/// Reads what stands behind the header of a message; every byte must be used.
pub(crate) fn contents<M: Message>(body: &[u8]) -> Result<M, DecodeError> {
    let damaged = |why: String| DecodeError::Damaged { kind: M::KIND, why };
    let (message, rest) = postcard::take_from_bytes(body).map_err(|e| damaged(e.to_string()))?;
    if !rest.is_empty() {
        return Err(damaged(format!("{} bytes too many", rest.len())));
    }
    Ok(message)
}
