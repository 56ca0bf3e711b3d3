//! Releases of the agent: what is published, who vouches for it, and how a device asks for it.
//!
//! The chain: [`ReleaseKeys`] (offline root keys certify offline release keys) → [`ReleaseManifest`] (signed by a
//! threshold of release keys) → the digest of each binary. [`ReleaseTimestamp`] says online which manifest is the newest,
//! so that nobody can hide a newer one for long. After The Update Framework (TUF), cut down to what one product needs.

mod ask;
mod keys;
mod manifest;
mod timestamp;

pub use crate::multisig::Signed;
pub use ask::{CHUNK_MAX, ReleaseAnswer, ReleaseAsk};
pub use keys::{KeyRing, ReleaseKeys, ReleaseKeysError};
pub use manifest::{ARTIFACT_MAX, Artifact, MANIFEST_SIGNED_MAX, ReleaseError, ReleaseManifest, Target};
pub use timestamp::{ReleaseTimestamp, TIMESTAMP_LIFE_MAX, TimestampError};
