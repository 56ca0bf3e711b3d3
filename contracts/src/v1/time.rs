//! The coordinator's signed time: a question with a fresh nonce, and the time signed over device and nonce.
//!
//! Nothing here says what the time is good for: the device judges. An answer recorded earlier carries another nonce.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::Fixed,
    envelope::{Kind, Message},
    id::DeviceId,
};

/// Random bytes that a device makes for one question.
pub type TimeNonce = Fixed<16>;

/// On `up.<id>.time`: what time is it?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRequest {
    /// Made for this question alone.
    pub nonce: TimeNonce,
}

/// The answer, signed in [`crate::signed::Role::Time`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTime {
    /// Who asked.
    pub device: DeviceId,
    /// From the question.
    pub nonce: TimeNonce,
    /// Milliseconds since 1970 by the coordinator's clock, when it signed.
    pub unix_ms: u64,
}

impl Message for TimeRequest {
    const KIND: Kind = Kind::TimeRequest;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 64;
}

impl Message for SignedTime {
    const KIND: Kind = Kind::SignedTime;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 128;
}
